"""A training run on the command line: watched, stopped by Ctrl-C, and told, in the same words by all verbs that train.

The first Ctrl-C ends the run after its current step and keeps the best adapter so far.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ia3.cli.interrupts import STOPPED, Interrupts
from ia3.cli.output import print_result, say
from ia3.cli.progress import TrainingProgress
from ia3.names import CONFIG_FILE
from ia3.spelling import time_in_words

if TYPE_CHECKING:
    from ia3.runs.results import RunResult

_Result = TypeVar("_Result", bound="RunResult")


def carry_out(
    options: argparse.Namespace,
    train: Callable[[argparse.Namespace, Mapping[str, Any]], _Result],
    lines_of: Callable[[_Result, argparse.Namespace], Sequence[str]],
    *,
    tells_epochs: bool = False,
    stopped: str = "stopped",
) -> int:
    """Train, print what it gave, and return the exit code.

    Args:
        options: Of the verb.
        train: Called with them and with whom the run tells what.
        lines_of: Returns what the run gave, for people.
        tells_epochs: Whether each epoch has a line.
        stopped: What is said of a run that was stopped; `{steps}` are those it has taken.
    """
    progress = TrainingProgress(tells_epochs=tells_epochs)
    with Interrupts() as interrupts:

        def on_event(event: dict[str, Any]) -> None:
            interrupts.begin()
            progress.show(event)

        try:
            result = train(options, {"say": progress.line, "on_event": on_event, "should_stop": interrupts.is_asked})
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(f"stopped at once. {_what_is_left(Path(options.output))}") from error
        finally:
            progress.close()
    if result.is_stopped:
        say(f"ia3: {stopped.format(steps=result.steps)}. {_what_is_left(result.folder)}")
    print_result(options, result.to_json(), lines_of(result, options))
    return STOPPED if result.is_stopped else 0


def _what_is_left(folder: Path) -> str:
    """Return where the best adapter so far lies, and how to go on."""
    from ia3.runs.folder import CHECKPOINTS
    from ia3.training.checkpoint import has_checkpoints

    if (folder / CONFIG_FILE).is_file():
        left = f"The best adapter so far lies in {folder}."
    elif any(folder.glob(f"*/{CONFIG_FILE}")):
        left = f"The best adapters so far lie in folders of {folder}."
    else:
        left = "No adapter is saved yet."
    if has_checkpoints(folder / CHECKPOINTS):
        return f"{left} The same command with --resume goes on."
    return left


def steps_line(result: RunResult, what: str = "") -> str:
    """Return how much was done in which time, and what there is of it."""
    return f"{result.steps} steps in {time_in_words(result.seconds)}" + (f"; {what}" if what else "")


def use_line(folder: str | Path, output: str = "predictions.csv", what: str = "it") -> str:
    """Return the command that uses an adapter."""
    return f"use {what}: ia3 predict TABLE --adapter {shlex.quote(str(folder))} --output {output}"
