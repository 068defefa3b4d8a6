"""`adapter_names`: each input of a batch through its own adapter, as PEFT promises it for LoRA; never ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ia3.core.attach import attachment_of
from ia3.errors import BankError
from ia3.peft import IA3Config, PeftModel, get_peft_model
from tests.core.banks import attached_model
from tests.families import make_inputs, make_model

NAMES = ["news", "__base__", "wire"]


def make(family: str, *names: str, **arguments: Any) -> Any:
    """Return a PeftModel in eval mode with random adapters, `news` and `wire` unless others are named."""
    arguments.setdefault("init_ia3_weights", False)
    first, *others = names or ("news", "wire")
    torch.manual_seed(3)
    model = get_peft_model(make_model(family), IA3Config(**arguments), adapter_name=first)
    for name in others:
        model.add_adapter(name, IA3Config(**arguments))
    return model.eval()


def each_alone(model: Any, names: list[str], run: Any) -> list[Tensor]:
    """Return what the run gives for each input with its adapter set for the whole model."""
    found = []
    for place, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                found.append(run(place))
        else:
            model.set_adapter(name)
            found.append(run(place))
    return found


@pytest.mark.parametrize("family", ["mt5", "bart", "gpt2", "llama", "opt", "bert", "deberta-v3"])
@torch.no_grad()
def test_each_input_gets_what_set_adapter_gives_it(family: str) -> None:
    model, inputs = make(family), make_inputs(family, padded=True)
    mixed = model(**inputs, adapter_names=NAMES).logits
    for place, alone in enumerate(each_alone(model, NAMES, lambda place: model(**inputs).logits[place])):
        assert torch.allclose(mixed[place], alone, atol=1e-5)
    assert not torch.allclose(mixed, model(**inputs).logits, atol=1e-3)


@pytest.mark.parametrize("family", ["mt5", "gpt2", "llama"])
@pytest.mark.parametrize("beams", [1, 3])
def test_each_prompt_is_continued_by_its_own_adapter(family: str, beams: int) -> None:
    """One name for each prompt, whatever the number of beams."""
    model, inputs = make(family), make_inputs(family)
    inputs.pop("decoder_input_ids", None)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": beams, "do_sample": False}
    mixed = model.generate(**inputs, adapter_names=NAMES, **options)
    for place, alone in enumerate(each_alone(model, NAMES, lambda place: model.generate(**inputs, **options)[place])):
        assert torch.equal(mixed[place], alone)
    twice = model.generate(**inputs, adapter_names=NAMES, num_return_sequences=2, **{**options, "num_beams": 3})
    assert twice.shape[0] == 6


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["news", "wier", "news"], r"'wier': the bank has no such name\. Did you mean 'wire'"),
        (["news", "base", "news"], "'__base__' is the base"),
        (["news", "wire"], "2 rows were given for 3"),
        (["news"] * 9, "9 rows were given for 3"),
        ([], "expected one name or row for each example"),
        (["news", None, "wire"], "expected one name or row for each example"),
        ("wier", "Did you mean 'wire'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["mt5", "llama"])
def test_names_that_do_not_fit_are_errors(family: str, names: Any, told: str) -> None:
    model, inputs = make(family), make_inputs(family)
    prompts = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    runs = [
        lambda: model(**inputs, adapter_names=names),
        lambda: model.forward(**inputs, adapter_names=names),
        lambda: model.generate(**prompts, adapter_names=names, max_new_tokens=2),
        lambda: model.generate(**prompts, adapter_names=names, max_new_tokens=2, num_beams=3),
    ]
    for run in runs:
        with pytest.raises(BankError, match=told):
            run()


@torch.no_grad()
def test_a_part_of_the_model_and_forward_itself_take_names() -> None:
    """A decoder swallows arguments it does not know: the names used to be lost on every way but the model's call."""
    model, inputs = make("llama"), make_inputs("llama")
    expected = model(**inputs, adapter_names=NAMES).logits
    assert torch.equal(model.forward(**inputs, adapter_names=NAMES).logits, expected)
    inner = model.model(**inputs, adapter_names=NAMES).last_hidden_state
    assert torch.equal(model.lm_head(inner), expected)
    with pytest.raises(BankError, match="'new': the bank has no such name"):
        model.model(**inputs, adapter_names=["new"] * 3)


@torch.no_grad()
def test_the_encoder_alone_takes_names() -> None:
    model, inputs = make("mt5"), make_inputs("mt5")
    expected = model(**inputs, adapter_names=NAMES).logits
    encoded = model.get_encoder()(input_ids=inputs["input_ids"], adapter_names=NAMES)
    again = model(encoder_outputs=encoded, decoder_input_ids=inputs["decoder_input_ids"], adapter_names=NAMES).logits
    assert torch.allclose(again, expected, atol=1e-6)


