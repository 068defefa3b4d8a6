"""A table with a column that names each row's adapter: which ones there are, and a predictor that has them all.

The adapters lie in a packed store, or in folders side by side (what `ia3 train --tasks` writes). Names are read before
anything is loaded, and every one that is not there is told at once. This file knows tables and places; which row
goes to which adapter is `table_prediction`'s and `by_adapter`'s matter, how rows meet in a batch `asking`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ia3.adapters.places import find_stored
from ia3.adapters.store import Store
from ia3.data.choices import check_choices, split_choices
from ia3.data.examples import Example, Fault, Table, fingerprint, quote
from ia3.data.table_files import TableFile
from ia3.data.tables import SHOWN_FAULTS, explain_faults, first_faults, read_table, stream_table
from ia3.errors import AdapterError, SettingsError, TableError, near_matches
from ia3.inference.loading import load_predictor
from ia3.inference.predictor import Predictor
from ia3.inference.rows import choose_columns_of
from ia3.names import CONFIG_FILE


def read_adapter_names(
    source: str | Path | TableFile, column: str, *, text: str | None = None, label: str | None = None
) -> dict[str, str]:
    """Return the adapters that a column names, each with the first row that does; bad rows are passed over.

    Raises:
        TableError: If there is no such column, or a row names no adapter; all such rows at once.
    """
    ignored: list[Fault] = []
    stream = stream_table(source, text=text, label=label, skip_bad_rows=True, on_fault=ignored.append)
    check_adapter_column(stream.name, stream.columns, column)
    names: dict[str, str] = {}
    faults: list[str] = []
    for example in stream:
        name = name_in(example, column)
        if name:
            names.setdefault(name, str(example.origin))
        else:
            faults.append(f"{example.origin}: column {quote(column)} names no adapter")
    if faults:
        raise TableError("\n".join([f"Reading {stream.name}: {_count(faults)}", "Name an adapter in each row."]))
    return names


def name_in(example: Example, column: str) -> str:
    """Return the adapter that a row names; blanks around it do not count."""
    return str(example.fields.get(column, "")).strip()


def check_adapter_column(table: str, columns: tuple[str, ...], column: str) -> None:
    """Raise if a table has no such column.

    Raises:
        TableError: Naming those it has.
    """
    if column not in columns:
        hint = near_matches(column, columns) or f" It has {', '.join(map(quote, columns))}."
        raise TableError(f"Reading {table}: there is no column {quote(column)} that names the adapters.{hint}")


def load_for_names(address: str | Path, names: Mapping[str, str], **options: Any) -> Predictor:
    """Return a predictor with the adapters of these names, in a packed store or in folders side by side.

    Args:
        address: A store, or the folder that holds the adapters' folders.
        names: As `read_adapter_names` returns them.
        options: As for `load_predictor`.

    Raises:
        AdapterError: If one of them is not there; all of them are told.
        SettingsError: If one adapter is addressed.
    """
    stored = find_stored(address)
    if (stored is not None and stored[1]) or (Path(address) / CONFIG_FILE).exists():
        raise SettingsError(
            f"Loading the adapters that a column names: {address} is a single adapter, expected a packed store, or the "
            "folder that holds the adapters' folders."
        )
    if stored is not None:
        with Store.open(stored[0]) as store:
            _check_names(str(store.path), store.names, names)
            first = next(iter((*names, *store.names)), None)
        return load_predictor(address, name=first, **options)
    folder = Path(address)
    there = [entry.name for entry in folder.iterdir() if (entry / CONFIG_FILE).exists()] if folder.is_dir() else []
    if not there:
        raise AdapterError(
            f"Loading the adapters that a column names from {folder}: no adapter's folder lies there. Give a packed "
            "store, or the folder that holds the adapters' folders."
        )
    _check_names(str(folder), there, names)
    first, *others = names or there[:1]
    predictor = load_predictor(folder / first, **options)
    for name in others:
        load_predictor(folder / name, **{**options, "base": predictor.base})
    return predictor


def read_answered_rows(
    source: str | Path | TableFile,
    column: str,
    own: Mapping[str, Predictor],
    *,
    text: str | None = None,
    label: str | None = None,
    skip_bad_rows: bool = False,
) -> tuple[dict[str, list[Example]], Table]:
    """Return the rows of each adapter with their right answers, and the table of all of them.

    Args:
        source: What `read_table` reads.
        column: The column that names the adapter of each row.
        own: The predictor of each adapter by its name.
        text: The text column; by default the one that the first adapter was trained with, if the table has it.
        label: The label column; by default likewise.
        skip_bad_rows: Leave bad rows, and rows with a label that their adapter does not know, out.

    Returns:
        Every adapter that has rows, in the order of their first ones. What was left out is in the table's `faults`.

    Raises:
        TableError: For bad rows and labels that their adapter does not know, all of them at once.
    """
    encoding = next(iter(own.values())).encoding
    usual = choose_columns_of(source, {"text": encoding.text_column, "label": encoding.label_column})
    table = read_table(source, text=text or usual["text"], label=label or usual["label"], skip_bad_rows=True)
    rows: dict[str, list[Example]] = {}
    good: list[Example] = []
    faults = list(table.faults)
    for example in table.examples:
        name = name_in(example, column)
        read = _read_answer(example, own[name], name, table.label_column)
        if isinstance(read, Fault):
            faults.append(read)
        else:
            good.append(read)
            rows.setdefault(name, []).append(read)
    faults.sort(key=lambda fault: (fault.origin.file, fault.origin.line))
    if faults and not (skip_bad_rows and good):
        bad = len({fault.origin for fault in faults})
        raise explain_faults(str(source), faults, len(good) + bad, has_rest=bool(good))
    whole = replace(table, examples=tuple(good), faults=tuple(faults), fingerprint=fingerprint(good))
    return rows, whole


def _read_answer(example: Example, own: Predictor, name: str, label_column: str | None) -> Example | Fault:
    """Return a row as its adapter reads it, with the choices that it brings, or what is wrong with its answer."""
    column = own.encoding.choices_column
    if column is None:
        if not own.labels or example.label in own.labels:
            return example
        near = near_matches(str(example.label), own.labels)
        what = f"label {quote(str(example.label))} is unknown to adapter {name!r}.{near}".removesuffix(".")
        return Fault(example.origin, label_column, what)
    if column not in example.fields:
        return Fault(example.origin, None, f"there is no column {quote(column)} with the choices for adapter {name!r}")
    try:
        choices = split_choices(example.fields[column])
    except ValueError as error:
        return Fault(example.origin, column, str(error))
    wrong = check_choices(choices, example.label)
    return Fault(example.origin, column, wrong) if wrong else replace(example, choices=choices)


def _check_names(where: str, known: list[str] | tuple[str, ...], names: Mapping[str, str]) -> None:
    there = set(known)
    unknown = [name for name in names if name not in there]
    shown = [f"{names[n]}: there is no adapter {n!r}.{near_matches(n, known)}" for n in unknown[:SHOWN_FAULTS]]
    if unknown:
        told = _count([*shown, *unknown[SHOWN_FAULTS:]])
        raise AdapterError(f"Looking for the adapters of the table's rows in {where}: {told}")


def _count(faults: list[str]) -> str:
    """Return how many faults there are, and the first of them below."""
    return "\n".join([f"{len(faults)} fault{'s' * (len(faults) > 1)}.", *first_faults(faults)])
