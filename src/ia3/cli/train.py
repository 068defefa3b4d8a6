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
from ia3.cli.options import add_columns, add_json, add_placement
from ia3.cli.output import print_json, print_lines, say
from ia3.cli.parsing import Verb, number, whole_number
from ia3.cli.progress import TrainingProgress, time_in_words
from ia3.training.settings import COMPILE, DEFAULTS, Settings

if TYPE_CHECKING:
    from ia3.runs.training_run import Result

STOPPED = 130
# of the options below: those that are settings, under the same name
_SETTINGS = (
    "epochs", "max_steps", "learning_rate", "head_learning_rate", "batch_size", "token_budget", "warmup",
    "weight_decay", "clip", "dropout", "class_weights", "compile", "seed",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "table",
        metavar="TABLE",
        help="CSV, TSV, JSONL, JSON or Parquet file, a folder of them, or a hub data set (user/name or "
        "user/name:split).",
    )
    group = parser.add_argument_group("base and output")
    group.add_argument(
        "--base", required=True, metavar="BASE", help="Folder, GGUF file, named base ('ia3 bases') or hub id."
    )
    group.add_argument("--output", required=True, metavar="DIR", help="Folder that the adapter and its record go to.")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="Go on with the run in the output folder.")
    either.add_argument("--overwrite", action="store_true", help="Replace the run in the output folder.")
    add_placement(group)
    _add_data(parser)
    _add_training(parser)
    add_json(parser, "what the run gave")


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--eval", metavar="TABLE", help="Table to evaluate on after each epoch.")
    either.add_argument(
        "--eval-fraction",
        type=number,
        default=0.1,
        metavar="SHARE",
        help="Share of the rows that is held out for that, without --eval; 0 holds out none (default: %(default)s).",
    )
    add_columns(group, recorded=False)
    group.add_argument(
        "--template",
        metavar="T",
        help="Prompt in Jinja2, or 'PROMPT ||| TARGET', or a file of it (default: of the kind of base).",
    )
    group.add_argument(
        "--answers",
        choices=("auto", "labels", "text"),
        default="auto",
        help="Whether the labels are a closed set or free text; auto looks at them (default: %(default)s).",
    )
    group.add_argument(
        "--max-length",
        type=whole_number,
        metavar="N",
        help="Most tokens of an example, the text is cut (default: the base's limit, so that all it can read stays).",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    add = group.add_argument
    add("--epochs", type=whole_number, metavar="N", help=f"Passes over the rows ({_default('epochs')}).")
    add("--max-steps", type=whole_number, metavar="N", help="Optimizer steps, whatever --epochs says.")
    add("--learning-rate", type=number, metavar="X", help=f"Highest rate of the vectors ({_default('learning_rate')}).")
    add(
        "--head-learning-rate",
        type=number,
        metavar="X",
        help=f"Highest rate of an encoder's head ({_default('head_learning_rate')}).",
    )
    add("--batch-size", type=whole_number, metavar="N", help=f"Examples of a step ({_default('batch_size')}).")
    add(
        "--token-budget",
        type=whole_number,
        metavar="N",
        help=f"Most tokens through the base at once; only splits a step ({_default('token_budget')}).",
    )
    add("--warmup", type=number, metavar="SHARE", help=f"Share of steps with a rising rate ({_default('warmup')}).")
    add(
        "--weight-decay",
        type=number,
        metavar="X",
        help=f"Pull of the vectors towards one ({_default('weight_decay')}).",
    )
    add("--clip", type=number, metavar="X", help=f"Largest norm of a gradient, 0 for any ({_default('clip')}).")
    add("--dropout", action="store_true", default=None, help="Turn the base's own dropout on (default: off).")
    add("--class-weights", action="store_true", default=None, help="Let rare labels count more (default: off).")
    add(
        "--compile",
        choices=COMPILE,
        help="Compile the base's blocks, half a minute; auto where the run is long enough (default: auto).",
    )
    add("--seed", type=whole_number, metavar="N", help=f"Of order, split and a new head ({_default('seed')}).")


def _default(name: str) -> str:
    """Return a setting's default in words, with the kinds of base that differ."""
    usual = getattr(Settings(), name)
    others = [f"{kind}s {value:g}" for kind, s in DEFAULTS.items() if (value := getattr(s, name)) != usual]
    return f"default: {'; '.join([f'{usual:g}', *others])}"


def run(options: argparse.Namespace) -> int:
    """Train an adapter."""
    from ia3.runs.training_run import train_adapter

    progress = TrainingProgress()
    with Interrupts() as interrupts:

        def on_event(event: dict[str, Any]) -> None:
            interrupts.begin()
            progress.show(event)

        try:
            result = train_adapter(
                options.table,
                options.base,
                options.output,
                say=progress.line,
                on_event=on_event,
                should_stop=interrupts.is_asked,
                **_arguments(options),
            )
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(f"stopped at once. {_what_is_left(Path(options.output))}") from error
        finally:
            progress.close()
    _tell(result, options.output, options.eval or "the rows held out", as_json=options.json)
    return STOPPED if result.outcome.is_stopped else 0


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options under the names that `train_adapter` has for them."""
    given = vars(options)
    same = ("eval_fraction", "text", "label", "template", "answers", "max_length", "dtype", "device")
    flags = ("skip_bad_rows", "resume", "overwrite")
    return {"eval_source": options.eval, **{name: given[name] for name in (*same, *flags, *_SETTINGS)}}


def _tell(result: Result, folder: str, measured: str, *, as_json: bool) -> None:
    """Print what the run gave, and say where it lies."""
    if result.outcome.is_stopped:
        say(f"ia3: stopped after step {result.outcome.steps}. {_what_is_left(Path(folder))}")
    if as_json:
        print_json(result.to_json())
        return
    print_lines(_result_lines(result, folder, measured))


def _result_lines(result: Result, folder: str, measured: str) -> Sequence[str]:
    lines = []
    if result.metrics is not None:
        which = f"epoch {result.outcome.best_epoch}" if result.outcome.best_epoch else "the last step"
        lines += [f"the saved adapter ({which}) on {measured}:", *result.metrics.lines(), ""]
    if not (Path(folder) / "adapter_config.json").is_file():  # stopped before its first step
        return [*lines, f"{result.outcome.steps} steps in {time_in_words(result.seconds)}; nothing is saved"]
    lines.append(f"{result.outcome.steps} steps in {time_in_words(result.seconds)}; the adapter lies in {folder}")
    lines.append(f"use it: ia3 predict TABLE --adapter {shlex.quote(folder)} --output predictions.csv")
    return lines


def _what_is_left(folder: Path) -> str:
    """Return where the best adapter so far lies, and how to go on."""
    from ia3.runs.folder import CHECKPOINTS

    if (folder / "adapter_config.json").is_file():
        left = f"The best adapter so far lies in {folder}."
    else:
        left = "No adapter is saved yet."
    if any((folder / CHECKPOINTS).glob("step-*.pt")):
        return f"{left} The same command with --resume goes on."
    return left


VERB = Verb(
    name="train",
    summary="Train an adapter on a table of labelled text.",
    usage="TABLE --base BASE --output DIR [OPTIONS]",
    examples=(
        "ia3 train news.csv --base minilm --output runs/news",
        "ia3 train news.csv --base gemma-3-270m --output runs/news --epochs 3 --eval held_out.csv",
        "ia3 train mail.jsonl --text body --label team --base path/to/base --output runs/mail --class-weights",
        "ia3 train news.csv --base gemma-3-270m --output runs/mood --template '{{ text }}\\nMood: ||| {{ label }}'",
        "ia3 train news.csv --base minilm --output runs/news --resume",
    ),
    configure=configure,
    run=run,
)
