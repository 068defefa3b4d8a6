"""`ia3 predict`: every row of a table with its prediction, written to a file; for tables larger than memory too."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ia3.cli.evaluate import say_skipped
from ia3.cli.options import (
    add_adapter,
    add_adapter_column,
    add_ensemble,
    add_json,
    add_reading,
    load_options,
    table_as_read,
)
from ia3.cli.output import align_columns, print_json, print_lines, say
from ia3.cli.parsing import Verb
from ia3.cli.progress import CountedProgress

if TYPE_CHECKING:
    from ia3.inference.table_prediction import PredictSummary


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "table", metavar="TABLE", help="CSV, TSV, JSONL, JSON or Parquet file, a folder of them, or a hub data set."
    )
    add_adapter(parser, words=True)
    group = parser.add_argument_group("data and output")
    group.add_argument(
        "--output", required=True, metavar="FILE", help="File to write: .csv, .tsv, .jsonl or .parquet says the format."
    )
    group.add_argument("--overwrite", action="store_true", help="Replace the file if it is there.")
    add_ensemble(group)
    add_adapter_column(group)
    group.add_argument("--text", metavar="COLUMN", help="Column of the text (default: the one it was trained with).")
    group.add_argument(
        "--skip-bad-rows", action="store_true", help="Leave bad rows out of the output, where they are an error else."
    )
    add_reading(group)
    add_json(parser, "a summary")


def run(options: argparse.Namespace) -> int:
    """Predict every row of a table."""
    from ia3.inference.adapter_column import load_for_names, read_adapter_names
    from ia3.inference.loading import load_predictor
    from ia3.inference.outputs import check_output
    from ia3.inference.table_prediction import predict_table

    check_output(options.output, overwrite=options.overwrite)  # before the base is loaded
    table = table_as_read(options)
    given = {"say": say, "ensemble": options.ensemble, **load_options(options)}
    column = options.adapter_column
    if column is None:
        predictor = load_predictor(options.adapter, **given)
    else:
        names = read_adapter_names(table, column, text=options.text)
        predictor = load_for_names(options.adapter, names, **given)
    with CountedProgress("rows") as progress:
        summary = predict_table(
            predictor,
            table,
            options.output,
            text=options.text,
            adapter_column=column,
            strength=options.strength,
            skip_bad_rows=options.skip_bad_rows,
            overwrite=options.overwrite,
            on_progress=progress.show,
            say=say,
        )
    say_skipped([str(fault) for fault in summary.faults], summary.skipped)
    if options.json:
        print_json(summary.to_json())
    else:
        print_lines(_lines(summary))
    return 0


def _lines(summary: PredictSummary) -> list[str]:
    skipped = f", {summary.skipped:,} bad rows left out" if summary.skipped else ""
    lines = [f"{summary.output}: {summary.rows:,} rows{skipped}"]
    if summary.counts:
        rows = [("prediction", "rows"), *((label, f"{count:,}") for label, count in summary.counts.items())]
        lines += ["", *align_columns(rows, right=[1])]
    return lines


VERB = Verb(
    name="predict",
    summary="Write every row of a table with its prediction and probabilities.",
    usage="TABLE --adapter DIR|STORE:NAME --output FILE [OPTIONS]",
    examples=(
        "ia3 predict more.csv --adapter runs/news --output answers.csv",
        "ia3 predict more.csv --adapter customers.ia3:customer-7 --output answers.csv",
        "ia3 predict all.csv --adapter customers.ia3 --adapter-column customer --output answers.csv",
        "ia3 predict more.csv --adapter runs/news --strength 0.5 --output answers.csv",
        "ia3 predict mail.jsonl --adapter runs/mail --text body --output answers.parquet --overwrite",
    ),
    configure=configure,
    run=run,
)
