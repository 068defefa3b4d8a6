"""An answerer: how one adapter of a base words rows, and how it reads what the base says to them.

A request is shared out to the answerers of its adapters (`Share`): each words its own rows; these go through the base
together, by `asking` where choices are scored and by `generate` where text is written; and each reads its own answers.
A base alone is the answerer of row `__base__`. This file knows encodings and shares; requests are `predictor`'s matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from ia3.bases.cache import Say
from ia3.bases.loading import Base
from ia3.bases.locating import say_on_stderr
from ia3.core.strengths import AdapterRef, AdapterRefs, at_strength
from ia3.data.encoding import Encoded, Encoding
from ia3.data.examples import Example
from ia3.data.templates import check_prompt
from ia3.data.unknown import describe_unknown_texts
from ia3.inference.answer_room import encoding_beside, most_new_tokens, most_room
from ia3.inference.asking import TOKEN_BUDGET, Array, Asked, Progress, adapters_of, score_asked
from ia3.inference.base_alone import base_alone
from ia3.inference.content_free import content_free_prior, content_free_rows
from ia3.inference.evaluate import Answers, Written, mean_ranks, rank, score_together
from ia3.inference.generate import generate_tokens
from ia3.inference.predictions import Prediction, own_predictions, predictions_of
from ia3.inference.rows import Row, read_rows
from ia3.names import BASE_NAME, Ranking

MOST_EVALUATED_TOKENS = 256  # of free text that is compared with a right answer


def passes_of(shares: Sequence[Share]) -> AbstractContextManager[None]:
    """Have passes inside be ready for the rows: where nobody but the base answers, those of `base_alone`."""
    is_alone = bool(shares) and all(share.adapter is None for share in shares)
    return base_alone(shares[0].own.base.model) if is_alone else nullcontext()


def measure(shares: Sequence[Share], on_progress: Progress | None = None) -> Sequence[Answers]:
    """Return the answers to rows that carry the right ones, for each share in order.

    Args:
        shares: The rows; all of closed sets, or all of free text.
        on_progress: Told the number of rows done, and of all; each row once for each template of an ensemble.

    Raises:
        SettingsError: If a row has no answer, or one that its adapter does not know.
    """
    if shares[0].own.is_free:
        return _measure_texts(shares, on_progress)
    kind, scored = shares[0].own.base.kind, _score(shares, on_progress, is_labelled=True)
    return [rank(kind, *one, share.own.temperature) for share, one in zip(shares, scored, strict=True)]


def _measure_texts(shares: Sequence[Share], on_progress: Progress | None) -> list[Written]:
    scored = _score(shares, None, is_labelled=True)
    tokens = [[len(e.target_ids) for e in part.encoded] for [part], _ in scored]
    limit = min(most_room(shares[0].own.base, MOST_EVALUATED_TOKENS), max(map(max, tokens)))
    answers = write_shares(shares, limit, on_progress)
    found = []
    for share, written, (_, losses), counts in zip(shares, answers, scored, tokens, strict=True):
        template = share.own.encoding.template
        gold = [template.render_target(e.label or "", e.fields) for e in share.examples]
        found.append(Written(gold, written, tuple(losses), sum(counts)))
    return found


def rank_shares(shares: Sequence[Share], on_progress: Progress | None) -> list[Array]:
    """Return what the choices of each share's rows are compared by, averaged over its templates."""
    return [
        mean_ranks([part.ranks(scores) for part, scores in zip(*one, strict=True)])
        for one in _score(shares, on_progress, is_labelled=False)
    ]


def _score(
    shares: Sequence[Share], on_progress: Progress | None, *, is_labelled: bool
) -> list[tuple[list[Asked], list[Array]]]:
    """Return the rows of each share as its templates word them, and what each wording scores."""
    if not shares:
        return []
    first, score = shares[0].own, score_together if is_labelled else score_asked
    asked = [share.own.asked(share.examples, share.adapter, is_labelled=is_labelled) for share in shares]
    flat = [part for parts in asked for part in parts]
    scored = iter(score(first.base, flat, first.token_budget, on_progress))
    return [(parts, [next(scored) for _ in parts]) for parts in asked]


def write_shares(shares: Sequence[Share], limit: int, on_progress: Progress | None) -> list[list[str]]:
    """Return what the base writes behind the prompts of each share's rows, without blanks around it."""
    if not shares:
        return []
    base: Any = shares[0].own.base
    prompts = [share.own.encode(share.examples, limit)[1] for share in shares]
    found = generate_tokens(
        base,
        [prompt for own in prompts for prompt in own],
        max_new_tokens=limit,
        end_id=base.tokenizer.eos_token_id,
        adapter=adapters_of([share.adapter for share in shares], list(map(len, prompts))),
        token_budget=shares[0].own.token_budget,
        on_progress=on_progress,
    )
    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    texts = iter([base.tokenizer.decode(list(ids), **plain).strip() for ids in found])
    return [[next(texts) for _ in own] for own in prompts]


