"""What a table holds, counted before training: labels, lengths, and rows that are cut, repeated or contradictory.

Knows nothing of tokenizers: token counts are given to it. Rules: it counts and names rows, it changes nothing; texts
that differ in blanks and case alone are the same text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ia3.data.duplicates import normal_text
from ia3.data.examples import EMPTY_TEXT, Example, Origin, Table, quote
from ia3.errors import SettingsError

_SHOWN_LABELS = 20
_SHOWN_REPEATS = 3
_RECORDED_LABELS = 1000


def describe_table(table: Table, lengths: Sequence[int] | None = None, max_length: int | None = None) -> TableReport:
    """Return the statistics of a table.

    Args:
        table: The table.
        lengths: Tokens of each example, in the same order, before anything is cut; None if they are not known.
        max_length: Tokens after which an example is cut; None if nothing is.

    Returns:
        The report.

    Raises:
        SettingsError: `lengths` has another number of entries than the table.
    """
    rows = len(table.examples)
    if lengths is not None and len(lengths) != rows:
        raise SettingsError(
            f"Describing a table: got {len(lengths)} lengths, expected one for each of its {rows} rows."
        )
    is_cut = [length > max_length for length in lengths] if lengths is not None and max_length is not None else None
    counts = Counter(example.label for example in table.examples if example.label is not None)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    duplicates, contradictions = _find_repeats(table)
    return TableReport(
        rows=rows,
        labels=tuple(LabelShare(label, count, count / rows) for label, count in ordered),
        unlabelled=rows - counts.total(),
        characters=_summarize([len(example.text) for example in table.examples]),
        tokens=None if lengths is None else _summarize(lengths),
        max_length=max_length,
        truncated=None if is_cut is None else sum(is_cut),
        duplicates=duplicates,
        contradictions=contradictions,
        skipped=len({fault.origin for fault in table.faults}),
        empty=len({fault.origin for fault in table.faults if fault.what == EMPTY_TEXT}),
    )


def _find_repeats(table: Table) -> tuple[tuple[Repeat, ...], tuple[Repeat, ...]]:
    """Return texts that repeat with the same label, and texts that stand with different labels."""
    by_text: dict[str, list[Example]] = {}
    for example in table.examples:
        by_text.setdefault(normal_text(example.text), []).append(example)
    duplicates, contradictions = [], []
    for same in by_text.values():
        text = same[0].text
        by_label: dict[str | None, list[Example]] = {}
        for example in same:
            by_label.setdefault(example.label, []).append(example)
        for label, alike in by_label.items():
            if len(alike) > 1:
                duplicates.append(Repeat(text, (label,) * len(alike), tuple(e.origin for e in alike)))
        if len(by_label) > 1:
            labels = tuple(e.label for e in same)
            contradictions.append(Repeat(text, labels, tuple(e.origin for e in same)))
    return tuple(duplicates), tuple(contradictions)


def _summarize(values: Sequence[int]) -> Quantiles | None:
    if not values:
        return None
    import numpy as np  # which reading a table alone does without

    p25, median, p75, p95 = np.percentile(values, (25, 50, 75, 95)).tolist()
    return Quantiles(min(values), p25, median, p75, p95, max(values))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class LabelShare:
    """How often one label occurs."""

    label: str
    count: int
    share: float  # of all rows, 0 to 1


@dataclass(frozen=True)
class Quantiles:
    """Six numbers that tell how values are spread."""

    min: int
    p25: float
    median: float
    p75: float
    p95: float
    max: int

    def __str__(self) -> str:
        middle = f"quartiles {self.p25:.6g}, {self.median:.6g}, {self.p75:.6g}, 95 % up to {self.p95:.6g}"
        return f"{self.min} to {self.max}, {middle}"


@dataclass(frozen=True)
class Repeat:
    """A text that stands more than once."""

    text: str
    labels: tuple[str | None, ...]  # of its rows, in order
    origins: tuple[Origin, ...]  # of the same rows

    @property
    def extra(self) -> int:
        """Rows beyond the first."""
        return len(self.origins) - 1

    def __str__(self) -> str:
        is_one_file = len({origin.file for origin in self.origins}) == 1
        is_one_label = len(set(self.labels)) == 1
        places = [f"line {origin.line}" if is_one_file else str(origin) for origin in self.origins[:_SHOWN_REPEATS]]
        if not is_one_label:
            places = [f"{place} {quote(label or '')}" for place, label in zip(places, self.labels, strict=False)]
        more = f" and {len(self.origins) - len(places)} more" if len(self.origins) > len(places) else ""
        return f"{quote(self.text, 40)}: {', '.join(places)}{more}"


@dataclass(frozen=True)
class TableReport:
    """What a table holds."""

    rows: int
    labels: tuple[LabelShare, ...]  # most frequent first
    unlabelled: int  # rows without a label
    characters: Quantiles | None  # of the texts; None for a table without rows
    tokens: Quantiles | None  # None: not known
    max_length: int | None
    truncated: int | None  # rows longer than max_length; None: not known
    duplicates: tuple[Repeat, ...]  # same text, same label
    contradictions: tuple[Repeat, ...]  # same text, different labels
    skipped: int  # bad rows that were left out
    empty: int  # those of them that had an empty text

    def lines(self) -> list[str]:
        """Return the report for people, one statement a line."""
        told = [
            f"rows: {self.rows}" + (f", skipped: {self.skipped} ({self.empty} with empty text)" if self.skipped else "")
        ]
        told += self._label_lines()
        if self.characters is not None:
            told.append(f"characters a text: {self.characters}")
        if self.tokens is not None:
            told.append(f"tokens an example: {self.tokens}")
        if self.truncated is not None:
            told.append(f"longer than {self.max_length} tokens, will be cut: {_plural(self.truncated, 'row')}")
        told += _repeat_lines("repeated with the same label", self.duplicates)
        told += _repeat_lines("standing with different labels", self.contradictions)
        return told

    def _label_lines(self) -> list[str]:
        if not self.labels:
            return ["labels: none"]
        shown = [f"{quote(e.label, 30)} {e.count} ({e.share:.1%})" for e in self.labels[:_SHOWN_LABELS]]
        rest = len(self.labels) - len(shown)
        more = [f"and {rest} more"] if rest else []
        bare = [f"without a label {self.unlabelled}"] if self.unlabelled else []
        return [f"labels: {len(self.labels)}: " + ", ".join([*shown, *more, *bare])]

    def to_json(self) -> dict[str, object]:
        """Return the report as JSON values; the rows of the first repeats, the counts of all."""
        spread: Mapping[str, Quantiles | None] = {"characters": self.characters, "tokens": self.tokens}
        return {
            "rows": self.rows,
            "skipped": self.skipped,
            "empty": self.empty,
            "unlabelled": self.unlabelled,
            "different_labels": len(self.labels),
            "labels": [asdict(entry) for entry in self.labels[:_RECORDED_LABELS]],
            **{name: None if values is None else asdict(values) for name, values in spread.items()},
            "max_length": self.max_length,
            "truncated": self.truncated,
            "duplicates": _repeat_json(self.duplicates),
            "contradictions": _repeat_json(self.contradictions),
        }


def _repeat_lines(what: str, repeats: Sequence[Repeat]) -> list[str]:
    if not repeats:
        return []
    extra = sum(repeat.extra for repeat in repeats)
    first = [f"  {repeat}" for repeat in repeats[:_SHOWN_REPEATS]]
    return [f"texts {what}: {len(repeats)} ({_plural(extra, 'row')} beyond the first)", *first]


def _repeat_json(repeats: Sequence[Repeat]) -> dict[str, object]:
    first = [
        {"labels": list(r.labels[:20]), "origins": [str(o) for o in r.origins[:20]]} for r in repeats[:_SHOWN_LABELS]
    ]
    return {"texts": len(repeats), "rows": sum(r.extra for r in repeats), "first": first}
