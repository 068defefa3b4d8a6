"""`ia3 train`: from a table of labelled text and the name of a base to an adapter folder.

The first Ctrl-C ends the run after its current step and keeps the best adapter so far. What is learned how is decided
in `runs` and `training`; this file hands the options on and shows what happens.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ia3.cli.interrupts import Interrupts
from ia3.cli.options import add, add_json
from ia3.cli.output import print_json, print_lines, say
from ia3.cli.parsing import UsageError, Verb
from ia3.cli.progress import TrainingProgress, time_in_words
from ia3.cli.repeats import add_repeats, check_repeats, has_repeats, tell_repeats, train_repeated
from ia3.cli.several import add_tasks, given_without_tasks, tell_tasks, train_several
from ia3.cli.train_options import add_data, add_places, add_training, training_arguments
from ia3.names import CONFIG_FILE

if TYPE_CHECKING:
    from ia3.runs.results import OneResult

STOPPED = 130


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add(parser, "table", words={"rest": "; without it --tasks names the tables"}, nargs="?")
    add_places(parser, "Folder that the adapter and its record go to")
    add_data(parser)
    add(parser, "--choices")
    add_repeats(parser)
    add_tasks(parser)
    add_training(parser)
    parser.add_argument(
        "--start",
        metavar="ADAPTER",
        help="Adapter of the same base to begin with, in place of ones: a folder, a hub id, or 'sentiment' or "
        "'business' (sentiment of business news), which come with ia3 for the named bases; a head only where it has "
        "the same labels. 'auto' chooses one of these two, as the recipe for few rows does; 'none' begins with ones.",
    )
    add_json(parser, "what the run gave")


def run(options: argparse.Namespace) -> int:
    """Train an adapter, or one for each of several tasks."""
    is_several = options.tasks is not None or options.task_column is not None
    _check(options, is_several=is_several)
    check_repeats(options, is_several=is_several)
    progress = TrainingProgress(tells_epochs=not has_repeats(options))
    with Interrupts() as interrupts:

        def on_event(event: dict[str, Any]) -> None:
            interrupts.begin()
            progress.show(event)

        talk = {"say": progress.line, "on_event": on_event, "should_stop": interrupts.is_asked}
        try:
            if is_several:
                many = train_several(options, talk)
            elif has_repeats(options):
                repeated = train_repeated(options, talk)
            else:
                one = _train_one(options, talk)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(f"stopped at once. {what_is_left(Path(options.output))}") from error
        finally:
            progress.close()
    if is_several:
        tell_tasks(many, options, what_is_left)
        return STOPPED if many.is_stopped else 0
    if has_repeats(options):
        tell_repeats(repeated, options, what_is_left)
        return STOPPED if repeated.is_stopped else 0
    _tell(one, options.output, options.eval or "the rows held out", as_json=options.json)
    return STOPPED if one.outcome.is_stopped else 0


def _check(options: argparse.Namespace, *, is_several: bool) -> None:
    """Raise for options that contradict each other."""
    if options.tasks is not None and options.table is not None:
        raise UsageError("train: got a table and --tasks, which names the tables. Leave one of them out.")
    if options.tasks is None and options.table is None:
        raise UsageError("train: expected a table, or --tasks FILE. See 'ia3 train --help'.")
    if options.tasks is not None and options.eval is not None:
        raise UsageError("train: --eval cannot stand beside --tasks. Give each task its own: eval: FILE.")
    extra = given_without_tasks(options)
    if not is_several and extra:
        raise UsageError(f"train: {extra} is for several tasks. Give --tasks or --task-column, or leave it out.")


def _train_one(options: argparse.Namespace, talk: dict[str, Any]) -> OneResult:
    from ia3.runs.plans.one import train_adapter

    arguments = training_arguments(options)
    own = {"choices": options.choices, "eval_source": options.eval}
    return train_adapter(options.table, options.base, options.output, **own, **talk, **arguments)


def _tell(result: OneResult, folder: str, measured: str, *, as_json: bool) -> None:
    """Print what the run gave, and say where it lies."""
    if result.outcome.is_stopped:
        say(f"ia3: stopped after step {result.outcome.steps}. {what_is_left(Path(folder))}")
    if as_json:
        print_json(result.to_json())
        return
    print_lines(_result_lines(result, folder, measured))


def _result_lines(result: OneResult, folder: str, measured: str) -> Sequence[str]:
    lines = []
    if result.metrics is not None:
        which = f"epoch {result.outcome.best_epoch}" if result.outcome.best_epoch else "the last step"
        lines += [f"the saved adapter ({which}) on {measured}:", *result.metrics.lines(), ""]
    if not (Path(folder) / CONFIG_FILE).is_file():  # stopped before its first step
        return [*lines, f"{result.outcome.steps} steps in {time_in_words(result.seconds)}; nothing is saved"]
    lines.append(f"{result.outcome.steps} steps in {time_in_words(result.seconds)}; the adapter lies in {folder}")
    lines.append(f"use it: ia3 predict TABLE --adapter {shlex.quote(folder)} --output predictions.csv")
    return lines


def what_is_left(folder: Path) -> str:
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


VERB = Verb(
    name="train",
    summary="Train an adapter on a table of labelled text, or many in one run.",
    usage="[TABLE] --base BASE --output DIR [OPTIONS]",
    examples=(
        "ia3 train news.csv --base minilm --output runs/news",
        "ia3 train news.csv --base gemma-3-270m --output runs/news --epochs 3 --eval held_out.csv",
        "ia3 train mail.jsonl --text body --label team --base path/to/base --output runs/mail --class-weights",
        "ia3 train news.csv --base gemma-3-270m --output runs/mood --template '{{ text }}\\nMood: ||| {{ label }}'",
        "ia3 train quiz.jsonl --base gemma-3-270m --choices options --losses lm+ul+ln --output runs/quiz",
        "ia3 train news.csv --base minilm --output runs/news --resume",
        "ia3 train news.csv --base gemma-3-270m --recipe t-few-small --repeat 5 --per-label 16 --output runs/five",
        "ia3 train few.csv --base minilm --folds 5 --output runs/few",
        "ia3 train few.csv --base gemma-3-270m --recipe t-few-small --start runs/reviews --output runs/few",
        "ia3 train --tasks tasks.yaml --base minilm --output runs/all",
        "ia3 train reviews.csv --task-column product --base minilm --output runs/by-product",
        "ia3 train quiz.jsonl --task-column subject --choices options --base gemma-3-270m --output runs/by-subject",
    ),
    configure=configure,
    run=run,
)
