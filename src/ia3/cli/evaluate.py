"""`ia3 evaluate`: how good an adapter is on a table with labels, several on their own rows, or a base alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ia3.cli.options import add, add_adapter, add_columns, add_json, load_options, table_as_read
from ia3.cli.output import print_result, say
from ia3.cli.parsing import UsageError, Verb
from ia3.cli.progress import CountedProgress
from ia3.names import RANKINGS
from ia3.spelling import align_columns, percent

if TYPE_CHECKING:
    from ia3.data.examples import Table
    from ia3.inference.by_adapter import MetricsByAdapter
    from ia3.inference.metrics import Metrics

_SHOWN_FAULTS = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add(parser, "table")
    add_adapter(parser, required=False)
    group = parser.add_argument_group("without an adapter")
    group.add_argument(
        "--calibrate",
        action="store_true",
        help="Divide the base's probabilities by those it gives without a text (with --base and no --adapter).",
    )
    group.add_argument(
        "--ranking",
        choices=RANKINGS,
        help="Compare the labels by the sum of their tokens' log-probabilities, or by the mean (default: sum; an "
        "adapter records its own).",
    )
    data = parser.add_argument_group("data")
    add_columns(data, "the one it was trained with")
    add(data, "--choices", "--ensemble", "--adapter-column")
    parser.add_argument_group("picture").add_argument(
        "--reliability",
        metavar="FILE",
        help="Draw how often predictions of each probability are right; a .png file, which is replaced.",
    )
    add_json(parser, "the metrics")


def run(options: argparse.Namespace) -> int:
    """Evaluate an adapter, several, or a base alone, on a table."""
    _check_options(options)
    _check_picture(options.reliability)  # before the base is loaded
    options.table = table_as_read(options)
    if options.adapter_column is not None:
        several = _evaluate_by_adapter(options)
        metrics, numbers, lines = several.overall, several.to_json(), _lines_by_adapter(several)
    else:
        metrics = _evaluate(options)
        numbers, lines = metrics.to_json(), metrics.lines()
    if options.reliability:
        _draw_reliability(metrics, options.reliability)
    print_result(options, {"table": str(options.table), **_measured(options), **numbers}, lines)
    return 0


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the metrics are of, for JSON."""
    if not options.adapter:
        ranking = options.ranking or "sum"
        return {"adapter": None, "base": options.base, "calibrated": options.calibrate, "ranking": ranking}
    given = {"adapter_column": options.adapter_column, "strength": options.strength}
    return {"adapter": options.adapter, **{name: value for name, value in given.items() if value is not None}}


def _check_options(options: argparse.Namespace) -> None:
    """Raise if options are given that do not go together."""
    if options.adapter:
        extra = [name for name, given in (("--calibrate", options.calibrate), ("--ranking", options.ranking)) if given]
        if extra:
            raise UsageError(
                f"evaluate: {extra[0]} is for a base without an adapter, got --adapter too. Leave one out."
            )
        if options.adapter_column is not None and options.choices is not None:
            raise UsageError(
                f"evaluate: --choices got {options.choices!r} beside --adapter-column, where each adapter's record "
                "names its own. Leave it out."
            )
        return
    if not options.base:
        raise UsageError("evaluate: got neither --adapter nor --base, expected one. See 'ia3 evaluate --help'.")
    needing = {
        "--adapter-column is for a packed store, or a folder of adapters": options.adapter_column is not None,
        "--ensemble is for an adapter with several templates": options.ensemble,
        "--strength is for an adapter": options.strength is not None,
    }
    wrong = [told for told, is_given in needing.items() if is_given]
    if wrong:
        raise UsageError(f"evaluate: {wrong[0]}. Give --adapter, or leave it out.")


def _check_picture(path: str | None) -> None:
    """Raise if a picture cannot be written there."""
    if path is None:
        return
    if Path(path).suffix.lower() != ".png":
        raise UsageError(f"evaluate: --reliability got {path!r}, expected a name that ends in .png. Give another.")
    if Path(path).is_dir() or not Path(path).absolute().parent.is_dir():
        wrong = "is a folder" if Path(path).is_dir() else "lies in a folder that does not exist"
        raise UsageError(f"evaluate: --reliability got {path!r}, which {wrong}. Give a file in a folder that exists.")


def _draw_reliability(metrics: Metrics, path: str) -> None:
    if not metrics.calibration_bins:
        say("Free text has no probabilities of labels; the reliability is not drawn.")
        return
    from ia3.report.reliability_plot import draw_reliability

    draw_reliability(metrics.calibration_bins, path, metrics.unscaled_bins)


