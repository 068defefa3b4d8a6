"""Faster passes go on and come off, stand where they should, and run with everything else a model does."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ia3
from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.heads import copy_head
from ia3.core.merge import merge
from ia3.core.surroundings import surroundings
from ia3.errors import BankError
from ia3.fast import acceleration
from ia3.fast.acceleration import accelerate, accelerated, acceleration_of, keep_accelerated
from tests.core.banks import attached_model, random_row, tiny_model
from tests.families import CASES, make_inputs
from tests.fast.passes import (
    MIXED,
    assert_same,
    loss_and_gradients,
    make_batch,
    mixed_model,
    seeded,
    take_onednn,
)

T5_GATED = ("t5-gated", "mt5", "umt5", "longt5")
LLAMAS = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3")
# family: gates, norms, last blocks, whether the head's input gives the loss
BERTS = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
EXPECTED = {
    "t5": (0, 12, 0, True),
    **dict.fromkeys(T5_GATED, (4, 12, 0, True)),
    "longt5-global": (0, 14, 0, True),
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus", "m2m_100"), (0, 0, 0, True)),
    **dict.fromkeys(("gpt2", "gptj", "gpt_neo", "gpt_neox", "bloom", "opt", "phi"), (0, 0, 0, True)),
    **dict.fromkeys(("falcon", "falcon-new", "falcon-rw"), (0, 0, 0, True)),
    **dict.fromkeys(("llama", "mistral", "qwen2", "gemma"), (2, 5, 1, True)),
    "qwen3": (2, 9, 1, True),
    "gemma2": (2, 9, 1, False),  # a soft cap on its logits
    "gemma3": (2, 13, 1, True),
    "phi3": (0, 5, 0, True),
    **dict.fromkeys(BERTS, (0, 0, 1, False)),
    **dict.fromkeys(("distilbert", "mpnet", "albert"), (0, 0, 0, False)),
    **dict.fromkeys(("deberta", "deberta-v2", "deberta-v3", "modernbert"), (0, 0, 0, False)),
}


@pytest.fixture(autouse=True)
def _onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    take_onednn(monkeypatch)


def _state(model: nn.Module) -> list[tuple[Any, ...]]:
    """Return everything that was set or hooked on a model's instances."""
    return [
        (path, dict(module.__dict__.get("_forward_hooks", {})), dict(module._forward_pre_hooks), _own(module))
        for path, module in model.named_modules()
    ]


def _own(module: nn.Module) -> dict[str, int]:
    return {name: id(value) for name, value in module.__dict__.items() if not name.startswith("_")}


# -- where they stand --------------------------------------------------------------------------------------------------


def test_every_family_has_its_expected_counts_listed() -> None:
    assert set(EXPECTED) == set(CASES)


@pytest.mark.parametrize("family", CASES)
def test_a_family_has_its_faster_passes_and_is_restored_bit_for_bit(family: str) -> None:
    model, attachment = attached_model(family, "a")
    before, inputs = _state(model), make_inputs(family, padded=True)
    plain = model(**inputs, rows="a").logits
    linears = sum(type(m) is nn.Linear for m in model.modules())
    acceleration = accelerate(attachment)
    counts = acceleration.counts
    assert (counts["gates"], counts["norms"], counts["last blocks"], acceleration.has_head) == EXPECTED[family]
    assert counts["linears"] == (linears if hasattr(torch.ops.mkldnn, "_linear_pointwise") else 0)
    acceleration.remove()
    assert _state(model) == before
    assert torch.equal(model(**inputs, rows="a").logits, plain)


