"""Every family with faster passes gives the loss, the gradients, the logits and the scores that it gives without."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ia3.core.attach import Attachment, attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.data.encoding import Encoded
from ia3.fast.acceleration import accelerate
from ia3.inference.logits import class_logits, logits_at
from ia3.inference.scoring import score_choices
from ia3.kernels.norms import rms_norm_plain
from tests.core.banks import tiny_model
from tests.families import CASES, make_inputs, tiny_base
from tests.fast.passes import (
    MIXED,
    assert_same,
    loss_and_gradients,
    make_batch,
    mixed_model,
    take_onednn,
)

# one of each that has something faster in bf16
IN_BF16 = (
    "t5", "t5-gated", "mt5", "umt5", "bart", "gpt2", "llama", "qwen3", "gemma", "gemma2", "gemma3", "bert", "electra",
)  # fmt: skip
FAMILIES = pytest.mark.parametrize("family", CASES)
# transformers computes softmaxes, position tables or biases of these in fp32 inside a float64 model
NOT_QUITE_DOUBLE = {"gemma2"}
# one row for all, one row with zeros and negatives, one for each example
ROWS: list[Any] = ["a", "signs", MIXED]


@pytest.fixture(autouse=True)
def _onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    take_onednn(monkeypatch)


@FAMILIES
def test_loss_and_gradients_are_the_plain_ones_in_fp32(family: str) -> None:
    model, attachment = mixed_model(family)
    weights = torch.tensor([0.5, 2.0, 1.0])
    passes = [(make_batch(family), rows, None) for rows in ROWS]
    passes += [(make_batch(family, batch=1, seq=5), ["b"], None), (make_batch(family, seq=11), "b", weights)]
    plain = [loss_and_gradients(model, attachment, family, *settings) for settings in passes]
    with accelerate(attachment):
        for settings, expected in zip(passes, plain, strict=True):
            assert_same(loss_and_gradients(model, attachment, family, *settings), expected, digits=1e-5)


@FAMILIES
def test_loss_and_gradients_are_the_plain_ones_in_float64(family: str) -> None:
    plain, fast = mixed_model(family, torch.float64), mixed_model(family, torch.float64)
    _norm_in_full(plain[0])
    batch = make_batch(family)
    with accelerate(fast[1]):
        for rows in ("signs", MIXED):
            found, expected = (loss_and_gradients(*pair, family, batch, rows) for pair in (fast, plain))
            assert_same(found, expected, digits=1e-6 if family in NOT_QUITE_DOUBLE else 1e-10)


def _norm_in_full(model: Any) -> None:
    """Have norms computed in float64, which transformers computes in fp32 whatever the model's dtype."""
    for module in model.modules():
        name = type(module).__name__
        if name.endswith(("RMSNorm", "T5LayerNorm")):
            weight = module.weight + 1 if name.startswith("Gemma") else module.weight
            epsilon = module.eps if hasattr(module, "eps") else module.variance_epsilon
            module.forward = lambda x, w=weight, e=epsilon: rms_norm_plain(x, w, e)


@pytest.mark.parametrize("family", IN_BF16)
def test_in_bf16_loss_and_gradients_are_as_near_to_the_truth_as_the_plain_ones(family: str) -> None:
    base = tiny_model(family, torch.bfloat16)
    truth, half = (_with_rows(copy.deepcopy(base).to(dtype)) for dtype in (torch.float64, torch.bfloat16))
    rows, batches = ["a", "b", "__base__", "a"], [make_batch(family, seed=seed) for seed in range(3)]
    exact, plain = ([loss_and_gradients(*pair, family, b, rows) for b in batches] for pair in (truth, half))
    with accelerate(half[1]):
        found = [loss_and_gradients(*half, family, b, rows) for b in batches]
    for name in exact[0]:
        assert all(f[name].dtype == torch.float32 for f in found)
        error, allowed = (_error([x[name] for x in xs], [e[name] for e in exact]) for xs in (found, plain))
        assert error <= 2 * allowed + 2**-8, name


def _error(found: list[Tensor], exact: list[Tensor]) -> float:
    """Return the relative error over several batches: in bf16 a single one is a matter of luck."""
    errors = [(f.double() - e).square().sum() for f, e in zip(found, exact, strict=True)]
    return float((torch.stack(errors).sum() / torch.stack([e.square().sum() for e in exact]).sum()).sqrt())


def _with_rows(model: Any) -> tuple[Any, Attachment]:
    bank = Bank(find_plan(model), dtype=torch.float64 if model.dtype == torch.float64 else torch.float32)
    attachment = attach_bank(model, bank)
    for seed, name in enumerate("ab"):
        numbers = torch.rand(bank.plan.width, generator=torch.Generator().manual_seed(seed)) + 0.5
        bank.add(name, numbers, trainable=True)
    return model, attachment


def _outputs(model: Any, family: str) -> Iterator[Tensor]:
    """Yield logits of a whole pass, logits at positions and scores of choices, a row for each example."""
    inputs = make_inputs(family, batch=4, padded=True)
    prompts = [Encoded(i, tuple(range(3, 4 + 3 * i)), (), -1, truncated=False) for i in range(4)]
    yield model(**inputs, rows=MIXED).logits
    if CASES[family].kind == "encoder":
        yield class_logits(model, {**inputs, "rows": MIXED})
    else:
        side = inputs.get("decoder_input_ids", inputs["input_ids"])
        positions = torch.rand(side.shape, generator=torch.Generator().manual_seed(3)) < 0.4
        yield logits_at(model, positions, {**inputs, "rows": MIXED})
    yield score_choices(tiny_base(model), prompts, [(5, 1), (5, 6, 7, 1), (9,)], MIXED)


@FAMILIES
def test_logits_and_scores_are_the_plain_ones(family: str) -> None:
    model, attachment = mixed_model(family)
    with torch.no_grad():
        plain = list(_outputs(model, family))
        with accelerate(attachment):
            for found, expected in zip(_outputs(model, family), plain, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