@dataclass(frozen=True, eq=False)
class Answerer:
    """A base with one adapter, its labels and its template.

    Attributes:
        base: The base; its model has the bank.
        adapter: Name of the adapter in the bank; `__base__` is the base alone, which needs none.
        encoding: How texts become token ids; `encoding.labels` is empty for free text.
        record: What is known of how the adapter came about.
        token_budget: Most tokens of a batch, padding included.
        ranking: What the labels are compared by: the sum of their tokens' log-probabilities, or the mean.
        temperature: What that is divided by before it becomes probabilities.
        strength: How much of the adapter is used where a call does not say.
        others: Encodings with further templates, which a closed set's answers are averaged over.
        say: Told how much of the texts the base cannot read, where it cannot.
    """

    base: Base
    adapter: str
    encoding: Encoding
    record: Mapping[str, Any] = field(default_factory=dict)
    token_budget: int = TOKEN_BUDGET
    ranking: Ranking = "sum"
    temperature: float = 1.0
    strength: float = 1.0
    others: tuple[Encoding, ...] = ()
    say: Say = say_on_stderr

    @property
    def labels(self) -> tuple[str, ...]:
        """The closed label set; empty for free text."""
        return self.encoding.labels

    @property
    def is_free(self) -> bool:
        """Whether it answers with free text: it has no labels, and rows bring no choices."""
        return not self.encoding.labels and self.encoding.choices_column is None

    def share(self, rows: Iterable[Row], places: Sequence[int] = (), strengths: Sequence[float] | None = None) -> Share:
        """Return rows that it answers.

        Args:
            rows: As `classify` takes them.
            places: Where they stand in a request.
            strengths: How much of the adapter each of them gets; by default as much as the predictor says.
        """
        examples = read_rows(rows, self.encoding.text_column, self.encoding.choices_column)
        adapter: AdapterRefs | None = at_strength(self.adapter, self.strength)
        if strengths is not None:
            each: list[AdapterRef] = [at_strength(self.adapter, strength) for strength in strengths]
            adapter = each[0] if len(set(strengths)) == 1 else each
        return Share(self, places, examples, None if self.adapter == BASE_NAME else adapter)

    def asked(
        self, examples: Sequence[Example], adapter: AdapterRefs | None = None, *, is_labelled: bool = False
    ) -> list[Asked]:
        """Return rows as each of its templates words them: the first alone, unless it is an ensemble."""
        return [
            self.wording(encoding, self._encode(encoding, examples, is_labelled=is_labelled), adapter, turn)
            for turn, encoding in enumerate((self.encoding, *self.others))
        ]

    def wording(
        self, encoding: Encoding, encoded: Sequence[Encoded], adapter: AdapterRefs | None, turn: int = 0
    ) -> Asked:
        """Return rows as one template words them."""
        is_own = encoding.choices_column is not None
        choice_ids, labels = ((), ()) if is_own else (encoding.choice_ids, encoding.labels)
        return Asked(encoded, choice_ids, labels, adapter, self.ranking, turn=turn)

    def read(self, ranks: Array, examples: Sequence[Example]) -> list[Prediction]:
        """Return its predictions from what the choices of rows are compared by, shape (rows, choices)."""
        if self.encoding.choices_column is not None:
            return own_predictions(ranks, examples)
        return predictions_of(ranks, self.labels, examples, self.temperature)

    def encode(self, texts: Iterable[Row], max_new_tokens: int | None = None) -> tuple[list[Example], list[Encoded]]:
        """Return texts as examples and as token ids, without labels.

        Args:
            texts: As for `classify`.
            max_new_tokens: Tokens that shall have room behind each; None for those of the labels.
        """
        own = self.encoding
        encoding = own if max_new_tokens is None else encoding_beside(self.base, own, max_new_tokens)
        examples = read_rows(texts, own.text_column, own.choices_column)
        return examples, self._encode(encoding, examples)

    def _encode(self, encoding: Encoding, examples: Sequence[Example], *, is_labelled: bool = False) -> list[Encoded]:
        if examples:
            own = () if encoding.choices_column is None else ("choices",)
            check_prompt(encoding.template, (*examples[0].fields, *own), text_column=encoding.text_column)
        encoded = list(encoding.encode(examples if is_labelled else [replace(e, label=None) for e in examples]))
        for note in describe_unknown_texts(encoding.tokenizer, examples, [one.prompt_ids for one in encoded]):
            self.say(note)
        return encoded

    def most_new_tokens(self) -> int:
        """Return the tokens of the longest label's answer, or of free text as many as the base has room for."""
        return most_new_tokens(self.base, self.encoding)

    def prior(self, adapter: AdapterRefs | None, columns: Sequence[str]) -> Array:
        """Return what the labels are compared by behind texts without content; see `content_free`."""
        rows = content_free_rows(columns)
        ranks = []
        for encoding in (self.encoding, *self.others):
            part = self.wording(encoding, list(encoding.encode(rows)), adapter)
            ranks.append(part.ranks(score_asked(self.base, [part], self.token_budget)[0]))
        return content_free_prior(mean_ranks(ranks))


@dataclass(frozen=True, eq=False)
class Share:
    """The rows of a request that one adapter answers."""

    own: Answerer
    places: Sequence[int]  # where they stand in the request
    examples: Sequence[Example]
    adapter: AdapterRefs | None  # at a strength, or at one for each row; None is the base alone
