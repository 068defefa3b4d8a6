"""A task before its base is loaded: the rows it learns from, those it is measured on, and what was asked for.

This file knows values; it knows nothing of bases and of how tables are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ia3.names import Kind
from ia3.runs.dataset import SplitTable
from ia3.runs.task_specs import TaskSpec
from ia3.training.recipes import HELD_OUT, Recipe, find_recipe
from ia3.training.settings import Settings, settings_for


@dataclass(frozen=True)
class Draft:
    """A task before its base is loaded.

    Attributes:
        spec: As it was asked for, with what holds for all tasks put in.
        rows: Its rows; a run that shares them with another one shares their token ids.
        given: Its settings by name, as the user gave them, and with the recipe that was taken.
        count: How many rows it learns from with the settings given; `rows_left` tells.
        has_start: Whether it begins with a named adapter, or with the numbers of a shared stage, in place of ones.
    """

    spec: TaskSpec
    rows: SplitTable
    given: Mapping[str, Any]
    count: int = 0
    has_start: bool = False

    @property
    def name(self) -> str:
        """What it is called beside others; "" for an only one."""
        return self.spec.name

    @property
    def recipe(self) -> Recipe:
        """The recipe of its settings."""
        return find_recipe(self.given.get("recipe") or "default")

    def settings(self, kind: Kind, **more: Any) -> Settings:
        """Return its settings, with some in place of what was given; of one that chooses a start as if it had none."""
        return settings_for(kind, has_start=self.has_start, **{**self.given, **more})

    def part(self, rows: SplitTable, name: str | None = None, **changes: Any) -> Draft:
        """Return a task on some of its rows, under another name, with some settings changed."""
        spec = self.spec if name is None else replace(self.spec, name=name)
        return replace(self, spec=spec, rows=rows, given={**self.given, **changes})


def rows_left(rows: SplitTable, fraction: float | None) -> int:
    """Return about how many rows are learned from where a share is held out; one outside its range is told later.

    Args:
        rows: Before any are held out.
        fraction: The share; None for that of the defaults.
    """
    fraction = HELD_OUT if fraction is None else fraction
    has_own = rows.held_out is not None or not isinstance(fraction, int | float) or not 0 < fraction < 1
    return round(len(rows.train.examples) * (1 if has_own else 1 - fraction))
