"""From tables to what a run trains on: labels, split, template, token ids, and the statistics told before training.

Decisions made for the user are put into words (`notes`), never hidden. This file knows tables, tokenizers and configs;
it knows nothing of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from ia3.bases.limits import Limits
from ia3.core.whole_numbers import whole_number
from ia3.data.duplicates import Duplicate, describe_duplicates, find_duplicates, without_duplicates
from ia3.data.encoding import Encoded, Encoding
from ia3.data.examples import Table
from ia3.data.labels import label_set
from ia3.data.splits import split_table
from ia3.data.statistics import TableReport, describe_table
from ia3.data.table_files import TableFile, as_read
from ia3.data.tables import read_table
from ia3.data.template_sets import TemplateLike, templates_of
from ia3.data.templates import check_template, default_template
from ia3.data.unknown import describe_unknown_answers, describe_unknown_texts
from ia3.errors import SettingsError
from ia3.inference.metrics import describe_few_rows
from ia3.inference.template_search import Search
from ia3.names import ANSWERS, Answers, Kind
from ia3.training.recipes import HELD_OUT

# A closed set has labels that repeat: at most half as many as rows, and few enough to score every one.
_MOST_LABELS = 1000
NOTHING_HELD_OUT = (
    "Nothing is held out: the last epoch is kept, and no number says how good it is. --folds measures on every row."
)


@dataclass(frozen=True)
class SplitTable:
    """The tables of a run, read and split, before a base is known."""

    train: Table
    held_out: Table | None
    labels: tuple[str, ...]  # the closed label set; empty for free text
    notes: tuple[str, ...]  # what was decided for the user, one sentence each
    duplicates: tuple[Duplicate, ...] = ()  # rows held out whose text is trained on as well


@dataclass(frozen=True)
class Dataset:
    """Rows as token ids for one base."""

    rows: SplitTable
    encoding: Encoding
    train: tuple[Encoded, ...]
    held_out: tuple[Encoded, ...]
    report: TableReport  # of the training rows
    notes: tuple[str, ...]
    others: tuple[Encoding, ...] = ()  # of the further templates
    variants: tuple[tuple[Encoded, ...], ...] = ()  # the training rows with each of them
    search: Search | None = None  # how the template was found, where it was searched


class Reading(TypedDict, total=False):
    """How a table is read.

    Attributes:
        text: Text column; found by its name if left out.
        label: Label column; likewise.
        choices: Column with each row's own choices.
        skip_bad_rows: Leave bad rows out instead of stopping.
        delimiter: As for `read_table`; also of the eval table, if it is a file that has one.
        quotes: Likewise.
    """

    text: str | None
    label: str | None
    choices: str | None
    skip_bad_rows: bool
    delimiter: str | None
    quotes: bool | None


def read_rows(
    source: Any,
    *,
    eval_source: Any = None,
    eval_fraction: float | None = HELD_OUT,
    answers: Answers = "auto",
    kind: Kind | None = None,
    labels: Sequence[str] | None = None,
    drop_duplicates: bool = False,
    seed: int = 0,
    **reading: Unpack[Reading],
) -> SplitTable:
    """Read the table (and the eval table), find the label set and hold rows out.

    Args:
        source: A table, or what `read_table` reads.
        eval_source: Rows to evaluate on, likewise; without it a part of `source` is held out.
        eval_fraction: Share that is held out, in [0, 1); 0 holds out nothing, None leaves it to `hold_out`.
        answers: Whether the labels are a closed set, free text, or to be found out.
        kind: Of the base, if known: for an encoder only labels of which none repeats look like free text.
        labels: The closed label set, where it is known already; empty for free text.
        drop_duplicates: Leave eval rows out whose text is trained on, instead of telling which they are.
        seed: Decides the split.
        reading: See `Reading`; of both tables.

    Raises:
        TableError: For bad rows, and for labels of the eval table that do not occur in the training table.
        SettingsError: For a fraction outside its range.
    """
    is_read = isinstance(source, Table)
    marks = reading.get("delimiter"), reading.get("quotes")
    text, label = reading.get("text"), reading.get("label")
    source = source if is_read else as_read(source, *marks)
    eval_source = as_read(eval_source, *marks, is_one_of_several=True)
    options: dict[str, Any] = {name: reading[name] for name in ("choices", "skip_bad_rows") if name in reading}
    table = source if is_read else read_table(source, text=text, label=label, **options)
    if labels is None:
        labels, note = closed_labels(table, answers, kind)
        notes = [*table.notes, note]
    else:
        labels, notes = tuple(labels), []  # all is said of the table that it is a part of
    if eval_source is not None:
        held_out = (
            eval_source
            if isinstance(eval_source, Table)
            else read_table(
                eval_source,
                text=table.text_column if text is None else text,
                label=table.label_column if label is None else label,
                known_labels=labels or None,
                **options,
            )
        )
        if held_out.faults:
            notes.append(f"{len({fault.origin for fault in held_out.faults})} bad eval rows are left out.")
        duplicates = find_duplicates(table, held_out)
        if duplicates:
            notes.append(describe_duplicates(duplicates, len(held_out.examples), are_dropped=drop_duplicates))
        if drop_duplicates:
            held_out, duplicates = without_duplicates(held_out, duplicates), ()
        notes += _few_rows(held_out, labels, "evaluated on")
        return SplitTable(table, held_out, labels, tuple(notes), duplicates)
    whole = SplitTable(table, None, labels, tuple(notes))
    return whole if eval_fraction is None else hold_out(whole, eval_fraction, seed)


def hold_out(rows: SplitTable, fraction: float, seed: int) -> SplitTable:
    """Return rows with a share of them held out; those that have an eval table stay as they are.

    Args:
        rows: As read.
        fraction: Share that is held out, in [0, 1); 0 holds out nothing.
        seed: Decides which.

    Raises:
        SettingsError: For a fraction outside its range.
        TableError: If there are not enough rows for two sides.
    """
    if rows.held_out is not None:
        return rows
    if fraction == 0:
        return replace(rows, notes=(*rows.notes, NOTHING_HELD_OUT))
    table = rows.train
    train, held_out = split_table(table, fraction, seed, stratify=bool(rows.labels))
    told = f"{len(held_out.examples)} of {len(table.examples)} rows are held out for evaluation (seed {seed})."
    few = _few_rows(held_out, rows.labels, "held out for evaluation")
    notes = (*rows.notes, told, *(f"{note} --folds measures on every row." for note in few))
    return replace(rows, train=replace(train, faults=table.faults), held_out=held_out, notes=notes)


def encode_rows(
    rows: SplitTable,
    tokenizer: Any,
    limits: Limits,
    kind: Kind,
    *,
    template: TemplateLike | Sequence[TemplateLike] | None = None,
    max_length: int | None = None,
    seen: dict[str, tuple[int, ...]] | None = None,
) -> Dataset:
    """Turn rows into token ids and describe them.

    Args:
        rows: The rows.
        tokenizer: Tokenizer of the base.
        limits: How many tokens it has room for.
        kind: Its kind.
        template: The words around text and label, or several; by default those of the kind. The rows held out are
            read with the first.
        max_length: Most tokens of an example; by default the positions that the base has, or those that it was trained
            with, so that what fits is never cut; a base with neither (T5) reads everything.
        seen: Prompts that other tables' rows have been encoded from, with their token ids; filled. None for none.

    Raises:
        TemplateError: If the template does not fit the table.
        SettingsError: If `max_length` is above the base's positions, or the base cannot answer with free text.
        BaseError: If the tokenizer gives an id that the embeddings have no row for.
    """
    table = rows.train
    own = table.choices_column
    check_answers(rows, kind)
    templates = templates_of(template) or (default_template(kind, table.label_column),)
    for one in templates:
        check_template(
            one,
            (*table.columns, *([] if own is None else ["choices"])),
            text_column=table.text_column,
            label_column=table.label_column,
            is_closed=bool(rows.labels),
        )
    max_length = _checked_length(max_length, limits.reads)
    chosen = limits.usual if max_length is None else max_length
    encoding, *others = (
        Encoding(tokenizer, kind, one, table.text_column, rows.labels, chosen, table.label_column, own, limits)
        for one in templates
    )
    parts = [tuple(encoding.encode(part.examples, seen=seen)) for part in _parts(rows)]
    is_cut = any(encoded.truncated for part in parts for encoded in part)
    whole = encoding.with_max_length(None).encode(table.examples) if is_cut else parts[0]
    lengths = [_length(encoded, encoding) for encoded in whole]
    report = describe_table(table, lengths, chosen if is_cut else None)
    variants = tuple(tuple(other.encode(table.examples, seen=seen)) for other in others)
    unknown = _unknown_notes(rows, parts, tokenizer, kind)
    notes = (*_length_notes(parts, max_length, limits), *unknown, *_template_notes(len(templates)))
    held_out = parts[1] if len(parts) > 1 else ()
    return Dataset(rows, encoding, parts[0], held_out, report, notes, tuple(others), variants)


def check_answers(rows: SplitTable, kind: Kind) -> None:
    """Raise a SettingsError if a base of this kind cannot give the answers of the rows."""
    if kind == "encoder" and rows.train.choices_column is not None:
        raise SettingsError(
            "Encoding the table: its rows bring their own choices, and an encoder's head has one output for each label "
            "of a fixed set. Give a seq2seq or causal base."
        )
    if kind == "encoder" and not rows.labels:
        raise SettingsError(
            "Encoding the table: its answers are free text, and an encoder can only choose among labels. Give a "
            "seq2seq or causal base, or --answers labels."
        )


def data_name(source: Any, part: str = "") -> str:
    """Return what a table is called in records: its file's or folder's name, its hub id, or `rows`.

    Args:
        source: What was read, or a table.
        part: What a table that was read already is called beside others of its file.
    """
    if isinstance(source, str | Path | TableFile):
        return Path(source).name if Path(source).exists() else str(source)
    if isinstance(source, Table) and source.examples:
        return f"{Path(source.examples[0].origin.file).name}{f' ({part})' if part else ''}"
    return "rows"


def closed_labels(table: Table, answers: Answers, kind: Kind | None) -> tuple[tuple[str, ...], str]:
    """Return the closed label set of a table, empty for free text and own choices, and what was decided in words."""
    if table.choices_column is not None:
        return (), _choices_note(table, answers)
    if answers not in ANSWERS:
        raise SettingsError(
            f"Reading the answers: answers is {answers!r}, expected one of {', '.join(map(repr, ANSWERS))}."
        )
    distinct, rows = {example.label for example in table.examples}, len(table.examples)
    most = max(2, rows - 1 if kind == "encoder" else min(_MOST_LABELS, rows // 2))
    if answers == "text":
        return (), "The answers are free text (as asked)."
    if answers == "auto" and len(distinct) > most:
        return (), (
            f"The answers are free text: {len(distinct)} different ones in {rows} rows "
            "(--answers labels makes them a closed set)."
        )
    labels = label_set(table)
    shown = ", ".join(repr(label) for label in labels[:8])
    return labels, f"The answers are a closed set of {len(labels)} labels: {shown}{', …' if len(labels) > 8 else ''}."


def _choices_note(table: Table, answers: Answers) -> str:
    """Return in words what choices the rows bring."""
    if answers != "auto":
        raise SettingsError(
            f"Reading the answers: they are among the choices of each row, got answers {answers!r} too. Leave it out."
        )
    counts = [len(example.choices) for example in table.examples]
    several = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return f"Each row brings its own choices, {several} of them (column {table.choices_column!r})."


def _few_rows(held_out: Table, labels: Sequence[str], what: str) -> list[str]:
    """Return the warning that rows to measure an accuracy on are few, if they are."""
    note = describe_few_rows(len(held_out.examples), what) if labels else ""
    return [note] if note else []


def _parts(rows: SplitTable) -> Sequence[Table]:
    return [rows.train] if rows.held_out is None else [rows.train, rows.held_out]


def _checked_length(max_length: int | None, limit: int | None) -> int | None:
    if max_length is None:
        return None
    max_length = whole_number("Encoding the table", "max_length", max_length)
    if max_length < 1:
        raise SettingsError(f"Encoding the table: max_length is {max_length}, expected at least 1.")
    if limit is not None and max_length > limit:
        raise SettingsError(f"Encoding the table: max_length is {max_length}, the base reads at most {limit} tokens.")
    return max_length


def _length(encoded: Encoded, encoding: Encoding) -> int:
    """Return the number of tokens that `max_length` limits: behind a causal prompt every choice must have room."""
    if encoding.kind != "causal":
        return len(encoded.prompt_ids)
    return len(encoded.prompt_ids) + max(map(len, encoded.choices), default=len(encoded.target_ids))


def _unknown_notes(rows: SplitTable, parts: Sequence[Sequence[Encoded]], tokenizer: Any, kind: Kind) -> tuple[str, ...]:
    """Return in words what the base cannot read of the texts, or write of free answers."""
    examples = [example for part in _parts(rows) for example in part.examples]
    encoded = [one for part in parts for one in part]
    texts = describe_unknown_texts(tokenizer, examples, [one.prompt_ids for one in encoded])
    is_free = kind != "encoder" and not rows.labels and rows.train.choices_column is None
    answers = [one.target_ids for one in encoded]
    return (*texts, *(describe_unknown_answers(tokenizer, examples, answers) if is_free else ()))


def _template_notes(count: int) -> tuple[str, ...]:
    if count == 1:
        return ()
    return (f"One of {count} templates is drawn for each row in each epoch; what is measured is the first.",)


def _length_notes(parts: Sequence[Sequence[Encoded]], asked: int | None, limits: Limits) -> tuple[str, ...]:
    """Return in words how many texts are cut to what, or read further than the base was trained for."""
    if asked is not None and limits.trained is not None and asked > limits.trained:
        longest = max((len(encoded) for part in parts for encoded in part), default=0)
        told = f"The base was trained with {limits.trained} tokens; texts up to {asked} are read whole, as asked."
        return (told,) if longest > limits.trained else ()
    truncated = sum(encoded.truncated for part in parts for encoded in part)
    if not truncated:
        return ()
    reason = "as asked"
    if asked is None:
        reason = (
            "the most the base can read"
            if limits.reads
            else "what the base was trained with; --max-length N reads more"
        )
    return (f"{truncated} texts are cut to {asked or limits.usual} tokens ({reason}).",)
