"""Reading the command line: a parser for each verb, and one sentence for what cannot be read.

Everything here is plain argparse; nothing imports torch, so that help is there at once. Abbreviated options are not
taken: a slip of the pen is an error that names what was meant.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from ia3.errors import IA3Error, near_matches

_WIDEST = 100  # columns of help; longer lines are hard to read


def read_arguments(verb: Verb, arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of a verb as its parser reads them, and as `verb` the one they are of: itself, or one in it.

    Args:
        verb: The verb.
        arguments: What stands behind it on the command line.

    Raises:
        UsageError: For an unknown option, a value that cannot be read, or a missing one.
        SystemExit: With code 0, after `--help` has printed.
    """
    if verb.verbs and arguments and not arguments[0].startswith("-"):
        return read_arguments(_find_inner(verb, arguments[0]), arguments[1:])
    parser = make_parser(verb)
    _refuse_unknown(parser, arguments, verb)
    options, rest = parser.parse_known_args(list(arguments))
    if rest:
        raise _usage_error(verb, f"{rest[0]!r} is one argument too many")
    options.verb = verb
    return options


def make_parser(verb: Verb) -> Parser:
    """Return the parser of a verb."""
    parser = Parser(
        prog=verb.command,
        usage=f"{verb.command} {verb.usage}",
        description=verb.summary,
        epilog="examples:\n" + "\n".join(f"  {line}" for line in verb.examples),
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.verb = verb
    if verb.verbs:
        width = max(len(one.name) for one in verb.verbs)
        lines = [f"  {one.name.ljust(width)}  {one.summary}" for one in verb.verbs]
        parser.description = "\n".join([verb.summary, "", "verbs:", *lines])
        parser.add_argument("verb", metavar="VERB", help="One of the verbs above.")
    if verb.configure is not None:
        verb.configure(parser)
    parser.add_argument_group("help").add_argument("-h", "--help", action="help", help="Show this and stop.")
    return parser


def _find_inner(verb: Verb, name: str) -> Verb:
    """Return a verb in another, with the name that both have together."""
    by_name = {one.name: one for one in verb.verbs}
    if name not in by_name:
        raise _usage_error(verb, f"there is no verb {name!r}", near_matches(name, by_name))
    return replace(by_name[name], name=f"{verb.name} {name}".strip())


def whole_number(text: str) -> int:
    """Return the whole number that an option's value spells; for argparse's `type`."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number") from error


def number(text: str) -> float:
    """Return the number that an option's value spells; for argparse's `type`."""
    try:
        value = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number") from error
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a finite number")
    return value


def whole_numbers(text: str) -> list[int]:
    """Return the whole numbers, with commas between them, that an option's value spells."""
    return [whole_number(part) for part in text.split(",")]


def numbers(text: str) -> list[float]:
    """Return the numbers, with commas between them, that an option's value spells."""
    return [number(part) for part in text.split(",")]


def _refuse_unknown(parser: Parser, arguments: Sequence[str], verb: Verb) -> None:
    """Raise for an option that the verb does not have, or that is one of a verb in it.

    argparse would first ask for the options that are missing, which is no help to who wrote one of them wrongly.
    """
    known = [name for name in parser._option_string_actions if name.startswith("--")]
    for argument in arguments:
        if argument == "--":
            return
        name = argument.partition("=")[0]
        if name.startswith("--") and " " not in name and name not in known:
            if any(name in make_parser(one)._option_string_actions for one in verb.verbs):
                right = f"{verb.command} VERB … {name}"
                raise _usage_error(verb, f"{name} stands before the verb, expected it behind: {right}")
            raise _usage_error(verb, f"there is no option {name!r}", near_matches(name, known))


def _usage_error(verb: Verb, what: str, hint: str = "") -> UsageError:
    where = f"{verb.name}: " if verb.name else ""
    return UsageError(f"{where}{what}.{hint} See '{verb.command} --help'.")


class UsageError(IA3Error):
    """The command line cannot be read."""


class Parser(argparse.ArgumentParser):
    """argparse's parser, which raises where that one prints its usage and exits, or passes a closed pipe over."""

    verb: Verb

    def print_help(self, file: Any = None) -> None:
        """Print the help."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        """Raise the message as an error of ours."""
        raise _usage_error(self.verb, message.removeprefix("argument "))


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal, within reason, with the examples as they are written."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(_terminal_width(), _WIDEST))


def _terminal_width() -> int:
    """Return the columns of the terminal; `shutil.get_terminal_size` would import much for this."""
    try:
        return int(os.environ.get("COLUMNS") or os.get_terminal_size().columns) - 2
    except (OSError, ValueError):
        return _WIDEST


@dataclass(frozen=True)
class Verb:
    """One verb of the command line.

    Attributes:
        name: What the user writes behind `ia3`.
        summary: What it does, one sentence.
        usage: Its arguments in short, behind its name.
        examples: Command lines that run.
        configure: Adds its arguments to a parser.
        run: Does it and returns the exit code; imports what it needs.
        verbs: Those in it, each with options of its own, where it does nothing by itself.
    """

    name: str
    summary: str
    usage: str
    examples: tuple[str, ...]
    configure: Callable[[argparse.ArgumentParser], None] | None = None
    run: Callable[[argparse.Namespace], int] | None = None
    verbs: tuple[Verb, ...] = ()

    @property
    def command(self) -> str:
        """What the user writes, `ia3` included."""
        return f"ia3 {self.name}".strip()
