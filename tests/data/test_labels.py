from __future__ import annotations

import pytest

from ia3.data.labels import describe_similar_labels, label_set
from ia3.data.tables import read_table
from ia3.errors import TableError


def test_the_label_set_is_sorted_and_exact() -> None:
    assert label_set(read_table([("a", "b"), ("b", "B"), ("c", "007"), ("d", "b")])) == ("007", "B", "b")


def test_a_single_label_is_refused_with_its_name() -> None:
    with pytest.raises(TableError) as caught:
        label_set(read_table([("a", "x"), ("b", "x")]))
    assert str(caught.value) == (
        "Reading the labels of <rows>: expected at least two different labels, got only 'x'. "
        "Add rows of another label, or name another column: --label COLUMN."
    )


def test_rows_without_a_label_are_refused() -> None:
    with pytest.raises(TableError) as caught:
        label_set(read_table(["a", "b"], labels_required=False))
    assert str(caught.value) == (
        "Reading the labels of <rows>: the row at <rows>:1 has none. Name the column: --label COLUMN."
    )


def test_labels_that_differ_by_case_or_blanks_are_noted_and_kept() -> None:
    table = read_table([("a", "Yes"), ("b", "yes"), ("c", "no"), ("d", "no "), ("e", "maybe")])
    assert table.notes[-1] == (
        "labels that differ only by case or surrounding blanks, likely one label: 'Yes' and 'yes'; 'no' and 'no '"
    )
    assert [e.label for e in table.examples] == ["Yes", "yes", "no", "no ", "maybe"]


def test_a_long_list_of_similar_labels_is_cut() -> None:
    (note,) = describe_similar_labels(label for i in range(5) for label in (f"l{i}", f"L{i}"))
    assert note.endswith("'L2' and 'l2'; and 2 more")
    assert describe_similar_labels(["a", "b", "a"]) == ()
