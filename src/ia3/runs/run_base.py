"""The base of a run: of which kind it is, where it is put, and whether its head has the labels of the tables.

A base that is loaded already is taken as it is. This file knows bases and label sets; it knows nothing of folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ia3.bases.kinds import is_classifier, kind_of
from ia3.bases.loading import Base, load_base, load_config
from ia3.bases.pooling import pooling_in
from ia3.errors import SettingsError
from ia3.inference.shortcuts import shortcuts_of
from ia3.names import Kind
from ia3.runs.dataset import SplitTable
from ia3.runs.watch import Say
from ia3.training.settings import Settings


@dataclass(frozen=True)
class Placement:
    """Where a base that is not loaded yet is put, and in which numbers.

    Attributes:
        dtype: `auto`, `float32`, `bfloat16`, ….
        device: `auto`, `cpu`, `cuda`, `mps`, ….
        precision: `float`, or `int8` for the weights of its blocks.
    """

    dtype: str = "auto"
    device: str = "auto"
    precision: str = "float"


def kind_of_base(base: str | Path | Base, placement: Placement, say: Say) -> Kind:
    """Return the kind of the base; a loaded one takes no other dtype, device or precision."""
    if not isinstance(base, Base):
        return kind_of(load_config(base, say))
    given = [
        f"{one.name} {value!r}" for one in fields(placement) if (value := getattr(placement, one.name)) != one.default
    ]
    if given:
        raise SettingsError(
            f"Training {base.name!r}: {' and '.join(given)} cannot be given to a base that is loaded already. Load it "
            f"so: ia3.load_base({base.given!r}, …)."
        )
    return base.kind


def load_for(
    base: str | Path | Base,
    kind: Kind,
    rows: Sequence[SplitTable],
    placement: Placement,
    settings: Sequence[Settings],
    say: Say,
) -> Base:
    """Return the base; an encoder's head is drawn anew, unless all tasks have the labels that it was saved with.

    Args:
        base: Where it is, or a loaded one.
        kind: Its kind.
        rows: Of each task.
        placement: Where it is put.
        settings: Of each run; the first one's seed draws the head, all have one pooling.
        say: Told what takes long or was chosen.

    Raises:
        SettingsError: If a loaded encoder has a head of its own, and the tasks other labels; if its head does not read
            what the settings say, or they say different things.
        BaseError: If a language model's logits depend on what stands behind them.
    """
    pooling = _one_pooling(settings, say)
    if isinstance(base, Base):
        loaded = _as_loaded(base, rows, pooling, say)
    else:
        labels = list(dict.fromkeys(one.labels for one in rows))
        placed = {"kind": kind, **asdict(placement), "pooling": pooling, "seed": settings[0].seed, "say": say}
        loaded = _load(base, kind, labels, placed, say)
    if loaded.kind != "encoder":  # tried here, before anything is written
        shortcuts_of(loaded)
    return loaded


def _as_loaded(base: Base, rows: Sequence[SplitTable], pooling: str, say: Say) -> Base:
    """Return a loaded base, whose head must have the labels of all rows and read what the settings say."""
    if base.kind == "encoder" and not base.head_modules:
        for one in rows:
            in_order_of(base, one)
    if pooling == "mean" and base.kind != "encoder":
        raise SettingsError(f"Training {base.name!r}: pooling 'mean' is for the head of an encoder. Leave it out.")
    if pooling == "mean" and base.pooling != "mean":
        raise SettingsError(
            f"Training {base.name!r}: pooling is 'mean', and the head of the loaded base reads another place. Load "
            f"it so: ia3.load_base({base.given!r}, pooling='mean', …)."
        )
    is_own = base.kind == "encoder" and base.pooling == "own"
    if pooling == "auto" and is_own and pooling_in(Path(base.folder)) == "mean":
        say(
            f"{base.name!r} was trained for the mean of all positions, and the head of the loaded base reads "
            "another place. Load it so: ia3.load_base(…, pooling='auto')."
        )
    return base


def _load(base: str | Path, kind: Kind, labels: Sequence[tuple[str, ...]], placed: Mapping[str, Any], say: Say) -> Base:
    """Return the base, an encoder's with a head for one of the label sets."""
    if kind != "encoder":
        return load_base(base, **placed)
    sets = list(dict.fromkeys(_in_saved_order(base, own, say) for own in labels))
    loaded = load_base(base, labels=sets[0], **placed)
    if len(sets) > 1 and not loaded.head_modules:  # it was saved with the first labels, which are not those of all
        loaded = load_base(base, labels=sets[1], **placed)
    return loaded


def _in_saved_order(base: str | Path, labels: tuple[str, ...], say: Say) -> tuple[str, ...]:
    """Return labels in the order of the classifier that a base was saved with, where it has the same ones."""
    config = load_config(base, say)
    names = config.id2label or {}
    saved = tuple(str(names[i]) for i in sorted(names))
    return saved if is_classifier(config) and sorted(saved) == sorted(labels) else labels


def settled(settings: Settings, base: Base) -> Settings:
    """Return settings with what the head of the base really reads in place of what was asked for.

    Where it is no mean, sentences are not contrasted: what a classifier of transformers reads is drawn at random.
    """
    if base.kind != "encoder":
        return settings
    losses = settings.losses if base.pooling == "mean" else "lm"
    return replace(settings, pooling=base.pooling, losses=losses)


def _one_pooling(settings: Sequence[Settings], say: Say) -> str:
    """Return what the heads of all runs read; `auto` gives way to what another says, and the user is told."""
    said = sorted({own.pooling for own in settings})
    plain = [one for one in said if one != "auto"]
    if len(plain) > 1:
        raise SettingsError(
            f"Training: the runs have the poolings {' and '.join(plain)}, and one base has one. Give all the same, or "
            "train them apart."
        )
    if plain and len(said) > 1:
        say(f"The runs share one base: the heads of all have the pooling {plain[0]!r}, those with 'auto' too.")
    return plain[0] if plain else said[0]


def in_order_of(base: Base, rows: SplitTable, *, is_strict: bool = True) -> SplitTable:
    """Take the labels in the order of a loaded encoder's head.

    Raises:
        SettingsError: If it has other labels; unless the task gets a head of its own, and `is_strict` is false.
    """
    if base.kind != "encoder":
        return rows
    names: dict[int, str] = base.model.config.id2label
    labels = tuple(names[i] for i in sorted(names))
    if set(labels) != set(rows.labels):
        if not is_strict:
            return rows
        raise SettingsError(
            f"Training {base.name!r}: its head has the labels {list(labels)}, the table {list(rows.labels)}. Load it "
            f"for the table: ia3.load_base({base.given!r}, labels={list(rows.labels)})."
        )
    return replace(rows, labels=labels)
