"""What is measured on what: tables cut in three once and for all, and the cells of the grid in their order.

    tuning    three tenths of a table; learning rates and recipes are found on these rows and nothing is reported
    pool      rows that draws are taken from
    test      rows that every method and draw of a table is measured on

Rows with the same text lie in one part. This file knows tables; it knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ia3.data.duplicates import normal_text
from ia3.data.examples import Table, choose_examples
from ia3.data.splits import group_texts, split_table
from ia3.data.tables import read_table
from ia3.errors import SettingsError

SENTIMENT = ("phrasebank", "reviews", "tweets", "editorials")  # tables that the starts are for
TASKS = {
    "phrasebank": "financial_phrasebank/train.csv",
    "reviews": "vader/reviews.csv",
    "tweets": "vader/tweets.csv",
    "editorials": "vader/editorials.csv",
    "trec": "trec/train.csv",
    "banking77": "banking77/train.csv",
    "hwu64": "hwu64/train.csv",
    "snips": "snips/train.csv",
}
BASES = ("gemma-3-270m", "minilm")
NONE, ALL = 0, -1  # in place of a number of rows a label: what learns from no row, and the whole pool
PER_LABEL = (16, 64, 8, 4, ALL)  # in the order they are measured in
DRAWS = 5
MOST_TEST = 1000  # rows
TEMPLATE = "{{ text }}\\nSentiment: ||| {{ label }}"  # of every method of a language model that is given its words
OTHER_TEMPLATE = "{{ text }}\\nLabel: ||| {{ label }}"  # the same where the labels are no sentiment
RECIPE = "t-few-small"  # of ours; its steps and batch size are the rivals' as well
_TUNING, _TEST = 0.3, 0.6  # of a table; of the rest
_SEED = 2026


@dataclass(frozen=True)
class Cell:
    """One number of the grid.

    Attributes:
        base: Name of the base.
        task: Name of the table.
        per_label: Rows of each label that are learned from, fewer of a label that has fewer; `ALL` or `NONE`.
        draw: Which draw, from 0; the seed of rows and order.
        method: Name of the method.
        rate: Learning rate that is tried on the tuning rows; None for a reported number.
        most_test: Most test rows that it is measured on; None for all.
    """

    base: str
    task: str
    per_label: int
    draw: int
    method: str
    rate: float | None = None
    most_test: int | None = None

    @property
    def key(self) -> str:
        """What tells it from every other."""
        tried = "" if self.rate is None else f" rate {self.rate:g}"
        most = "" if self.most_test is None else f" of {self.most_test}"
        return f"{self.base} {self.task} {spell_count(self.per_label)} {self.draw} {self.method}{tried}{most}"


@dataclass(frozen=True)
class Parts:
    """The three parts of a table."""

    tuning: Table
    pool: Table
    test: Table


def spell_count(per_label: int) -> str:
    """Return a number of rows a label as it is written."""
    return {ALL: "all", NONE: "none"}.get(per_label, str(per_label))


def count_order(per_label: int) -> float:
    """Return what sorts numbers of rows a label: all of them are more than any number."""
    return float("inf") if per_label == ALL else per_label


def template_for(task: str) -> str:
    """Return the words of a table for the language models."""
    return TEMPLATE if task in SENTIMENT else OTHER_TEMPLATE


def find_tables(given: Sequence[str], data: Path) -> dict[str, Path]:
    """Return the files of tables by name, those of the folder of data and the user's.

    Args:
        given: Names of `TASKS`, and `NAME=FILE`.
        data: Folder of the former.

    Raises:
        SettingsError: A name is unknown, or without a file.
    """
    found = {}
    for one in given:
        name, sign, file = one.partition("=")
        if sign and (not name or not file or name in TASKS or name in found):
            raise SettingsError(f"Reading the arguments: --tasks has {one!r}, expected NAME=FILE with a new name.")
        if not sign and name not in TASKS:
            raise SettingsError(
                f"Reading the arguments: there is no table {name!r}, expected some of {', '.join(TASKS)}, or NAME=FILE."
            )
        found[name] = Path(file).expanduser() if sign else data / TASKS[name]
    return found


def cut_table(table: Table, most_test: int | None = None) -> Parts:
    """Return the parts of a table, the same for every run.

    Args:
        table: All rows, with labels.
        most_test: Most rows to measure on; None for all of that part.
    """
    rest, tuning = split_table(table, _TUNING, _SEED)
    pool, test = split_table(rest, _TEST, _SEED)
    return Parts(tuning, pool, _at_most(test, most_test))


def read_parts(path: Path, most_test: int | None = None) -> Parts:
    """Return the parts of the table in a file.

    Raises:
        TableError: If it cannot be read.
    """
    return cut_table(read_table(path, label="label"), most_test)


def draw_at_most(table: Table, per_label: int, seed: int) -> tuple[Table, Table]:
    """Return some rows of each label, no text twice, all texts of a label that has no more; and the other rows.

    Where there are enough it is what `ia3.data.draws.draw_per_label` draws.

    Args:
        table: The table, with a label in every row.
        per_label: How many rows of each label.
        seed: Which of the possible draws.
    """
    examples = table.examples
    room = {example.label: per_label for example in examples}
    drawn: list[int] = []
    for group in group_texts(table, seed):
        row = next((index for index in group if room[examples[index].label]), None)
        if row is not None:
            room[examples[row].label] -= 1
            drawn.append(row)
    texts = {normal_text(examples[row].text) for row in drawn}
    rest = [index for index, example in enumerate(examples) if normal_text(example.text) not in texts]
    return choose_examples(table, sorted(drawn)), choose_examples(table, rest)


def rows_of(parts: Parts, cell: Cell, most_tuned: int = 200) -> tuple[Table, Table]:
    """Return the rows that a cell learns from, and those it is measured on.

    Args:
        parts: Of its table.
        cell: The cell; one that tries a rate has the tuning rows alone.
        most_tuned: Most rows that a rate is measured on.
    """
    if cell.rate is not None:
        drawn, rest = draw_at_most(parts.tuning, cell.per_label, cell.draw)
        return drawn, _at_most(rest, most_tuned)
    if cell.per_label in (NONE, ALL):
        return parts.pool, parts.test
    return draw_at_most(parts.pool, cell.per_label, cell.draw)[0], parts.test


def make_cells(
    bases: Sequence[str],
    tasks: Sequence[str],
    per_label: Sequence[int],
    draws: int,
    methods: Sequence[str],
    *,
    most_test: int | None = None,
) -> Iterator[Cell]:
    """Yield the cells in the order they are measured in: 16 rows a label first, one draw of everything before the next.

    Args:
        bases: Names of bases.
        tasks: Names of tables.
        per_label: Rows of each label; `ALL` for the whole pool, where draws differ in their seed alone.
        draws: How many draws.
        methods: Names of methods; what learns from no rows comes once for each table, and first.
        most_test: Most test rows that they are measured on; None for all.
    """
    pairs = [(base, task) for task in tasks for base in bases]
    if "zero-shot" in methods:
        yield from (Cell(base, task, NONE, 0, "zero-shot", most_test=most_test) for base, task in pairs)
    for count in sorted({*per_label}, key=lambda n: (PER_LABEL.index(n) if n in PER_LABEL else len(PER_LABEL), n)):
        for draw in range(draws):
            for base, task in pairs:
                yield from (
                    Cell(base, task, count, draw, method, most_test=most_test)
                    for method in methods
                    if method != "zero-shot"
                )


def _at_most(table: Table, most: int | None) -> Table:
    """Return a part of a table with every label's share; the whole table if it is small enough."""
    if most is None or len(table.examples) <= most:
        return table
    part = split_table(table, most / len(table.examples), _SEED)[1]
    return choose_examples(part, range(min(most, len(part.examples))))
