"""From a source to a table: every record becomes an example or a fault.

Knows nothing of formats (sources.py), tokens or models. Rules: text and label stay the strings they are in the source;
nothing is dropped unsaid; all faults of a table are told at once, the first 20 in the message.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ia3.data.choices import check_choices, split_choices
from ia3.data.columns import ColumnChoice, choose_columns
from ia3.data.examples import (
    EMPTY_TEXT,
    MISSING_LABEL,
    MISSING_TEXT,
    Example,
    Fault,
    Table,
    fingerprint,
    quote,
)
from ia3.data.labels import describe_missing_words, describe_similar_labels
from ia3.data.objects import name_kind
from ia3.data.records import Record, Source, describe_bad_character, look_ahead, spell
from ia3.data.sources import open_source
from ia3.data.table_files import TableFile, as_read
from ia3.data.values import is_missing, plain
from ia3.errors import SettingsError, TableError, near_matches

SHOWN_FAULTS = 20
_FIRST = 100  # records looked at where columns are chosen by their values


def read_table(
    source: str | Path | TableFile | Iterable[Any],
    *,
    text: str | None = None,
    label: str | None = None,
    labels_required: bool = True,
    known_labels: Sequence[str] | None = None,
    choices: str | None = None,
    skip_bad_rows: bool = False,
    delimiter: str | None = None,
    quotes: bool | None = None,
) -> Table:
    """Return the whole table.

    Args:
        source: A path of a CSV, TSV, JSONL, JSON or Parquet file or of a folder of those; a hub id (`user/name` or
            `user/name:split`); a `TableFile`; or rows in memory: (text, label) pairs, strings, dicts, or a table of
            pandas, numpy, Arrow or `datasets`.
        text: The text column; by default the one with a usual name.
        label: The label column; by default the one with a usual name.
        labels_required: Whether every row must have a label; if not, a row without one has the label None.
        known_labels: The only labels that may occur; None allows all.
        choices: The column with the choices of each row; see `ia3.data.choices`.
        skip_bad_rows: Leave bad rows out and list them in `Table.faults`, where they are an error by default.
        delimiter: What stands between the values of a CSV or TSV file, one character or `tab`; by default that of its
            suffix.
        quotes: Whether `"` stands around values there. False takes quotes as characters and every line as a row, True
            asks nothing; by default they stand around values, and lines that look otherwise are an error.

    Returns:
        At least one example, in the order of the source.

    Raises:
        TableError: The source cannot be read, its columns are not clear, or rows are bad; `faults` lists all of them.

    Example:
        >>> table = read_table([("Profit rose.", "positive"), ("Sales fell.", "negative")])
        >>> table.examples[1].label
        'negative'
    """
    opened = open_source(as_read(source, delimiter, quotes))
    opened, choice = _choose(opened, text, label, labels_required)
    known = None if known_labels is None else tuple(known_labels)
    rule = _RowRule(choice, opened.columns, labels_required, known, _choices_column(opened, choice, choices))
    examples: list[Example] = []
    faults: list[Fault] = []
    count = 0
    for record in opened.records:
        count += 1
        outcome = _read_row(record, rule)
        if isinstance(outcome, Example):
            examples.append(outcome)
        else:
            faults.extend(outcome)
    if count == 0 or (faults and not (skip_bad_rows and examples)):
        raise explain_faults(opened.name, faults, count, has_rest=bool(examples))
    columns, examples = _level(opened.columns, examples)
    labels = {e.label for e in examples if e.label is not None}
    notes = (*opened.notes, *choice.notes, *describe_missing_words(labels), *describe_similar_labels(labels))
    whole = fingerprint(examples)
    return Table(tuple(examples), columns, choice.text, choice.label, tuple(faults), notes, whole, choices)


def stream_table(
    source: str | Path | TableFile | Iterable[Any],
    *,
    text: str | None = None,
    label: str | None = None,
    choices: str | None = None,
    skip_bad_rows: bool = False,
    on_fault: Callable[[Fault], object] | None = None,
    delimiter: str | None = None,
    quotes: bool | None = None,
) -> TableStream:
    """Return a table that is read while it is iterated, for tables larger than memory.

    Only a JSON file is loaded whole. Labels are read where they are, never required.

    Args:
        source: As for `read_table`.
        text: The text column; by default the one with a usual name.
        label: The label column; by default the one with a usual name, or none.
        choices: As for `read_table`.
        skip_bad_rows: Hand the faults of bad rows to `on_fault` and go on, where the first one is an error by default.
        on_fault: Is called with every fault of a row that is skipped.
        delimiter: As for `read_table`.
        quotes: Likewise.

    Returns:
        The columns at once, the examples when they are asked for.

    Raises:
        TableError: The source cannot be read, or its columns are not clear; while iterating also: a row is bad.
        SettingsError: Bad rows are to be skipped and `on_fault` is missing.
    """
    if skip_bad_rows and on_fault is None:
        raise SettingsError(
            "Reading a table as a stream: bad rows are to be skipped but nothing takes their faults, "
            "got on_fault=None. Give a function, such as on_fault=faults.append."
        )
    opened, choice = _choose(open_source(as_read(source, delimiter, quotes)), text, label, labels_required=False)
    own = _choices_column(opened, choice, choices)
    rule = _RowRule(choice, opened.columns, labels_required=False, known_labels=None, choices=own, keeps_values=True)
    examples = _read_examples(opened, rule, on_fault if skip_bad_rows else None)
    notes = (*opened.notes, *choice.notes)
    return TableStream(opened.name, opened.columns, choice.text, choice.label, notes, examples, opened.schema)


def _choose(source: Source, text: str | None, label: str | None, labels_required: bool) -> tuple[Source, ColumnChoice]:
    """Return the source and its columns; reads ahead only if their names do not tell."""

    def look() -> tuple[Record, ...]:
        nonlocal source
        first, records = look_ahead(source.records, _FIRST)
        source = replace(source, records=records)
        return first

    if not source.columns:
        raise _explain_no_columns(source)
    choice = choose_columns(
        source.name,
        source.columns,
        look,
        text=text,
        label=label,
        labels_required=labels_required,
        has_header=source.has_header,
    )
    return source, choice


def _choices_column(source: Source, choice: ColumnChoice, choices: str | None) -> str | None:
    """Return the column with the rows' choices, if one is asked for and there."""
    if choices is None:
        return None
    if choices not in source.columns:
        near = near_matches(choices, source.columns)
        raise TableError(f"Reading {source.name}: there is no column of choices {quote(str(choices))}.{near}")
    if choices in (choice.text, choice.label):
        raise TableError(f"Reading {source.name}: {quote(choices)} is named as choices and as text or label.")
    return choices


