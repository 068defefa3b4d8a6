"""A packed store on a model: every adapter is there by name, and is read when a batch needs it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ia3.adapters.adapter import Adapter
from ia3.adapters.attached import adapter_of, attach, load, put_on
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.adapters.store import Store, create_store
from ia3.adapters.store_file import StoreFile
from ia3.adapters.stored import StoredRows, attach_store
from ia3.errors import AdapterError, BankError, IA3Error
from tests.adapters.examples import assert_same
from tests.adapters.store_examples import damage
from tests.families import make_inputs
from tests.families import make_model as tiny_model

HEADS = {"bert": ["classifier"], "llama": [], "t5": []}


def _adapters(family: str) -> dict[str, Adapter]:
    """Return adapters of a tiny model with heads of several widths, where it has any."""
    attachment = attach(tiny_model(family), head_modules=HEADS[family], name="own", base_name="owner/tiny")
    own = adapter_of(attachment, "own")
    found = {}
    for number, name in enumerate(("a", "b/1", "c:2")):
        random = torch.Generator().manual_seed(number)
        vectors = {site: 2 * torch.rand(v.shape, generator=random) for site, v in own.vectors.items()}
        head = {n: torch.randn(2 + number, *t.shape[1:], generator=random) for n, t in own.head.items()}
        record = {**own.record, "labels": [f"{name}{i}" for i in range(2 + number)]}
        found[name] = replace(own, vectors=vectors, head=head, record=record)
    return found


def _store(path: Path, family: str, **options: Any) -> Path:
    adapters = _adapters(family)
    create_store(path, attach(tiny_model(family)).bank.plan, adapters=adapters, **options).close()
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the adapters whose row is read, in order."""
    found: list[str] = []
    original = Store.rows
    monkeypatch.setattr(Store, "rows", lambda self, names, out=None: found.extend(names) or original(self, names, out))
    return found


@pytest.mark.parametrize("family", HEADS)
@torch.no_grad()
def test_stored_adapters_are_those_that_were_put_on_one_by_one(family: str, tmp_path: Path) -> None:
    path = _store(tmp_path / "s.ia3", family)
    model, other = tiny_model(family), tiny_model(family)
    attachment = attach_store(model, path)
    for name, adapter in _adapters(family).items():
        one_by_one = put_on(other, adapter, name)
    rows = ["c:2", "__base__", "a"]
    inputs = make_inputs(family)
    assert torch.equal(model(**inputs, rows=rows).logits, other(**inputs, rows=rows).logits)
    assert attachment.bank.names == ("a", "b/1", "c:2")
    for row in attachment.bank.snapshot.rows.values():
        assert attachment.bank.record(row) == one_by_one.bank.record(row)
    assert_same(adapter_of(attachment, "b/1"), adapter_of(one_by_one, "b/1"))


def test_a_row_is_read_when_a_batch_needs_it_and_once(tmp_path: Path, reads: list[str]) -> None:
    model = tiny_model("llama")
    attach_store(model, _store(tmp_path / "s.ia3", "llama"))
    assert reads == []
    for _ in range(2):
        model(**make_inputs("llama"), rows=["b/1", "a", "b/1"])
    assert reads == ["b/1", "a"]


