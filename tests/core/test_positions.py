"""DeBERTa-v2 and v3 send positions through the tokens' key projection; the vector is shared, also in mixed batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.merge import merge
from ia3.core.positions import shares_positions
from tests.core.banks import attached_model, example, largest, random_row, tiny_model
from tests.families import VOCABULARY, make_inputs


def _deberta(pos_att_type: list[str], share: bool = True) -> Any:
    torch.manual_seed(0)
    model = hf.DebertaV2ForSequenceClassification(
        hf.DebertaV2Config(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0,
            relative_attention=True, position_buckets=4, pos_att_type=pos_att_type, share_att_key=share,
            type_vocab_size=0, norm_rel_ebd="layer_norm",
        )
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.5)
    return model


@pytest.mark.parametrize("pos_att_type", [["c2p"], ["p2c"], ["c2p", "p2c"]], ids="-".join)
@pytest.mark.parametrize("targets", [None, ["query_proj"], ["query_proj", "key_proj"]], ids=["plan", "query", "both"])
def test_one_adapter_and_mixed_rows_equal_merged_weights(pos_att_type: list[str], targets: list[str] | None) -> None:
    model = _deberta(pos_att_type)
    bank = Bank(find_plan(model, target_modules=targets))
    attachment = attach_bank(model, bank)
    bank.add("a", random_row(bank))
    bank.add("b", random_row(bank, seed=1))
    inputs = make_inputs("deberta-v3", padded=True)
    with torch.no_grad():
        mixed = model(**inputs, rows=["a", "b", "__base__"]).logits
        for i, name in enumerate(["a", "b", "__base__"]):
            merged = merge(attachment, name)(**inputs).logits
            assert largest(model(**inputs, rows=name).logits - merged) <= 1e-5
            assert largest(mixed[i] - merged[i]) <= 1e-5


def test_a_key_vector_moves_the_scores_against_positions_too() -> None:
    """Scaled by hand: q · (l ∘ k) for tokens and for positions, with p2c untouched by the key vector."""
    model = _deberta(["c2p"])
    bank = Bank(find_plan(model, target_modules=["key_proj"]))
    attach_bank(model, bank)
    bank.add("twice", torch.full((bank.plan.width,), 2.0))
    attention = model.deberta.encoder.layer[0].attention.self
    seen: list[torch.Tensor] = []
    softmax = torch.nn.functional.softmax

    def watched(scores: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(scores.detach().clone())
        return softmax(scores, *args, **kwargs)

    inputs = make_inputs("deberta-v3")
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", watched)
        model(**inputs, rows="__base__")
        model(**inputs, rows="twice")
    assert attention.share_att_key
    assert len(seen) == 4
    assert largest(seen[0]) > 0.1
    torch.testing.assert_close(seen[2], 2 * seen[0], rtol=1e-5, atol=1e-5)  # layer 0: all scores double


def test_only_attentions_that_share_are_changed() -> None:
    shared, separate = _deberta(["c2p"]), _deberta(["c2p"], share=False)
    assert any(shares_positions(module) for module in shared.modules())
    assert not any(shares_positions(module) for module in separate.modules())
    assert not any(shares_positions(module) for module in tiny_model("deberta").modules())
    attention = shared.deberta.encoder.layer[0].attention.self
    original = attention.disentangled_attention_bias
    attachment = attach_bank(shared, Bank(find_plan(shared)))
    assert attention.disentangled_attention_bias != original
    attachment.detach()
    assert attention.disentangled_attention_bias == original
    assert "disentangled_attention_bias" not in attention.__dict__


def test_gradients_of_mixed_rows_equal_each_alone() -> None:
    model, attachment = attached_model("deberta-v3", "a", "b", trainable=True)
    inputs = make_inputs("deberta-v3")
    model(**inputs, rows=["a", "b", "a"]).logits.square().sum().backward()
    mixed = [p.grad.clone() for p in attachment.bank.parameters()]
    attachment.bank.zero_grad()
    for i, name in enumerate(["a", "b", "a"]):
        model(**example(inputs, i), rows=name).logits.square().sum().backward()
    for found, p in zip(mixed, attachment.bank.parameters(), strict=True):
        torch.testing.assert_close(found, p.grad, rtol=1e-4, atol=1e-5)