def _read_examples(
    source: Source, rule: _RowRule, on_fault: Callable[[Fault], object] | None
) -> Generator[Example, None, None]:
    count = good = 0
    for record in source.records:
        count += 1
        outcome = _read_row(record, rule)
        if isinstance(outcome, Example):
            good += 1
            yield outcome
        elif on_fault is None:
            told = "; ".join(map(str, outcome))
            raise TableError(
                f"Reading {source.name}: {told}. Mend the row, or give --skip-bad-rows to leave it out.", outcome
            )
        else:
            for fault in outcome:
                on_fault(fault)
    if good == 0:
        raise explain_faults(source.name, (), count, has_rest=False)


def _read_row(record: Record, rule: _RowRule) -> Example | tuple[Fault, ...]:
    """Return the example of a record, or everything that is wrong with it."""
    if record.faults:
        return record.faults
    values: dict[str, object] = dict.fromkeys(rule.columns)
    try:
        values |= {name: plain(value) for name, value in record.values.items()}
        fields = {name: spell(value) for name, value in values.items()}
    except RecursionError:
        return (Fault(record.origin, None, "a value is nested too deeply"),)
    problems = {name: what for name, value in fields.items() if (what := describe_bad_character(value))}
    text, label = rule.choice.text, rule.choice.label
    problems.setdefault(text, _check_text(values[text], fields[text]))
    if label is not None:
        problems.setdefault(label, _check_label(values[label], fields[label], rule))
    has_label = label is not None and _is_plain(values[label]) and _has_label(values[label], fields[label])
    choices: tuple[str, ...] = ()
    if rule.choices is not None:
        answer = fields[label] if label is not None and has_label and rule.labels_required else None
        choices, what = _read_choices(values[rule.choices], answer)
        problems.setdefault(rule.choices, what)
    faults = tuple(Fault(record.origin, name, what) for name, what in problems.items() if what)
    if faults:
        return faults
    answer = fields[label] if label is not None and has_label else None
    return Example(fields[text], answer, fields, record.origin, choices, record.values if rule.keeps_values else {})


