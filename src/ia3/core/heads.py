"""Heads: the modules an adapter brings itself, and running each example through its own.

A head is every module that the base's checkpoint does not have, such as a classifier. This file knows modules and rows;
which modules are heads is said by whoever loaded the base.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ia3.core.weights import Weights, whole
from ia3.errors import BankError, near_matches


def copy_head(model: nn.Module, paths: Sequence[str]) -> Head:
    """Return a trainable copy of the modules of `model` at `paths`, without what was attached to them.

    The copy is fp32 beside a bf16 or fp16 base (float64 beside a float64 one), as the vectors are: it could not learn
    in small steps otherwise.

    Raises:
        BankError: If the model has no module at a path.
        BaseError: If its numbers are not there as a whole, or it is quantised.
    """
    modules, weights = {}, Weights(model)
    for path in paths:
        try:
            module = model.get_submodule(path)
        except AttributeError as error:
            known = (name for name, _ in model.named_modules() if name)
            raise BankError(
                f"Copying the head: the model has no module {path!r}.{near_matches(path, known)}"
            ) from error
        copied = _copied(module)
        _fill_in(copied, weights.tensors_of(path, f"Copying the head {path!r}"), path)
        modules[path] = _widened(copied).requires_grad_(True)
    return Head(modules)


def _copied(module: nn.Module) -> nn.Module:
    """Copy a module without the forwards that were set on it or its parts: a copy of one would drag the bank along.

    Nor are accelerate's hooks copied, which hold the numbers of the whole model. The module itself is only read, since
    another thread may be running it.
    """
    held = [part.__dict__[name] for part in module.modules() for name in _LEFT_BEHIND if name in part.__dict__]
    copied = copy.deepcopy(module, {id(one): None for one in held})
    for part in copied.modules():
        for name in _LEFT_BEHIND:
            part.__dict__.pop(name, None)
    return copied


_LEFT_BEHIND = ("forward", "_old_forward", "_hf_hook")


def _fill_in(copied: nn.Module, tensors: Mapping[str, Tensor], path: str) -> None:
    """Put plain tensors in the place of those that a sharded or offloaded model has."""
    for name, numbers in tensors.items():
        inner, _, last = name.removeprefix(f"{path}.").rpartition(".")
        part = copied.get_submodule(inner)
        held = getattr(part, last)
        if held.is_meta or hasattr(held, "full_tensor"):
            numbers = numbers.detach().clone()
            setattr(part, last, nn.Parameter(numbers) if isinstance(held, nn.Parameter) else numbers)


def _widened(module: nn.Module) -> nn.Module:
    """Cast parameters and buffers of half precision to fp32."""
    is_half = any(p.dtype in (torch.bfloat16, torch.float16) for p in module.parameters())
    return module.float() if is_half else module


def run_heads(
    path: str,
    base: nn.Module,
    plain: Callable[..., Any],
    parts: Mapping[int, nn.Module | None],
    rows: Sequence[int],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Run each adapter's module on its own examples.

    Args:
        path: Path of the module in the base, for the error.
        base: The module of the base.
        plain: What it does; used for rows without a part.
        parts: The module of each row.
        rows: Row of each example, or one row for all.
        args: What the module was called with; tensors have the examples first.
        kwargs: The same by name.

    Returns:
        What the module returns. With different adapters in the batch a tensor of shape (batch, …, widest), where
        heads with fewer outputs are filled with −inf; its dtype is the widest of the heads'.

    Raises:
        BankError: If the input does not have one example for each row.
    """
    if len(set(rows)) == 1:
        return _run_part(base, plain, parts.get(rows[0]), args, kwargs)
    inputs = (*args, *kwargs.values())
    _check_examples(path, rows, inputs)
    where: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        where.setdefault(row, []).append(place)
    layers = _stackable(base, plain, [parts.get(row) for row in where], inputs)
    if layers:
        return _run_stacked(layers, [*where.values()], inputs[0])
    outputs = []
    for row, index in where.items():
        own = tuple(_pick(x, index) for x in args)
        named = {name: _pick(x, index) for name, x in kwargs.items()}
        outputs.append(_run_part(base, plain, parts.get(row), own, named))
    return _joined(path, outputs, [i for index in where.values() for i in index])


