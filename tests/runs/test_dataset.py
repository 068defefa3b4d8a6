"""From tables to token ids: labels or free text, what is held out, what is cut, and everything said."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import Whitespace

from ia3.bases.limits import Limits
from ia3.data.templates import Template
from ia3.errors import SettingsError, TableError, TemplateError
from ia3.runs.dataset import Dataset, SplitTable, check_answers, data_name, encode_rows, read_rows
from tests.models import tiny_tokenizer

ROWS = [(f"{word} {number}", label) for number in range(10) for word, label in (("up", "good"), ("down", "bad"))]


def _encode(rows: SplitTable, kind: Any, *, positions: int | None = 256, **options: Any) -> Dataset:
    return encode_rows(rows, tiny_tokenizer(kind), Limits(reads=positions), kind, **options)


def _unique(count: int) -> list[tuple[str, str]]:
    return [(f"text {i}", f"answer {i}") for i in range(count)]


# -- a closed set or free text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distinct", "rows", "is_closed"),
    [(2, 2, True), (2, 3, True), (3, 3, False), (5, 10, True), (6, 10, False), (1000, 2000, True), (1001, 3000, False)],
)
def test_labels_that_repeat_are_a_closed_set_and_others_free_text(distinct: int, rows: int, is_closed: bool) -> None:
    table = [(f"text {i}", f"label {i % distinct:04}") for i in range(rows)]
    found = read_rows(table, eval_fraction=0)
    assert found.labels == (tuple(f"label {i:04}" for i in range(distinct)) if is_closed else ())
    words = (
        f"a closed set of {distinct} labels" if is_closed else f"free text: {distinct} different ones in {rows} rows"
    )
    assert any(f"The answers are {words}" in note for note in found.notes)


def test_for_an_encoder_labels_are_a_closed_set_unless_every_row_has_its_own() -> None:
    rows = [(f"text {i}", f"answer {i % 11}") for i in range(12)]
    assert read_rows(rows, eval_fraction=0).labels == ()
    assert len(read_rows(rows, eval_fraction=0, kind="encoder").labels) == 11
    assert read_rows(rows[:11], kind="encoder").labels == ()
    assert len(read_rows(rows[:11], eval_fraction=0, kind="encoder", answers="labels").labels) == 11
    assert len(read_rows(rows[:2], eval_fraction=0, kind="encoder").labels) == 2


def test_the_user_decides_what_the_answers_are() -> None:
    assert read_rows(_unique(4), answers="labels", eval_fraction=0).labels == tuple(f"answer {i}" for i in range(4))
    asked = read_rows(ROWS, answers="text")
    assert asked.labels == () and "The answers are free text (as asked)." in asked.notes


def test_the_labels_are_sorted_and_the_first_eight_shown() -> None:
    rows = [(f"text {i}", f"label {i % 9}") for i in range(40)]
    (note,) = [note for note in read_rows(rows).notes if "closed set" in note]
    assert note == ("The answers are a closed set of 9 labels: " + ", ".join(f"'label {i}'" for i in range(8)) + ", ….")


def test_one_label_alone_is_an_error() -> None:
    with pytest.raises(TableError, match="expected at least two different labels, got only 'good'"):
        read_rows([("a", "good"), ("b", "good")])


def test_an_encoder_does_not_answer_with_free_text() -> None:
    rows = read_rows(ROWS, answers="text")
    for refuse in (lambda: check_answers(rows, "encoder"), lambda: _encode(rows, "encoder")):
        with pytest.raises(SettingsError, match=r"free text, and an encoder can only choose.*or --answers labels\."):
            refuse()
    check_answers(rows, "causal")


# -- what is held out -------------------------------------------------------------------------------------------------


def test_a_tenth_is_held_out_by_label_and_seed_and_no_row_is_lost() -> None:
    first, again, other = (read_rows(ROWS, seed=seed) for seed in (3, 3, 4))
    assert first.held_out is not None and other.held_out is not None
    assert sorted(e.label or "" for e in first.held_out.examples) == ["bad", "good"]
    texts = [e.text for e in (*first.train.examples, *first.held_out.examples)]
    assert sorted(texts) == sorted(text for text, _ in ROWS)
    assert again == first and other.held_out.fingerprint != first.held_out.fingerprint
    assert "2 of 20 rows are held out for evaluation (seed 3)." in first.notes


def test_with_nothing_held_out_it_is_said() -> None:
    rows = read_rows(ROWS, eval_fraction=0)
    assert rows.held_out is None and len(rows.train.examples) == 20
    assert any(note.startswith("Nothing is held out: the last epoch is kept, and no number") for note in rows.notes)


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_a_share_outside_its_range_is_an_error(fraction: float) -> None:
    with pytest.raises(SettingsError, match="the share to hold out is out of range"):
        read_rows(ROWS, eval_fraction=fraction)


def test_one_row_cannot_be_split_but_be_trained_on_alone() -> None:
    with pytest.raises(TableError, match="no row can be held out, got 1 row"):
        read_rows([("a", "an answer")], answers="text")
    assert len(read_rows([("a", "an answer")], answers="text", eval_fraction=0).train.examples) == 1


def test_an_eval_table_is_taken_whole_with_the_columns_of_the_first(tmp_path: Path) -> None:
    table = _save(tmp_path / "a.csv", ["story", "mood"], [("up", "good"), ("down", "bad"), ("level", "good")])
    other = _save(tmp_path / "b.csv", ["mood", "story", "text"], [("bad", "fell", "no"), ("good", "rose", "no")])
    rows = read_rows(table, eval_source=other, text="story", label="mood")
    assert rows.held_out is not None and [e.text for e in rows.held_out.examples] == ["fell", "rose"]
    assert len(rows.train.examples) == 3 and rows.labels == ("bad", "good")


def test_labels_that_only_the_eval_table_has_are_an_error_with_their_rows() -> None:
    with pytest.raises(TableError, match=r"'goood'.*'good'") as raised:
        read_rows(ROWS, eval_source=[("a", "good"), ("b", "goood"), ("c", "worse")])
    assert len(raised.value.faults) == 2


def test_bad_eval_rows_are_left_out_only_when_asked_and_then_told() -> None:
    held_out = [("a", "good"), ("b", "goood"), ("", "bad")]
    with pytest.raises(TableError):
        read_rows(ROWS, eval_source=held_out)
    rows = read_rows(ROWS, eval_source=held_out, skip_bad_rows=True)
    assert rows.held_out is not None and len(rows.held_out.examples) == 1 and len(rows.held_out.faults) == 2
    assert "2 bad eval rows are left out." in rows.notes


def test_free_text_answers_of_the_eval_table_may_be_new() -> None:
    rows = read_rows(_unique(6), eval_source=[("a", "something else")])
    assert rows.held_out is not None and rows.labels == ()


def test_eval_rows_that_are_trained_on_are_named_and_stay_or_are_left_out() -> None:
    held_out = [("new", "good"), ("UP  3", "good"), ("down 4", "bad")]
    rows = read_rows(ROWS, eval_source=held_out)
    (note,) = [note for note in rows.notes if "eval rows" in note]
    assert note.startswith("2 of the 3 eval rows have a text that is trained on, blanks and case aside: <rows>:2 is ")
    assert rows.held_out is not None and len(rows.held_out.examples) == 3 and len(rows.duplicates) == 2
    rows = read_rows(ROWS, eval_source=held_out, drop_duplicates=True)
    assert rows.held_out is not None and [e.text for e in rows.held_out.examples] == ["new"] and not rows.duplicates
    assert any(note.endswith("They are left out.") for note in rows.notes)


def test_few_rows_to_measure_on_are_told_with_an_interval_where_there_are_labels() -> None:
    many = [(f"row {i}", "good" if i % 2 else "bad") for i in range(1100)]
    for fraction, held_out, is_told in ((0.1, None, False), (0.05, None, True), (0.1, many[:99], True)):
        rows = read_rows(many, eval_fraction=fraction, eval_source=held_out)
        assert any("smaller differences mean nothing" in note for note in rows.notes) == is_told
    assert not any("smaller" in note for note in read_rows(_unique(6), eval_source=[("a", "something else")]).notes)


def test_rows_skipped_while_reading_go_with_the_training_rows() -> None:
    rows = read_rows([*ROWS, ("", "good"), ("x", "")], skip_bad_rows=True)
    assert len(rows.train.faults) == 2 and rows.held_out is not None and not rows.held_out.faults


# -- token ids --------------------------------------------------------------------------------------------------------


def test_nothing_is_cut_that_the_base_can_read() -> None:
    data = _encode(read_rows(ROWS), "causal")
    assert data.encoding.max_length == 256 and not data.notes
    assert not any(e.truncated for e in (*data.train, *data.held_out))
    assert data.report.truncated is None and data.report.tokens is not None
    longest = len("down 0\nlabel:") + 1 + len(" good") + 1  # one token a byte, and one at each end
    assert data.report.tokens.max == longest


def test_a_base_without_a_limit_reads_everything() -> None:
    data = _encode(read_rows([("x" * 5000, "good"), ("y", "bad")], eval_fraction=0), "seq2seq", positions=None)
    assert data.encoding.max_length is None and len(data.train[0].prompt_ids) == 5001


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "encoder"])
def test_long_texts_are_cut_to_max_length_and_their_answers_never(kind: Any) -> None:
    rows = read_rows([("word " * 30, "good"), ("short", "bad"), ("text " * 40, "bad")], eval_fraction=0)
    data = _encode(rows, kind, max_length=60)
    assert [e.truncated for e in data.train] == [True, False, True]
    assert data.notes == ("2 texts are cut to 60 tokens (as asked).",)
    assert data.report.truncated == 2 and data.report.max_length == 60
    for encoded, label in zip(data.train, ("good", "bad", "bad"), strict=True):
        assert encoded.choice == ("bad", "good").index(label)
        if kind != "encoder":
            assert encoded.target_ids == data.encoding.target_ids(label)
        assert (len(encoded) if kind == "causal" else len(encoded.prompt_ids)) <= 60


def test_what_the_base_does_not_know_is_told_of_both_parts() -> None:
    tokenizer = tiny_tokenizer("seq2seq")
    tokenizer.backend_tokenizer.pre_tokenizer = Whitespace()  # letters that are no bytes' names are unknown then
    rows = read_rows([("abc", "d"), ("利润", "e")], eval_source=[("上升", "d")], answers="text")
    notes = encode_rows(rows, tokenizer, Limits(), "seq2seq").notes
    assert [note.partition(" to the base")[0] for note in notes] == ["2 of 3 texts are mostly unknown"]
    rows = read_rows([("abc", "好"), ("abd", "e")], eval_fraction=0, answers="text")
    (note,) = encode_rows(rows, tokenizer, Limits(), "seq2seq").notes
    assert note.startswith("1 of 2 answers has tokens unknown to the base (<unk>)")


def test_what_the_base_cannot_read_is_cut_and_told() -> None:
    data = _encode(read_rows([("word " * 60, "good"), ("short", "bad")], eval_fraction=0), "encoder")
    assert data.notes == ("1 texts are cut to 256 tokens (the most the base can read).",)


@given(sizes=st.lists(st.integers(1, 60), min_size=2, max_size=12), limit=st.integers(30, 60))
def test_behind_a_causal_prompt_there_is_room_for_the_longest_answer_not_only_its_own(
    sizes: Sequence[int], limit: int
) -> None:
    rows = [("x" * size, ("no", "most certainly")[i % 2]) for i, size in enumerate(sizes)]
    data = _encode(read_rows(rows, eval_fraction=0, answers="labels"), "causal", max_length=limit)
    longest = max(map(len, data.encoding.choice_ids))
    assert all(len(e.prompt_ids) + longest <= limit for e in data.train)
    assert sum(e.truncated for e in data.train) == (data.report.truncated or 0)


@pytest.mark.parametrize(
    ("max_length", "told"),
    [
        ("60", "max_length is '60', expected a whole number"),
        (0, "max_length is 0, expected at least 1"),
        (-3, "max_length is -3"),
        (300, "the base reads at most 256 tokens"),
    ],
)
def test_a_max_length_outside_its_range_is_an_error(max_length: int, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        _encode(read_rows(ROWS), "encoder", max_length=max_length)


def test_a_max_length_without_room_for_the_text_is_an_error() -> None:
    with pytest.raises(TemplateError, match="expected room for some of the text"):
        _encode(read_rows(ROWS), "causal", max_length=13)


def test_the_template_is_the_kinds_own_or_the_users() -> None:
    rows = read_rows(ROWS)
    assert _encode(rows, "causal").encoding.template.prompt == "{{ text }}\nlabel:"
    assert _encode(rows, "encoder").encoding.template.prompt == "{{ text }}"
    own = Template("{{ text }}\nMood:")
    assert _encode(rows, "causal", template=own).encoding.template == own
    with pytest.raises(TemplateError, match="titel"):
        _encode(rows, "causal", template=Template("{{ titel }}: {{ text }}"))


def test_examples_keep_the_place_they_have_in_their_table() -> None:
    data = _encode(read_rows(ROWS), "causal")
    assert [e.index for e in data.train] == list(range(18)) and [e.index for e in data.held_out] == [0, 1]


def test_a_table_is_called_by_its_file_its_id_or_rows(tmp_path: Path) -> None:
    file = _save(tmp_path / "news.csv", ["text", "label"], ROWS)
    assert (data_name(file), data_name(str(file)), data_name(tmp_path)) == ("news.csv", "news.csv", tmp_path.name)
    assert (data_name("owner/name:test"), data_name(ROWS)) == ("owner/name:test", "rows")


def _save(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path
