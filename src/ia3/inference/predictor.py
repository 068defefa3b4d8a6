"""A predictor: a base with one adapter and all that is needed to answer texts as the adapter was trained to.

`loading.load_predictor` makes one from an adapter's folder; `classify`, `generate` and `evaluate` use it. This file
brings together the rooms before it; formats of tables that are written are `outputs`' matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ia3.adapters.config import refuse_task
from ia3.adapters.fitting import check_brought
from ia3.bases.cache import Say
from ia3.bases.loading import Base
from ia3.bases.locating import say_on_stderr
from ia3.core.attach import Attachment
from ia3.core.strengths import at_strength
from ia3.core.whole_numbers import whole_number
from ia3.data.encoding import Encoded, Encoding
from ia3.data.examples import Example, Table
from ia3.data.table_files import TableFile, as_read
from ia3.data.tables import read_table
from ia3.data.templates import check_prompt
from ia3.data.unknown import describe_unknown_texts
from ia3.errors import SettingsError
from ia3.inference.ensemble import Wording, average_ranks, evaluate_wordings
from ia3.inference.evaluate import (
    TOKEN_BUDGET,
    Adapters,
    Progress,
    require_answers,
    sum_target_losses,
)
from ia3.inference.generate import generate_tokens
from ia3.inference.metrics import Metrics, score_texts
from ia3.inference.mixed import Strengths, classify_mixed, generate_mixed, turned
from ia3.inference.predictions import Prediction, own_predictions, predictions_of
from ia3.inference.recorded import Recorded, encoding_of, labels_of_head
from ia3.inference.rows import Row, choose_columns_of, read_rows
from ia3.names import Ranking
from ia3.starts.packaged import warn_of_seen

MOST_NEW_TOKENS = 64  # of free text, unless asked for more
MOST_EVALUATED_TOKENS = 256  # of free text that is compared with a right answer
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Predictor:
    """A base with one adapter, its labels and its template.

    Attributes:
        base: The base; its model has the bank.
        attachment: Handle of the bank.
        adapter: Name of the adapter in the bank.
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
    attachment: Attachment
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

    def beside(self, adapter: str) -> Predictor:
        """Return the predictor of another adapter of the same bank, as its record says that it answers.

        Raises:
            AdapterError: If it is for another task, or neither it nor the base has a head that was trained.
            BankError: If the bank has no adapter of this name.
            SettingsError: If an encoder's adapter does not record its labels.
        """
        if adapter == self.adapter:
            return self
        row = self.attachment.bank.row(adapter)
        record = self.attachment.records.get(row, {})
        doing = f"Answering with adapter {adapter!r}"
        refuse_task(record.get("task"), doing)
        if self.base.kind == "encoder":
            head = self.attachment.bank.snapshot.heads.get(row)
            check_brought(self.base.model, head.paths if head else (), doing, self.base.head_modules)
        known = Recorded.read(doing, record)
        labels = known.labels
        if self.base.kind == "encoder" and not labels:
            labels = labels_of_head(doing, self.base.model.config)
        encoding = encoding_of(self.base, known, known.template, labels)
        others = tuple(replace(encoding, template=other) for other in known.others) if self.others else ()
        own: dict[str, Any] = {"ranking": known.ranking, "temperature": known.temperature, "strength": 1.0}
        return replace(self, adapter=adapter, encoding=encoding, record=record, others=others, **own)

    def classify(
        self,
        texts: Iterable[Row],
        on_progress: Progress | None = None,
        *,
        adapters: Sequence[str] | None = None,
        strengths: Strengths | None = None,
    ) -> list[Prediction]:
        """Return the most probable label of each text, with the probability of every label.

        Args:
            texts: Texts, dicts with the columns of the template, or examples, any number; or a table or a column of
                pandas, numpy, Arrow or `datasets`.
            on_progress: Told the number of texts done, and of all.
            adapters: Name of the adapter of each text, all in this predictor's bank; they meet in the same batches,
                each with its own template and labels; if this predictor is an ensemble, with all templates that it
                records. Left out, the predictor's own answers all.
            strengths: How much of the adapter each text gets, or one number for all: 0 is the base, 1 the adapter. A
                head is used as it is. Left out, the predictor's own.

        Returns:
            One prediction for each text, in order.

        Raises:
            BankError: If the bank has no adapter of a name.
            SettingsError: If an adapter answers with free text, or there is not one for each text.
            TableError: For a text that is empty.
            TemplateError: If the template needs a column that is not there.
        """
        if adapters is not None:
            return classify_mixed(self, texts, adapters, on_progress, strengths)
        if self.is_free:
            raise SettingsError("Classifying: this adapter answers with free text and has no labels. Use generate.")
        examples = read_rows(texts, self.encoding.text_column, self.encoding.choices_column)
        options = {**self.options(), **turned(self.adapter, strengths, len(examples))}
        ranks = average_ranks(self.base, self.wordings(examples), self.ranking, on_progress, **options)
        if self.encoding.choices_column is not None:
            return own_predictions(ranks, examples)
        return predictions_of(ranks, self.labels, examples, self.temperature)

    def generate(
        self,
        texts: Iterable[Row],
        max_new_tokens: int | None = None,
        on_progress: Progress | None = None,
        *,
        adapters: Sequence[str] | None = None,
        strengths: Strengths | None = None,
    ) -> list[str]:
        """Return what the base answers to each text: the most probable token again and again, until the end token.

        Args:
            texts: As for `classify`.
            max_new_tokens: Most tokens of an answer; by default those of the longest label, or 64 for free text.
            on_progress: Told the number of texts done, and of all.
            adapters: As for `classify`; by default the limit is then the largest of theirs.
            strengths: As for `classify`.

        Returns:
            One answer for each text, in order, without blanks around it.

        Raises:
            SettingsError: If the base is an encoder, or has no room for so long an answer.
        """
        if max_new_tokens is not None:
            max_new_tokens = whole_number("Generating", "max_new_tokens", max_new_tokens)
        if adapters is not None:
            return generate_mixed(self, texts, adapters, max_new_tokens, on_progress, strengths)
        limit = self.most_new_tokens() if max_new_tokens is None else max_new_tokens
        encoded = self.encode(texts, limit)[1]
        chosen = turned(self.adapter, strengths, len(encoded)).get("adapter")
        return self.answers(encoded, limit, on_progress, chosen)

    def encode(self, texts: Iterable[Row], max_new_tokens: int | None = None) -> tuple[list[Example], list[Encoded]]:
        """Return texts as examples and as token ids, without labels.

        Args:
            texts: As for `classify`.
            max_new_tokens: Tokens that shall have room behind each; None for those of the labels.
        """
        encoding = self.encoding if max_new_tokens is None else self._encoding_beside(max_new_tokens)
        examples = read_rows(texts, self.encoding.text_column, self.encoding.choices_column)
        return examples, self._encode(encoding, examples)

    def evaluate(
        self,
        table: Table | str | Path | TableFile | Iterable[Any],
        *,
        text: str | None = None,
        label: str | None = None,
        skip_bad_rows: bool = False,
        delimiter: str | None = None,
        quotes: bool | None = None,
        on_progress: Progress | None = None,
    ) -> Metrics:
        """Return how good the adapter is on a table with labels.

        Args:
            table: A table, or what `read_table` reads.
            text: Text column; by default the one trained on, if the table has it.
            label: Label column; by default the one trained on, if the table has it.
            skip_bad_rows: Leave bad rows, and rows with an unknown label, out.
            delimiter: As for `read_table`.
            quotes: Likewise.
            on_progress: Told the number of rows done, and of all.

        Returns:
            Loss and perplexity per target token (encoders: loss per example); with a label set accuracy, F1, confusion
            and calibration, for free text the share of generated answers that are exactly right.

        Raises:
            TableError: For bad rows and unknown labels, all of them at once.

        Warns:
            IA3Warning: If the start that the adapter began with has learned some of the rows.
        """
        if not isinstance(table, Table):
            source = as_read(table, delimiter, quotes)
            own = choose_columns_of(source, {"text": self.encoding.text_column, "label": self.encoding.label_column})
            table = read_table(
                source,
                text=text or own["text"],
                label=label or own["label"],
                known_labels=self.labels or None,
                choices=self.encoding.choices_column,
                skip_bad_rows=skip_bad_rows,
            )
        warn_of_seen(self.record, (example.text for example in table.examples))
        if not self.is_free:
            wordings = self.wordings(table.examples, is_labelled=True)
            options = self.options()
            return evaluate_wordings(self.base, wordings, self.ranking, self.temperature, on_progress, **options)
        encoded = self._encode(self.encoding, table.examples, is_labelled=True)
        return self._evaluate_texts(table.examples, encoded, on_progress)

    def _evaluate_texts(
        self, examples: Sequence[Example], encoded: Sequence[Encoded], on_progress: Progress | None
    ) -> Metrics:
        require_answers(encoded, is_closed=False)
        summed, targets = sum_target_losses(self.base.model, self.base.kind, encoded, **self.options())
        limit = min(most_room(self.base, MOST_EVALUATED_TOKENS), max(len(e.target_ids) for e in encoded))
        prompts = self._encode(self._encoding_beside(limit), examples)
        template = self.encoding.template
        gold = [template.render_target(e.label, e.fields) for e in examples if e.label is not None]
        return score_texts(gold, self.answers(prompts, limit, on_progress), summed / targets)

    def wordings(self, examples: Sequence[Example], *, is_labelled: bool = False) -> list[Wording]:
        """Return rows as each of its templates words them: the first alone, unless it is an ensemble."""
        return [
            Wording(encoding, self._encode(encoding, examples, is_labelled=is_labelled))
            for encoding in (self.encoding, *self.others)
        ]

    def _encode(self, encoding: Encoding, examples: Sequence[Example], *, is_labelled: bool = False) -> list[Encoded]:
        if examples:
            own = () if encoding.choices_column is None else ("choices",)
            check_prompt(encoding.template, (*examples[0].fields, *own), text_column=encoding.text_column)
        encoded = list(encoding.encode(examples if is_labelled else [replace(e, label=None) for e in examples]))
        for note in describe_unknown_texts(encoding.tokenizer, examples, [one.prompt_ids for one in encoded]):
            self.say(note)
        return encoded

    def answers(
        self,
        encoded: Sequence[Encoded],
        limit: int,
        on_progress: Progress | None,
        adapters: Adapters | None = None,
    ) -> list[str]:
        """Return what the base writes behind each prompt, with its own adapter or with one for each."""
        tokenizer: Any = self.base.tokenizer
        answers = generate_tokens(
            self.base.model,
            self.base.kind,
            encoded,
            max_new_tokens=limit,
            end_id=tokenizer.eos_token_id,
            on_progress=on_progress,
            **(self.options() if adapters is None else {**self.options(), "adapter": adapters}),
        )
        plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return [tokenizer.decode(list(ids), **plain).strip() for ids in answers]

    def most_new_tokens(self) -> int:
        """Return the tokens of the longest label's answer, or of free text as many as the base has room for."""
        return most_new_tokens(self.base, self.encoding)

    def _encoding_beside(self, max_new_tokens: int) -> Encoding:
        """Return the encoding whose prompts leave room for an answer, where prompt and answer share the positions."""
        limits, longest = self.base.limits, self.encoding.max_length
        is_causal = self.base.kind == "causal"
        room = limits.reads if is_causal else limits.writes
        if room is not None and max_new_tokens > room - is_causal:
            beside = " for prompt and answer" if is_causal else " for an answer"
            raise SettingsError(
                f"Generating: max_new_tokens is {max_new_tokens}, and the base has {room} positions{beside}. Ask for "
                "fewer."
            )
        if not is_causal or longest is None:
            return self.encoding
        left = longest if limits.usual is None else limits.usual - max_new_tokens
        if room is None:  # the base runs on behind the length it was trained with: half of it is always the prompt's
            left = max(left, longest // 2)
        answer = max((len(ids) for ids in self.encoding.choice_ids), default=0)  # the encoding takes it off again
        return self.encoding.with_max_length(min(longest, left + answer))

    def options(self) -> dict[str, Any]:
        """Return what scoring and generating are told."""
        return {
            "pad_id": self.base.pad_id,
            "decoder_start_id": self.base.decoder_start_id,
            "adapter": at_strength(self.adapter, self.strength),
            "token_budget": self.token_budget,
        }


def most_new_tokens(base: Base, encoding: Encoding) -> int:
    """Return the tokens of the longest label's answer, or of free text as many as the base has room for."""
    longest = max((len(ids) for ids in encoding.choice_ids), default=0)
    return longest or most_room(base, MOST_NEW_TOKENS)


def most_room(base: Base, tokens: int) -> int:
    """Return so many tokens of an answer or, where a base has fewer positions, what is left beside a prompt."""
    limits = base.limits
    room = limits.writes if base.kind == "seq2seq" else limits.reads and max(1, limits.reads // 2)
    return tokens if room is None else min(tokens, room)
