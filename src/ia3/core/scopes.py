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
from functools import cache, partial, wraps
from typing import Any

from ia3.core.calls import Scope
from ia3.core.surroundings import surrounded, surroundings
from ia3.errors import BankError

# modules of what a pool's threads run
_EXECUTOR, _POOL = "concurrent.futures.thread", "multiprocessing.pool"

_Open = tuple[tuple[object, Scope | None], ...]


@contextmanager
def open_scope(owner: object, scope: Scope) -> Iterator[None]:
    """Use a scope for what follows in this thread or asyncio task, and in the threads started in it."""
    _watch_threads()
    with surrounded(scopes=(*surroundings().scopes, (owner, scope))):
        yield


def innermost_scope(owner: object) -> Scope | None:
    """Return the scope that was opened last by this owner in this thread or task."""
    return next((scope for other, scope in reversed(surroundings().scopes) if other is owner), None)


def check_known(owner: object) -> None:
    """Raise where no scope is open because this is a pool's thread.

    Raises:
        BankError: Saying how the work finds its rows.
    """
    if innermost_scope(owner) is None and any(other is owner for other, _ in surroundings().scopes):
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
        scopes, of = surroundings().scopes, getattr(getattr(self, "_target", None), "__module__", None)
        if scopes and self.ident is None and of != _EXECUTOR:
            _begin_in(_unknown(scopes) if of == _POOL else scopes, self)
        start_thread(self)

    @wraps(submit_work)
    def submit(self: ThreadPoolExecutor, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return submit_work(self, partial(_work_in, surroundings().scopes, work), *args, **kwargs)

    threading.Thread.start = start  # type: ignore[method-assign]
    ThreadPoolExecutor.submit = submit  # type: ignore[method-assign, assignment]


def _begin_in(scopes: _Open, thread: threading.Thread) -> None:
    plain = thread.run

    def run() -> None:
        del thread.__dict__["run"]
        _work_in(scopes, plain)

    thread.__dict__["run"] = run


def _work_in(scopes: _Open, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with surrounded(scopes=scopes):
        return work(*args, **kwargs)


def _unknown(scopes: _Open) -> _Open:
    return tuple((owner, None) for owner, _ in scopes)
