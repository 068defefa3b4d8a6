"""Repeats: the same training several times, each with rows and a seed of its own, told by median and quartiles.

One number of one run on few rows is luck. Every run is a row of the same bank and is measured once, at its end, on rows
that it has not seen and that have chosen nothing. The folder holds the adapter of the median run: the best one would be
the one that suits the measured rows best, and its number would look better than it is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from ia3.bases.loading import Base
from ia3.data.draws import draw_per_label
from ia3.data.examples import Table
from ia3.data.splits import split_table
from ia3.errors import RunError, SettingsError, TableError
from ia3.files import write_whole
from ia3.inference.metrics import describe_few_rows
from ia3.report.repeats_plot import draw_repeats
from ia3.runs.dataset import SplitTable
from ia3.runs.drafts import Draft, rows_left
from ia3.runs.folder import REPEATS, REPEATS_PLOT, check_folder
from ia3.runs.plans.cuts import is_closed, say_cuts, training_part
from ia3.runs.prepare import make_tasks, read_drafts
from ia3.runs.request import RunOptions, request_of
from ia3.runs.results import RepeatsResult, TaskResult
from ia3.runs.run import measure_each
from ia3.runs.saving import RunTask
from ia3.runs.training_run import check_batches, trained
from ia3.runs.watch import Say
from ia3.training.recipes import HELD_OUT

_MOST = 100  # runs


def train_repeats(
    source: Any,
    base: str | Path | Base,
    output: str | Path,
    *,
    repeats: int = 5,
    per_label: int | None = None,
    batches: str = "mixed",
    **options: Unpack[RunOptions],
) -> RepeatsResult:
    """Train the same way several times and save the adapter of the median run.

    Args:
        source: As for `train_adapter`.
        base: The base.
        output: Folder of the median run's adapter and of the record of all runs.
        repeats: How many runs; their seeds are `seed`, `seed` + 1, ….
        per_label: Rows of each label that each run draws for itself to learn from; without it a run learns from all
            rows, but for those held out by its seed where there is no `eval_source`.
        batches: `mixed`, or `apart` for the bits of training each run alone.
        options: See `RunOptions`, and settings by name (`Settings`). All runs are measured on `eval_source`; without it
            each is measured on the rows that it has not drawn. With `start` every run begins, or chooses on the rows
            that it learns from.

    Returns:
        Every run with its metrics, and which one is saved.

    Raises:
        IA3Error: As `train_adapter`, if nothing is left to measure on, or if every run has diverged.
    """
    request = request_of(base, output, options)
    began, say, folder = request.watch.now(), request.say, request.output
    fraction = HELD_OUT if request.eval_fraction is None else request.eval_fraction
    _check(repeats, per_label, has_eval=request.eval_source is not None, fraction=fraction)
    check_batches(batches)
    check_folder(folder, resume=request.resume, overwrite=request.overwrite)

    def learned(draft: Draft) -> int:
        return rows_left(draft.rows, fraction) if per_label is None else per_label * len(draft.rows.labels)

    kind, (whole,) = read_drafts(request, [request.spec(source)], learned=learned)
    cuts = _cut(whole, whole.settings(kind).seed, repeats, per_label, fraction)
    loaded, tasks = make_tasks(request, kind, cuts, whole=whole)
    _say(tasks, whole, say)
    blind = [training_part(task) for task in tasks]
    with trained(request, loaded, blind, batches=batches) as (run, outcomes):
        is_stopped = any(outcome.is_stopped for outcome in outcomes)
        if not is_stopped:
            say(f"Measuring {repeats} runs on {_measured_rows(tasks)}.")
        held_out = {
            place: tasks[place].held_out(usual=blind[place].usual_temperature(outcome.steps))
            for place, outcome in enumerate(outcomes)
            if outcome.best_epoch and not is_stopped
        }
        found = measure_each(loaded, held_out)
        runs = tuple(
            TaskResult.of(task, outcome, found.get(place), is_drawn=per_label is not None)
            for place, (task, outcome) in enumerate(zip(tasks, outcomes, strict=True))
        )
        median = _median(runs)
        result = RepeatsResult(folder, runs, (request.watch.now() - began).total_seconds(), median)
        if median is not None:
            place = runs.index(median)
            told = {"repeats": {"runs": repeats, "spread": result.to_json()["spread"]}}
            run.saved_metrics[tasks[place].adapter] = median.metrics
            run.write_best(replace(blind[place], more={**blind[place].more, **told}), outcomes[place], folder)
            _write(result, folder)
        elif not is_stopped:
            raise RunError(f"Repeating: no run has a number on the rows measured. {outcomes[0].fault or ''}".rstrip())
    return result


def _check(repeats: int, per_label: int | None, *, has_eval: bool, fraction: float) -> None:
    """Raise for numbers that make no plan; all faults at once."""
    faults = []
    if not 1 <= repeats <= _MOST:
        faults.append(f"repeats is {repeats}, expected 1 to {_MOST}")
    if per_label is not None and per_label < 1:
        faults.append(f"per_label is {per_label}, expected at least 1")
    if per_label is None and not has_eval and fraction == 0:
        faults.append("nothing is left to measure on: give --eval, --per-label, or an --eval-fraction above 0")
    if faults:
        raise SettingsError(f"Planning the repeats: {'; '.join(faults)}.")


def _cut(whole: Draft, first: int, repeats: int, per_label: int | None, fraction: float) -> list[Draft]:
    """Return the rows of each run: those it learns from, and those it is measured on."""
    table, given = whole.rows.train, whole.rows.held_out
    if per_label is not None and not whole.rows.labels:
        what, cure = "the answers are free text", "Leave --per-label out, or give --answers labels."
        if is_closed(whole):  # an answer of one row is no label of another: there is nothing to draw as many of
            what, cure = "each row brings its own choices", "Leave --per-label out."
        raise SettingsError(
            f"Planning the repeats: per_label is {per_label} and {what}, expected a closed set of labels. {cure}"
        )
    found = []
    for seed in range(first, first + repeats):
        train: Table = table
        rest: Table | None = None
        if per_label is not None:
            train, rest = draw_per_label(table, per_label, seed)
        elif given is None:
            train, rest = split_table(table, fraction, seed, stratify=bool(whole.rows.labels))
        measured = rest if given is None else given
        if measured is None:
            raise TableError(
                f"Planning the repeats: {per_label} rows of each label are all {len(table.examples)} rows of the "
                "table, none is left to measure on. Draw fewer (--per-label), or give --eval."
            )
        found.append(whole.part(SplitTable(train, measured, whole.rows.labels, ()), f"seed {seed}", seed=seed))
    return found


def _say(tasks: Sequence[RunTask], whole: Draft, say: Say) -> None:
    """Say how many rows each run has, and warn if those it is measured on are few."""
    say_cuts(whole, tasks, say)
    train = sorted({len(task.dataset.train) for task in tasks})
    spelt = str(train[0]) if len(train) == 1 else f"{train[0]} to {train[-1]}"
    say(f"{len(tasks)} runs of {spelt} rows, measured on {_measured_rows(tasks)}.")
    if whole.rows.held_out is None and is_closed(whole):
        note = describe_few_rows(min(len(task.dataset.held_out) for task in tasks), "measured on by a run")
        if note:
            say(note)


def _measured_rows(tasks: Sequence[RunTask]) -> str:
    sizes = sorted({len(task.dataset.held_out) for task in tasks})
    return f"{sizes[0] if len(sizes) == 1 else f'{sizes[0]} to {sizes[-1]}'} rows each"


def _median(runs: Sequence[TaskResult]) -> TaskResult | None:
    """Return the run in the middle by accuracy (by loss for free text), of two the worse one; None without any."""

    def goodness(run: TaskResult) -> tuple[float, float]:
        assert run.metrics is not None
        share = run.metrics.accuracy if run.metrics.accuracy is not None else 0.0
        return share, -(run.metrics.loss if run.metrics.loss is not None else 0.0)

    ordered = sorted((run for run in runs if run.metrics is not None), key=goodness)
    return ordered[(len(ordered) - 1) // 2] if ordered else None


def _write(result: RepeatsResult, folder: Path) -> None:
    """Write the record of all runs and the picture."""
    told = {name: value for name, value in result.to_json().items() if name not in ("output", "stopped")}
    write_whole(folder / REPEATS, (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode())
    name = "accuracy" if result.runs and result.spread("accuracy") is not None else "loss"
    draw_repeats(told["runs"], name, folder / REPEATS_PLOT)
