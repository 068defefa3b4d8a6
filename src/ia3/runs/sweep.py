"""A sweep: one table, and a row of the bank for every combination of settings that are compared; the best is saved.

All runs see the same rows held out, so that their losses stand beside each other. Runs that differ in their seed alone
are a group: it is told by its median and its extremes. This file brings rooms together; what a run is, `run` knows.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ia3.bases.loading import Base
from ia3.data.template_sets import TemplateLike
from ia3.errors import RunError, SettingsError, near_matches
from ia3.inference.metrics import Metrics
from ia3.inference.outputs import open_output
from ia3.report.many_plots import curve_of, draw_groups
from ia3.runs.dataset import Answers, check_answers, data_name, read_rows
from ia3.runs.folder import CURVES, RECORD, SWEEP, check_folder, open_folder
from ia3.runs.many_rows import attached_rows
from ia3.runs.run import Run
from ia3.runs.run_base import Placement, in_order_of, kind_of_base, load_for, settled
from ia3.runs.saving import RunTask
from ia3.runs.setup import Setup
from ia3.runs.training_run import check_weights
from ia3.runs.watch import Say, Watch
from ia3.runs.wording import encode_worded, read_words, settled_words
from ia3.training.loop import OF_THE_RUN
from ia3.training.recipes import HELD_OUT, find_recipe
from ia3.training.records import Event, read_events
from ia3.training.settings import Settings, settings_for
from ia3.training.tasks import Outcome

_MOST = 1000  # runs
_SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Variant:
    """One run of a sweep.

    Attributes:
        name: Of its row: the group and the seed.
        group: The settings that are compared, in words.
        changes: Settings by name.
    """

    name: str
    group: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class VariantResult:
    """How one run of a sweep ended."""

    variant: Variant
    outcome: Outcome
    accuracy: float | None  # of its best epoch on the rows held out

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.variant.name,
            "settings": dict(self.variant.changes),
            "steps": self.outcome.steps,
            "best_epoch": self.outcome.best_epoch,
            "eval_loss": self.outcome.best_loss,
            "eval_accuracy": self.accuracy,
            "fault": self.outcome.fault,
        }


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    name: str
    runs: tuple[VariantResult, ...]

    @property
    def losses(self) -> tuple[float, ...]:
        """The best losses of the runs that have one, sorted."""
        return tuple(sorted(r.outcome.best_loss for r in self.runs if math.isfinite(r.outcome.best_loss)))

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The accuracies of the same runs, sorted; empty for free text."""
        return tuple(sorted(r.accuracy for r in self.runs if r.accuracy is not None and r.outcome.best_epoch))

    @property
    def median_loss(self) -> float:
        """The median; infinite if every run diverged."""
        return statistics.median(self.losses) if self.losses else math.inf

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "median_loss": self.median_loss,
            "losses": list(self.losses),
            "accuracies": list(self.accuracies),
            "runs": [one.to_json() for one in self.runs],
        }


@dataclass(frozen=True)
class SweepResult:
    """What a sweep gives: its groups, the best first, and the run whose adapter is saved."""

    folder: Path
    groups: tuple[Group, ...]
    best: VariantResult | None  # None if no run has ended an epoch
    is_stopped: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "output": str(self.folder),
            "stopped": self.is_stopped,
            "best": None if self.best is None else self.best.to_json(),
            "groups": [group.to_json() for group in self.groups],
            "seconds": self.seconds,
        }


