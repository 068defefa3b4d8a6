"""A base in int8: what is replaced and what stays, the same identity, its vectors, faster passes and refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ia3.core.attach
from ia3.adapters.attached import attach, load
from ia3.adapters.identity import base_fingerprint
from ia3.adapters.record import describe_base
from ia3.bases.int8 import Int8Linear
from ia3.bases.loading import load_base
from ia3.bases.precision import precision_of, to_int8
from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.merge import merge
from ia3.errors import BankError, BaseError, SettingsError
from ia3.fast.acceleration import accelerate
from tests.core.banks import example, largest, random_row, tiny_model
from tests.families import CASES, make_inputs
from tests.fast.passes import assert_same, loss_and_gradients, make_batch
from tests.models import save_tiny_base

MIXED = ["a", "__base__", "b", "a"]


def _in_int8(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, Int8Linear)]


def _int8_model(family: str, **plan: Any) -> tuple[Any, Any]:
    """Return a family's model in int8 with the adapters `a` and `b`, to be trained."""
    model = tiny_model(family)
    to_int8(model)
    attachment = attach_bank(model, Bank(find_plan(model, **plan)))
    for place, name in enumerate(("a", "b")):
        attachment.bank.add(name, random_row(attachment.bank, seed=place), trainable=True)
    return model, attachment


def _output(model: Any, inputs: dict[str, Any], **rows: Any) -> Any:
    with torch.no_grad():
        output = model(**inputs, **rows)
    return output.logits if "logits" in output else output.last_hidden_state


# -- what is replaced -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", CASES)
def test_the_blocks_of_every_family_are_replaced_and_the_base_stays_the_same_one(family: str) -> None:
    model = tiny_model(family)
    plan, known, inputs = find_plan(model), base_fingerprint(model), make_inputs(family)
    before, sizes = _output(model, inputs), dict(model.named_modules())
    state = torch.get_rng_state()
    conversion = to_int8(model)
    assert torch.equal(torch.get_rng_state(), state)
    replaced = _in_int8(model)
    assert conversion.count == len(replaced) > 0 and conversion.bytes_saved > 0.5 * conversion.bytes_before
    assert all(p.startswith(tuple(n for n, m in sizes.items() if isinstance(m, nn.ModuleList))) for p in replaced)
    assert all(model.get_submodule(p).divisors is not None for p in replaced)  # its activations were seen
    assert not any(model.get_submodule(p).training for p in replaced)
    assert base_fingerprint(model) == known and find_plan(model) == plan
    after = _output(model, inputs)
    assert 0 < largest(after - before) < 0.25 * largest(before)


def test_embeddings_heads_and_last_projections_behind_a_gate_stay() -> None:
    model = CASES["gemma3"].make()
    to_int8(model)
    kinds = {path.rpartition(".")[2] for path in _in_int8(model)}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}
    assert type(model.model.layers[0].mlp.down_proj) is nn.Linear and type(model.lm_head) is nn.Linear


def test_modules_that_adapters_bring_can_be_left_out() -> None:
    model = tiny_model("bert")
    prefix = next(n for n, m in model.named_modules() if isinstance(m, nn.ModuleList))
    to_int8(model, leave_out=[f"{prefix}.0"])
    assert _in_int8(model) and not any(path.startswith(f"{prefix}.0.") for path in _in_int8(model))


def test_a_weight_that_two_modules_share_stays() -> None:
    model = tiny_model("llama")
    model.model.layers[1].self_attn.q_proj.weight = model.model.layers[0].self_attn.q_proj.weight
    to_int8(model)
    assert not any(path.endswith("q_proj") for path in _in_int8(model))


def test_the_same_weights_give_the_same_int8_base_in_training_mode_too() -> None:
    models = [tiny_model("llama") for _ in range(2)]
    models[1].train()
    for model in models:
        to_int8(model)
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert all(module.training for module in models[1].modules())


def test_a_model_whose_pass_fails_is_rounded_as_it_is() -> None:
    model = tiny_model("llama")
    model.config.vocab_size, model.base_model.forward = 1, None  # as one that wants images
    assert to_int8(model).count == 12 and model.model.layers[0].self_attn.q_proj.divisors is None
    assert not any(module._forward_pre_hooks for module in model.modules())


