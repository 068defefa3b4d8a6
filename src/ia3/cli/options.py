"""Options that several verbs share, each declared once: the same meaning and the same words everywhere."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ia3.cli.parsing import number
from ia3.names import DTYPES, PRECISIONS

_ADAPTER: Mapping[str, Any] = {
    "metavar": "DIR",
    "help": "Adapter folder that 'ia3 train' or PEFT has written, a hub id (NAME@REVISION), or STORE:NAME for one of a "
    "packed store.",
}
# What argparse takes for each; a verb fills what stands in braces.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "table": {
        "metavar": "TABLE",
        "help": "CSV, TSV, JSONL, JSON or Parquet file, a folder of them, or a hub data set (user/name or "
        "user/name:split){rest}.",
    },
    "--json": {"action": "store_true", "help": "Print {what} as one JSON document on stdout."},
    "--output": {"required": True, "metavar": "DIR", "help": "{what}."},
    "--overwrite": {"action": "store_true", "help": "Replace {replaced}."},
    "--base": {
        "metavar": "BASE",
        "help": "{base}: folder, GGUF file, named base ('ia3 bases') or hub id (NAME@REVISION){rest}.",
    },
    "--dtype": {
        "choices": DTYPES,
        "default": "auto",
        "metavar": "TYPE",
        "help": f"Number type of the base: {', '.join(DTYPES)}; auto is float32, or bfloat16 on a GPU that computes in "
        "it{rest} (default: %(default)s).",
    },
    "--device": {
        "default": "auto",
        "metavar": "DEVICE",
        "help": "Where the base lies: auto, cpu, cuda, cuda:1, mps (default: %(default)s).",
    },
    "--base-precision": {
        "dest": "precision",
        "choices": PRECISIONS,
        "default": "float",
        "metavar": "PRECISION",
        "help": "float keeps the base's weights in its number type; int8 rounds those of the blocks, which takes a "
        "quarter of the memory; int8-gradients takes the products of the backward pass in int8 as well, the fastest "
        "way to train (default: %(default)s).",
    },
    "store": {"metavar": "STORE", "help": "Packed store."},
    "adapter": _ADAPTER,
    "--adapter": _ADAPTER,
    "--adapter-column": {
        "metavar": "COLUMN",
        "help": "Column that names the adapter of each row; --adapter is then a packed store, or the folder that holds "
        "the adapters' folders.",
    },
    "--strength": {
        "type": number,
        "metavar": "S",
        "help": "How much of the adapter is used: 0 is the base, 1 the adapter, -1 its negation; a head is used as it "
        "is (default: 1).",
    },
    "--ensemble": {
        "action": "store_true",
        "help": "Average the log-probabilities of the labels over all templates of the adapter (default: the first).",
    },
    "--labels": {
        "nargs": "+",
        "metavar": "LABEL",
        "help": "The label set, where the files do not record it; an encoder's in the order of its head.",
    },
    "--template": {"metavar": "T", "help": "The template, where the files do not record it."},
    "--text": {"metavar": "COLUMN", "help": "Column of the text (default: {column})."},
    "--label": {"metavar": "COLUMN", "help": "Column of the label (default: likewise)."},
    "--choices": {
        "metavar": "COLUMN",
        "help": "Column with the choices of each row, a JSON list or texts with | between them, where there is no one "
        "label set; an adapter records it.",
    },
    "--skip-bad-rows": {
        "action": "store_true",
        "help": "Leave bad rows out and list them, where they are an error else.",
    },
    "--delimiter": {
        "metavar": "CHARACTER",
        "help": "What stands between the values of CSV and TSV files, such as ';' or '|', or tab (default: that of the "
        "suffix; a file of another suffix is read as one if this is given).",
    },
    "--quotes": {
        "action": argparse.BooleanOptionalAction,
        "help": 'Whether " stands around values there; --no-quotes takes quotes as characters and every line as a row '
        "(default: they stand around values, and lines that look otherwise are an error).",
    },
}
PLACEMENT = ("--dtype", "--device")
READING = ("--delimiter", "--quotes")
FOUND = "found by its name, and said"  # which column is the text


def add(group: argparse._ActionsContainer, *names: str, words: Mapping[str, str] | None = None, **changes: Any) -> None:
    """Add shared options.

    Args:
        group: Where they are shown.
        names: Of `OPTIONS`.
        words: What stands in braces in their help; "" where nothing is said.
        changes: What argparse takes for all of them in place of what stands there.
    """
    filled = {"rest": "", **(words or {})}
    for name in names:
        option = {**OPTIONS[name], **changes}
        group.add_argument(name, **{**option, "help": option["help"].format(**filled)})


def add_json(parser: argparse.ArgumentParser, what: str = "the result") -> None:
    """Add `--json`."""
    add(parser.add_argument_group("output"), "--json", words={"what": what})


def add_adapter(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add `--adapter`, and what says how it and its base are loaded; `load_options` returns it."""
    group = parser.add_argument_group("adapter and base")
    add(group, "--adapter", required=required)
    add(group, "--strength")
    add_adapter_base(group)
    add(group, "--base-precision", "--labels", "--template")


def add_adapter_base(group: argparse._ActionsContainer) -> None:
    """Add what says which base an adapter is loaded on, which names its own, and where."""
    add(group, "--base", words={"base": "Base of the adapter", "rest": "; without it the one that its files name"})
    add(group, *PLACEMENT)


def load_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `add_adapter` has read, under the names that `load_predictor` has for it."""
    return {name: getattr(options, name) for name in ("base", "labels", "template", "dtype", "device", "precision")}


def add_columns(group: argparse._ActionsContainer, column: str) -> None:
    """Add the options of a table with text and labels; `column` says which is the text without any."""
    add(group, "--text", "--label", "--skip-bad-rows", *READING, words={"column": column})


def table_as_read(options: argparse.Namespace) -> Any:
    """Return the table of a verb, to be read as its options say."""
    from ia3.data.table_files import as_read

    return as_read(options.table, options.delimiter, options.quotes)
