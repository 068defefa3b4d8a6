from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.data.duplicates import find_duplicates, normal_text
from ia3.data.examples import Table
from ia3.data.splits import split_table
from ia3.data.tables import read_table
from ia3.errors import SettingsError, TableError

_FRACTIONS = st.floats(0.01, 0.99)
_SEEDS = st.integers(0, 10_000)


def _rows(table: Table) -> Counter[tuple[str, str | None, int]]:
    return Counter((e.text, e.label, e.origin.line) for e in table.examples)


def _distinct(counts: list[int]) -> Table:
    """Return a table with this many rows of each label, no text twice."""
    return read_table([(f"{label} {row}", f"l{label}") for label, count in enumerate(counts) for row in range(count)])


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("xyz")), min_size=2, max_size=40),
    fraction=_FRACTIONS,
    seed=_SEEDS,
    stratify=st.booleans(),
)
def test_a_split_loses_nothing_and_shares_no_text(
    rows: list[tuple[str, str]], fraction: float, seed: int, stratify: bool
) -> None:
    table = read_table(rows)
    try:
        train, held = split_table(table, fraction, seed, stratify=stratify)
    except TableError:
        # Refused only if every text takes all rows of some label with it.
        assert all(
            any(all(t == text for t, n in rows if not stratify or n == label) for other, label in rows if other == text)
            for text, _ in rows
        )
        return
    assert _rows(train) + _rows(held) == _rows(table)
    assert find_duplicates(train, held) == ()
    assert train.examples
    assert held.examples
    for side in (train, held):
        assert [e.origin.line for e in side.examples] == sorted(e.origin.line for e in side.examples)
    if stratify:
        assert {e.label for e in train.examples} == {e.label for e in table.examples}


@settings(max_examples=80, deadline=None)
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=5), fraction=_FRACTIONS, seed=_SEEDS)
def test_the_share_of_every_label_is_within_one_row(counts: list[int], fraction: float, seed: int) -> None:
    if max(counts) < 2:
        counts = [*counts, 2]
    _, held = split_table(_distinct(counts), fraction, seed)
    held_counts = Counter(e.label for e in held.examples)
    for label, count in enumerate(counts):
        assert abs(held_counts[f"l{label}"] - count * fraction) <= 1
        assert held_counts[f"l{label}"] < count
    assert len(held.examples) <= max(1, round(sum(counts) * fraction))


def test_a_tenth_of_many_rows_is_a_tenth_of_each_label() -> None:
    train, held = split_table(_distinct([600, 300, 100]), 0.1, seed=0)
    assert Counter(e.label for e in held.examples) == {"l0": 60, "l1": 30, "l2": 10}
    assert len(train.examples) == 900


def test_a_label_with_a_single_row_stays_in_training() -> None:
    train, _ = split_table(_distinct([1, 1, 6]), 0.9, seed=3)
    assert {e.label for e in train.examples} == {"l0", "l1", "l2"}


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    table = _distinct([50, 50])
    first, again, other = (split_table(table, 0.2, seed) for seed in (1, 1, 2))
    assert first == again
    assert first[1].fingerprint != other[1].fingerprint
    assert len(other[1].examples) == len(first[1].examples)


def test_a_split_is_the_same_on_every_machine() -> None:
    _, held = split_table(_distinct([5, 5]), 0.4, seed=0)
    assert [e.text for e in held.examples] == ["0 2", "0 3", "1 1", "1 2"]


def test_rows_with_the_same_text_stay_together() -> None:
    rows = [("twice", "x"), ("twice", "x"), ("both", "x"), ("both", "y")]
    rows += [(f"t{i}", "xy"[i % 2]) for i in range(20)]
    table = read_table(rows)
    for seed in range(20):
        train, held = split_table(table, 0.5, seed)
        assert find_duplicates(train, held) == ()
        counts = Counter(e.label for e in held.examples)
        assert abs(counts["x"] - 6.5) <= 2
        assert abs(counts["y"] - 5.5) <= 2


def test_free_text_targets_split_plainly() -> None:
    table = read_table([(f"question {i}", f"answer {i}") for i in range(20)])
    _, held = split_table(table, 0.25, 0, stratify=False)
    assert len(held.examples) == 5
    with pytest.raises(TableError) as caught:
        split_table(table, 0.25, 0)
    assert str(caught.value) == (
        "Splitting <rows>: no row can be held out, got 20 rows of 20 texts and 20 labels, expected a label with two "
        "different texts. Add rows, or give a table to evaluate on; a split of free-text targets takes stratify=False."
    )


def test_tables_without_labels_split_plainly() -> None:
    _, held = split_table(read_table([f"t{i}" for i in range(10)], labels_required=False), 0.3, 0)
    assert len(held.examples) == 3


def test_both_sides_have_a_row_whatever_the_fraction() -> None:
    for fraction, sizes in ((0.001, (2, 1)), (0.999, (1, 2))):
        train, held = split_table(_distinct([3]), fraction, 0)
        assert (len(train.examples), len(held.examples)) == sizes


def test_a_table_of_pairs_of_equal_rows_can_still_be_split() -> None:
    table = read_table([(f"t{i // 2}", "x") for i in range(6)])
    train, held = split_table(table, 0.1, 0)
    assert (len(train.examples), len(held.examples)) == (4, 2)


@pytest.mark.parametrize("rows", [[("a", "x")], [("a", "x"), ("a", "x")], [("a", "x"), ("b", "y")]])
def test_tables_that_cannot_be_split_are_refused(rows: list[tuple[str, str]]) -> None:
    with pytest.raises(TableError, match="Splitting <rows>: no row can be held out"):
        split_table(read_table(rows), 0.5, 0)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), True, "0.1"])
def test_fractions_out_of_range_are_refused(fraction: float) -> None:
    with pytest.raises(SettingsError) as caught:
        split_table(_distinct([5, 5]), fraction, 0)
    assert str(caught.value) == (
        f"Splitting the table: the share to hold out is out of range, got {fraction!r}, expected a number between "
        "0 and 1. Give for example --eval-fraction 0.1."
    )


def test_skipped_rows_belong_to_neither_side(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\nb,x\n,x\n")
    train, held = split_table(read_table(path, skip_bad_rows=True), 0.5, 0)
    assert (train.faults, held.faults) == ((), ())


def test_texts_that_differ_in_blanks_and_case_alone_stay_together() -> None:
    table = read_table([(spelling, "xy"[i % 2]) for i in range(12) for spelling in (f"text {i}", f"TEXT  {i}")])
    for seed in range(5):
        train, held = split_table(table, 0.3, seed)
        assert not {normal_text(e.text) for e in train.examples} & {normal_text(e.text) for e in held.examples}
        assert len(held.examples) % 2 == 0
