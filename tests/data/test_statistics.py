from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ia3.data.statistics import describe_table
from ia3.data.tables import read_table
from ia3.errors import SettingsError


def test_a_report_counts_labels_lengths_and_rows_that_are_cut() -> None:
    table = read_table([("a" * n, "x" if n < 4 else "y") for n in (1, 2, 3, 4)])
    report = describe_table(table, [1, 2, 3, 4], max_length=2)
    assert [(e.label, e.count, e.share) for e in report.labels] == [("x", 3, 0.75), ("y", 1, 0.25)]
    assert report.characters == report.tokens
    assert report.tokens is not None
    assert (report.tokens.min, report.tokens.p25, report.tokens.median, report.tokens.max) == (1, 1.75, 2.5, 4)
    assert report.tokens.p95 == pytest.approx(3.85)
    assert report.truncated == 2
    assert report.lines() == [
        "rows: 4",
        "labels: 2: 'x' 3 (75.0%), 'y' 1 (25.0%)",
        "characters a text: 1 to 4, quartiles 1.75, 2.5, 3.25, 95 % up to 3.85",
        "tokens an example: 1 to 4, quartiles 1.75, 2.5, 3.25, 95 % up to 3.85",
        "longer than 2 tokens, will be cut: 2 rows",
    ]


def test_repeated_and_contradictory_texts_are_told_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\nb,x\na,x\nb,y\na,x\nc,x\na,x\n")
    report = describe_table(read_table(path))
    assert report.lines()[-4:] == [
        "texts repeated with the same label: 1 (3 rows beyond the first)",
        "  'a': line 2, line 4, line 6 and 1 more",
        "texts standing with different labels: 1 (1 row beyond the first)",
        "  'b': line 3 'x', line 5 'y'",
    ]
    recorded = report.to_json()
    assert recorded["duplicates"] == {
        "texts": 1,
        "rows": 3,
        "first": [{"labels": ["x"] * 4, "origins": [f"{path}:{line}" for line in (2, 4, 6, 8)]}],
    }
    assert recorded["contradictions"] == {
        "texts": 1,
        "rows": 1,
        "first": [{"labels": ["x", "y"], "origins": [f"{path}:3", f"{path}:5"]}],
    }


def test_repeats_across_files_name_the_files(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("text,label\nsame,x\n")
    assert describe_table(read_table(tmp_path)).lines()[-1] == f"  'same': {tmp_path}/a.csv:2, {tmp_path}/b.csv:2"


def test_skipped_rows_are_counted_the_empty_ones_among_them(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\na,x\n,y\n,\nb\n")
    report = describe_table(read_table(path, skip_bad_rows=True))
    assert (report.skipped, report.empty) == (3, 2)
    assert report.lines()[0] == "rows: 1, skipped: 3 (2 with empty text)"


def test_tables_without_labels_or_with_very_many_are_told_shortly() -> None:
    assert describe_table(read_table(["a", "b"], labels_required=False)).lines()[1] == "labels: none"
    many = describe_table(read_table([(f"q{i}", f"answer {i:04}") for i in range(1500)]))
    assert many.lines()[1].startswith("labels: 1500: 'answer 0000' 1 (0.1%), ")
    assert many.lines()[1].endswith(", and 1480 more")
    recorded = many.to_json()
    labels = recorded["labels"]
    assert isinstance(labels, list)
    assert (len(labels), recorded["different_labels"]) == (1000, 1500)
    some = describe_table(
        read_table([{"text": "a", "label": "x"}, {"text": "b", "label": None}], labels_required=False)
    )
    assert some.lines()[1] == "labels: 1: 'x' 1 (50.0%), without a label 1"


def test_a_report_is_json() -> None:
    report = describe_table(read_table([("a", "x"), ("b", "y")]), [3, 4], 10)
    recorded = json.loads(json.dumps(report.to_json()))
    assert recorded["tokens"] == {"min": 3, "p25": 3.25, "median": 3.5, "p75": 3.75, "p95": 3.95, "max": 4}
    assert (recorded["rows"], recorded["truncated"], recorded["max_length"]) == (2, 0, 10)
    assert recorded["labels"][0] == {"label": "x", "count": 1, "share": 0.5}


def test_what_is_not_known_is_none() -> None:
    report = describe_table(read_table([("a", "x")]))
    assert (report.tokens, report.truncated, report.max_length) == (None, None, None)
    assert not any("token" in line for line in report.lines())


def test_lengths_of_another_table_are_refused() -> None:
    with pytest.raises(SettingsError, match="got 3 lengths, expected one for each of its 1 rows"):
        describe_table(read_table([("a", "x")]), [1, 2, 3])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_quantiles_are_in_order_and_within_the_values(lengths: list[int]) -> None:
    table = read_table([("t" * length, "x") for length in lengths])
    spread = describe_table(table).characters
    assert spread is not None
    ordered = [spread.min, spread.p25, spread.median, spread.p75, spread.p95, spread.max]
    assert ordered == sorted(ordered)
    assert (spread.min, spread.max) == (min(lengths), max(lengths))
