"""A PeftModel: PEFT's methods on a transformers model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ia3.core.attach import attachment_of
from ia3.errors import BankError, PlanError, SettingsError
from ia3.peft import IA3Config, PeftModel, get_peft_model
from tests.families import make_inputs, make_model

TARGETS = ["k", "v", "wi_1"]


def make(family: str = "mt5", *others: str, **arguments: Any) -> Any:
    """Return a PeftModel with the adapter `default` and others, all with random vectors."""
    arguments.setdefault("init_ia3_weights", False)
    torch.manual_seed(3)
    model = get_peft_model(make_model(family), IA3Config(**arguments))
    for name in others:
        model.add_adapter(name, IA3Config(**arguments))
    return model


def logits(model: Any, family: str = "mt5", **arguments: Any) -> Tensor:
    with torch.no_grad():
        return model(**make_inputs(family), **arguments).logits


def trained(model: Any) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_the_model_itself_becomes_a_peft_model_and_stays_what_it_was() -> None:
    plain = make_model("mt5")
    kind = type(plain)
    model = get_peft_model(plain, IA3Config(task_type="SEQ_2_SEQ_LM"))
    assert model is plain
    assert isinstance(model, PeftModel)
    assert isinstance(model, PreTrainedModel)
    assert isinstance(model, kind)
    assert type(model).__name__ == kind.__name__
    assert model.get_base_model() is plain
    assert model.config.model_type == "mt5"
    assert model.device.type == "cpu"
    assert not isinstance(make_model("mt5"), PeftModel)
    assert type(make("mt5")) is type(model)


def test_a_new_adapter_changes_no_bit_and_is_all_that_is_trained() -> None:
    before = logits(make_model("mt5"))
    model = make(init_ia3_weights=True)
    assert torch.equal(logits(model), before)
    assert trained(model) == ["ia3_bank.vectors.row1"]
    assert (model.active_adapter, model.active_adapters) == ("default", ["default"])
    assert model.peft_config["default"] is model.active_peft_config
    assert model.peft_type == "IA3"


def test_random_vectors_are_drawn_where_peft_draws_them() -> None:
    model = make(init_ia3_weights=False)
    row = attachment_of(model).bank.vector("default")
    assert abs(float(row.mean())) < 0.3
    assert 0.7 < float(row.std()) < 1.3
    assert not torch.allclose(logits(model), logits(make_model("mt5")))


def test_parameters_are_counted_in_peft_s_words(capsys: pytest.CaptureFixture[str]) -> None:
    model = make(init_ia3_weights=True)
    base = sum(parameter.numel() for parameter in make_model("mt5").parameters())
    width = 6 * 16 * 2 + 4 * 24
    assert model.get_nb_trainable_parameters() == (width, base + width)
    model.print_trainable_parameters()
    assert capsys.readouterr().out == (
        f"trainable params: {width} || all params: {base + width:,} || trainable%: {100 * width / (base + width):.4f}\n"
    )


def test_inference_mode_freezes_the_adapter() -> None:
    assert trained(make("bert", task_type="SEQ_CLS", inference_mode=True)) == []


def test_a_classifier_trains_its_head_and_keeps_the_base_s() -> None:
    model = make("bert", task_type="SEQ_CLS", init_ia3_weights=True)
    names = trained(model)
    assert [name.split(".")[1] for name in names] == ["vectors", "heads", "heads"]
    assert all("ia3" in name for name in names)
    assert model.modules_to_save == {"classifier", "score"}
    loss = model(**make_inputs("bert"), labels=torch.tensor([0, 1, 2])).loss
    loss.backward()
    assert all(dict(model.named_parameters())[name].grad is not None for name in names)
    assert model.classifier.weight.grad is None
    heads_before = model.classifier.weight.clone()
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    assert torch.equal(model.classifier.weight, heads_before)
    with model.disable_adapter():
        assert torch.equal(logits(model, "bert"), logits(make_model("bert"), "bert"))


def test_every_row_of_a_batch_can_have_its_own_adapter() -> None:
    model = make("mt5", "other")
    mixed = logits(model, adapter_names=["default", "__base__", "other"])
    assert torch.allclose(mixed[0], logits(model)[0], atol=1e-5)
    assert torch.allclose(mixed[1], logits(make_model("mt5"))[1], atol=1e-5)
    model.set_adapter("other")
    assert torch.allclose(mixed[2], logits(model)[2], atol=1e-5)


def test_generate_takes_adapter_names_with_beams() -> None:
    model = make("mt5", "other")
    ids = make_inputs("mt5")["input_ids"]
    options = {"max_new_tokens": 5, "num_beams": 2, "do_sample": False}
    mixed = model.generate(input_ids=ids, adapter_names=["other", "__base__", "default"], **options)
    alone = model.generate(ids, adapter_names=["default"] * 3, **options)
    base = make_model("mt5").generate(input_ids=ids, **options)

    def cut(row: Tensor) -> list[int]:
        return [token for token in row.tolist() if token != 0]

    assert cut(mixed[2]) == cut(alone[2])
    assert cut(mixed[1]) == cut(base[1])
    with model.disable_adapter():
        assert torch.equal(model.generate(input_ids=ids, **options), base)


def test_unknown_and_too_few_adapter_names_are_errors() -> None:
    model = make("mt5", "news")
    ids = make_inputs("mt5")["input_ids"]
    for run in (logits, lambda m, **names: m.generate(ids, max_new_tokens=2, **names)):
        with pytest.raises(BankError, match=r"'new': the bank has no such name\. Did you mean 'news'"):
            run(model, adapter_names=["default", "new", "news"])
        with pytest.raises(BankError, match="2 rows were given for 3"):
            run(model, adapter_names=["default", "news"])
    with pytest.raises(BankError, match="6 rows were given for 3 prompts"):
        model.generate(input_ids=ids, adapter_names=["news"] * 6, max_new_tokens=2)


def test_a_model_without_a_language_head_cannot_generate() -> None:
    with pytest.raises(SettingsError, match="BertForSequenceClassification is no language model"):
        make("bert").generate(torch.ones(1, 2, dtype=torch.long))


def test_one_adapter_at_a_time_is_active_and_trained() -> None:
    model = make("bert", "other", task_type="SEQ_CLS")
    assert model.active_adapter == "default"
    assert all("row1" in name for name in trained(model))
    model.set_adapter("other")
    assert model.active_adapter == "other"
    assert all("row2" in name for name in trained(model))
    model.set_adapter("default", inference_mode=True)
    assert trained(model) == []
    model.set_requires_grad(["default", "other"])
    assert {name.split(".")[2] for name in trained(model)} == {"row1", "row2"}
    model.set_requires_grad("other", False)
    assert {name.split(".")[2] for name in trained(model)} == {"row1"}


def test_an_optimizer_that_was_made_earlier_trains_the_adapter_that_is_set_later() -> None:
    model = make("mt5", "other", init_ia3_weights=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for name in ("other", "default", "other"):
        model.set_adapter(name)
        before = attachment_of(model).bank.vector(name)
        optimizer.zero_grad()
        model(**make_inputs("mt5")).logits.pow(2).sum().backward()
        optimizer.step()
        assert not torch.equal(attachment_of(model).bank.vector(name), before)


def test_unknown_names_are_errors_that_show_near_matches() -> None:
    model = make()
    for use in (model.set_adapter, model.delete_adapter, model.set_requires_grad):
        with pytest.raises(BankError, match=r"'defalt': this model has none of this name\. Did you mean 'default'"):
            use("defalt")
    with pytest.raises(BankError, match=r"\['default'\]: this model has none"):
        model.set_adapter(["default"])  # several at once are for PEFT's other methods
    with pytest.raises(BankError, match="'__base__': this model has none"):
        model.set_adapter("__base__")


def test_a_second_adapter_is_frozen_and_idle_until_it_is_set() -> None:
    model = make("mt5", "other")
    assert model.active_adapter == "default"
    assert trained(model) == ["ia3_bank.vectors.row1"]
    assert list(model.peft_config) == ["default", "other"]
    with pytest.raises(BankError, match="Adding adapter 'other': the bank has one of this name"):
        model.add_adapter("other", IA3Config())


def test_a_second_adapter_with_other_targets_is_an_error() -> None:
    model = make("mt5", init_ia3_weights=True)
    model.add_adapter("same", IA3Config(target_modules=TARGETS))
    model.add_adapter("twin", IA3Config(target_modules=["k", "v", "wo"], feedforward_modules=["wo"]))
    for other in (["k", "v"], ["q", "v", "wi_1"], ["k", "v", "wi_0", "wi_1"]):
        with pytest.raises(BankError, match=r"Adding adapter 'b': its targets .* \('default', 'same', 'twin'\)"):
            model.add_adapter("b", IA3Config(target_modules=other))
    with pytest.raises(PlanError, match="'w0' of target_modules"):
        model.add_adapter("b", IA3Config(target_modules=["k", "w0"]))
    assert list(model.peft_config) == ["default", "same", "twin"]


def test_deleting_the_active_adapter_makes_the_next_one_active() -> None:
    model = make("mt5", "a", "b")
    model.delete_adapter("a")
    assert model.active_adapter == "default"
    with pytest.warns(UserWarning, match="Adapter 'default' was active; 'b' is now"):
        model.delete_adapter("default")
    assert list(model.peft_config) == ["b"]
    assert model.active_adapter == "b"
    model.delete_adapter("b")
    assert model.active_adapter is None
    with pytest.raises(BankError, match="the bank has 0 adapters"):
        logits(model)  # never the base's output in its place


def test_merging_gives_a_new_plain_model_and_leaves_this_one() -> None:
    model = make("gpt2")
    expected, keys = logits(model, "gpt2"), set(model.state_dict())
    merged = model.merge_and_unload(safe_merge=True)
    assert merged is not model
    assert type(merged) is type(make_model("gpt2"))
    assert vars(merged).keys() == vars(make_model("gpt2")).keys()
    assert torch.allclose(logits(merged, "gpt2"), expected, atol=1e-5)
    assert torch.equal(logits(model, "gpt2"), expected)
    assert set(model.state_dict()) == keys
    assert isinstance(model, PeftModel)


def test_merging_takes_one_adapter_and_looks_for_broken_weights() -> None:
    model = make("mt5", "other")
    other = model.merge_and_unload(adapter_names=["other"])
    assert torch.allclose(logits(other), logits(model, adapter_names=["other"] * 3), atol=1e-5)
    with pytest.raises(BankError, match=r"got the adapters \['default', 'other'\], expected one"):
        model.merge_and_unload(adapter_names=["default", "other"])
    attachment_of(model).bank.set_vector("other", torch.full((288,), torch.inf))
    with pytest.raises(BankError, match=r"a weight of '.*' would not be finite"):
        model.merge_and_unload(safe_merge=True, adapter_names=["other"])


def test_unloading_gives_the_model_back() -> None:
    plain = make_model("mt5")
    before, attributes = logits(plain), set(vars(plain))
    model = get_peft_model(plain, IA3Config(init_ia3_weights=False))
    assert model.unload() is plain
    assert type(plain) is type(make_model("mt5"))
    assert set(vars(plain)) == attributes
    assert torch.equal(logits(plain), before)
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_a_model_gets_one_bank() -> None:
    model = make()
    with pytest.raises(BankError, match="has one already"):
        get_peft_model(model, IA3Config())
    assert logits(model).isfinite().all()


def test_a_plain_module_gets_adapters_too() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(self.inner(x))

    plain = Net()
    x = torch.randn(5, 3)
    before = plain(x)
    model = get_peft_model(plain, IA3Config(target_modules=["inner"], feedforward_modules=[], init_ia3_weights=False))
    assert not torch.allclose(model(x), before)
    assert torch.equal(model(x, adapter_names=["__base__"] * 5), before)


def test_what_has_no_meaning_here_is_refused() -> None:
    with pytest.raises(SettingsError, match="mixed is true, expected false"):
        get_peft_model(make_model("mt5"), IA3Config(), mixed=True)
    with pytest.raises(SettingsError, match="vectors are always fp32"):
        get_peft_model(make_model("mt5"), IA3Config(), autocast_adapter_dtype=False)


def test_a_failed_call_leaves_the_model_as_it_was() -> None:
    plain = make_model("mt5")
    for arguments in ({"adapter_name": "__base__"}, {"adapter_name": ""}):
        with pytest.raises(BankError, match="this name is not free to use"):
            get_peft_model(plain, IA3Config(), **arguments)
        assert type(plain) is type(make_model("mt5"))
        assert all(parameter.requires_grad for parameter in plain.parameters())


def test_a_config_for_another_base_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="base_model_name_or_path was 'gpt2'; the model is None"):
        get_peft_model(make_model("mt5"), IA3Config(base_model_name_or_path="gpt2"))


def test_vectors_stay_fp32_on_a_bf16_base() -> None:
    model = get_peft_model(make_model("mt5", torch.bfloat16), IA3Config(), revision="v2")
    assert model.dtype == torch.bfloat16
    assert attachment_of(model).bank.vector("default").dtype == torch.float32
    assert model.peft_config["default"].revision == "v2"


def test_a_copy_of_the_model_is_a_peft_model_of_its_own() -> None:
    model = make()
    before = logits(model)
    copied = copy.deepcopy(model)
    assert isinstance(copied, PeftModel)
    assert torch.equal(logits(copied), before)
    copied.add_adapter("b", IA3Config())
    copied.set_adapter("b")
    assert torch.equal(logits(copied), logits(make_model("mt5")))
    assert list(model.peft_config) == ["default"]
    assert torch.equal(logits(model), before)


def test_state_dict_holds_every_adapter_and_takes_it_back() -> None:
    model, other = make("mt5", "b"), make("mt5", "b", init_ia3_weights=True)
    keys = {name for name in model.state_dict() if "ia3" in name}
    assert keys >= {"ia3_bank.vectors.row1", "ia3_bank.vectors.row2"}
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(other, adapter_names=["b"] * 3), logits(model, adapter_names=["b"] * 3))
