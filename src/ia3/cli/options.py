"""Options that several verbs share, each with the same meaning and the same words everywhere."""

from __future__ import annotations

import argparse
from typing import Any

from ia3.cli.parsing import number
from ia3.names import DTYPES, PRECISIONS, STORED


def add_json(parser: argparse.ArgumentParser, what: str = "the result") -> None:
    """Add `--json`."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help=f"Print {what} as one JSON document on stdout.")


def add_adapter(parser: argparse.ArgumentParser, *, words: bool, required: bool = True) -> None:
    """Add `--adapter` and what says how it and its base are loaded.

    Args:
        parser: The verb's.
        words: Whether labels and template may be given, for folders of PEFT's that do not record them.
        required: Whether there must be an adapter.
    """
    group = parser.add_argument_group("adapter and base")
    group.add_argument(
        "--adapter",
        required=required,
        metavar="DIR",
        help="Adapter folder that 'ia3 train' or PEFT has written, a hub id (NAME@REVISION), or STORE:NAME for one of "
        "a packed store.",
    )
    group.add_argument(
        "--strength",
        type=number,
        metavar="S",
        help="How much of the adapter is used: 0 is the base, 1 the adapter, -1 its negation; a head is used as it is "
        "(default: 1).",
    )
    add_base(group)
    add_precision(group)
    if words:
        group.add_argument(
            "--labels",
            nargs="+",
            metavar="LABEL",
            help="The label set, for a folder that does not record it; an encoder's in the order of its head.",
        )
        group.add_argument("--template", metavar="T", help="The template, for a folder that does not record it.")


def add_choices(group: argparse._ActionsContainer) -> None:
    """Add `--choices`, for tables whose rows bring their own choices."""
    group.add_argument(
        "--choices",
        metavar="COLUMN",
        help="Column with the choices of each row, a JSON list or texts with | between them, where there is no one "
        "label set; an adapter records it.",
    )


def add_ensemble(group: argparse._ActionsContainer) -> None:
    """Add `--ensemble`, for adapters that were trained with several templates."""
    group.add_argument(
        "--ensemble",
        action="store_true",
        help="Average the log-probabilities of the labels over all templates of the adapter (default: the first).",
    )


def add_adapter_column(group: argparse._ActionsContainer) -> None:
    """Add `--adapter-column`, for tables whose rows are of different adapters."""
    group.add_argument(
        "--adapter-column",
        metavar="COLUMN",
        help="Column that names the adapter of each row; --adapter is then a packed store, or the folder that holds "
        "the adapters' folders.",
    )


def add_base(group: argparse._ActionsContainer) -> None:
    """Add `--base`, `--dtype` and `--device` for an adapter that names its base."""
    group.add_argument(
        "--base",
        metavar="BASE",
        help="Base of the adapter: folder, GGUF file, named base or hub id, at a revision NAME@REVISION (default: the "
        "one its files name).",
    )
    add_placement(group)


def load_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `add_adapter` has read, under the names that `load_predictor` has for it."""
    return {name: getattr(options, name) for name in ("base", "labels", "template", "dtype", "device", "precision")}


def add_placement(group: argparse._ActionsContainer, *, reads_only: bool = False) -> None:
    """Add `--dtype` and `--device`.

    Args:
        group: Where they are shown.
        reads_only: Whether the verb never runs the base, whose weights may then stay in their files.
    """
    stored = "stored leaves the weights in their files, in the type they have there; " if reads_only else ""
    group.add_argument(
        "--dtype",
        choices=(STORED, *DTYPES) if reads_only else DTYPES,
        default=STORED if reads_only else "auto",
        metavar="TYPE",
        help=f"Number type of the base: {'stored, ' if reads_only else ''}{', '.join(DTYPES)}; {stored}auto is "
        "float32, or bfloat16 on a GPU that computes in it (default: %(default)s).",
    )
    group.add_argument(
        "--device",
        default="cpu" if reads_only else "auto",
        metavar="DEVICE",
        help=f"Where it {'lies' if reads_only else 'runs'}: auto, cpu, cuda, cuda:1, mps (default: %(default)s).",
    )


def add_precision(group: argparse._ActionsContainer) -> None:
    """Add `--base-precision`, read as `precision`."""
    group.add_argument(
        "--base-precision",
        dest="precision",
        choices=PRECISIONS,
        default="float",
        metavar="PRECISION",
        help="float keeps the base's weights in its number type; int8 rounds those of the blocks, which takes a "
        "quarter of the memory; int8-gradients takes the products of the backward pass in int8 as well, the fastest "
        "way to train (default: %(default)s).",
    )


def add_reading(group: argparse._ActionsContainer) -> None:
    """Add `--delimiter` and `--quotes`, for CSV and TSV files that are written otherwise than their suffix tells."""
    group.add_argument(
        "--delimiter",
        metavar="CHARACTER",
        help="What stands between the values of CSV and TSV files, such as ';' or '|', or tab (default: that of the "
        "suffix; a file of another suffix is read as one if this is given).",
    )
    group.add_argument(
        "--quotes",
        action=argparse.BooleanOptionalAction,
        help='Whether " stands around values there; --no-quotes takes quotes as characters and every line as a row '
        "(default: they stand around values, and lines that look otherwise are an error).",
    )


def table_as_read(options: argparse.Namespace) -> Any:
    """Return the table of a verb, to be read as its options say."""
    from ia3.data.table_files import as_read

    return as_read(options.table, options.delimiter, options.quotes)


def add_columns(group: argparse._ActionsContainer, *, recorded: bool) -> None:
    """Add `--text`, `--label`, `--skip-bad-rows`, and what says how files are read.

    Args:
        group: Where they are shown.
        recorded: Whether the adapter knows the columns it was trained with.
    """
    default = "those it was trained with" if recorded else "found by their names, and said"
    group.add_argument("--text", metavar="COLUMN", help=f"Column of the text (default: {default}).")
    group.add_argument("--label", metavar="COLUMN", help="Column of the label (default: likewise).")
    group.add_argument(
        "--skip-bad-rows", action="store_true", help="Leave bad rows out and list them, where they are an error else."
    )
    add_reading(group)
