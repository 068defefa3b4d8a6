"""Which base is this: a fingerprint of a model's weights, so that an adapter never runs on another base unseen.

It reads names, shapes and a few values of each parameter. What may differ between two loads of one base is left out:
the dtype (values are rounded to bf16), heads, poolers, the bank, and the class around the base. This file knows modules
and numbers; it knows nothing of adapters and files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ia3.bases.int8 import Int8Linear
from ia3.core.attach import BANK_MODULE
from ia3.core.samples import sampled
from ia3.core.weights import Weights
from ia3.errors import BaseError

_DOING = "Identifying the base"


@torch.no_grad()
def base_fingerprint(model: nn.Module, heads: Sequence[str] = (), state: Mapping[str, Tensor] | None = None) -> str:
    """Return the sha256 that identifies a base, 64 hexadecimal digits.

    Two loads of the same weights have the same fingerprint in fp32, bf16, float64 or int8, with or without a bank,
    inside `BertModel` or `BertForSequenceClassification`. The language model's own output layer, where it is not tied
    to the embeddings, is part of the base. (fp16 rounds to other bf16 values than fp32 does, so a base cast to fp16 is
    another one; a checkpoint that is stored in fp16 is not.)

    Args:
        model: A transformers model, or any module. Weights that accelerate keeps elsewhere are read there; of a
            sharded model every process must ask, unless the state is given.
        heads: Paths of modules in `model` that are not part of the base.
        state: Whole parameters that are already there, by name.

    Returns:
        The digest; the same in every process.

    Raises:
        BaseError: If weights are not there: made on the meta device, or sharded so that they cannot be brought.

    Example:
        >>> layer = nn.Linear(4, 4)
        >>> base_fingerprint(layer) == base_fingerprint(layer.to(torch.bfloat16))
        True
    """
    digest = hashlib.sha256()
    for name, shape, sample in sorted(_base_parameters(model, heads, state), key=lambda item: item[0]):
        digest.update(f"{name}\0{shape}\0".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def short(digest: str) -> str:
    """Return the first twelve digits, for people."""
    return digest[:12]


def _base_parameters(
    model: nn.Module, heads: Sequence[str], state: Mapping[str, Tensor] | None
) -> Iterator[_Parameter]:
    """Yield the parameters of the base under the names they have inside it, each once."""
    inner: Any = getattr(model, "base_model", model)
    prefix = next((f"{path}." for path, module in model.named_modules() if path and module is inner), "")
    generates = bool(getattr(model, "can_generate", lambda: False)())
    left_out = tuple(f"{path}." for path in (*heads, BANK_MODULE))
    for name, shape, sample in _parameters(model, state):
        if name.startswith(left_out):
            continue
        inside = name.removeprefix(prefix) if name.startswith(prefix) else None
        if inside is not None and not inside.startswith("pooler."):  # half of the classes of a family have no pooler
            yield inside, shape, sample
        elif inside is None and generates:
            yield name, shape, sample


def _parameters(model: nn.Module, state: Mapping[str, Tensor] | None) -> Iterator[_Parameter]:
    """Yield every parameter; in the place of int8 numbers what they were rounded from."""
    weights = Weights(model, state)
    ties = getattr(model, "all_tied_weights_keys", None) or {}
    tied: dict[str, list[_Parameter]] = {}  # accelerate makes several of one parameter that it keeps elsewhere
    is_empty = True
    for name, held in weights.named_parameters():
        numbers = weights.of(name, held, _DOING)
        parameter = name, tuple(numbers.shape), sampled(numbers)
        known = tied.setdefault(ties.get(name, name), [])
        is_empty = False
        if held.is_meta and any(one[1] == parameter[1] and torch.equal(one[2], parameter[2]) for one in known):
            continue
        known.append(parameter)
        yield parameter
    for path, module in model.named_modules():
        if isinstance(module, Int8Linear):
            yield f"{path}.weight", module.original_shape, module.original_sample
    if is_empty:
        raise BaseError(
            f"{_DOING}: the {type(model).__name__} has no parameters, expected a model's. FSDP takes them away without "
            "use_orig_params=True."
        )


_Parameter = tuple[str, tuple[int, ...], Tensor]  # name, shape and sample (see `core.samples`)
