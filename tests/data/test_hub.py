from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import SimpleNamespace

import pytest

from ia3.data.hub import is_hub_id
from ia3.data.tables import read_table, stream_table
from ia3.errors import TableError


class _Rows:
    def __init__(self, rows: list[Mapping[str, object]], names: list[str] | None = None) -> None:
        self.rows = rows
        self.features = {"text": SimpleNamespace(), "label": SimpleNamespace(names=names)} if names else None

    def __iter__(self) -> Iterator[Mapping[str, object]]:
        for row in self.rows:
            if "error" in row:
                raise OSError("the connection\nwas reset")
            yield row


def _serve(monkeypatch: pytest.MonkeyPatch, result: object) -> list[dict[str, object]]:
    """Put a stand-in for the library `datasets` in place and return the list of its calls."""
    calls: list[dict[str, object]] = []

    def load_dataset(name: str, **arguments: object) -> object:
        calls.append({"name": name, **arguments})
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


def test_a_hub_data_set_is_read_with_class_names_as_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _Rows([{"text": "a", "label": 1}, {"text": "b", "label": 0}, {"text": "c", "label": -1}], ["bad", "good"])
    calls = _serve(monkeypatch, rows)
    table = read_table("user/set", skip_bad_rows=True)
    assert [(e.text, e.label, str(e.origin)) for e in table.examples] == [
        ("a", "good", "user/set:1"),
        ("b", "bad", "user/set:2"),
    ]
    assert [str(fault) for fault in table.faults] == ["user/set:3, column 'label': label is missing"]
    assert table.notes[0] == "rows: split 'train' of the hub data set 'user/set'"
    assert calls == [{"name": "user/set", "split": "train", "streaming": True}]


@pytest.mark.parametrize(
    ("source", "name", "revision", "split"),
    [
        ("user/set@v1", "user/set", "v1", "train"),
        ("user/set@refs/pr/1:test", "user/set", "refs/pr/1", "test"),
        ("imdb@0a1b2c3:train[:10%]", "imdb", "0a1b2c3", "train[:10%]"),
    ],
)
def test_a_revision_follows_an_at_sign(
    monkeypatch: pytest.MonkeyPatch, source: str, name: str, revision: str, split: str
) -> None:
    calls = _serve(monkeypatch, _Rows([{"text": "a", "label": 1}]))
    table = read_table(source)
    assert calls == [{"name": name, "split": split, "streaming": True, "revision": revision}]
    assert table.notes[0] == f"rows: split '{split}' of the hub data set '{name}@{revision}'"


@pytest.mark.parametrize(
    ("source", "name", "split"), [("user/set:test", "user/set", "test"), ("imdb:train", "imdb", "train")]
)
def test_the_split_follows_a_colon(monkeypatch: pytest.MonkeyPatch, source: str, name: str, split: str) -> None:
    calls = _serve(monkeypatch, _Rows([{"text": "a", "label": 1}]))
    assert [e.label for e in stream_table(source)] == ["1"]
    assert calls == [{"name": name, "split": split, "streaming": True}]


def test_a_missing_library_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(TableError) as caught:
        read_table("user/set")
    assert str(caught.value) == (
        "Reading user/set: hub data sets need the package 'datasets', which is not installed. "
        'Install it: pip install "ia3[datasets]".'
    )


def test_a_missing_network_ends_in_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, ConnectionError("Couldn't reach 'user/set' on the Hub (OfflineModeIsEnabled)"))
    with pytest.raises(TableError) as caught:
        read_table("user/set")
    assert str(caught.value) == (
        "Reading user/set: the hub cannot be reached (Couldn't reach 'user/set' on the Hub (OfflineModeIsEnabled)). "
        "Connect to the network, or download the table and give its path."
    )


def test_what_the_library_refuses_is_told_in_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, ValueError("Bad split: trian. Available splits: ['train']\nmore"))
    with pytest.raises(TableError) as caught:
        read_table("user/set:trian")
    assert str(caught.value) == (
        "Reading user/set:trian: the hub data set cannot be loaded: Bad split: trian. Available splits: ['train']."
    )


def test_a_connection_that_breaks_is_told_with_the_last_row(monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, _Rows([{"text": "a", "label": 1}, {"error": True}]))
    with pytest.raises(TableError, match="Reading user/set: it breaks off after row 1: the connection"):
        read_table("user/set")


def test_only_names_with_a_user_or_a_split_are_hub_ids() -> None:
    assert [is_hub_id(s) for s in ("user/set", "user/set:train", "set:train")] == [True, True, True]
    assert [is_hub_id(s) for s in ("set", "a/b/c", "/user/set", "user/", "a b/c", "")] == [False] * 6
