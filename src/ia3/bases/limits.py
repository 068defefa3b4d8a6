"""How many tokens a base can read and write, found from its modules.

A table of positions (learned, or sinusoids of a fixed length) is an end: there is no row behind its last. Rotary
positions, and sinusoids that are computed as they are needed, have a length that the base was trained with, and run on
behind it. Relative positions (T5, XLNet, DeBERTa without absolute ones), ALiBi (BLOOM) and windows end nowhere. What a
tokenizer calls its `model_max_length` says nothing of the base (512 for T5, which has no end) and is not read. It knows
nothing of texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ia3.core.families import family_of

_TABLES = ("embed_positions", "pos_encoding")  # buffers with a row for each position (GPT-J, CodeGen, CTRL)


@dataclass(frozen=True)
class Limits:
    """What a base has room for; None is without an end.

    Attributes:
        reads: Positions of what is read; a causal base's answer shares them.
        writes: Positions of a seq2seq base's answer, of which the first is the start token's.
        trained: Tokens that a base whose positions have no end was trained with, as its config says.
        vocabulary: Rows of the embeddings: every id must be below.
    """

    reads: int | None = None
    writes: int | None = None
    trained: int | None = None
    vocabulary: int | None = None

    @property
    def usual(self) -> int | None:
        """Tokens that texts are cut to unless another length is asked for."""
        return self.trained if self.reads is None else self.reads


NO_LIMITS = Limits()


def limits_of(model: Any) -> Limits:
    """Return what a transformers model has room for."""
    if model.config.is_encoder_decoder and model.can_generate():
        encoder, decoder = model.get_encoder(), model.get_decoder()
        reads, writes = _positions(encoder), _positions(decoder)
        return Limits(reads, writes, _trained(model, encoder.modules(), reads), count_vocabulary(model))
    reads = _positions(model)
    return Limits(reads, None, _trained(model, model.modules(), reads), count_vocabulary(model))


def count_vocabulary(model: Any) -> int | None:
    """Return the rows of a model's embeddings; None for a model without any."""
    given = embeddings_of(model)
    return None if given is None else int(given.shape[0])


def embeddings_of(model: Any) -> Tensor | None:
    """Return the matrix of the input embeddings; None where a model has none, as CANINE, which hashes characters."""
    try:
        return getattr(model.get_input_embeddings(), "weight", None)
    except NotImplementedError:
        return None


def _positions(module: Any) -> int | None:
    """Return the positions of the shortest table in a module."""
    found = [length for part in module.modules() for length in _tables(part)]
    config: Any = getattr(module, "config", None)
    built_length = family_of(getattr(config, "model_type", "")).built_length
    if built_length is not None:
        found.append(int(getattr(config, built_length)))
    return min(found, default=None)


def _tables(owner: nn.Module) -> Iterable[int]:
    """Yield the positions of each table that a module holds."""
    for name, child in owner.named_children():
        if _is_table(name, child):
            yield min([_rows(child), *_own_ids(owner)])
    for name, buffer in owner.named_buffers(recurse=False):
        if name in _TABLES and buffer.dim() == 2:
            yield int(buffer.shape[0])


def _is_table(name: str, module: nn.Module) -> bool:
    """Whether a module is a table of absolute positions; those of M2M-100 and FSMT grow."""
    is_named = name == "wpe" or ("position" in name and "relative" not in name)
    return is_named and isinstance(module, nn.Embedding) and not _grows(module)


def _grows(module: nn.Module) -> bool:
    return hasattr(module, "make_weight") or hasattr(module, "make_weights")


def _rows(table: Any) -> int:
    """Return how many tokens a table has a row for: the first rows of some belong to the padding."""
    before = getattr(table, "offset", None)
    if before is None:
        before = 0 if table.padding_idx is None else table.padding_idx + 1
    ahead = "ProphetNet" in type(table).__name__  # its decoder looks one position further
    return int(table.num_embeddings - before - ahead)


def _own_ids(owner: nn.Module) -> list[int]:
    """Return the length of the buffer of positions that some families keep beside their table."""
    ids, table = getattr(owner, "position_ids", None), getattr(owner, "position_embeddings", None)
    is_offset = getattr(table, "padding_idx", None) is not None
    return [int(ids.shape[-1])] if isinstance(ids, Tensor) and not is_offset else []


def _trained(model: Any, modules: Iterable[nn.Module], reads: int | None) -> int | None:
    """Return the trained length of rotary and growing positions."""
    config = model.config.get_text_config()
    length = getattr(config, "max_position_embeddings", None) or 0
    is_unbounded = reads is None and length > 0 and not getattr(config, "alibi", False)
    return int(length) if is_unbounded and any(map(_is_computed, modules)) else None


def _is_computed(module: nn.Module) -> bool:
    kind = type(module).__name__
    return "Rotary" in kind or "PositionalEmbedding" in kind
