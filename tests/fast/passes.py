"""Training passes of tiny models, as both the plain and the faster way run them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from ia3.core.attach import Attachment
from ia3.data.batches import IGNORED, Batch
from ia3.kernels import products
from ia3.training.losses import sum_loss
from tests.core.banks import attached_model
from tests.families import CASES, VOCABULARY, make_inputs

MIXED = ["a", "__base__", "b", "signs"]  # the rows of a batch of four
CHOICES = 3


def take_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let products come from oneDNN on any processor whose torch has them."""
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        monkeypatch.setattr(products, "fastest_library", lambda: "onednn")


def mixed_model(family: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Attachment]:
    """Return a family's model and three adapters that are trained: `a`, `b`, and `signs` with zeros and negatives."""
    model, attachment = attached_model(family, "a", "b", dtype=dtype, trainable=True)
    bank = attachment.bank
    signs = torch.linspace(-1, 1, bank.plan.width, dtype=bank.dtype)
    signs[::5] = 0
    bank.add("signs", signs, trainable=True)
    return model, attachment


def make_batch(family: str, batch: int = 4, seq: int = 7, seed: int = 1) -> Batch:
    """Return a padded batch with targets at random positions, at least one, and another number for each example."""
    inputs = make_inputs(family, batch=batch, seq=seq, seed=seed, padded=True)
    generator = torch.Generator().manual_seed(seed)
    choices = torch.randint(0, CHOICES, (batch,), generator=generator)
    decoder = inputs.get("decoder_input_ids")
    labels = choices
    if CASES[family].kind != "encoder":
        side = inputs["input_ids"] if decoder is None else decoder
        labels = torch.randint(3, VOCABULARY, side.shape, generator=generator)
        labels[torch.rand(side.shape, generator=generator) < 0.6] = IGNORED
        labels[0, :2] = torch.tensor([5, 6])
        labels[-1, :] = IGNORED if batch > 1 else labels[-1]
    return Batch(inputs["input_ids"], inputs["attention_mask"], decoder, labels, choices, tuple(range(batch)))


def loss_and_gradients(
    model: Any, attachment: Attachment, family: str, batch: Batch, rows: Any, weights: Tensor | None = None
) -> dict[str, Tensor]:
    """Return the summed loss of a batch and its gradient for every trained tensor that it reaches."""
    shares = None if weights is None else weights[batch.choices]
    loss = sum_loss(model, CASES[family].kind, batch, rows, shares)  # type: ignore[arg-type]
    trained = {name: p for name, p in attachment.bank.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    reached = {name: g for name, g in zip(trained, gradients, strict=True) if g is not None}
    return {"loss": loss.detach(), **reached}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], digits: float) -> None:
    """Raise unless both have the same names and numbers that differ by `digits` of the largest at most."""
    assert set(found) == set(expected) and len(found) > 1
    for name, wanted in expected.items():
        assert found[name].dtype == wanted.dtype, name
        size = float(wanted.abs().max())
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=digits * size, msg=lambda m, n=name: f"{n}: {m}")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed inside, and leave the global random numbers where they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
