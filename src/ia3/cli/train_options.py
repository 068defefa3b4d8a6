"""Options of the verbs that train: places, rows and words, settings; each with the same meaning in all of them.

Everything is plain argparse; nothing imports torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any

from ia3.cli.options import FOUND, PLACEMENT, add, add_columns
from ia3.cli.parsing import number, whole_number
from ia3.names import ANSWERS
from ia3.training.setting import Setting
from ia3.training.settings import SETTINGS, default_in_words


def add_places(parser: argparse.ArgumentParser, output: str) -> None:
    """Add `--base`, `--output` and what goes with them; `output` is the help of that option."""
    group = parser.add_argument_group("base and output")
    add(group, "--base", words={"base": "The base that is trained on"}, required=True)
    add(group, "--output", words={"what": output})
    either = group.add_mutually_exclusive_group()
    either.add_argument("--resume", action="store_true", help="Go on with the run in the output folder.")
    add(either, "--overwrite", words={"replaced": "the run in the output folder"})
    add(group, *PLACEMENT, "--base-precision")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add what says which rows are learned from and how they are worded."""
    group = parser.add_argument_group("data")
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--eval", dest="eval_source", metavar="TABLE", help="Table to evaluate on; see --eval-strategy."
    )
    either.add_argument(
        "--eval-fraction",
        type=number,
        metavar="SHARE",
        help="Share of the rows that is held out for that, without --eval; 0 holds out none (default: 0.1; with a "
        "recipe for few rows 0).",
    )
    add_columns(group, FOUND)
    add(group, "--choices")
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
        choices=ANSWERS,
        default="auto",
        help="Whether the labels are a closed set or free text; auto looks at them (default: %(default)s).",
    )
    group.add_argument(
        "--max-length",
        type=whole_number,
        metavar="N",
        help="Most tokens of an example, the text is cut (default: the base's limit, so that all it can read stays).",
    )


def add_training(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """Add a flag for every setting but those of some names, and `--start`."""
    group = parser.add_argument_group("training")
    for name, one in SETTINGS.items():
        if name not in without:
            default = default_in_words(name)
            told = f"{one.help}." if default == "none" else f"{one.help} (default: {default})."
            group.add_argument(f"--{name.replace('_', '-')}", help=told, default=None, **_value_of(one))
    group.add_argument(
        "--start",
        metavar="ADAPTER",
        help="Adapter of the same base to begin with, in place of ones: a folder, a hub id, or 'sentiment' or "
        "'business' (sentiment of business news), which come with ia3 for the named bases; a head only where it has "
        "the same labels. 'auto' chooses one of these two, as the recipe for few rows does; 'none' begins with ones.",
    )


def _value_of(one: Setting) -> dict[str, Any]:
    """Return how the value of a setting is written on the command line, as argparse has it."""
    rule = one.rule
    if rule.sort is bool:
        return {"action": argparse.BooleanOptionalAction if one.has_no else "store_true"}
    if rule.words:
        return {"choices": rule.words}
    return {"metavar": rule.metavar, "type": {int: whole_number, float: number, str: None}[rule.sort]}


def training_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was read, under the names that the runs have for it; what a verb has no option for is left out."""
    from ia3.runs.request import RunOptions

    found = {name: value for name, value in vars(options).items() if name in RunOptions.__annotations__}
    if options.templates is not None:
        from ia3.data.template_sets import read_templates

        found["template"] = [*(options.template or ()), *read_templates(options.templates)]
    return found
