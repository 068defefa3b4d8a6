"""Generating on a model with a bank: which rows transformers' `generate` and its continuous batching use.

Continuous batching (`generate_batch`, `continuous_batching_context_manager`) packs all requests that a manager has into
one row of tokens, runs the model in a thread of its own, and keeps keys and values for later requests that begin alike.
So a manager answers by one adapter at one strength: that of the scope it was started in. Requests for another one are
refused. This file knows scopes and transformers' entries; it knows nothing of sites and hooks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ia3.core.calls import Scope, batch_size
from ia3.core.strengths import turn_rows
from ia3.core.surgery import take_rows
from ia3.errors import BankError

_CACHED = "_cached_continuous_batching_manager"  # where transformers leaves a manager for the next call


class Chooser(Protocol):
    """What says which rows are used: the handle of a bank on a model."""

    model: Any

    def chosen(self, rows: Any) -> Scope:
        """Return the rows that are given, or those of the innermost scope, or of the active or only adapter."""

    def opened(self, scope: Scope) -> AbstractContextManager[None]:
        """Use a scope inside."""

    def is_scoped(self) -> bool:
        """Whether a scope is open."""


class Generation:
    """What stands before a model's own `generate` and continuous batching."""

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser
        self._managers: WeakKeyDictionary[Any, _Held] = WeakKeyDictionary()

    def entries(self) -> dict[str, Callable[..., Any]]:
        """Return what stands before which of the model's methods; each gets that method first."""
        return {
            "generate": self._generate,
            "generate_batch": self._generate_batch,
            "continuous_batching_context_manager": self._batching,
            "init_continuous_batching": self._manager,
        }

    def close(self) -> None:
        """Let go of the managers, before the bank is taken off.

        Raises:
            BankError: If one is running.
        """
        if any(manager.is_running() for manager in self._managers):
            raise BankError(
                "Detaching a bank: a continuous batching manager is answering requests with it. Stop it first: "
                "manager.stop()."
            )
        if self._cached() in self._managers:
            self._chooser.model.destroy_cached_continuous_batching_manager()

    def __deepcopy__(self, memo: dict[int, Any]) -> Generation:
        """Go along with a copy of the model, without the managers: they hold threads."""
        copied = memo[id(self)] = Generation(copy.deepcopy(self._chooser, memo))
        return copied

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        scope, batch = self._chooser.chosen(take_rows(kwargs)), batch_size(args, kwargs)
        if not scope.expands:
            _check_count(scope, batch)
        with self._chooser.opened(replace(scope, expands=True)):
            return original(*args, **kwargs)

    def _generate_batch(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        scope, prompts = self._chooser.chosen(take_rows(kwargs)), args[0] if args else kwargs.get("inputs")
        _check_count(scope, None if prompts is None else len(prompts))
        with self._chooser.opened(_one_for_all(scope)):
            return original(*args, **kwargs)

    @contextmanager
    def _batching(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
        rows = take_rows(kwargs)
        inside = nullcontext() if rows is None else self._chooser.opened(_one_for_all(self._chooser.chosen(rows)))
        with inside, original(*args, **kwargs) as manager:
            yield manager

    def _manager(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        rows, kept = take_rows(kwargs), self._cached()
        pinned = None if rows is None else _one_for_all(self._chooser.chosen(rows))
        if kept is not None and kept not in self._managers:  # it keeps what the base alone made of earlier requests
            self._chooser.model.destroy_cached_continuous_batching_manager()
        manager = original(*args, **kwargs)
        if manager not in self._managers:
            self._managers[manager] = _Held(self._chooser)
            self._managers[manager].put_on(manager)
        self._managers[manager].let_go(manager, pinned)
        return manager

    def _cached(self) -> Any:
        return self._chooser.model.__dict__.get(_CACHED)


class _Held:
    """One manager held to one adapter: that of the first thing that is asked of it, or that it was made for."""

    def __init__(self, chooser: Chooser) -> None:
        self._chooser = chooser
        self._scope: Scope | None = None
        self._is_pinned = False
        self._row: Tensor | None = None  # what the keys and values that the manager keeps were made with

    def put_on(self, manager: Any) -> None:
        """Stand before the manager's own methods."""
        for name, mine in (("warmup", self._run), ("start", self._run), ("add_request", self._add_request)):
            vars(manager)[name] = partial(mine, manager, getattr(manager, name))
        vars(manager)["__deepcopy__"] = _none  # a copy of the model makes one of its own: this one holds a thread

    def let_go(self, manager: Any, pinned: Scope | None) -> None:
        """Let what is asked next choose the adapter, or hold to one that is given."""
        if not manager.is_running():
            self._scope, self._is_pinned = pinned, pinned is not None

    def _run(self, manager: Any, original: Callable[[], None]) -> None:
        scope = self._hold(None)
        if not manager.is_running():
            row = _vectors(scope)
            if self._row is not None and not torch.equal(self._row, row):
                manager.batch_processor, manager.warmed_up = None, False
            self._row = row
        with self._chooser.opened(scope):
            original()

    def _add_request(self, manager: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._hold(take_rows(kwargs))
        return original(*args, **kwargs)

    def _hold(self, rows: Any) -> Scope:
        """Return the manager's scope; it is the asked one, or nothing is asked."""
        held = self._scope
        if held is not None and self._is_pinned and rows is None and not self._chooser.is_scoped():
            return held
        asked = _one_for_all(self._chooser.chosen(rows))
        if held is None:
            self._scope = held = asked
        if (held.rows, held.strengths) != (asked.rows, asked.strengths):
            raise BankError(
                f"{_DOING}: this manager answers by {_told(held)}, and {_told(asked)} was asked for. Make another "
                "manager for it, or use generate, where each prompt has its own row."
            )
        return held


_DOING = "Generating with continuous batching"


def _none(memo: dict[int, Any]) -> None:
    return None


def _check_count(scope: Scope, prompts: int | None) -> None:
    if not scope.is_uniform and prompts != len(scope.rows):
        raise BankError(
            f"Generating: {len(scope.rows)} rows were given for {'unknown' if prompts is None else prompts} prompts, "
            "expected one for each. Give one row for each prompt; beams and returned sequences follow their prompt."
        )


def _one_for_all(scope: Scope) -> Scope:
    """Return the scope as one row for all that comes.

    Raises:
        BankError: If its rows differ.
    """
    strengths = scope.strengths
    if len(set(scope.rows)) > 1 or len(set(strengths or ())) > 1:
        names = ", ".join(dict.fromkeys(_told(scope, place) for place in range(len(scope.rows))))
        raise BankError(
            f"{_DOING}: its requests lie in one row of tokens, and got different rows for them ({names}), expected "
            "one for all. Call it once for each adapter, or use generate, where each prompt has its own row."
        )
    first = None if strengths is None else strengths[:1]
    return replace(scope, rows=scope.rows[:1], strengths=first, is_uniform=True, expands=False)


def _told(scope: Scope, place: int = 0) -> str:
    row = scope.rows[place]
    strength = "" if scope.strengths is None else f" at strength {scope.strengths[place]:g}"
    return repr(scope.snapshot.entries[row].name) + strength


def _vectors(scope: Scope) -> Tensor:
    row = scope.snapshot.gather(scope.rows).detach()
    return row if scope.strengths is None else turn_rows(row, scope.strengths)
