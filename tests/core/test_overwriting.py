"""A model that writes over what a vector has multiplied gets the gradients of the same model with scaled weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import OlmoConfig, OlmoForCausalLM

import ia3
from ia3.bases.precision import to_int8
from ia3.core.attach import Attachment, attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.overwriting import Overwriting
from ia3.fast.acceleration import accelerated
from tests.core.banks import tiny_model
from tests.families import CASES, make_inputs
from tests.models import VOCABULARY, tiny_tokenizer

IDS = torch.tensor([[3, 14, 15, 9, 26, 5], [35, 8, 9, 7, 9, 3]])


def clamping_olmo() -> Any:
    torch.manual_seed(0)
    config = OlmoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        clip_qkv=0.5,  # OLMo 1.7 has 8.0
        pad_token_id=0,
        eos_token_id=1,
        initializer_range=0.2,
    )
    return OlmoForCausalLM(config).eval()


def with_vector(model: Any, seed: int = 5) -> tuple[Attachment, Tensor]:
    bank = Bank(find_plan(model))
    vector = torch.rand(bank.plan.width, generator=torch.Generator().manual_seed(seed)) + 0.5
    bank.add("a", vector, trainable=True)
    return attach_bank(model, bank), vector


def gradient(model: Any, attachment: Attachment) -> Tensor:
    attachment.bank.zero_grad()
    model(input_ids=IDS, labels=IDS, rows="a", use_cache=False).loss.backward()
    (found,) = [p.grad for p in attachment.bank.parameters() if p.grad is not None]
    return found.reshape(-1).clone()


def gradient_by_hand(model: Any, vector: Tensor) -> Tensor:
    """Torch's own, of the weights times the vector."""
    leaf, weights = vector.clone().requires_grad_(True), {}
    for site, span in find_plan(model).spans():
        weight = model.get_submodule(site.module).weight.detach()
        weights[f"{site.module}.weight"] = weight * (leaf[span][:, None] if site.side == "output" else leaf[span][None])
    loss = torch.func.functional_call(model, weights, (), {"input_ids": IDS, "labels": IDS}).loss
    return torch.autograd.grad(loss, leaf)[0]


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_keys_and_values_that_are_clamped_in_place_get_their_gradient_in_every_pass() -> None:
    """OLMo clamps its keys and values in place behind the vectors, and the backward pass ended in torch's error."""
    model = clamping_olmo()
    attachment, vector = with_vector(model)
    by_hand = gradient_by_hand(clamping_olmo(), vector)

    for _ in range(2):  # the first pass knows nothing yet
        close(gradient(model, attachment), by_hand)
    written = {attachment.groups[number].module.rpartition(".")[2] for number in attachment.overwriting.overwritten}
    assert written == {"k_proj", "v_proj"}


def test_the_faster_passes_know_before_the_first_step_what_is_written_over() -> None:
    model = clamping_olmo()
    attachment, vector = with_vector(model)
    with accelerated(attachment):
        assert attachment.overwriting.is_seen(is_training=False)
        close(gradient(model, attachment), gradient_by_hand(clamping_olmo(), vector))


def test_dropout_draws_the_same_whether_or_not_outputs_were_seen_before() -> None:
    model = clamping_olmo().train()
    attachment, _ = with_vector(model)
    torch.manual_seed(3)
    with accelerated(attachment):
        assert attachment.overwriting.is_seen(is_training=True)
        drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))


@pytest.mark.parametrize("is_reentrant", [False, True], ids=["plain", "reentrant"])
def test_a_block_that_is_computed_again_keeps_what_it_kept_at_first(is_reentrant: bool) -> None:
    """The pass has shown meanwhile what it leaves alone; its backward pass must not divide what was not multiplied."""
    model = clamping_olmo().train()
    model.activation_checkpointing_enable({"use_reentrant": is_reentrant})
    attachment, vector = with_vector(model)
    if is_reentrant:
        model.enable_input_require_grads()
    by_hand = gradient_by_hand(clamping_olmo(), vector)
    for _ in range(2):
        close(gradient(model, attachment), by_hand)


def test_projections_in_int8_are_seen_too() -> None:
    model = clamping_olmo()
    to_int8(model)
    attachment, vector = with_vector(model)
    found = [gradient(model, attachment) for _ in range(2)]
    close(found[0], found[1])
    by_hand = gradient_by_hand(clamping_olmo(), vector)
    assert torch.cosine_similarity(found[0], by_hand, dim=0) > 0.98


class _Overwriting(nn.Module):
    """Phi's feed-forward, which writes over what its last projection was given."""

    def __init__(self, fc1: nn.Linear, fc2: nn.Linear, activation_fn: nn.Module) -> None:
        super().__init__()
        self.fc1, self.fc2, self.activation_fn = fc1, fc2, activation_fn

    def forward(self, x: Tensor) -> Tensor:
        h = self.activation_fn(self.fc1(x))
        y: Tensor = self.fc2(h)
        h.mul_(2)
        return y


def test_an_input_that_is_written_over_behind_a_vector_near_zero_gets_its_gradient() -> None:
    """Where a number is too small to divide by, the input is kept, which the model may write over as well."""
    found = []
    for is_overwriting in (False, True):
        model = tiny_model("phi")
        mlp = model.model.layers[0].mlp
        if is_overwriting:
            model.model.layers[0].mlp = _Overwriting(mlp.fc1, mlp.fc2, mlp.activation_fn)
        attachment, vector = with_vector(model)
        attachment.bank.set_vector("a", torch.where(torch.arange(len(vector)) % 2 == 0, vector, 0.0))
        found.append(gradient(model, attachment))
    close(*found)


def test_families_in_the_table_leave_their_outputs_alone() -> None:
    """Nothing has to be seen of them: their code was read, and a first pass keeps what every other keeps."""
    for name in CASES:
        model = tiny_model(name)
        attachment = attach_bank(model, Bank(find_plan(model)))
        assert not attachment.overwriting.kept(is_training=True) | attachment.overwriting.kept(is_training=False), name
        attachment.overwriting = Overwriting.of("targets", attachment.groups)
        with torch.no_grad():
            model(**make_inputs(name), rows="__base__")
        assert attachment.overwriting.is_seen(is_training=False) and not attachment.overwriting.overwritten, name


def test_a_base_that_writes_over_its_keys_is_trained(tmp_path: Any) -> None:
    clamping_olmo().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    rows = [("profit rose", "good"), ("profit fell", "bad")] * 4
    base = ia3.load_base(tmp_path / "base")
    ia3.train(rows, base, tmp_path / "run", max_steps=2, eval_fraction=0, dropout=True, compile="off", recipe="default")
    assert ia3.load(tmp_path / "run").classify(["profit rose"])[0].prediction in ("good", "bad")
