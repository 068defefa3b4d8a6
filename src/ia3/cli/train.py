"""`ia3 train`: from a table of labelled text and the name of a base to an adapter folder.

What is learned how is decided in `runs` and `training`; this file hands the options on and shows what happens.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ia3
from ia3.cli.options import add, add_json
from ia3.cli.parsing import UsageError, Verb
from ia3.cli.repeats import add_repeats, check_repeats, fold_lines, repeat_lines, train_folds, train_repeats
from ia3.cli.several import add_tasks, given_without_tasks, task_lines, train_several
from ia3.cli.train_options import add_data, add_places, add_training, training_arguments
from ia3.cli.training import carry_out, steps_line, use_line
from ia3.names import CONFIG_FILE

if TYPE_CHECKING:
    from ia3.runs.results import OneResult


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add(parser, "table", words={"rest": "; without it --tasks names the tables"}, nargs="?")
    add_places(parser, "Folder that the adapter and its record go to")
    add_data(parser)
    add_repeats(parser)
    add_tasks(parser)
    add_training(parser)
    add_json(parser, "what the run gave")


def run(options: argparse.Namespace) -> int:
    """Train an adapter, or one for each of several tasks."""
    is_several = options.tasks is not None or options.task_column is not None
    _check(options, is_several=is_several)
    check_repeats(options, is_several=is_several)
    if is_several:
        return carry_out(options, train_several, task_lines, tells_epochs=True)
    if options.repeat is not None:
        return carry_out(options, train_repeats, repeat_lines)
    if options.folds is not None:
        return carry_out(options, train_folds, fold_lines)
    return carry_out(options, _train_one, _lines, tells_epochs=True, stopped="stopped after step {steps}")


def _check(options: argparse.Namespace, *, is_several: bool) -> None:
    """Raise for options that contradict each other."""
    if options.tasks is not None and options.table is not None:
        raise UsageError("train: got a table and --tasks, which names the tables. Leave one of them out.")
    if options.tasks is None and options.table is None:
        raise UsageError("train: expected a table, or --tasks FILE. See 'ia3 train --help'.")
    if options.tasks is not None and options.eval_source is not None:
        raise UsageError("train: --eval cannot stand beside --tasks. Give each task its own: eval: FILE.")
    extra = given_without_tasks(options)
    if not is_several and extra:
        raise UsageError(f"train: {extra} is for several tasks. Give --tasks or --task-column, or leave it out.")


def _train_one(options: argparse.Namespace, talk: Mapping[str, Any]) -> OneResult:
    return ia3.train(options.table, options.base, options.output, **talk, **training_arguments(options))


def _lines(result: OneResult, options: argparse.Namespace) -> list[str]:
    lines = []
    if result.metrics is not None:
        which = f"epoch {result.outcome.best_epoch}" if result.outcome.best_epoch else "the last step"
        measured = options.eval_source or "the rows held out"
        lines += [f"the saved adapter ({which}) on {measured}:", *result.metrics.lines(), ""]
    if not (Path(options.output) / CONFIG_FILE).is_file():  # stopped before its first step
        return [*lines, steps_line(result, "nothing is saved")]
    return [*lines, steps_line(result, f"the adapter lies in {options.output}"), use_line(options.output)]


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
