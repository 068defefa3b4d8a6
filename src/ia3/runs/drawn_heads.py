"""Rows of a bank for several tasks: each with a head of its own, as wide as its label set, drawn from its own seed.

A head is what it is when the task is trained alone: the same modules, the same first numbers. This file knows models
and numbers of labels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from ia3.bases.heads import draw_heads
from ia3.bases.kinds import empty_model
from ia3.bases.loading import Base
from ia3.core.heads import Head, copy_head


def make_heads(base: Base, wanted: Sequence[tuple[int, int]]) -> list[Head | None]:
    """Return a head for each task, before a bank is put on the model.

    Args:
        base: The base; its model is as before when this returns.
        wanted: Number of labels and seed of each task.

    Returns:
        None for a base without heads.
    """
    if not base.head_modules:
        return [None] * len(wanted)
    made: dict[tuple[int, int], Head] = {}
    heads: list[Head | None] = []
    for labels, seed in wanted:
        if (labels, seed) not in made:
            made[labels, seed] = _make_head(base, labels, seed)
            heads.append(made[labels, seed])
        else:
            heads.append(copy.deepcopy(made[labels, seed]))
    return heads


def _make_head(base: Base, labels: int, seed: int) -> Head:
    """Put modules of the right width into the model, draw them as a head is drawn, and take a copy out."""
    model: Any = base.model
    before = {path: model.get_submodule(path) for path in base.head_modules}
    empty = empty_model(model.config, "encoder", num_labels=labels)
    try:
        for path, module in before.items():
            first = next(module.parameters())
            fresh = empty.get_submodule(path).to_empty(device="cpu").to(first.dtype)
            _put(model, path, fresh)
        draw_heads(model, base.head_modules, seed)
        return copy_head(model, base.head_modules)
    finally:
        for path, module in before.items():
            _put(model, path, module)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
