"""From tables to what a run trains on: labels, split, template, token ids, and the statistics told before training.

Decisions made for the user are put into words (`notes`), never hidden. This file knows tables, tokenizers and configs;
it knows nothing of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ia3.bases.kinds import Kind
from ia3.data.encoding import Encoded, Encoding, longest_input
from ia3.data.examples import Table
from ia3.data.labels import label_set
from ia3.data.splits import split_table
from ia3.data.statistics import TableReport, describe_table, overlap
from ia3.data.tables import read_table
from ia3.data.templates import Template, check_template, default_template
from ia3.errors import SettingsError

Answers = Literal["auto", "labels", "text"]
# A closed set has labels that repeat: at most half as many as rows, and few enough to score every one.
_MOST_LABELS = 1000


@dataclass(frozen=True)
class Rows:
    """The tables of a run, read and split, before a base is known."""

    train: Table
    held_out: Table | None
    labels: tuple[str, ...]  # the closed label set; empty for free text
    notes: tuple[str, ...]  # what was decided for the user, one sentence each


@dataclass(frozen=True)
class Dataset:
    """Rows as token ids for one base."""

    rows: Rows
    encoding: Encoding
    train: tuple[Encoded, ...]
    held_out: tuple[Encoded, ...]
    report: TableReport  # of the training rows
    notes: tuple[str, ...]


def read_rows(
    source: Any,
    *,
    eval_source: Any = None,
    eval_fraction: float = 0.1,
    text: str | None = None,
    label: str | None = None,
    answers: Answers = "auto",
    kind: Kind | None = None,
    labels: Sequence[str] | None = None,
    skip_bad_rows: bool = False,
    seed: int = 0,
) -> Rows:
    """Read the table (and the eval table), find the label set and hold rows out.

    Args:
        source: A table, or what `read_table` reads.
        eval_source: Rows to evaluate on, likewise; without it a part of `source` is held out.
        eval_fraction: Share that is held out, in [0, 1); 0 holds out nothing.
        text: Text column.
        label: Label column.
        answers: Whether the labels are a closed set, free text, or to be found out.
        kind: Of the base, if known: for an encoder only labels of which none repeats look like free text.
        labels: The closed label set, where it is known already; empty for free text.
        skip_bad_rows: Leave bad rows out instead of stopping.
        seed: Decides the split.

    Raises:
        TableError: For bad rows, and for labels of the eval table that do not occur in the training table.
        SettingsError: For a fraction outside its range.
    """
    is_read = isinstance(source, Table)
    table = source if is_read else read_table(source, text=text, label=label, skip_bad_rows=skip_bad_rows)
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
                skip_bad_rows=skip_bad_rows,
            )
        )
        if held_out.faults:
            notes.append(f"{len({fault.origin for fault in held_out.faults})} bad eval rows are left out.")
        shared = overlap(table, held_out)
        if shared:
            notes.append(
                f"{len(shared)} of the {len(held_out.examples)} eval rows have a text that is trained on, the first at "
                f"{shared[0].origin}: the eval numbers look better than they are."
            )
        return Rows(table, held_out, labels, tuple(notes))
    if eval_fraction == 0:
        notes.append("Nothing is held out: the last epoch is kept, and no number says how good it is.")
        return Rows(table, None, labels, tuple(notes))
    train, held_out = split_table(table, eval_fraction, seed, stratify=bool(labels))
    notes.append(f"{len(held_out.examples)} of {len(table.examples)} rows are held out for evaluation (seed {seed}).")
    return Rows(replace(train, faults=table.faults), held_out, labels, tuple(notes))


def encode_rows(
    rows: Rows,
    tokenizer: Any,
    config: Any,
    kind: Kind,
    *,
    template: Template | None = None,
    max_length: int | None = None,
) -> Dataset:
    """Turn rows into token ids and describe them.

    Args:
        rows: The rows.
        tokenizer: Tokenizer of the base.
        config: Its config.
        kind: Its kind.
        template: The words around text and label; by default those of the kind.
        max_length: Most tokens of an example; by default the base's own limit, so that what fits is never cut.

    Raises:
        TemplateError: If the template does not fit the table.
        SettingsError: If `max_length` is above the base's limit, or the base cannot answer with free text.
    """
    table = rows.train
    check_answers(rows, kind)
    template = template or default_template(kind, table.label_column)
    check_template(
        template,
        table.columns,
        text_column=table.text_column,
        label_column=table.label_column,
        is_closed=bool(rows.labels),
    )
    limit = longest_input(tokenizer, config)
    _check_length(max_length, limit)
    chosen = limit if max_length is None else max_length
    encoding = Encoding(tokenizer, kind, template, table.text_column, rows.labels, chosen, table.label_column)
    parts = [tuple(encoding.encode(part.examples)) for part in _parts(rows)]
    is_cut = any(encoded.truncated for part in parts for encoded in part)
    whole = encoding.with_max_length(None).encode(table.examples) if is_cut else parts[0]
    lengths = [_length(encoded, encoding) for encoded in whole]
    report = describe_table(table, lengths, chosen if is_cut else None)
    notes = _length_notes(parts, chosen, limit)
    return Dataset(rows, encoding, parts[0], parts[1] if len(parts) > 1 else (), report, notes)


def check_answers(rows: Rows, kind: Kind) -> None:
    """Raise a SettingsError if a base of this kind cannot give the answers of the rows."""
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
    if isinstance(source, str | Path):
        return Path(source).name if Path(source).exists() else str(source)
    if isinstance(source, Table) and source.examples:
        return f"{Path(source.examples[0].origin.file).name}{f' ({part})' if part else ''}"
    return "rows"


def closed_labels(table: Table, answers: Answers, kind: Kind | None) -> tuple[tuple[str, ...], str]:
    """Return the closed label set of a table, empty for free text, and what was decided in words."""
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


def _parts(rows: Rows) -> Sequence[Table]:
    return [rows.train] if rows.held_out is None else [rows.train, rows.held_out]


def _check_length(max_length: int | None, limit: int | None) -> None:
    if max_length is None:
        return
    if max_length < 1:
        raise SettingsError(f"Encoding the table: max_length is {max_length}, expected at least 1.")
    if limit is not None and max_length > limit:
        raise SettingsError(f"Encoding the table: max_length is {max_length}, the base reads at most {limit} tokens.")


def _length(encoded: Encoded, encoding: Encoding) -> int:
    """Return the number of tokens that `max_length` limits: behind a causal prompt every choice must have room."""
    if encoding.kind != "causal":
        return len(encoded.prompt_ids)
    return len(encoded.prompt_ids) + max(map(len, encoding.choice_ids), default=len(encoded.target_ids))


def _length_notes(parts: Sequence[Sequence[Encoded]], chosen: int | None, limit: int | None) -> tuple[str, ...]:
    truncated = sum(encoded.truncated for part in parts for encoded in part)
    if not truncated:
        return ()
    reason = "the most the base can read" if chosen == limit else "as asked"
    return (f"{truncated} texts are cut to {chosen} tokens ({reason}).",)
