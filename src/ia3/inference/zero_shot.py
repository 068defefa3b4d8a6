"""Zero-shot: a base without an adapter, asked with a template alone which of the choices it finds most probable.

This file knows bases, templates and tables; how probabilities are calibrated is `calibration`'s matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ia3.bases.kinds import kind_of
from ia3.bases.label_names import read_labels
from ia3.bases.loading import Base, load_base, load_config
from ia3.bases.locating import say_on_stderr
from ia3.data.encoding import Encoded, Encoding
from ia3.data.examples import Example, Origin, Table
from ia3.data.labels import label_set
from ia3.data.templates import Template, check_template, default_template, parse_template
from ia3.data.unknown import describe_unknown_texts
from ia3.errors import SettingsError
from ia3.inference.base_alone import base_alone
from ia3.inference.calibration import calibrate, content_free_prior
from ia3.inference.ensemble import Wording, evaluate_wordings
from ia3.inference.evaluate import TOKEN_BUDGET, Array, Progress, require_answers, score_encoded, softmax
from ia3.inference.metrics import Metrics, score_predictions
from ia3.inference.ranking import count_tokens, rank_scores
from ia3.names import Ranking


def load_zero_shot(
    base: str | Path | Base,
    table: Table,
    *,
    labels: Sequence[str] | None = None,
    template: Template | str | None = None,
    ranking: Ranking = "sum",
    device: str = "auto",
    dtype: str = "auto",
    precision: str = "float",
    say: Callable[[str], None] = lambda line: None,
) -> ZeroShot:
    """Return a base that is asked with a template alone.

    Args:
        base: Name, folder, hub id or GGUF file of a language model, or a loaded one.
        table: Gives the columns, and the labels where they are not given.
        labels: The closed label set; by default all labels of the table.
        template: The words around text and label; by default those of the kind of base.
        ranking: What the labels are compared by: the sum of their tokens' log-probabilities, or the mean.
        device: Where the base goes; not used with a loaded one.
        dtype: Of the base; not used with a loaded one.
        precision: `float`, or `int8` for the weights of the base's blocks; not used with a loaded one.
        say: Told, a line at a time, what takes long.

    Raises:
        SettingsError: If the base is an encoder, whose head knows no labels yet, or the labels look like free text.
        TemplateError: If the template does not fit the table.
    """
    kind = base.kind if isinstance(base, Base) else kind_of(load_config(base, say))
    if kind == "encoder":
        name = base.name if isinstance(base, Base) else base
        raise SettingsError(
            f"Evaluating without an adapter: {str(name)!r} is an encoder, whose head for these labels is not trained, "
            "expected a language model (causal or seq2seq). Train an adapter: ia3 train TABLE --base BASE --output DIR."
        )
    own = table.choices_column
    chosen = (
        ()
        if own is not None
        else read_labels("Evaluating without an adapter", () if labels is None else labels) or _labels_of(table)
    )
    words = parse_template(template) if isinstance(template, str) else template
    words = words or default_template(kind, table.label_column)
    check_template(
        words,
        (*table.columns, *([] if own is None else ["choices"])),
        text_column=table.text_column,
        label_column=table.label_column,
        is_closed=own is None,
    )
    if not isinstance(base, Base):
        base = load_base(base, kind=kind, dtype=dtype, device=device, precision=precision, say=say)
    limits = base.limits
    encoding = Encoding(
        base.tokenizer, kind, words, table.text_column, chosen, limits.usual, table.label_column, own, limits
    )
    return ZeroShot(base, encoding, ranking=ranking, say=say)


def _labels_of(table: Table) -> tuple[str, ...]:
    labels = label_set(table)
    if len(labels) > max(2, len(table.examples) // 2):
        raise SettingsError(
            f"Evaluating without an adapter: the answers look like free text, got {len(labels)} different ones in "
            f"{len(table.examples)} rows, expected labels that repeat. Name the label set: --labels A B."
        )
    return labels


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """A base without an adapter.

    Attributes:
        base: The base.
        encoding: How texts become token ids; it has the labels.
        token_budget: Most tokens of a batch, padding included.
        ranking: What the labels are compared by.
        say: Told how much of the texts the base cannot read, where it cannot.
    """

    base: Base
    encoding: Encoding
    token_budget: int = TOKEN_BUDGET
    ranking: Ranking = "sum"
    say: Callable[[str], None] = say_on_stderr

    def evaluate(self, table: Table, *, is_calibrated: bool = False, on_progress: Progress | None = None) -> Metrics:
        """Return how good the base is on a table with labels.

        Args:
            table: The rows.
            is_calibrated: Whether the probabilities are divided by those behind content-free inputs. The loss is that
                of the answers' tokens either way.
            on_progress: Told the number of rows done, and of all.

        Raises:
            SettingsError: If a row has no label, or one that is not in the label set.
            MetricsError: If there are no rows, or a number is NaN.
        """
        encoded = list(self.encoding.encode(table.examples))
        for note in describe_unknown_texts(self.base.tokenizer, table.examples, [one.prompt_ids for one in encoded]):
            self.say(note)
        with base_alone(self.base.model):
            return self._evaluate(table, encoded, is_calibrated, on_progress)

    def _evaluate(
        self, table: Table, encoded: Sequence[Encoded], is_calibrated: bool, on_progress: Progress | None
    ) -> Metrics:
        if self.encoding.choices_column is not None:
            return self._evaluate_own(encoded, is_calibrated, on_progress)
        require_answers(encoded, is_closed=True)
        scores = self._score(encoded, on_progress)
        gold = [e.choice for e in encoded]
        right = float(-scores[np.arange(len(gold)), gold].sum()) if gold else 0.0
        targets = sum(len(e.target_ids) for e in encoded)
        ranks = self._ranks(scores)
        if is_calibrated and gold:
            prior = content_free_prior(lambda words: self._ranks(self._score_words(words, table.columns)))
            ranks = calibrate(ranks, prior)
        return score_predictions(self.encoding.labels, gold, softmax(ranks), right / max(1, targets))

    def _evaluate_own(self, encoded: Sequence[Encoded], is_calibrated: bool, on_progress: Progress | None) -> Metrics:
        """Return the metrics of rows that bring their own choices."""
        if is_calibrated:
            raise SettingsError(
                "Evaluating without an adapter: calibration compares one label set behind texts without content, and "
                "these rows bring their own choices. Leave --calibrate out."
            )
        return evaluate_wordings(
            self.base,
            [Wording(self.encoding, encoded)],
            self.ranking,
            1.0,
            on_progress,
            pad_id=self.base.pad_id,
            decoder_start_id=self.base.decoder_start_id,
            token_budget=self.token_budget,
        )

    def _ranks(self, scores: Array) -> Array:
        return rank_scores(scores, count_tokens(self.encoding.choice_ids), self.ranking)

    def _score_words(self, texts: Sequence[str], columns: Sequence[str]) -> Array:
        """Return the scores of the choices where every column of a row holds the same text."""
        origins = [Origin("<content-free>", number) for number, _ in enumerate(texts, start=1)]
        rows = [Example(t, None, dict.fromkeys(columns, t), origin) for t, origin in zip(texts, origins, strict=True)]
        return self._score(list(self.encoding.encode(rows)), None)

    def _score(self, encoded: Sequence[Encoded], on_progress: Progress | None) -> Array:
        return score_encoded(
            self.base.model,
            self.base.kind,
            encoded,
            self.encoding.choice_ids,
            pad_id=self.base.pad_id,
            decoder_start_id=self.base.decoder_start_id,
            token_budget=self.token_budget,
            on_progress=on_progress,
        )