@pytest.mark.parametrize("family", ["gemma3", "t5-gated"])
def test_where_torch_has_the_fastest_products_linears_stay(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ia3.kernels.products.fastest_library", lambda: "torch")
    model, attachment = mixed_model(family)
    expected = loss_and_gradients(model, attachment, family, make_batch(family), MIXED)
    with accelerate(attachment) as acceleration:
        assert acceleration.counts["linears"] == 0 and acceleration.counts["gates"] > 0
        assert_same(loss_and_gradients(model, attachment, family, make_batch(family), MIXED), expected, digits=1e-5)


def test_a_scope_of_faster_passes_may_lie_in_another() -> None:
    model, attachment = attached_model("llama", "a")
    assert acceleration_of(model) is None
    with accelerated(attachment):
        outer = acceleration_of(model)
        assert outer is not None
        with accelerated(attachment):
            assert acceleration_of(model) is outer
        assert acceleration_of(model) is outer
    assert acceleration_of(model) is None
    with pytest.raises(KeyError), accelerated(attachment):
        raise KeyError
    assert acceleration_of(model) is None


def test_faster_passes_twice_are_refused() -> None:
    _, attachment = attached_model("llama", "a")
    with accelerate(attachment), pytest.raises(BankError, match=r"it has faster passes already\. Remove them first\."):
        accelerate(attachment)
    accelerate(attachment).remove()


def test_a_copy_of_a_model_has_faster_passes_of_its_own_and_a_merged_one_has_none() -> None:
    model, attachment = attached_model("llama", "a")
    inputs = make_inputs("llama")
    plain = model(**inputs, rows="a").logits
    with accelerate(attachment) as acceleration:
        expected = model(**inputs, rows="a").logits
        copied, merged = copy.deepcopy(model), merge(attachment, "a")
        own = acceleration_of(copied)
        assert own is not None and own is not acceleration and own.counts == acceleration.counts
        assert acceleration_of(merged) is None and "forward" not in merged.model.layers[0].mlp.__dict__
    assert acceleration_of(model) is None and acceleration_of(copied) is own
    assert torch.equal(copied(**inputs, rows="a").logits, expected)
    torch.testing.assert_close(merged(**inputs).logits, plain)
    own.remove()
    assert acceleration_of(copied) is None and torch.equal(copied(**inputs, rows="a").logits, plain)


def test_heads_in_the_bank_stay_plain_so_that_one_product_answers_for_many() -> None:
    model, attachment = attached_model("llama", "a")
    attachment.route_heads(["lm_head"])
    attachment.add("with head", trainable=False)
    head = attachment.bank.snapshot.head(attachment.bank.row("with head"))
    linear = head.requires_grad_(False).part("lm_head")
    with accelerate(attachment):
        assert linear is not None and "forward" not in linear.__dict__
        assert acceleration_of(model) is not None


def test_a_head_that_is_routed_later_gives_up_its_faster_pass_and_the_others_stay() -> None:
    """Routed over a faster forward, the head kept it after both had come off."""
    model, attachment = attached_model("llama", "a")
    plain = model.lm_head.forward
    with accelerate(attachment) as acceleration:
        with pytest.raises(BankError, match="the model has no module 'head'"):
            attachment.route_heads(["head"])
        attachment.route_heads(["lm_head"])
        assert acceleration_of(model) is acceleration and not acceleration.has_head
        assert "forward" in model.model.layers[0].mlp.__dict__
    attachment.detach()
    assert model.lm_head.forward == plain


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_cast_to_half_afterwards_takes_its_norms_as_it_did(dtype: torch.dtype) -> None:
    """In float16 the squares of usual activations overflow, and the norm answered with zeros."""
    model, attachment = attached_model("llama", "a")
    norm = model.model.norm
    x = (30 * torch.randn(1, 3, norm.weight.shape[0], generator=torch.Generator().manual_seed(0))).to(dtype)
    with accelerate(attachment) as faster:
        assert faster.counts["norms"] > 0
        model.to(dtype)
        assert torch.equal(norm(x), type(norm).forward(norm, x)) and norm(x).abs().max() > 0.5


def test_what_is_unfrozen_afterwards_gets_its_gradients() -> None:
    model, attachment = attached_model("gpt_neox", "a")
    inputs = make_inputs("gpt_neox")
    with accelerate(attachment):
        bias = next(p for name, p in model.named_parameters() if name.endswith("dense_h_to_4h.bias"))
        bias.requires_grad_(True)
        model(**inputs, rows="a").logits.sum().backward()
        assert bias.grad is not None and bias.grad.abs().max() > 0
    model, attachment = attached_model("llama", "a")
    with accelerate(attachment):
        weight = model.model.norm.weight.requires_grad_(True)
        model(**make_inputs("llama"), rows="a").logits.sum().backward()
        assert weight.grad is not None and weight.grad.abs().max() > 0


def test_another_thread_may_run_the_model_while_passes_are_put_on() -> None:
    """The head's trial answered for everybody."""
    model, attachment = attached_model("llama", "a")
    inputs = make_inputs("llama")
    expected = model(**inputs, rows="a").logits
    found: list[torch.Tensor] = []

    def run() -> None:
        found.append(model(**inputs, rows="a").logits)

    def during_the_trial(module: Any, args: Any, output: Any) -> None:
        if surroundings().answer is not None:
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()

    hook = model.lm_head.register_forward_hook(during_the_trial)
    with accelerate(attachment):
        hook.remove()
    assert len(found) == 1
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)


