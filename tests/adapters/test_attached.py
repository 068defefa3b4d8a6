"""Adapters on a model: attached, loaded, taken out, and saved by the model's own `save_pretrained`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from transformers import BertModel

from ia3.adapters.adapter import Adapter
from ia3.adapters.attached import adapter_of, attach, load, put_on
from ia3.adapters.fitting import plan_of
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.core.attach import attachment_of
from ia3.core.discovery import find_plan
from ia3.core.merge import merge
from ia3.errors import AdapterError, BankError, PlanError, SettingsError
from tests.adapters.examples import adapter_for, assert_same, spread, whole
from tests.families import make_inputs, make_model


def is_plain(model: Any) -> bool:
    return not hasattr(model, "ia3_attachment") and "save_pretrained" not in vars(model)


def test_a_fresh_adapter_is_ones_and_alone_in_training() -> None:
    model, inputs = make_model("t5"), make_inputs("t5")
    with torch.no_grad():
        before = model(**inputs).logits
    attachment = attach(model)
    assert attachment.bank.names == ("default",)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["ia3_bank.vectors.row1"]
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, before)
    frozen = attach(make_model("t5"), name="news", trainable=False)
    assert frozen.bank.names == ("news",) and not list(frozen.bank.parameters())


def test_heads_are_trained_and_kept_with_the_adapter() -> None:
    model = make_model("bert")
    attachment = attach(model, head_modules=("classifier",))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {
        f"ia3_bank.{n}" for n in ("vectors.row1", "heads.row1.parts.0.weight", "heads.row1.parts.0.bias")
    }
    assert adapter_of(attachment, "default").head_modules == ("classifier",)


def test_a_vector_inside_a_head_is_refused() -> None:
    model = make_model("bert")
    plan = find_plan(model, target_modules=["classifier", "key"])
    with pytest.raises(PlanError, match=r"vector 'classifier' would lie in a head \(classifier\), which is"):
        attach(model, plan=plan, head_modules=("classifier",))
    assert is_plain(model)


@pytest.mark.parametrize("arguments", [{"name": "__base__"}, {"name": ""}, {"head_modules": ("nothing",)}])
def test_an_attach_that_fails_leaves_the_model_as_it_was(arguments: dict[str, Any]) -> None:
    model = make_model("bert")
    trained = [p.requires_grad for p in model.parameters()]
    with pytest.raises(BankError):
        attach(model, **arguments)
    assert is_plain(model) and [p.requires_grad for p in model.parameters()] == trained


def test_adapters_lie_beside_each_other_under_their_folders_names(tmp_path: Path) -> None:
    _, first = adapter_for("llama", seed=0)
    _, second = adapter_for("llama", seed=1)
    save_adapter(first, tmp_path / "news")
    save_adapter(second, tmp_path / "mail")
    model, inputs = make_model("llama"), make_inputs("llama", batch=2)
    load(model, tmp_path / "news")
    attachment = load(model, str(tmp_path / "mail") + "/")
    assert attachment.bank.names == ("news", "mail")
    mixed = model(**inputs, rows=["mail", "news"]).logits
    for row, adapter in enumerate((second, first)):
        alone = make_model("llama")
        put_on(alone, adapter, "x")
        assert torch.allclose(alone(**inputs).logits[row], mixed[row], atol=1e-5)
    with pytest.raises(BankError, match="'news': the bank has one of this name"):
        load(model, tmp_path / "news")
    with pytest.raises(BankError, match="no rows are given and the bank has 2 adapters"):
        model(**inputs)


def test_an_adapter_with_a_head_joins_a_bank_without_heads() -> None:
    model, inputs = make_model("bert"), make_inputs("bert", batch=2)
    attachment = attach(model, name="bare")
    own, adapter = adapter_for("bert", head_modules=("classifier",))
    bare = model(**inputs).logits
    put_on(model, adapter, "headed")
    assert torch.allclose(model(**inputs, rows="headed").logits, own(**inputs).logits, atol=1e-6)
    assert torch.allclose(model(**inputs, rows="bare").logits, bare, atol=1e-6)
    assert attachment.bank.names == ("bare", "headed")
    attachment.detach()
    assert torch.equal(model(**inputs).logits, make_model("bert")(**inputs).logits)


def queries() -> Adapter:
    """Return an adapter on the queries of the llama model, where our plan has no site."""
    modules = [f"model.layers.{n}.self_attn.q_proj" for n in (0, 1)]
    sites = tuple(whole(module, "output", 16, "query") for module in modules)
    return Adapter(sites, {module: spread(16, n) for n, module in enumerate(modules)})


def test_a_fresh_model_gets_the_adapters_own_plan_where_ours_has_no_site() -> None:
    model = make_model("llama")
    assert plan_of(queries(), model).source == "adapter"
    assert put_on(model, queries(), "odd").bank.plan.sites == queries().sites
    _, usual = adapter_for("llama")
    assert plan_of(usual, make_model("llama")) == find_plan(model)


def test_a_bank_without_a_site_for_a_vector_refuses_it_and_stays_as_it_is() -> None:
    model = make_model("llama")
    attachment = attach(model)
    with pytest.raises(AdapterError, match=r"no site for vector 'model\.layers\.0\.self_attn\.q_proj' \(16 of its 16"):
        put_on(model, queries(), "odd")
    assert attachment.bank.names == ("default",)


def test_a_fresh_model_that_an_adapter_does_not_fit_stays_plain() -> None:
    model = make_model("llama")
    for adapter in (
        replace(queries(), head={"nothing.weight": spread(2)}, head_modules=("nothing",)),
        adapter_for("t5")[1],
    ):
        with pytest.raises(AdapterError):
            put_on(model, adapter, "odd")
        assert is_plain(model)


def test_the_base_is_no_adapter() -> None:
    with pytest.raises(BankError, match="row 0: it is the base and no adapter"):
        adapter_of(attach(make_model("t5")), "__base__")


def test_files_name_the_base_as_the_caller_does_or_by_where_it_came_from() -> None:
    model = make_model("llama")
    model.name_or_path = "some/folder"
    named = adapter_of(attach(model, base_name="owner/base"), "default")
    assert named.base_name == named.config.base_model_name_or_path == "owner/base"
    attachment_of(model).detach()
    assert adapter_of(attach(model), "default").config.base_model_name_or_path == "some/folder"


def test_what_is_known_of_an_adapter_goes_with_it(tmp_path: Path) -> None:
    model, adapter = adapter_for("llama")
    model.name_or_path = "elsewhere"
    record = {
        **adapter.record, "base": {**adapter.record["base"], "name": "owner/base"}, "labels": ["a", "b"],
        "metrics": {"accuracy": 0.9}, "template": {"prompt": "{{ text }}"}, "versions": {"ia3": "0.0.1"},
    }  # fmt: skip
    config = replace(adapter.config, base_model_name_or_path="owner/base", revision=None)
    known = replace(adapter, record=record, config=config)
    save_adapter(known, tmp_path / "a")
    attachment = load(make_model("llama"), tmp_path / "a")
    assert_same(adapter_of(attachment, "a"), known)
    trained_on = adapter_of(load(make_model("llama"), tmp_path / "a", trainable=True), "a").record
    assert set(trained_on) == {"base", "labels", "template", "versions"}
    assert trained_on["versions"] != record["versions"]


def test_several_adapters_are_saved_each_in_its_own_folder(tmp_path: Path) -> None:
    model, first = adapter_for("t5")
    attachment = attachment_of(model)
    attachment.add("mail", spread(attachment.bank.plan.width, 9))
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["default", "mail"]
    assert_same(load_adapter(tmp_path / "default"), first)
    model.save_pretrained(tmp_path / "one", adapter="mail")
    assert_same(load_adapter(tmp_path / "one"), load_adapter(tmp_path / "mail"))
    with pytest.raises(AdapterError, match=r"Adapters lie in .*default and .*mail"):
        load_adapter(tmp_path)
    attachment.bank.rename("mail", "a/b")
    with pytest.raises(AdapterError, match=r"'a/b' cannot be a folder's name\. Choose another name"):
        model.save_pretrained(tmp_path / "two")


def test_a_trainers_checkpoint_of_several_adapters_holds_them_all(tmp_path: Path) -> None:
    model, _ = adapter_for("t5")
    attachment = attachment_of(model)
    attachment.add("mail")
    model.save_pretrained(tmp_path, state_dict=None, is_main_process=True)
    held = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert {"ia3_bank.vectors.row1", "ia3_bank.vectors.row2"} <= set(held)
    assert all(name.startswith("ia3_bank.") for name in held)


def test_save_pretrained_knows_its_options(tmp_path: Path) -> None:
    model, _ = adapter_for("t5")
    model.save_pretrained(tmp_path / "other_rank", is_main_process=False)
    assert not (tmp_path / "other_rank").exists()
    model.save_pretrained(tmp_path / "a", safe_serialization=True, max_shard_size="1GB", push_to_hub=False)
    with pytest.raises(SettingsError, match="push_to_hub is true, and saving sends nothing"):
        model.save_pretrained(tmp_path / "a", push_to_hub=True)
    assert not (tmp_path / "a" / "model.safetensors").exists()
    with pytest.raises(
        AdapterError, match=r"'adaptor' is no argument of this save_pretrained\. Did you mean 'adapter'\?"
    ):
        model.save_pretrained(tmp_path / "b", adaptor="default")
    attachment_of(model).bank.remove("default")
    with pytest.raises(AdapterError, match=r"bank has none\. Add one first"):
        model.save_pretrained(tmp_path / "c")


def test_a_checkpoint_never_lands_on_a_whole_model(tmp_path: Path) -> None:
    make_model("t5").save_pretrained(tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    model, _ = adapter_for("t5")
    with pytest.raises(AdapterError, match=r"a whole model lies there \(config\.json\)"):
        model.save_pretrained(tmp_path, state_dict=None)
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_a_detached_or_merged_model_saves_as_before(tmp_path: Path) -> None:
    model, _ = adapter_for("t5")
    attachment = attachment_of(model)
    merged = merge(attachment, "default")
    inputs = make_inputs("t5")
    want = model(**inputs).logits
    attachment.detach()
    assert is_plain(model) and is_plain(merged)
    merged.save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path)
    assert torch.allclose(again(**inputs).logits, want, atol=1e-5)


def test_a_model_of_no_known_task_names_its_class_for_peft(tmp_path: Path) -> None:
    model = BertModel(make_model("bert").config).eval()
    attach(model)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["task_type"] is None and config["modules_to_save"] is None
    assert config["auto_mapping"] == {
        "base_model_class": "BertModel", "parent_library": "transformers.models.bert.modeling_bert",
    }  # fmt: skip
