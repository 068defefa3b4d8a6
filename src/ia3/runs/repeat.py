"""Repeats: the same training several times, each with rows and a seed of its own, told by median and quartiles.

One number of one run on few rows is luck. Every run is a row of the same bank and is measured once, at its end, on rows
that it has not seen and that have chosen nothing. The folder holds the adapter of the median run: the best one would be
the one that suits the measured rows best, and its number would look better than it is. This file brings rooms together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ia3.bases.loading import Base
from ia3.data.draws import draw_per_label
from ia3.data.examples import Table
from ia3.data.splits import split_table
from ia3.errors import RunError, SettingsError, TableError
from ia3.files import write_whole
from ia3.inference.evaluate import HeldOut, evaluate_together
from ia3.inference.metrics import Metrics, MetricsError, describe_few_rows
from ia3.report.repeats_plot import draw_repeats
from ia3.runs.cuts import Cut, Whole, read_whole, say_cuts, split_options, training_part
from ia3.runs.dataset import Dataset, Rows, data_name
from ia3.runs.few_rows import rows_left
from ia3.runs.folder import REPEATS, REPEATS_PLOT, check_folder, open_folder
from ia3.runs.many_rows import attached_rows
from ia3.runs.run import Run
from ia3.runs.run_base import Placement, kind_of_base
from ia3.runs.saving import RunTask, temperature_note
from ia3.runs.setup import Setup
from ia3.runs.watch import Say, Watch
from ia3.training.recipes import HELD_OUT
from ia3.training.records import Event, finite
from ia3.training.settings import Settings
from ia3.training.tasks import Outcome

_MOST = 100  # runs
MEASURES = ("accuracy", "macro_f1", "loss", "calibration_error")


@dataclass(frozen=True)
class Spread:
    """Five numbers of some values: the quartiles lie between the two nearest, linearly."""

    median: float
    lower: float  # quartile
    upper: float
    lowest: float
    highest: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        lowest, lower, median, upper, highest = np.percentile(values, (0, 25, 50, 75, 100)).tolist()
        return Spread(median, lower, upper, lowest, highest)


@dataclass(frozen=True)
class RepeatedRun:
    """One of the runs.

    Attributes:
        seed: Of its rows, its order, a fresh head and dropout.
        rows: How many it has learned from.
        fingerprint: Of these rows.
        drawn: Where they come from; empty where all rows were learned from but those held out.
        start: Name of what it began with; None for ones.
        outcome: How its training ended.
        metrics: On the rows it is measured on; None if it was stopped or has diverged.
    """

    seed: int
    rows: int
    fingerprint: str
    drawn: tuple[str, ...]
    start: str | None
    outcome: Outcome
    metrics: Metrics | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        metrics = self.metrics
        interval = None if metrics is None else metrics.accuracy_interval
        return {
            "seed": self.seed,
            "rows": self.rows,
            "fingerprint": self.fingerprint,
            "drawn": list(self.drawn),
            "start": self.start,
            "steps": self.outcome.steps,
            "fault": self.outcome.fault,
            "measured_rows": 0 if metrics is None else metrics.rows,
            **{name: None if metrics is None else finite(getattr(metrics, name)) for name in MEASURES},
            "accuracy_interval": None if interval is None else list(interval),
        }


@dataclass(frozen=True)
class RepeatsResult:
    """What repeated training gives.

    Attributes:
        folder: Of the median run's adapter and the record of all.
        runs: In the order of their seeds.
        median: The run whose adapter is saved; None if it was stopped.
        settings: Of all runs, the seed being the first one's.
        seconds: Of everything.
    """

    folder: Path
    runs: tuple[RepeatedRun, ...]
    median: RepeatedRun | None
    settings: Settings
    seconds: float

    @property
    def is_stopped(self) -> bool:
        """Whether it was ended before its last step."""
        return any(run.outcome.is_stopped for run in self.runs)

    def spread(self, name: str) -> Spread | None:
        """Return the spread of a measure; None where no run has it."""
        values = [v for run in self.runs if run.metrics is not None and (v := getattr(run.metrics, name)) is not None]
        return Spread.of(values) if values else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        spreads = {name: None if (spread := self.spread(name)) is None else vars(spread) for name in MEASURES}
        return {
            "output": str(self.folder),
            "stopped": self.is_stopped,
            "spread": {name: finite(spread) for name, spread in spreads.items()},
            "saved_seed": None if self.median is None else self.median.seed,
            "runs": [run.to_json() for run in self.runs],
            "settings": self.settings.to_json(),
            "seconds": self.seconds,
        }


def train_repeats(
    source: Any,
    base: str | Path | Base,
    output: str | Path,
    *,
    repeats: int = 5,
    per_label: int | None = None,
    eval_source: Any = None,
    eval_fraction: float = HELD_OUT,
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
) -> RepeatsResult:
    """Train the same way several times and save the adapter of the median run.

    Args:
        source: As for `train_adapter`, like every argument that is not named here.
        base: The base.
        output: Folder of the median run's adapter and of the record of all runs.
        repeats: How many runs; their seeds are `seed`, `seed` + 1, ….
        per_label: Rows of each label that each run draws for itself to learn from; without it a run learns from all
            rows, but for those held out by its seed where there is no `eval_source`.
        eval_source: Table that all runs are measured on; without it each is measured on the rows that it has not drawn.
        eval_fraction: Share of the rows that is held out, without `per_label` and `eval_source`.
        dtype: Of the base.
        device: Where it runs.
        precision: `float`, or `int8` for the weights of its blocks.
        batches: `mixed`, or `apart` for the bits of training each run alone.
        start: As for `train_adapter`; every run begins with it, or chooses on the rows that it learns from.
        resume: Go on from the folder's last checkpoint.
        overwrite: Replace the run in the folder.
        say: Called with each sentence for the user.
        on_event: Called with each event of the record.
        should_stop: Asked before every round.
        now: The time written into the record.
        checkpoint_seconds: Least time between two checkpoints.
        options: What else `train_adapter` takes of the rows and their words, and settings of all runs.

    Returns:
        Every run with its metrics, and which one is saved.

    Raises:
        IA3Error: As `train_adapter`, if nothing is left to measure on, or if every run has diverged.
    """
    began, folder = now(), Path(output).expanduser()
    words, settings = split_options(options)
    _check(repeats, per_label, has_eval=eval_source is not None, fraction=eval_fraction)
    check_folder(folder, resume=resume, overwrite=overwrite)
    placement, watch = Placement(dtype, device, precision), Watch(say, on_event, should_stop, now, checkpoint_seconds)
    kind = kind_of_base(base, placement, say)

    def learned(rows: Rows) -> int:
        return rows_left(rows, eval_fraction) if per_label is None else per_label * len(rows.labels)

    words |= {"eval_source": eval_source, "start": start, "learned": learned}
    whole = read_whole(source, base, kind, settings, placement, say, **words)
    cuts = _cut(whole, repeats, per_label, eval_fraction)
    datasets = [cut.dataset for cut in cuts]
    _say(cuts, whole, say)
    names = data_name(source), None if eval_source is None else data_name(eval_source)
    tasks = tuple(
        RunTask(name, name, None, training_part(cut.dataset), cut.settings, *names, start=cut.start)
        for cut in cuts
        for name in [f"seed {cut.settings.seed}"]
    )
    if note := temperature_note(tasks):
        say(note)
    with (
        open_folder(folder, resume=resume, overwrite=overwrite),
        attached_rows(whole.base, tasks, None, say) as attachment,
    ):
        run = Run(Setup(folder, whole.base, attachment, tasks, watch, is_mixed=batches == "mixed"))
        outcomes = run.train(resume=resume)
        is_stopped = any(outcome.is_stopped for outcome in outcomes)
        if not is_stopped:
            say(f"Measuring {repeats} runs on {_measured_rows(datasets)}.")
        found = [None] * repeats if is_stopped else _measure(whole.base, tasks, datasets, outcomes)
        runs = tuple(
            _told(task, outcome, metrics, is_drawn=per_label is not None)
            for task, outcome, metrics in zip(tasks, outcomes, found, strict=True)
        )
        median = _median(runs)
        result = RepeatsResult(folder, runs, median, cuts[0].settings, (now() - began).total_seconds())
        if median is not None:
            place = runs.index(median)
            run.saved_metrics[tasks[place].adapter] = median.metrics
            task = replace(tasks[place], more={"repeats": {"runs": repeats, "spread": result.to_json()["spread"]}})
            run.write_best(task, outcomes[place], folder)
            _write(result, folder)
        elif not is_stopped:
            raise RunError(f"Repeating: no run has a number on the rows measured. {outcomes[0].fault or ''}".rstrip())
        run.close(outcomes)
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


def _cut(whole: Whole, repeats: int, per_label: int | None, fraction: float) -> list[Cut]:
    """Return the rows of each run as token ids: those it learns from, and those it is measured on."""
    table, given = whole.rows.train, whole.rows.held_out
    if per_label is not None and not whole.rows.labels:
        what, cure = "the answers are free text", "Leave --per-label out, or give --answers labels."
        if whole.is_closed:  # an answer of one row is no label of another: there is nothing to draw as many of
            what, cure = "each row brings its own choices", "Leave --per-label out."
        raise SettingsError(
            f"Planning the repeats: per_label is {per_label} and {what}, expected a closed set of labels. {cure}"
        )
    found = []
    first = whole.settings.seed
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
        found.append(whole.cut(train, measured, seed))
    return found


def _say(cuts: Sequence[Cut], whole: Whole, say: Say) -> None:
    """Say how many rows each run has, and warn if those it is measured on are few."""
    datasets = [cut.dataset for cut in cuts]
    say_cuts(whole, cuts, say)
    train = sorted({len(dataset.train) for dataset in datasets})
    spelt = str(train[0]) if len(train) == 1 else f"{train[0]} to {train[-1]}"
    say(f"{len(datasets)} runs of {spelt} rows, measured on {_measured_rows(datasets)}.")
    if whole.rows.held_out is None and whole.is_closed:
        note = describe_few_rows(min(len(dataset.held_out) for dataset in datasets), "measured on by a run")
        if note:
            say(note)


def _measured_rows(datasets: Sequence[Dataset]) -> str:
    sizes = sorted({len(dataset.held_out) for dataset in datasets})
    return f"{sizes[0] if len(sizes) == 1 else f'{sizes[0]} to {sizes[-1]}'} rows each"


def _measure(
    base: Base, tasks: Sequence[RunTask], datasets: Sequence[Dataset], outcomes: Sequence[Outcome]
) -> list[Metrics | None]:
    """Return the metrics of each run; None for one that ended no epoch, or whose numbers are none."""
    parts = {
        place: HeldOut(
            d.held_out,
            d.encoding.choice_ids,
            d.encoding.labels,
            t.adapter,
            t.ranking,
            t.usual_temperature(o.steps) or 1.0,
        )
        for place, (t, d, o) in enumerate(zip(tasks, datasets, outcomes, strict=True))
        if o.best_epoch
    }
    options: dict[str, Any] = {"pad_id": base.pad_id, "decoder_start_id": base.decoder_start_id}

    def measure(chosen: Sequence[HeldOut]) -> list[Metrics]:
        return evaluate_together(base.model, base.kind, chosen, **options)

    try:
        found: dict[int, Metrics] = dict(zip(parts, measure(list(parts.values())), strict=True))
    except MetricsError:  # one has no numbers; the others keep theirs
        found = {}
        for place, part in parts.items():
            try:
                found[place] = measure([part])[0]
            except MetricsError:
                continue
    return [found.get(place) for place in range(len(tasks))]


def _told(task: RunTask, outcome: Outcome, metrics: Metrics | None, *, is_drawn: bool) -> RepeatedRun:
    table = task.dataset.rows.train
    drawn = tuple(str(example.origin) for example in table.examples) if is_drawn else ()
    start = None if task.start is None else task.start.name
    return RepeatedRun(task.settings.seed, len(table.examples), table.fingerprint, drawn, start, outcome, metrics)


def _median(runs: Sequence[RepeatedRun]) -> RepeatedRun | None:
    """Return the run in the middle by accuracy (by loss for free text), of two the worse one; None without any."""

    def goodness(run: RepeatedRun) -> tuple[float, float]:
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
    draw_repeats([run.to_json() for run in result.runs], name, folder / REPEATS_PLOT)
