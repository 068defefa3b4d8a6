"""Automatic templates: the frozen base reads some training rows in each of a dozen wordings, and the best is kept.

A candidate's score is the mean log-probability of the right label among the labels, calibrated against texts without
content, since a base that prefers one label whatever the text is has not understood. First the prompts are compared
with the labels as they stand in the table, then the best prompt with other words for the labels. What the choice is
worth is measured by cross-validation: chosen on three quarters of the rows, measured on the rest. This file knows bases
and encodings; reading tables is done before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ia3.bases.loading import Base
from ia3.data.candidates import prompt_candidates, target_candidates
from ia3.data.draws import draw_in_turn
from ia3.data.encoding import Encoded
from ia3.data.examples import Example, Table
from ia3.data.templates import Template, default_template
from ia3.errors import IA3Error, SettingsError
from ia3.inference.asking import Array, score_asked
from ia3.inference.base_alone import base_alone
from ia3.inference.content_free import calibrate
from ia3.inference.temperature import scale
from ia3.inference.zero_shot import ask_base
from ia3.names import Ranking

MOST_ROWS = 32  # that each candidate is scored on
_FOLDS = 4

# What is known of a table from one search for the next: by candidate and token ids of a prompt what the labels are
# compared by, shape (labels,), and by candidate and none what that is behind texts without content.
Known = dict[tuple[Template, tuple[int, ...]], Array]


def search_template(
    base: Base,
    table: Table,
    labels: Sequence[str],
    ranking: Ranking,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
    known: Known | None = None,
) -> Search:
    """Return the template that a base understands best, with the scores of all candidates.

    Args:
        base: The frozen base; a language model.
        table: The training rows; at most 32 of them are read, of each label as many.
        labels: The closed label set.
        ranking: What the labels are compared by.
        seed: Decides which rows are read.
        say: Told what is done.
        known: Filled, and used by a further search on rows of the same table with the same base, labels and ranking.

    Raises:
        SettingsError: For an encoder, free text, or rows with choices of their own.
    """
    _check(base, table, labels)
    examples = draw_in_turn(table, labels, seed, MOST_ROWS)
    usual = default_template(base.kind, table.label_column)
    prompts = tuple(dict.fromkeys((usual, *prompt_candidates(table.label_column))))
    say(f"Comparing {len(prompts)} prompts on {len(examples)} training rows.")
    gold = np.array([labels.index(example.label or "") for example in examples])
    shares: dict[Template, Array] = {}
    known = {} if known is None else known
    faults: list[IA3Error] = []

    def compare(templates: Sequence[Template]) -> None:
        for template in templates:
            try:
                shares[template] = _shares(base, table, labels, template, ranking, examples, known)
            except IA3Error as error:  # it leaves no room for the text, or two labels have the same answer tokens
                faults.append(error)

    with base_alone(base.model):
        compare(prompts)
        if not shares:
            raise SettingsError(
                f"Searching a template: none of the candidates fits the table; of the first: {faults[0]} Or give one: "
                "--template T."
            ) from faults[0]
        compare(target_candidates(_best(shares, gold), labels))
    chosen = _best(shares, gold)
    scored = tuple(Candidate(t, _score(found, gold), _accuracy(found, gold)) for t, found in shares.items())
    return Search(chosen, scored, len(examples), _cross_validated(shares, gold))


def _check(base: Base, table: Table, labels: Sequence[str]) -> None:
    if base.kind == "encoder":
        raise SettingsError(
            f"Searching a template: {base.given!r} is an encoder, whose head has learned nothing yet and understands "
            "no wording better than another. Leave --template auto out."
        )
    if not labels:
        what = "rows bring their own choices" if table.choices_column else "answers are free text"
        raise SettingsError(f"Searching a template: the {what}, expected one label set. Give one: --template T.")


def _shares(
    base: Base,
    table: Table,
    labels: Sequence[str],
    template: Template,
    ranking: Ranking,
    examples: Sequence[Example],
    known: Known,
) -> Array:
    """Return the calibrated probability of each label behind each row, shape (rows, labels)."""
    alone = ask_base(base, table, labels, template, ranking)

    def ranks(encoded: Sequence[Encoded]) -> Array:
        part = alone.wording(alone.encoding, encoded, None)
        return part.ranks(score_asked(base, [part])[0])

    encoded = list(alone.encoding.encode([replace(row, label=None) for row in examples]))
    asked = [(template, tuple(e.prompt_ids)) for e in encoded]
    new = {key: e for key, e in zip(asked, encoded, strict=True) if key not in known}
    if new:
        known |= zip(new, ranks([*new.values()]), strict=True)
    if (template, ()) not in known:
        known[template, ()] = alone.prior(None, table.columns)
    return scale(calibrate(np.stack([known[key] for key in asked]), known[template, ()]))


def _score(shares: Array, gold: Any) -> float:
    return float(np.log(np.maximum(shares[np.arange(len(gold)), gold], 1e-30)).mean())


def _accuracy(shares: Array, gold: Any) -> float:
    return float((shares.argmax(axis=1) == gold).mean())


def _best(shares: dict[Template, Array], gold: Any) -> Template:
    return max(shares, key=lambda template: _score(shares[template], gold))  # of equal ones the first


def _cross_validated(shares: dict[Template, Array], gold: Any) -> float:
    """Return the accuracy of what is chosen on three quarters of the rows, on the others."""
    part = np.arange(len(gold)) // max(1, -(-len(gold) // _FOLDS))  # neighbours are of different labels
    right = 0
    for fold in np.unique(part):
        here = part == fold
        chosen = _best({t: found[~here] for t, found in shares.items()}, gold[~here]) if (~here).any() else None
        found = next(iter(shares.values())) if chosen is None else shares[chosen]
        right += int((found[here].argmax(axis=1) == gold[here]).sum())
    return right / len(gold)


@dataclass(frozen=True)
class Candidate:
    """One template that was tried."""

    template: Template
    score: float  # mean log-probability of the right label among the labels, calibrated, in nats
    accuracy: float


@dataclass(frozen=True)
class Search:
    """What a search has found."""

    template: Template
    candidates: tuple[Candidate, ...]  # in the order in which they were tried
    rows: int  # that each was scored on
    cross_validated: float  # accuracy without training of what is chosen so, on rows that it was not chosen on

    def notes(self) -> tuple[str, ...]:
        """Return what was found, in sentences."""
        best = next(one for one in self.candidates if one.template == self.template)
        return (
            f"Of {len(self.candidates)} templates the base understands this one best on {self.rows} training rows: "
            f"{self.template.prompt!r} ||| {self.template.target!r} (right label {best.score:.3f} nats, "
            f"{100 * best.accuracy:.0f} % right without training; a choice made so is right in "
            f"{100 * self.cross_validated:.0f} % of rows it was not made on).",
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the record, the best candidate first."""
        ranked = sorted(self.candidates, key=lambda one: -one.score)
        return {
            "rows": self.rows,
            "cross_validated_accuracy": self.cross_validated,
            "candidates": [{**one.template.to_json(), "score": one.score, "accuracy": one.accuracy} for one in ranked],
        }