def _run_part(
    base: nn.Module,
    plain: Callable[..., Any],
    part: nn.Module | None,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Run an adapter's module, or the base's own where there is none, in its dtype."""
    cast = _caster(base if part is None else part)
    run = plain if part is None else part
    return run(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})


def _check_examples(path: str, rows: Sequence[int], inputs: Sequence[Any]) -> None:
    for given in inputs:
        if isinstance(given, Tensor) and (given.dim() == 0 or given.shape[0] != len(rows)):
            raise BankError(
                f"Running the head {path!r}: its input has shape {tuple(given.shape)}, expected {len(rows)} examples "
                "first, one for each row. Use one adapter for the whole batch."
            )


def _stackable(
    base: nn.Module, plain: Callable[..., Any], parts: Sequence[nn.Module | None], inputs: Sequence[Any]
) -> list[nn.Linear]:
    """Return the layers that one product can answer for; none where a part is more than a layer."""
    modules = [base if part is None else part for part in parts]
    layers = [module for module in modules if _is_linear(module, plain if module is base else module.forward)]
    is_all = len(layers) == len(modules) and len(inputs) == 1
    return layers if is_all and _can_stack(layers, inputs[0]) else []


def _is_linear(module: nn.Module, forward: Callable[..., Any]) -> TypeGuard[nn.Linear]:
    """Whether all that a module does is one product with a bias."""
    is_plain = type(module) is nn.Linear and getattr(forward, "__func__", None) is nn.Linear.forward
    return is_plain and module.bias is not None and not (module._forward_hooks or module._forward_pre_hooks)


def _can_stack(layers: Sequence[nn.Linear], x: Any) -> bool:
    """Whether one product can answer for all layers: their weights and the input differ in nothing but the outputs."""
    is_one_sort = len({(layer.in_features, layer.weight.dtype) for layer in layers}) == 1
    is_fit = isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 1 and x.shape[-1] == layers[0].in_features
    return is_one_sort and is_fit


def _run_stacked(layers: Sequence[nn.Linear], where: Sequence[Sequence[int]], x: Tensor) -> Tensor:
    """Run each layer on its own examples, all in one product.

    The examples of a layer lie in a block of their own, filled up with zeros, so that a gradient or a NaN of one never
    meets another layer.

    Args:
        layers: All with the same number of inputs.
        where: Positions of the examples of each layer.
        x: Shape (batch, …, inputs).

    Returns:
        Shape (batch, …, most outputs), −inf behind those of a layer with fewer.
    """
    counts = [layer.out_features for layer in layers]
    is_uneven = min(counts) < max(counts)
    stack = partial(nn.utils.rnn.pad_sequence, batch_first=True) if is_uneven else torch.stack
    weights = stack([layer.weight for layer in layers])  # layers outputs inputs
    biases = stack([layer.bias for layer in layers])
    longest = max(map(len, where))
    places = [0] * len(x)
    for block, positions in enumerate(where):
        for number, position in enumerate(positions):
            places[position] = block * longest + number
    place = torch.tensor(places, device=x.device)
    blocks = x.new_zeros(len(layers) * longest, *x.shape[1:], dtype=weights.dtype)
    blocks = blocks.index_copy(0, place, x.to(weights.dtype)).reshape(len(layers), -1, x.shape[-1])
    out = torch.baddbmm(biases.unsqueeze(1), blocks, weights.transpose(1, 2))  # layers (examples of one · …) outputs
    if is_uneven:
        is_behind = torch.arange(max(counts), device=x.device) >= torch.tensor(counts, device=x.device).unsqueeze(1)
        out = out.masked_fill(is_behind.unsqueeze(1), -torch.inf)
    return out.reshape(-1, *x.shape[1:-1], max(counts)).index_select(0, place)


def _pick(value: Any, index: list[int]) -> Any:
    return value[index] if isinstance(value, Tensor) else value


def _joined(path: str, outputs: Sequence[Any], order: Sequence[int]) -> Tensor:
    """Put the outputs of several heads into one tensor, example `order[i]` at place i of their concatenation."""
    if not all(isinstance(out, Tensor) for out in outputs):
        raise BankError(
            f"Running the head {path!r}: it returns a {type(outputs[0]).__name__}, expected a tensor where adapters "
            "are mixed in a batch. Use one adapter for the whole batch."
        )
    width = max(out.shape[-1] for out in outputs)
    dtype = reduce(torch.promote_types, (out.dtype for out in outputs))
    padded = [nn.functional.pad(out.to(dtype), (0, width - out.shape[-1]), value=-torch.inf) for out in outputs]
    return torch.cat(padded).index_select(0, torch.tensor(order, device=padded[0].device).argsort())


def _caster(module: nn.Module) -> Callable[[Any], Any]:
    """Return what casts the inputs of a head to its dtype: it stays fp32 beside a bf16 base."""
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), None)
    return lambda x: x.to(dtype) if dtype and isinstance(x, Tensor) and x.is_floating_point() else x


class Head(nn.Module):
    """The trained modules of one adapter that the base's checkpoint does not have, by their path in the base."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.paths = tuple(modules)
        self.parts = nn.ModuleList(modules.values())

    def part(self, path: str) -> nn.Module | None:
        """Return the module for a path, or None."""
        return self.parts[self.paths.index(path)] if path in self.paths else None

    def tensors(self) -> dict[str, Tensor]:
        """Return every parameter and buffer under the name it has in the base, detached."""
        return {
            f"{path}.{name}": whole(tensor.detach())
            for path, part in zip(self.paths, self.parts, strict=True)
            for name, tensor in part.state_dict().items()
        }
