"""Recipes: named sets of settings, and where a run's settings differ from the paper's.

A recipe changes some defaults of a kind of base; what a user gives changes the recipe. This file knows names, values
and reasons; what a setting means and which values it may have is `settings`' matter. It imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ia3.errors import SettingsError, near_matches
from ia3.names import Kind

SMALL = 1_000_000_000  # parameters below which a base is small
MOST_ROWS_A_LABEL = 32  # of a few-shot table, on average
FOR_FEW_ROWS = "t-few-small"  # the recipe for them on a small base
HELD_OUT = 0.1  # share of the rows, unless a recipe has another


def find_recipe(name: str) -> Recipe:
    """Return a recipe by its name.

    Raises:
        SettingsError: If there is none of this name.

    Example:
        >>> find_recipe("t-few").changes["max_steps"]
        1000
    """
    if name not in RECIPES:
        raise SettingsError(
            f"Reading the settings: there is no recipe {name!r}.{near_matches(name, RECIPES)} 'ia3 recipes' lists them."
        )
    return RECIPES[name]


def suggest_recipe(kind: Kind, rows: int, labels: int, parameters: int, steps: int) -> str:
    """Return the name of the recipe for a table and a base: a few-shot one where rows are few and labels a closed set.

    Of many labels even few rows are more than the steps of such a recipe can see; then it is the defaults.

    Args:
        kind: Kind of the base; an encoder is taken for a small one.
        rows: Training rows.
        labels: Size of the label set; 0 for free text.
        parameters: Of the base.
        steps: That the settings without a recipe give.

    Example:
        >>> suggest_recipe("causal", rows=40, labels=3, parameters=270_000_000, steps=15)
        't-few-small'
    """
    found = FOR_FEW_ROWS if kind == "encoder" or parameters < SMALL else "t-few"
    # an encoder's head is fitted to all rows, so that few steps do not need to see each of them
    can_see = kind == "encoder" or steps <= find_recipe(found).changes_for(kind)["max_steps"]
    is_few = 0 < rows <= MOST_ROWS_A_LABEL * labels and can_see
    return found if is_few else "default"


def leaves_open(given: Mapping[str, Any], kind: Kind) -> bool:
    """Whether settings leave the recipe open: none is named, and nothing is given that one for few rows decides.

    Who sets a rate or a number of steps has the defaults in mind, which stay beside it. Patience needs rows held out,
    and compiled blocks take no losses over choices, so that these go with the defaults as well.

    Args:
        given: Settings by name; None counts as not given.
        kind: Kind of the base.

    Example:
        >>> leaves_open({"seed": 3}, "causal"), leaves_open({"epochs": 3}, "causal")
        (True, False)
    """
    decided = {"recipe", "epochs", "patience", *find_recipe(FOR_FEW_ROWS).changes_for(kind)}
    is_compiled = given.get("compile") == "on"
    return not is_compiled and not any(name in decided for name, value in given.items() if value is not None)


def recipe_note(kind: Kind, rows: int, labels: int, parameters: int, steps: int) -> str:
    """Return the sentence that there is a recipe for so few rows, "" where the defaults are for them.

    Args are those of `suggest_recipe`.

    Example:
        >>> recipe_note("causal", rows=40, labels=3, parameters=270_000_000, steps=15)
        '40 rows of 3 labels are few for the defaults (15 steps): --recipe t-few-small is made for so few rows.'
    """
    name = suggest_recipe(kind, rows, labels, parameters, steps)
    if name == "default":
        return ""
    return (
        f"{rows} rows of {labels} labels are few for the defaults ({steps} steps): --recipe {name} is made for so few "
        "rows."
    )


def differences_from_paper(settings: Mapping[str, Any], kind: Kind) -> list[dict[str, Any]]:
    """Return where settings differ from T-Few's, as plain values for the record; nothing for recipes that are not
    after it.

    Args:
        settings: By name, as `Settings.to_json` gives them.
        kind: Kind of the base.

    Returns:
        For each difference the setting, the paper's value, the one here, and why; `why` is None where the user chose
        it.
    """
    recipe = find_recipe(settings["recipe"])
    if recipe.name not in FROM_THE_PAPER:
        return []
    found = [
        {"setting": name, "paper": paper, "here": settings[name], "why": _reason(recipe, kind, name, settings[name])}
        for name, paper in PAPER.items()
        if settings[name] != paper
    ]
    if kind == "encoder":
        found += [
            {"setting": name, "paper": "no head", "here": settings[name], "why": _reason(recipe, kind, name, here)}
            for name, plain in PLAIN_HEAD.items()
            if (here := settings[name]) != plain
        ]
    always = NOT_THE_PAPERS if kind == "seq2seq" else {**NOT_THE_PAPERS, **OTHER_BASES[kind]}
    return [*found, *({"setting": name, **told} for name, told in always.items())]


def _reason(recipe: Recipe, kind: Kind, name: str, value: Any) -> str | None:
    """Return why a recipe has its value; None if the value is the user's."""
    own = [recipe.changes_for(kind, has_start=begins, is_chosen=chosen).get(name) for begins, chosen in BEGINNINGS]
    if name == "pooling" and "auto" in own and value == "mean":  # what `auto` was settled to
        return recipe.reasons.get(name)
    return recipe.reasons.get(name) if value in own else None


