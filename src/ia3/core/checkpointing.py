"""Gradient checkpointing: a block that is recomputed in the backward pass gets the rows it was first computed with.

transformers keeps a checkpoint function on every module that can be checkpointed; it is wrapped here. This file knows
that attribute; what surrounds a forward pass is `surroundings`' matter.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from ia3.core.surroundings import Surroundings, surroundings

_FUNCTION = "_gradient_checkpointing_func"
Inside = Callable[[Surroundings], AbstractContextManager[None]]


def bind_checkpoints(model: nn.Module, inside: Inside) -> None:
    """Wrap every checkpoint function on the model that is not wrapped yet.

    Args:
        model: The model.
        inside: Scope in which a pass goes on in surroundings that were captured before.
    """
    for module in model.modules():
        function = module.__dict__.get(_FUNCTION)
        if function is not None and not isinstance(function, _BoundCheckpoint):
            module.__dict__[_FUNCTION] = _BoundCheckpoint(function, inside)


def unbind_checkpoints(model: nn.Module) -> None:
    """Put the functions of transformers back."""
    for module in model.modules():
        function = module.__dict__.get(_FUNCTION)
        if isinstance(function, _BoundCheckpoint):
            module.__dict__[_FUNCTION] = function.original


class _BoundCheckpoint:
    """A checkpoint function that recomputes each block in the surroundings it was first computed in."""

    def __init__(self, original: Callable[..., Any], inside: Inside) -> None:
        self.original = original
        self.inside = inside

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        first = surroundings()

        def run(*inputs: Any, **options: Any) -> Any:
            with self.inside(first):
                return function(*inputs, **options)

        return self.original(run, *args, **kwargs)
