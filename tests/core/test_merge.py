"""Merging returns a new plain model; the attached one goes on as before, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.merge import merge
from ia3.errors import BankError
from tests.core.banks import attached_model, largest, random_row, tiny_model
from tests.families import CASES, make_inputs


@torch.no_grad()
def _logits(model: Any, family: str, **options: Any) -> Tensor:
    return model(**make_inputs(family, padded=True), **options).logits


@pytest.mark.parametrize("family", CASES)
def test_a_merged_model_is_plain_and_equals_the_attached_one(family: str) -> None:
    model, attachment = attached_model(family, "news", "wire")
    rows = ["news", "wire", "__base__"]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mixed = _logits(model, family, rows=rows)
    merged = merge(attachment, "news")
    assert type(merged) is type(model)
    assert largest(_logits(merged, family) - _logits(model, family, rows="news")) <= 1e-5
    assert largest(_logits(merged, family) - _logits(model, family, rows="__base__")) > 0.01
    assert list(merged.state_dict()) == list(tiny_model(family).state_dict())
    assert _leftovers(merged) == []
    assert [p.requires_grad for p in merged.parameters()] == [p.requires_grad for p in tiny_model(family).parameters()]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(_logits(model, family, rows=rows), mixed)


def _leftovers(model: Any) -> list[str]:
    """Return what of ours is still on a model: attributes, hooks and anything that leads back to a bank."""
    ours = []
    for path, module in model.named_modules():
        for name, value in module.__dict__.items():
            if "ia3" in name or type(value).__module__.startswith("ia3"):
                ours.append(f"{path}.{name}")
            values = value.values() if isinstance(value, dict) and "hooks" in name else ()
            ours += [f"{path}.{name}" for hook in values if "ia3" in repr(hook)]
        if type(module).__module__.startswith("ia3"):
            ours.append(path)
        for name in ("forward", "generate", "save_pretrained", "_set_gradient_checkpointing"):
            if name in module.__dict__:
                ours.append(f"{path}.{name}")
    return ours


@pytest.mark.parametrize(
    "family", ["t5-gated", "bart", "gpt2", "falcon-new", "phi3", "gemma3", "deberta", "modernbert"]
)
def test_a_merged_model_is_saved_and_loaded_like_any_other(family: str, tmp_path: Path) -> None:
    model, attachment = attached_model(family, "news")
    merged = merge(attachment, "news")
    merged.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(_logits(loaded, family), _logits(merged, family))


def test_merging_row_zero_is_a_plain_copy_of_the_base() -> None:
    model, attachment = attached_model("llama", "news")
    merged = merge(attachment, "__base__")
    base = tiny_model("llama")
    assert all(torch.equal(tensor, base.state_dict()[name]) for name, tensor in merged.state_dict().items())
    assert merged.lm_head.weight.data_ptr() != model.lm_head.weight.data_ptr()


def test_a_row_in_training_can_be_merged_and_trains_on() -> None:
    model, attachment = attached_model("bart", "news", trainable=True)
    merged = merge(attachment, "news")
    assert largest(_logits(merged, "bart") - _logits(model, "bart", rows="news")) <= 1e-5
    model(**make_inputs("bart"), rows="news").logits.sum().backward()
    assert all(p.grad is not None for p in attachment.bank.parameters())


def test_zeros_and_negative_numbers_are_merged_as_they_are() -> None:
    """PEFT's unmerge divides by l + 1e-8 and loses such rows; nothing here is ever divided."""
    model, attachment = attached_model("bert")
    row = torch.ones(attachment.bank.plan.width)
    row[::3], row[1::3] = 0.0, -1e-8
    attachment.bank.add("odd", row)
    before = _logits(model, "bert", rows="__base__")
    merged = merge(attachment, "odd")
    assert largest(_logits(merged, "bert") - _logits(model, "bert", rows="odd")) <= 1e-5
    assert torch.equal(_logits(model, "bert", rows="__base__"), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=["bf16", "fp64"])
def test_the_product_is_rounded_once_to_the_dtype_of_the_weight(dtype: torch.dtype) -> None:
    model, attachment = attached_model("llama", "news", dtype=dtype)
    merged = merge(attachment, "news")
    vector = attachment.bank.site_vectors("news")["model.layers.0.self_attn.v_proj"]
    weight = model.model.layers[0].self_attn.v_proj.weight
    expected = (weight.to(vector.dtype) * vector.unsqueeze(1)).to(dtype)
    assert torch.equal(merged.model.layers[0].self_attn.v_proj.weight, expected)
    assert {p.dtype for p in merged.parameters()} == {dtype}
    tolerance = 1e-10 if dtype == torch.float64 else 0.25
    assert largest(_logits(merged, "llama") - _logits(model, "llama", rows="news")) <= tolerance