@dataclass(frozen=True)
class Recipe:
    """A named set of settings.

    Attributes:
        name: What the user writes.
        summary: What it is for, one sentence.
        changes: Settings that differ from the defaults of the kind of base.
        reasons: Why a change is not the paper's value, by setting.
        kinds: Changes for one kind of base that take the place of those.
        started: Changes for one kind of base where a run begins with an adapter in place of ones.
        chosen: Further changes where that adapter was chosen, since it knows the labels of the rows.
        eval_fraction: Share of the rows that is held out where nothing is said of it.
        searches_template: Whether the words around text and label are searched where none are given, for a language
            model and a closed label set.
        chooses_start: Whether a run begins with one of the starts that come with the project where none is named and
            one knows the labels.
        temperatures: The temperature that its adapters usually need behind the last step, by kind of base and by
            whether they began with another adapter; an encoder's with a head that reads the mean.
        chosen_temperatures: The same where that adapter was chosen, where it differs, by kind of base.
    """

    name: str
    summary: str
    changes: Mapping[str, Any]
    reasons: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[Kind, Mapping[str, Any]] = field(default_factory=dict)
    started: Mapping[Kind, Mapping[str, Any]] = field(default_factory=dict)
    chosen: Mapping[Kind, Mapping[str, Any]] = field(default_factory=dict)
    eval_fraction: float = HELD_OUT
    searches_template: bool = False
    chooses_start: bool = False
    temperatures: Mapping[tuple[Kind, bool], float] = field(default_factory=dict)
    chosen_temperatures: Mapping[Kind, float] = field(default_factory=dict)

    def changes_for(self, kind: Kind, *, has_start: bool = False, is_chosen: bool = False) -> dict[str, Any]:
        """Return the settings that differ from the defaults of a kind of base."""
        started = self.started.get(kind, {}) if has_start else {}
        return {
            **self.changes,
            **self.kinds.get(kind, {}),
            **started,
            **(self.chosen.get(kind, {}) if is_chosen else {}),
        }


# T-Few's settings, from section 3 of the paper and its code's configuration.
PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "losses": "lm+ul+ln",
        "optimizer": "adafactor",
        "learning_rate": 3e-3,
        "feedforward_rate": 1.0,
        "warmup": 0.06,
        "max_steps": 1000,
        "batch_size": 8,
        "clip": 1.0,
        "frozen_blocks": 0.0,
        "interpolation": 1.0,
        "weight_decay": 0.0,
        "dropout": False,
        "eval_strategy": "end",
    }
)

# What a head is trained with where nobody asked for more; the paper's base has none.
PLAIN_HEAD: Mapping[str, Any] = MappingProxyType({"head_learning_rate": 5e-3, "pooling": "own", "fit_head": False})

