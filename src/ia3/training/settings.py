"""The settings of a training run, with defaults for each kind of base.

This file knows numbers and their ranges; it imports no torch, so that the command line can show defaults quickly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from ia3.errors import SettingsError, near_matches
from ia3.training.recipes import BEGINNINGS, find_recipe

if TYPE_CHECKING:
    from ia3.bases.kinds import Kind

COMPILE = ("auto", "on", "off")
LOSSES = ("lm", "lm+ul+ln")
OPTIMIZERS = ("adamw", "adafactor")
POOLINGS = ("own", "mean", "auto")
EVAL_STRATEGIES = ("epoch", "end")


def settings_for(kind: Kind, *, has_start: bool = False, is_chosen: bool = False, **overrides: Any) -> Settings:
    """Return the defaults of a kind of base with some settings changed: first by the recipe, then as given.

    Args:
        kind: Kind of the base.
        has_start: Whether the run begins with an adapter in place of ones, for which a recipe may have other settings.
        is_chosen: Whether that adapter was chosen, since it knows the labels.
        overrides: Settings by name; None keeps the recipe's. `epochs` without `max_steps` takes a recipe's away, and
            `patience` a recipe's `eval_strategy`.

    Raises:
        SettingsError: For an unknown name or a value outside its range; names all of them.

    Example:
        >>> settings_for("causal", epochs=1).epochs
        1
    """
    known = {field.name for field in fields(Settings)}
    unknown = [name for name in overrides if name not in known]
    if unknown:
        hints = "".join(near_matches(name, known) for name in unknown)
        raise SettingsError(f"Reading the settings: there is no setting {', '.join(map(repr, unknown))}.{hints}")
    given = {name: value for name, value in overrides.items() if value is not None}
    changes = find_recipe(given.get("recipe", "default")).changes_for(kind, has_start=has_start, is_chosen=is_chosen)
    if "epochs" in given:
        changes.pop("max_steps", None)
    if given.get("patience"):
        changes.pop("eval_strategy", None)
    return replace(DEFAULTS[kind], **{**changes, **given})


def usual_temperature(settings: Settings, kind: Kind) -> float | None:
    """Return the temperature that adapters of some settings usually need behind the last step.

    Args:
        settings: Of a run, with what the head reads settled.
        kind: Kind of the base.

    Returns:
        None where it was not measured: for most recipes, for a recipe with a change that makes an adapter more or less
        sure, and for an encoder's head that does not read the mean.

    Example:
        >>> usual_temperature(settings_for("causal"), "causal") is None
        True
    """
    if kind == "encoder" and settings.pooling != "mean":
        return None
    alike = {name: getattr(settings, name) for name in (*_WITHOUT_WEIGHT, *(_OF_NO_HEAD if kind == "encoder" else ()))}
    recipe = find_recipe(settings.recipe)
    for has_start, is_chosen in BEGINNINGS:
        own = settings_for(kind, recipe=recipe.name, has_start=has_start, is_chosen=is_chosen)
        if replace(own, **alike) == settings:
            usual = recipe.temperatures.get((kind, has_start))
            return recipe.chosen_temperatures.get(kind, usual) if is_chosen else usual
    return None


# Settings that leave an adapter as sure as it is: order, memory and time, when to stop where rows are held out, epochs
# where steps are counted; and what means nothing, or was asked for already, where there is a head.
_WITHOUT_WEIGHT = ("seed", "token_budget", "compile", "patience", "eval_strategy", "epochs")
_OF_NO_HEAD = ("losses", "pooling")


def _faults(settings: Settings) -> list[str]:
    odd = [_odd_type(field.name, getattr(settings, field.name)) for field in fields(settings)]
    found = [fault for fault in odd if fault] or _outside_range(settings)
    return [fault for fault in found if fault]


def _outside_range(settings: Settings) -> Sequence[str | None]:
    return (
        _below(settings, "epochs", 1),
        _below(settings, "max_steps", 1) if settings.max_steps is not None else None,
        _below(settings, "batch_size", 1),
        _below(settings, "token_budget", 1),
        _outside(settings, "learning_rate", 0.0, 10.0, "above 0 and at most 10"),
        _outside(settings, "feedforward_rate", 0.0, 100.0, "above 0 and at most 100"),
        _outside(settings, "head_learning_rate", 0.0, 10.0, "above 0 and at most 10"),
        *(
            None
            if 0 <= getattr(settings, name) < 1
            else f"{name} is {getattr(settings, name)}, expected a {what} in [0, 1)"
            for name, what in (
                ("warmup", "share"),
                ("beta1", "number"),
                ("beta2", "number"),
                ("frozen_blocks", "share"),
            )
        ),
        None if 0 <= settings.weight_decay < math.inf else f"weight_decay is {settings.weight_decay}, {_NOT_NEGATIVE}",
        None if 0 <= settings.clip < math.inf else f"clip is {settings.clip}, {_NOT_NEGATIVE}",
        _outside(settings, "interpolation", 0.0, 1.0, "above 0 and at most 1"),
        _below(settings, "patience", 0),
        _not_among(settings, "losses", LOSSES),
        _not_among(settings, "optimizer", OPTIMIZERS),
        _not_among(settings, "compile", COMPILE),
        _not_among(settings, "eval_strategy", EVAL_STRATEGIES),
        f"patience is {settings.patience} and eval_strategy 'end', expected 'epoch', since patience counts epochs"
        if settings.patience and settings.eval_strategy == "end"
        else None,
        _not_among(settings, "pooling", POOLINGS),
        "compile is 'on' and losses 'lm+ul+ln', whose choices go on from a cache that compiled blocks do not take"
        if settings.compile == "on" and settings.losses == "lm+ul+ln"
        else None,
        None if 0 <= settings.seed < 2**32 else f"seed is {settings.seed}, expected a number in [0, 2³²)",
    )


_NOT_NEGATIVE = "expected a number of at least 0"


def _odd_type(name: str, value: Any) -> str | None:
    """Say what is wrong with a value of another type than the default's; a whole number is a number too."""
    if name == "max_steps" and value is None:
        return None
    kind = int if name == "max_steps" else type(getattr(Settings, name))
    is_right = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "a word"}
    return None if is_right else f"{name} is {value!r}, expected {words[kind]}"


