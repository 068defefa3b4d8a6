"""Adapters of a PeftModel as folders: saved, loaded, loaded beside and over one another, and found by Auto classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import ia3.peft.auto
from ia3.bases.locating import Place
from ia3.bases.named import NAMED_BASES
from ia3.core.attach import attachment_of
from ia3.errors import AdapterError, BankError, BaseError, SettingsError
from ia3.peft import (
    AutoPeftModelForCausalLM,
    AutoPeftModelForSeq2SeqLM,
    AutoPeftModelForSequenceClassification,
    IA3Config,
    PeftModel,
    get_peft_model,
)
from tests.families import make_inputs, make_model


def make(family: str, *others: str, **arguments: Any) -> Any:
    """Return a PeftModel whose adapters are random, their heads too."""
    torch.manual_seed(3)
    model = get_peft_model(make_model(family), IA3Config(init_ia3_weights=False, **arguments))
    for name in others:
        model.add_adapter(name, IA3Config(init_ia3_weights=False, **arguments))
    for head in attachment_of(model).bank.heads.parameters():
        torch.nn.init.normal_(head)
    return model


def logits(model: Any, family: str, **arguments: Any) -> Tensor:
    with torch.no_grad():
        return model(**make_inputs(family), **arguments).logits


def config_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("t5", "SEQ_2_SEQ_LM"),
        ("gpt2", "CAUSAL_LM"),
        ("gemma3", "CAUSAL_LM"),
        ("roberta", "SEQ_CLS"),
        ("deberta", "SEQ_CLS"),
    ],
)
def test_what_is_saved_is_loaded_bit_for_bit(family: str, task: str, tmp_path: Path) -> None:
    model = make(family, task_type=task)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_model(family), tmp_path)
    assert torch.equal(logits(loaded, family), logits(model, family))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training
    assert loaded.peft_config["default"].inference_mode is True
    assert loaded.peft_config["default"].task_type == task
    assert config_in(tmp_path)["inference_mode"] is True
    assert config_in(tmp_path)["auto_mapping"] is None


def test_the_names_of_the_config_are_saved_as_they_were_given(tmp_path: Path) -> None:
    given = {"target_modules": ["v", "k", "DenseReluDense.wo"], "feedforward_modules": ["DenseReluDense.wo"]}
    make("t5", exclude_modules=r"decoder.*", **given).save_pretrained(tmp_path)
    saved = config_in(tmp_path)
    assert set(saved["target_modules"]) == set(given["target_modules"])
    assert saved["feedforward_modules"] == given["feedforward_modules"]
    assert saved["exclude_modules"] == "decoder.*"
    assert saved["auto_mapping"] == {
        "base_model_class": "T5ForConditionalGeneration",
        "parent_library": "transformers.models.t5.modeling_t5",
    }


def test_the_default_adapter_lies_in_the_folder_and_others_in_folders_of_their_names(tmp_path: Path) -> None:
    model = make("mt5", "news", "mail")
    model.save_pretrained(tmp_path)
    assert {path.parent.name for path in tmp_path.rglob("adapter_config.json")} == {tmp_path.name, "news", "mail"}
    loaded = PeftModel.from_pretrained(make_model("mt5"), tmp_path)
    loaded.load_adapter(tmp_path / "news", "news")
    loaded.load_adapter(tmp_path, "mail", subfolder="mail")
    names = ["mail", "default", "news"]
    assert torch.equal(logits(loaded, "mt5", adapter_names=names), logits(model, "mt5", adapter_names=names))
    assert loaded.active_adapter == "default"
    only = tmp_path / "only"
    model.save_pretrained(only, selected_adapters=["mail"])
    assert [path.parent.name for path in only.rglob("adapter_config.json")] == ["mail"]


def test_what_cannot_be_saved_is_told(tmp_path: Path) -> None:
    model = make("mt5", "a/b")
    with pytest.raises(AdapterError, match="'a/b' cannot be a folder's name"):
        model.save_pretrained(tmp_path)
    with pytest.raises(BankError, match="'nws': this model has none of this name"):
        model.save_pretrained(tmp_path, selected_adapters=["nws"])
    with pytest.raises(AdapterError, match=r"'folder' is no argument of this save_pretrained\."):
        model.save_pretrained(tmp_path, selected_adapters=["default"], folder="x")
    with pytest.raises(AdapterError, match="save_embedding_layers is true"):
        model.save_pretrained(tmp_path, selected_adapters=["default"], save_embedding_layers=True)
    with pytest.raises(SettingsError, match="safe_serialization is false"):
        model.save_pretrained(tmp_path, safe_serialization=False)
    model.save_pretrained(tmp_path, is_main_process=False)
    assert list(tmp_path.iterdir()) == []


def test_the_arguments_of_pefts_save_pretrained_are_followed_or_refused_by_name(tmp_path: Path) -> None:
    """`push_to_hub=False`, which is PEFT's and transformers' default, was no argument here."""
    model = get_peft_model(make_model("bert"), IA3Config(task_type="SEQ_CLS"))
    model.save_pretrained(tmp_path / "a", push_to_hub=False, commit_message="new", token=None, private=True)
    model.save_pretrained(tmp_path / "b", True, None, "auto", False)  # PEFT's order: the last is is_main_process
    assert (tmp_path / "a" / "adapter_config.json").exists() and not (tmp_path / "b").exists()
    model.save_pretrained(tmp_path / "c", selected_adapters="default")
    assert (tmp_path / "c" / "adapter_config.json").exists()
    model.save_pretrained(tmp_path / "d", selected_adapters=[])
    assert not (tmp_path / "d").exists()
    with pytest.raises(SettingsError, match=r"push_to_hub is true.*call model\.push_to_hub\('owner/name'\)"):
        model.save_pretrained(tmp_path / "e", push_to_hub=True)
    with pytest.raises(SettingsError, match="path_initial_model_for_weight_conversion is 'x'"):
        model.save_pretrained(tmp_path / "e", path_initial_model_for_weight_conversion="x")
    model.peft_config["default"].save_pretrained(tmp_path / "e", push_to_hub=False)
    with pytest.raises(SettingsError, match="'variant' is no argument"):
        model.peft_config["default"].save_pretrained(tmp_path / "e", variant="fp16")


def test_the_arguments_of_pefts_from_pretrained_are_followed_or_refused_by_name(tmp_path: Path) -> None:
    get_peft_model(make_model("bert"), IA3Config(task_type="SEQ_CLS")).save_pretrained(tmp_path)
    options = {"token": None, "local_files_only": True, "key_mapping": None, "ignore_mismatched_sizes": False}
    PeftModel.from_pretrained(make_model("bert"), tmp_path, **options)
    with pytest.raises(SettingsError, match="ignore_mismatched_sizes is True, expected False"):
        PeftModel.from_pretrained(make_model("bert"), tmp_path, ignore_mismatched_sizes=True)
    with pytest.raises(SettingsError, match="'cache_dir' cannot be followed here when 'owner/name' is fetched"):
        PeftModel.from_pretrained(make_model("bert"), "owner/name", cache_dir="x")


def test_a_head_that_is_drawn_and_not_saved_is_warned_of(tmp_path: Path) -> None:
    base = make_model("bert").base_model
    base.save_pretrained(tmp_path)
    model = type(make_model("bert")).from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"'classifier' of the model was drawn at random.*modules_to_save=\['classif"):
        get_peft_model(model, IA3Config())
    again = type(make_model("bert")).from_pretrained(tmp_path)
    get_peft_model(again, IA3Config(task_type="SEQ_CLS"))


def test_an_adapter_can_be_trained_on(tmp_path: Path) -> None:
    model = make("bert", task_type="SEQ_CLS")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_model("bert").train(), tmp_path, adapter_name="again", is_trainable=True)
    assert loaded.training
    assert loaded.active_adapter == "again"
    assert {name.split(".")[1] for name, p in loaded.named_parameters() if p.requires_grad} == {"vectors", "heads"}
    assert loaded.get_nb_trainable_parameters() == model.get_nb_trainable_parameters()


def test_training_on_trains_what_the_config_names_and_no_more(tmp_path: Path) -> None:
    # the keys alone would fit the model's own plan as well, with ones elsewhere
    make("mt5", target_modules=["k"]).save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_model("mt5"), tmp_path, is_trainable=True)
    assert {site.role for site in attachment_of(loaded).bank.plan.sites} == {"key"}


def test_an_adapter_with_a_part_of_the_plan_is_loaded_and_never_trained(tmp_path: Path) -> None:
    keys = make("mt5", target_modules=["k"])
    keys.save_pretrained(tmp_path)
    model = make("mt5")
    with pytest.raises(BankError, match="Loading adapter 'keys' to train it on: its targets are not those"):
        model.load_adapter(tmp_path, "keys", is_trainable=True)
    model.load_adapter(tmp_path, "keys")
    model.set_adapter("keys")
    assert torch.allclose(logits(model, "mt5"), logits(keys, "mt5"), atol=1e-6)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.set_adapter("default")
    assert sum(parameter.requires_grad for parameter in model.parameters()) == 1
    with pytest.raises(BankError, match="Loading adapter 'default' over the one of this name: its targets"):
        model.load_adapter(tmp_path, "default")


def test_an_adapter_that_the_plan_has_no_place_for_is_an_error(tmp_path: Path) -> None:
    make("mt5", target_modules=["q"]).save_pretrained(tmp_path)
    model = make("mt5")
    with pytest.raises(AdapterError, match="the plan has no site for vector"):
        model.load_adapter(tmp_path, "queries")
    assert list(model.peft_config) == ["default"]


def test_loading_over_an_adapter_gives_it_new_numbers_and_its_optimizer_the_same_parameters(tmp_path: Path) -> None:
    model = make("bert", task_type="SEQ_CLS")
    model.save_pretrained(tmp_path)
    saved = logits(model, "bert")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in parameters:
            parameter.fill_(0.5)
    assert not torch.allclose(logits(model, "bert"), saved)
    model.load_adapter(tmp_path, "default", is_trainable=True)
    assert torch.equal(logits(model, "bert"), saved)
    kept = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(one is other for one, other in zip(parameters, kept, strict=True))


def test_loading_over_an_adapter_without_its_head_is_an_error(tmp_path: Path) -> None:
    make("bert").save_pretrained(tmp_path)
    model = make("bert", task_type="SEQ_CLS")
    with pytest.raises(AdapterError, match=r"its head has the tensors none, expected classifier\.weight \(3, 16\)"):
        model.load_adapter(tmp_path, "default")


def test_a_config_can_be_given_in_place_of_the_saved_one(tmp_path: Path) -> None:
    model = make("mt5", target_modules=["k", "v"])
    model.save_pretrained(tmp_path)
    config = IA3Config(target_modules=r".*\.(k|v)", feedforward_modules=[])
    loaded = PeftModel.from_pretrained(make_model("mt5"), tmp_path, config=config)
    assert loaded.peft_config["default"].target_modules == r".*\.(k|v)"
    assert torch.equal(logits(loaded, "mt5"), logits(model, "mt5"))
    plain = make_model("mt5")
    with pytest.raises(AdapterError, match="the plan has no site for vector"):
        PeftModel.from_pretrained(plain, tmp_path, config=IA3Config(target_modules=["k"]))
    assert type(plain) is type(make_model("mt5"))


def test_arguments_about_loading_tensors_have_no_effect_and_unknown_ones_are_errors(tmp_path: Path) -> None:
    model = make("mt5")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_model("mt5"), tmp_path, device_map="auto", torch_dtype=torch.float16)
    assert torch.equal(logits(loaded, "mt5"), logits(model, "mt5"))
    with pytest.raises(SettingsError, match=r"'is_trainble' is no argument\. Did you mean 'is_trainable'"):
        PeftModel.from_pretrained(make_model("mt5"), tmp_path, is_trainble=True)
    with pytest.raises(SettingsError, match="'weights_only' is no argument"):
        loaded.load_adapter(tmp_path, "b", weights_only="there")


def test_an_adapter_of_another_base_is_an_error(tmp_path: Path) -> None:
    make("mt5").save_pretrained(tmp_path)
    plain = make_model("mt5", seed=1)
    with pytest.raises(AdapterError, match="it was trained on base"):
        PeftModel.from_pretrained(plain, tmp_path)
    assert type(plain) is type(make_model("mt5"))


def test_a_folder_loaded_and_merged_is_a_plain_model(tmp_path: Path) -> None:
    model = make("bert", task_type="SEQ_CLS")
    model.save_pretrained(tmp_path / "adapter")
    merged = PeftModel.from_pretrained(make_model("bert"), tmp_path / "adapter").merge_and_unload()
    merged.save_pretrained(tmp_path / "plain")
    assert not any("ia3" in name for name in load_file(tmp_path / "plain" / "model.safetensors"))
    again = type(merged).from_pretrained(tmp_path / "plain").eval()
    assert torch.allclose(logits(again, "bert"), logits(model, "bert"), atol=1e-5)


def save_base(family: str, folder: Path) -> Any:
    make_model(family).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "task", "auto"),
    [
        ("mt5", "SEQ_2_SEQ_LM", AutoPeftModelForSeq2SeqLM),
        ("mt5", None, AutoPeftModelForSeq2SeqLM),
        ("gemma3", "CAUSAL_LM", AutoPeftModelForCausalLM),
        ("bert", "SEQ_CLS", AutoPeftModelForSequenceClassification),
        ("roberta", "SEQ_CLS", AutoPeftModelForSequenceClassification),
    ],
)
def test_auto_classes_find_the_base_by_the_name_in_the_folder(
    family: str, task: str | None, auto: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    plain = type(make_model(family)).from_pretrained(save_base(family, tmp_path / "base"))
    model = get_peft_model(plain.eval(), IA3Config(task_type=task, init_ia3_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    assert config_in(tmp_path / "adapter")["base_model_name_or_path"] == str(tmp_path / "base")
    loaded = auto.from_pretrained(tmp_path / "adapter", adapter_name="mine")
    assert isinstance(loaded, PeftModel)
    assert torch.equal(logits(loaded, family), logits(model, family))
    assert loaded.active_adapter == "mine"


def test_an_auto_class_takes_the_number_of_labels_from_the_head(tmp_path: Path) -> None:
    base = save_base("bert", tmp_path / "base")
    plain = type(make_model("bert")).from_pretrained(base, num_labels=5, ignore_mismatched_sizes=True)
    get_peft_model(plain, IA3Config(task_type="SEQ_CLS")).save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", ignore_mismatched_sizes=True)
    assert loaded.config.num_labels == 5
    assert logits(loaded, "bert").shape == (3, 5)
    assert loaded(**make_inputs("bert"), labels=torch.tensor([4, 0, 3])).loss.isfinite()


def test_an_auto_class_passes_arguments_to_the_base(tmp_path: Path) -> None:
    base = save_base("gemma3", tmp_path / "base")
    plain = type(make_model("gemma3")).from_pretrained(base)
    get_peft_model(plain, IA3Config(task_type="CAUSAL_LM")).save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", is_trainable=True, dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert attachment_of(loaded).bank.vector("default").dtype == torch.float32


def test_an_auto_class_of_another_task_names_the_right_one(tmp_path: Path) -> None:
    make("mt5", task_type="SEQ_2_SEQ_LM").save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=r"is for SEQ_2_SEQ_LM, expected CAUSAL_LM\. Use AutoPeftModelForSeq2SeqLM"):
        AutoPeftModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="its config names no base"):
        AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=r"is not made by calling it\. Use its from_pretrained"):
        AutoPeftModelForSeq2SeqLM()


def test_a_named_base_is_found_by_its_hub_id_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_base("mt5", tmp_path / "somewhere" / "in" / "site-packages")
    asked = []

    def locate(name: str) -> Place:
        asked.append(name)
        return Place(folder, "owner/named")

    monkeypatch.setattr(ia3.peft.auto, "locate", locate)
    plain = type(make_model("mt5")).from_pretrained(folder)
    plain.name_or_path = "owner/named"
    get_peft_model(plain, IA3Config(task_type="SEQ_2_SEQ_LM")).save_pretrained(tmp_path / "one")
    loaded = AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path / "one")
    loaded.save_pretrained(tmp_path / "two")
    assert asked == ["owner/named"]
    assert config_in(tmp_path / "two")["base_model_name_or_path"] == "owner/named"


def test_an_installed_named_base_stands_for_its_hub_id_where_the_fingerprint_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_base("mt5", tmp_path / "named")
    make_model("mt5", seed=1).save_pretrained(tmp_path / "hub")
    asked = []

    def locate(name: str) -> Place:
        asked.append(name)
        return Place(tmp_path / name.partition("/")[0], name)

    monkeypatch.setattr(ia3.peft.auto, "locate", locate)
    monkeypatch.setattr(ia3.peft.auto, "find_by_hub_id", lambda name: replace(NAMED_BASES[1], name="named"))
    monkeypatch.setattr(ia3.peft.auto, "is_installed", lambda base: True)
    for folder, expected in (("named", ["named"]), ("hub", ["named", "hub/it"])):
        plain = type(make_model("mt5")).from_pretrained(tmp_path / folder)
        plain.name_or_path = "hub/it"
        model = get_peft_model(plain.eval(), IA3Config(task_type="SEQ_2_SEQ_LM", init_ia3_weights=False))
        model.save_pretrained(tmp_path / "adapter")
        asked.clear()
        loaded = AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter")
        assert asked == expected
        assert torch.equal(logits(loaded, "mt5"), logits(model, "mt5"))
    (tmp_path / "adapter" / "ia3.json").unlink()  # as PEFT writes it: nothing tells the weights apart
    asked.clear()
    AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter")
    assert asked == ["hub/it"]


def test_a_revision_that_is_not_there_ends_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = IA3Config(task_type="SEQ_2_SEQ_LM", base_model_name_or_path="owner/none", revision="v2")
    make("mt5", task_type="SEQ_2_SEQ_LM").save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    with pytest.raises(BaseError, match=r"Loading base 'owner/none@v2': .* call PeftModel\.from_pretrained"):
        AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path)
