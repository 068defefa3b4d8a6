"""Folds: every row measured by an adapter that has not learned from it, and one adapter that has learned from all.

The rows are cut into folds; for each a row of the bank learns from the others, and one more from all of them, in one
run. What the first ones get right on their folds is told of the last, which is saved, and the temperature of its
probabilities is fitted on those answers. Every fold takes as many steps as the last one: an adapter of fewer steps is
less sure, and its temperature would be too low. This file brings rooms together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ia3.bases.loading import Base
from ia3.data.draws import make_folds
from ia3.data.examples import choose_examples
from ia3.errors import RunError
from ia3.inference.evaluate import HeldOut, metrics_of, score_together
from ia3.inference.metrics import Metrics, describe_few_rows
from ia3.report.many_plots import draw_tasks
from ia3.runs.cuts import Cut, Whole, read_whole, say_cuts, split_options, training_part
from ia3.runs.dataset import Dataset, data_name
from ia3.runs.folder import CURVES, RECORD, check_folder, open_folder
from ia3.runs.many_rows import attached_rows
from ia3.runs.run import Run
from ia3.runs.run_base import Placement, kind_of_base
from ia3.runs.saving import RunTask
from ia3.runs.setup import Setup
from ia3.runs.watch import Say, Watch
from ia3.training.records import Event, finite, read_events
from ia3.training.settings import Settings
from ia3.training.tasks import Outcome

ALL = "all rows"  # name of the row that is saved


@dataclass(frozen=True)
class FoldsResult:
    """What cross-validated training gives.

    Attributes:
        folder: Of the adapter that has learned from all rows.
        outcome: How its training ended.
        metrics: Of all rows together, each answered by the adapter that has not learned from it; None if stopped.
        folds: Of each fold; None where its adapter has diverged.
        labels: The closed label set; empty for free text.
        settings: Of all.
        steps: Of all together.
        seconds: Of everything.
    """

    folder: Path
    outcome: Outcome
    metrics: Metrics | None
    folds: tuple[Metrics | None, ...]
    labels: tuple[str, ...]
    settings: Settings
    steps: int
    seconds: float

    @property
    def is_stopped(self) -> bool:
        """Whether it was ended before its last step."""
        return self.outcome.is_stopped

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "output": str(self.folder),
            "stopped": self.outcome.is_stopped,
            "steps": self.steps,
            "labels": list(self.labels),
            "settings": self.settings.to_json(),
            "metrics": None if self.metrics is None else self.metrics.to_json(),
            "cross_validation": _told(self.folds),
            "seconds": self.seconds,
        }


def train_folds(
    source: Any,
    base: str | Path | Base,
    output: str | Path,
    *,
    folds: int = 5,
    dtype: str = "auto",
    device: str = "auto",
    precision: str = "float",
    batches: str = "mixed",
    start: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    say: Say = lambda sentence: None,
    on_event: Callable[[Event], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    checkpoint_seconds: float = 10.0,
    **options: Any,
) -> FoldsResult:
    """Train an adapter on all rows of a table, and measure what it is worth by cross-validation.

    Args:
        source: As for `train_adapter`, like every argument that is not named here.
        base: The base.
        output: Folder of the adapter.
        folds: How many parts the rows are cut into; each label is spread over all of them, and rows with the same text
            stay together. The seed decides which rows are in which.
        dtype: Of the base.
        device: Where it runs.
        precision: `float`, or `int8` for the weights of its blocks.
        batches: `mixed`, or `apart` for the bits of training on all rows alone.
        start: As for `train_adapter`; every run begins with it, or chooses on the rows that it learns from.
        resume: Go on from the folder's last checkpoint.
        overwrite: Replace the run in the folder.
        say: Called with each sentence for the user.
        on_event: Called with each event of the record.
        should_stop: Asked before every round.
        now: The time written into the record.
        checkpoint_seconds: Least time between two checkpoints.
        options: What else `train_adapter` takes of the rows and their words, and settings. A fold takes as many steps
            as the adapter of all rows.

    Returns:
        The metrics of all rows together, and of each fold.

    Raises:
        IA3Error: As `train_adapter`, for a number of folds that the rows cannot be cut into, and if the training on
            all rows, or on all folds, has diverged.
    """
    began, folder = now(), Path(output).expanduser()
    words, settings = split_options(options)
    check_folder(folder, resume=resume, overwrite=overwrite)
    placement, watch = Placement(dtype, device, precision), Watch(say, on_event, should_stop, now, checkpoint_seconds)
    kind = kind_of_base(base, placement, say)
    whole = read_whole(source, base, kind, settings, placement, say, start=start, **words)
    cuts = _cut(whole, folds)
    datasets, own = [cut.dataset for cut in cuts], cuts[-1].settings
    _say(cuts, whole, say)
    names = [*(f"fold {number}" for number in range(1, folds + 1)), ALL]
    table = data_name(source)
    tasks = tuple(
        RunTask(name, name, None, training_part(cut.dataset), _settings(cut, cuts[-1]), table, None, start=cut.start)
        for name, cut in zip(names, cuts, strict=True)
    )
    with (
        open_folder(folder, resume=resume, overwrite=overwrite),
        attached_rows(whole.base, tasks, None, say) as attachment,
    ):
        run = Run(Setup(folder, whole.base, attachment, tasks, watch, is_mixed=batches == "mixed"))
        outcomes = run.train(resume=resume)
        metrics, each = None, tuple[Metrics | None, ...]()
        if not any(outcome.is_stopped for outcome in outcomes):
            _check_outcomes(outcomes)
            say("Measuring every row with the adapter that has not learned from it.")
            metrics, each = _measure(whole.base, tasks, datasets, outcomes)
            _save(run, tasks[-1], outcomes[-1], metrics, each)
        run.close(outcomes)
    steps = sum(outcome.steps for outcome in outcomes)
    last = replace(outcomes[-1], is_stopped=metrics is None)
    seconds = (now() - began).total_seconds()
    return FoldsResult(folder, last, metrics, each, whole.rows.labels, own, steps, seconds)


def _settings(cut: Cut, last: Cut) -> Settings:
    """Return the settings of a run; a fold takes as many steps as it would with the rows of the last, which are all."""
    return (
        cut.settings
        if cut is last
        else replace(cut.settings, max_steps=cut.settings.total_steps(len(last.dataset.train)))
    )


def _cut(whole: Whole, folds: int) -> list[Cut]:
    """Return the rows of each fold's adapter, and behind them all rows."""
    table = whole.rows.train
    found = []
    for fold in make_folds(table, folds, whole.settings.seed, stratify=bool(whole.rows.labels)):
        held = set(fold)
        rest = [index for index in range(len(table.examples)) if index not in held]
        found.append(whole.cut(choose_examples(table, rest), choose_examples(table, fold)))
    return [*found, whole.cut(table, None)]


