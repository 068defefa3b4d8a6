"""Scopes: the rows that a user has set for what follows in a thread or asyncio task, and what is started in it.

An asyncio task begins in the scopes of whoever made it. Python gives a new thread none of them, so what generates in a
thread of its own (a streamer's, continuous batching) would run another adapter than the one asked for: from the first
scope on, a thread begins in the scopes that are open where it is started, and what an executor runs in those where it
was submitted. A thread of `multiprocessing.pool` works for whoever comes: to run the model there without rows is an
error. This file knows whose a scope is; it knows nothing of models.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial, wraps
from typing import Any

from ia3.core.heads import Head
from ia3.core.snapshot import Snapshot
from ia3.errors import BankError

# modules of what a pool's threads run
_EXECUTOR, _POOL = "concurrent.futures.thread", "multiprocessing.pool"


@dataclass(frozen=True)
class Scope:
    """Rows that a user has set for what follows in this thread or asyncio task.

    Attributes:
        rows: One for each example, or a single one for all.
        is_uniform: Whether the single row holds for a batch of any size.
        expands: Whether a batch may be a multiple of the rows, each row repeated (beams, returned sequences).
        snapshot: The bank when the scope was opened.
        strengths: One for each row; None where all are 1.
    """

    rows: tuple[int, ...]
    is_uniform: bool
    expands: bool
    snapshot: Snapshot
    strengths: tuple[float, ...] | None = None

    @property
    def heads(self) -> dict[str, Head]:
        """The heads of these rows, by the names of their adapters."""
        return self.snapshot.heads_of(self.rows)


# The open scopes, outermost first, each with whose it is; None where it is not known. A context variable and not a
# thread's: two asyncio tasks that take turns in one thread keep their own scopes.
_Open = tuple[tuple[object, Scope | None], ...]
_SCOPES: ContextVar[_Open] = ContextVar("ia3_scopes", default=())


@contextmanager
def open_scope(owner: object, scope: Scope) -> Iterator[None]:
    """Use a scope for what follows in this thread or asyncio task, and in the threads started in it."""
    _watch_threads()
    before = _SCOPES.get()
    _SCOPES.set((*before, (owner, scope)))
    try:
        yield
    finally:
        _SCOPES.set(before)


def innermost_scope(owner: object) -> Scope | None:
    """Return the scope that was opened last by this owner in this thread or task."""
    return next((scope for other, scope in reversed(_SCOPES.get()) if other is owner), None)


def check_known(owner: object) -> None:
    """Raise where no scope is open because this is a pool's thread.

    Raises:
        BankError: Saying how the work finds its rows.
    """
    if innermost_scope(owner) is None and any(other is owner for other, _ in _SCOPES.get()):
        raise BankError(
            "Running the model: this thread of a pool was started inside a scope (rows(), use() or disabled()), and in "
            "which scope its work was given to it is not known. Give rows=… to the model, open the scope in the "
            "function that the pool runs, or use a ThreadPoolExecutor."
        )


@cache
def _watch_threads() -> None:
    """Have every thread and every work of an executor from now on begin in the scopes of whoever starts it.

    Python has nothing to be told of it by: 3.11 has no audit event for it, and `threading.settrace` slows what it sees.
    """
    start_thread: Callable[..., None] = threading.Thread.start
    submit_work: Callable[..., Any] = ThreadPoolExecutor.submit

    @wraps(start_thread)
    def start(self: threading.Thread) -> None:
        scopes, of = _SCOPES.get(), getattr(getattr(self, "_target", None), "__module__", None)
        if scopes and self.ident is None and of != _EXECUTOR:
            _begin_in(_unknown(scopes) if of == _POOL else scopes, self)
        start_thread(self)

    @wraps(submit_work)
    def submit(self: ThreadPoolExecutor, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return submit_work(self, partial(_work_in, _SCOPES.get(), work), *args, **kwargs)

    threading.Thread.start = start  # type: ignore[method-assign]
    ThreadPoolExecutor.submit = submit  # type: ignore[method-assign, assignment]


def _begin_in(scopes: _Open, thread: threading.Thread) -> None:
    plain = thread.run

    def run() -> None:
        del thread.__dict__["run"]
        _SCOPES.set(scopes)
        plain()

    thread.__dict__["run"] = run


def _work_in(scopes: _Open, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    before = _SCOPES.set(scopes)
    try:
        return work(*args, **kwargs)
    finally:
        _SCOPES.reset(before)


def _unknown(scopes: _Open) -> _Open:
    return tuple((owner, None) for owner, _ in scopes)
