"""PEFT's names with a revision and a subfolder: of the adapter where they are arguments, of the base in its config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ia3.bases.loading import load_base
from ia3.errors import AdapterError, BaseError, SettingsError
from ia3.peft import AutoPeftModelForCausalLM, IA3Config, PeftConfig, PeftModel, get_peft_model
from tests.hub_cache import OLD, HubCache, two_commits
from tests.models import tiny_gemma3

ID, ADAPTERS = "owner/tiny", "owner/adapters"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """A base at two commits, and an adapter of the older one in a folder of a repository without a main."""
    cache = two_commits(ID, "causal", tmp_path, monkeypatch)
    make(revision="v1").save_pretrained(tmp_path / "adapter")
    cache.put(ADAPTERS, OLD, tmp_path / "adapter", refs=("v3",), folder="deep/er")
    return cache


def make(base: str = f"{ID}@v1", **arguments: Any) -> Any:
    return get_peft_model(load_base(base).model, IA3Config(task_type="CAUSAL_LM"), **arguments)


def is_old(model: Any) -> bool:
    own = model.get_input_embeddings().weight
    return torch.equal(own, tiny_gemma3(1).get_input_embeddings().weight)


@pytest.mark.usefixtures("cache")
def test_revision_and_subfolder_are_the_adapters_and_its_config_says_the_bases() -> None:
    """The subfolder was joined to the hub id, and no such folder was found."""
    arguments = {"revision": "v3", "subfolder": "deep/er"}
    assert PeftConfig.from_pretrained(ADAPTERS, **arguments).revision == "v1"
    assert is_old(AutoPeftModelForCausalLM.from_pretrained(ADAPTERS, **arguments))
    assert is_old(AutoPeftModelForCausalLM.from_pretrained(f"{ADAPTERS}@v3", subfolder="deep/er"))
    model = PeftModel.from_pretrained(load_base(f"{ID}@v1").model, ADAPTERS, **arguments)
    model.load_adapter(ADAPTERS, "second", **arguments)
    assert list(model.peft_config) == ["default", "second"]
    with pytest.raises(AdapterError, match=r"it names revision 'v3', and revision='v4' is given"):
        AutoPeftModelForCausalLM.from_pretrained(f"{ADAPTERS}@v3", revision="v4")
    with pytest.raises(AdapterError, match=r"it was trained on base 'owner/tiny@v1'"):
        PeftModel.from_pretrained(load_base(ID).model, ADAPTERS, **arguments)


@pytest.mark.usefixtures("cache")
def test_the_revision_of_the_loaded_base_is_noted_for_every_adapter(tmp_path: Path) -> None:
    model = make()
    model.add_adapter("second", IA3Config(task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "both")
    for folder in ("both", "both/second"):
        config = PeftConfig.from_pretrained(tmp_path / folder)
        assert (config.base_model_name_or_path, config.revision) == (ID, "v1")
    assert make(revision="same").peft_config["default"].revision == "same"
    assert make("old").peft_config["default"].revision is None


@pytest.mark.usefixtures("cache")
def test_a_revision_that_the_loaded_base_is_not_at_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"revision is 'main', the model was loaded from 'owner/tiny@v1'"):
        make(revision="main")
    with pytest.raises(SettingsError, match=r"revision is 'v1', the model was loaded from 'owner/tiny'\."):
        make(ID, revision="v1")


@pytest.mark.usefixtures("cache")
def test_a_revision_of_a_base_that_is_a_folder_is_an_error(tmp_path: Path) -> None:
    make("old", revision="v9").save_pretrained(tmp_path / "odd")
    with pytest.raises(
        BaseError, match=r"'old' is a folder on this machine and has no revision 'v9'.* Or load the base y"
    ):
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "odd")
