"""Options of the verbs that train: places, rows and words, settings; each with the same meaning in all of them.

Everything is plain argparse; nothing imports torch.
"""

from __future__ import annotations

import argparse
from typing import Any

from ia3.cli.options import add_columns, add_placement, add_precision
from ia3.cli.parsing import number, whole_number
from ia3.training.recipes import FOR_FEW_ROWS, RECIPES
from ia3.training.settings import COMPILE, DEFAULTS, EVAL_STRATEGIES, LOSSES, OPTIMIZERS, POOLINGS, Settings

# of the options below: those that are settings, under the same name
SETTINGS = (
    "recipe", "losses", "optimizer",
    "epochs", "max_steps", "learning_rate", "feedforward_rate", "head_learning_rate", "pooling",
    "fit_head", "batch_size", "token_budget",
    "warmup", "beta1", "beta2", "weight_decay", "clip", "frozen_blocks", "interpolation", "dropout", "class_weights",
    "compile", "eval_strategy", "patience", "seed",
)  # fmt: skip


def add_places(parser: argparse.ArgumentParser, output: str) -> None:
    """Add `--base`, `--output` and what goes with them; `output` is the help of that option."""
    group = parser.add_argument_group("base and output")
    group.add_argument(
        "--base",
        required=True,
        metavar="BASE",
        help="Folder, GGUF file, named base ('ia3 bases') or hub id (NAME@REVISION).",
    )
    group.add_argument("--output", required=True, metavar="DIR", help=output)
    either = group.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="Go on with the run in the output folder.")
    either.add_argument("--overwrite", action="store_true", help="Replace the run in the output folder.")
    add_placement(group)
    add_precision(group)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add what says which rows are learned from and how they are worded."""
    group = parser.add_argument_group("data")
    either = group.add_mutually_exclusive_group()
    either.add_argument("--eval", metavar="TABLE", help="Table to evaluate on; see --eval-strategy.")
    either.add_argument(
        "--eval-fraction",
        type=number,
        metavar="SHARE",
        help="Share of the rows that is held out for that, without --eval; 0 holds out none (default: 0.1; with a "
        "recipe for few rows 0).",
    )
    add_columns(group, recorded=False)
    group.add_argument(
        "--drop-duplicates",
        action="store_true",
        help="Leave rows of --eval out whose text is trained on; else they are named and stay.",
    )
    group.add_argument(
        "--template",
        metavar="T",
        action="append",
        help="Prompt in Jinja2, or 'PROMPT ||| TARGET', or a file of it (default: of the kind of base). Given several "
        "times, one is drawn for each row in each epoch; 'auto' searches one that the base understands, as t-few-small "
        "does without any.",
    )
    group.add_argument("--templates", metavar="FILE", help="YAML or JSON file with a list of further templates.")
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


def add_training(parser: argparse.ArgumentParser, *, is_varied: bool = False) -> None:
    """Add the settings; those that a sweep has lists of are left out if they are varied."""
    group = parser.add_argument_group("training")
    add = group.add_argument
    few = "" if is_varied else f"{FOR_FEW_ROWS} where rows are few and no setting of it is given, else "
    add("--recipe", metavar="NAME", help=f"Settings to begin with: {', '.join(RECIPES)} (default: {few}default).")
    add("--losses", choices=LOSSES, help="Of the answer alone, or of all choices as in T-Few (default: lm).")
    add("--optimizer", choices=OPTIMIZERS, help="What takes the steps (default: adamw).")
    add("--epochs", type=whole_number, metavar="N", help=f"Passes over the rows ({_default('epochs')}).")
    add(
        "--eval-strategy",
        choices=EVAL_STRATEGIES,
        help="When the rows held out are looked at: after each epoch, of which the best is kept, or at the end alone, "
        "where they choose no epoch (default: epoch; with a recipe for few rows end).",
    )
    add(
        "--patience",
        type=whole_number,
        metavar="N",
        help=f"Epochs without a better one, then it ends; 0 never ({_default('patience')}).",
    )
    add("--max-steps", type=whole_number, metavar="N", help="Optimizer steps, whatever --epochs says.")
    if not is_varied:
        rate = f"Highest rate of the vectors ({_default('learning_rate')})."
        add("--learning-rate", type=number, metavar="X", help=rate)
    add(
        "--feedforward-rate",
        type=number,
        metavar="X",
        help=f"Rate of the feed-forward vectors over that of keys and values ({_default('feedforward_rate')}).",
    )
    add(
        "--head-learning-rate",
        type=number,
        metavar="X",
        help=f"Highest rate of an encoder's head ({_default('head_learning_rate')}).",
    )
    add(
        "--pooling",
        choices=POOLINGS,
        help="What an encoder's head reads: its class's own place, the mean of all positions, or auto, the mean where "
        "the base was trained for it (default: own).",
    )
    add(
        "--fit-head",
        action=argparse.BooleanOptionalAction,
        help="Begin the last layer of an encoder's head with a logistic regression on the rows (default: off).",
    )
    add("--batch-size", type=whole_number, metavar="N", help=f"Examples of a step ({_default('batch_size')}).")
    add(
        "--token-budget",
        type=whole_number,
        metavar="N",
        help=f"Most tokens through the base at once; only splits a step ({_default('token_budget')}).",
    )
    add("--warmup", type=number, metavar="SHARE", help=f"Share of steps with a rising rate ({_default('warmup')}).")
    mean = "Share of the running mean of the {} that AdamW keeps at a step ({})."
    add("--beta1", type=number, metavar="X", help=mean.format("gradient", _default("beta1")))
    add("--beta2", type=number, metavar="X", help=mean.format("squared gradient", _default("beta2")))
    add(
        "--weight-decay",
        type=number,
        metavar="X",
        help=f"Pull of the vectors towards one ({_default('weight_decay')}).",
    )
    add("--clip", type=number, metavar="X", help=f"Largest norm of a gradient, 0 for any ({_default('clip')}).")
    add(
        "--frozen-blocks",
        type=number,
        metavar="SHARE",
        help="Share of the base's blocks, from its input, whose vectors are not trained, which makes a step faster "
        f"({_default('frozen_blocks')}; {FOR_FEW_ROWS} from a start: 0.5 for language models).",
    )
    add(
        "--interpolation",
        type=number,
        metavar="X",
        help="How much of the way from the first numbers to the last is kept "
        f"({_default('interpolation')}; {FOR_FEW_ROWS} from a start that it has chosen: 0.5 for language models).",
    )
    add("--dropout", action="store_true", default=None, help="Turn the base's own dropout on (default: off).")
    add("--class-weights", action="store_true", default=None, help="Let rare labels count more (default: off).")
    add(
        "--compile",
        choices=COMPILE,
        help="Compile the base's blocks, half a minute; auto where the run is long enough (default: auto).",
    )
    if not is_varied:
        add("--seed", type=whole_number, metavar="N", help=f"Of order, split and a new head ({_default('seed')}).")


def _default(name: str) -> str:
    """Return a setting's default in words, with the kinds of base that differ."""
    usual = getattr(Settings(), name)
    others = [f"{kind}s {value:g}" for kind, s in DEFAULTS.items() if (value := getattr(s, name)) != usual]
    return f"default: {'; '.join([f'{usual:g}', *others])}"


def training_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was read, under the names that the runs have for it; what a verb has no option for is left out."""
    given = vars(options)
    same = ("eval_fraction", "text", "label", "template", "answers", "max_length", "dtype", "device", "precision")
    flags = ("skip_bad_rows", "drop_duplicates", "delimiter", "quotes", "resume", "overwrite", "start")
    found = {name: given[name] for name in (*same, *flags, *SETTINGS) if name in given}
    if given.get("eval_fraction") is None:  # the run's, or its recipe's
        found.pop("eval_fraction", None)
    if options.templates is not None:
        from ia3.data.template_sets import read_templates

        found["template"] = [*(options.template or ()), *read_templates(options.templates)]
    return found
