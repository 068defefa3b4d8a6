"""The starts that come with the project: found by name, of the right base alone, and what a run begins with."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import pytest

from ia3.adapters.folder import load_adapter
from ia3.data.tables import read_table
from ia3.demo.demonstration import TABLE
from ia3.errors import AdapterError
from ia3.starts.packaged import has_learned, packaged_start, seen_note, start_names
from ia3.starts.start import read_start


def test_the_starts_are_those_that_are_told() -> None:
    assert start_names() == ("business", "sentiment")


@pytest.mark.parametrize("name", start_names())
def test_every_start_is_a_whole_adapter_with_its_licence(name: str) -> None:
    for base, width, has_head in (("gemma-3-270m", 46_080, False), ("minilm", 13_824, True)):
        folder = packaged_start(name, base)
        assert folder is not None and "VADER" in (folder / "README.md").read_text(encoding="utf-8")
        assert ("CC0" in (folder / "README.md").read_text(encoding="utf-8")) == (name == "business")
        adapter = load_adapter(folder)
        assert sum(vector.numel() for vector in adapter.vectors.values()) == width
        assert bool(adapter.head) == has_head
        assert adapter.record["base"]["name"] == base
        assert adapter.record["labels"] == ["negative", "neutral", "positive"]


def test_what_a_start_has_learned_is_known() -> None:
    with as_file(files("ia3.demo") / TABLE) as path:
        texts = [example.text for example in read_table(path).examples]
    assert all(has_learned("business", texts)) and not any(has_learned("sentiment", texts))
    assert seen_note("sentiment", texts) == seen_note("runs/mine", texts) == ""
    assert seen_note("business", texts[:3]).startswith("3 of 3 rows are among those that the start 'business' has")


def test_a_named_base_is_found_by_its_hub_id_too() -> None:
    assert packaged_start("sentiment", "google/gemma-3-270m") == packaged_start("sentiment", "gemma-3-270m")


def test_a_start_is_read_by_its_name_and_called_so() -> None:
    start = read_start("sentiment")
    assert start.name == "sentiment" and start.to_json()["base_fingerprint"]


def test_a_base_without_one_is_told_which_have_it() -> None:
    with pytest.raises(
        AdapterError, match=r"there for the bases gemma-3-270m, minilm, got 'bert'\. Make one for yours"
    ):
        packaged_start("sentiment", "bert")
    assert packaged_start("sentiments", "minilm") is None
    with pytest.raises(AdapterError, match=r"there is no such folder.* Did you mean 'sentiment'"):
        read_start("sentiments")


def test_a_folder_of_the_users_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sentiment").mkdir()
    assert packaged_start("sentiment", "minilm") is None
