"""Runs on few rows: the recipe that is made for them is taken where the user left it open, and told where not.

This file knows drafts of tasks, and the size of a base; what recipes hold is `training.recipes`' matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ia3.bases.kinds import count_parameters, empty_model
from ia3.bases.loading import Base, load_config
from ia3.names import Kind
from ia3.runs.drafts import Draft
from ia3.runs.watch import Say
from ia3.training.recipes import FOR_FEW_ROWS, leaves_open, recipe_note, suggest_recipe


def recipe_taken(tasks: Sequence[Draft], base: str | Path | Base, kind: Kind, say: Say) -> dict[str, str]:
    """Return the recipe for few rows as a setting, if it is taken: where all tasks leave it open and have few rows.

    Where a recipe for few rows is not taken and none was named, it is told. That for a base of a billion parameters or
    more is never taken without being asked for: its thousand steps are an hour's work.

    Args:
        tasks: Of the run.
        base: Where the base is, or a loaded one.
        kind: Its kind.
        say: Told what is taken, or could be.
    """
    unnamed = [task for task in tasks if not task.given.get("recipe")]
    if not any(_suggested(task, kind, 0) == FOR_FEW_ROWS for task in unnamed):
        return {}
    parameters = _parameters(base, kind)
    if all(leaves_open(task.given, kind) and _suggested(task, kind, parameters) == FOR_FEW_ROWS for task in tasks):
        _say_taken(tasks, kind, say)
        return {"recipe": FOR_FEW_ROWS}
    told = {task.name: _note(task, kind, parameters) for task in unnamed}
    few = [name for name, note in told.items() if note]
    if few:
        others = f" So it is with {', '.join(few[1:9])}{', …' if len(few) > 9 else ''}." if few[1:] else ""
        say(f"{few[0]}{': ' * bool(few[0])}{told[few[0]]}{others}")
    return {}


def _say_taken(tasks: Sequence[Draft], kind: Kind, say: Say) -> None:
    first = tasks[0]
    usual = first.settings(kind).total_steps(first.count)
    steps, started = (
        replace(first, has_start=begins).settings(kind, recipe=FOR_FEW_ROWS).total_steps(first.count)
        for begins in (first.has_start, True)
    )
    taken = f"{steps} steps" if started == steps else f"{steps} steps, {started} from a start"
    where, which = (f" in all {len(tasks)} tasks", f" in {first.name}") if len(tasks) > 1 else ("", "")
    say(
        f"Rows are few{where}: the defaults would take {usual} steps{which}. The settings are those of --recipe "
        f"{FOR_FEW_ROWS} ({taken}); --recipe default keeps the defaults."
    )


def _suggested(task: Draft, kind: Kind, parameters: int) -> str:
    """Return the name of the recipe for a task's rows."""
    steps = task.settings(kind).total_steps(task.count)
    return suggest_recipe(kind, task.count, len(task.rows.labels), parameters, steps)


def _note(task: Draft, kind: Kind, parameters: int) -> str:
    steps = task.settings(kind).total_steps(task.count)
    return recipe_note(kind, task.count, len(task.rows.labels), parameters, steps)


def _parameters(base: str | Path | Base, kind: Kind) -> int:
    """Return how many parameters a base has by its config, whatever its weights are kept as.

    An output matrix that a checkpoint has and its config does not tell of (mT5's) is not counted.
    """
    config = base.model.config if isinstance(base, Base) else load_config(base, lambda sentence: None)
    return count_parameters(empty_model(config, kind))
