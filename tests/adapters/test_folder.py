"""An adapter's folder: what is saved is what is loaded, and what is wrong is said in one sentence."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.adapters.adapter import Adapter
from ia3.adapters.attached import adapter_of, attach, load
from ia3.adapters.config import AdapterConfig
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.core.attach import attachment_of
from ia3.core.sites import Channels, Site
from ia3.errors import AdapterError
from tests.adapters.examples import adapter_for, assert_same, spread, whole
from tests.families import make_inputs, make_model

# A fused projection's slices, an interleaved one, a gated branch that PEFT holds elsewhere, and an input.
SITES = (
    Site("a.0.c_attn", "output", "key", Channels.span(4, 4, 12), 12),
    Site("a.0.c_attn", "output", "value", Channels.span(8, 4, 12), 12, where="values"),
    Site("a.0.qkv", "output", "key", Channels(2, 6, 2, 2), 12),
    whole("a.0.up", "output", 5, "feedforward", peft=("a.0.down", "input")),
    whole("a.0.fc2", "input", 3, "feedforward"),
    whole("a.0.wi_1", "output", 1, "feedforward", twin=("a.0.wo", "input")),
)
WIDTH = sum(site.width for site in SITES)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)


@settings(max_examples=25, deadline=None)
@given(
    numbers=st.lists(FINITE | st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1.0]), min_size=WIDTH, max_size=WIDTH),
    head=st.lists(FINITE, min_size=3, max_size=3),
    labels=st.lists(st.text(max_size=5), max_size=3),
)
def test_save_then_load_is_the_identity_to_the_last_bit(
    numbers: list[float], head: list[float], labels: list[str]
) -> None:
    row = torch.from_numpy(np.array(numbers, dtype=np.float32))
    config = AdapterConfig(
        modules_to_save=("classifier",), target_modules=("c_attn", "qkv", "down", "fc2", "wi_1"),
        feedforward_modules=("down", "fc2"), base_model_name_or_path="owner/base", task_type="SEQ_CLS",
    )  # fmt: skip
    adapter = Adapter(
        SITES, dict(zip((s.name for s in SITES), row.split([s.width for s in SITES]), strict=True)),
        {"classifier.weight": torch.tensor(head, dtype=torch.float64).to(torch.bfloat16)}, ("classifier",), config,
        {"labels": labels, "metrics": {"accuracy": 0.5}, "created": None},
    )  # fmt: skip
    if not torch.isfinite(adapter.head["classifier.weight"]).all():  # rounded up to infinity
        return
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(adapter, folder)
        assert_same(load_adapter(folder), adapter)
        save_adapter(load_adapter(folder), folder)
        assert_same(load_adapter(folder), adapter)


# one of each kind of plan; the parity tier has every family
@pytest.mark.parametrize(
    "name", ["t5-gated", "mt5", "bart", "gpt2", "gpt_neox", "falcon-new", "phi3", "bert", "deberta", "modernbert"]
)
def test_a_familys_adapter_comes_back_whole_and_computes_the_same(name: str, tmp_path: Path) -> None:
    model, adapter = adapter_for(name)
    save_adapter(adapter, tmp_path)
    fresh, inputs = make_model(name), make_inputs(name)
    assert_same(load_adapter(tmp_path, fresh), adapter)
    attachment = load(fresh, tmp_path, "news")
    assert torch.equal(fresh(**inputs).logits, model(**inputs).logits)
    assert torch.equal(attachment.bank.vector("news"), attachment_of(model).bank.vector("default"))
    assert attachment.bank.plan.source == "family"
    assert_same(adapter_of(attachment, "news"), adapter)


def test_a_head_comes_back_with_the_adapter(tmp_path: Path) -> None:
    model, adapter = adapter_for("bert", head_modules=("classifier", "bert.pooler"))
    assert set(adapter.head) == {
        "classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias",
    }  # fmt: skip
    save_adapter(adapter, tmp_path)
    fresh, inputs = make_model("bert"), make_inputs("bert")
    load(fresh, tmp_path)
    assert torch.equal(fresh(**inputs).logits, model(**inputs).logits)


def test_a_head_of_another_number_of_labels_replaces_the_models_own(tmp_path: Path) -> None:
    _, adapter = adapter_for("bert")
    wider = {"classifier.weight": spread((5, 16)), "classifier.bias": spread(5)}
    save_adapter(replace(adapter, head=wider), tmp_path)
    model, inputs = make_model("bert"), make_inputs("bert")
    attachment = load(model, tmp_path, "five")
    assert model(**inputs).logits.shape == (3, 5)
    assert model(**inputs, rows="__base__").logits.shape == (3, 3)
    assert attachment.bank.snapshot.head(1).parts[0].out_features == 5


def test_a_bf16_base_has_an_fp32_adapter_that_fits_the_fp32_base(tmp_path: Path) -> None:
    model = make_model("llama").to(torch.bfloat16)
    attachment = attach(model)
    attachment.bank.set_vector("default", spread(attachment.bank.plan.width))
    model.save_pretrained(tmp_path)
    loaded = load(make_model("llama"), tmp_path)
    assert torch.equal(loaded.bank.vector(1), attachment.bank.vector(1))
    assert loaded.bank.dtype == torch.float32


def test_a_float64_base_has_a_float64_bank() -> None:
    assert attach(make_model("llama", torch.float64)).bank.dtype == torch.float64


def test_pefts_two_files_are_written_as_peft_writes_them(tmp_path: Path) -> None:
    _, adapter = adapter_for("gpt2")
    save_adapter(adapter, tmp_path, extra_files={"README.md": "# Card", "run.bin": b"\x00\xff"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "ia3.json", "run.bin",
    ]  # fmt: skip
    assert (tmp_path / "README.md").read_text() == "# Card"
    tensors = safetensors.torch.load_file(tmp_path / "adapter_model.safetensors")
    fused = tensors["base_model.model.transformer.h.0.attn.c_attn.ia3_l"]
    assert fused.shape == (48, 1) and fused.dtype == torch.float32
    assert torch.equal(fused[:16], torch.ones(16, 1))  # the query's part
    assert tensors["base_model.model.transformer.h.0.mlp.c_proj.ia3_l"].shape == (1, 24)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert list(config) == sorted(config) and len(config) == 13
    assert config["peft_type"] == "IA3" and config["fan_in_fan_out"] is True


def test_a_folder_of_pefts_is_read_by_shapes(tmp_path: Path) -> None:
    _, adapter = adapter_for("gpt2")
    save_adapter(adapter, tmp_path)
    (tmp_path / "ia3.json").unlink()
    model, inputs = make_model("gpt2"), make_inputs("gpt2")
    attachment = load(model, tmp_path)
    assert attachment.bank.plan.source == "family"
    other = make_model("gpt2")
    attach(other).bank.set_vector("default", adapter.row(attachment.bank.plan))
    assert torch.equal(model(**inputs).logits, other(**inputs).logits)


def test_weights_in_a_bin_file_are_read_and_code_in_it_is_not_run(tmp_path: Path) -> None:
    _, adapter = adapter_for("t5")
    save_adapter(adapter, tmp_path)
    (tmp_path / "ia3.json").unlink()
    weights = tmp_path / "adapter_model.safetensors"
    torch.save(safetensors.torch.load_file(weights), tmp_path / "adapter_model.bin")
    weights.unlink()
    assert torch.equal(load_adapter(tmp_path).row(attach(make_model("t5")).bank.plan), _row(adapter))
    torch.save({"x": Path}, tmp_path / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"adapter_model\.bin: it is no tensor file"):
        load_adapter(tmp_path)


def _row(adapter: Adapter) -> torch.Tensor:
    return torch.cat([adapter.vectors[site.name] for site in adapter.sites])


def test_another_base_is_refused_and_both_are_named(tmp_path: Path) -> None:
    _, adapter = adapter_for("bert")
    save_adapter(
        replace(adapter, record={**adapter.record, "base": adapter.record["base"] | {"name": "a/base"}}), tmp_path
    )
    other = make_model("bert", seed=7)
    other.name_or_path = "b/base"
    got = f"trained on base 'a/base' (fingerprint {adapter.record['base']['fingerprint'][:12]}), this model is 'b/base'"
    with pytest.raises(AdapterError, match=re.escape(got)):
        load_adapter(tmp_path, other)
    assert not hasattr(other, "ia3_attachment")


def test_a_vector_of_another_width_is_named_with_the_base(tmp_path: Path) -> None:
    _, adapter = adapter_for("t5")
    name = "encoder.block.0.layer.0.SelfAttention.k"
    sites = tuple(whole(name, "output", 12) if site.name == name else site for site in adapter.sites)
    config = replace(adapter.config, base_model_name_or_path="t5-small")
    save_adapter(Adapter(sites, {**adapter.vectors, name: spread(12)}, config=config), tmp_path)
    with pytest.raises(AdapterError) as caught:
        load_adapter(tmp_path, make_model("t5"))
    assert str(caught.value) == (
        f"Loading adapter from {tmp_path}: vector '{name}' has width 12, this base needs 16. The adapter was "
        "trained on another base: t5-small (adapter_config.json). Load it on that one, or train again."
    )


def test_a_vector_for_a_module_that_is_not_there_is_named_with_a_near_match(tmp_path: Path) -> None:
    vectors = {"encoder.block.0.layer.0.SelfAttention.kk": spread(16), "wi": spread(24)}
    sites = tuple(whole(name, "output", len(vector)) for name, vector in vectors.items())
    save_adapter(Adapter(sites, vectors), tmp_path)
    with pytest.raises(AdapterError) as caught:
        load_adapter(tmp_path, make_model("t5"))
    assert "vector 'encoder.block.0.layer.0.SelfAttention.kk' has no linear module here. Did you mean" in str(
        caught.value
    )
    assert "'wi' has no linear module" in str(caught.value)


def test_a_larger_model_whose_other_layers_have_no_vector_is_refused(tmp_path: Path) -> None:
    _, adapter = adapter_for("llama")
    kept = tuple(site for site in adapter.sites if ".layers.0." in site.module)
    save_adapter(Adapter(kept, {s.name: adapter.vectors[s.name] for s in kept}, config=adapter.config), tmp_path)
    with pytest.raises(AdapterError, match=r"'model\.layers\.1\.self_attn\.k_proj' is among the targets and has no"):
        load_adapter(tmp_path, make_model("llama"))


def test_a_head_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    _, adapter = adapter_for("bert")
    model = make_model("bert")
    for head, told in (
        ({"classifier.weight": spread((3, 17)), "classifier.bias": spread(3)}, "has shape (3, 17), needs (3, 16)"),
        ({"classifier.weight": spread((3, 16))}, "differs in the tensors 'bias'"),
        ({"clasifier.weight": spread((3, 16))}, "no module 'clasifier'. Did you mean 'classifier'"),
    ):
        save_adapter(replace(adapter, head=head), tmp_path)
        with pytest.raises(AdapterError, match=re.escape(told)):
            load_adapter(tmp_path, model)


def test_numbers_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path: Path) -> None:
    _, adapter = adapter_for("t5")
    site = adapter.sites[0]
    broken = replace(adapter, vectors={**adapter.vectors, site.name: torch.full((site.width,), torch.nan)})
    with pytest.raises(AdapterError, match=f"{re.escape(repr(site.name))} holds numbers that are not finite"):
        save_adapter(broken, tmp_path)
    assert not tmp_path.joinpath("adapter_config.json").exists()
    save_adapter(adapter, tmp_path)
    (tmp_path / "ia3.json").unlink()
    path = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(path)
    key = f"base_model.model.{site.module}.ia3_l"
    safetensors.torch.save_file({**tensors, key: tensors[key] * torch.inf}, path)
    with pytest.raises(AdapterError, match=f"'{re.escape(key)}' holds numbers that are not finite"):
        load_adapter(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("adapter_config.json", lambda b: b[:40], r"adapter_config\.json: line \d+, column \d+ is not JSON"),
        ("adapter_config.json", lambda b: b"[]", "it holds list, expected one JSON object"),
        ("adapter_config.json", lambda b: b.replace(b'"IA3"', b'"LORA"'), "is of type 'LORA', expected 'IA3'"),
        ("adapter_config.json", lambda b: b.replace(b"false", b'"no"'), "'fan_in_fan_out' must be true or false, got"),
        ("adapter_model.safetensors", lambda b: b[:-8], "does not hold the tensors that .*damaged"),
        ("ia3.json", lambda b: b[:-20], r"ia3\.json: line \d+, column \d+ is not JSON"),
        ("ia3.json", lambda b: b'{"a": 1}', "not a record of this package: format_version is None"),
        ("ia3.json", lambda b: b.replace(b'"format_version": 1', b'"format_version": 9'), "version 9, .*Upgrade"),
        ("ia3.json", lambda b: b.replace(b'"created"', b'"labels": 3, "created"'), "'labels' is int, expected list"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_told_in_one_sentence(name: str, change: Any, told: str, tmp_path: Path) -> None:
    _, adapter = adapter_for("t5")
    save_adapter(replace(adapter, record={**adapter.record, "created": "2026-01-01"}), tmp_path)
    path = tmp_path / name
    changed = change(path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    with pytest.raises(AdapterError, match=told) as caught:
        load_adapter(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_without_one_of_its_files_is_incomplete(name: str, tmp_path: Path) -> None:
    _, adapter = adapter_for("t5")
    save_adapter(adapter, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(AdapterError, match=f"the adapter is incomplete, {name} is missing"):
        load_adapter(tmp_path)


def test_weights_that_the_record_does_not_describe_are_refused(tmp_path: Path) -> None:
    _, first = adapter_for("t5", seed=0)
    _, second = adapter_for("t5", seed=1)
    save_adapter(first, tmp_path / "a")
    save_adapter(second, tmp_path / "b")
    (tmp_path / "b" / "adapter_model.safetensors").replace(tmp_path / "a" / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors does not hold the tensors that"):
        load_adapter(tmp_path / "a")


def test_an_extra_file_cannot_be_one_of_the_adapters_own_or_lie_elsewhere(tmp_path: Path) -> None:
    _, adapter = adapter_for("t5")
    for name in ("ia3.json", "../up.txt", "adapter_config.json"):
        with pytest.raises(AdapterError, match="cannot be an extra file"):
            save_adapter(adapter, tmp_path / "a", extra_files={name: "x"})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    _, adapter = adapter_for("t5")
    with pytest.raises(
        AdapterError, match=r"Saving an adapter to .*file.inside: it cannot be written \(Not a directory\)"
    ):
        save_adapter(adapter, tmp_path / "file" / "inside")


def test_a_cut_off_tensor_file_of_pefts_is_told(tmp_path: Path) -> None:
    _, adapter = adapter_for("t5")
    path = save_adapter(adapter, tmp_path) / "adapter_model.safetensors"
    (tmp_path / "ia3.json").unlink()
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors: it is no tensor file .* cut off or damaged"):
        load_adapter(tmp_path)


def test_what_pefts_format_cannot_express_is_refused_with_the_reason(tmp_path: Path) -> None:
    both = (whole("a.k", "output", 4), whole("a.k", "input", 4, "feedforward"))
    with pytest.raises(
        AdapterError, match=r"'a\.k' has a vector on its input and one on its output, and PEFT holds one"
    ):
        save_adapter(Adapter(both, {"a.k": spread(4), "a.k[input]": spread(4)}), tmp_path)
    in_head = Adapter((whole("classifier.dense", "output", 4),), {"classifier.dense": spread(4)}, config=AdapterConfig(
        modules_to_save=("classifier",)))  # fmt: skip
    with pytest.raises(AdapterError, match=r"vector 'classifier\.dense' lies in a head"):
        save_adapter(in_head, tmp_path)
    assert list(tmp_path.iterdir()) == []
