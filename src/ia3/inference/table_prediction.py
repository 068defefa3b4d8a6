"""Predicting a table: every row of a file, in its order, with the prediction beside it; for files larger than memory.

The table is read twice: once to find every bad row, every column and the number of rows before anything is run, and
once in windows that are predicted and written. This file knows tables and predictors; formats are `outputs`' matter.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ia3.data.arrow import ArrowRow
from ia3.data.examples import Example, Fault, quote
from ia3.data.sources import is_rereadable, open_source
from ia3.data.table_files import TableFile
from ia3.data.tables import SHOWN_FAULTS, TableStream, explain_faults, stream_table
from ia3.data.templates import check_prompt
from ia3.errors import TableError
from ia3.inference.adapter_column import check_adapter_column, name_in
from ia3.inference.asking import Progress
from ia3.inference.column_types import ColumnTypes
from ia3.inference.outputs import OutputRow, check_output, open_output
from ia3.inference.predictor import Predictor
from ia3.inference.rows import choose_columns_of

WINDOW_ROWS = 4096  # sorted by length and predicted together


def predict_table(
    predictor: Predictor,
    source: str | Path | TableFile | Iterable[Any],
    output: str | Path,
    *,
    text: str | None = None,
    adapter_column: str | None = None,
    strength: float | None = None,
    skip_bad_rows: bool = False,
    overwrite: bool = False,
    on_progress: Progress | None = None,
    say: Callable[[str], object] = lambda line: None,
    window_rows: int = WINDOW_ROWS,
) -> PredictSummary:
    """Write every row of a table with its prediction to a CSV, TSV, JSONL or Parquet file.

    The output has every column of the table, then `prediction` and for a label set `probability` (of the prediction)
    and `probability_<label>` for each label. Where rows bring their own choices, `probabilities` has those of a row as
    JSON in place of these. A table without rows gives a file without rows.

    Parquet from Parquet has the columns, types and schema metadata that were read. JSONL has the values that were read,
    numbers as they are spelt, without the keys that a row leaves out. Parquet from rows without a schema has the types
    that all values of a column share, else strings, as has CSV; strings too from rows that can be read only once.

    With a column that names each row's adapter the rows are answered in mixed batches; their labels differ, so there is
    `prediction` and, if the adapters have labels or rows their own choices, `probability` alone.

    Args:
        predictor: The predictor.
        source: What `stream_table` reads.
        output: The file; its suffix decides the format. It appears when it is complete.
        text: Text column; by default the one trained on, if the table has it.
        adapter_column: Column that names the adapter of each row, all in the predictor's bank; blanks around a name do
            not count. Left out, the predictor's own answers all.
        strength: How much of its adapter each row gets, whichever that is; see `Predictor.classify`. Left out, the
            predictor's own, and all of any other adapter.
        skip_bad_rows: Leave bad rows out instead of stopping; a row that is left out is not in the output.
        overwrite: Whether a file of this name is replaced.
        on_progress: Told the number of rows done, and of all (None for rows in memory that can be read only once).
        say: Told what was chosen and left out while the table was read.
        window_rows: Rows that are in memory at once.

    Returns:
        The numbers of rows, and how often each label was predicted.

    Raises:
        RunError: If the output cannot be written; before anything is run.
        TableError: For bad rows, all of them at once, and for a column of the table that the output needs itself.
        TemplateError: If the adapter's template needs a column that the table does not have.
    """
    check_output(output, overwrite=overwrite)
    own = choose_columns_of(source, {"text": predictor.encoding.text_column})
    # rows of other adapters need not bring choices; those that need them are read when they are answered
    choices = predictor.encoding.choices_column if adapter_column is None else None
    needs_types = Path(output).suffix.lower() == ".parquet"
    survey = _survey(source, text or own["text"], choices, skip_bad_rows, needs_types=needs_types)
    for note in survey.table.notes:
        say(note)
    if adapter_column is not None:
        check_adapter_column(survey.table.name, survey.columns, adapter_column)
    words, numbers = _added_columns(predictor, is_mixed=adapter_column is not None)
    _check_columns(survey, [*words, *numbers], predictor)
    counts: Counter[str] = Counter()
    done = 0
    schema, types = survey.table.schema, survey.types.found()
    columns = [*survey.columns, *words]

    def tell(part: int, _: int | None) -> None:
        if on_progress is not None:
            on_progress(done + part, survey.rows)

    with open_output(output, columns, numbers, types=types, schema=schema, overwrite=overwrite) as write:
        for window in _windows(survey.stream, window_rows):
            _check_window(window, survey.columns)
            names = None if adapter_column is None else [name_in(example, adapter_column) for example in window]
            answers = _answer(predictor, window, names, strength, tell)
            write([_with_answer(*pair, [*words, *numbers]) for pair in zip(window, answers, strict=True)])
            counts.update(answer["prediction"] for answer in answers)
            done += len(window)
    labels = {label: counts[label] for label in (predictor.labels if adapter_column is None else sorted(counts))}
    shown = tuple(survey.faults[:SHOWN_FAULTS])
    return PredictSummary(str(output), done, len({fault.origin for fault in survey.faults}), shown, labels)


def _survey(
    source: str | Path | TableFile | Iterable[Any],
    text: str | None,
    choices: str | None,
    skip_bad_rows: bool,
    *,
    needs_types: bool,
) -> _Survey:
    """Read the table once without running anything; rows that can be read only once are not looked at."""
    faults: list[Fault] = []
    types = ColumnTypes()
    named: dict[str, Any] = {"text": text, "choices": choices}
    if not is_rereadable(source):
        stream = stream_table(source, **named, skip_bad_rows=skip_bad_rows, on_fault=faults.append)
        return _Survey(stream, stream, stream.columns, None, faults, types)
    first = stream_table(source, **named, skip_bad_rows=True, on_fault=faults.append)
    columns, rows = dict.fromkeys(first.columns), 0
    try:
        for example in first:
            rows += 1
            columns |= dict.fromkeys(example.fields)
            if needs_types and first.schema is None:
                types.look(example.values)
    except TableError:
        if not faults and _has_no_rows(source):
            return _Survey((), first, first.columns, 0, faults, types)
        if not faults:
            raise
    if faults and not (skip_bad_rows and rows):
        bad = len({fault.origin for fault in faults})
        raise explain_faults(first.name, faults, rows + bad, has_rest=rows > 0)
    again = stream_table(source, **named, skip_bad_rows=skip_bad_rows, on_fault=lambda fault: None)
    return _Survey(again, first, tuple(columns), rows, faults, types)


def _has_no_rows(source: Any) -> bool:
    """Whether a source has columns and not a single row, good or bad."""
    opened = open_source(source)
    try:
        return next(opened.records, None) is None
    finally:
        opened.records.close()


def _check_columns(survey: _Survey, added: Sequence[str], predictor: Predictor) -> None:
    """Refuse a table that has a column of the output, or lacks one of the template, before anything is run."""
    taken = [name for name in survey.columns if name in added]
    if taken:
        names = " and ".join(map(quote, taken))
        raise TableError(
            f"Predicting {survey.table.name}: the table has a column {names} already, which the output needs for the "
            "prediction. Rename it in the table."
        )
    encoding = predictor.encoding
    own = () if encoding.choices_column is None else ("choices",)
    check_prompt(encoding.template, (*survey.columns, *own), text_column=encoding.text_column)


def _windows(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    rest = iter(examples)
    while window := list(itertools.islice(rest, size)):
        yield window


def _added_columns(predictor: Predictor, *, is_mixed: bool) -> tuple[list[str], list[str]]:
    """Return the columns of words and of numbers that are added to a table; labels of several adapters differ."""
    if predictor.is_free:
        return ["prediction"], []
    if is_mixed:
        return ["prediction"], ["probability"]
    if predictor.encoding.choices_column is not None:
        return ["prediction", "probabilities"], ["probability"]
    return ["prediction"], ["probability", *(f"probability_{label}" for label in predictor.labels)]


def _check_window(window: Sequence[Example], columns: Sequence[str]) -> None:
    """Refuse rows with a column that was not there before: no place in the output is left for it."""
    for example in window:
        late = [name for name in example.fields if name not in columns]
        if late:
            raise TableError(
                f"Predicting {example.origin}: the row has a column {quote(late[0])} that the rows before it do not "
                "have. Give every row the same columns."
            )


def _answer(
    predictor: Predictor,
    window: Sequence[Example],
    names: Sequence[str] | None,
    strength: float | None,
    on_progress: Progress,
) -> list[dict[str, Any]]:
    """Return everything that is known of the answers to some rows, by the names of its columns."""
    asked: dict[str, Any] = {"on_progress": on_progress, "adapters": names, "strengths": strength}
    if predictor.is_free:
        return [{"prediction": answer} for answer in predictor.generate(window, **asked)]
    return [
        {**vars(found), **{f"probability_{label}": share for label, share in found.probabilities.items()}}
        for found in predictor.classify(window, **asked)
    ]


def _with_answer(example: Example, answer: Mapping[str, Any], added: Sequence[str]) -> OutputRow:
    """Return the values of a row as its source has them, and some columns of its answer behind them."""
    row = example.values
    found = {name: answer[name] for name in added}
    if "probabilities" in found:
        found["probabilities"] = json.dumps(dict(found["probabilities"]), ensure_ascii=False)
    whole = {**row, **found}
    return ArrowRow(whole, row.batch, row.index) if isinstance(row, ArrowRow) else whole


@dataclass(frozen=True)
class _Survey:
    """What is known of a table before its rows are predicted."""

    stream: Iterable[Example]  # the rows, not yet read
    table: TableStream  # its name and columns
    columns: tuple[str, ...]  # all that occur
    rows: int | None  # None if not known
    faults: list[Fault]  # of the rows that are left out; filled while reading where nothing was known before
    types: ColumnTypes  # of the columns, where they are needed and the source has no schema


@dataclass(frozen=True)
class PredictSummary:
    """What was written."""

    output: str
    rows: int  # written
    skipped: int  # bad rows that were left out
    faults: tuple[Fault, ...]  # the first of them
    counts: Mapping[str, int] = field(hash=False)  # rows of each predicted label; empty for free text

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "output": self.output,
            "rows": self.rows,
            "skipped": self.skipped,
            "faults": [str(fault) for fault in self.faults],
            "counts": dict(self.counts),
        }
