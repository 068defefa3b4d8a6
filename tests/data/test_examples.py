from __future__ import annotations

import hashlib

from ia3.data.examples import Example, Fault, Origin, choose_examples, fingerprint, quote
from ia3.data.tables import read_table


def _example(text: str, label: str | None) -> Example:
    return Example(text, label, {"text": text}, Origin("a.csv", 2))


def test_fingerprint_is_the_sha256_of_length_prefixed_text_and_label() -> None:
    raw = (3).to_bytes(8, "big") + "né".encode() + (1).to_bytes(8, "big") + b"x"
    assert fingerprint([_example("né", "x")]) == hashlib.sha256(raw).hexdigest()


def test_fingerprint_tells_apart_tables_whose_joined_strings_are_equal() -> None:
    tables = [
        [_example("ab", "c")],
        [_example("a", "bc")],
        [_example("abc", "")],
        [_example("abc", None)],
        [_example("a", "b"), _example("c", "")],
    ]
    assert len({fingerprint(examples) for examples in tables}) == len(tables)


def test_fingerprint_depends_on_the_order_and_on_nothing_but_text_and_label() -> None:
    first, second = _example("a", "x"), _example("b", "y")
    elsewhere = Example("a", "x", {"other": "1"}, Origin("b.csv", 9))
    assert fingerprint([first, second]) != fingerprint([second, first])
    assert fingerprint([elsewhere]) == fingerprint([first])


def test_chosen_examples_have_their_own_fingerprint_and_no_skipped_rows() -> None:
    table = read_table([("a", "x"), ("", "x"), ("b", "y")], skip_bad_rows=True)
    assert len(table.faults) == 1
    chosen = choose_examples(table, [1])
    assert [e.text for e in chosen.examples] == ["b"]
    assert chosen.faults == ()
    assert chosen.fingerprint == read_table([("b", "y")]).fingerprint


def test_fault_reads_as_file_line_column_and_what_is_wrong() -> None:
    assert str(Fault(Origin("a.csv", 7), "label", "label is missing")) == "a.csv:7, column 'label': label is missing"
    assert str(Fault(Origin("a.csv", 7), None, "row has 1 value")) == "a.csv:7: row has 1 value"


def test_quoted_values_are_short_and_can_be_printed_everywhere() -> None:
    assert quote("x" * 100_000) == "'" + "x" * 59 + "…'"
    assert quote("a\ud800\n").encode("utf-8") == rb"'a\ud800\n'"


def test_examples_can_be_members_of_a_set() -> None:
    assert len({_example("a", "x"), _example("a", "x"), _example("b", "x")}) == 2
