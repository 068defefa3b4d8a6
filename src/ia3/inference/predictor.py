"""A predictor: a base with one adapter and all that is needed to answer texts as the adapter was trained to.

`load_predictor` makes one from an adapter's folder; `classify`, `generate` and `evaluate` use it. This file brings
together the rooms before it; formats of tables that are written are `outputs`' matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ia3.adapters.adapter import Adapter
from ia3.adapters.attached import load
from ia3.adapters.folder import choose_stored, load_adapter
from ia3.adapters.places import find_stored
from ia3.adapters.store import Store
from ia3.adapters.stored import attach_store
from ia3.bases.kinds import Kind, kind_of
from ia3.bases.loading import Base, load_base, load_config
from ia3.bases.locating import say_on_stderr
from ia3.core.attach import Attachment
from ia3.core.strengths import at_strength
from ia3.data.encoding import Encoded, Encoding, longest_input
from ia3.data.examples import Example, Table
from ia3.data.tables import read_table
from ia3.data.templates import Template, check_prompt, default_template, parse_template
from ia3.errors import AdapterError, BaseError, SettingsError
from ia3.inference.ensemble import Wording, average_ranks, evaluate_wordings
from ia3.inference.evaluate import (
    TOKEN_BUDGET,
    Adapters,
    Array,
    Progress,
    require_answers,
    sum_target_losses,
)
from ia3.inference.generate import generate_tokens
from ia3.inference.metrics import Metrics, score_texts
from ia3.inference.mixed import Strengths, classify_mixed, generate_mixed, turned
from ia3.inference.predictions import Prediction, own_predictions, predictions_of
from ia3.inference.ranking import Ranking, count_tokens, rank_scores
from ia3.inference.recorded import Recorded
from ia3.inference.rows import Row, choose_columns_of, read_rows

MOST_NEW_TOKENS = 64  # of free text, unless asked for more
_MOST_EVALUATED_TOKENS = 256  # of free text that is compared with a right answer
T = TypeVar("T")


def load_predictor(
    adapter_folder: str | Path,
    *,
    base: str | Path | Base | None = None,
    labels: Sequence[str] | None = None,
    template: Template | str | None = None,
    name: str | None = None,
    strength: float = 1.0,
    ensemble: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    precision: str = "float",
    say: Callable[[str], None] = say_on_stderr,
) -> Predictor:
    """Return a predictor from an adapter's folder: its base loaded, the adapter on it, its labels and template known.

    Args:
        adapter_folder: A folder of ours or of PEFT's, an id on the hub, or `STORE:NAME` for an adapter of a packed
            store; all of the store's adapters are then there by name, each read when it is asked for.
        base: Another place for the base than the one the adapter names, or a loaded base.
        labels: The label set, for a folder that does not record one; for encoders in the order of the head's outputs.
        template: The template, for a folder that does not record one.
        name: Name of the adapter in the bank; by default the folder's. With a store alone, which of its adapters.
        strength: How much of the adapter is used: 0 is the base, 1 the adapter, −1 its negation.
        ensemble: Whether a closed set's answers are averaged over all templates that are recorded; by default the
            first is used alone.
        device: Where the base goes; not used with a loaded one.
        dtype: Of the base; not used with a loaded one.
        precision: `float`, or `int8` for the weights of the base's blocks; not used with a loaded one.
        say: Told, a line at a time, what takes long or was chosen.

    Returns:
        The predictor. Without labels, recorded or given, a language model's adapter answers with free text.

    Raises:
        AdapterError: If the folder holds no adapter of this base, or names no base.
        BaseError: If the base cannot be loaded.
        SettingsError: If labels or template are given and others are recorded, or an encoder's labels are not known.

    Example:
        >>> predictor = load_predictor("runs/news")  # doctest: +SKIP
        >>> predictor.classify(["Profit rose by 3 %."])[0].prediction  # doctest: +SKIP
        'positive'
    """
    doing = f"Loading adapter from {adapter_folder}"
    adapter, name, store = _find_adapter(doing, adapter_folder, name)
    known = Recorded.read(doing, adapter.record)
    chosen = _agreed(doing, "label set", tuple(labels) if labels else None, known.labels)
    given = parse_template(template) if isinstance(template, str) else template
    words = _agreed(doing, "template", given, known.template)
    if isinstance(base, Base):
        chosen = _labels_of_head(doing, base.model.config) if base.kind == "encoder" and not chosen else chosen
    else:
        try:
            base, chosen = _load_base(
                doing, base or adapter.base_name, adapter.kind, chosen, (dtype, device, precision), say
            )
        except BaseError as error:
            hint = "" if base else " The adapter names this base; if it lies elsewhere, say where: base=… (--base)."
            raise BaseError(f"{error}{hint}") from error
    if adapter.kind is not None and adapter.kind != base.kind:
        raise AdapterError(
            f"{doing}: it is for a base of kind {adapter.kind}, got {base.name!r}, which is {base.kind}."
        )
    attachment = load(base.model, adapter_folder, name) if store is None else attach_store(base.model, store)
    encoding = _encoding_of(base, known, words, chosen)
    own: dict[str, Any] = {"ranking": known.ranking, "temperature": known.temperature, "strength": strength}
    own["others"] = _further_encodings(doing, encoding, known.others) if ensemble else ()
    return Predictor(base, attachment, name, encoding, adapter.record, **own)


def _find_adapter(doing: str, address: str | Path, name: str | None) -> tuple[Adapter, str, Store | None]:
    """Return an adapter, its name in the bank, and the store that it lies in, if it does."""
    stored = find_stored(address)
    if stored is None:
        return load_adapter(address), name or Path(address).absolute().name, None
    if name and stored[1] and name != stored[1]:
        raise SettingsError(f"{doing}: an adapter of a store keeps its name, got name={name!r}. Leave it out.")
    store = Store.open(stored[0])
    chosen = choose_stored(store, stored[1] or name)
    return store.adapter(chosen), chosen, store


def _agreed(doing: str, what: str, given: T | None, recorded: T | None) -> T | None:
    """Return what is recorded, or else given; another one than what is recorded is refused."""
    if given is not None and recorded is not None and given != recorded:
        raise SettingsError(
            f"{doing}: its record has another {what} than the one given, {recorded!r}. The adapter was trained with "
            "that; leave yours out."
        )
    return given if recorded is None else recorded


def _load_base(
    doing: str,
    name: str | Path | None,
    kind: Kind | None,
    labels: tuple[str, ...] | None,
    placement: tuple[str, str, str],
    say: Callable[[str], None],
) -> tuple[Base, tuple[str, ...] | None]:
    """Return the base, and the labels; for an encoder without any those of its config."""
    if name is None:
        raise AdapterError(f"{doing}: it does not say which base it is for. Name it: base=… (--base).")
    if kind is None or (kind == "encoder" and not labels):
        config = load_config(name, say)
        kind = kind or kind_of(config)
        labels = _labels_of_head(doing, config) if kind == "encoder" and not labels else labels
    heads = labels if kind == "encoder" else None
    dtype, device, precision = placement
    base = load_base(name, kind=kind, labels=heads, dtype=dtype, device=device, precision=precision, say=say)
    return base, labels


def _encoding_of(base: Base, known: Recorded, template: Template | None, labels: tuple[str, ...] | None) -> Encoding:
    """Return how an adapter's texts become token ids."""
    return Encoding(
        base.tokenizer,
        base.kind,
        template or default_template(base.kind, known.label_column),
        known.text_column,
        labels or (),
        known.max_length or longest_input(base.tokenizer, base.model.config),
        known.label_column,
        known.choices_column,
    )


