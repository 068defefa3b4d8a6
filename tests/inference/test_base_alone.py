"""A base alone: its own numbers by faster passes, and the model as it was behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ia3
from ia3.bases.loading import load_base
from ia3.core.attach import attachment_of
from ia3.errors import BankError
from ia3.fast.acceleration import acceleration_of
from ia3.inference.base_alone import base_alone
from tests.models import save_tiny_base


@pytest.fixture
def model(tmp_path: Path) -> Any:
    folder = save_tiny_base(tmp_path / "causal", "causal")
    return load_base(folder, dtype="float32", device="cpu", say=lambda line: None).model


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.arange(12).reshape(2, 6)).logits
    return logits


def test_a_model_has_faster_passes_inside_and_is_given_back(model: nn.Module) -> None:
    model.get_input_embeddings().requires_grad_(True)  # type: ignore[operator]
    own, trained = _logits(model), [p.requires_grad for p in model.parameters()]
    with base_alone(model):
        assert acceleration_of(model) is not None and len(attachment_of(model).bank.names) == 0
        torch.testing.assert_close(_logits(model), own)
    assert acceleration_of(model) is None and torch.equal(_logits(model), own)
    assert [p.requires_grad for p in model.parameters()] == trained and any(trained)
    with pytest.raises(BankError, match="it has none"):
        attachment_of(model)


def test_a_bank_stays_and_is_not_used_inside(model: nn.Module) -> None:
    own = _logits(model)
    attachment = ia3.attach(model)
    attachment.bank.set_vector("default", 20 * attachment.bank.vector("default"))
    adapted = _logits(model)
    with base_alone(model):
        assert attachment_of(model) is attachment
        torch.testing.assert_close(_logits(model), own)
    assert torch.equal(_logits(model), adapted) and not torch.equal(adapted, own)
    assert acceleration_of(model) is None


def test_a_fault_inside_gives_the_model_back(model: nn.Module) -> None:
    with pytest.raises(ZeroDivisionError), base_alone(model):
        raise ZeroDivisionError
    assert acceleration_of(model) is None and not hasattr(model, "ia3_attachment")


def test_a_model_without_a_place_for_vectors_keeps_its_own_passes() -> None:
    model = nn.Linear(2, 3)
    with base_alone(model):
        assert model(torch.ones(1, 2)).shape == (1, 3) and not hasattr(model, "ia3_attachment")
