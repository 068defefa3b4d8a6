"""What an adapter's record says of how it answers: labels, template, ranking, columns, longest text, temperature.

How the choices are ranked stands beside the template's sources, so that it goes where they go. This file knows plain
values and configs; it runs no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ia3.bases.loading import Base
from ia3.data.encoding import Encoding
from ia3.data.templates import Template, default_template
from ia3.errors import AdapterError, SettingsError
from ia3.names import RANKINGS, Ranking


def words_to_json(
    template: Template, ranking: Ranking | None, others: Sequence[Template] = (), choices_column: str | None = None
) -> dict[str, Any]:
    """Return the record's entry `template`, which `Recorded.read` reads.

    Args:
        template: The words around text and label.
        ranking: What the choices are compared by; None where there are none, or they have no tokens.
        others: Further templates that it was trained with.
        choices_column: The column with each row's own choices.
    """
    words: dict[str, Any] = dict(template.to_json())
    words |= {} if ranking is None else {"ranking": ranking}
    words |= {} if choices_column is None else {"choices_column": choices_column}
    return words | ({"others": [other.to_json() for other in others]} if others else {})


@dataclass(frozen=True)
class Recorded:
    """What an adapter's record says of labels and words."""

    labels: tuple[str, ...] | None
    template: Template | None
    text_column: str
    label_column: str | None
    max_length: int | None
    ranking: Ranking = "sum"
    temperature: float = 1.0  # what the ranks of the labels are divided by
    others: tuple[Template, ...] = ()  # further templates that it was trained with
    choices_column: str | None = None  # where rows bring their own choices

    @staticmethod
    def read(doing: str, record: Mapping[str, Any]) -> Recorded:
        """Return the checked values; a folder of PEFT's has none of them.

        Raises:
            AdapterError: If one is of another type than it must be.
        """
        values = {**(record.get("data") or {}), **record}
        words = values.get("template")
        own: Mapping[str, Any] = words if words is not None and _is_template(words) else {}
        found: dict[str, Any] = {
            "labels": values.get("labels"),
            "template": words,
            "template.others": own.get("others", ()),
            "choices_column": own.get("choices_column"),
            "ranking": own.get("ranking", "sum"),
            "max_length": values.get("max_length"),
            "temperature": (values.get("calibration") or {}).get("temperature", 1.0),
            "text_column or label_column": (values.get("text_column"), values.get("label_column")),
        }
        wrong = [name for name, value in found.items() if not _RULES[name](value)]
        if wrong:
            raise AdapterError(f"{doing}: {', '.join(wrong)} in ia3.json cannot be used. Save the adapter again.")
        text, label = found["text_column or label_column"]
        return Recorded(
            labels=tuple(found["labels"]) if found["labels"] else None,
            template=_template(own) if own else None,
            text_column=text or "text",
            label_column=label,
            max_length=found["max_length"],
            ranking=found["ranking"],
            temperature=float(found["temperature"]),
            others=tuple(map(_template, found["template.others"])),
            choices_column=found["choices_column"],
        )


def _is_template(words: Any) -> bool:
    return isinstance(words, Mapping) and all(isinstance(words.get(part), str) for part in ("prompt", "target"))


def _template(words: Mapping[str, Any]) -> Template:
    return Template(words["prompt"], words["target"])


_RULES: Mapping[str, Callable[[Any], bool]] = {
    "labels": lambda labels: labels is None or all(isinstance(label, str) for label in labels),
    "template": lambda words: words is None or _is_template(words),
    "template.others": lambda others: all(map(_is_template, others)),
    "choices_column": lambda column: isinstance(column, str | None),
    "ranking": lambda ranking: ranking in RANKINGS,
    "max_length": lambda length: length is None or (type(length) is int and length > 0),
    "temperature": lambda heat: type(heat) in (int, float) and 0 < heat < math.inf,
    "text_column or label_column": lambda columns: all(isinstance(column, str | None) for column in columns),
}


def encoding_of(base: Base, known: Recorded) -> Encoding:
    """Return how an adapter's texts become token ids; a longer text than the base has positions for is cut."""
    limits = base.limits
    lengths = [length for length in (known.max_length or limits.usual, limits.reads) if length is not None]
    return Encoding(
        base.tokenizer,
        base.kind,
        known.template or default_template(base.kind, known.label_column),
        known.text_column,
        known.labels or (),
        min(lengths, default=None),
        known.label_column,
        known.choices_column,
        limits,
    )


def labels_for(doing: str, base: Base, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the labels of an adapter on a base: for an encoder without any those of its head.

    Raises:
        SettingsError: If these are placeholders.
    """
    if base.kind != "encoder" or labels:
        return labels
    named = dict(base.model.config.id2label or {})
    found = tuple(str(named[i]) for i in sorted(named))
    if is_unnamed(found):
        raise SettingsError(
            f"{doing}: neither its record nor the base's config names the labels of the head. Give them in the order "
            "of the head's outputs: labels=['negative', 'positive']."
        )
    return found


def is_unnamed(labels: Sequence[str]) -> bool:
    """Whether labels are the placeholders that transformers gives to outputs without names, or there are none."""
    return list(labels) == [f"LABEL_{i}" for i in range(len(labels))]