def make_variants(vary: Mapping[str, Sequence[Any]], seeds: Sequence[int]) -> list[Variant]:
    """Return a run for every combination of values and every seed.

    Args:
        vary: The values of each setting that is compared.
        seeds: The seeds of each combination.

    Raises:
        SettingsError: For settings that are unknown or the whole run's, values that are out of range or there twice;
            all of them at once.

    Example:
        >>> [variant.name for variant in make_variants({"learning_rate": [0.01, 0.02]}, [0])]
        ['learning_rate 0.01, seed 0', 'learning_rate 0.02, seed 0']
    """
    known, faults = [one.name for one in fields(Settings)], []
    for name, values in {**vary, "seed": seeds}.items():
        if name not in known:
            faults.append(f"there is no setting {name!r}.{near_matches(name, known)}".removesuffix("."))
        elif name in OF_THE_RUN or (name == "seed" and "seed" in vary):
            rule = "is given by the seeds" if name == "seed" else "is the same for all rows of a run"
            faults.append(f"{name} {rule} and cannot be compared")
        elif not values:
            faults.append(f"{name} has no values, expected at least one")
        else:
            faults += [
                f"{name} has the value {value} twice" for value in dict.fromkeys(values) if values.count(value) > 1
            ]
            faults += [fault for value in dict.fromkeys(values) if (fault := _value_fault(name, value))]
    count = math.prod(map(len, (*vary.values(), seeds)))
    if count > _MOST:
        faults.append(f"there are {count} runs, expected at most {_MOST}")
    if faults:
        raise SettingsError(f"Planning the sweep: {'; '.join(faults)}.")
    variants = []
    for values in itertools.product(*vary.values()):
        chosen = dict(zip(vary, values, strict=True))
        group = ", ".join(f"{name} {_spell(value)}" for name, value in chosen.items()) or "the defaults"
        variants += [Variant(f"{group}, seed {seed}", group, {**chosen, "seed": seed}) for seed in seeds]
    return variants


def _value_fault(name: str, value: Any) -> str:
    try:
        Settings(**{name: value})
    except SettingsError as error:
        return str(error).removeprefix("Checking the settings: ").removesuffix(".")
    return ""


