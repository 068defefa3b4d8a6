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

from ia3.data.draws import draw_per_label
from ia3.data.examples import Table, choose_examples
from ia3.data.splits import split_table
from ia3.data.tables import read_table

TASKS = {
    "phrasebank": "financial_phrasebank/train.csv",
    "reviews": "vader/reviews.csv",
    "tweets": "vader/tweets.csv",
    "editorials": "vader/editorials.csv",
}
BASES = ("gemma-3-270m", "minilm")
PER_LABEL = (16, 32, 8, 64, 4)  # in the order they are measured in
DRAWS = 5
TEMPLATE = "{{ text }}\\nSentiment: ||| {{ label }}"  # of every method of a language model
RECIPE = "t-few-small"  # of ours; its steps and batch size are the rivals' as well
_TUNING, _TEST = 0.3, 0.6  # of a table; of the rest
_SEED = 2026


@dataclass(frozen=True)
class Cell:
    """One number of the grid.

    Attributes:
        base: Name of the base.
        task: Name of the table.
        per_label: Rows of each label that are learned from; 0 for what learns from none.
        draw: Which draw, from 0; the seed of rows and order.
        method: Name of the method.
        rate: Learning rate that is tried on the tuning rows; None for a reported number.
        is_quick: Whether it is measured on a part of the test rows.
    """

    base: str
    task: str
    per_label: int
    draw: int
    method: str
    rate: float | None = None
    is_quick: bool = False

    @property
    def key(self) -> str:
        """What tells it from every other."""
        tried = "" if self.rate is None else f" rate {self.rate:g}"
        return f"{self.base} {self.task} {self.per_label} {self.draw} {self.method}{tried}{' quick' * self.is_quick}"


@dataclass(frozen=True)
class Parts:
    """The three parts of a table."""

    tuning: Table
    pool: Table
    test: Table


def cut_table(table: Table, most_test: int | None = None) -> Parts:
    """Return the parts of a table, the same for every run.

    Args:
        table: All rows, with labels.
        most_test: Most rows to measure on; None for all of that part.
    """
    rest, tuning = split_table(table, _TUNING, _SEED)
    pool, test = split_table(rest, _TEST, _SEED)
    return Parts(tuning, pool, _at_most(test, most_test))


def read_parts(folder: Path, task: str, most_test: int | None = None) -> Parts:
    """Return the parts of a task's table in a folder of data.

    Raises:
        TableError: If it cannot be read.
    """
    return cut_table(read_table(folder / TASKS[task], label="label"), most_test)


def rows_of(parts: Parts, cell: Cell, most_tuned: int = 200) -> tuple[Table, Table]:
    """Return the rows that a cell learns from, and those it is measured on.

    Args:
        parts: Of its table.
        cell: The cell; one that tries a rate has the tuning rows alone.
        most_tuned: Most rows that a rate is measured on.
    """
    if cell.rate is not None:
        drawn, rest = draw_per_label(parts.tuning, cell.per_label, cell.draw)
        assert rest is not None
        return drawn, _at_most(rest, most_tuned)
    if not cell.per_label:
        return parts.pool, parts.test
    return draw_per_label(parts.pool, cell.per_label, cell.draw)[0], parts.test


def make_cells(
    bases: Sequence[str],
    tasks: Sequence[str],
    per_label: Sequence[int],
    draws: int,
    methods: Sequence[str],
    *,
    is_quick: bool = False,
) -> Iterator[Cell]:
    """Yield the cells in the order they are measured in: 16 rows a label first, one draw of everything before the next.

    Args:
        bases: Names of bases.
        tasks: Names of tables.
        per_label: Rows of each label.
        draws: How many draws.
        methods: Names of methods; what learns from no rows comes once for each table, and first.
        is_quick: Whether they are measured on a part of the test rows.
    """
    pairs = [(base, task) for task in tasks for base in bases]
    if "zero-shot" in methods:
        yield from (Cell(base, task, 0, 0, "zero-shot", is_quick=is_quick) for base, task in pairs)
    for count in sorted(per_label, key=lambda n: (PER_LABEL.index(n) if n in PER_LABEL else len(PER_LABEL), n)):
        for draw in range(draws):
            for base, task in pairs:
                yield from (
                    Cell(base, task, count, draw, method, is_quick=is_quick)
                    for method in methods
                    if method != "zero-shot"
                )


def _at_most(table: Table, most: int | None) -> Table:
    """Return a part of a table with every label's share; the whole table if it is small enough."""
    if most is None or len(table.examples) <= most:
        return table
    part = split_table(table, most / len(table.examples), _SEED)[1]
    return choose_examples(part, range(min(most, len(part.examples))))