def test_a_request_reads_each_part_of_its_block_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row was read and checked a second time for the head, which has no use for it."""
    path = _store(tmp_path / "s.ia3", "bert")
    model = tiny_model("bert")
    attachment = attach_store(model, path)
    found: list[tuple[str, str]] = []
    original = StoreFile.part
    monkeypatch.setattr(
        StoreFile, "part", lambda self, name, part: found.append((name, part)) or original(self, name, part)
    )
    for _ in range(2):
        model(**make_inputs("bert"), rows=["a", "b/1", "a"])
        assert attachment.bank.record("a")
    assert sorted(found) == sorted((name, part) for name in ("a", "b/1") for part in ("text", "numbers", "tensors"))


def test_what_is_kept_of_a_store_is_bounded(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ia3.adapters.stored.MOST_BYTES", 0)
    monkeypatch.setattr("ia3.adapters.stored._FEWEST_ROWS", 1)
    model = tiny_model("llama")
    attach_store(model, _store(tmp_path / "s.ia3", "llama"))
    for name in ("a", "a", "b/1", "a"):
        model(**make_inputs("llama"), rows=name)
    assert reads == ["a", "b/1", "a"]


def test_a_stored_adapter_can_be_trained_changed_and_removed(tmp_path: Path) -> None:
    path = _store(tmp_path / "s.ia3", "bert")
    model = tiny_model("bert")
    attachment = attach_store(model, path)
    bank = attachment.bank
    with torch.inference_mode():  # what is made in here is used out there
        model(**make_inputs("bert"), rows=["a", "b/1", "c:2"])
    bank.set_trainable("a")
    model(**make_inputs("bert"), rows="a").logits.sum().backward()
    trained = [p for p in bank.parameters() if p.requires_grad]
    assert len(trained) == 3 and all(p.grad is not None and p.grad.any() for p in trained)  # row, weight and bias
    with torch.no_grad():
        trained[0].fill_(0.5)
    bank.set_trainable("a", False)
    bank.set_vector("b/1", torch.ones(bank.plan.width))
    bank.remove("c:2")
    assert torch.equal(bank.vector("a"), torch.full((bank.plan.width,), 0.5))
    with Store.open(path) as store:  # the file has what it had
        for name, adapter in _adapters("bert").items():
            assert_same(store.adapter(name), adapter)
    copied = copy.deepcopy(model)
    inputs = make_inputs("bert")
    assert torch.equal(copied(**inputs, rows="b/1").logits, model(**inputs, rows="b/1").logits)


def test_a_float64_base_gets_float64_rows_and_half_rows_are_restored(tmp_path: Path) -> None:
    path = _store(tmp_path / "s.ia3", "llama", half=True)
    attachment = attach_store(tiny_model("llama").double(), path)
    with Store.open(path) as store:
        assert torch.equal(attachment.bank.vector("a"), store.vector("a").double())


def test_stores_and_folders_meet_in_one_bank_and_no_name_is_taken_twice(tmp_path: Path) -> None:
    path = _store(tmp_path / "s.ia3", "bert")
    folder = save_adapter(_adapters("bert")["a"], tmp_path / "folder")
    model = tiny_model("bert")
    load(model, folder)
    attachment = attach_store(model, path)
    assert attachment.bank.names == ("folder", "a", "b/1", "c:2")
    inputs = make_inputs("bert")
    assert torch.equal(model(**inputs, rows="folder").logits, model(**inputs, rows="a").logits)
    assert attach_store(model, path).bank.names == attachment.bank.names  # the same store again
    other = _store(tmp_path / "other.ia3", "bert")
    with pytest.raises(BankError, match="'a': the bank has one of this name"):
        attach_store(model, other)
    fresh = tiny_model("bert")
    load(fresh, f"{path}:c:2")
    assert fresh.ia3_attachment.bank.names == ("c:2",)
    with pytest.raises(BankError, match="'c:2': the bank has one of this name"):
        attach_store(fresh, path)
    assert isinstance(attachment.bank.snapshot.slots([attachment.bank.row("a")])[0].block.rows, StoredRows)


def test_an_address_means_an_adapter_of_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, adapters = _store(tmp_path / "s.ia3", "bert"), _adapters("bert")
    monkeypatch.chdir(tmp_path)
    for name in adapters:
        assert_same(load_adapter(f"s.ia3:{name}", tiny_model("bert")), adapters[name])
    create_store("one.ia3", Store.open(path).plan, adapters={"only": adapters["a"]}).close()
    assert_same(load_adapter("one.ia3"), adapters["a"])


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("s.ia3:b/2", r"'b/2': s\.ia3 has no such name\. Did you mean 'b/1'"),
        ("s.ia3", r"holds 3 adapters \('a', 'b/1', 'c:2'\), expected the name of one\. Give s\.ia3:NAME"),
        ("s.ia3:", r"holds 3 adapters"),
        (
            "t.ia3:a",
            r"no packed store 't\.ia3'\. Did you mean 's\.ia3'\? An adapter in a store is addressed as STORE:NAME",
        ),
        ("nowhere/t.ia3:a", r"no packed store 'nowhere/t\.ia3'\. An adapter"),
        ("text.txt:a", "this is no packed store"),
    ],
)
def test_an_address_that_means_nothing_is_one_clear_sentence(
    address: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _store(tmp_path / "s.ia3", "bert")
    (tmp_path / "text.txt").write_text("a\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IA3Error, match=told):
        load_adapter(address)


def test_a_store_of_another_base_is_refused_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    path = _store(tmp_path / "s.ia3", "bert")
    model = tiny_model("llama")
    with pytest.raises(AdapterError, match="holds adapters of base 'owner/tiny'"):
        attach_store(model, path)
    assert not hasattr(model, "ia3_attachment")


def test_a_damaged_adapter_is_an_error_that_names_it_and_the_others_answer(tmp_path: Path) -> None:
    path = _store(tmp_path / "s.ia3", "llama")
    damage(path, "b/1", "numbers")
    model = tiny_model("llama")
    attach_store(model, path)
    model(**make_inputs("llama"), rows=["a", "c:2", "a"])
    with pytest.raises(AdapterError, match=r"adapter 'b/1' from .* its row is damaged"):
        model(**make_inputs("llama"), rows=["a", "b/1", "a"])
