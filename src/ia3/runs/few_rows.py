"""Runs on few rows: the recipe that is made for them is taken where the user left it open, and told where not.

This file knows rows, bases and settings; what recipes hold is `training.recipes`' matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ia3.bases.kinds import Kind, count_parameters, empty_model
from ia3.bases.loading import Base, load_config
from ia3.runs.dataset import Dataset, Rows
from ia3.runs.watch import Say
from ia3.training.recipes import FOR_FEW_ROWS, leaves_open, recipe_note, suggest_recipe
from ia3.training.settings import Settings, settings_for


def with_recipe(
    given: Mapping[str, Any],
    base: str | Path | Base,
    kind: Kind,
    tables: Sequence[tuple[Rows, int]],
    say: Say,
    *,
    has_start: bool = False,
) -> dict[str, Any]:
    """Return the settings of a run, with the recipe for few rows where they leave it open and every table is small.

    The recipe for a base of a billion parameters or more is never taken without being asked for: its thousand steps are
    an hour's work.

    Args:
        given: Settings by name, as the user gave them.
        base: Where the base is, or a loaded one.
        kind: Its kind.
        tables: The rows of each task, and how many of them it learns from.
        say: Told which recipe is taken.
        has_start: Whether the run begins with an adapter in place of ones.
    """
    found = dict(given)
    if not leaves_open(given, kind):
        return found
    usual = settings_for(kind, has_start=has_start, **given)

    def suggested(parameters: int) -> set[str]:
        return {
            suggest_recipe(kind, count, len(rows.labels), parameters, usual.total_steps(count))
            for rows, count in tables
        }

    if suggested(0) != {FOR_FEW_ROWS} or (kind != "encoder" and suggested(_parameters(base, kind)) != {FOR_FEW_ROWS}):
        return found
    found["recipe"] = FOR_FEW_ROWS
    rows, count = tables[0]
    steps = settings_for(kind, has_start=has_start, **found).total_steps(count)
    more = len(tables) - 1
    others = f", and those of {more} other task{'s' * (more > 1)}," if more else ""
    say(
        f"{count} rows of {len(rows.labels)} labels{others} are few: the settings are those of --recipe {FOR_FEW_ROWS} "
        f"({steps} steps); --recipe default has the usual ones ({usual.total_steps(count)} steps)."
    )
    return found


def few_rows_note(dataset: Dataset, settings: Settings, base: Base) -> str:
    """Return the sentence that there is a recipe for so few rows, "" where there are enough."""
    rows = len(dataset.train)
    steps = settings.total_steps(rows)
    return recipe_note(base.kind, rows, len(dataset.encoding.labels), count_parameters(base.model), steps)


def _parameters(base: str | Path | Base, kind: Kind) -> int:
    """Return how many parameters a base has, without loading its weights.

    An output matrix that a checkpoint has and its config does not tell of (mT5's) is not counted.
    """
    if isinstance(base, Base):
        return count_parameters(base.model)
    return count_parameters(empty_model(load_config(base, lambda sentence: None), kind))
