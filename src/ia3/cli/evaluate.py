"""`ia3 evaluate`: how good an adapter is on a table with labels, or a base alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ia3.cli.options import add_adapter, add_choices, add_columns, add_ensemble, add_json, load_options
from ia3.cli.output import print_json, print_lines, say
from ia3.cli.parsing import UsageError, Verb
from ia3.cli.progress import CountedProgress

if TYPE_CHECKING:
    from ia3.data.examples import Table
    from ia3.inference.metrics import Metrics

_SHOWN_FAULTS = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "table", metavar="TABLE", help="CSV, TSV, JSONL, JSON or Parquet file, a folder of them, or a hub data set."
    )
    add_adapter(parser, words=True, required=False)
    group = parser.add_argument_group("without an adapter")
    group.add_argument(
        "--calibrate",
        action="store_true",
        help="Divide the base's probabilities by those it gives without a text (with --base and no --adapter).",
    )
    group.add_argument(
        "--ranking",
        choices=("sum", "mean"),
        help="Compare the labels by the sum of their tokens' log-probabilities, or by the mean (default: sum; an "
        "adapter records its own).",
    )
    data = parser.add_argument_group("data")
    add_columns(data, recorded=True)
    add_choices(data)
    add_ensemble(data)
    parser.add_argument_group("picture").add_argument(
        "--reliability",
        metavar="FILE",
        help="Draw how often predictions of each probability are right; a .png file, which is replaced.",
    )
    add_json(parser, "the metrics")


def run(options: argparse.Namespace) -> int:
    """Evaluate an adapter, or a base alone, on a table."""
    _check_picture(options.reliability)  # before the base is loaded
    metrics = _evaluate_adapter(options) if options.adapter else _evaluate_base(options)
    if options.reliability:
        _draw_reliability(metrics, options.reliability)
    if options.json:
        measured = {"adapter": options.adapter} if options.adapter else {"adapter": None, "base": options.base}
        calibrated = {} if options.adapter else {"calibrated": options.calibrate, "ranking": options.ranking or "sum"}
        print_json({"table": options.table, **measured, **calibrated, **metrics.to_json()})
    else:
        print_lines(metrics.lines())
    return 0


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
    if not metrics.labels:
        say("Free text has no probabilities of labels; the reliability is not drawn.")
        return
    from ia3.report.reliability_plot import draw_reliability

    draw_reliability(metrics.calibration_bins, path, metrics.unscaled_bins)


def _evaluate_adapter(options: argparse.Namespace) -> Metrics:
    from ia3.inference.loading import load_predictor
    from ia3.inference.rows import choose_columns_of

    extra = [name for name, given in (("--calibrate", options.calibrate), ("--ranking", options.ranking)) if given]
    if extra:
        raise UsageError(f"evaluate: {extra[0]} is for a base without an adapter, got --adapter too. Leave one out.")
    predictor = load_predictor(options.adapter, say=say, ensemble=options.ensemble, **load_options(options))
    encoding = predictor.encoding
    own = choose_columns_of(options.table, {"text": encoding.text_column, "label": encoding.label_column})
    columns = options.text or own["text"], options.label or own["label"], options.choices or encoding.choices_column
    table = _read_table(options, *columns, predictor.labels)
    with CountedProgress("rows") as progress:
        return predictor.evaluate(table, on_progress=progress.show)


def _evaluate_base(options: argparse.Namespace) -> Metrics:
    from ia3.inference.zero_shot import load_zero_shot

    if not options.base:
        raise UsageError("evaluate: got neither --adapter nor --base, expected one. See 'ia3 evaluate --help'.")
    if options.ensemble:
        raise UsageError(
            "evaluate: --ensemble is for an adapter with several templates. Give --adapter, or leave it out."
        )
    table = _read_table(options, options.text, options.label, options.choices, options.labels or ())
    given = {name: value for name, value in load_options(options).items() if name != "base"}
    zero_shot = load_zero_shot(options.base, table, ranking=options.ranking or "sum", say=say, **given)
    with CountedProgress("rows") as progress:
        return zero_shot.evaluate(table, is_calibrated=options.calibrate, on_progress=progress.show)


def _read_table(
    options: argparse.Namespace, text: str | None, label: str | None, choices: str | None, labels: Sequence[str]
) -> Table:
    """Read the table and say what was chosen and left out."""
    from ia3.data.tables import read_table

    table = read_table(
        options.table,
        text=text,
        label=label,
        known_labels=labels or None,
        choices=choices,
        skip_bad_rows=options.skip_bad_rows,
    )
    for note in table.notes:
        say(note)
    say_skipped([str(fault) for fault in table.faults])
    return table


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
        "ia3 evaluate held_out.csv --base gemma-3-270m --calibrate",
        "ia3 evaluate held_out.csv --adapter runs/news --reliability reliability.png",
    ),
    configure=configure,
    run=run,
)
