"""`ia3 adapters`: the verbs for adapters as things to keep, to pack into one file, and to make others of.

It has verbs of its own, each with its options and help; `ia3 adapters pack --help` shows those of one. This file knows
their names and hands on what stands behind them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from ia3.cli import combine, compare, import_adapter, packing, stores
from ia3.cli.parsing import UsageError, Verb, make_parser, read_arguments
from ia3.errors import near_matches

# in the order of the help: packed stores, then single adapters
VERBS: tuple[Verb, ...] = (*packing.VERBS, *stores.VERBS, combine.VERB, compare.VERB, import_adapter.VERB)


def find_verb(name: str) -> Verb:
    """Return the verb behind `ia3 adapters`.

    Raises:
        UsageError: If there is none of this name.
    """
    by_name = {verb.name: verb for verb in VERBS}
    if name not in by_name:
        raise UsageError(
            f"adapters: there is no verb {name!r}.{near_matches(name, by_name)} See 'ia3 adapters --help'."
        )
    return replace(by_name[name], name=f"adapters {name}")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs; what stands behind one is read by its own parser."""
    width = max(len(verb.name) for verb in VERBS)
    lines = [f"  {verb.name.ljust(width)}  {verb.summary}" for verb in VERBS]
    parser.description = "\n".join([f"{parser.description}", "", "verbs:", *lines])
    parser.add_argument("verb", metavar="VERB", type=find_verb, help="One of the verbs above.")
    rest = parser.add_argument("rest", nargs=argparse.REMAINDER, action=_ReadRest, help=argparse.SUPPRESS)
    rest.required = False
    options = {name for verb in VERBS for name in make_parser(verb)._option_string_actions} - {"-h", "--help"}
    for name in sorted(options):
        parser.add_argument(name, action=_Misplaced, help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Run the verb."""
    code: int = options.verb.run(options.rest)
    return code


class _ReadRest(argparse.Action):
    """Reads what stands behind a verb with that verb's parser."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        arguments: Sequence[str] = values
        if isinstance(getattr(namespace, "verb", None), Verb):
            namespace.rest = read_arguments(namespace.verb, arguments)


class _Misplaced(argparse.Action):
    """Refuses a verb's option that stands before the verb."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "nargs": 0})

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None
    ) -> NoReturn:
        parser.error(f"{option} stands before the verb, expected it behind: ia3 adapters VERB … {option}")


VERB = Verb(
    name="adapters",
    summary="Keep many adapters of one base in one file; combine, compare and import adapters.",
    usage="VERB …",
    examples=(
        "ia3 adapters pack news.ia3 runs/",
        "ia3 adapters list news.ia3",
        "ia3 adapters combine runs/news runs/mail --output runs/both",
    ),
    configure=configure,
    run=run,
)
