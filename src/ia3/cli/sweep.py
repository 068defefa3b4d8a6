"""`ia3 sweep`: one table, many settings at once, each a row of one bank; a table, a picture, and the best one saved."""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ia3
from ia3.cli.options import add, add_json
from ia3.cli.parsing import UsageError, Verb, numbers, whole_numbers
from ia3.cli.train_options import add_data, add_places, add_training, training_arguments
from ia3.cli.training import carry_out, steps_line, use_line
from ia3.names import BATCHES
from ia3.spelling import align_columns, percent

if TYPE_CHECKING:
    from ia3.runs.results import Group, SweepResult


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add(parser, "table")
    group = parser.add_argument_group("what is compared")
    group.add_argument(
        "--learning-rates",
        metavar="X,X,…",
        type=numbers,
        help="Highest rates of the vectors (default: one, the usual).",
    )
    group.add_argument(
        "--seeds",
        metavar="N,N,…",
        type=whole_numbers,
        default="0,1,2",
        help="Seeds of each combination; the rows held out are the same for all (default: %(default)s).",
    )
    group.add_argument(
        "--vary",
        metavar="NAME=V,V,…",
        action="append",
        default=[],
        help="Values of another setting, such as batch_size=8,16; may be given again. All combinations are run.",
    )
    group.add_argument(
        "--batches",
        choices=BATCHES,
        default="mixed",
        help="Whether runs meet in a batch (default: %(default)s).",
    )
    add_places(parser, "Folder that the best adapter and the record of all go to")
    add_data(parser)
    add_training(parser, without=("learning_rate", "seed"))
    add_json(parser, "what the sweep gave")


def run(options: argparse.Namespace) -> int:
    """Run a sweep."""
    options.vary = _vary(options)
    return carry_out(options, _train, _lines)


def _train(options: argparse.Namespace, talk: Mapping[str, Any]) -> SweepResult:
    own = {name: getattr(options, name) for name in ("vary", "seeds", "batches")}
    return ia3.sweep(options.table, options.base, options.output, **own, **talk, **training_arguments(options))


def _vary(options: argparse.Namespace) -> dict[str, Sequence[Any]]:
    """Return the values of each setting that is compared."""
    vary: dict[str, Sequence[Any]] = {}
    if options.learning_rates is not None:
        vary["learning_rate"] = options.learning_rates
    for given in options.vary:
        name, mark, values = given.partition("=")
        name = name.strip().replace("-", "_")
        if not mark or not values.strip():
            raise UsageError(f"sweep: --vary got {given!r}, expected NAME=VALUE,VALUE. See 'ia3 sweep --help'.")
        if name in vary:
            raise UsageError(f"sweep: the values of {name!r} are given twice. Give them once.")
        vary[name] = [_value(part.strip()) for part in values.split(",")]
    return vary


def _value(text: str) -> Any:
    """Return the number, the yes or no, or the word that a value spells."""
    for read in (int, float):
        try:
            value = read(text)
        except ValueError:
            continue
        return value
    return {"true": True, "on": True, "false": False, "off": False}.get(text.lower(), text)


def _lines(result: SweepResult, options: argparse.Namespace) -> list[str]:
    has_accuracy = any(group.accuracies for group in result.groups)
    heading = ("settings", "loss", "from", "to", *(("accuracy", "from", "to") if has_accuracy else ()), "runs")
    rows = [heading, *(_row(group, has_accuracy=has_accuracy) for group in result.groups)]
    lines = ["medians over the seeds, on the rows held out; the lowest loss first", ""]
    lines += [*align_columns(rows, right=range(1, len(heading))), ""]
    diverged = sum(one.outcome.fault is not None for one in result.tasks)
    if diverged:
        table = Path(options.output) / "sweep.csv"
        lines.append(f"{diverged} of {len(result.tasks)} runs diverged; {table} says which")
    lines.append(steps_line(result))
    if (best := result.best) is not None:
        which = f"{best.name}, epoch {best.outcome.best_epoch}, loss {best.outcome.best_loss:.4f}"
        lines += [f"the best ({which}) lies in {options.output}", use_line(options.output)]
    return lines


def _row(group: Group, *, has_accuracy: bool) -> tuple[str, ...]:
    accuracies = tuple(map(percent, _spread(group.accuracies))) if has_accuracy else ()
    losses = tuple(f"{value:.4f}" if math.isfinite(value) else "diverged" for value in _spread(group.losses))
    return group.name, *losses, *accuracies, str(len(group.runs))


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return median, lowest and highest; NaN without any."""
    return (statistics.median(values), min(values), max(values)) if values else (math.nan,) * 3


VERB = Verb(
    name="sweep",
    summary="Compare settings on one table, all in one run, and save the best.",
    usage="TABLE --base BASE --output DIR [OPTIONS]",
    examples=(
        "ia3 sweep reviews.csv --base minilm --learning-rates 4e-3,8e-3,2e-2 --seeds 0,1,2 --output runs/sweep",
        "ia3 sweep news.csv --base gemma-3-270m --vary batch_size=4,16 --seeds 0,1 --output runs/sizes --epochs 2",
    ),
    configure=configure,
    run=run,
)
