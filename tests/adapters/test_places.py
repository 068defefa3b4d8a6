"""Finding an adapter's folder: what is there instead is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from ia3.adapters import places
from ia3.adapters.places import find_folder
from ia3.errors import AdapterError


def adapter(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    return folder


def test_a_folder_is_found_by_path_and_by_text(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "news")
    assert find_folder(folder) == find_folder(str(folder)) == folder


def test_a_missing_folder_has_near_matches(tmp_path: Path) -> None:
    adapter(tmp_path / "news")
    with pytest.raises(AdapterError) as caught:
        find_folder(tmp_path / "newz")
    assert str(caught.value) == (
        f"Loading adapter from {tmp_path / 'newz'}: there is no such folder. Did you mean 'news'? Give a folder with "
        "an adapter_config.json."
    )


def test_a_folder_without_an_adapter_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"no adapter_config\.json, got an empty folder\. Give the folder that"):
        find_folder(tmp_path)
    adapter(tmp_path / "best")
    (tmp_path / "run.jsonl").write_text("")
    with pytest.raises(AdapterError, match=rf"got best, run\.jsonl\. Adapters lie in {tmp_path / 'best'}\."):
        find_folder(tmp_path)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    config = adapter(tmp_path / "news") / "adapter_config.json"
    with pytest.raises(AdapterError, match=rf"this is a file, expected a folder\. Give {config.parent}\."):
        find_folder(config)


def test_a_relative_path_below_a_folder_that_is_there_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter(tmp_path / "runs" / "news")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AdapterError, match=r"from runs/newz: there is no such folder\. Did you mean 'news'\?"):
        find_folder("runs/newz")


def test_a_hub_id_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = adapter(tmp_path / "snapshot")
    asked = {}
    monkeypatch.setattr(places, "snapshot_download", lambda name, **more: asked.update(name=name, **more) or folder)
    assert find_folder("owner/adapter") == folder
    assert asked["name"] == "owner/adapter" and "adapter_config.json" in asked["allow_patterns"]
    (folder / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match=r"'owner/adapter': the hub has it without an adapter_config\.json"):
        find_folder("owner/adapter")


def test_a_hub_id_without_a_network_ends_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, **more: object) -> str:
        raise LocalEntryNotFoundError("Cannot find an appropriate cached snapshot.\nMore lines follow")

    monkeypatch.setattr(places, "snapshot_download", offline)
    with pytest.raises(AdapterError) as caught:
        find_folder("owner/adapter")
    assert str(caught.value) == (
        "Loading adapter 'owner/adapter': there is no such folder here, and the hub cannot give it (Cannot find an "
        "appropriate cached snapshot). Check the name and the network, or give a folder."
    )
