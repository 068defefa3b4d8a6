"""`ia3 predict`: every row of a table with its prediction, written to a file; for tables larger than memory too."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ia3.cli.evaluate import say_skipped
from ia3.cli.options import READING, add, add_adapter, add_json, load_options, table_as_read
from ia3.cli.output import print_result, say
from ia3.cli.parsing import Verb
from ia3.cli.progress import CountedProgress
from ia3.spelling import align_columns

if TYPE_CHECKING:
    from ia3.inference.table_prediction import PredictSummary


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add(parser, "table")
    add_adapter(parser)
    group = parser.add_argument_group("data and output")
    what = "File to write: .csv, .tsv, .jsonl or .parquet says the format"
    add(group, "--output", words={"what": what}, metavar="FILE")
    add(group, "--overwrite", words={"replaced": "the file if it is there"})
    add(group, "--ensemble", "--adapter-column")
    add(group, "--text", "--skip-bad-rows", *READING, words={"column": "the one it was trained with"})
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
    print_result(options, summary.to_json(), _lines(summary))
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