def test_several_threads_put_the_passes_on_once() -> None:
    model, attachment = attached_model("llama", "a")
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: keep_accelerated(attachment), range(8)))
    assert found == {acceleration_of(model)}


def test_a_training_that_compiles_finds_compiled_blocks_and_leaves_the_passes_as_they_were() -> None:
    model, attachment = attached_model("llama", "a")
    held = keep_accelerated(attachment)
    with accelerated(attachment):
        assert acceleration_of(model) is held
    with accelerated(attachment, compiled=True):
        inside = acceleration_of(model)
        assert inside is not None and inside.is_compiled
        with pytest.raises(BankError, match="Copying a model with compiled blocks: it cannot be"):
            copy.deepcopy(model)
    after = acceleration_of(model)
    assert after is not None and not after.is_compiled


def test_a_head_is_copied_without_what_was_set_on_it_or_its_parts() -> None:
    model, attachment = attached_model("roberta", "a")
    with accelerate(attachment):
        parts = [module for module in model.classifier.modules() if "forward" in module.__dict__]
        before = [module.__dict__["forward"] for module in parts]
        head = copy_head(model, ["classifier"])
        assert not any("forward" in module.__dict__ for module in head.modules())
        assert all(module.__dict__["forward"] is forward for module, forward in zip(parts, before, strict=True))


def test_a_model_in_training_mode_gets_them_all_draws_nothing_and_stays_in_it() -> None:
    """A dropout inside the tried module once made two runs of it differ, and the module was left plain."""
    model, attachment = attached_model("mt5", "a")
    _set_dropout(model, 0.5)
    model.train()
    with seeded(3):
        before = torch.get_rng_state()
        with accelerate(attachment) as acceleration:
            assert acceleration.counts["gates"] == 4 and acceleration.has_head
        assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())


def _set_dropout(model: nn.Module, rate: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate


# -- passes of other kinds ---------------------------------------------------------------------------------------------

GREEDY = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4}
BEAMS = {**GREEDY, "num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 3, "min_new_tokens": 3}


@pytest.mark.parametrize(
    "family", ["t5", "mt5", "bart", "gpt2", "opt", "falcon-new", "qwen3", "gemma2", "gemma3", "phi3"]
)
def test_generated_tokens_are_the_same(family: str) -> None:
    model, attachment = mixed_model(family)
    prompts = make_inputs(family, batch=2, seq=5)
    prompts.pop("decoder_input_ids", None)

    def generate() -> Iterator[Tensor]:
        for settings in (GREEDY, BEAMS):
            yield model.generate(**prompts, rows=["a", "__base__"], **settings)
        yield model.generate(**prompts, rows="signs", **GREEDY)

    plain = list(generate())
    with accelerate(attachment):
        assert all(torch.equal(found, expected) for found, expected in zip(generate(), plain, strict=True))


@pytest.mark.parametrize("family", ["t5-gated", "longt5", "llama", "gemma3", "bert"])
def test_checkpointed_blocks_have_the_same_gradients(family: str) -> None:
    model, attachment = mixed_model(family)
    expected = loss_and_gradients(model, attachment, family, make_batch(family), MIXED)
    model.train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    recomputed: list[bool] = []
    probe = next(m for m in model.modules() if type(m) is nn.Linear)
    probe.register_forward_hook(lambda *_: recomputed.append(torch._C._current_graph_task_id() != -1))
    with accelerate(attachment):
        assert_same(loss_and_gradients(model, attachment, family, make_batch(family), MIXED), expected, digits=1e-5)
    assert any(recomputed), "nothing was recomputed: the test says nothing"


@pytest.mark.parametrize("family", T5_GATED)
def test_dropout_draws_the_same_numbers_in_training_mode(family: str) -> None:
    model, attachment = mixed_model(family)
    _set_dropout(model, 0.3)
    eager = loss_and_gradients(model, attachment, family, make_batch(family), "a")
    model.train()

    def run(seed: int) -> dict[str, Tensor]:
        with seeded(seed):
            return loss_and_gradients(model, attachment, family, make_batch(family), "a")

    plain = [run(seed) for seed in (1, 2)]
    with accelerate(attachment):
        for seed, expected in zip((1, 2), plain, strict=True):
            assert_same(run(seed), expected, digits=1e-5)
    assert len({float(numbers["loss"]) for numbers in (eager, *plain)}) == 3


@pytest.mark.parametrize("family", [*BERTS, "distilbert", "mpnet", "modernbert"])
def test_an_encoders_own_head_is_trained(family: str) -> None:
    model = tiny_model(family)
    heads = [name for name, _ in model.named_children() if name in ("classifier", "pre_classifier")]
    attachment = attach_bank(model, Bank(find_plan(model)), heads=heads)
    for place, name in enumerate("ab"):
        attachment.add(name, random_row(attachment.bank, seed=place))
    batch, passes = make_batch(family), ("a", ["a", "b", "__base__", "a"])
    plain = [loss_and_gradients(model, attachment, family, batch, rows) for rows in passes]
    with accelerate(attachment):
        for rows, expected in zip(passes, plain, strict=True):
            assert any(name.startswith("heads.") for name in expected)
            assert_same(loss_and_gradients(model, attachment, family, batch, rows), expected, digits=1e-5)


@pytest.mark.parametrize("family", ["llama", "mt5", "bert"])
def test_under_autocast_outputs_keep_their_dtype(family: str) -> None:
    model, attachment = attached_model(family, "a")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = model(**make_inputs(family), rows="a").logits
        with accelerate(attachment):
            found = model(**make_inputs(family), rows="a").logits
    assert found.dtype == plain.dtype
    torch.testing.assert_close(found, plain, rtol=0, atol=0.05 * float(plain.abs().max()))


def test_saved_adapters_are_the_same_files(tmp_path: Path) -> None:
    model = tiny_model("bert")
    attachment = ia3.attach(model, head_modules=["classifier"])
    attachment.bank.set_vector("default", random_row(attachment.bank))
    model.save_pretrained(tmp_path / "plain")
    with accelerate(attachment):
        model.save_pretrained(tmp_path / "fast")
    names = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert "adapter_model.safetensors" in names
    assert names == sorted(path.name for path in (tmp_path / "fast").iterdir())
    for name in names:
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "fast" / name).read_bytes(), name