def _say(cuts: Sequence[Cut], whole: Whole, say: Say) -> None:
    """Say how the rows are cut, and what the table holds."""
    datasets = [cut.dataset for cut in cuts]
    say_cuts(whole, cuts, say)
    for line in datasets[-1].report.lines():
        say(line)
    measured = sum(len(dataset.held_out) for dataset in datasets)
    say(f"{len(datasets) - 1} folds of {len(datasets[-1].train)} rows, and one adapter of all of them.")
    alone = len(datasets[-1].train) - measured
    if alone:
        say(f"{alone} rows are the only text of their label: they are always learned from and never measured.")
    note = describe_few_rows(measured, "measured on") if whole.is_closed else ""
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
    base: Base, tasks: Sequence[RunTask], datasets: Sequence[Dataset], outcomes: Sequence[Outcome]
) -> tuple[Metrics, tuple[Metrics | None, ...]]:
    """Return the metrics of all folds' rows together, and of each fold."""
    usual = tasks[-1].usual_temperature(outcomes[-1].steps)
    parts = {
        place: HeldOut(d.held_out, d.encoding.choice_ids, d.encoding.labels, t.adapter, t.ranking, usual=usual)
        for place, (t, d, o) in enumerate(zip(tasks[:-1], datasets[:-1], outcomes[:-1], strict=True))
        if o.best_epoch
    }
    options: dict[str, Any] = {"pad_id": base.pad_id, "decoder_start_id": base.decoder_start_id}
    scored = score_together(base.model, base.kind, [*parts.values()], **options)
    each = {
        place: metrics_of(base.kind, [part], [own]) for (place, part), own in zip(parts.items(), scored, strict=True)
    }
    fitted = [replace(part, is_fitted=True) for part in parts.values()]
    return metrics_of(base.kind, fitted, scored), tuple(each.get(place) for place in range(len(outcomes) - 1))


def _save(run: Run, task: RunTask, outcome: Outcome, metrics: Metrics, each: Sequence[Metrics | None]) -> None:
    """Write the adapter of all rows with the metrics of the folds, and the pictures."""
    folder = run.setup.folder
    more: dict[str, Any] = {"cross_validation": _told(each)}
    if metrics.scaling is not None:
        more["calibration"] = {**metrics.scaling.to_json(), "fitted_on": f"{len(each)} folds"}
    run.saved_metrics[task.adapter] = metrics
    run.write_best(replace(task, more=more), outcome, folder)
    draw_tasks(read_events(folder / RECORD), [one.name for one in run.setup.tasks], folder / CURVES)
    run.draw_metrics(metrics)


def _told(folds: Sequence[Metrics | None]) -> dict[str, Any]:
    """Return the folds as plain values."""
    names = ("rows", "accuracy", "loss")
    each = [None if one is None else {name: finite(getattr(one, name)) for name in names} for one in folds]
    return {"folds": len(folds), "each": each}