def _evaluate(options: argparse.Namespace) -> Metrics:
    """Return the metrics of an adapter, or of a base alone."""
    from ia3.data.tables import read_table
    from ia3.inference.loading import load_predictor
    from ia3.inference.zero_shot import load_zero_shot

    columns = {name: getattr(options, name) for name in ("text", "label", "choices", "skip_bad_rows")}
    loaded = load_options(options)
    if options.adapter:
        strength = 1.0 if options.strength is None else options.strength
        predictor = load_predictor(options.adapter, strength=strength, ensemble=options.ensemble, say=say, **loaded)
        table = predictor.read_table(options.table, **columns)
        _tell_notes(table)
    else:
        table = read_table(options.table, known_labels=options.labels or None, **columns)
        _tell_notes(table)
        base = loaded.pop("base")
        predictor = load_zero_shot(base, table, ranking=options.ranking or "sum", say=say, **loaded)
    with CountedProgress("rows") as progress:
        return predictor.evaluate(table, is_calibrated=options.calibrate, on_progress=progress.show)


def _evaluate_by_adapter(options: argparse.Namespace) -> MetricsByAdapter:
    from ia3.inference.adapter_column import load_for_names, read_adapter_names, read_answered_rows
    from ia3.inference.by_adapter import evaluate_by_adapter, predictors_beside

    columns = {"text": options.text, "label": options.label}
    names = read_adapter_names(options.table, options.adapter_column, **columns)
    predictor = load_for_names(options.adapter, names, say=say, ensemble=options.ensemble, **load_options(options))
    own = predictors_beside(predictor, list(names), options.strength)
    rows, table = read_answered_rows(
        options.table, options.adapter_column, own, **columns, skip_bad_rows=options.skip_bad_rows
    )
    _tell_notes(table)
    with CountedProgress("rows") as progress:
        return evaluate_by_adapter(own, rows, progress.show)


def _lines_by_adapter(several: MetricsByAdapter) -> list[str]:
    """Return a row for each adapter, then the metrics over all rows as those of one adapter are told."""
    from ia3.spelling import printable

    lines: list[tuple[str, ...]] = [("adapter", "rows", "accuracy", "95 % interval", "macro F1", "loss")]
    lines += [(printable(name), *_numbers(metrics)) for name, metrics in several.adapters.items()]
    return [*align_columns(lines, right=range(1, 6)), "", "all adapters together", *several.overall.lines()]


def _numbers(metrics: Metrics) -> tuple[str, ...]:
    """Return the cells of one adapter: rows, accuracy, its interval, macro F1, loss."""
    share, interval, f1 = "", "", ""
    if metrics.accuracy is not None and metrics.accuracy_interval is not None:
        low, high = metrics.accuracy_interval
        share, interval = percent(metrics.accuracy), f"{percent(low)} to {percent(high)}"
    if metrics.macro_f1 is not None:
        f1 = f"{metrics.macro_f1:.3f}"
    return f"{metrics.rows:,}", share, interval, f1, "" if metrics.loss is None else f"{metrics.loss:.4g}"


def _tell_notes(table: Table) -> None:
    """Say what was chosen and left out while a table was read."""
    for note in table.notes:
        say(note)
    say_skipped([str(fault) for fault in table.faults])


def say_skipped(faults: list[str], count: int | None = None) -> None:
    """Say which rows were left out: the first of them, and how many faults there are."""
    total = len(faults) if count is None else count
    for fault in faults[:_SHOWN_FAULTS]:
        say(f"left out: {fault}")
    if total > _SHOWN_FAULTS:
        say(f"left out: … and {total - _SHOWN_FAULTS} more")


VERB = Verb(
    name="evaluate",
    summary="Measure an adapter, or a base alone, on a table with labels.",
    usage="TABLE (--adapter DIR | --base BASE) [OPTIONS]",
    examples=(
        "ia3 evaluate held_out.csv --adapter runs/news",
        "ia3 evaluate mail.jsonl --adapter runs/mail --text body --label team --json",
        "ia3 evaluate held_out.csv --adapter from_peft --base path/to/base --labels negative neutral positive",
        "ia3 evaluate held_out.csv --adapter runs/news --strength 0.5",
        "ia3 evaluate all.csv --adapter customers.ia3 --adapter-column customer",
        "ia3 evaluate held_out.csv --base gemma-3-270m --calibrate",
        "ia3 evaluate held_out.csv --adapter runs/news --reliability reliability.png",
    ),
    configure=configure,
    run=run,
)
