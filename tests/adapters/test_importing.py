"""Which library a path is of; PEFT's own folders go the ordinary way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ia3.adapters.folder import save_adapter
from ia3.adapters.importing import detect_format, import_adapter, read_foreign
from ia3.errors import AdapterError
from tests.adapters.examples import adapter_for, assert_same


def folder(path: Path, **config: object) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def test_the_format_is_known_by_what_lies_there(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "finish.pt")
    assert detect_format(tmp_path / "finish.pt") == "t-few"
    assert detect_format(folder(tmp_path / "peft", peft_type="IA3")) == "peft"
    assert detect_format(folder(tmp_path / "hub", config={"architecture": "lora"})) == "adapter-hub"


def test_a_folder_of_checkpoints_names_the_file_to_give(tmp_path: Path) -> None:
    for name in ("finish.pt", "global_step100.pt"):
        torch.save({}, tmp_path / name)
    with pytest.raises(AdapterError) as caught:
        detect_format(tmp_path)
    assert str(caught.value) == (
        f"Importing {tmp_path}: it is a folder with finish.pt, global_step100.pt, expected one file of them. Give "
        f"{tmp_path / 'finish.pt'}."
    )


def test_what_is_not_there_is_said_as_for_any_adapter(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="there is no such folder"):
        detect_format(tmp_path / "nothing")
    with pytest.raises(AdapterError, match="got an empty folder"):
        detect_format(tmp_path)


def test_a_folder_of_pefts_is_loaded_as_ever(tmp_path: Path) -> None:
    model, adapter = adapter_for("bert", head_modules=("classifier",))
    save_adapter(adapter, tmp_path / "ours")
    assert read_foreign(tmp_path / "ours") is None
    assert_same(import_adapter(tmp_path / "ours", model), adapter)
    bare = import_adapter(tmp_path / "ours", model, with_head=False)
    assert bare.head == {} and bare.config.modules_to_save is None


def test_a_folder_without_a_record_is_told_its_base(tmp_path: Path) -> None:
    model, adapter = adapter_for("gpt2")
    save_adapter(adapter, tmp_path / "theirs")
    (tmp_path / "theirs" / "ia3.json").unlink()
    base = import_adapter(tmp_path / "theirs", model, base_name="tiny").record["base"]
    assert base["name"] == "tiny" and base["fingerprint"] == adapter.record["base"]["fingerprint"]
