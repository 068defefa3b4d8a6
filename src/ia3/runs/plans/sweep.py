"""A sweep: one table, and a row of the bank for every combination of settings that are compared; the best is saved.

All runs see the same rows held out, so that their losses stand beside each other. Runs that differ in their seed alone
are a group: it is told by its median and its extremes. This file brings rooms together; what a run is, `run` knows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from ia3.bases.loading import Base
from ia3.data.templates import default_template
from ia3.errors import RunError, SettingsError
from ia3.inference.metrics import Metrics
from ia3.inference.outputs import open_output
from ia3.names import Kind
from ia3.report.many_plots import curve_of, draw_groups
from ia3.runs.dataset import hold_out
from ia3.runs.drafts import Draft, rows_left
from ia3.runs.folder import CURVES, RUN_LOG, SWEEP, check_folder
from ia3.runs.prepare import check_weights, make_tasks, read_drafts
from ia3.runs.request import RunOptions, request_of
from ia3.runs.results import Group, SweepResult, TaskResult
from ia3.runs.run_base import kind_of_base
from ia3.runs.training_run import check_batches, trained
from ia3.starts.packaged import NONE
from ia3.training.recipes import HELD_OUT
from ia3.training.records import read_events
from ia3.training.settings import OF_THE_RUN, SETTINGS, setting_fault, settings_for
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
    faults = []
    for name, values in {**vary, "seed": seeds}.items():
        if name not in SETTINGS:
            faults.append(setting_fault(name, None))
        elif name in OF_THE_RUN or (name == "seed" and "seed" in vary):
            rule = "is given by the seeds" if name == "seed" else "is the same for all rows of a run"
            faults.append(f"{name} {rule} and cannot be compared")
        elif not values:
            faults.append(f"{name} has no values, expected at least one")
        else:
            faults += [
                f"{name} has the value {value} twice" for value in dict.fromkeys(values) if values.count(value) > 1
            ]
            faults += [fault for value in dict.fromkeys(values) if (fault := setting_fault(name, value))]
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


def _spell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def sweep(
    source: Any,
    base: str | Path | Base,
    output: str | Path,
    *,
    vary: Mapping[str, Sequence[Any]] | None = None,
    seeds: Sequence[int] = _SEEDS,
    batches: str = "mixed",
    **options: Unpack[RunOptions],
) -> SweepResult:
    """Train a row for every combination of settings on one table, and save the one with the lowest eval loss.

    Args:
        source: As for `train_adapter`.
        base: The base.
        output: Folder of the best adapter and of the record.
        vary: The values of each setting that is compared, such as `{"learning_rate": [4e-3, 8e-3]}`.
        seeds: Of each combination: order, a fresh head and dropout; the rows held out are the same for all.
        batches: `mixed`, or `apart` for one run each.
        options: See `RunOptions`, and settings that all runs have. `eval_fraction` is above 0 without `eval_source`.

    Returns:
        The groups, the one with the lowest median loss first, and the run that is saved.

    Raises:
        IA3Error: As `train_adapter`, for settings that cannot be compared, and if nothing is held out.
    """
    request = request_of(base, output, options)
    began, folder = request.watch.now(), request.output
    variants = make_variants(vary or {}, seeds)
    fraction = HELD_OUT if request.eval_fraction is None else request.eval_fraction
    if request.eval_source is None and fraction == 0:
        raise SettingsError("Planning the sweep: nothing is held out to compare on. Give --eval-fraction or --eval.")
    check_batches(batches)
    check_folder(folder, resume=request.resume, overwrite=request.overwrite)
    kind = kind_of_base(request.base, request.placement, request.say)
    for variant in variants:
        settings_for(kind, **{**request.settings, **variant.changes})
    first = replace(request, settings={**request.settings, **variants[0].changes})  # all vary in the same settings
    kind, (asked,) = read_drafts(first, [request.spec(source)], learned=lambda draft: rows_left(draft.rows, fraction))
    whole = asked.part(hold_out(asked.rows, fraction, 0))
    drafts = _alike([whole.part(whole.rows, variant.name, **variant.changes) for variant in variants], kind)
    for draft in drafts:
        check_weights(draft.rows, draft.settings(kind))
    loaded, tasks = make_tasks(request, kind, drafts, whole=whole)
    request.say(f"{len(variants)} runs of {len(tasks[0].dataset.train)} rows.")
    for sentence in (*whole.rows.notes, *tasks[0].heard, *tasks[0].dataset.notes):
        request.say(sentence)
    with trained(request, loaded, tasks, batches=batches) as (run, outcomes):
        results = [
            TaskResult.of(task, _measured(outcome, metrics), metrics)
            for task, outcome, metrics in zip(tasks, outcomes, run.finish(outcomes), strict=True)
        ]
        best = _best(results)
        if best is not None:
            run.write_best(tasks[results.index(best)], best.outcome, folder)
        groups = _groups(variants, results)
        if best is None and not any(outcome.is_stopped for outcome in outcomes):
            raise RunError(f"Sweeping: no run has a loss on the rows held out. {outcomes[0].fault or ''}".rstrip())
        _report(folder, groups)
    return SweepResult(folder, tuple(results), (request.watch.now() - began).total_seconds(), groups, best)


def _alike(drafts: Sequence[Draft], kind: Kind) -> list[Draft]:
    """Return runs that are compared in the same words and from the same start: no recipe chooses for itself alone."""
    words, start = drafts[0].spec.template, drafts[0].spec.start
    if not all(draft.recipe.searches_template for draft in drafts):
        words = words or (default_template(kind, drafts[0].rows.train.label_column),)
    if not all(draft.recipe.chooses_start for draft in drafts):
        start = start or NONE
    return [replace(draft, spec=replace(draft.spec, template=words, start=start)) for draft in drafts]


def _measured(outcome: Outcome, metrics: Metrics | None) -> Outcome:
    """Return how a run ended, with the loss that was measured behind it where it was stopped before its only look."""
    if metrics is None or metrics.loss is None or math.isfinite(outcome.best_loss):
        return outcome
    return replace(outcome, best_loss=metrics.loss)


def _best(results: Sequence[TaskResult]) -> TaskResult | None:
    """Return the run with the lowest eval loss, the first of equals."""
    ended = [one for one in results if one.outcome.best_epoch and math.isfinite(one.outcome.best_loss)]
    return min(ended, key=lambda one: one.outcome.best_loss, default=None)


def _groups(variants: Sequence[Variant], results: Sequence[TaskResult]) -> tuple[Group, ...]:
    """Return the groups, the lowest median first; one that diverged is the last."""
    runs: dict[str, list[TaskResult]] = {}
    changes: dict[str, Mapping[str, Any]] = {}
    for variant, result in zip(variants, results, strict=True):
        runs.setdefault(variant.group, []).append(result)
        changes[variant.group] = {name: value for name, value in variant.changes.items() if name != "seed"}
    groups = [Group(name, changes[name], tuple(of_group)) for name, of_group in runs.items()]
    return tuple(sorted(groups, key=lambda group: group.median_loss))


def _report(folder: Path, groups: Sequence[Group]) -> None:
    """Draw the curves and write the table of all runs."""
    events = read_events(folder / RUN_LOG)
    curves = {g.name: [c for one in g.runs if (c := curve_of(events, one.name))] for g in groups}
    draw_groups({name: found for name, found in curves.items() if found}, folder / CURVES, "Loss on the rows held out")
    names = [*groups[0].changes, "seed"]
    measured = ("steps", "best_epoch", "eval_loss", "eval_accuracy", "fault")
    with open_output(folder / SWEEP, [*names, *measured], overwrite=True) as write:
        for group in groups:
            for one in group.runs:
                told = group.run_to_json(one)
                row = {name: _spell(told["settings"][name]) for name in names}
                write([row | {key: "" if told[key] is None else _spell(told[key]) for key in measured}])
