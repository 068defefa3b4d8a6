"""A predictor: a base with one adapter and all that is needed to answer texts as the adapter was trained to.

`loading.load_predictor` makes one from an adapter's folder, `zero_shot.load_zero_shot` one of a base alone. A request
is rows and the adapter of each, shared out to the answerers of these; one adapter is a request of one share. This file
brings together the rooms before it; formats of tables that are written are `outputs`' matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ia3.adapters.config import refuse_task
from ia3.adapters.fitting import check_brought
from ia3.bases.loading import Base
from ia3.core.attach import Attachment, attachment_of
from ia3.core.whole_numbers import whole_number
from ia3.data.examples import Table
from ia3.data.table_files import TableFile, as_read
from ia3.data.tables import read_table
from ia3.errors import SettingsError
from ia3.inference.answerer import Answerer, Share, measure, passes_of, rank_shares, write_shares
from ia3.inference.asking import Progress
from ia3.inference.content_free import calibrate
from ia3.inference.evaluate import Ranked
from ia3.inference.metrics import Metrics
from ia3.inference.predictions import Prediction
from ia3.inference.recorded import Recorded, encoding_of, labels_for
from ia3.inference.rows import Row, Strengths, choose_columns_of, list_rows, read_names, read_strengths
from ia3.starts.packaged import warn_of_seen


def as_recorded(
    base: Base, adapter: str, record: Mapping[str, Any], known: Recorded, *, is_ensemble: bool = False, **more: Any
) -> Predictor:
    """Return the predictor of an adapter that is on a base, as its record says that it answers.

    Args:
        base: The base.
        adapter: Its name in the bank.
        record: What is known of how it came about.
        known: What that says of its answers; labels and template may have been given.
        is_ensemble: Whether answers are averaged over all templates that it records.
        more: Further attributes of the predictor.
    """
    encoding = encoding_of(base, known)
    others = tuple(replace(encoding, template=other) for other in known.others) if is_ensemble else ()
    own: dict[str, Any] = {"ranking": known.ranking, "temperature": known.temperature, "others": others}
    return Predictor(base, adapter, encoding, record, **own, **more)


@dataclass(frozen=True, eq=False)
class Predictor(Answerer):
    """A base with one adapter, its labels and its template, which answers texts; see `Answerer` for its attributes."""

    @property
    def attachment(self) -> Attachment:
        """Handle of the bank that is on the base's model."""
        return attachment_of(self.base.model)

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
        record = self.attachment.bank.record(row)
        doing = f"Answering with adapter {adapter!r}"
        refuse_task(record.get("task"), doing)
        if self.base.kind == "encoder":
            head = self.attachment.bank.snapshot.head(row)
            check_brought(self.base.model, head.paths if head else (), doing, self.base.head_modules)
        known = Recorded.read(doing, record)
        known = replace(known, labels=labels_for(doing, self.base, known.labels))
        more: dict[str, Any] = {"token_budget": self.token_budget, "say": self.say}
        return as_recorded(self.base, adapter, record, known, is_ensemble=bool(self.others), **more)

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
        shares = self._share_out(texts, adapters, strengths)
        free = [share.own.adapter for share in shares if share.own.is_free]
        if free:
            raise SettingsError(
                f"Classifying: adapter {free[0]!r} answers with free text and has no labels. Use generate for its "
                "texts."
            )
        with passes_of(shares):
            ranks = rank_shares(shares, on_progress)
        found: dict[int, Prediction] = {}
        for share, own in zip(shares, ranks, strict=True):
            found |= zip(share.places, share.own.read(own, share.examples), strict=True)
        return [found[place] for place in range(len(found))]

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
            max_new_tokens: Most tokens of an answer; by default those of the longest label, or 64 for free text, and of
                several adapters the largest of theirs.
            on_progress: Told the number of texts done, and of all.
            adapters: As for `classify`.
            strengths: As for `classify`.

        Returns:
            One answer for each text, in order, without blanks around it.

        Raises:
            SettingsError: If the base is an encoder, or has no room for so long an answer.
        """
        if max_new_tokens is not None:
            max_new_tokens = whole_number("Generating", "max_new_tokens", max_new_tokens)
        shares = self._share_out(texts, adapters, strengths)
        most = max((share.own.most_new_tokens() for share in shares), default=1)
        with passes_of(shares):
            answers = write_shares(shares, most if max_new_tokens is None else max_new_tokens, on_progress)
        found: dict[int, str] = {}
        for share, own in zip(shares, answers, strict=True):
            found |= zip(share.places, own, strict=True)
        return [found[place] for place in range(len(found))]

    def evaluate(
        self,
        table: Table | str | Path | TableFile | Iterable[Any],
        *,
        text: str | None = None,
        label: str | None = None,
        skip_bad_rows: bool = False,
        delimiter: str | None = None,
        quotes: bool | None = None,
        is_calibrated: bool = False,
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
            is_calibrated: Whether the labels' probabilities are divided by those behind content-free inputs, which
                helps a base that was never trained on the task. The loss is that of the answers' tokens either way.
            on_progress: Told the number of rows done, and of all.

        Returns:
            Loss and perplexity per target token (encoders: loss per example); with a label set accuracy, F1, confusion
            and calibration, for free text the share of generated answers that are exactly right.

        Raises:
            SettingsError: If rows without a common label set are to be calibrated.
            TableError: For bad rows and unknown labels, all of them at once.

        Warns:
            IA3Warning: If the start that the adapter began with has learned some of the rows.
        """
        if not isinstance(table, Table):
            source = as_read(table, delimiter, quotes)
            table = self.read_table(source, text=text, label=label, skip_bad_rows=skip_bad_rows)
        warn_of_seen(self.record, (example.text for example in table.examples))
        if is_calibrated and (not self.labels or self.encoding.choices_column is not None):
            raise SettingsError(
                "Evaluating: calibration compares one label set behind texts without content, and these rows bring "
                "their own choices or have free text. Leave --calibrate out."
            )
        share = self.share(table.examples)
        with passes_of([share]):
            [answers] = measure([share], on_progress)
            if is_calibrated and isinstance(answers, Ranked) and table.examples:
                answers = replace(answers, ranks=calibrate(answers.ranks, self.prior(share.adapter, table.columns)))
        return answers.metrics()

    def read_table(
        self,
        source: Any,
        *,
        text: str | None = None,
        label: str | None = None,
        choices: str | None = None,
        skip_bad_rows: bool = False,
    ) -> Table:
        """Return a table with right answers as the adapter reads it: by its own columns where the table has them.

        Args:
            source: What `ia3.data.tables.read_table` reads.
            text: Text column; by default the one trained on, if the table has it.
            label: Label column; likewise.
            choices: Column with the choices of each row; by default that of the adapter.
            skip_bad_rows: Leave bad rows, and rows with an unknown label, out.
        """
        own = choose_columns_of(source, {"text": self.encoding.text_column, "label": self.encoding.label_column})
        return read_table(
            source,
            text=text or own["text"],
            label=label or own["label"],
            known_labels=self.labels or None,
            choices=choices or self.encoding.choices_column,
            skip_bad_rows=skip_bad_rows,
        )

    # -- a request, share by share ------------------------------------------------------------------------------------

    def _share_out(
        self, texts: Iterable[Row], adapters: Sequence[str] | None, strengths: Strengths | None
    ) -> list[Share]:
        """Return the rows of each adapter that is asked, in the order of their first ones."""
        rows = list_rows(texts)
        names = [self.adapter] * len(rows) if adapters is None else read_names(adapters, len(rows))
        given = read_strengths(strengths, len(rows))
        places: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            places.setdefault(name, []).append(place)
        own = {name: self.beside(name) for name in places}
        return [
            own[name].share(
                [rows[place] for place in at], at, None if given is None else [given[place] for place in at]
            )
            for name, at in places.items()
        ]
