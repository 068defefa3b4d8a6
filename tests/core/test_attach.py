"""Choosing rows, scopes, threads, and taking a bank off again."""

from __future__ import annotations

import asyncio
import copy
import inspect
import io
import pickle
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ia3.core.attach import Attachment, attach_bank, attachment_of
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.errors import BankError, PlanError
from tests.core.banks import attached_model, largest, random_row, tiny_model
from tests.families import CASES, make_inputs

FAMILY = "qwen2"


@pytest.fixture
def model() -> Any:
    """A model with the adapters `news` and `wire`."""
    return attached_model(FAMILY, "news", "wire")[0]


@torch.no_grad()
def _logits(model: Any, **options: Any) -> Tensor:
    return model(**make_inputs(FAMILY), **options).logits


# -- choosing rows ----------------------------------------------------------------------------------------------------


def test_rows_are_given_by_name_number_list_array_or_tensor(model: Any) -> None:
    expected = _logits(model, rows=["wire", "__base__", "news"])
    for rows in ([2, 0, 1], ["wire", 0, "news"], (2, 0, 1), torch.tensor([2, 0, 1]), torch.tensor([2, 0, 1]).int(),
                 np.array([2, 0, 1]), [np.int64(2), np.int64(0), np.int64(1)], list(torch.tensor([2, 0, 1])),
                 np.array(["wire", "__base__", "news"])):  # fmt: skip
        assert torch.equal(_logits(model, rows=rows), expected), rows
    expected = _logits(model, rows="wire")
    for rows in (2, torch.tensor(2), np.int64(2), ["wire"] * 3, [2, 2, 2]):
        assert torch.equal(_logits(model, rows=rows), expected), rows


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (["news", "wier", "news"], r"'wier': the bank has no such name\. Did you mean 'wire'\?"),
        ("nwes", "Did you mean 'news'"),
        ([1, 2, 3], r"row 3: no adapter lies there, expected one of 0 \(the base\), 1 \(news\), 2 \(wire\)"),
        ([1, -1, 0], "row -1: no adapter lies there"),
        (7, "row 7: no adapter lies there"),
        (["news", "wire"], "2 rows were given for 3 examples, expected one for each"),
        (["news"], "1 rows were given for 3 examples"),
        (["news"] * 6, "6 rows were given for 3 examples"),
        ([], "expected one name or row for each example"),
        ([1.0, 2.0, 0.0], "expected one name or row for each example"),
        (torch.tensor([1.0, 2.0, 0.0]), "expected one name or row for each example"),
        (torch.tensor([[1], [2], [0]]), "expected one name or row for each example"),
        ([None, "news", "wire"], "expected one name or row for each example"),
        ([True, False, True], "row True: no adapter lies there"),
        (torch.tensor([True, False, True]), "row True: no adapter lies there"),
        (1.5, "expected one name or row for each example"),
    ],
    ids=str,
)
def test_rows_that_do_not_fit_are_refused(model: Any, rows: Any, told: str) -> None:
    with pytest.raises(BankError, match=told):
        _logits(model, rows=rows)
    assert attachment_of(model).call is None, "no pass may stay open"


def test_without_rows_the_only_or_the_active_adapter_is_used_or_it_is_an_error() -> None:
    model, attachment = attached_model(FAMILY)
    with pytest.raises(BankError, match=r"no rows are given and the bank has 0 adapters \(none\)"):
        _logits(model)
    attachment.bank.add("news", random_row(attachment.bank))
    assert torch.equal(_logits(model), _logits(model, rows="news"))
    attachment.bank.add("wire", random_row(attachment.bank, seed=1))
    with pytest.raises(BankError, match=r"has 2 adapters \('news', 'wire'\)\. Give rows=\[…\].*rows='__base__'"):
        _logits(model)
    attachment.activate("wire")
    assert torch.equal(_logits(model), _logits(model, rows="wire"))
    attachment.bank.remove("wire")
    with pytest.raises(BankError, match="row 2: no adapter lies there"):
        _logits(model)
    with pytest.raises(BankError, match="no such name"):
        attachment.activate("wire")