def _read_choices(value: object, label: str | None) -> tuple[tuple[str, ...], str]:
    """Return the choices of a row, and what is wrong with them, "" if nothing is."""
    try:
        choices = split_choices(value)
    except ValueError as error:
        return (), str(error)
    return choices, check_choices(choices, label)


def _check_text(value: object, spelt: str) -> str:
    """Return what is wrong with a text, "" if nothing is."""
    if is_missing(value):
        return MISSING_TEXT
    if not _is_plain(value):
        return f"text is {name_kind(value)}, expected a string"
    return EMPTY_TEXT if not spelt.strip() else ""


def _check_label(value: object, spelt: str, rule: _RowRule) -> str:
    """Return what is wrong with a label, "" if nothing is."""
    if not _has_label(value, spelt):
        return MISSING_LABEL if rule.labels_required else ""
    if not _is_plain(value):  # where labels are not asked for, such a column may hold anything
        return f"label is {name_kind(value)}, expected a string" if rule.labels_required else ""
    if rule.known_labels is not None and spelt not in rule.known_labels:
        return f"label {quote(spelt)} is unknown.{near_matches(spelt, rule.known_labels)}".removesuffix(".")
    return ""


def _has_label(value: object, spelt: str) -> bool:
    return not is_missing(value) and bool(spelt.strip())


def _is_plain(value: object) -> bool:
    return not isinstance(value, Mapping | list | tuple | bytes | set)


def explain_faults(name: str, faults: Sequence[Fault], count: int, *, has_rest: bool) -> TableError:
    """Return the one error that tells all bad rows.

    Args:
        name: Of the source.
        faults: Everything that is wrong.
        count: Rows, good and bad.
        has_rest: Whether some are good.
    """
    if count == 0:
        return TableError(f"Reading {name}: there are no rows, expected at least one below the header.")
    rows = len({fault.origin for fault in faults}) or count
    if has_rest:
        head = f"Reading {name}: {rows} bad row{'s' * (rows != 1)} of {count}."
        cure = ["Mend them, or give --skip-bad-rows to leave them out."]
    else:
        which = "the only row is" if count == 1 else f"all {count} rows are"
        head = f"Reading {name}: {which} bad, so nothing is left to use."
        cure = []
    return TableError("\n".join([head, *first_faults(faults), *cure]), faults)


def first_faults(faults: Sequence[object]) -> list[str]:
    """Return a line for each of the first faults, and one that says how many more there are."""
    more = [f"… and {len(faults) - SHOWN_FAULTS} more."] if len(faults) > SHOWN_FAULTS else []
    return [*map(str, faults[:SHOWN_FAULTS]), *more]


def _explain_no_columns(source: Source) -> TableError:
    """Return the error for records that name no column at all."""
    records = list(source.records)
    faults = [fault for record in records for fault in record.faults]
    if faults:
        return explain_faults(source.name, faults, len(records), has_rest=False)
    return TableError(f"Reading {source.name}: its rows have no columns, expected at least a text column.")


def _level(columns: tuple[str, ...], examples: list[Example]) -> tuple[tuple[str, ...], list[Example]]:
    """Return all columns that occur, and examples that have every one of them (JSON rows may leave keys out)."""
    every = tuple(dict.fromkeys([*columns, *(name for example in examples for name in example.fields)]))
    if len(every) == len(columns):
        return columns, examples
    return every, [replace(e, fields={name: e.fields.get(name, "") for name in every}) for e in examples]


@dataclass(frozen=True)
class _RowRule:
    """What a row must have."""

    choice: ColumnChoice
    columns: tuple[str, ...]
    labels_required: bool
    known_labels: tuple[str, ...] | None
    choices: str | None = None  # the column with the rows' own choices
    keeps_values: bool = False  # whether examples have the values of their source


@dataclass(frozen=True)
class TableStream:
    """A table whose examples are read while it is iterated, once."""

    name: str  # as the user wrote it, for messages
    columns: tuple[str, ...]  # of JSONL and dicts: the keys of the first 100 records; a later key is in `fields` only
    text_column: str
    label_column: str | None
    notes: tuple[str, ...]
    _examples: Generator[Example, None, None] = field(repr=False)
    schema: Any = None  # of Arrow, where the values of the examples are rows of its batches

    def __iter__(self) -> Iterator[Example]:
        """Return the examples; raises TableError when they were read before."""
        if inspect.getgeneratorstate(self._examples) != inspect.GEN_CREATED:
            raise TableError(f"Reading {self.name}: the stream was read already. Open it again with stream_table.")
        return self._examples