def _further_encodings(doing: str, encoding: Encoding, others: Sequence[Template]) -> tuple[Encoding, ...]:
    """Return an encoding for each further template that an ensemble averages over."""
    is_free = not encoding.labels and encoding.choices_column is None
    if not others or is_free:
        what = "it answers with free text" if is_free else "its record has one template"
        raise SettingsError(
            f"{doing}: an ensemble averages the labels' probabilities over several templates, and {what}. Leave "
            "--ensemble out."
        )
    return tuple(replace(encoding, template=other) for other in others)


def _labels_of_head(doing: str, config: Any) -> tuple[str, ...]:
    """Return the labels in a base's config, unless they are placeholders."""
    named = dict(config.id2label or {})
    found = tuple(str(named[i]) for i in sorted(named))
    if not found or found == tuple(f"LABEL_{i}" for i in range(len(found))):
        raise SettingsError(
            f"{doing}: neither its record nor the base's config names the labels of the head. Give them in the order "
            "of the head's outputs: labels=['negative', 'positive']."
        )
    return found


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
            BankError: If the bank has no adapter of this name.
            SettingsError: If an encoder's adapter does not record its labels.
        """
        if adapter == self.adapter:
            return self
        record = self.attachment.records.get(self.attachment.bank.row(adapter), {})
        doing = f"Answering with adapter {adapter!r}"
        known = Recorded.read(doing, record)
        labels = known.labels
        if self.base.kind == "encoder" and not labels:
            labels = _labels_of_head(doing, self.base.model.config)
        encoding = _encoding_of(self.base, known, known.template, labels)
        own: dict[str, Any] = {"ranking": known.ranking, "temperature": known.temperature, "strength": 1.0}
        return replace(self, adapter=adapter, encoding=encoding, record=record, others=(), **own)

    def classify(
        self,
        texts: Sequence[Row],
        on_progress: Progress | None = None,
        *,
        adapters: Sequence[str] | None = None,
        strengths: Strengths | None = None,
    ) -> list[Prediction]:
        """Return the most probable label of each text, with the probability of every label.

        Args:
            texts: Texts, dicts with the columns of the template, or examples; any number.
            on_progress: Told the number of texts done, and of all.
            adapters: Name of the adapter of each text, all in this predictor's bank; they meet in the same batches,
                each with its own template and labels. Left out, the predictor's own answers all.
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
            self._check_no_ensemble()
            return classify_mixed(self, texts, adapters, on_progress, strengths)
        if self.is_free:
            raise SettingsError("Classifying: this adapter answers with free text and has no labels. Use generate.")
        examples = read_rows(texts, self.encoding.text_column, self.encoding.choices_column)
        options = {**self.options(), **turned(self.adapter, strengths, len(examples))}
        ranks = average_ranks(self.base, self._wordings(examples), self.ranking, on_progress, **options)
        if self.encoding.choices_column is not None:
            return own_predictions(ranks, examples)
        return predictions_of(ranks, self.labels, examples, self.temperature)

    def generate(
        self,
        texts: Sequence[Row],
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
        if adapters is not None:
            return generate_mixed(self, texts, adapters, max_new_tokens, on_progress, strengths)
        limit = self.most_new_tokens() if max_new_tokens is None else max_new_tokens
        encoded = self.encode(texts, limit)[1]
        chosen = turned(self.adapter, strengths, len(encoded)).get("adapter")
        return self.answers(encoded, limit, on_progress, chosen)

    def encode(self, texts: Sequence[Row], max_new_tokens: int | None = None) -> tuple[list[Example], list[Encoded]]:
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
        table: Table | str | Path | Sequence[Any],
        *,
        text: str | None = None,
        label: str | None = None,
        skip_bad_rows: bool = False,
        on_progress: Progress | None = None,
    ) -> Metrics:
        """Return how good the adapter is on a table with labels.

        Args:
            table: A table, or what `read_table` reads.
            text: Text column; by default the one trained on, if the table has it.
            label: Label column; by default the one trained on, if the table has it.
            skip_bad_rows: Leave bad rows, and rows with an unknown label, out.
            on_progress: Told the number of rows done, and of all.

        Returns:
            Loss and perplexity per target token (encoders: loss per example); with a label set accuracy, F1, confusion
            and calibration, for free text the share of generated answers that are exactly right.

        Raises:
            TableError: For bad rows and unknown labels, all of them at once.
        """
        if not isinstance(table, Table):
            own = choose_columns_of(table, {"text": self.encoding.text_column, "label": self.encoding.label_column})
            table = read_table(
                table,
                text=text or own["text"],
                label=label or own["label"],
                known_labels=self.labels or None,
                choices=self.encoding.choices_column,
                skip_bad_rows=skip_bad_rows,
            )
        if not self.is_free:
            wordings = self._wordings(table.examples, is_labelled=True)
            options = self.options()
            return evaluate_wordings(self.base, wordings, self.ranking, self.temperature, on_progress, **options)
        encoded = self._encode(self.encoding, table.examples, is_labelled=True)
        return self._evaluate_texts(table.examples, encoded, on_progress)

    def _evaluate_texts(
        self, examples: Sequence[Example], encoded: Sequence[Encoded], on_progress: Progress | None
    ) -> Metrics:
        require_answers(encoded, is_closed=False)
        summed, targets = sum_target_losses(self.base.model, self.base.kind, encoded, **self.options())
        limit = min(_MOST_EVALUATED_TOKENS, max(len(e.target_ids) for e in encoded))
        prompts = self._encode(self._encoding_beside(limit), examples)
        template = self.encoding.template
        gold = [template.render_target(e.label, e.fields) for e in examples if e.label is not None]
        return score_texts(gold, self.answers(prompts, limit, on_progress), summed / targets)

    def _wordings(self, examples: Sequence[Example], *, is_labelled: bool = False) -> list[Wording]:
        return [
            Wording(encoding, self._encode(encoding, examples, is_labelled=is_labelled))
            for encoding in (self.encoding, *self.others)
        ]

    def _check_no_ensemble(self) -> None:
        if self.others:
            raise SettingsError(
                "Classifying: texts with adapters of their own are read with the first template of each, got an "
                "ensemble. Load the predictor without it, or leave adapters out."
            )

    def _encode(self, encoding: Encoding, examples: Sequence[Example], *, is_labelled: bool = False) -> list[Encoded]:
        if examples:
            own = () if encoding.choices_column is None else ("choices",)
            check_prompt(encoding.template, (*examples[0].fields, *own), text_column=encoding.text_column)
        return list(encoding.encode(examples if is_labelled else [replace(e, label=None) for e in examples]))

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

    def ranks(self, scores: Array) -> Array:
        """Return what the labels are compared by, from their tokens' summed log-probabilities."""
        return rank_scores(scores, count_tokens(self.encoding.choice_ids), self.ranking)

    def most_new_tokens(self) -> int:
        """Return the tokens of the longest label's answer, or of free text."""
        return max((len(ids) for ids in self.encoding.choice_ids), default=MOST_NEW_TOKENS)

    def _encoding_beside(self, max_new_tokens: int) -> Encoding:
        """Return the encoding whose prompts leave room for an answer, where prompt and answer share the positions."""
        config: Any = self.base.model.config
        if self.base.kind == "seq2seq":
            room = getattr(config, "max_position_embeddings", None)
            is_enough = room is None or max_new_tokens <= room
            longest = self.encoding.max_length
        else:
            room = longest_input(self.base.tokenizer, config) if self.base.kind == "causal" else None
            is_enough = room is None or max_new_tokens < room
            answer = max((len(ids) for ids in self.encoding.choice_ids), default=0)  # the encoding takes it off again
            limits = [self.encoding.max_length, None if room is None else room - max_new_tokens + answer]
            longest = min((limit for limit in limits if limit is not None), default=None)
        if not is_enough:
            raise SettingsError(
                f"Generating: max_new_tokens is {max_new_tokens}, the base has {room} positions in all. Ask for fewer."
            )
        return self.encoding.with_max_length(longest)

    def options(self) -> dict[str, Any]:
        """Return what scoring and generating are told."""
        return {
            "pad_id": self.base.pad_id,
            "decoder_start_id": self.base.decoder_start_id,
            "adapter": at_strength(self.adapter, self.strength),
            "token_budget": self.token_budget,
        }
