"""`ia3 recipes`: the named sets of settings for `ia3 train --recipe`, and what each of them holds."""

from __future__ import annotations

import argparse
from typing import Any

from ia3.cli.options import add_json
from ia3.cli.output import align_columns, print_json, print_lines
from ia3.cli.parsing import UsageError, Verb
from ia3.training.recipes import RECIPES, differences_from_paper, find_recipe
from ia3.training.settings import DEFAULTS, settings_for


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("what", nargs="*", metavar="show NAME", help="Show one recipe (default: list all).")
    add_json(parser, "the recipes")


def run(options: argparse.Namespace) -> int:
    """List the recipes, or show one."""
    if not options.what:
        _list(as_json=options.json)
        return 0
    if options.what[0] != "show" or len(options.what) != 2:
        given = " ".join(options.what)
        raise UsageError(f"recipes: got {given!r}, expected nothing or 'show NAME'. See 'ia3 recipes --help'.")
    _show(options.what[1], as_json=options.json)
    return 0


def _list(*, as_json: bool) -> None:
    if as_json:
        print_json([{"name": recipe.name, "summary": recipe.summary} for recipe in RECIPES.values()])
        return
    rows = [("recipe", "for"), *((recipe.name, recipe.summary) for recipe in RECIPES.values())]
    print_lines([*align_columns(rows), "", "ia3 train TABLE --recipe NAME uses one; every setting can be changed."])


def _show(name: str, *, as_json: bool) -> None:
    recipe = find_recipe(name)
    settings = {kind: settings_for(kind, recipe=name).to_json() for kind in DEFAULTS}
    if as_json:
        told = {
            kind: {"settings": chosen, "differs": differences_from_paper(chosen, kind)}
            for kind, chosen in settings.items()
        }
        started = {kind: dict(changes) for kind, changes in recipe.started.items()}
        measured = [
            {"kind": kind, "with_start": has_start, "temperature": temperature}
            for (kind, has_start), temperature in recipe.temperatures.items()
        ]
        of_chosen = {kind: dict(changes) for kind, changes in recipe.chosen.items()}
        told_whole = {"name": recipe.name, "summary": recipe.summary, "kinds": told, "with_start": started}
        told_rest = {
            "eval_fraction": recipe.eval_fraction,
            "searches_template": recipe.searches_template,
            "chooses_start": recipe.chooses_start,
            "with_chosen_start": of_chosen,
            "usual_temperatures_with_chosen_start": dict(recipe.chosen_temperatures),
        }
        print_json({**told_whole, **told_rest, "usual_temperatures": measured})
        return
    names = [name for name in settings["causal"] if name != "recipe"]
    rows = [("setting", *settings)]
    rows += [(name, *(_word(chosen[name]) for chosen in settings.values())) for name in names]
    print_lines([recipe.summary, "", *align_columns(rows)])
    for kind, changes in recipe.started.items():
        words = ", ".join(f"{name} {_word(value)}" for name, value in changes.items())
        print_lines(["", f"with --start: {words} ({kind})"])
    for kind, changes in recipe.chosen.items():
        words = ", ".join(f"{name} {_word(value)}" for name, value in changes.items())
        print_lines(["", f"with a start that was chosen also: {words} ({kind})"])
    print_lines(["", f"share of the rows held out, unless --eval-fraction says another: {recipe.eval_fraction:g}"])
    if recipe.searches_template:
        print_lines(["", "a template is searched where none is given (causal, seq2seq)"])
    if recipe.chooses_start:
        print_lines(["", "a start that comes with ia3 is chosen where none is given and one knows the labels"])
    if recipe.temperatures:
        usual = ", ".join(
            f"{temperature:g} ({kind}{', with --start' * has_start})"
            for (kind, has_start), temperature in recipe.temperatures.items()
        )
        usual += "".join(
            f", {temperature:g} ({kind}, with a start that was chosen)"
            for kind, temperature in recipe.chosen_temperatures.items()
        )
        print_lines(["", f"the temperature that probabilities usually need: {usual}"])
    differences: dict[str, list[str]] = {}  # in words, with the kinds of base that they are of
    for kind, chosen in settings.items():
        for one in differences_from_paper(chosen, kind):
            differences.setdefault(_difference(one), []).append(kind)
    if differences:
        print_lines(["", "where it differs from the paper:"])
        print_lines([_of_kinds(words, kinds) for words, kinds in differences.items()])


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else f"{value:g}"


def _difference(one: dict[str, Any]) -> str:
    why = f" {one['why']}" if one["why"] else ""
    return f"  {one['setting']}: the paper {_word(one['paper'])}, here {_word(one['here'])}.{why}"


def _of_kinds(words: str, kinds: list[str]) -> str:
    return words if len(kinds) == len(DEFAULTS) else f"{words} ({', '.join(kinds)})"


VERB = Verb(
    name="recipes",
    summary="List the named sets of settings, or show one with where it differs from the paper.",
    usage="[show NAME] [OPTIONS]",
    examples=("ia3 recipes", "ia3 recipes show t-few", "ia3 recipes show t-few-small --json"),
    configure=configure,
    run=run,
)
