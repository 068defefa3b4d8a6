"""The settings of a training run, with defaults for each kind of base.

A new setting is a field of `Settings`; checks, flags, task files, sweeps and the page on training have it from there.
This file imports no torch, so that the command line can show defaults quickly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ia3.errors import SettingsError, near_matches
from ia3.names import POOLINGS, Kind
from ia3.training.recipes import BEGINNINGS, FOR_FEW_ROWS, RECIPES, find_recipe
from ia3.training.setting import BELOW_ONE, NOT_NEGATIVE, SHARE, Rule, Setting, at_least, one_of, setting, up_to
from ia3.training.setting import value_in_words as in_words


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
    unknown = [name for name in overrides if name not in SETTINGS]
    if unknown:
        hints = "".join(near_matches(name, SETTINGS) for name in unknown)
        raise SettingsError(f"Reading the settings: there is no setting {', '.join(map(repr, unknown))}.{hints}")
    given = {name: value for name, value in overrides.items() if value is not None}
    changes = find_recipe(given.get("recipe", "default")).changes_for(kind, has_start=has_start, is_chosen=is_chosen)
    if "epochs" in given:
        changes.pop("max_steps", None)
    if given.get("patience"):
        changes.pop("eval_strategy", None)
    losses = given.get("losses", "lm")
    if losses in ("contrast", "lm+contrast", "auto") and kind != "encoder":
        raise SettingsError(
            f"Checking the settings: losses is {losses!r} and the base is no encoder, expected lm or lm+ul+ln."
        )
    return replace(DEFAULTS[kind], **{**changes, **given})


def usual_temperature(settings: Settings, kind: Kind) -> float | None:
    """Return the temperature that adapters of some settings usually need behind the last step.

    Args:
        settings: Of a run.
        kind: Kind of the base.

    Returns:
        None where it was not measured: for most recipes, for a recipe with a change that makes an adapter more or less
        sure, and for encoders, whose own rows tell it.

    Example:
        >>> usual_temperature(settings_for("causal"), "causal") is None
        True
    """
    alike = {name: getattr(settings, name) for name, one in SETTINGS.items() if one.is_neutral}
    recipe = find_recipe(settings.recipe)
    for has_start, is_chosen in BEGINNINGS:
        own = settings_for(kind, recipe=recipe.name, has_start=has_start, is_chosen=is_chosen)
        if replace(own, **alike) == settings:
            usual = recipe.temperatures.get((kind, has_start))
            return recipe.chosen_temperatures.get(kind, usual) if is_chosen else usual
    return None


def setting_fault(name: str, value: Any) -> str:
    """Return what is wrong with a setting by itself, "" if nothing is.

    Example:
        >>> setting_fault("clip", -1), setting_fault("clips", 1)
        ('clip is -1, expected a number of at least 0', "there is no setting 'clips'. Did you mean 'clip'?")
    """
    if name not in SETTINGS:
        return f"there is no setting {name!r}.{near_matches(name, SETTINGS)}".removesuffix(".")
    one = SETTINGS[name]
    return "" if value is None and one.default is None else one.rule.fault(name, value)


def default_in_words(name: str) -> str:
    """Return a setting's default, with the kinds of base and the cases in which it is another.

    Example:
        >>> default_in_words("epochs"), default_in_words("eval_strategy")
        ('3; encoders 4', 'epoch; with a recipe for few rows end')
    """
    one = SETTINGS[name]
    found = {kind: getattr(settings, name) for kind, settings in DEFAULTS.items()}
    kinds = [f"{kind}s {in_words(value)}" for kind, value in found.items() if value != one.default]
    return "; ".join(filter(None, [in_words(one.default), *kinds, one.elsewhere]))


def _contradictions(settings: Settings) -> list[str]:
    found = []
    if settings.patience and settings.eval_strategy == "end":
        told = f"patience is {settings.patience} and eval_strategy 'end'"
        found.append(f"{told}, expected 'epoch', since patience counts epochs")
    if settings.compile == "on" and settings.losses == "lm+ul+ln":
        told = "compile is 'on' and losses 'lm+ul+ln'"
        found.append(f"{told}, whose choices go on from a cache that compiled blocks do not take")
    if has_contrast(settings.losses) and settings.pooling == "own":
        found.append(
            f"losses is {settings.losses!r} and pooling 'own', expected 'mean' or 'auto': sentences are contrasted"
        )
    if settings.losses in ("contrast", "auto") and not settings.fit_head:
        told = f"losses is {settings.losses!r} and fit_head False"
        found.append(f"{told}, expected True, or losses 'lm', since a head learns nothing from a contrast")
    return found


def has_contrast(losses: str) -> bool:
    """Whether a setting of losses holds the contrast of sentences."""
    return losses.endswith("contrast")


def is_settled_by_rows(settings: Settings) -> bool:
    """Whether an encoder's training rows decide what its vectors learn from, or whether they are kept."""
    return settings.fit_head and (settings.judge or settings.losses == "auto")


