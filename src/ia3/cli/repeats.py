"""Several runs in one `ia3 train` to know how good one is: repeats and folds, their options and what is printed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ia3
from ia3.cli.parsing import UsageError, whole_number
from ia3.cli.train_options import training_arguments
from ia3.cli.training import steps_line, use_line
from ia3.spelling import align_columns, percent

if TYPE_CHECKING:
    from ia3.runs.results import OneResult, RepeatsResult, TaskResult


def add_repeats(parser: argparse.ArgumentParser) -> None:
    """Add the options for several runs."""
    group = parser.add_argument_group("several runs, to know what one is worth")
    group.add_argument(
        "--repeat",
        type=whole_number,
        metavar="K",
        help="Train K times with rows and seeds of their own, tell median and quartiles, save the median run.",
    )
    group.add_argument(
        "--per-label",
        type=whole_number,
        metavar="N",
        help="With --repeat: rows of each label that a run draws to learn from; the others, or --eval, measure it.",
    )
    group.add_argument(
        "--folds",
        type=whole_number,
        metavar="K",
        help="Measure every row with an adapter that has learned from the other folds, save one of all rows.",
    )


def check_repeats(options: argparse.Namespace, *, is_several: bool) -> None:
    """Raise for options that contradict each other."""
    if options.per_label is not None and options.repeat is None:
        raise UsageError("train: --per-label is for --repeat. Give --repeat 1 for one draw, or leave it out.")
    given = "--repeat" if options.repeat is not None else "--folds" if options.folds is not None else ""
    if given and is_several:
        raise UsageError(f"train: {given} is for one table, got several tasks too. Leave one of them out.")
    if options.repeat is not None and options.folds is not None:
        raise UsageError("train: got --repeat and --folds, which measure in two ways. Leave one of them out.")
    if options.folds is not None and options.eval_source is not None:
        raise UsageError("train: --folds measures on the table's own rows, got --eval too. Leave one of them out.")


def train_repeats(options: argparse.Namespace, talk: Mapping[str, Any]) -> RepeatsResult:
    """Train the runs of `--repeat`."""
    given = {"repeats": options.repeat, "per_label": options.per_label, **talk, **training_arguments(options)}
    return ia3.train_repeats(options.table, options.base, options.output, **given)


def train_folds(options: argparse.Namespace, talk: Mapping[str, Any]) -> OneResult:
    """Train the runs of `--folds`."""
    given = {"folds": options.folds, **talk, **training_arguments(options), "eval_fraction": None}
    return ia3.train_folds(options.table, options.base, options.output, **given)


def repeat_lines(result: RepeatsResult, options: argparse.Namespace) -> list[str]:
    """Return what repeats gave, for people."""
    if result.is_stopped:
        return []
    folder = options.output
    is_closed = result.spread("accuracy") is not None
    heading = ("", *(("accuracy", "95 % interval", "macro F1") if is_closed else ()), "loss", "calibration", "rows")
    heading = heading if is_closed else ("", "loss", "rows")
    rows = [heading, *(_row(run, is_closed=is_closed) for run in result.runs)]
    name = "accuracy" if is_closed else "loss"
    spread = result.spread(name)
    assert spread is not None
    spell = percent if is_closed else (lambda value: f"{value:.4g}")
    lines = [*align_columns(rows, right=range(1, len(heading))), ""]
    lines.append(
        f"median {name} {spell(spread.median)}, quartiles {spell(spread.lower)} and {spell(spread.upper)}, "
        f"from {spell(spread.lowest)} to {spell(spread.highest)}"
    )
    diverged = [run.seed for run in result.runs if run.metrics is None]
    if diverged:
        lines.append(f"without numbers: seed {', '.join(map(str, diverged))}; {Path(folder) / 'repeats.json'} says why")
    lines.append(steps_line(result, f"{folder} holds the record of all runs"))
    if result.median is not None:
        lines.append(f"and the adapter of the median run, seed {result.median.seed}")
    return [*lines, use_line(folder)]


def fold_lines(result: OneResult, options: argparse.Namespace) -> list[str]:
    """Return what folds gave, for people."""
    if result.is_stopped:
        return []
    assert result.metrics is not None and result.folds is not None
    lines = [f"each row measured by an adapter that has not learned from it ({len(result.folds)} folds):"]
    lines += result.metrics.lines()
    if result.metrics.accuracy is not None:
        shares = ["diverged" if one is None else percent(one.accuracy or 0) for one in result.folds]
        lines += ["", f"accuracy of each fold: {', '.join(shares)}"]
    return [*lines, steps_line(result, f"{options.output} holds the adapter of all rows"), use_line(options.output)]


def _row(run: TaskResult, *, is_closed: bool) -> tuple[str, ...]:
    metrics = run.metrics
    if metrics is None:
        return (f"seed {run.seed}", "diverged", *([""] * (5 if is_closed else 1)))
    loss = "" if metrics.loss is None else f"{metrics.loss:.3f}"
    if not is_closed or metrics.accuracy is None or metrics.accuracy_interval is None:
        return f"seed {run.seed}", loss, str(metrics.rows)
    low, high = (100 * bound for bound in metrics.accuracy_interval)
    f1 = "" if metrics.macro_f1 is None else f"{metrics.macro_f1:.3f}"  # none where rows have their own choices
    shares = (percent(metrics.accuracy), f"{low:.1f} to {high:.1f} %", f1)
    return f"seed {run.seed}", *shares, loss, f"{metrics.calibration_error:.3f}", str(metrics.rows)