def test_threads_on_one_model_do_not_take_each_others_positions() -> None:
    model, attachment = attached_model("gemma3", "a", "b")
    ids = make_inputs("gemma3")["input_ids"]
    found: dict[str, Tensor] = {}

    def run(row: str, column: int) -> None:
        positions = torch.zeros_like(ids, dtype=torch.bool)
        positions[:, column] = True
        inputs = {"input_ids": ids, "rows": row, "use_cache": False}
        with torch.no_grad():
            found[row], _ = acceleration.hidden_at(positions, inputs)

    with accelerate(attachment) as acceleration:
        run("a", 1), run("b", 4)
        alone, found = found, {}
        meeting = threading.Barrier(2)  # both are inside before one reaches the last block

        def meet(module: Any, args: Any) -> None:
            meeting.wait(timeout=20)

        model.model.layers[0].register_forward_pre_hook(meet)
        threads = [threading.Thread(target=run, args=pair) for pair in (("a", 1), ("b", 4))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(found) == {"a", "b"}
    for row, hidden in found.items():
        torch.testing.assert_close(hidden, alone[row])


def test_detaching_the_bank_takes_the_faster_passes_off_first() -> None:
    model = tiny_model("llama")
    inputs = make_inputs("llama")
    expected = model(**inputs).logits
    attachment = attach_bank(model, Bank(find_plan(model)))
    attachment.bank.add("news", random_row(attachment.bank))
    accelerate(attachment)
    attachment.detach()
    assert acceleration_of(model) is None
    assert torch.equal(model(**inputs).logits, expected)


def test_a_failure_while_the_passes_are_put_on_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    attachment = attach_bank(model, Bank(find_plan(model)))

    def fail(*args: Any) -> int:
        raise RuntimeError("no compiler")

    before = {path: sorted(module.__dict__) for path, module in model.named_modules()}
    monkeypatch.setattr(acceleration, "install_compiled", fail)
    with pytest.raises(RuntimeError, match="no compiler"):
        accelerate(attachment, compiled=True)
    assert acceleration_of(model) is None
    after = {path: dict(module.__dict__) for path, module in model.named_modules()}
    assert {path: sorted(attributes) for path, attributes in after.items()} == before
