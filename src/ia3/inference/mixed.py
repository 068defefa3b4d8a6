"""Different adapters in one batch: each text is answered by its own, with that adapter's template and labels.

Where an ensemble is asked for, a text is read once in each of its adapter's templates, and its ranks are averaged.

This file knows predictors; how rows of a batch reach the model is the core's matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ia3.core.strengths import Choice, at_strength
from ia3.data.choices import split_choices
from ia3.data.encoding import Encoded, Encoding
from ia3.data.examples import Example, quote
from ia3.data.values import plain
from ia3.errors import SettingsError, TableError
from ia3.inference.ensemble import Wording, mean_ranks, rank_worded
from ia3.inference.evaluate import Array, Progress, counted_on, score_encoded
from ia3.inference.predictions import Prediction, predictions_of
from ia3.inference.rows import Row, list_rows, read_rows

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
    texts: Iterable[Row],
    adapters: Sequence[str],
    on_progress: Progress | None = None,
    strengths: Strengths | None = None,
) -> list[Prediction]:
    """Return the most probable label of each text, by its own adapter; see `Predictor.classify`."""
    texts = list_rows(texts)
    adapters = _names(adapters, len(texts))
    own = _predictors(predictor, adapters)
    bare = [name for name, one in own.items() if one.is_free]
    if bare:
        raise SettingsError(
            f"Classifying: adapter {bare[0]!r} answers with free text and has no labels. Use generate for its texts."
        )
    chosen = _choices(own, adapters, strengths)
    asked, examples = _ask(own, texts, adapters)
    ranks: dict[int, list[Array]] = {place: [] for place in examples}
    for one, scores in _score(predictor, asked, chosen, on_progress):
        ranks[one.place].append(rank_worded(Wording(one.encoding, [one.encoded]), scores, own[one.adapter].ranking))
    found = []
    for place, name in enumerate(adapters):
        is_own = own[name].encoding.choices_column is not None
        labels, heat = (examples[place].choices, 1.0) if is_own else (own[name].labels, own[name].temperature)
        found += predictions_of(mean_ranks(ranks[place]), labels, [examples[place]], heat)
    return found


def generate_mixed(
    predictor: Predictor,
    texts: Iterable[Row],
    adapters: Sequence[str],
    max_new_tokens: int | None = None,
    on_progress: Progress | None = None,
    strengths: Strengths | None = None,
) -> list[str]:
    """Return what the base answers to each text, with its own adapter; see `Predictor.generate`."""
    texts = list_rows(texts)
    adapters = _names(adapters, len(texts))
    own = _predictors(predictor, adapters)
    most = max((one.most_new_tokens() for one in own.values()), default=1)
    limit = most if max_new_tokens is None else max_new_tokens
    chosen = _choices(own, adapters, strengths)
    encoded = _encode(own, texts, adapters, limit)
    return predictor.answers(encoded, limit, on_progress, chosen)


def _names(adapters: Sequence[str], count: int) -> list[str]:
    """Return the names as a list, one for each text, whichever library they come from."""
    if isinstance(adapters, str) or len(adapters) != count:
        got = f"the name {adapters!r}" if isinstance(adapters, str) else f"{len(adapters)} adapters"
        raise SettingsError(f"Answering: got {got} for {count} texts, expected a list with one for each text.")
    names = [plain(name) for name in adapters]
    bare = next((place for place, name in enumerate(names, start=1) if name is None), None)
    if bare is not None:
        raise SettingsError(f"Answering: text {bare} of {len(names)} has no adapter, its name is missing.")
    return names


def _predictors(predictor: Predictor, adapters: Sequence[str]) -> dict[str, Predictor]:
    """Return the predictor of each adapter."""
    return {name: predictor.beside(name) for name in dict.fromkeys(adapters)}


def _choices(own: dict[str, Predictor], adapters: Sequence[str], strengths: Strengths | None) -> list[Choice]:
    """Return each text's adapter at the strength asked for, or at its predictor's own."""
    given = read_strengths(strengths, len(adapters)) or [own[name].strength for name in adapters]
    return [at_strength(name, strength) for name, strength in zip(adapters, given, strict=True)]


def _ask(
    own: dict[str, Predictor], texts: Sequence[Row], adapters: Sequence[str]
) -> tuple[list[_Asked], dict[int, Example]]:
    """Return each text as each template of its adapter words it, in the order of texts, and the examples by place."""
    asked: list[_Asked] = []
    examples: dict[int, Example] = {}
    for name, places in _places_of(adapters).items():
        encoding = own[name].encoding
        rows = read_rows([texts[place] for place in places], encoding.text_column, encoding.choices_column)
        read = [_with_choices(row, encoding.choices_column) for row in rows]
        examples |= zip(places, read, strict=True)
        for wording in own[name].wordings(read):
            pairs = zip(places, wording.encoded, strict=True)
            asked += [_Asked(place, name, wording.encoding, encoded) for place, encoded in pairs]
    return sorted(asked, key=lambda one: one.place), examples


def _with_choices(row: Example, column: str | None) -> Example:
    """Return a row with the choices in its column, where its table was read for adapters that have none."""
    if column is None or row.choices or column not in row.fields:
        return row
    try:
        return replace(row, choices=split_choices(row.fields[column]))
    except ValueError as error:
        raise TableError(f"Reading {row.origin}, column {quote(column)}: {error}.") from error


def _score(
    predictor: Predictor, asked: Sequence[_Asked], chosen: Sequence[Choice], on_progress: Progress | None
) -> Iterator[tuple[_Asked, Array]]:
    """Yield what was asked with the scores of its choices, shape (1, choices)."""
    groups: dict[Any, list[_Asked]] = {}  # scored together: classifiers all, else with the same choices, or with own
    for one in asked:
        groups.setdefault((one.encoding.choices_column is not None, one.encoding.choice_ids), []).append(one)
    done = 0
    for (is_own, choice_ids), group in groups.items():
        told = counted_on(on_progress, done, len(asked))
        options = {**predictor.options(), "adapter": [chosen[one.place] for one in group], "on_progress": told}
        part, choices = [one.encoded for one in group], None if is_own else choice_ids
        scored = score_encoded(predictor.base.model, predictor.base.kind, part, choices, **options)
        for one, row in zip(group, scored, strict=True):
            yield one, row[None, : len(one.encoded.choices) if is_own else len(one.encoding.labels)]
        done += len(group)


def _places_of(adapters: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(adapters):
        places.setdefault(name, []).append(place)
    return places


def _encode(
    own: dict[str, Predictor], texts: Sequence[Row], adapters: Sequence[str], max_new_tokens: int
) -> list[Encoded]:
    """Return the token ids of each text as its adapter reads it, in order."""
    encoded: dict[int, Encoded] = {}
    for name, places in _places_of(adapters).items():
        encoded |= zip(places, own[name].encode([texts[place] for place in places], max_new_tokens)[1], strict=True)
    return [encoded[place] for place in range(len(texts))]


@dataclass(frozen=True)
class _Asked:
    """One text as one template of its adapter words it."""

    place: int  # among the texts
    adapter: str
    encoding: Encoding
    encoded: Encoded
