"""Every family, both ways: PEFT runs what we write, and we run what PEFT writes, to the same logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ia3.adapters.attached import attach, load
from ia3.adapters.config import TASK_TYPES
from tests.families import CASES, make_inputs, make_model
from tests.parity.peft_side import difference, random_vector, run_with_peft, save_with_peft

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5

# Targets for the families for which PEFT has no default of its own.
GIVEN = {
    "umt5": (["k", "v", "wi_1"], []),
    "longt5": (["k", "v", "wo"], ["wo"]),
    "longt5-global": (["k", "v", "wo"], ["wo"]),
    "mbart": (["k_proj", "v_proj", "fc2"], ["fc2"]),
    "marian": (["k_proj", "v_proj", "fc2"], ["fc2"]),
    "pegasus": (["k_proj", "v_proj", "fc2"], ["fc2"]),
    "m2m_100": (["k_proj", "v_proj", "fc2"], ["fc2"]),
    "phi3": (["qkv_proj", "down_proj"], ["down_proj"]),
    "xlm-roberta": (["key", "value", "output.dense"], ["output.dense"]),
    "camembert": (["key", "value", "output.dense"], ["output.dense"]),
    "distilbert": (["k_lin", "v_lin", "lin2"], ["lin2"]),
    "mpnet": (["k", "v", "output.dense"], ["output.dense"]),
    "albert": (["key", "value", "ffn_output"], ["ffn_output"]),
    "electra": (["key", "value", "output.dense"], ["output.dense"]),
    "modernbert": (["Wqkv", "mlp.Wo"], ["mlp.Wo"]),
}


@pytest.mark.parametrize("name", CASES)
def test_peft_computes_what_we_wrote(name: str, tmp_path: Path) -> None:
    model, inputs = make_model(name), make_inputs(name, padded=CASES[name].kind == "encoder")
    untouched = make_model(name)
    attachment = attach(model)
    attachment.bank.set_vector("default", random_vector((attachment.bank.plan.width,), seed=1))
    with torch.no_grad():
        ours = model(**inputs).logits
    model.save_pretrained(tmp_path)
    assert difference(run_with_peft(untouched, tmp_path, inputs), ours) <= TOLERANCE
    assert difference(untouched(**inputs).logits, ours) > 100 * TOLERANCE
    loaded = load(untouched, tmp_path)
    assert torch.equal(loaded.bank.vector(1), attachment.bank.vector(1))
    assert torch.equal(untouched(**inputs).logits, ours)


@pytest.mark.parametrize("name", CASES)
def test_we_compute_what_peft_wrote_with_its_defaults(name: str, tmp_path: Path) -> None:
    model, inputs = make_model(name), make_inputs(name, padded=CASES[name].kind == "encoder")
    targets, feedforward = GIVEN.get(name, (None, None))
    theirs = save_with_peft(
        model, tmp_path, inputs,
        task_type=TASK_TYPES[CASES[name].kind], target_modules=targets, feedforward_modules=feedforward,
    )  # fmt: skip
    before = model(**inputs).logits
    load(model, tmp_path)
    with torch.no_grad():
        ours = model(**inputs).logits
    assert difference(ours, theirs) <= TOLERANCE
    assert difference(before, theirs) > 100 * TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_peft_computes_what_we_loaded_from_peft_and_saved_again(name: str, tmp_path: Path) -> None:
    model, inputs = make_model(name), make_inputs(name)
    untouched = make_model(name)
    targets, feedforward = GIVEN.get(name, (None, None))
    theirs = save_with_peft(
        model, tmp_path / "theirs", inputs,
        task_type=TASK_TYPES[CASES[name].kind], target_modules=targets, feedforward_modules=feedforward,
    )  # fmt: skip
    load(model, tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    assert difference(run_with_peft(untouched, tmp_path / "ours", inputs), theirs) <= TOLERANCE
