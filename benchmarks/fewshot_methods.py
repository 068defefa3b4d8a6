"""The methods that are compared, each from the rows of a cell to what measures it on the test rows.

    zero-shot        the base with the template alone, calibrated against content-free inputs
    auto             ours as a user gets it who gives a table and a base, and nothing else
    head, contrast, cross-entropy, both   ours by part: an encoder's head alone, vectors by one loss, by both (`PARTS`)
    lm               ours, recipe t-few-small with the answer's loss alone
    lm+ul+ln         ours, the recipe with the paper's three losses
    start            ours, the recipe with its own losses from vectors that were trained on other tables of sentiment
    start-business   the same from vectors that were trained on the bundled business news as well
    chosen           ours, the recipe with the start that it chooses by itself, of tables that none of them has seen
    peft-ia3, peft-lora, peft-road, full, logistic, setfit   the rivals (`fewshot_rivals`, `fewshot_setfit`)

Ours go through `ia3.train` and `ia3.load`, as a user does. This file knows one cell at a time; nothing of the grid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import ia3
from benchmarks.fewshot_data import OTHER_TEMPLATE, RECIPE, TEMPLATE
from benchmarks.fewshot_rivals import RATES as RIVAL_RATES
from benchmarks.fewshot_rivals import Measure, Trial, run_full, run_logistic, run_lora, run_peft_ia3, run_road
from benchmarks.fewshot_setfit import run_setfit
from benchmarks.methods import NotAvailable
from benchmarks.starts import start_version
from ia3.inference.metrics import Metrics
from ia3.inference.zero_shot import load_zero_shot
from ia3.training.recipes import find_recipe
from ia3.training.settings import DEFAULTS, settings_for

# Ours by part, on an encoder: settings beside the recipe's, without a start.
PARTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "head": {"interpolation": 0.0, "max_steps": 1},
        "contrast": {"losses": "contrast"},
        "cross-entropy": {"losses": "lm"},
        "both": {"losses": "lm+contrast"},
    }
)


def run_zero_shot(trial: Trial) -> Measure:
    """Take the base with the template alone."""
    if trial.base.kind == "encoder":
        raise NotAvailable("an encoder's head knows no labels before it is trained")
    base = load_zero_shot(trial.base, trial.test, labels=trial.labels, template=trial.template, ranking="mean")
    return lambda: base.evaluate(trial.test, is_calibrated=True)


def run_auto(trial: Trial) -> Measure:
    """Train our adapter with no option but the seed of the draw; starts that have seen the table are left out."""
    return _train(trial, seed=trial.seed, **({"start": "none"} if trial.is_seen else {}))


def run_part(name: str, trial: Trial) -> Measure:
    """Train one of `PARTS`."""
    if trial.base.kind != "encoder":
        raise NotAvailable("the parts are those of an encoder")
    return _train_by_recipe(trial, start="none", **PARTS[name])


def run_losses(losses: str, trial: Trial) -> Measure:
    """Train our adapter of a language model by the recipe with these losses."""
    if trial.base.kind == "encoder":
        raise NotAvailable("a head has one loss; this is cross-entropy")
    return _train_by_recipe(trial, losses=losses, start="none")


def run_with_start(name: str, trial: Trial) -> Measure:
    """Train our adapter by the recipe from a start that has not seen the table."""
    if trial.make_start is None:
        raise NotAvailable("there is no such start for this base and table")
    return _train_by_recipe(trial, start=trial.make_start(name))


def run_as_chosen(trial: Trial) -> Measure:
    """Train our adapter by the recipe, which chooses what it begins with."""
    return _train_by_recipe(trial)


def _train_by_recipe(trial: Trial, **options: Any) -> Measure:
    """Train by the recipe for few rows, with every row and no epoch chosen."""
    words = {} if trial.base.kind == "encoder" else {"template": trial.template}
    rate = {} if trial.rate is None else {"learning_rate": trial.rate}
    return _train(trial, recipe=RECIPE, eval_fraction=0.0, seed=trial.seed, **words, **rate, **options)


def _train(trial: Trial, **options: Any) -> Measure:
    """Train as a user does; what was saved is measured."""
    with TemporaryDirectory(prefix="ia3-fewshot-") as folder:
        ia3.train(trial.train, trial.base, Path(folder, "run"), **options)
        predictor = ia3.load(Path(folder, "run"), base=trial.base)

    def measure() -> Metrics:
        try:
            return predictor.evaluate(trial.test)
        finally:
            predictor.attachment.detach()

    return measure


STARTS: Mapping[str, str] = MappingProxyType({"start": "sentiment", "start-business": "business"})  # by method
RIVALS: Mapping[str, Callable[[Trial], Measure]] = MappingProxyType(
    {
        "peft-ia3": run_peft_ia3,
        "peft-lora": run_lora,
        "peft-road": run_road,
        "full": run_full,
        "logistic": run_logistic,
        "setfit": run_setfit,
    }
)
METHODS: Mapping[str, Callable[[Trial], Measure]] = MappingProxyType(
    {
        "zero-shot": run_zero_shot,
        "auto": run_auto,
        **{name: partial(run_part, name) for name in PARTS},
        **{losses: partial(run_losses, losses) for losses in ("lm", "lm+ul+ln")},
        **{method: partial(run_with_start, name) for method, name in STARTS.items()},
        "chosen": run_as_chosen,
        **RIVALS,
    }
)
OURS = tuple(method for method in METHODS if method not in RIVALS and method != "zero-shot")


def method_version(method: str) -> str | None:
    """Return a hash of how one of ours trains, eight hexadecimal digits; None for a rival or without training.

    A run of an earlier recipe or start is none of this one. It has settings in it, and nothing of what they mean.
    """
    if method not in OURS:
        return None
    is_auto, is_chosen = method == "auto", method in ("auto", "chosen")
    starts = list(STARTS.values()) if is_chosen else [STARTS[method]] if method in STARTS else []
    options = {"has_start": bool(starts), "is_chosen": is_chosen}
    recipes = ("default", RECIPE) if is_auto else (RECIPE,)
    settings = [{kind: settings_for(kind, recipe=name, **options).to_json() for kind in DEFAULTS} for name in recipes]
    recipe = find_recipe(RECIPE)
    usual = sorted((*which, temperature) for which, temperature in recipe.temperatures.items())
    usual += [(kind, True, temperature) for kind, temperature in recipe.chosen_temperatures.items() if is_chosen]
    words = [] if is_auto else [TEMPLATE, OTHER_TEMPLATE]
    made = [settings, usual, [start_version(name) for name in starts], words, dict(PARTS.get(method, {}))]
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:8]


# What `--tune` tries: three values for each method that has a rate, by kind of base. Ours are tried as the rivals are.
RATES: Mapping[str, Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        **{part: {"encoder": (3.5e-3, 7e-3, 1.4e-2)} for part in PARTS if part != "head"},
        "lm": {"causal": (1e-2, 2e-2, 4e-2)},
        "lm+ul+ln": {"causal": (8e-3, 1.6e-2, 3e-2)},
        **{method: {"causal": (4e-3, 8e-3, 1.6e-2), "encoder": (3.5e-3, 7e-3, 1.4e-2)} for method in STARTS},
        **RIVAL_RATES,
    }
)
