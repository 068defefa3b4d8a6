"""`ia3 recipes`: the named sets of settings for `ia3 train --recipe`, and what each of them holds."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from ia3.cli.options import add_json
from ia3.cli.output import print_result
from ia3.cli.parsing import UsageError, Verb
from ia3.spelling import align_columns
from ia3.training.recipes import RECIPES, Recipe, differences_from_paper, find_recipe
from ia3.training.setting import value_in_words
from ia3.training.settings import DEFAULTS, settings_for


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("what", nargs="*", metavar="show NAME", help="Show one recipe (default: list all).")
    add_json(parser, "the recipes")


def run(options: argparse.Namespace) -> int:
    """List the recipes, or show one."""
    if not options.what:
        rows = [("recipe", "for"), *((recipe.name, recipe.summary) for recipe in RECIPES.values())]
        lines = [*align_columns(rows), "", "ia3 train TABLE --recipe NAME uses one; every setting can be changed."]
        print_result(options, [{"name": one.name, "summary": one.summary} for one in RECIPES.values()], lines)
        return 0
    if options.what[0] != "show" or len(options.what) != 2:
        given = " ".join(options.what)
        raise UsageError(f"recipes: got {given!r}, expected nothing or 'show NAME'. See 'ia3 recipes --help'.")
    recipe = find_recipe(options.what[1])
    settings = {str(kind): settings_for(kind, recipe=recipe.name).to_json() for kind in DEFAULTS}
    differs = {kind: differences_from_paper(settings[kind], kind) for kind in DEFAULTS}
    print_result(options, _to_json(recipe, settings, differs), _lines(recipe, settings, differs))
    return 0


def _to_json(recipe: Recipe, settings: Mapping[str, Any], differs: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "kinds": {kind: {"settings": settings[kind], "differs": differs[kind]} for kind in DEFAULTS},
        "with_start": {kind: dict(changes) for kind, changes in recipe.started.items()},
        "eval_fraction": recipe.eval_fraction,
        "searches_template": recipe.searches_template,
        "chooses_start": recipe.chooses_start,
        "with_chosen_start": {kind: dict(changes) for kind, changes in recipe.chosen.items()},
        "usual_temperatures_with_chosen_start": dict(recipe.chosen_temperatures),
        "usual_temperatures": [
            {"kind": kind, "with_start": has_start, "temperature": temperature}
            for (kind, has_start), temperature in recipe.temperatures.items()
        ],
    }


def _lines(recipe: Recipe, settings: Mapping[str, Any], differs: Mapping[Any, Any]) -> list[str]:
    rows = [("setting", *settings)]
    rows += [
        (name, *(_word(own[name]) for own in settings.values())) for name in settings["causal"] if name != "recipe"
    ]
    notes = [line for note in _notes(recipe) for line in ("", note)]
    return [recipe.summary, "", *align_columns(rows), *notes, *_differences(differs)]


def _notes(recipe: Recipe) -> list[str]:
    """Return what a recipe holds beside settings, a line each."""
    notes = [f"with --start: {_changes(changes)} ({kind})" for kind, changes in recipe.started.items()]
    for kind, changes in recipe.chosen.items():
        notes.append(f"with a start that was chosen also: {_changes(changes)} ({kind})")
    notes.append(f"share of the rows held out, unless --eval-fraction says another: {recipe.eval_fraction:g}")
    if recipe.searches_template:
        notes.append("a template is searched where none is given (causal, seq2seq)")
    if recipe.chooses_start:
        notes.append("a start that comes with ia3 is chosen where none is given and one knows the labels")
    cases = [(f"{kind}{', with --start' * begins}", value) for (kind, begins), value in recipe.temperatures.items()]
    cases += [(f"{kind}, with a start that was chosen", value) for kind, value in recipe.chosen_temperatures.items()]
    if cases:
        usual = ", ".join(f"{temperature:g} ({case})" for case, temperature in cases)
        notes.append(f"the temperature that probabilities usually need: {usual}")
    return notes


def _changes(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_word(value)}" for name, value in changes.items())


def _differences(differs: Mapping[Any, Any]) -> list[str]:
    """Return where a recipe differs from the paper, each difference with the kinds of base that it is of."""
    found: dict[str, list[str]] = {}
    for kind, differences in differs.items():
        for one in differences:
            why = f" {one['why']}" if one["why"] else ""
            told = f"  {one['setting']}: the paper {_word(one['paper'])}, here {_word(one['here'])}.{why}"
            found.setdefault(told, []).append(kind)
    lines = [told if len(kinds) == len(DEFAULTS) else f"{told} ({', '.join(kinds)})" for told, kinds in found.items()]
    return ["", "where it differs from the paper:", *lines] if lines else []


def _word(value: Any) -> str:
    return "-" if value is None else value_in_words(value)


VERB = Verb(
    name="recipes",
    summary="List the named sets of settings, or show one with where it differs from the paper.",
    usage="[show NAME] [OPTIONS]",
    examples=("ia3 recipes", "ia3 recipes show t-few", "ia3 recipes show t-few-small --json"),
    configure=configure,
    run=run,
)
