"""A base's frozen weights in int8, where its repeated blocks have linear maps.

Embeddings, norms, heads and everything else stay what they are, and so does the last projection of a gated
feed-forward: its input is a product that has single numbers far above the rest, and int8 would lose more there than in
all other projections together (benchmarks/LOG.md has the numbers). This file knows which modules are replaced; the
arithmetic is `kernels.int8`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ia3.bases.int8 import Int8Linear
from ia3.bases.limits import limits_of
from ia3.core.modes import evaluating
from ia3.core.projections import is_transposed
from ia3.errors import BaseError, SettingsError, near_matches
from ia3.names import PRECISIONS, Precision

# Last projections of a feed-forward, and the projections beside them that say it is gated.
_BEHIND_GATES = {"down_proj": ("gate_proj", "gate_up_proj"), "wo": ("wi_0",), "Wo": ("Wi",)}
_OTHER_LINEARS = ("Conv1D", "FalconLinear")
_PROBE = (8, 64)  # examples and tokens of the pass that shows how large each channel becomes


@dataclass(frozen=True)
class Conversion:
    """What `to_int8` has done.

    Attributes:
        count: Number of projections that are in int8 now.
        bytes_before: Of their weights.
        bytes_after: Of their int8 numbers and scales.
    """

    count: int
    bytes_before: int
    bytes_after: int

    @property
    def bytes_saved(self) -> int:
        """How many bytes less the base takes."""
        return self.bytes_before - self.bytes_after


def check_precision(precision: str, dtype: torch.dtype, name: str) -> Precision:
    """Return a precision, checked to be known and possible beside a number type.

    Raises:
        SettingsError: Naming what is possible.
    """
    if precision not in PRECISIONS:
        raise SettingsError(
            f"Loading base {name!r}: the precision {precision!r} is unknown, expected "
            f"{', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}."
            f"{near_matches(precision, PRECISIONS)}"
        )
    if precision != "float" and dtype == torch.float64:
        raise SettingsError(
            f"Loading base {name!r}: precision {precision} and dtype float64 exclude each other, since int8 keeps "
            "three digits at most. Use dtype float32, or precision float."
        )
    return precision


def precision_of(model: nn.Module) -> Precision:
    """Return `int8` or `int8-gradients` for a model with projections in int8, else `float`."""
    rounding = [module.rounds_gradients for module in model.modules() if isinstance(module, Int8Linear)]
    if not rounding:
        return "float"
    return "int8-gradients" if any(rounding) else "int8"


@torch.no_grad()
def to_int8(model: Any, *, leave_out: Sequence[str] = (), rounds_gradients: bool = False) -> Conversion:
    """Put every linear map of a model's repeated blocks into int8, in place; the float weights are freed.

    How large each input channel becomes is seen in one pass over tokens drawn at random from a fixed seed, so that the
    same weights always give the same int8 base; no text is needed.

    Args:
        model: A transformers model without a bank, on any device but meta.
        leave_out: Paths of modules that stay as they are, such as heads that adapters bring.
        rounds_gradients: Whether the products that give gradients of inputs are in int8 too.

    Returns:
        How many were replaced and how many bytes that saves.

    Raises:
        BaseError: If it is quantised already, has a bank, or has no linear maps in repeated blocks.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
        >>> to_int8(BertModel(config).eval()).count
        12
    """
    if precision_of(model) != "float" or getattr(model, "quantization_method", None) is not None:
        raise BaseError("Putting a base into int8: it is quantised already. Load it in float first.")
    if "ia3_attachment" in model.__dict__:
        raise BaseError("Putting a base into int8: it has a bank already. Do it before ia3.attach.")
    found = dict(_projections(model, leave_out))
    if not found:
        raise BaseError(
            f"Putting a base into int8: {type(model).__name__} has no linear maps in repeated blocks. Use precision "
            "float."
        )
    largest = _largest_inputs(model, found)
    before = after = 0
    for path, module in found.items():
        replaced = _replaced(module, largest.get(path), rounds_gradients)
        before += module.weight.nbytes
        after += sum(buffer.nbytes for buffer in replaced.buffers())
        model.set_submodule(path, replaced)
    return Conversion(len(found), before, after)


def _projections(model: Any, leave_out: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield the linear maps to replace: in a list of blocks, a weight of their own, no spikes in their input."""
    lists = tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, nn.ModuleList))
    apart = tuple(f"{path}." for path in leave_out)
    head = getattr(model, "get_output_embeddings", lambda: None)()
    users: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    for path, module in model.named_modules():
        is_linear = type(module) is nn.Linear or type(module).__name__ in _OTHER_LINEARS
        is_inside = path.startswith(lists) and not f"{path}.".startswith(apart) and module is not head
        if is_linear and is_inside and users[id(module.weight)] == 1 and not _is_behind_gate(model, path):
            yield path, module


def _is_behind_gate(model: nn.Module, path: str) -> bool:
    parent, _, name = path.rpartition(".")
    block = model.get_submodule(parent)
    return any(isinstance(getattr(block, gate, None), nn.Module) for gate in _BEHIND_GATES.get(name, ()))


def _replaced(module: Any, largest: Tensor | None, rounds_gradients: bool) -> Int8Linear:
    weight = module.weight.t() if is_transposed(module) else module.weight
    made = Int8Linear(weight, module.bias, largest=largest, original=module.weight, rounds_gradients=rounds_gradients)
    return made.train(module.training)


def _largest_inputs(model: Any, found: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return the largest |activation| of each input channel of each projection; empty for a model that takes no ids."""
    largest: dict[str, Tensor] = {}
    hooks = [module.register_forward_pre_hook(partial(_see, largest, path)) for path, module in found.items()]
    try:
        with evaluating(model):
            model.base_model(**_probe(model))
    except Exception:  # it wants images, or more than ids; the weights are then rounded as they are
        largest = {}
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def _see(largest: dict[str, Tensor], path: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
    seen = args[0].abs().flatten(0, -2).amax(dim=0)
    largest[path] = torch.maximum(largest[path], seen) if path in largest else seen


def _probe(model: Any) -> dict[str, Tensor]:
    """Return ids drawn at random from the whole vocabulary, the same every time."""
    rows = model.get_input_embeddings().weight
    examples, tokens = _PROBE
    limits = limits_of(model)
    tokens = min([tokens, *(limit // 2 for limit in (limits.reads, limits.writes) if limit is not None)])
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(rows.shape[0], (examples, tokens), generator=random).to(rows.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return inputs | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
