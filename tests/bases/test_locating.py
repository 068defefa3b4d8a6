"""Finding a base: local paths first, then named bases, then the hub, and near matches for what is none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ia3.bases.loading import load_base
from ia3.bases.locating import locate
from ia3.errors import BaseError
from tests.models import save_tiny_base


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_local_folder_comes_before_a_named_base_if_it_is_a_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_base(tmp_path / "minilm", "causal")
    assert load_base("minilm").kind == "causal"
    (tmp_path / "minilm" / "config.json").unlink()  # now an output folder of that name, perhaps
    monkeypatch.setattr("ia3.bases.named._package_file", lambda file: None)
    with pytest.raises(BaseError, match="is not installed"):
        locate("minilm")


def test_an_unknown_name_shows_near_matches_of_named_bases_and_of_folders_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny_base(tmp_path / "newsbase", "causal")
    (tmp_path / "newsbase-output").mkdir()
    with pytest.raises(
        BaseError,
        match=r"'minilmm': no local path, .* has this name, and the hub cannot be asked\. Did you mean 'minilm'\?$",
    ):
        load_base("minilmm")
    with pytest.raises(BaseError, match=r"Did you mean 'newsbase'\?$"):
        load_base("newsbaze")
    with pytest.raises(BaseError, match=r"Known: 'gemma-3-270m', 'minilm', 'newsbase', 'smollm2-135m-instruct'\.$"):
        load_base("xyz")


def test_a_path_that_does_not_exist_shows_what_lies_beside_it(tmp_path: Path) -> None:
    save_tiny_base(tmp_path / "newsbase", "causal")
    with pytest.raises(BaseError, match=r"there is no such file or folder\. Did you mean 'newsbase'\?"):
        load_base(tmp_path / "newsbas")
    with pytest.raises(BaseError, match=r"no such file or folder\. .*nowhere does not exist either\."):
        load_base(str(tmp_path / "nowhere" / "base"))


def test_a_file_that_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"PK..")
    with pytest.raises(BaseError, match="it is a file but no GGUF file, expected a folder written by save_pretrained"):
        load_base(file)