@torch.no_grad()
def test_a_model_that_was_attached_without_peft_takes_names_too() -> None:
    model, _ = attached_model("llama", "news", "wire")
    inputs = make_inputs("llama")
    assert torch.equal(model(**inputs, adapter_names=NAMES).logits, model(**inputs, rows=NAMES).logits)
    ids, options = inputs["input_ids"], {"max_new_tokens": 2, "do_sample": False}
    assert torch.equal(model.generate(ids, adapter_names=NAMES, **options), model.generate(ids, rows=NAMES, **options))
    for run in (model, lambda **given: model.generate(ids, **given)):
        with pytest.raises(BankError, match="got rows and adapter_names, which mean the same"):
            run(input_ids=ids, rows=NAMES, adapter_names=NAMES)


@torch.no_grad()
def test_rows_may_be_given_by_number_and_one_name_for_all() -> None:
    model, inputs = make("gpt2"), make_inputs("gpt2")
    expected = model(**inputs, adapter_names=NAMES).logits
    for names in ((1, 0, 2), torch.tensor([1, 0, 2]), tuple(NAMES)):
        assert torch.equal(model(**inputs, adapter_names=names).logits, expected)
    assert torch.equal(model(**inputs, adapter_names="wire").logits, model(**inputs, adapter_names=["wire"] * 3).logits)


def test_names_in_training_reach_the_adapters_of_their_own_inputs() -> None:
    """PEFT refuses names in training mode; here a batch may train several adapters at once."""
    model, inputs = make("mt5", "news", "wire", "idle"), make_inputs("mt5")
    model.set_requires_grad(["news", "wire", "idle"])
    model.train()
    model(**inputs, labels=inputs["decoder_input_ids"], adapter_names=NAMES).loss.backward()
    gradients = {name: attachment_of(model).bank.snapshot.vector(row).grad for row, name in ((1, "news"), (2, "wire"))}
    assert all(gradient is not None and float(gradient.abs().max()) > 0 for gradient in gradients.values())
    assert attachment_of(model).bank.snapshot.vector(3).grad is None


@torch.no_grad()
def test_names_are_nearer_than_disabling_and_do_not_change_the_active_adapter() -> None:
    model, inputs = make("llama"), make_inputs("llama")
    model.set_adapter("wire")
    alone = model(**inputs).logits
    named = model(**inputs, adapter_names=["news"] * 3).logits
    with model.disable_adapter():
        assert torch.equal(model(**inputs, adapter_names=["news"] * 3).logits, named)
    assert model.active_adapter == "wire"
    assert torch.equal(model(**inputs).logits, alone)


@torch.no_grad()
def test_a_deleted_adapter_is_nobodys_name() -> None:
    model, inputs = make("llama"), make_inputs("llama")
    model.delete_adapter("wire")
    for names in (NAMES, [1, 0, 2]):
        with pytest.raises(BankError, match=r"no such name|no adapter lies there"):
            model(**inputs, adapter_names=names)
    model.add_adapter("wire", IA3Config())
    ones = model(**inputs, adapter_names=NAMES).logits[2]
    assert torch.allclose(ones, model(**inputs, adapter_names=["__base__"] * 3).logits[2], atol=1e-5)
    with pytest.raises(BankError, match="no adapter lies there"):
        attachment_of(model).bank.record(2)


def _saved_classifier(folder: Path, labels: int) -> Path:
    model = make_model("bert")
    if labels != 3:
        model.classifier = nn.Linear(16, labels)
        model.config.num_labels = model.num_labels = labels
    torch.manual_seed(labels)
    saved = get_peft_model(model, IA3Config(task_type="SEQ_CLS", init_ia3_weights=False))
    saved.save_pretrained(folder)
    return folder


@torch.no_grad()
def test_classifiers_with_different_numbers_of_labels_share_a_batch(tmp_path: Path) -> None:
    folders = {labels: _saved_classifier(tmp_path / str(labels), labels) for labels in (2, 3, 5)}
    inputs = make_inputs("bert")
    alone = {}
    for labels, folder in folders.items():
        loaded = PeftModel.from_pretrained(make_model("bert"), folder)
        alone[labels] = loaded(**inputs).logits
        assert alone[labels].shape == (3, labels)
    model = PeftModel.from_pretrained(make_model("bert"), folders[3], adapter_name="three")
    for labels, name in ((2, "two"), (5, "five")):
        model.load_adapter(folders[labels], name)
    mixed = model(**inputs, adapter_names=["two", "five", "three"]).logits
    assert mixed.shape == (3, 5)
    for place, labels in enumerate((2, 5, 3)):
        assert torch.allclose(mixed[place, :labels], alone[labels][place], atol=1e-5)
        assert bool((mixed[place, labels:] == -torch.inf).all())
    told = "it counts 3 labels, and the head of adapter 'two' has 2"
    with pytest.raises(BankError, match=told):
        model(**inputs, labels=torch.tensor([1, 4, 2]), adapter_names=["two", "five", "three"])
    assert model(**inputs, labels=torch.tensor([1, 0, 2]), adapter_names=["three", "__base__", "three"]).loss > 0