def test_scopes_nest_and_are_left_with_an_exception(model: Any) -> None:
    attachment = attachment_of(model)
    attachment.activate("wire")
    each = {name: _logits(model, rows=name) for name in ("news", "wire", "__base__")}
    with attachment.use("news"):
        assert torch.equal(_logits(model), each["news"])
        with attachment.disabled():
            assert torch.equal(_logits(model), each["__base__"])
            with attachment.rows(["wire", "news", 0]):
                assert torch.equal(_logits(model)[1], each["news"][1])
                assert torch.equal(_logits(model, rows="wire"), each["wire"]), "rows= is nearer than any scope"
            with pytest.raises(ZeroDivisionError), attachment.use("wire"):
                1 / 0  # noqa: B018
            assert torch.equal(_logits(model), each["__base__"])
        assert torch.equal(_logits(model), each["news"])
    assert torch.equal(_logits(model), each["wire"])


def test_a_scope_with_unknown_names_is_not_entered(model: Any) -> None:
    attachment = attachment_of(model)
    with pytest.raises(BankError, match="no such name"), attachment.rows(["news", "nobody"]):
        raise AssertionError
    with pytest.raises(BankError, match="no rows are given"):
        _logits(model)


def test_a_scope_keeps_the_rows_it_was_opened_with(model: Any) -> None:
    attachment = attachment_of(model)
    before = _logits(model, rows="news")
    with attachment.use("news"):
        attachment.bank.set_vector("news", torch.zeros(attachment.bank.plan.width))
        attachment.bank.remove("wire")
        assert torch.equal(_logits(model), before)
    assert not torch.equal(_logits(model, rows="news"), before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_inside_forward_leaves_no_pass_open(model: Any, error: type[BaseException]) -> None:
    """Ctrl-C runs no forward hooks: the rows of the interrupted pass used to be those of the next one, unseen."""
    attachment = attachment_of(model)

    def fail(*_: Any) -> None:
        raise error

    handle = model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(error):
        _logits(model, rows=["news", "wire", "news"])
    handle.remove()
    assert attachment.call is None
    expected = _logits(model, rows="__base__")
    ids = make_inputs(FAMILY)
    with attachment.disabled(), torch.no_grad():
        inner = model.model(**ids).last_hidden_state
    assert torch.equal(_logits(model, rows=0), expected)
    assert torch.equal(model.lm_head(inner), expected)


@pytest.mark.parametrize("how", ["rows", "scope"])
def test_a_pass_inside_a_pass_gives_the_outer_one_back(model: Any, how: str) -> None:
    """A hook may run the base beside the adapter, for a penalty on their distance."""
    attachment, found = attachment_of(model), {}

    def run_base(*_: Any) -> None:
        handle.remove()
        if how == "rows":
            found["base"] = _logits(model, rows="__base__")
        else:
            with attachment.disabled():
                found["base"] = _logits(model)

    expected = _logits(model, rows="news"), _logits(model, rows="__base__")
    handle = model.model.layers[0].register_forward_pre_hook(run_base)
    with attachment.use("news"):
        assert torch.equal(_logits(model), expected[0])
    assert torch.equal(found["base"], expected[1])


def test_two_asyncio_tasks_that_take_turns_keep_their_own_scopes(model: Any) -> None:
    """Scopes used to lie in one stack for the thread: the task that went on first had the rows of the other one."""
    attachment = attachment_of(model)
    expected = {name: _logits(model, rows=name) for name in ("news", "wire")}

    async def work(name: str, turns: int) -> list[Tensor]:
        found = []
        with attachment.use(name):
            for _ in range(turns):
                await asyncio.sleep(0)
                found.append(_logits(model))
        return found

    async def both() -> list[list[Tensor]]:
        return list(await asyncio.gather(work("news", 3), work("wire", 2)))

    news, wire = asyncio.run(both())
    assert all(torch.equal(logits, expected["news"]) for logits in news)
    assert all(torch.equal(logits, expected["wire"]) for logits in wire)


def test_two_threads_use_their_own_rows_on_one_model_at_the_same_time(model: Any) -> None:
    attachment = attachment_of(model)
    expected = {name: _logits(model, rows=name) for name in ("news", "wire", "__base__")}
    meeting = threading.Barrier(3, timeout=20)
    found: dict[str, list[Tensor]] = {name: [] for name in expected}
    failed: list[BaseException] = []
    waits = threading.local()

    def meet(*_: Any) -> None:  # in the middle of every pass all threads wait for each other
        if getattr(waits, "on", False):
            meeting.wait()

    def work(name: str) -> None:
        try:
            waits.on = True
            with attachment.use(name):
                for _ in range(4):
                    found[name].append(_logits(model))
        except BaseException as error:
            failed.append(error)

    handle = model.model.layers[1].register_forward_pre_hook(meet)
    threads = [threading.Thread(target=work, args=(name,)) for name in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    handle.remove()
    assert failed == []
    for name, logits in expected.items():
        assert len(found[name]) == 4
        assert all(torch.equal(out, logits) for out in found[name])


def test_a_scope_of_one_thread_is_not_one_of_another_that_was_there_before(model: Any) -> None:
    attachment, failed, may_go = attachment_of(model), [], threading.Event()

    def work() -> None:
        may_go.wait(20)
        try:
            _logits(model)
        except BankError as error:
            failed.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    with attachment.use("news"):
        may_go.set()
        thread.join(20)
    assert len(failed) == 1 and "no rows are given" in failed[0]


# -- parts of the model -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_encoder_called_alone_takes_rows(family: str) -> None:
    model, attachment = attached_model(family, "a", "b")
    ids = make_inputs(family)["input_ids"]
    with torch.no_grad():
        mixed = model.get_encoder()(ids, rows=["a", "b", 0])[0]
        with attachment.rows(["a", "b", 0]):
            assert torch.equal(model.get_encoder()(ids)[0], mixed)
        for i, name in enumerate(["a", "b", "__base__"]):
            assert torch.equal(model.get_encoder()(ids, rows=name)[0][i], mixed[i])
        inputs = make_inputs(family)
        del inputs["input_ids"]
        whole = model(**make_inputs(family), rows=["a", "b", 0]).logits
        assert torch.equal(model(encoder_outputs=(mixed,), **inputs, rows=["a", "b", 0]).logits, whole)


def test_a_block_called_alone_uses_the_rows_of_the_scope(model: Any) -> None:
    attachment = attachment_of(model)
    mlp, x = model.model.layers[0].mlp, torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), attachment.rows(["news", "__base__", "wire"]):
        mixed = mlp(x)
        with attachment.use("wire"):
            assert torch.equal(mlp(x)[2], mixed[2])
        with pytest.raises(BankError, match="expected 3 examples first"):
            mlp(x[:2])
    with pytest.raises(BankError, match="no rows are given"):
        mlp(x)


def test_forward_called_by_itself_takes_rows(model: Any) -> None:
    with torch.no_grad():
        found = model.forward(**make_inputs(FAMILY), rows="news").logits
    assert torch.equal(found, _logits(model, rows="news"))


def test_a_part_of_a_wrapped_model_takes_its_rows_from_the_wrapper() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_model(FAMILY)
            self.config = self.inner.config

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.inner(input_ids=input_ids, attention_mask=attention_mask).logits.float()

    wrapper = Wrapper().eval()
    bank = Bank(find_plan(wrapper))
    attach_bank(wrapper, bank)
    bank.add("news", random_row(bank))
    bank.add("wire", random_row(bank, seed=1))
    inner, _ = attached_model(FAMILY, "news", "wire")
    with torch.no_grad():
        assert torch.equal(wrapper(**make_inputs(FAMILY), rows=[1, 2, 0]), _logits(inner, rows=[1, 2, 0]))


def test_signatures_are_those_of_the_model_and_rows(model: Any) -> None:
    """Trainers keep the columns of a table that forward names."""
    before = list(inspect.signature(tiny_model(FAMILY).forward).parameters)
    after = list(inspect.signature(model.forward).parameters)
    assert [name for name in after if name != "rows"] == before
    assert "rows" in after
    assert inspect.signature(model.generate) == inspect.signature(tiny_model(FAMILY).generate)


# -- putting on and taking off ----------------------------------------------------------------------------------------


def _traits(model: Any) -> dict[str, Any]:
    """Return all that attaching could change: attributes, hooks, modules, gradients and weights' names."""
    traits: dict[str, Any] = {"state": list(model.state_dict()), "modules": [n for n, _ in model.named_modules()]}
    for path, module in model.named_modules():
        for name, value in module.__dict__.items():
            if "hooks" in name:
                traits[f"{path}.{name}"] = list(value.items()) if isinstance(value, dict) else value
            elif name not in ("_parameters", "_modules", "_buffers"):
                traits[f"{path}.{name}"] = value
    traits["trained"] = {name: p.requires_grad for name, p in model.named_parameters()}
    return traits


@pytest.mark.parametrize(
    ("family", "checkpointing"),
    [
        *((family, False) for family in ("t5", "opt", "gpt2", "gemma3", "bert", "deberta-v3", "albert")),
        *((family, True) for family in ("t5", "bart", "llama", "deberta-v3")),
    ],
)
def test_detach_restores_the_model_exactly(family: str, checkpointing: bool) -> None:
    model = tiny_model(family)
    if checkpointing:
        model.activation_checkpointing_enable()
    next(model.parameters()).requires_grad_(False)
    with torch.no_grad():
        expected = model(**make_inputs(family)).logits  # transformers sets hooks of its own at the first call
    before = _traits(model)
    bank = Bank(find_plan(model))
    heads = ("classifier",) if CASES[family].kind == "encoder" else ()
    attachment = attach_bank(model, bank, heads=heads, save=lambda *_: None)
    attachment.add("news")
    assert _traits(model) != before
    assert not any(p.requires_grad for name, p in model.named_parameters() if not name.startswith("ia3_bank"))
    with torch.no_grad():
        model(**make_inputs(family), rows="news")
    attachment.detach()
    assert _traits(model) == before
    with torch.no_grad():
        assert torch.equal(model(**make_inputs(family)).logits, expected)
    assert not hasattr(model, "ia3_attachment")


def test_attributes_that_other_code_had_set_come_back() -> None:
    model = tiny_model(FAMILY)
    plain = type(model).forward.__get__(model)
    seen = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        return plain(*args, **kwargs)

    model.forward = counted
    bank = Bank(find_plan(model))
    attachment = attach_bank(model, bank)
    bank.add("news", random_row(bank))
    _logits(model, rows="news")
    attachment.detach()
    assert model.forward is counted
    _logits(model)
    assert len(seen) == 2


def test_what_other_code_has_put_over_it_stays_when_the_bank_is_taken_off(model: Any) -> None:
    """Accelerate wraps `forward` in autocast after the bank is on, and expects its wrapper to stay."""
    attachment, inner, seen = attachment_of(model), model.forward, []

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        return inner(*args, **kwargs)

    model.forward = wrapper
    assert torch.equal(_logits(model, rows="news"), _logits(model, rows="news"))
    attachment.detach()
    assert model.forward is wrapper
    assert torch.equal(_logits(model), _logits(tiny_model(FAMILY)))
    assert len(seen) == 3


def test_a_model_prepared_by_accelerate_keeps_its_rows_and_unwraps() -> None:
    from accelerate.utils import convert_outputs_to_fp32, extract_model_from_parallel

    model, _ = attached_model(FAMILY, "news", "wire")
    expected = _logits(model, rows=["news", 0, "wire"])
    model._original_forward = model.forward
    model.forward = convert_outputs_to_fp32(model.forward.__func__).__get__(model)
    assert torch.equal(_logits(model, rows=["news", 0, "wire"]), expected)
    extract_model_from_parallel(model, keep_fp32_wrapper=False)
    assert torch.equal(_logits(model, rows=["news", 0, "wire"]), expected)


def test_attaching_twice_is_refused_also_to_a_part(model: Any) -> None:
    bank = Bank(find_plan(tiny_model(FAMILY)))
    with pytest.raises(BankError, match="has one already"):
        attach_bank(model, bank)
    inner = Bank(find_plan(tiny_model(FAMILY).model))
    with pytest.raises(BankError, match="or a part of it, has one already"):
        attach_bank(model.model, inner)
    whole = tiny_model(FAMILY)
    attach_bank(whole.model, inner)
    with pytest.raises(BankError, match="or a part of it, has one already"):
        attach_bank(whole, bank)


def test_a_detached_handle_refuses_to_be_used(model: Any) -> None:
    """A scope of a handle that is off the model would silently run the base."""
    attachment = attachment_of(model)
    attachment.detach()
    for act in (attachment.detach, lambda: attachment.activate("news"), lambda: attachment.add("more")):
        with pytest.raises(BankError, match="it was detached from its model"):
            act()
    for scope in (attachment.use("news"), attachment.disabled(), attachment.rows([1, 2, 0])):
        with pytest.raises(BankError, match="it was detached from its model"), scope:
            raise AssertionError
    with pytest.raises(BankError, match="it has none"):
        attachment_of(model)
    again = attach_bank(model, attachment.bank)
    assert torch.equal(_logits(model, rows="news"), _logits(attached_model(FAMILY, "news")[0]))
    with pytest.raises(BankError, match="it was detached"):
        attachment.detach()
    assert attachment_of(model) is again


def test_a_plan_of_another_base_is_refused_naming_modules() -> None:
    bank = Bank(find_plan(tiny_model("llama")))
    with pytest.raises(PlanError, match=r"'model\.layers\.0\.self_attn\.k_proj' is missing; .* and 1 more"):
        attach_bank(tiny_model("gpt_neox"), bank)
    wide = tiny_model("llama")
    wide.model.layers[1].mlp.up_proj = nn.Linear(16, 30)
    with pytest.raises(PlanError, match=r"'model\.layers\.1\.mlp\.up_proj' has 30 channels, the plan 24"):
        attach_bank(wide, bank)
    assert not hasattr(wide, "ia3_attachment")
    assert all(p.requires_grad for p in wide.parameters())


def test_a_model_on_the_meta_device_does_not_take_the_numbers_of_the_bank_away() -> None:
    with torch.device("meta"):
        model = CASES[FAMILY].make()
    bank = Bank(find_plan(model))
    bank.add("news", random_row(bank))
    attach_bank(model, bank)
    assert torch.equal(bank.vector("news"), random_row(bank))


# -- copies, casts and files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2", "t5", "deberta-v3"])
def test_a_deep_copy_has_a_bank_and_a_handle_of_its_own(family: str) -> None:
    """The copy's hooks used to read the bank of the original: training the copy changed nothing it computed."""
    model, attachment = attached_model(family, "news", trainable=True)
    if CASES[family].kind == "encoder":
        attachment.route_heads(["classifier"])
    attachment.add("wire", random_row(attachment.bank, seed=1))
    model.activation_checkpointing_enable({"use_reentrant": False})
    inputs, rows = make_inputs(family), ["news", "wire", "__base__"]
    expected = model(**inputs, rows=rows).logits
    copied = copy.deepcopy(model)
    other = attachment_of(copied)
    assert other is not attachment
    assert other.bank is not attachment.bank and other.bank is copied.ia3_bank
    assert other.model is copied
    assert torch.equal(copied(**inputs, rows=rows).logits, expected)

    other.bank.set_vector("news", torch.full_like(other.bank.vector("news"), 3.0))
    other.bank.remove("wire")
    assert torch.equal(model(**inputs, rows=rows).logits, expected)
    changed = copied(**inputs, rows="news").logits
    assert not torch.equal(changed[0], expected[0])
    copied.train()
    copied(**inputs, rows="news").logits.sum().backward()
    assert next(copied.ia3_bank.parameters()).grad is not None
    assert all(p.grad is None for p in model.parameters())
    if hasattr(copied, "generate") and CASES[family].kind == "causal":
        copied.eval()
        ids = make_inputs(family)["input_ids"]
        found = copied.generate(ids, rows="news", max_new_tokens=3, do_sample=False)
        changed_model, bank = attached_model(family)
        bank.bank.add("news", other.bank.vector("news"))
        assert torch.equal(found, changed_model.generate(ids, rows="news", max_new_tokens=3, do_sample=False))
    other.detach()
    with torch.no_grad():
        plain = tiny_model(family)
        assert torch.equal(copied.eval()(**inputs).logits, plain(**inputs).logits)
    assert torch.equal(model(**inputs, rows=rows).logits, expected)


def test_a_scope_of_a_model_is_not_one_of_its_copy(model: Any) -> None:
    copied = copy.deepcopy(model)
    with attachment_of(model).use("news"), pytest.raises(BankError, match="no rows are given"):
        _logits(copied)
    with attachment_of(model).use("news"), attachment_of(copied).use("wire"):
        assert torch.equal(_logits(model), _logits(model, rows="news"))
        assert torch.equal(_logits(copied), _logits(model, rows="wire"))


def test_a_part_copied_alone_stays_under_the_handle_of_the_model(model: Any) -> None:
    attachment = attachment_of(model)
    copied = copy.deepcopy(model.model.layers[0].mlp)
    x = torch.ones(1, 2, 16)
    with attachment.use("news"), torch.no_grad():
        assert torch.equal(copied(x), model.model.layers[0].mlp(x))


def test_an_attached_model_keeps_its_vectors_fp32_when_it_is_cast(model: Any) -> None:
    bank = attachment_of(model).bank
    for cast in (lambda: model.half(), lambda: model.to(torch.bfloat16), lambda: model.double()):
        cast()
        assert bank.dtype == torch.float32
        assert torch.equal(bank.vector("news"), random_row(bank, seed=0))
        with torch.no_grad():
            mixed = model(**make_inputs(FAMILY), rows=["news", "wire", 0]).logits
        assert mixed.dtype == next(model.model.parameters()).dtype
        assert bool(mixed.isfinite().all())


def test_a_model_with_a_bank_is_not_pickled_but_its_bank_is(model: Any) -> None:
    with pytest.raises(BankError, match="Pickling a model that has a bank: it cannot be"):
        torch.save(model, io.BytesIO())
    attachment = attachment_of(model)
    bank = pickle.loads(pickle.dumps(attachment.bank))
    assert torch.equal(bank.gather([1, 2, 0]), attachment.bank.gather([1, 2, 0]))
    attachment.detach()
    assert pickle.dumps(model)


def test_a_state_dict_of_an_attached_model_brings_every_adapter_back(model: Any) -> None:
    attachment_of(model).bank.set_trainable("wire")
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other, attachment = attached_model(FAMILY)
    attachment.bank.add("news")
    attachment.bank.add("wire", trainable=True)
    other.load_state_dict(torch.load(buffer))
    rows = ["news", "wire", "__base__"]
    assert torch.equal(_logits(other, rows=rows), _logits(model, rows=rows))
    buffer.seek(0)
    empty, _ = attached_model(FAMILY)
    with pytest.raises(RuntimeError, match=r"the state holds adapters 1 \(news\), 2 \(wire\)"):
        empty.load_state_dict(torch.load(buffer), strict=False)


def test_a_state_dict_of_the_base_loads_into_an_attached_model(model: Any) -> None:
    base = tiny_model(FAMILY, seed=3)
    found = model.load_state_dict(base.state_dict(), strict=False)
    assert set(found.missing_keys) == {"ia3_bank.table", "ia3_bank.names"}
    assert found.unexpected_keys == []
    assert torch.equal(_logits(model, rows="__base__"), _logits(base))
    assert not torch.equal(_logits(model, rows="news"), _logits(base))


def test_a_functional_call_may_replace_the_row_in_training() -> None:
    model, attachment = attached_model(FAMILY, "news", trainable=True)
    row = random_row(attachment.bank, seed=7)
    inputs = {**make_inputs(FAMILY), "rows": "news"}
    with torch.no_grad():
        found = torch.func.functional_call(model, {"ia3_bank.vectors.row1": row}, kwargs=inputs).logits
    attachment.bank.set_vector("news", row)
    assert torch.equal(found, _logits(model, rows="news"))


def test_saving_does_what_was_given_or_what_it_did_before(tmp_path: Any) -> None:
    calls: list[Any] = []
    model = tiny_model(FAMILY)
    attachment = attach_bank(model, Bank(find_plan(model)), save=lambda *given: calls.append(given))
    model.save_pretrained("somewhere", safe_serialization=True)
    model.save_pretrained(save_directory="elsewhere")
    assert calls == [(attachment, "somewhere", {"safe_serialization": True}), (attachment, "elsewhere", {})]
    attachment.detach()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "config.json").exists()
    assert len(calls) == 2