def _not_among(settings: Settings, name: str, known: Sequence[str]) -> str | None:
    value = getattr(settings, name)
    return None if value in known else f"{name} is {value!r}, expected one of {', '.join(known)}"


def _below(settings: Settings, name: str, least: int) -> str | None:
    value = getattr(settings, name)
    return None if value >= least else f"{name} is {value}, expected at least {least}"


def _outside(settings: Settings, name: str, low: float, high: float, rule: str) -> str | None:
    value = getattr(settings, name)
    return None if low < value <= high else f"{name} is {value}, expected {rule}"


@dataclass(frozen=True)
class Settings:
    """How an adapter is trained.

    Attributes:
        recipe: Name of the set of settings that these began with; see `ia3.training.recipes`.
        losses: `lm` (cross-entropy of the answer), or `lm+ul+ln` (T-Few's three, over all choices).
        optimizer: `adamw` or `adafactor`.
        epochs: Passes over the training rows; each row exactly once in each.
        max_steps: Ends the run earlier, or later where there are fewer steps in `epochs`; None for no say.
        learning_rate: Highest rate of the vectors; falls linearly to zero.
        feedforward_rate: Rate of the feed-forward vectors over that of keys and values.
        head_learning_rate: Highest rate of a head, for encoders.
        pooling: What an encoder's head reads: `own` is the place that transformers' class has for it, `mean` the mean
            of all positions, `auto` the mean where the base's files say that it was trained for it. A loaded base has
            its own.
        fit_head: Whether the last layer of an encoder's head begins with a logistic regression on the training rows.
        batch_size: Examples of an optimizer step.
        token_budget: Most tokens, padding included, that go through the model at once; only splits a step.
        warmup: Share of the steps in which the rate rises from zero, in [0, 1).
        beta1: Share of its running mean of the gradient that AdamW keeps at a step, in [0, 1).
        beta2: The same of the squared gradient.
        weight_decay: Pull of the vectors towards one (not zero), per step times the rate.
        clip: Largest norm of a step's gradient; 0 for no clipping.
        frozen_blocks: Share of the base's blocks, from its input, whose vectors stay what training began with, in
            [0, 1); an encoder's blocks come before its decoder's. The backward pass ends behind them.
        interpolation: How much of the way from the numbers that training began with to those it ended with is kept, in
            (0, 1]; the α of WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903). A head counts as well.
        dropout: Whether the base's own dropout is on.
        class_weights: Whether rare labels count more, by n / (labels · n_label).
        eval_strategy: When the rows held out are looked at: after each `epoch`, of which the one with the lowest loss
            is kept, or at the `end` alone, where they choose nothing.
        patience: Epochs without a better one after which training ends early; 0 never does.
        compile: Whether the base's blocks are compiled, which takes half a minute: `on`, `off`, or `auto` where the run
            is long enough to repay it.
        seed: Decides order, split, a fresh head and dropout.
    """

    recipe: str = "default"
    losses: str = "lm"
    optimizer: str = "adamw"
    epochs: int = 3
    max_steps: int | None = None
    learning_rate: float = 8e-3
    feedforward_rate: float = 1.0
    head_learning_rate: float = 1e-3
    pooling: str = "own"
    fit_head: bool = False
    batch_size: int = 8
    token_budget: int = 4096
    warmup: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip: float = 1.0
    frozen_blocks: float = 0.0
    interpolation: float = 1.0
    dropout: bool = False
    class_weights: bool = False
    eval_strategy: str = "epoch"
    patience: int = 0
    compile: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        faults = _faults(self)
        if faults:
            raise SettingsError("Checking the settings: " + "; ".join(faults) + ".")
        for field in fields(self):  # 1 and 1.0 are the same setting, and must look the same in the record
            if isinstance(getattr(Settings, field.name), float):
                object.__setattr__(self, field.name, float(getattr(self, field.name)))

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return asdict(self)

    def total_steps(self, examples: int) -> int:
        """Return the number of optimizer steps for a number of training rows."""
        return self.max_steps or self.epochs * self.steps_per_epoch(examples)

    def steps_per_epoch(self, examples: int) -> int:
        """Return the number of optimizer steps of one epoch."""
        return math.ceil(examples / self.batch_size)

    def rate(self, step: int, total: int) -> float:
        """Return the factor on the learning rates at a step, from 0: up over the warm-up, then linearly to zero."""
        warm = round(self.warmup * total)
        if step < warm:
            return (step + 1) / (warm + 1)
        return (total - step) / max(1, total - warm)


# Chosen by runs on real tables; benchmarks/LOG.md has them.
DEFAULTS: Mapping[Kind, Settings] = {
    "causal": Settings(),
    "seq2seq": Settings(),
    "encoder": Settings(epochs=4, learning_rate=2e-2, head_learning_rate=5e-3),
}
