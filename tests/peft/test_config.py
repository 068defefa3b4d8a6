"""PEFT's configs: their arguments, what they refuse, and their file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ia3.errors import AdapterError, SettingsError
from ia3.peft import IA3Config, PeftConfig, TaskType


def test_lists_of_names_become_sets_and_expressions_stay() -> None:
    config = IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"], exclude_modules=r".*decoder.*")
    assert config.target_modules == {"k", "v", "wo"}
    assert config.feedforward_modules == {"wo"}
    assert config.exclude_modules == r".*decoder.*"


def test_the_defaults_are_those_of_peft() -> None:
    config = IA3Config()
    assert config.to_dict() == {
        "task_type": None,
        "peft_type": "IA3",
        "auto_mapping": None,
        "peft_version": "0.21.2",
        "base_model_name_or_path": None,
        "revision": None,
        "inference_mode": False,
        "target_modules": None,
        "exclude_modules": None,
        "feedforward_modules": None,
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_ia3_weights": True,
    }


def test_a_task_type_is_text_or_a_member() -> None:
    assert IA3Config(task_type="SEQ_CLS").task_type is TaskType.SEQ_CLS
    assert IA3Config(task_type=TaskType.SEQ_CLS).task_type == "SEQ_CLS"


def test_an_unknown_task_type_shows_near_matches() -> None:
    with pytest.raises(SettingsError, match=r"task_type 'SEQ2SEQ_LM' is unknown\. Did you mean 'SEQ_2_SEQ_LM'"):
        IA3Config(task_type="SEQ2SEQ_LM")


def test_another_method_than_ia3_is_refused() -> None:
    assert IA3Config(peft_type="IA3").peft_type == "IA3"
    with pytest.raises(SettingsError, match="peft_type is 'LORA', expected 'IA3'"):
        IA3Config(peft_type="LORA")


def test_feedforward_modules_must_be_a_part_of_the_targets() -> None:
    with pytest.raises(SettingsError, match="feedforward_modules has 'wo', which target_modules has not"):
        IA3Config(target_modules=["k", "v"], feedforward_modules=["wo"])


def test_modules_to_save_must_be_a_list() -> None:
    with pytest.raises(SettingsError, match=r"modules_to_save is the text 'classifier', .* Give \['classifier'\]"):
        IA3Config(modules_to_save="classifier")


def test_names_must_be_text() -> None:
    with pytest.raises(SettingsError, match=r"target_modules is \[1, 2\], expected names or one regular expression"):
        IA3Config(target_modules=[1, 2])


def test_a_config_is_saved_and_read_back(tmp_path: Path) -> None:
    config = IA3Config(
        task_type="SEQ_2_SEQ_LM",
        base_model_name_or_path="toy",
        target_modules=["k", "v", "wo"],
        feedforward_modules=["wo"],
        modules_to_save=["lm_head"],
        inference_mode=True,
        init_ia3_weights=False,
    )
    config.save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path) == config
    assert IA3Config.from_pretrained(tmp_path) == config
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "IA3"


def test_a_config_lies_in_a_subfolder_or_not_at_all(tmp_path: Path) -> None:
    IA3Config(target_modules=["k"]).save_pretrained(tmp_path / "news")
    assert PeftConfig.from_pretrained(tmp_path, subfolder="news").target_modules == {"k"}
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        PeftConfig.from_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="there is no such folder"):
        PeftConfig.from_pretrained(tmp_path / "weather")


def test_half_an_adapter_has_no_config(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(AdapterError, match=r"adapter_config\.json: it cannot be read"):
        PeftConfig.from_pretrained(tmp_path)


def test_a_config_that_peft_wrote_for_all_linear_can_be_read(tmp_path: Path) -> None:
    # PEFT refuses its own file: feedforward_modules is no subset of the paths it wrote for all-linear
    content = {"peft_type": "IA3", "target_modules": ["encoder.layer.0.output.dense"], "feedforward_modules": ["dense"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(content))
    assert PeftConfig.from_pretrained(tmp_path).feedforward_modules == {"dense"}
