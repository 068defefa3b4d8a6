"""Draws and folds: the right number of each label, no text on two sides, whatever the order of the rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.data.draws import draw_per_label, make_folds
from ia3.data.duplicates import find_duplicates, normal_text
from ia3.data.examples import Table
from ia3.data.tables import read_table
from ia3.errors import SettingsError, TableError

SEEDS = st.integers(0, 10_000)


def table_of(counts: list[int], repeats: int = 1) -> Table:
    """Return a table with this many texts of each label, each text some times in different spellings."""
    rows = [(f"{label} {row}", f"l{label}") for label, count in enumerate(counts) for row in range(count)]
    return read_table([(" " * again + text.upper(), label) for text, label in rows for again in range(repeats)])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(3, 12), min_size=2, max_size=4), st.integers(1, 3), st.integers(1, 2), SEEDS)
def test_a_draw_has_its_rows_of_each_label_and_shares_no_text_with_the_rest(
    counts: list[int], per_label: int, repeats: int, seed: int
) -> None:
    table = table_of(counts, repeats)
    drawn, rest = draw_per_label(table, per_label, seed)
    assert Counter(e.label for e in drawn.examples) == {f"l{i}": per_label for i in range(len(counts))}
    assert len({normal_text(e.text) for e in drawn.examples}) == len(drawn.examples)
    left = 0 if rest is None else len(rest.examples)
    assert left == len(table.examples) - repeats * len(drawn.examples)
    assert rest is None or not find_duplicates(drawn, rest)
    turned = replace(table, examples=table.examples[::-1])
    assert {normal_text(e.text) for e in draw_per_label(turned, per_label, seed)[0].examples} == {
        normal_text(e.text) for e in drawn.examples
    }


def test_another_seed_is_another_draw_and_all_rows_leave_no_rest() -> None:
    table = table_of([20, 20])
    one, two = (draw_per_label(table, 5, seed)[0].fingerprint for seed in (0, 1))
    assert one != two and one == draw_per_label(table, 5, 0)[0].fingerprint
    assert draw_per_label(table, 20, 0)[1] is None


def test_labels_with_too_few_texts_are_all_named() -> None:
    with pytest.raises(TableError, match=r"fewer different texts of 'l0' 2, 'l2' 3\. Draw fewer \(--per-label\)"):
        draw_per_label(table_of([2, 4, 3], 2), 4, 0)
    with pytest.raises(SettingsError, match="per_label is 0, expected at least 1"):
        draw_per_label(table_of([2, 4]), 0, 0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 15), min_size=2, max_size=4), st.integers(2, 4), st.integers(1, 2), SEEDS)
def test_every_row_is_in_one_fold_a_label_is_spread_evenly_and_no_text_is_on_both_sides(
    counts: list[int], folds: int, repeats: int, seed: int
) -> None:
    table = table_of(counts, repeats)
    made = make_folds(table, folds, seed)
    assert sorted(index for fold in made for index in fold) == list(range(len(table.examples)))
    for label in {e.label for e in table.examples}:
        held = [sum(table.examples[index].label == label for index in fold) for fold in made]
        assert max(held) - min(held) <= repeats
    sizes = [len(fold) for fold in made]
    assert max(sizes) - min(sizes) <= repeats
    texts = [{normal_text(table.examples[index].text) for index in fold} for fold in made]
    assert not any(texts[i] & texts[j] for i in range(folds) for j in range(i))


def test_a_label_with_one_text_is_always_learned_from() -> None:
    table = table_of([1, 6, 6])
    held = [table.examples[index].label for fold in make_folds(table, 3, 0) for index in fold]
    assert Counter(held) == {"l1": 6, "l2": 6}
    assert len([i for fold in make_folds(table, 3, 0, stratify=False) for i in fold]) == 13


@pytest.mark.parametrize("count", [1, 5])
def test_too_few_or_too_many_folds_are_refused(count: int) -> None:
    with pytest.raises(SettingsError, match=f"got {count} folds for 4 different texts that can be held out, .*folds 4"):
        make_folds(table_of([2, 2]), count, 0)
