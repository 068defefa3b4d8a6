"""Different adapters in one batch: each text is answered by its own, with that adapter's template and labels.

This file knows predictors; how rows of a batch reach the model is the core's matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ia3.core.strengths import Choice, at_strength
from ia3.data.encoding import Encoded
from ia3.data.examples import Example
from ia3.errors import SettingsError
from ia3.inference.evaluate import Progress, score_encoded
from ia3.inference.predictions import Prediction, predictions_of
from ia3.inference.rows import Row

if TYPE_CHECKING:
    from ia3.inference.predictor import Predictor

Strengths = float | Sequence[float]  # how much of its adapter each text gets: one number for all, or one for each


def turned(adapter: str, strengths: Strengths | None, count: int) -> dict[str, list[Choice]]:
    """Return the option `adapter` of scoring and generating: one at each text's strength; nothing without strengths."""
    given = read_strengths(strengths, count)
    return {} if given is None else {"adapter": [at_strength(adapter, strength) for strength in given]}


def read_strengths(strengths: Strengths | None, count: int) -> list[float] | None:
    """Return a strength for each text.

    Raises:
        SettingsError: If there is not one for each.
    """
    if strengths is None or isinstance(strengths, int | float):
        return None if strengths is None else [strengths] * count
    if len(strengths) != count:
        raise SettingsError(
            f"Answering: got {len(strengths)} strengths for {count} texts, expected one number, or a list with one for "
            "each text."
        )
    return list(strengths)


def classify_mixed(
    predictor: Predictor,
    texts: Sequence[Row],
    adapters: Sequence[str],
    on_progress: Progress | None = None,
    strengths: Strengths | None = None,
) -> list[Prediction]:
    """Return the most probable label of each text, by its own adapter; see `Predictor.classify`."""
    own = _predictors(predictor, texts, adapters)
    bare = [name for name, one in own.items() if not one.labels]
    if bare:
        raise SettingsError(
            f"Classifying: adapter {bare[0]!r} answers with free text and has no labels. Use generate for its texts."
        )
    chosen = _choices(own, adapters, strengths)
    encoded, examples = _encode(own, texts, adapters)
    groups: dict[Any, list[int]] = {}  # texts that are scored together: classifiers all, else with the same choices
    for place, name in enumerate(adapters):
        groups.setdefault(own[name].encoding.choice_ids, []).append(place)
    found: dict[int, Prediction] = {}
    for choice_ids, places in groups.items():
        names = [adapters[place] for place in places]
        options = {**predictor.options(), "adapter": [chosen[place] for place in places]}
        told = None if on_progress is None else _counted(on_progress, len(found), len(texts))
        part = [encoded[place] for place in places]
        scores = score_encoded(predictor.base.model, predictor.base.kind, part, choice_ids, on_progress=told, **options)
        for row, place, name in zip(scores, places, names, strict=True):
            labels = own[name].labels
            ranks = own[name].ranks(row[None, : len(labels)])
            found[place] = predictions_of(ranks, labels, [examples[place]], own[name].temperature)[0]
    return [found[place] for place in range(len(texts))]


def generate_mixed(
    predictor: Predictor,
    texts: Sequence[Row],
    adapters: Sequence[str],
    max_new_tokens: int | None = None,
    on_progress: Progress | None = None,
    strengths: Strengths | None = None,
) -> list[str]:
    """Return what the base answers to each text, with its own adapter; see `Predictor.generate`."""
    own = _predictors(predictor, texts, adapters)
    most = max((one.most_new_tokens() for one in own.values()), default=1)
    limit = most if max_new_tokens is None else max_new_tokens
    chosen = _choices(own, adapters, strengths)
    encoded, _ = _encode(own, texts, adapters, limit)
    return predictor.answers(encoded, limit, on_progress, chosen)


def _predictors(predictor: Predictor, texts: Sequence[Row], adapters: Sequence[str]) -> dict[str, Predictor]:
    """Return the predictor of each adapter."""
    if isinstance(adapters, str) or len(adapters) != len(texts):
        got = f"the name {adapters!r}" if isinstance(adapters, str) else f"{len(adapters)} adapters"
        raise SettingsError(f"Answering: got {got} for {len(texts)} texts, expected a list with one for each text.")
    return {name: predictor.beside(name) for name in dict.fromkeys(adapters)}


def _choices(own: dict[str, Predictor], adapters: Sequence[str], strengths: Strengths | None) -> list[Choice]:
    """Return each text's adapter at the strength asked for, or at its predictor's own."""
    given = read_strengths(strengths, len(adapters)) or [own[name].strength for name in adapters]
    return [at_strength(name, strength) for name, strength in zip(adapters, given, strict=True)]


def _encode(
    own: dict[str, Predictor], texts: Sequence[Row], adapters: Sequence[str], max_new_tokens: int | None = None
) -> tuple[list[Encoded], list[Example]]:
    """Return the token ids of each text as its adapter reads it, and the examples, in order."""
    encoded: dict[int, Encoded] = {}
    examples: dict[int, Example] = {}
    places_of: dict[str, list[int]] = {}
    for place, name in enumerate(adapters):
        places_of.setdefault(name, []).append(place)
    for name, one in own.items():
        places = places_of[name]
        read, ids = one.encode([texts[place] for place in places], max_new_tokens)
        examples |= zip(places, read, strict=True)
        encoded |= zip(places, ids, strict=True)
    return [encoded[place] for place in range(len(texts))], [examples[place] for place in range(len(texts))]


def _counted(on_progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: on_progress(before + done, total)
