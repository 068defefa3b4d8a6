"""`ia3 evaluate`: how good an adapter is on a table with labels."""

from __future__ import annotations

import argparse

from ia3.cli.options import add_adapter, add_columns, add_json, load_options
from ia3.cli.output import print_json, print_lines, say
from ia3.cli.parsing import Verb
from ia3.cli.progress import CountedProgress

_SHOWN_FAULTS = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "table", metavar="TABLE", help="CSV, TSV, JSONL, JSON or Parquet file, a folder of them, or a hub data set."
    )
    add_adapter(parser, words=True)
    add_columns(parser.add_argument_group("data"), recorded=True)
    add_json(parser, "the metrics")


def run(options: argparse.Namespace) -> int:
    """Evaluate an adapter on a table."""
    from ia3.data.tables import read_table
    from ia3.inference.predictor import load_predictor
    from ia3.inference.rows import choose_columns_of

    predictor = load_predictor(options.adapter, say=say, **load_options(options))
    encoding = predictor.encoding
    own = choose_columns_of(options.table, {"text": encoding.text_column, "label": encoding.label_column})
    table = read_table(
        options.table,
        text=options.text or own["text"],
        label=options.label or own["label"],
        known_labels=predictor.labels or None,
        skip_bad_rows=options.skip_bad_rows,
    )
    for note in table.notes:
        say(note)
    say_skipped([str(fault) for fault in table.faults])
    with CountedProgress("rows") as progress:
        metrics = predictor.evaluate(table, on_progress=progress.show)
    if options.json:
        print_json({"table": options.table, "adapter": options.adapter, **metrics.to_json()})
    else:
        print_lines(metrics.lines())
    return 0


def say_skipped(faults: list[str], count: int | None = None) -> None:
    """Say which rows were left out: the first of them, and how many faults there are."""
    total = len(faults) if count is None else count
    for fault in faults[:_SHOWN_FAULTS]:
        say(f"left out: {fault}")
    if total > _SHOWN_FAULTS:
        say(f"left out: … and {total - _SHOWN_FAULTS} more")


VERB = Verb(
    name="evaluate",
    summary="Measure an adapter on a table with labels.",
    usage="TABLE --adapter DIR [OPTIONS]",
    examples=(
        "ia3 evaluate held_out.csv --adapter runs/news",
        "ia3 evaluate mail.jsonl --adapter runs/mail --text body --label team --json",
        "ia3 evaluate held_out.csv --adapter from_peft --base path/to/base --labels negative neutral positive",
    ),
    configure=configure,
    run=run,
)