def _spell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def sweep(
    source: Any,
    base: str | Path | Base,
    output: str | Path,
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    seeds: Sequence[int] = _SEEDS,
    eval_source: Any = None,
    eval_fraction: float = HELD_OUT,
    text: str | None = None,
    label: str | None = None,
    choices: str | None = None,
    template: TemplateLike | Sequence[TemplateLike] | None = None,
    answers: Answers = "auto",
    max_length: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    precision: str = "float",
    skip_bad_rows: bool = False,
    drop_duplicates: bool = False,
    delimiter: str | None = None,
    quotes: bool | None = None,
    batches: str = "mixed",
    resume: bool = False,
    overwrite: bool = False,
    say: Say = lambda sentence: None,
    on_event: Callable[[Event], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    checkpoint_seconds: float = 10.0,
    **settings: Any,
) -> SweepResult:
    """Train a row for every combination of settings on one table, and save the one with the lowest eval loss.

    Args:
        source: As for `train_adapter`, like every argument that is not named here.
        base: The base.
        output: Folder of the best adapter and of the record.
        vary: The values of each setting that is compared, such as `{"learning_rate": [4e-3, 8e-3]}`.
        seeds: Of each combination: order, a fresh head and dropout; the rows held out are the same for all.
        eval_source: Table to evaluate on.
        eval_fraction: Share of the rows held out, in (0, 1), without `eval_source`.
        text: Name of the text column.
        label: Name of the label column.
        choices: Name of the column with each row's own choices.
        template: Prompt and target, one or several; `auto` searches one for all runs.
        answers: Whether the labels are a closed set or free text.
        max_length: Most tokens of an example.
        dtype: Of the base.
        device: Where it runs.
        precision: `float`, or `int8` for the weights of its blocks.
        skip_bad_rows: Leave bad rows out.
        drop_duplicates: Leave eval rows out whose text is trained on.
        delimiter: What stands between the values of CSV and TSV files; by default that of their suffix.
        quotes: Whether `"` stands around values there; False takes quotes as characters and every line as a row.
        batches: `mixed`, or `apart` for one run each.
        resume: Go on from the folder's last checkpoint.
        overwrite: Replace the run in the folder.
        say: Called with each sentence for the user.
        on_event: Called with each event of the record.
        should_stop: Asked before every round.
        now: The time written into the record.
        checkpoint_seconds: Least time between two checkpoints.
        settings: Settings that all runs have.

    Returns:
        The groups, the one with the lowest median loss first, and the run that is saved.

    Raises:
        IA3Error: As `train_adapter`, for settings that cannot be compared, and if nothing is held out.
    """
    began, folder = now(), Path(output).expanduser()
    variants = make_variants(vary or {}, seeds)
    if eval_source is None and eval_fraction == 0:
        raise SettingsError("Planning the sweep: nothing is held out to compare on. Give --eval-fraction or --eval.")
    check_folder(folder, resume=resume, overwrite=overwrite)
    words = read_words(template)
    placement, watch = Placement(dtype, device, precision), Watch(say, on_event, should_stop, now, checkpoint_seconds)
    kind = kind_of_base(base, placement, say)
    each = [settings_for(kind, **{**settings, **variant.changes}) for variant in variants]
    rows = read_rows(
        source,
        eval_source=eval_source,
        eval_fraction=eval_fraction,
        text=text,
        label=label,
        choices=choices,
        answers=answers,
        kind=kind,
        skip_bad_rows=skip_bad_rows,
        drop_duplicates=drop_duplicates,
        delimiter=delimiter,
        quotes=quotes,
    )
    check_answers(rows, kind)
    for own in each:
        check_weights(rows, own)
    loaded = load_for(base, kind, [rows], placement, each, say)
    each = [settled(own, loaded) for own in each]
    rows = in_order_of(loaded, rows)
    if all(find_recipe(own.recipe).searches_template for own in each):
        words = settled_words(words, None, rows, loaded, each[0], say)
    dataset = encode_worded(rows, loaded, each[0], words, max_length, say)
    say(f"{len(variants)} runs of {len(dataset.train)} rows.")
    for sentence in (*rows.notes, *dataset.notes):
        say(sentence)
    names = data_name(source), None if eval_source is None else data_name(eval_source)
    tasks = tuple(RunTask(v.name, v.name, None, dataset, own, *names) for v, own in zip(variants, each, strict=True))
    with open_folder(folder, resume=resume, overwrite=overwrite), attached_rows(loaded, tasks, None, say) as attachment:
        run = Run(Setup(folder, loaded, attachment, tasks, watch, is_mixed=batches == "mixed"))
        outcomes = run.train(resume=resume)
        metrics = run.finish(outcomes)
        results = [
            VariantResult(v, _measured(o, m), None if m is None else m.accuracy)
            for v, o, m in zip(variants, outcomes, metrics, strict=True)
        ]
        best = _best(results)
        if best is not None:
            run.write_best(tasks[results.index(best)], best.outcome, folder)
        groups = _groups(results)
        if best is None and not any(outcome.is_stopped for outcome in outcomes):
            raise RunError(f"Sweeping: no run has a loss on the rows held out. {outcomes[0].fault or ''}".rstrip())
        _report(folder, groups)
        run.close(outcomes)
    is_stopped = any(outcome.is_stopped for outcome in outcomes)
    return SweepResult(folder, groups, best, is_stopped, (now() - began).total_seconds())


def _measured(outcome: Outcome, metrics: Metrics | None) -> Outcome:
    """Return how a run ended, with the loss that was measured behind it where it was stopped before its only look."""
    if metrics is None or metrics.loss is None or math.isfinite(outcome.best_loss):
        return outcome
    return replace(outcome, best_loss=metrics.loss)


def _best(results: Sequence[VariantResult]) -> VariantResult | None:
    """Return the run with the lowest eval loss, the first of equals."""
    ended = [one for one in results if one.outcome.best_epoch and math.isfinite(one.outcome.best_loss)]
    return min(ended, key=lambda one: one.outcome.best_loss, default=None)


def _groups(results: Sequence[VariantResult]) -> tuple[Group, ...]:
    """Return the groups, the lowest median first; one that diverged is the last."""
    names = dict.fromkeys(one.variant.group for one in results)
    groups = [Group(name, tuple(one for one in results if one.variant.group == name)) for name in names]
    return tuple(sorted(groups, key=lambda group: group.median_loss))


def _report(folder: Path, groups: Sequence[Group]) -> None:
    """Draw the curves and write the table of all runs."""
    events = read_events(folder / RECORD)
    curves = {g.name: [c for one in g.runs if (c := curve_of(events, one.variant.name))] for g in groups}
    draw_groups({name: found for name, found in curves.items() if found}, folder / CURVES, "Loss on the rows held out")
    names = list(groups[0].runs[0].variant.changes)
    measured = ("steps", "best_epoch", "eval_loss", "eval_accuracy", "fault")
    with open_output(folder / SWEEP, [*names, *measured], overwrite=True) as write:
        for group in groups:
            for one in group.runs:
                told = one.to_json()
                row = {name: _spell(one.variant.changes[name]) for name in names}
                write([row | {key: "" if told[key] is None else _spell(told[key]) for key in measured}])
