"""`ia3.peft` against PEFT itself: what arguments select, what is counted, saved, loaded and learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ia3.peft
from ia3.core.attach import attachment_of
from ia3.errors import IA3Error
from ia3.peft.targets import FEEDFORWARD_MODULES
from tests.families import CASES, make_inputs, make_model

# PEFT warns of fan_in_fan_out and of excluded modules; that is its own matter
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

peft = pytest.importorskip("peft")

TASKS = {"seq2seq": "SEQ_2_SEQ_LM", "causal": "CAUSAL_LM", "encoder": "SEQ_CLS"}


def their_model(family: str, **arguments: Any) -> Any:
    torch.manual_seed(3)
    return peft.get_peft_model(make_model(family), peft.IA3Config(**arguments))


def our_model(family: str, **arguments: Any) -> Any:
    torch.manual_seed(3)
    return ia3.peft.get_peft_model(make_model(family), ia3.peft.IA3Config(**arguments))


def their_sides(model: Any) -> dict[str, str]:
    from peft.tuners.ia3.layer import IA3Layer

    return {
        name.removeprefix("base_model.model."): "input" if layer.is_feedforward else "output"
        for name, layer in model.named_modules()
        if isinstance(layer, IA3Layer)
    }


def our_sides(model: Any) -> dict[str, str]:
    return {site.module: site.side for site in attachment_of(model).bank.plan.sites}


def logits(model: Any, family: str) -> Tensor:
    with torch.no_grad():
        return model.eval()(**make_inputs(family)).logits


def default_targets(family: str) -> list[str] | None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS

    names = TARGETS.get(make_model(family).config.model_type)
    return None if names is None else list(names)


def settings(family: str) -> Iterator[dict[str, Any]]:
    """Yield target settings of many kinds for a family."""
    task = TASKS[CASES[family].kind]
    names = default_targets(family)
    # every linear module of the second layer or block
    second = r".*\.1\..*(k|v|key|value|k_proj|v_proj|query_key_value|c_attn|wo|fc2|down_proj)"
    for shared in ({}, {"task_type": task}):
        yield {"target_modules": "all-linear", **shared}
        yield {"target_modules": "all-linear", "feedforward_modules": [], **shared}
        yield {"target_modules": second, "feedforward_modules": r".*(wo|fc2|down_proj)", **shared}
        if names is not None:
            yield {"target_modules": names, **shared}
            yield {"target_modules": names, "feedforward_modules": [], **shared}
            yield {"target_modules": names, "exclude_modules": r".*\.0\..*", **shared}
            yield {"target_modules": names, "exclude_modules": names[:1], **shared}
            yield {"target_modules": names, "inference_mode": True, **shared}


def outcome(build: Any, sides: Any, family: str, arguments: dict[str, Any]) -> Any:
    try:
        model = build(family, **arguments)
    except (ValueError, TypeError, IA3Error):
        return "refused"
    return sides(model), model.get_nb_trainable_parameters()


@pytest.mark.parametrize("family", list(CASES))
def test_arguments_select_the_modules_that_peft_selects_on_the_same_sides(family: str) -> None:
    compared = 0
    for arguments in settings(family):
        theirs = outcome(their_model, their_sides, family, arguments)
        ours = outcome(our_model, our_sides, family, arguments)
        if "feedforward_modules" in arguments and ours == "refused" and theirs != "refused":
            # a feed-forward expression that matches no target is an error here and nothing in PEFT
            assert "input" not in theirs[0].values()
            continue
        if family == "distilbert" and theirs == "refused" and arguments["target_modules"] == "all-linear":
            assert "pre_classifier" not in ours[0]  # PEFT cannot train and scale it at once; here it is trained alone
            continue
        assert ours == theirs, arguments
        compared += ours != "refused"
    assert compared >= 1


def test_the_table_of_feedforward_modules_is_peft_s() -> None:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as THEIRS

    assert {name: list(modules) for name, modules in FEEDFORWARD_MODULES.items()} == THEIRS


def test_configs_and_task_types_have_peft_s_fields_order_and_defaults() -> None:
    assert [field.name for field in dataclasses.fields(ia3.peft.IA3Config)] == [
        field.name for field in dataclasses.fields(peft.IA3Config)
    ]
    assert ia3.peft.IA3Config().to_dict() == peft.IA3Config().to_dict()
    assert [member.value for member in ia3.peft.TaskType] == [member.value for member in peft.TaskType]


@pytest.mark.parametrize("family", ["t5", "mt5", "llama", "bert", "distilbert", "roberta", "gemma3", "opt"])
def test_the_count_is_printed_in_peft_s_line(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = default_targets(family) or ["k_lin", "v_lin", "lin2"]
    arguments = {"target_modules": names, "feedforward_modules": names[-1:], "task_type": TASKS[CASES[family].kind]}
    our_model(family, **arguments).print_trainable_parameters()
    their_model(family, **arguments).print_trainable_parameters()
    ours, theirs = capsys.readouterr().out.splitlines()
    assert ours == theirs


@pytest.mark.parametrize("family", list(CASES))
def test_peft_loads_what_we_save(family: str, tmp_path: Path) -> None:
    task = TASKS[CASES[family].kind]
    names = default_targets(family)
    several: list[dict[str, Any]] = [{}, {"target_modules": "all-linear", "feedforward_modules": []}]
    several += [{"target_modules": names}] if names else []
    for number, arguments in enumerate(several):
        for kind in (None, task) if not arguments else (task,):
            ours = our_model(family, init_ia3_weights=False, task_type=kind, **arguments)
            folder = tmp_path / f"{number}-{kind}"
            ours.save_pretrained(folder)
            theirs = peft.PeftModel.from_pretrained(make_model(family), folder)
            difference = (logits(theirs, family) - logits(ours, family)).abs().max()
            assert difference <= 1e-5, (arguments, kind)


@pytest.mark.parametrize("family", list(CASES))
def test_we_load_what_peft_saves(family: str, tmp_path: Path) -> None:
    task = TASKS[CASES[family].kind]
    names = default_targets(family)
    several: list[dict[str, Any]] = [{"target_modules": "all-linear", "feedforward_modules": []}]
    several += [{}, {"target_modules": "all-linear"}] if names else []  # PEFT cannot load the latter itself
    for number, arguments in enumerate(several):
        for kind in (None, task):
            if family == "distilbert" and kind:
                continue  # PEFT refuses: pre_classifier is a target and saved whole
            theirs = their_model(family, init_ia3_weights=False, task_type=kind, **arguments)
            folder = tmp_path / f"{number}-{kind}"
            theirs.save_pretrained(folder)
            ours = ia3.peft.PeftModel.from_pretrained(make_model(family), folder)
            difference = (logits(theirs, family) - logits(ours, family)).abs().max()
            assert difference <= 1e-5, (arguments, kind)
            ours.save_pretrained(tmp_path / f"{number}-{kind}-again")
            again = peft.PeftModel.from_pretrained(make_model(family), tmp_path / f"{number}-{kind}-again")
            assert (logits(theirs, family) - logits(again, family)).abs().max() <= 1e-5, (arguments, kind)


def train(model: Any, family: str) -> list[float]:
    """Take three steps of AdamW and return the losses."""
    inputs = make_inputs(family, padded=True)
    labels = torch.tensor([0, 1, 2]) if CASES[family].kind == "encoder" else inputs["input_ids"]
    if CASES[family].kind == "seq2seq":
        labels = inputs.pop("decoder_input_ids")
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    losses = []
    model.train()
    for _ in range(3):
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("family", ["t5", "mt5", "gpt2", "llama", "bert", "roberta", "deberta-v3"])
def test_the_same_steps_are_learned(family: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    arguments = {"target_modules": default_targets(family), "task_type": TASKS[CASES[family].kind]}
    losses, tensors = [], []
    for build in (our_model, their_model):
        model = build(family, **arguments)
        losses.append(train(model, family))
        model.save_pretrained(tmp_path / build.__name__)
        tensors.append(load_file(tmp_path / build.__name__ / "adapter_model.safetensors"))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        assert (tensor - tensors[1][name]).abs().max() <= 1e-5, name


def test_a_mixed_batch_gives_what_peft_gives_for_each_adapter_alone(tmp_path: Path) -> None:
    ours = our_model("mt5", init_ia3_weights=False)
    ours.add_adapter("b", ia3.peft.IA3Config(init_ia3_weights=False))
    ours.save_pretrained(tmp_path)
    theirs = peft.PeftModel.from_pretrained(make_model("mt5"), tmp_path)
    theirs.load_adapter(tmp_path / "b", "b")
    with torch.no_grad():
        mixed = ours(**make_inputs("mt5"), adapter_names=["b", "default", "__base__"]).logits
    assert (mixed[1] - logits(theirs, "mt5")[1]).abs().max() <= 1e-5
    with theirs.disable_adapter():
        assert (mixed[2] - logits(theirs, "mt5")[2]).abs().max() <= 1e-5
    theirs.set_adapter("b")
    assert (mixed[0] - logits(theirs, "mt5")[0]).abs().max() <= 1e-5


def test_auto_classes_of_both_read_one_folder(tmp_path: Path) -> None:
    make_model("mt5").save_pretrained(tmp_path / "base")
    plain = type(make_model("mt5")).from_pretrained(tmp_path / "base")
    config = ia3.peft.IA3Config(task_type="SEQ_2_SEQ_LM", init_ia3_weights=False)
    ia3.peft.get_peft_model(plain, config).save_pretrained(tmp_path / "adapter")
    models = [
        library.AutoPeftModelForSeq2SeqLM.from_pretrained(str(tmp_path / "adapter")) for library in (ia3.peft, peft)
    ]
    assert (logits(models[0], "mt5") - logits(models[1], "mt5")).abs().max() <= 1e-5
    ids = make_inputs("mt5")["input_ids"]
    ours, theirs = (model.generate(input_ids=ids, max_new_tokens=5) for model in models)
    assert torch.equal(ours, theirs)