# With ones, with an adapter that was named, with one that was chosen: whether there is a start, whether it was chosen.
BEGINNINGS = ((False, False), (True, False), (True, True))
FROM_THE_PAPER = ("t-few", "t-few-small")  # recipes whose differences from it are told

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe("default", "The defaults of the kind of base; for tables with many rows.", {}),
            Recipe(
                "fast",
                "A higher rate and shorter running means: near the defaults' accuracy in 1000 to 2000 examples, for "
                "tables of hundreds of rows or more.",
                {"learning_rate": 2e-2, "warmup": 0.08, "beta1": 0.8, "beta2": 0.95, "max_steps": 125},
                kinds={"encoder": {"learning_rate": 4e-2, "head_learning_rate": 1e-2, "max_steps": 250}},
            ),
            Recipe(
                "t-few",
                "The paper's, for a handful of rows on a base of a billion parameters or more.",
                PAPER,
                eval_fraction=0.0,
            ),
            Recipe(
                "t-few-small",
                "A tenth of the paper's steps at a higher rate, for a handful of rows on a smaller base.",
                {
                    **PAPER,
                    "optimizer": "adamw",
                    "learning_rate": 8e-3,
                    "warmup": 0.1,
                    "max_steps": 100,
                },
                {
                    "losses": "On Gemma 3 270M the answer's loss alone is better in the same steps, and cheaper; "
                    "many tables are better with an encoder's sentences contrasted.",
                    "optimizer": "AdamW is what the defaults of small bases were found with.",
                    "learning_rate": "For AdamW, found by runs; the paper's is for Adafactor.",
                    "feedforward_rate": "Better in the same steps on Gemma 3 270M from a start.",
                    "batch_size": "Sentences are contrasted with those of their step.",
                    "warmup": "A tenth of the steps.",
                    "frozen_blocks": "The lower half of a start serves as it is, and a step takes half of the time.",
                    "interpolation": "Some of the way back to a start there is less luck (Wortsman et al. 2022).",
                    "max_steps": "A small base is trained on a laptop, in minutes.",
                    "head_learning_rate": "What is fitted to the rows beforehand needs to move little.",
                    "pooling": "Sentence encoders were trained to be read by the mean of their positions.",
                    "fit_head": "So few steps do not bring a drawn head to where a regression on the rows is.",
                },
                kinds={
                    "causal": {"losses": "lm", "learning_rate": 2e-2, "beta1": 0.8, "beta2": 0.95},
                    "encoder": {
                        "losses": "auto",
                        "learning_rate": 2e-2,
                        "head_learning_rate": 5e-4,
                        "batch_size": 64,
                        "max_steps": 40,
                        "pooling": "auto",
                        "fit_head": True,
                        "label_texts": True,
                        "judge": True,
                    },
                },
                started={
                    "causal": {"learning_rate": 8e-3, "feedforward_rate": 3.0, "max_steps": 60, "frozen_blocks": 0.5}
                },
                eval_fraction=0.0,  # a tenth of a handful chooses an epoch by luck
                searches_template=True,
                chooses_start=True,
                # found on 16 rows a label from the tuning parts of tables of sentiment; benchmarks/LOG.md has them
                chosen={"causal": {"interpolation": 0.5}},
                chosen_temperatures={"causal": 1.25},
                temperatures={
                    ("causal", False): 2.5,
                    ("causal", True): 1.65,
                },
            ),
        )
    }
)

# What no setting says.
NOT_THE_PAPERS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "templates": {
            "paper": "several for each task, drawn for each example",
            "here": "one",
            "why": "Your table has no others; write one with --template.",
        },
        "start": {
            "paper": "vectors trained beforehand on the tasks of T0",
            "here": "ones",
            "why": "Those vectors exist for T0 alone; --start begins with others.",
        },
    }
)
OTHER_BASES: Mapping[str, Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "causal": {
            "base": {
                "paper": "encoder-decoder",
                "here": "decoder-only",
                "why": "The prompt is run once and shared by the choices, as the paper's encoder is.",
            }
        },
        "encoder": {
            "head": {
                "paper": "LM + UL + LN over the choices' tokens",
                "here": "cross-entropy of the head",
                "why": "A head has one output a choice: its cross-entropy is LN; LM and UL have no counterpart.",
            }
        },
    }
)
