"""The `ia3` command: finds the verb, runs it, and turns every error into one message and an exit code.

    0    done
    1    a fault of ours, told in one line; IA3_TRACEBACK=1 shows where
    2    a mistake of the user's, told in one message
    130  stopped with Ctrl-C or SIGTERM
    141  the reader of stdout went away

Importing it imports no torch, transformers, numpy or pyarrow; the verbs import what they need when they run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from ia3.cli import (
    adapters,
    bases,
    demo,
    evaluate,
    generate,
    merge,
    plan,
    predict,
    recipes,
    show,
    sweep,
    templates,
    train,
)
from ia3.cli.interrupts import STOPPED, Interrupts
from ia3.cli.output import say
from ia3.cli.parsing import Verb, read_arguments
from ia3.errors import IA3Error, IA3Warning
from ia3.fast.memory import keep_freed_memory

# in the order of the help: what there is, making an adapter, using it
VERBS: tuple[Verb, ...] = (
    demo.VERB,
    bases.VERB,
    plan.VERB,
    recipes.VERB,
    templates.VERB,
    train.VERB,
    sweep.VERB,
    evaluate.VERB,
    predict.VERB,
    generate.VERB,
    show.VERB,
    merge.VERB,
    adapters.VERB,
)
_BROKEN_PIPE = 141
_CHATTY = ("transformers", "datasets", "matplotlib")  # they log what no user of the command can act on


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the entry point of `ia3`.

    Args:
        argv: The arguments; those of the process by default.
    """
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        return _BROKEN_PIPE
    except KeyboardInterrupt as error:
        _tell(str(error) or "stopped.")
        return STOPPED
    except IA3Error as error:
        return _tell(str(error), 2)
    except OSError as error:  # the machine's, not ours: a full disk, a folder that may not be read
        return _tell(_os_sentence(error), 2)
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return _tell(f"unexpected error: {what}. Set IA3_TRACEBACK=1 to see where it happened.", 1)
    return code


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["--version"]:
        print(f"ia3 {_version()}")
        return 0
    everything = Verb(
        name="",
        summary="(IA)³ fine-tuning: learn small vectors that rescale a frozen transformer.",
        usage="VERB [OPTIONS]",
        examples=(
            "ia3 train news.csv --base minilm --output runs/news",
            "ia3 predict more.csv --adapter runs/news --output answers.csv",
            "ia3 train --help",
        ),
        configure=_add_version,
        verbs=VERBS,
    )
    try:
        options = read_arguments(everything, arguments or ["--help"])
    except SystemExit:  # argparse has printed the help
        return 0
    keep_freed_memory()
    with _quiet_libraries(), Interrupts():  # SIGTERM as well ends in an exception, so that half files are removed
        return options.verb.run(options)


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action="store_true", help="Show the version and stop.")


def _version() -> str:
    from importlib.metadata import version

    return version("ia3")


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep other libraries' warnings off stderr for the length of a command, and say ours, each once."""
    import logging

    verbosity = os.environ.get("TRANSFORMERS_VERBOSITY")
    os.environ["TRANSFORMERS_VERBOSITY"] = verbosity or "error"  # read when transformers is first imported
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", IA3Warning)
        warnings.showwarning = _Warned()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
            if verbosity is None:
                del os.environ["TRANSFORMERS_VERBOSITY"]


class _Warned:
    """Says a warning on stderr as a sentence, the same one once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, message: Warning | str, *_: Any, **__: Any) -> None:
        if (sentence := str(message)) not in self._said:
            self._said.add(sentence)
            say(sentence)


def _tell(message: str, code: int = 0) -> int:
    """Write one message to stderr, below the traceback if that is asked for, and return the exit code."""
    if os.environ.get("IA3_TRACEBACK") == "1":
        import traceback

        traceback.print_exc()
    print(f"ia3: {message}", file=sys.stderr, flush=True)
    return code


def _os_sentence(error: OSError) -> str:
    what = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return f"{error.filename}: {what}." if error.filename else f"the system refused: {what}."


def _drop_stdout() -> None:
    """Point stdout nowhere, so that Python's own flush at the end does not fail as well."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
