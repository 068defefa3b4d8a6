"""Folds: an adapter of all rows, and what it is worth, told by adapters that have each not learned from some of them.

Every fold is a row of the same bank, and so is the adapter of all rows, which is saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from ia3.bases.loading import Base
from ia3.data.draws import make_folds
from ia3.data.examples import choose_examples
from ia3.errors import RunError
from ia3.inference.evaluate import HeldOut, metrics_of, score_together
from ia3.inference.metrics import Metrics, describe_few_rows
from ia3.report.many_plots import draw_tasks
from ia3.runs.dataset import SplitTable
from ia3.runs.drafts import Draft
from ia3.runs.folder import CURVES, RUN_LOG, check_folder
from ia3.runs.plans.cuts import is_closed, say_cuts, training_part
from ia3.runs.prepare import make_tasks, read_drafts
from ia3.runs.request import RunOptions, request_of
from ia3.runs.results import OneResult, TaskResult, folds_to_json
from ia3.runs.run import Run
from ia3.runs.saving import RunTask
from ia3.runs.training_run import check_batches, trained
from ia3.runs.watch import Say
from ia3.training.records import read_events
from ia3.training.tasks import Outcome

ALL = "all rows"  # name of the row that is saved


def train_folds(
    source: Any,
    base: str | Path | Base,
    output: str | Path,
    *,
    folds: int = 5,
    batches: str = "mixed",
    **options: Unpack[RunOptions],
) -> OneResult:
    """Train an adapter on all rows of a table, and measure what it is worth by cross-validation.

    Args:
        source: As for `train_adapter`.
        base: The base.
        output: Folder of the adapter.
        folds: How many parts the rows are cut into; each label is spread over all of them, and rows with the same text
            stay together. The seed decides which rows are in which. A fold takes as many steps as the adapter of all
            rows.
        batches: `mixed`, or `apart` for the bits of training on all rows alone.
        options: See `RunOptions`, and settings by name (`Settings`); nothing is held out. With `start` every run
            begins, or chooses on the rows that it learns from.

    Returns:
        The metrics of all rows together, and of each fold.

    Raises:
        IA3Error: As `train_adapter`, for a number of folds that the rows cannot be cut into, and if the training on
            all rows, or on all folds, has diverged.
    """
    request = request_of(base, output, options, without=("eval_source", "eval_fraction"))
    began, say, folder = request.watch.now(), request.say, request.output
    check_batches(batches)
    check_folder(folder, resume=request.resume, overwrite=request.overwrite)
    kind, (whole,) = read_drafts(request, [request.spec(source)], learned=lambda draft: len(draft.rows.train.examples))
    loaded, tasks = make_tasks(request, kind, _cut(whole, folds, whole.settings(kind).seed), whole=whole)
    _say(tasks, whole, say)
    blind = [_blind(task, tasks[-1]) for task in tasks]
    with trained(request, loaded, blind, batches=batches, fits_temperature=True) as (run, outcomes):
        metrics, each = None, tuple[Metrics | None, ...]()
        if not any(outcome.is_stopped for outcome in outcomes):
            _check_outcomes(outcomes)
            say("Measuring every row with the adapter that has not learned from it.")
            metrics, each = _measure(loaded, tasks, outcomes)
            _save(run, training_part(tasks[-1]), outcomes[-1], metrics, each)
    results = tuple(
        TaskResult.of(task, outcome, measured)
        for task, outcome, measured in zip(tasks, outcomes, (*(each or [None] * folds), metrics), strict=True)
    )
    return OneResult(folder, results, (request.watch.now() - began).total_seconds(), metrics, each)


def _blind(task: RunTask, last: RunTask) -> RunTask:
    """Return a cut as it is trained: a fold takes as many steps as it would with the rows of the last, all rows."""
    steps = task.settings.max_steps if task is last else task.settings.total_steps(len(last.dataset.train))
    return replace(training_part(task), settings=replace(task.settings, max_steps=steps))


def _cut(whole: Draft, folds: int, seed: int) -> list[Draft]:
    """Return the rows of each fold's adapter, and behind them all rows."""
    table, labels = whole.rows.train, whole.rows.labels
    found = []
    for number, fold in enumerate(make_folds(table, folds, seed, stratify=bool(labels)), 1):
        held = set(fold)
        rest = [index for index in range(len(table.examples)) if index not in held]
        cut = SplitTable(choose_examples(table, rest), choose_examples(table, fold), labels, ())
        found.append(whole.part(cut, f"fold {number}"))
    return [*found, whole.part(SplitTable(table, None, labels, ()), ALL)]


def _say(tasks: Sequence[RunTask], whole: Draft, say: Say) -> None:
    """Say how the rows are cut, and what the table holds."""
    say_cuts(whole, tasks, say)
    learned = len(tasks[-1].dataset.train)
    for line in tasks[-1].dataset.report.lines():
        say(line)
    measured = sum(len(task.dataset.held_out) for task in tasks)
    say(f"{len(tasks) - 1} folds of {learned} rows, and one adapter of all of them.")
    if alone := learned - measured:
        say(f"{alone} rows are the only text of their label: they are always learned from and never measured.")
    note = describe_few_rows(measured, "measured on") if is_closed(whole) else ""
    if note:
        say(note)


def _check_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Raise if there is nothing to save, or nothing to measure with."""
    *folds, last = outcomes
    if not last.best_epoch:
        raise RunError(f"Cross-validating: the adapter of all rows has diverged. {last.fault or ''}".rstrip())
    if not any(outcome.best_epoch for outcome in folds):
        raise RunError(f"Cross-validating: every fold has diverged. {folds[0].fault or ''}".rstrip())


def _measure(
    base: Base, tasks: Sequence[RunTask], outcomes: Sequence[Outcome]
) -> tuple[Metrics, tuple[Metrics | None, ...]]:
    """Return the metrics of all folds' rows together, and of each fold."""
    usual = training_part(tasks[-1]).usual_temperature(outcomes[-1].steps)
    parts: Mapping[int, HeldOut] = {
        place: task.held_out()
        for place, (task, outcome) in enumerate(zip(tasks[:-1], outcomes[:-1], strict=True))
        if outcome.best_epoch
    }
    scored = score_together(base, [*parts.values()])
    each = {
        place: metrics_of(base.kind, [part], [own]) for (place, part), own in zip(parts.items(), scored, strict=True)
    }
    fitted = [replace(part, is_fitted=True, usual=usual) for part in parts.values()]
    return metrics_of(base.kind, fitted, scored), tuple(each.get(place) for place in range(len(outcomes) - 1))


def _save(run: Run, task: RunTask, outcome: Outcome, metrics: Metrics, each: Sequence[Metrics | None]) -> None:
    """Write the adapter of all rows with the metrics of the folds, and the pictures."""
    folder = run.setup.folder
    more: dict[str, Any] = {"cross_validation": folds_to_json(each)}
    if metrics.scaling is not None:
        more["calibration"] = {**metrics.scaling.to_json(), "fitted_on": f"{len(each)} folds"}
    run.saved_metrics[task.adapter] = metrics
    run.write_best(replace(task, more={**task.more, **more}), outcome, folder)
    draw_tasks(read_events(folder / RUN_LOG), [one.name for one in run.setup.tasks], folder / CURVES)
    run.draw_metrics(metrics)