@pytest.mark.parametrize("labels", [3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_head_of_the_adapter_is_merged_and_its_labels_counted(
    labels: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """An fp32 head in a bf16 model could not run, and a config of three labels would not load a head of five."""
    model = tiny_model("bert", dtype)
    bank = Bank(find_plan(model))
    attachment = attach_bank(model, bank, heads=("classifier",))
    row = attachment.add("news", random_row(bank))
    bank.snapshot.head(row).parts[0] = nn.Linear(16, labels)
    merged = merge(attachment, "news")
    found = _logits(merged, "bert")
    assert found.dtype == dtype and found.shape == (3, labels)
    assert largest(found - _logits(model, "bert", rows="news")) <= (1e-5 if dtype == torch.float32 else 0.1)
    assert _leftovers(merged) == []
    assert not merged.classifier.training
    merged.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=dtype).eval()
    assert torch.equal(_logits(loaded, "bert"), found)
    with torch.no_grad():
        loss = merged(**make_inputs("bert"), labels=torch.tensor([0, 1, labels - 1])).loss
    assert bool(loss.isfinite())
    assert (model.config.num_labels, model.num_labels, model.classifier.out_features) == (3, 3, 3)


def test_the_bank_is_not_copied_for_merging(monkeypatch: pytest.MonkeyPatch) -> None:
    model, attachment = attached_model("llama", "news")
    copied = []
    monkeypatch.setattr(Bank, "__deepcopy__", lambda self, memo: copied.append(self), raising=False)
    merge(attachment, "news")
    assert copied == []
    assert model.ia3_bank is attachment.bank


def test_a_merged_model_generates_and_can_be_attached_to_again() -> None:
    _, attachment = attached_model("llama", "news")
    merged = merge(attachment, "news")
    ids = make_inputs("llama")["input_ids"]
    assert merged.generate(ids, max_new_tokens=2, do_sample=False).shape == (3, 9)
    bank = Bank(find_plan(merged))
    attach_bank(merged, bank)
    bank.add("ones")
    assert torch.equal(_logits(merged, "llama", rows="ones"), _logits(merge(attachment, "news"), "llama"))


def test_settings_without_effect_do_not_keep_a_merged_model_from_being_saved(tmp_path: Path) -> None:
    """Transformers refuses to save a temperature beside do_sample=false, as Llama 2's checkpoints have it."""
    model, attachment = attached_model("llama", "news")
    settings = {"do_sample": False, "temperature": 0.9, "top_p": 0.6, "length_penalty": 2.0, "output_scores": True}
    for name, value in {**settings, "repetition_penalty": 1.5}.items():
        setattr(model.generation_config, name, value)
    merged = merge(attachment, "news")
    merged.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert loaded.generation_config.repetition_penalty == 1.5
    assert model.generation_config.temperature == 0.9
    ids = make_inputs("llama")["input_ids"]
    with attachment.use("news"):
        assert torch.equal(loaded.generate(ids, max_new_tokens=4), model.generate(ids, max_new_tokens=4))


def test_an_unknown_adapter_is_refused() -> None:
    _, attachment = attached_model("llama", "news")
    with pytest.raises(BankError, match="Did you mean 'news'"):
        merge(attachment, "new")
    with pytest.raises(BankError, match="row 4: no adapter lies there"):
        merge(attachment, 4)


def test_a_weight_shared_with_another_module_is_refused() -> None:
    model = tiny_model("llama")
    first, second = (layer.self_attn for layer in model.model.layers)
    first.q_proj = nn.Linear(16, 8, bias=False)
    first.q_proj.weight = second.k_proj.weight
    bank = Bank(find_plan(model))
    attachment = attach_bank(model, bank)
    bank.add("news", random_row(bank))
    told = r"'model\.layers\.1\.self_attn\.k_proj': its weight is shared with 'model\.layers\.0\.self_attn\.q_proj'"
    with pytest.raises(BankError, match=told):
        merge(attachment, "news")


def test_a_module_that_stands_at_two_places_is_merged_once() -> None:
    """The same module twice shares its weight with itself only; it used to be refused."""
    model = tiny_model("llama")
    model.model.layers[1].self_attn.k_proj = model.model.layers[0].self_attn.k_proj
    bank = Bank(find_plan(model, target_modules=["k_proj", "v_proj"]))
    assert sum(site.role == "key" for site in bank.plan.sites) == 1
    attachment = attach_bank(model, bank)
    bank.add("news", random_row(bank))
    found = _logits(merge(attachment, "news"), "llama")
    assert largest(found - _logits(model, "llama", rows="news")) <= 1e-5


def test_a_quantised_weight_is_refused() -> None:
    class Quantised(nn.Module):
        in_features, out_features = 16, 8

        def __init__(self, weight: Tensor | None) -> None:
            super().__init__()
            if weight is not None:
                self.weight = nn.Parameter(weight, requires_grad=False)

    for weight, told in (
        (torch.zeros(8, 16, dtype=torch.int8), r"torch\.int8"),
        (torch.zeros(8, 16, dtype=torch.float8_e4m3fn), r"torch\.float8_e4m3fn"),
        (None, "no weight"),
    ):
        model = tiny_model("llama")
        model.model.layers[0].self_attn.k_proj = Quantised(weight)
        bank = Bank(find_plan(model))
        attachment = attach_bank(model, bank)
        bank.add("news")
        with pytest.raises(BankError, match=f"its weight is quantised, got {told}, expected floating point"):
            merge(attachment, "news")