@dataclass(frozen=True)
class Settings:
    """How an adapter is trained; each field is declared with its default, the values that it takes and what it is."""

    recipe: str = setting(
        "default",
        Rule(str),
        f"Settings to begin with: {', '.join(RECIPES)}",
        elsewhere=f"{FOR_FEW_ROWS} where rows are few and no setting of it is given",
    )
    losses: str = setting(
        "lm",
        one_of("lm", "lm+ul+ln", "contrast", "lm+contrast", "auto"),
        "Of the answer alone (an encoder's head: its cross-entropy), of all choices as in T-Few, or of sentences of "
        "one label beside those of others, for an encoder whose head reads the mean; auto, by what the base knows",
        elsewhere=f"{FOR_FEW_ROWS}: auto for encoders",
    )
    contrast_temperature: float = setting(0.2, up_to(10), "What the likeness of contrasted sentences is divided by")
    optimizer: str = setting("adamw", one_of("adamw", "adafactor"), "What takes the steps")
    epochs: int = setting(3, at_least(1), "Passes over the rows", is_neutral=True)  # where steps are counted
    eval_strategy: str = setting(
        "epoch",
        one_of("epoch", "end"),
        "When the rows held out are looked at: after each epoch, of which the best is kept, or at the end alone, where "
        "they choose no epoch",
        elsewhere="with a recipe for few rows end",
        is_neutral=True,
    )
    patience: int = setting(0, at_least(0), "Epochs without a better one, then it ends; 0 never", is_neutral=True)
    max_steps: int | None = setting(None, at_least(1), "Optimizer steps, whatever --epochs says")
    learning_rate: float = setting(8e-3, up_to(10), "Highest rate of the vectors")
    feedforward_rate: float = setting(1.0, up_to(100), "Rate of the feed-forward vectors over that of keys and values")
    head_learning_rate: float = setting(1e-3, up_to(10), "Highest rate of an encoder's head")
    pooling: str = setting(
        "own",
        one_of(*POOLINGS),
        "What an encoder's head reads: its class's own place, the mean of all positions, or auto, the mean where the "
        "base was trained for it",
    )
    fit_head: bool = setting(
        False,
        Rule(bool),
        "Begin the last layer of an encoder's head with a logistic regression on the rows, and fit it again behind the "
        "last step",
        has_no=True,
    )
    label_texts: bool = setting(
        False,
        Rule(bool),
        "Have an encoder learn from each label's own words as from one more row, where that helps a fitted head",
        has_no=True,
    )
    judge: bool = setting(
        False,
        Rule(bool),
        "Judge an encoder's vectors on rows that they have not learned, and keep them only if they are no worse there "
        "than the frozen base with a fitted head",
        has_no=True,
    )
    batch_size: int = setting(8, at_least(1), "Examples of a step")
    token_budget: int = setting(
        4096,
        at_least(1),
        "Most tokens through the base at once; only splits a step",
        is_of_run=True,
        is_neutral=True,
    )
    warmup: float = setting(0.0, SHARE, "Share of steps with a rising rate")
    beta1: float = setting(0.9, BELOW_ONE, "Share of the running mean of the gradient that AdamW keeps at a step")
    beta2: float = setting(
        0.999, BELOW_ONE, "Share of the running mean of the squared gradient that AdamW keeps at a step"
    )
    weight_decay: float = setting(0.0, NOT_NEGATIVE, "Pull of the vectors towards one")
    clip: float = setting(1.0, NOT_NEGATIVE, "Largest norm of a gradient, 0 for any")
    frozen_blocks: float = setting(
        0.0,
        SHARE,
        "Share of the base's blocks, from its input, whose vectors are not trained, which makes a step faster",
        elsewhere=f"{FOR_FEW_ROWS} from a start: 0.5 for language models",
    )
    interpolation: float = setting(  # the α of WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903); a head counts as well
        1.0,
        Rule(float, "a number in [0, 1]", lambda value: 0 <= value <= 1, "SHARE"),
        "How much of the way from the first numbers to the last is kept",
        elsewhere=f"{FOR_FEW_ROWS} from a start that it has chosen: 0.5 for language models",
    )
    dropout: bool = setting(False, Rule(bool), "Turn the base's own dropout on", is_of_run=True)
    class_weights: bool = setting(False, Rule(bool), "Let rare labels count more")  # by n / (labels · n_label)
    compile: str = setting(
        "auto",
        one_of("auto", "on", "off"),
        "Compile the base's blocks, half a minute; auto where the run is long enough",
        is_of_run=True,
        is_neutral=True,
    )
    seed: int = setting(
        0,
        Rule(int, "a number in [0, 2³²)", lambda value: 0 <= value < 2**32, "N"),
        "Of order, split and a new head",
        is_neutral=True,
    )

    def __post_init__(self) -> None:
        faults = [setting_fault(name, getattr(self, name)) for name in SETTINGS]
        if faults := [fault for fault in (*faults, *_contradictions(self)) if fault]:
            raise SettingsError("Checking the settings: " + "; ".join(faults) + ".")
        for name, one in SETTINGS.items():  # 1 and 1.0 are the same setting, and must look the same in the record
            if one.rule.sort is float:
                object.__setattr__(self, name, float(getattr(self, name)))

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


SETTINGS: Mapping[str, Setting] = {one.name: one.metadata["setting"] for one in fields(Settings)}
# Settings of the model and not of a row: all tasks of a run have the same.
OF_THE_RUN = tuple(name for name, one in SETTINGS.items() if one.is_of_run)
# Chosen by runs on real tables; benchmarks/LOG.md has them.
DEFAULTS: Mapping[Kind, Settings] = {
    "causal": Settings(),
    "seq2seq": Settings(),
    "encoder": Settings(epochs=4, learning_rate=2e-2, head_learning_rate=5e-3),
}
Settings.__doc__ = f"{Settings.__doc__}\n\n    Attributes:\n" + "\n".join(
    f"        {name}: {one.help} (default: {default_in_words(name)})." for name, one in SETTINGS.items()
)
