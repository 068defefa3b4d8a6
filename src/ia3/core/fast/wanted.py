"""The last block only where its output is wanted.

A classifier reads one position of the last block's output, a language model's loss the labelled ones. The keys and
values of that block are needed everywhere; its queries, its attention's output and its feed-forward are not. Hooks take
the wanted positions before such a module and put zeros in the others' place after it, so that shapes stay what they are
and nobody reads the zeros. This file knows positions and modules' names.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ia3.core.surroundings import surrounded


@dataclass(frozen=True)
class Wanted:
    """Where the last block's output is read.

    Attributes:
        index: Positions of each example, no one twice; int64, shape (batch, wanted).
        length: Number of positions there are.
    """

    index: Tensor
    length: int


def only_at(positions: Tensor) -> AbstractContextManager[None]:
    """Let forward passes inside compute the last block where it is wanted alone.

    Args:
        positions: Where the last block's output is read, bool, shape (batch, seq).
    """
    return surrounded(wanted=choose(positions))


def choose(positions: Tensor) -> Wanted | None:
    """Return as many positions for every example as the one with most of them wants; None if that is all.

    An example that wants fewer gets some that nobody reads: each position occurs once.

    Args:
        positions: bool, shape (batch, seq).

    Example:
        >>> choose(torch.tensor([[False, True, True], [False, False, True]])).index
        tensor([[1, 2],
                [2, 0]])
    """
    wanted = int(positions.sum(dim=1).max()) if positions.numel() else 0
    if wanted == 0 or wanted == positions.shape[1]:
        return None
    index = torch.argsort(positions.int(), dim=1, descending=True, stable=True)[:, :wanted]
    return Wanted(index, positions.shape[1])


def take(x: Tensor, index: Tensor) -> Tensor:
    """Return the wanted positions of an activation, shape (batch, wanted, features).

    Args:
        x: Shape (batch, seq, features).
        index: int64, shape (batch, wanted); no position twice.
    """
    return _Take.apply(x, index)


def put(x: Tensor, index: Tensor, length: int) -> Tensor:
    """Return an activation with zeros where nothing was wanted, shape (batch, length, features); undoes `take`."""
    return _Put.apply(x, index, length)


def _flat(index: Tensor, length: int) -> Tensor:
    return (index + torch.arange(index.shape[0], device=index.device).unsqueeze(1) * length).flatten()


def _taken(x: Tensor, index: Tensor) -> Tensor:
    batch, length, features = x.shape
    return x.reshape(batch * length, features).index_select(0, _flat(index, length)).view(*index.shape, features)


def _put(x: Tensor, index: Tensor, length: int) -> Tensor:
    batch, _, features = x.shape
    spread = x.new_zeros(batch * length, features)
    return spread.index_copy_(0, _flat(index, length), x.reshape(index.numel(), features)).view(batch, length, features)


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.index, ctx.length = index, x.shape[1]
        return _taken(x, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return _put(dy, ctx.index, ctx.length), None


class _Put(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, length: int) -> Tensor:
        ctx.index = index
        return _put(x, index, length)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        return _taken(dy, ctx.index), None, None


@dataclass(frozen=True)
class LastBlock:
    """What of a family's last block is needed at the wanted positions only; names inside the block.

    Attributes:
        layers: Path of the list of blocks inside the model's body.
        alone: Modules that see one activation: taken before, put back after.
        opens: Module before which an activation is taken and not put back.
        closes: Module behind it: its further arguments are taken, its output is put back.
        reads_first: Whether a classifier on this family reads the first position and no other.
    """

    layers: str
    alone: tuple[str, ...]
    opens: str | None = None
    closes: str | None = None
    reads_first: bool = False


_DECODER = LastBlock("layers", ("self_attn.q_proj", "self_attn.o_proj", "mlp"))
_BERT = LastBlock(
    "encoder.layer", ("attention.self.query", "attention.output.dense"), "intermediate", "output", reads_first=True
)

LAST_BLOCKS: Mapping[str, LastBlock] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), _DECODER),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _BERT),
}


def path_of_blocks(model: Any, model_type: str) -> str | None:
    """Return the path of the list of blocks that every example goes through one after another; None if not known.

    Args:
        model: A model with a head on its body.
        model_type: Of its plan.
    """
    rule = LAST_BLOCKS.get(model_type)
    body = getattr(model, getattr(model, "base_model_prefix", "") or "", None)
    if rule is None or body is None or body is model or getattr(model.config, "is_encoder_decoder", False):
        return None
    modules = dict(model.named_modules())
    path = next(f"{name}.{rule.layers}" for name, module in modules.items() if module is body)
    return path if len(modules.get(path, ())) else None