# -- vectors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "bert", "gpt2", "t5-gated", "deberta-v3", "opt", "bloom"])
def test_a_row_of_ones_changes_no_bit_of_the_int8_base(family: str) -> None:
    model = tiny_model(family)
    to_int8(model)
    inputs = make_inputs(family)
    before = _output(model, inputs)
    bank = Bank(find_plan(model))
    bank.add("ones")
    attachment = attach_bank(model, bank)
    assert torch.equal(_output(model, inputs, rows="ones"), before)
    assert torch.equal(_output(model, inputs, rows=["ones", "__base__", "ones"]), before)
    attachment.detach()
    assert torch.equal(_output(model, inputs), before)


@pytest.mark.parametrize("family", ["llama", "bert", "gpt2", "t5-gated", "deberta-v3", "opt", "bloom"])
def test_absorbed_vectors_are_those_that_a_hook_would_multiply_by(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    absorbed, _ = _int8_model(family)
    assert any(m.vector_of for m in absorbed.modules() if isinstance(m, Int8Linear))
    monkeypatch.setattr(ia3.core.attach, "VECTOR_OF", "nothing")
    hooked, _ = _int8_model(family)
    assert not any(m.vector_of for m in hooked.modules() if isinstance(m, Int8Linear))
    inputs = make_inputs(family, batch=4)
    for rows in ("a", MIXED):
        found, expected = (_output(model, inputs, rows=rows) for model in (absorbed, hooked))
        assert largest(found - expected) < 1e-5 * largest(expected)


@pytest.mark.parametrize("family", ["llama", "bert", "t5-gated"])
def test_each_example_of_a_mixed_batch_gets_what_it_gets_alone(family: str) -> None:
    model, _ = _int8_model(family)
    inputs = make_inputs(family, batch=4)
    together = _output(model, inputs, rows=MIXED)
    for place, row in enumerate(MIXED):
        alone = _output(model, example(inputs, place), rows=row)
        assert largest(together[place : place + 1] - alone) < 1e-5 * largest(alone)


def test_tokens_that_a_family_flattens_get_the_row_of_their_example() -> None:
    targets = {"target_modules": ["k_proj", "v_proj", "fc1"], "feedforward_modules": []}
    model, _ = _int8_model("opt", **targets)
    inputs = make_inputs("opt", batch=4)
    together = _output(model, inputs, rows=MIXED)
    for place, row in enumerate(MIXED):
        alone = _output(model, example(inputs, place), rows=row)
        assert largest(together[place : place + 1] - alone) < 1e-5 * largest(alone)


def test_a_copy_of_an_attached_int8_model_has_vectors_of_its_own() -> None:
    model, attachment = _int8_model("llama")
    copied = copy.deepcopy(model)
    inputs = make_inputs("llama")
    attachment.bank.set_vector("a", torch.zeros(attachment.bank.plan.width))
    assert largest(_output(copied, inputs, rows="a") - _output(model, inputs, rows="a")) > 0.1
    attachment.detach()
    assert torch.equal(_output(copied, inputs, rows="__base__"), _output(model, inputs))


# -- faster passes and training ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gemma3", "t5-gated", "bert", "gpt2", "falcon"])
@pytest.mark.parametrize("rows", ["a", MIXED], ids=["one row", "mixed"])
def test_faster_passes_on_an_int8_base_give_the_plain_ones_loss_and_gradients(family: str, rows: Any) -> None:
    model, attachment = _int8_model(family)
    batch = make_batch(family)
    plain = loss_and_gradients(model, attachment, family, batch, rows)
    with accelerate(attachment) as acceleration:
        fast = loss_and_gradients(model, attachment, family, batch, rows)
        gated = {"llama": 2, "gemma3": 2, "t5-gated": 4}
        assert acceleration.counts["gates"] == gated.get(family, 0)
        assert acceleration.counts["linears"] == 0 or gated
    assert_same(fast, plain, 1e-5)


@pytest.mark.parametrize("rounds_gradients", [False, True], ids=["float", "rounded"])
def test_gradients_on_an_int8_base_are_near_those_on_the_float_base(rounds_gradients: bool) -> None:
    batch = make_batch("gemma3")
    found = []
    for is_int8 in (True, False):
        model = tiny_model("gemma3")
        if is_int8:
            to_int8(model, rounds_gradients=rounds_gradients)
            assert precision_of(model) == ("int8-gradients" if rounds_gradients else "int8")
        attachment = attach_bank(model, Bank(find_plan(model)))
        attachment.bank.add("a", random_row(attachment.bank), trainable=True)
        found.append(loss_and_gradients(model, attachment, "gemma3", batch, "a"))
    a, b = (next(g for name, g in one.items() if name != "loss") for one in found)
    assert float(torch.cosine_similarity(a, b, dim=0)) > 0.99


def test_compiled_blocks_leave_an_int8_base_as_it_is() -> None:
    _, attachment = _int8_model("llama")
    with accelerate(attachment, compiled=True) as acceleration:
        assert acceleration.counts["compiled blocks"] == 0


# -- identity, saving, merging ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained_on", ["int8", "float"])
def test_an_adapter_of_one_precision_loads_on_the_other(trained_on: str, tmp_path: Path) -> None:
    model = tiny_model("bert")
    other = copy.deepcopy(model)
    to_int8(model if trained_on == "int8" else other)
    attachment = attach(model, name="a")
    with torch.no_grad():
        attachment.bank.snapshot.vector(1).copy_(random_row(attachment.bank))
    model.save_pretrained(tmp_path / "a")
    again = load(other, tmp_path / "a")
    assert torch.equal(again.bank.vector("a"), attachment.bank.vector("a"))
    assert again.bank.record(1)["base"]["precision"] == trained_on
    assert describe_base(other)["precision"] != trained_on == describe_base(model)["precision"]


def test_merging_into_an_int8_base_is_refused() -> None:
    _, attachment = _int8_model("llama")
    with pytest.raises(BankError) as caught:
        merge(attachment, "a")
    assert str(caught.value) == (
        "Merging 'model.layers.0.self_attn.k_proj': its weight is quantised, got torch.int8, expected floating point "
        "of 16 bits or more. Load the base unquantised."
    )


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_model_that_is_in_int8_or_has_a_bank_or_no_blocks_is_refused() -> None:
    model, _ = _int8_model("llama")
    again = tiny_model("llama")
    again.quantization_method = "bitsandbytes"
    for quantised in (model, again):
        with pytest.raises(BaseError, match=r"^Putting a base into int8: it is quantised already\. Load it in float"):
            to_int8(quantised)
    attached = tiny_model("llama")
    attach_bank(attached, Bank(find_plan(attached)))
    with pytest.raises(BaseError, match=r"^Putting a base into int8: it has a bank already\. Do it before ia3.attach"):
        to_int8(attached)
    with pytest.raises(BaseError, match=r"Linear has no linear maps in repeated blocks\. Use precision float\.$"):
        to_int8(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"precision": "int9"},
            "the precision 'int9' is unknown, expected float, int8 or int8-gradients. Did you mean 'int8'?",
        ),
        (
            {"precision": "int8", "dtype": "float64"},
            "precision int8 and dtype float64 exclude each other, since int8 keeps three digits at most. Use dtype "
            "float32, or precision float.",
        ),
    ],
)
def test_impossible_precisions_are_refused_before_anything_is_loaded(arguments: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_base("nowhere", **arguments)  # type: ignore[arg-type]
    assert str(caught.value) == f"Loading base 'nowhere': {told}"


# -- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("precision", ["int8", "int8-gradients"])
@pytest.mark.parametrize("kind", ["encoder", "causal", "seq2seq"])
def test_a_base_is_loaded_in_int8_and_says_so(kind: str, precision: str, dtype: str, tmp_path: Path) -> None:
    said: list[str] = []
    folder = save_tiny_base(tmp_path, kind)
    plain = load_base(folder, device="cpu", dtype=dtype)
    base = load_base(folder, precision=precision, device="cpu", dtype=dtype, say=said.append)
    assert (base.precision, plain.precision) == (precision, "float")
    assert (precision_of(base.model), precision_of(plain.model)) == (precision, "float")
    assert said == [f"base in int8: {len(_in_int8(base.model))} projections, 0 MB less"]
    assert base.model.dtype == plain.model.dtype and base.head_modules == plain.head_modules
    assert not any(p.requires_grad for p in base.model.parameters())
    inputs = {"input_ids": torch.tensor([[2, 10, 20, 30]])}
    inputs |= {"decoder_input_ids": torch.tensor([[0, 5]])} if kind == "seq2seq" else {}
    found, expected = _output(base.model, inputs), _output(plain.model, inputs)
    assert found.dtype == expected.dtype and largest(found - expected) < 0.3 * largest(expected)
