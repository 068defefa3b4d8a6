"""Compiled blocks: the repeated block of a model, traced once and run for every layer.

Each block gets a twin that shares its parameters and carries no hooks: its projections multiply by numbers that are
handed to the compiled function as arguments, so that one trace serves all layers, all batches and all rows. The block
itself stays as it is for passes without gradients. The first passes are slow (half a minute on two cores); whether a
run repays that is decided from its size alone, never from a measurement, so that a seed gives the same bits.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ia3.core.attach import Attachment
from ia3.core.calls import Call
from ia3.core.surgery import Surgery
from ia3.kernels.products import Library, fastest_library, takes
from ia3.kernels.scaling import broadcast

# Measured with Gemma 3 270M on two AVX-512 cores (benchmarks/LOG.md): seconds of the first passes, and the share of an
# eager step that a compiled one saves; products in fp32 by each library.
COMPILE_SECONDS = 30.0
SAVED_SHARE = 0.05
_FLOPS_PER_THREAD: Mapping[Library, float] = {"torch": 100e9, "onednn": 200e9}
_FEWEST_BLOCKS = 2


def repays_compiling(parameters: int, tokens: int, threads: int, library: Library) -> bool:
    """Whether a run is long enough to repay the time that compiling takes.

    Args:
        parameters: Numbers in the blocks, which each token meets.
        tokens: Tokens of the whole run, padding included.
        threads: Threads that torch computes with.
        library: Where products come from.

    Example:
        >>> repays_compiling(100_000_000, 200_000, 2, "torch")
        False
        >>> repays_compiling(100_000_000, 2_000_000, 2, "torch")
        True
    """
    seconds = 4.0 * parameters * tokens / (_FLOPS_PER_THREAD[library] * threads)  # forward and input gradient
    return seconds * SAVED_SHARE > COMPILE_SECONDS


def repeated_blocks(attachment: Attachment) -> list[tuple[str, nn.Module]]:
    """Return the paths and modules of the blocks that are alike and hold sites on plain linear projections.

    Lists of blocks with sites on other modules (fused convolutions, projections in int8), or with hooks of other code,
    are left out.
    """
    sites = {group.module for group in attachment.groups}
    modules = dict(attachment.model.named_modules())
    found: list[tuple[str, nn.Module]] = []
    for path, module in modules.items():
        if not isinstance(module, nn.ModuleList) or len(module) < _FEWEST_BLOCKS:
            continue
        inside = [site for site in sites if site.startswith(f"{path}.")]
        is_alike = len({type(block) for block in module}) == 1
        is_plain = all(type(modules[site]) is nn.Linear for site in inside)
        if inside and is_alike and is_plain and not any(f"{path}.".startswith(f"{p}.") for p, _ in found):
            found += [(f"{path}.{number}", block) for number, block in enumerate(module)]
    return found


def install_compiled(attachment: Attachment, surgery: Surgery, leave_out: Sequence[str] = ()) -> Compiled:
    """Let the repeated blocks run compiled wherever gradients are wanted, and return what they share.

    Args:
        attachment: The handle of the bank.
        surgery: What the change is written down in.
        leave_out: Paths of blocks that stay as they are.
    """
    _register_product()
    blocks = [entry for entry in repeated_blocks(attachment) if entry[0] not in leave_out]
    compiled = Compiled(len(blocks))
    for path, block in blocks:
        twin, slots = _twin(block, path, attachment)
        surgery.set(path, "forward", partial(_forward, attachment, compiled, block.forward, twin, slots))
    return compiled


def _forward(
    attachment: Attachment,
    compiled: Compiled,
    plain: Callable[..., Any],
    twin: nn.Module,
    slots: tuple[int, ...],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run a block compiled with the rows of the pass under way, or plainly where no gradient is wanted."""
    call = attachment.call
    if call is not None and compiled.failure is None and _wants_gradient(call, slots, args, kwargs):
        try:
            with warnings.catch_warnings():
                # the compiler looks at the scales' gradients, which they have none of: they are no leaves
                warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf")
                return compiled.run(twin, _scales(call, slots), args, kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:  # code it cannot take, or no C++ compiler at hand
            compiled.failure = f"{type(error).__name__}: {error}".splitlines()[0]
    return plain(*args, **kwargs)


def _wants_gradient(call: Call, slots: tuple[int, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a block's pass is for a gradient: of what it is given or of a vector that is not frozen."""
    values = (*args, *kwargs.values(), *_scales(call, slots))
    return torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in values)


def _scales(call: Call, slots: tuple[int, ...]) -> tuple[Tensor | None, ...]:
    multipliers = (call.multipliers[number] for number in slots)
    return tuple(None if m is None else m.values for m in multipliers)


class Compiled:
    """The one compiled function of a model.

    Attributes:
        run: The function.
        blocks: How many blocks run it.
        failure: Why it is no longer used, if the compiler has refused a block.
    """

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self.run = torch.compile(_run, dynamic=True, fullgraph=True)
        self.failure: str | None = None


@dataclass
class _Handed:
    """What the projections of the block under way multiply by; the compiler sees through it."""

    scales: tuple[Tensor | None, ...] = ()


_HANDED = _Handed()


def _run(twin: nn.Module, scales: tuple[Tensor | None, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _HANDED.scales = scales
    output = twin(*args, **kwargs)
    _HANDED.scales = ()
    return output


class _Projection(nn.Linear):
    """A frozen projection that multiplies its input or output by what the block was handed."""

    ia3_input: int  # place among the scales, or -1
    ia3_output: int
    ia3_library: Library

    def forward(self, x: Tensor) -> Tensor:
        if self.ia3_input >= 0:
            x = _scaled(x, _HANDED.scales[self.ia3_input])
        if self.ia3_library == "onednn":
            y = torch.ops.ia3.frozen_linear(x, self.weight, self.bias)
        else:
            y = functional.linear(x, self.weight, self.bias)
        return _scaled(y, _HANDED.scales[self.ia3_output]) if self.ia3_output >= 0 else y


def _scaled(x: Tensor, l: Tensor | None) -> Tensor:
    return x if l is None else (x * broadcast(l, x)).to(x.dtype)


def _twin(block: nn.Module, path: str, attachment: Attachment) -> tuple[nn.Module, tuple[int, ...]]:
    """Return a copy of a block that shares its tensors and has no hooks, and the groups it is handed, in order."""
    shared = {id(tensor): tensor for tensor in (*block.parameters(), *block.buffers())}
    twin: nn.Module = copy.deepcopy(block, shared)
    slots: list[int] = []
    for name, module in twin.named_modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        module.__dict__.pop("forward", None)
        if type(module) is nn.Linear:
            _make_projection(module, f"{path}.{name}", attachment, slots)
    return twin, tuple(slots)


def _make_projection(module: Any, path: str, attachment: Attachment, slots: list[int]) -> None:
    module.__class__ = _Projection
    module.ia3_library = fastest_library() if takes(module.weight) else "torch"
    module.ia3_input = module.ia3_output = -1
    for number, group in enumerate(attachment.groups):
        if group.module == path:
            setattr(module, f"ia3_{group.side}", len(slots))
            slots.append(number)


@cache
def _register_product() -> Any:
    """Make the product from oneDNN an operation that the compiler leaves whole: `torch.ops.ia3.frozen_linear`."""

    @torch.library.custom_op("ia3::frozen_linear", mutates_args=())
    def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    def like(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return x.new_empty(*x.shape[:-1], weight.shape[0])

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return product(dy, weight.t(), None), None, None

    product.register_fake(like)
    product.register_autograd(backward, setup_context=keep)
    return product
