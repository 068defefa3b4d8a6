"""Adapters that PEFT made with odd targets, heads and file forms: read with equal logits, and written back for PEFT."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSeq2SeqLM, AutoPeftModelForSequenceClassification, PeftModel

from ia3.adapters.attached import adapter_of, attach, load
from ia3.adapters.config import TASK_TYPES
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.core.attach import attachment_of
from ia3.errors import AdapterError
from tests.families import CASES, make_inputs, make_model
from tests.parity.peft_side import difference, listening, random_vector, run_with_peft, save_with_peft

pytestmark = pytest.mark.parity
TOLERANCE = 1e-5

ALL_LINEAR = [
    "t5", "t5-gated", "mt5", "bart", "gpt2", "gptj", "gpt_neo", "gpt_neox", "bloom", "opt", "falcon-new", "llama",
    "gemma3", "qwen3", "phi", "bert", "roberta", "deberta", "deberta-v2", "deberta-v3",
]  # fmt: skip
ODD: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"target_modules": ["q_proj", "k_proj", "v_proj"], "feedforward_modules": []}),
    ("llama", {"target_modules": ["up_proj", "down_proj", "k_proj"], "feedforward_modules": ["down_proj"]}),
    ("llama", {"target_modules": ["gate_proj", "up_proj"], "feedforward_modules": ["gate_proj", "up_proj"]}),
    ("llama", {"target_modules": ["lm_head"], "feedforward_modules": ["lm_head"]}),
    (
        "llama",
        {
            "target_modules": r"model\.layers\.1\.(self_attn\.[qv]_proj|mlp\.down_proj)",
            "feedforward_modules": r".*down_proj",
        },
    ),
    ("phi3", {"target_modules": ["gate_up_proj", "o_proj"], "feedforward_modules": ["o_proj"]}),
    ("t5-gated", {"target_modules": ["wi_1", "k"], "feedforward_modules": ["wi_1"]}),
    ("mt5", {"target_modules": ["k", "v", "wo"], "feedforward_modules": ["wo"]}),
    ("t5-gated", {"target_modules": ["k", "v", "wi_1"], "feedforward_modules": []}),
    ("gpt2", {"target_modules": ["c_attn"], "feedforward_modules": ["c_attn"]}),
    ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "feedforward_modules": ["c_fc"]}),
    ("deberta-v3", {"target_modules": ["query_proj", "key_proj"], "feedforward_modules": []}),
    ("modernbert", {"target_modules": ["Wqkv", "Wi", "mlp.Wo"], "feedforward_modules": ["mlp.Wo"]}),
    (
        "roberta",
        {
            "target_modules": ["key", "output.dense"],
            "feedforward_modules": ["output.dense"],
            "exclude_modules": ["0.attention.output.dense"],
        },
    ),
]
HEADS: list[tuple[str, list[str]]] = [
    ("llama", ["lm_head"]),
    ("llama", ["embed_tokens", "lm_head"]),
    ("llama", ["norm"]),
    ("bert", ["pooler"]),
    ("deberta", ["pooler"]),
    ("modernbert", ["head"]),
]


def compare_both_ways(name: str, folder: Path, **config: Any) -> None:
    """Raise unless we compute what PEFT saved, and PEFT computes what we save of that, with and without the model."""
    model, untouched, inputs = make_model(name), make_model(name), make_inputs(name)
    theirs = save_with_peft(model, folder / "theirs", inputs, task_type=TASK_TYPES[CASES[name].kind], **config)
    load(model, folder / "theirs")
    assert difference(model(**inputs).logits, theirs) <= TOLERANCE
    assert difference(untouched(**inputs).logits, theirs) > 100 * TOLERANCE
    model.save_pretrained(folder / "ours")
    assert difference(run_with_peft(untouched, folder / "ours", inputs), theirs) <= TOLERANCE
    save_adapter(load_adapter(folder / "theirs"), folder / "copied")
    assert difference(run_with_peft(untouched, folder / "copied", inputs), theirs) <= TOLERANCE


@pytest.mark.parametrize("name", ALL_LINEAR)
def test_all_linear_adapters_which_peft_itself_cannot_load(name: str, tmp_path: Path) -> None:
    compare_both_ways(name, tmp_path, target_modules="all-linear")


@pytest.mark.parametrize("number", range(len(ODD)))
def test_odd_targets(number: int, tmp_path: Path) -> None:
    name, config = ODD[number]
    compare_both_ways(name, tmp_path, **config)


@pytest.mark.parametrize(("name", "heads"), HEADS)
def test_modules_to_save(name: str, heads: list[str], tmp_path: Path) -> None:
    keys = {"llama": "k_proj", "bert": "key", "deberta": "in_proj", "modernbert": "Wqkv"}
    compare_both_ways(name, tmp_path, target_modules=[keys[name]], feedforward_modules=[], modules_to_save=heads)


def test_peft_cannot_load_its_all_linear_adapter(tmp_path: Path) -> None:
    # if this ever fails, the test above has lost its reason
    model, inputs = make_model("t5"), make_inputs("t5")
    save_with_peft(model, tmp_path, inputs, task_type="SEQ_2_SEQ_LM", target_modules="all-linear")
    with pytest.raises(ValueError, match="`feedforward_modules` should be a subset"):
        run_with_peft(model, tmp_path, inputs)


@pytest.mark.parametrize("name", ["deberta", "distilbert", "modernbert", "bert"])
def test_heads_that_we_trained_are_pefts(name: str, tmp_path: Path) -> None:
    heads = {"deberta": ("pooler", "classifier"), "modernbert": ("head", "classifier")}.get(name, ("classifier",))
    model, untouched, inputs = make_model(name), make_model(name), make_inputs(name)
    attachment = attach(model, head_modules=heads)
    attachment.bank.set_vector("default", random_vector((attachment.bank.plan.width,), seed=1))
    with torch.no_grad():
        for parameter in attachment.bank.heads.parameters():
            parameter.add_(random_vector(parameter.shape, seed=2))
    model.save_pretrained(tmp_path)
    assert difference(run_with_peft(untouched, tmp_path, inputs), model(**inputs).logits) <= TOLERANCE
    assert set(heads) <= set(json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"])


def test_peft_files_in_every_form_it_has(tmp_path: Path) -> None:
    model, inputs = make_model("bert"), make_inputs("bert")
    theirs = save_with_peft(model, tmp_path / "a", inputs, task_type="SEQ_CLS")
    with listening():
        peft = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "a", adapter_name="mine")
    peft.save_pretrained(tmp_path / "named")
    peft.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    raw = {key: tensor for key, tensor in peft.state_dict().items() if "ia3_l" in key or "classifier" in key}
    (tmp_path / "raw").mkdir()
    torch.save(raw, tmp_path / "raw" / "adapter_model.bin")
    config = (tmp_path / "a" / "adapter_config.json").read_text()
    (tmp_path / "raw" / "adapter_config.json").write_text(config)
    for folder in ("a", "named/mine", "pickled/mine", "raw"):
        fresh = make_model("bert")
        load(fresh, tmp_path / folder)
        assert difference(fresh(**inputs).logits, theirs) <= TOLERANCE, folder


@pytest.mark.parametrize(
    ("name", "auto"),
    [
        ("t5", AutoPeftModelForSeq2SeqLM),
        ("llama", AutoPeftModelForCausalLM),
        ("bert", AutoPeftModelForSequenceClassification),
    ],
)
def test_pefts_auto_classes_find_the_base_by_its_name(name: str, auto: Any, tmp_path: Path) -> None:
    made, inputs = make_model(name), make_inputs(name)
    made.save_pretrained(tmp_path / "base")
    model = type(made).from_pretrained(tmp_path / "base").eval()
    attachment = attach(model)
    attachment.bank.set_vector("default", random_vector((attachment.bank.plan.width,), seed=1))
    with torch.no_grad():
        ours = model(**inputs).logits
    model.save_pretrained(tmp_path / "adapter")
    options = {"num_labels": 3} if name == "bert" else {}
    with listening():
        theirs = auto.from_pretrained(tmp_path / "adapter", **options).eval()
    assert difference(theirs(**inputs).logits, ours) <= TOLERANCE
    named = adapter_of(attachment, "default")
    named = replace(named, config=replace(named.config, base_model_name_or_path="owner/base"))
    written = json.loads((save_adapter(named, tmp_path / "named") / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "owner/base"


def test_an_adapter_of_pefts_for_another_width_is_refused(tmp_path: Path) -> None:
    save_with_peft(make_model("llama"), tmp_path, make_inputs("llama"), task_type="CAUSAL_LM")
    wide = copy.deepcopy(make_model("llama").config)
    wide.intermediate_size = 40
    with pytest.raises(AdapterError, match=r"mlp\.down_proj' has width 24, this base needs 40\. The adapter"):
        load(type(make_model("llama"))(wide), tmp_path)


def test_two_adapters_of_pefts_share_one_bank(tmp_path: Path) -> None:
    inputs, theirs = make_inputs("bert"), {}
    for name, targets in (("both", ["key", "value", "output.dense"]), ("keys", ["key"])):
        theirs[name] = save_with_peft(
            make_model("bert"), tmp_path / name, inputs, task_type="SEQ_CLS", target_modules=targets,
            feedforward_modules=[t for t in targets if t == "output.dense"],
        )  # fmt: skip
    model = make_model("bert")
    load(model, tmp_path / "both")  # has attention.output.dense, so its own plan
    load(model, tmp_path / "keys")
    assert attachment_of(model).bank.plan.source == "adapter"
    for name, logits in theirs.items():
        assert difference(model(**inputs, rows=name).logits, logits) <= TOLERANCE
