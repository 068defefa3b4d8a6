"""`adapter_names` against PEFT: what it ignores for (IA)³ is done here, and what it promises for LoRA is kept here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ia3.peft
from ia3.errors import BankError
from tests.families import CASES, make_inputs, make_model
from tests.parity.peft_side import difference, draw_adapters, listening
from tests.peft.test_adapter_names import each_alone as run_alone

pytestmark = pytest.mark.parity

peft = pytest.importorskip("peft")

TASKS = {"seq2seq": "SEQ_2_SEQ_LM", "causal": "CAUSAL_LM", "encoder": "SEQ_CLS"}
NAMES = ["wire", "__base__", "news"]
# families for which PEFT has default targets
FAMILIES = ["t5", "mt5", "bart", "gpt2", "gptj", "gpt_neo", "gpt_neox", "bloom", "opt", "falcon", "llama", "mistral",
            "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi", "bert", "roberta"]  # fmt: skip


def their_model(family: str) -> Any:
    """Return PEFT's model with two (IA)³ adapters of random vectors, `news` active."""
    config = {"task_type": TASKS[CASES[family].kind]}
    with listening():
        model = peft.get_peft_model(make_model(family), peft.IA3Config(**config), adapter_name="news")
        model.add_adapter("wire", peft.IA3Config(**config))
    draw_adapters(model)
    model.set_adapter("news")
    return model.eval()


def our_model(family: str, theirs: Any, folder: Path) -> Any:
    """Return our model with the adapters that PEFT has saved."""
    with listening():
        theirs.save_pretrained(str(folder))
    model = ia3.peft.PeftModel.from_pretrained(make_model(family), folder / "news", adapter_name="news")
    model.load_adapter(folder / "wire", "wire")
    return model


def each_alone(theirs: Any, run: Any) -> list[Tensor]:
    """Return what PEFT gives for each example with its adapter set for the whole model, `news` active afterwards."""
    found = run_alone(theirs, NAMES, run)
    theirs.set_adapter("news")
    return found


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_peft_gives_every_example_the_active_adapter_and_we_give_each_its_own(family: str, tmp_path: Path) -> None:
    """PEFT takes `adapter_names` for (IA)³, and then runs every example through the active adapter, without a word."""
    theirs, inputs = their_model(family), make_inputs(family, padded=True)
    ours = our_model(family, theirs, tmp_path)
    active = theirs(**inputs).logits
    assert torch.equal(theirs(**inputs, adapter_names=NAMES).logits, active)
    assert torch.equal(theirs(**inputs, adapter_names=["invented"] * 3).logits, active)

    mixed = ours(**inputs, adapter_names=NAMES).logits
    alone = each_alone(theirs, lambda place: theirs(**inputs).logits[place])
    assert difference(mixed, torch.stack(alone)) < 1e-5
    assert difference(mixed[:2], active[:2]) > 1e-3
    with pytest.raises(BankError, match="'invented': the bank has no such name"):
        ours(**inputs, adapter_names=["invented"] * 3)


@pytest.mark.parametrize("family", ["t5", "bart", "gpt2", "llama", "opt"])
@pytest.mark.parametrize("beams", [1, 2])
@torch.no_grad()
def test_generating_with_names_continues_each_prompt_as_peft_does_alone(
    family: str, beams: int, tmp_path: Path
) -> None:
    theirs, inputs = their_model(family), make_inputs(family)
    inputs.pop("decoder_input_ids", None)
    ours = our_model(family, theirs, tmp_path)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": beams, "do_sample": False}
    mixed = ours.generate(**inputs, adapter_names=NAMES, **options)
    alone = each_alone(theirs, lambda place: theirs.generate(**inputs, **options)[place])
    assert torch.equal(mixed, torch.stack(alone))


@pytest.mark.parametrize(
    ("names", "is_allowed"),
    [
        (["news", "__base__", "wire"], True),
        (["__base__"] * 3, True),
        (["news"] * 3, True),
        (["news", "nwes", "wire"], False),
        (["news", "wire"], False),
        (["news"] * 6, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["t5", "llama"])
@torch.no_grad()
def test_names_are_allowed_and_refused_as_peft_does_for_lora(family: str, names: list[str], is_allowed: bool) -> None:
    """A forward pass, and generation with beams, for which there is one name for each prompt."""
    targets = ["q", "v"] if family == "t5" else ["q_proj", "v_proj"]
    with listening():
        theirs = peft.get_peft_model(make_model(family), peft.LoraConfig(target_modules=targets), adapter_name="news")
        theirs.add_adapter("wire", peft.LoraConfig(target_modules=targets))
    ours = ia3.peft.get_peft_model(make_model(family), ia3.peft.IA3Config(), adapter_name="news")
    ours.add_adapter("wire", ia3.peft.IA3Config())
    inputs = make_inputs(family)
    prompts = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    for model, refusal in ((theirs.eval(), ValueError), (ours.eval(), BankError)):
        runs = [
            lambda model=model: model(**inputs, adapter_names=names),
            lambda model=model: model.generate(**prompts, adapter_names=names, num_beams=2, max_new_tokens=2),
        ]
        for run in runs:
            if is_allowed:
                run()
            else:
                with pytest.raises(refusal):
                    run()