def test_parameters_that_train_are_those_of_the_bank(model: Any) -> None:
    attachment = attachment_of(model)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == []
    attachment.add("more")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert {name: p.numel() for name, p in trained.items()} == {"ia3_bank.vectors.row3": attachment.bank.plan.width}


def test_the_bank_follows_train_and_eval() -> None:
    model = tiny_model("bert").train()
    bank = Bank(find_plan(model)).eval()
    attachment = attach_bank(model, bank, heads=("classifier",))
    assert bank.training
    model.eval()
    attachment.add("news")
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("family", ["gpt_neo", "falcon"])
def test_an_empty_batch_passes_through_where_the_base_lets_it(family: str) -> None:
    model, _ = attached_model(family, "a", "b")
    inputs = {name: tensor[:0] for name, tensor in make_inputs(family).items()}
    with torch.no_grad():
        expected = tiny_model(family)(**inputs).logits
        assert torch.equal(model(**inputs, rows="a").logits, expected)


def test_the_handle_is_found_on_the_model(model: Any) -> None:
    assert isinstance(attachment_of(model), Attachment)
    with pytest.raises(BankError, match=r"Attach one first: ia3\.attach\(model\)"):
        attachment_of(tiny_model(FAMILY))


def test_a_vector_of_ones_and_the_base_differ_in_nothing_that_is_kept(model: Any) -> None:
    """Rows of the base alone cost nothing: no activation is multiplied, none is kept for a backward pass."""
    attachment_of(model).bank.add("training", trainable=True)
    assert not _with_gradients(model, "__base__").requires_grad
    assert _with_gradients(model, "training").requires_grad
    assert largest(_with_gradients(model, "training") - _with_gradients(model, "__base__")) == 0


def _with_gradients(model: Any, rows: Any) -> Tensor:
    return model(**make_inputs(FAMILY), rows=rows).logits
