"""What a forward pass reads beside its arguments: one value, of this thread or asyncio task.

Whatever decides what a pass computes without being handed to the model stands here, so that a block that is computed
again, later and perhaps in another thread, is given the whole of it. Some of it belongs to rooms above this one, which
alone know what it means. This file knows no modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from ia3.core.calls import Call, Scope
from ia3.core.snapshot import Snapshot
from ia3.kernels.wanted import Wanted


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What is around a forward pass; whose a thing is, is said by an object that stands for an attached model.

    Attributes:
        scopes: The open scopes, outermost first, each with whose it is; None where it is not known.
        calls: The pass under way of each model, and the innermost scope when it was entered.
        still: Snapshots that banks are held still at, by the id of the bank.
        frozen: Numbers of the sites whose vectors multiply and get no gradient. Before the first site that is not
            frozen nothing wants one, and the backward pass ends there.
        suspended: Whose groups are left unscaled, with their numbers.
        marks: Outputs that are watched for being written over (`overwriting`); None outside a pass.
        wanted: Where the last block's output is read (`fast.last_block`); None for everywhere.
        captured: Where the output head's input goes, and logits are not wanted (`fast.forwards`); of a classifier on
            the mean its input as well (`bases.pooling`).
        answer: What the output head answers while it is tried (`fast.forwards`).
        first_blocks: What is done with the first blocks (`fast.first_blocks`); None for running them.
    """

    scopes: tuple[tuple[object, Scope | None], ...] = ()
    calls: Mapping[object, tuple[Call, Scope | None]] = field(default_factory=dict)
    still: Mapping[int, Snapshot] = field(default_factory=dict)
    frozen: frozenset[int] = frozenset()
    suspended: frozenset[tuple[object, int]] = frozenset()
    marks: list[Any] | None = None
    wanted: Wanted | None = None
    captured: list[Tensor] | None = None
    answer: Tensor | None = None
    first_blocks: Any = None


_NOTHING = Surroundings()
# A context variable and not a thread's: two asyncio tasks that take turns in one thread keep their own.
_AROUND: ContextVar[Surroundings] = ContextVar("ia3_surroundings", default=_NOTHING)


def surroundings() -> Surroundings:
    """Return what is around a pass that would begin here."""
    return _AROUND.get()


@contextmanager
def surrounded(**changes: Any) -> Iterator[None]:
    """Let passes inside, in this thread or asyncio task, have other surroundings.

    Args:
        changes: By the names of `Surroundings`. Only these are put back at the end: a generator may be left late.

    Example:
        >>> with surrounded(frozen=frozenset({2})):
        ...     surroundings().frozen
        frozenset({2})
    """
    before = _AROUND.get()
    _AROUND.set(replace(before, **changes))
    try:
        yield
    finally:
        _AROUND.set(replace(_AROUND.get(), **{name: getattr(before, name) for name in changes}))
