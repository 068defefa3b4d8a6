"""What an adapter's record says of how it answers: labels, template, columns, the longest text.

This file knows plain values; it knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ia3.data.templates import Template
from ia3.errors import AdapterError


@dataclass(frozen=True)
class Recorded:
    """What an adapter's record says of labels and words."""

    labels: tuple[str, ...] | None
    template: Template | None
    text_column: str
    label_column: str | None
    max_length: int | None

    @staticmethod
    def read(doing: str, record: Mapping[str, Any]) -> Recorded:
        """Return the checked values; a folder of PEFT's has none of them.

        Raises:
            AdapterError: If one is of another type than it must be.
        """
        values = {**(record.get("data") or {}), **record}
        labels, words, length = values.get("labels"), values.get("template"), values.get("max_length")
        columns = [values.get("text_column"), values.get("label_column")]
        faults = {
            "labels": labels is None or all(isinstance(label, str) for label in labels),
            "template": words is None or all(isinstance(words.get(part), str) for part in ("prompt", "target")),
            "max_length": length is None or (type(length) is int and length > 0),
            "text_column or label_column": all(isinstance(column, str | None) for column in columns),
        }
        wrong = [name for name, is_right in faults.items() if not is_right]
        if wrong:
            raise AdapterError(f"{doing}: {', '.join(wrong)} in ia3.json cannot be used. Save the adapter again.")
        template = Template(words["prompt"], words["target"]) if words else None
        return Recorded(tuple(labels) if labels else None, template, columns[0] or "text", columns[1], length)
