"""The methods that are compared, each from a few rows to metrics on the same test rows.

    zero-shot        the base with the template alone, calibrated against content-free inputs
    lm               ours, recipe t-few-small with the answer's loss alone
    lm+ul+ln         ours, the recipe with the paper's three losses
    start            ours, the recipe with its own losses from vectors that were trained on other tables of sentiment
    start-business   the same from vectors that were trained on the bundled business news as well
    chosen           ours, the recipe with the start that it chooses by itself, of tables that none of them has seen
    peft-ia3, peft-lora, setfit, logistic   the rivals (`fewshot_rivals`)

Ours go through `ia3.train` and `ia3.load`, as a user does. This file knows one cell at a time; nothing of the grid.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import ia3
from benchmarks.fewshot_data import RECIPE, TEMPLATE
from benchmarks.fewshot_rivals import RATES as RIVAL_RATES
from benchmarks.fewshot_rivals import Trial, run_logistic, run_lora, run_peft_ia3, run_setfit
from benchmarks.methods import NotAvailable
from benchmarks.starts import start_version
from ia3.inference.metrics import Metrics
from ia3.inference.zero_shot import load_zero_shot
from ia3.training.recipes import find_recipe
from ia3.training.settings import DEFAULTS, settings_for


def run_zero_shot(trial: Trial) -> Metrics:
    """Return the metrics of the base with the template alone."""
    if trial.base.kind == "encoder":
        raise NotAvailable("an encoder's head knows no labels before it is trained")
    base = load_zero_shot(trial.base, trial.test, labels=trial.labels, template=TEMPLATE, ranking="mean")
    return base.evaluate(trial.test, is_calibrated=True)


def run_lm(trial: Trial) -> Metrics:
    """Return the metrics of our adapter trained with the answer's loss alone; a head has no other loss."""
    if trial.base.kind == "encoder":
        raise NotAvailable("a head has one loss; this is lm+ul+ln")
    return _train(trial, losses="lm", start="none")


def run_three_losses(trial: Trial) -> Metrics:
    """Return the metrics of our adapter trained with the paper's losses; a head has its cross-entropy."""
    return _train(trial, losses="lm+ul+ln", start="none")


def run_with_start(trial: Trial) -> Metrics:
    """Return the metrics of our adapter trained by the recipe from a start that has not seen the table."""
    return _train(trial, start=_start(trial, "start"))


def run_with_business_start(trial: Trial) -> Metrics:
    """Return the metrics of our adapter trained by the recipe from the start for business news."""
    return _train(trial, start=_start(trial, "start-business"))


def run_as_chosen(trial: Trial) -> Metrics:
    """Return the metrics of our adapter trained by the recipe, which chooses what it begins with."""
    return _train(trial)


def _start(trial: Trial, method: str) -> Path:
    if trial.make_start is None:
        raise NotAvailable("there is no such start for this base and table")
    return trial.make_start(STARTS[method])


def _train(trial: Trial, **options: Any) -> Metrics:
    """Train as a user does, with every row and no epoch chosen, and measure what was saved."""
    words = {} if trial.base.kind == "encoder" else {"template": TEMPLATE}
    rate = {} if trial.rate is None else {"learning_rate": trial.rate}
    given = {"recipe": RECIPE, "eval_fraction": 0.0, "seed": trial.seed, **words, **rate, **options}
    with TemporaryDirectory(prefix="ia3-fewshot-") as folder:
        ia3.train(trial.train, trial.base, Path(folder, "run"), **given)
        predictor = ia3.load(Path(folder, "run"), base=trial.base)
        try:
            return predictor.evaluate(trial.test)
        finally:
            predictor.attachment.detach()


METHODS: Mapping[str, Callable[[Trial], Metrics]] = MappingProxyType(
    {
        "zero-shot": run_zero_shot,
        "lm": run_lm,
        "lm+ul+ln": run_three_losses,
        "start": run_with_start,
        "start-business": run_with_business_start,
        "chosen": run_as_chosen,
        "peft-ia3": run_peft_ia3,
        "peft-lora": run_lora,
        "setfit": run_setfit,
        "logistic": run_logistic,
    }
)


def method_version(method: str) -> str | None:
    """Return a hash of how one of ours trains, eight hexadecimal digits; None for a rival or without training.

    A run of an earlier recipe or start is none of this one.
    """
    if method not in OURS:
        return None
    is_chosen = method == "chosen"
    starts = list(STARTS.values()) if is_chosen else [STARTS[method]] if method in STARTS else []
    options = {"has_start": bool(starts), "is_chosen": is_chosen}
    settings = {kind: settings_for(kind, recipe=RECIPE, **options).to_json() for kind in DEFAULTS}
    recipe = find_recipe(RECIPE)
    usual = sorted((*which, temperature) for which, temperature in recipe.temperatures.items())
    usual += [(kind, True, temperature) for kind, temperature in recipe.chosen_temperatures.items() if is_chosen]
    content = json.dumps([settings, usual, [start_version(name) for name in starts], TEMPLATE], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


STARTS: Mapping[str, str] = MappingProxyType({"start": "sentiment", "start-business": "business"})  # by method
OURS = ("lm", "lm+ul+ln", *STARTS, "chosen")

# What `--tune` tries: three values for each method that has a rate, by kind of base. Ours are tried as the rivals are.
RATES: Mapping[str, Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        "lm": {"causal": (1e-2, 2e-2, 4e-2)},
        "lm+ul+ln": {"causal": (8e-3, 1.6e-2, 3e-2), "encoder": (3.5e-3, 7e-3, 1.4e-2)},
        **{method: {"causal": (4e-3, 8e-3, 1.6e-2), "encoder": (3.5e-3, 7e-3, 1.4e-2)} for method in STARTS},
        **RIVAL_RATES,
    }
)
