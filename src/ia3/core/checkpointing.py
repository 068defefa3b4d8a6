"""Gradient checkpointing: a block that is recomputed in the backward pass gets the rows it was first computed with.

transformers keeps a checkpoint function on every module that can be checkpointed; it is wrapped here. This file knows
that attribute and calls; what a call is made of is `calls`' matter.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from ia3.core.calls import Call

_FUNCTION = "_gradient_checkpointing_func"


def bind_checkpoints(
    model: nn.Module, current: Callable[[], Call | None], inside: Callable[[Call | None], AbstractContextManager[None]]
) -> None:
    """Wrap every checkpoint function on the model that is not wrapped yet.

    Args:
        model: The model.
        current: Gives the forward pass under way.
        inside: Scope in which a captured pass is under way again.
    """
    for module in model.modules():
        function = module.__dict__.get(_FUNCTION)
        if function is not None and not isinstance(function, _BoundCheckpoint):
            module.__dict__[_FUNCTION] = _BoundCheckpoint(function, current, inside)


def unbind_checkpoints(model: nn.Module) -> None:
    """Put the functions of transformers back."""
    for module in model.modules():
        function = module.__dict__.get(_FUNCTION)
        if isinstance(function, _BoundCheckpoint):
            module.__dict__[_FUNCTION] = function.original


class _BoundCheckpoint:
    """A checkpoint function that recomputes each block inside the call it was first computed in."""

    def __init__(
        self,
        original: Callable[..., Any],
        current: Callable[[], Call | None],
        inside: Callable[[Call | None], AbstractContextManager[None]],
    ) -> None:
        self.original = original
        self.current = current
        self.inside = inside

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = self.current()

        def run(*inputs: Any, **options: Any) -> Any:
            with self.inside(call):
                return function(*inputs, **options)

        return self.original(run, *args, **kwargs)
