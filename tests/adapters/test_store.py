"""A packed store gives back what was put in, refuses what does not belong, and reads what it is asked for alone."""

from __future__ import annotations

import random
import re
import sqlite3
import string
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.adapters.adapter import Adapter
from ia3.adapters.attached import adapter_of, attach, put_on
from ia3.adapters.config import AdapterConfig
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.adapters.store import Store, create_store, rows_from_store
from ia3.adapters.store_tables import Stored
from ia3.core.discovery import find_plan
from ia3.core.sites import Channels, Plan, Site
from ia3.errors import AdapterError
from tests.adapters.examples import adapter_for, assert_same, spread, whole
from tests.adapters.store_examples import BASE, PLAN, SITES, assert_holds, damage, small, small_store
from tests.families import make_inputs, make_model

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name != "__base__")


def _row(adapter: Adapter) -> torch.Tensor:
    return torch.cat([adapter.vectors[site.name] for site in adapter.sites])


@settings(max_examples=25, deadline=None)
@given(
    numbers=st.lists(FINITE | st.sampled_from([0.0, -0.0, 1e-45, 1.0]), min_size=PLAN.width, max_size=PLAN.width),
    names=st.lists(NAMES, min_size=1, max_size=4, unique=True),
    labels=st.lists(st.text(max_size=5), max_size=3),
    extra=st.dictionaries(st.text(string.ascii_lowercase, min_size=1), st.integers() | st.text(max_size=3), max_size=2),
)
def test_what_is_packed_is_read_to_the_last_bit(
    numbers: list[float], names: list[str], labels: list[str], extra: dict[str, object]
) -> None:
    row = torch.from_numpy(np.array(numbers, dtype=np.float32))
    extra = {key: value for key, value in extra.items() if not hasattr(AdapterConfig(), key)}
    adapters = {
        name: replace(
            small(i),
            vectors={site.name: row[span].roll(i) for site, span in PLAN.spans()},
            config=replace(small(i).config, extra=extra),
            record={"base": BASE, "labels": labels},
        )
        for i, name in enumerate(names)
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.ia3"
        assert_holds(create_store(path, PLAN, adapters=adapters), adapters)
        assert_holds(Store.open(path), adapters)


@pytest.mark.parametrize("name", ["t5", "mt5", "gpt2", "gpt_neox", "bert", "llama", "gemma3", "phi3"])
def test_an_adapter_of_a_family_answers_the_same_from_a_store(name: str, tmp_path: Path) -> None:
    model, adapter = adapter_for(name)
    store = create_store(tmp_path / "s.ia3", find_plan(make_model(name)), adapters={"news": adapter})
    assert_same(store.adapter("news"), adapter)
    fresh, inputs = make_model(name), make_inputs(name)
    store.check_base(fresh, "Loading")
    attachment = put_on(fresh, store.adapter("news"), "news")
    assert torch.equal(fresh(**inputs).logits, model(**inputs).logits)
    assert torch.equal(store.vector("news"), attachment.bank.vector("news"))
    assert torch.equal(rows_from_store(store, ["news"], attachment.bank.plan)[0], attachment.bank.vector("news"))


def test_folders_go_in_and_come_out_byte_for_byte(tmp_path: Path) -> None:
    _, adapter = adapter_for("bert", head_modules=("classifier", "bert.pooler"))
    first = save_adapter(adapter, tmp_path / "in")
    store = create_store(tmp_path / "s.ia3", Plan(adapter.sites, "bert", "adapter"), adapters={"a": adapter})
    second = save_adapter(store.adapter("a"), tmp_path / "out")
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in second.iterdir()}


@pytest.mark.parametrize("half", [False, True])
def test_sites_that_an_adapter_lacks_stay_absent_and_are_ones_in_its_row(half: bool, tmp_path: Path) -> None:
    some = replace(small(1, SITES[:1]), config=AdapterConfig(target_modules=("c_attn",)))
    store = small_store(tmp_path / "s.ia3", "all")
    store.append("some", some, half=half)
    assert store.metadata("some").sites == SITES[:1]
    assert store.vector("some")[2:].equal(torch.ones(PLAN.width - 2))
    assert set(store.adapter("some").vectors) == {SITES[0].name}
    if not half:
        assert_same(store.adapter("some"), some)


def test_a_fused_projection_held_whole_comes_back_whole(tmp_path: Path) -> None:
    sites = (whole("a.0.c_attn", "output", 6, "other"), whole("a.0.down", "input", 5, "feedforward"), SITES[3])
    adapter = replace(small(2, sites), config=AdapterConfig(target_modules=("c_attn", "down", "fc2")))
    attention = adapter.vectors["a.0.c_attn"].clone()
    attention[:2] = 1  # the query's part, where the plan has no site
    adapter = replace(adapter, vectors={**adapter.vectors, "a.0.c_attn": attention})
    store = small_store(tmp_path / "s.ia3", "ours")
    store.append("theirs", adapter)
    assert_same(store.adapter("theirs"), adapter)
    assert store.vector("theirs").equal(adapter.row(PLAN))
    assert not store.has_tensors("theirs")  # read off the row


def test_vectors_that_the_row_cannot_give_back_are_kept_beside_it(tmp_path: Path) -> None:
    """PEFT may hold a vector for a linear branch and one for the last projection's input: their product is the row."""
    sites = (whole("a.0.up", "output", 5), whole("a.0.down", "input", 5, "feedforward"))
    adapter = replace(small(4, sites), config=AdapterConfig(target_modules=("up", "down")))
    store = small_store(tmp_path / "s.ia3", "ours")
    store.append("both", adapter)
    store.append("half", adapter, half=True)
    assert_same(store.adapter("both"), adapter)
    product = adapter.vectors["a.0.up"] * adapter.vectors["a.0.down[input]"]
    assert store.vector("both")[4:9].equal(product)
    got = store.adapter("half").vectors["a.0.up"]
    assert not got.equal(adapter.vectors["a.0.up"]) and got.sub(adapter.vectors["a.0.up"]).abs().max() < 1e-3


def test_rows_are_in_the_order_asked_for_and_may_go_into_a_tensor_of_the_callers(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s.ia3", "a", "b", "c")
    rows = store.rows(["c", "a", "c"])
    assert rows.equal(torch.stack([_row(small(2)), _row(small(0)), _row(small(2))]))
    out = torch.zeros(4, PLAN.width)
    assert store.rows(["b", "a"], out=out[1:3]).data_ptr() == out[1].data_ptr()
    assert out[1].equal(_row(small(1))) and out[3].equal(torch.zeros(PLAN.width))
    assert store.rows([]).shape == (0, PLAN.width)
    for odd in (torch.zeros(1, PLAN.width), torch.zeros(2, PLAN.width).double(), torch.zeros(PLAN.width, 2).T):
        with pytest.raises(
            AdapterError, match=r"Reading 2 rows from .*: out has shape .*, expected \(2, 12\) and torch"
        ):
            store.rows(["a", "b"], out=odd)


def test_rows_are_laid_out_for_another_plan_of_the_same_base(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s.ia3", "a")
    other = Plan((*reversed(SITES), whole("a.1.fc2", "input", 3)), "toy", "targets")
    assert rows_from_store(store, ["a"], other)[0].equal(small(0).row(other))
    with pytest.raises(AdapterError, match="the plan has no site for vector"):
        rows_from_store(store, ["a"], Plan(SITES[:2], "toy", "targets"))


def test_adding_goes_on_after_what_is_there_and_others_keep_what_they_opened(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    store = small_store(path, "a", "b")
    before = Store.open(path)
    store.append("c", small(2))
    store.append_many({"d": small(3), "e": small(4)})
    assert_holds(store, {name: small(i) for i, name in enumerate("abcde")})
    assert_holds(Store.open(path), {name: small(i) for i, name in enumerate("abcde")})
    store.remove("a", "c")
    store.replace("b", small(9))
    store.rename("d", "z")
    assert_holds(before, {"a": small(0), "b": small(1)})  # compacted, they are gone
    store.compact()
    want = {"b": small(9), "e": small(4), "z": small(3)}
    assert_holds(store, want)
    assert_holds(Store.open(path), want)
    for name in "ab":
        with pytest.raises(
            AdapterError, match=rf"'{name}' .*: it was replaced or removed, and the store compacted, since"
        ):
            before.adapter(name)
    store.append("f", small(5))  # where they were
    with pytest.raises(AdapterError, match="since it was opened"):
        before.adapter("a")


def test_two_that_opened_a_store_add_to_it_in_turn_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    first, second = small_store(path, "a"), Store.open(path)
    first.append("b", small(1))
    second.append("c", small(2))
    second.compact()
    first.append("d", small(3))
    assert_holds(first, {name: small(i) for i, name in enumerate("abcd")})
    with pytest.raises(AdapterError, match="adapter 'b': the store has one of this name"):
        second.append("b", small(1))


@pytest.mark.parametrize("seed", range(2))
def test_any_course_of_changes_is_what_a_dict_would_be(seed: int, tmp_path: Path) -> None:
    chance, path = random.Random(seed), tmp_path / "s.ia3"
    store, want = small_store(path), dict[str, Adapter]()
    for step in range(60):
        name, names = chance.choice("abcdefgh"), [*want]
        if name not in want:
            store.append(name, small(step))
            want[name] = small(step)
        elif chance.random() < 0.4:
            store.replace(name, small(step))
            want[name] = small(step)
        elif chance.random() < 0.5:
            store.remove(name)
            del want[name]
        elif chance.random() < 0.3:
            store.compact()
        else:
            new = f"{name}{step}"
            store.rename(names[0], new)
            want[new] = want.pop(names[0])
        if step % 10 == 0:
            assert_holds(Store.open(path), want)
    assert_holds(store, want)
    assert store.verify() == ()
    store.compact()
    assert_holds(Store.open(path), want)


def test_compacting_gives_back_what_was_removed_and_keeps_the_files_rights(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    store = small_store(path, "a", "b", "c")
    path.chmod(0o640)
    size = path.stat().st_size
    for number in range(40):
        store.replace("b", small(number))
    before = path.stat().st_size
    assert store._file.unused_bytes() > 0
    assert store.compact() == before - path.stat().st_size > 0
    assert path.stat().st_size <= size and store._file.unused_bytes() == 0
    assert_holds(Store.open(path), {"a": small(0), "b": small(39), "c": small(2)})
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["s.ia3"]


def test_a_name_may_be_any_text_and_an_unknown_one_shows_near_matches(tmp_path: Path) -> None:
    names = ["Kunde Nr. 7", "../..", "客户", "a\0b", "\n", "x" * 5000, "🙂"]
    store = small_store(tmp_path / "s.ia3", *names)
    assert Store.open(tmp_path / "s.ia3").names == tuple(names)
    path = re.escape(str(store.path))
    with pytest.raises(AdapterError, match=rf"Looking up adapter 'Kunde Nr\. 8': {path} has no such name\. Did you"):
        store.vector("Kunde Nr. 8")
    for act in (store.adapter, store.metadata, store.remove, store.stored, lambda name: store.rename(name, "y")):
        with pytest.raises(AdapterError, match="'nobody'"):
            act("nobody")
    with pytest.raises(AdapterError, match="'nobody'"):
        store.replace("nobody", small(0))
    assert store.names == tuple(names)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "adapter '': its name is empty."),
        ("__base__", "adapter '__base__': this is the base's name in a bank."),
        ("a", "adapter 'a': the store has one of this name. Replace it (--replace), or rename or remove it first."),
        ("\ud800", "its name is no text that can be written as UTF-8."),
    ],
)
def test_a_name_that_cannot_be_is_refused(name: str, told: str, tmp_path: Path) -> None:
    store = small_store(tmp_path / "s.ia3", "a", "b")
    with pytest.raises(AdapterError, match=re.escape(told)):
        store.append(name, small(1))
    with pytest.raises(AdapterError, match=re.escape(told.partition(": ")[2] or told)):
        store.rename("b", name)
    assert_holds(store, {"a": small(0), "b": small(1)})


def test_adapters_that_cannot_be_added_are_told_at_once_and_none_is_added(tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    store = small_store(path, "a")
    before = path.read_bytes()
    other = {**BASE, "name": "b/other", "fingerprint": "cd" * 32}

    def fails() -> Adapter:
        raise AdapterError("Loading adapter from x: it is not there.")

    with pytest.raises(AdapterError) as caught:
        store.append_many(
            [
                ("b", small(1)),
                ("a", small(1)),
                ("foreign", small(1, base=other)),
                ("gone", fails),
                ("b", small(2)),
            ]
        )
    assert str(caught.value) == (
        f"Adding to {path}: 4 adapters cannot be added, so none was: adapter 'a': the store has one of this name. "
        "Replace it (--replace), or rename or remove it first. adapter 'foreign': it was trained on base 'b/other' "
        "(fingerprint cdcdcdcdcdcd), the store holds adapters of base 'owner/base' (fingerprint abababababab). Pack it "
        "into a store of its own. adapter 'gone': Loading adapter from x: it is not there. adapter 'b': two adapters "
        "of this name are given. Rename one of them."
    )
    assert path.read_bytes() == before
    assert_holds(store, {"a": small(0)})


def test_more_faults_than_five_are_counted(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s.ia3", *"abcdefg")
    with pytest.raises(AdapterError, match=r"7 adapters cannot be added, so none was: .* And 2 more\.$"):
        store.append_many({name: small(0) for name in "abcdefg"})


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        (
            small(0, (whole("a.0.fc2", "input", 4, "feedforward"),), base=None),
            r"vector 'a\.0\.fc2\[input\]' has width 4, the store's base needs 3\. It was trained on another base: own",
        ),
        (small(0, SITES[:3], base=None), r"'a\.0\.fc2' is among its targets and has no vector"),
        (
            small(0, (*SITES, whole("a.0.q", "output", 4))),
            r"the plan has no site for vector 'a\.0\.q' \(4 of its 4 numbers\), and they are not ones\. Pack it into",
        ),
        (
            replace(small(0), vectors={**small(0).vectors, "a.0.up": torch.full((5,), torch.nan)}),
            r"'a\.0\.up' holds numbers that are not finite\. The training diverged",
        ),
        (
            replace(small(1), head={"classifier.weight": torch.tensor([torch.inf])}),
            r"'classifier\.weight' holds numbers",
        ),
        (
            replace(small(0), record={"base": BASE, "x": object()}),
            r"Writing ia3\.json: the record holds something",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_reason(adapter: Adapter, told: str, tmp_path: Path) -> None:
    store = small_store(tmp_path / "s.ia3", "a")
    with pytest.raises(AdapterError, match=rf"^Adding to {re.escape(str(store.path))}: adapter 'x': {told}"):
        store.append("x", adapter)
    assert store.names == ("a",)


def test_a_store_of_unknown_base_takes_the_base_of_the_first_adapter_that_records_one(tmp_path: Path) -> None:
    store = create_store(tmp_path / "s.ia3", PLAN, adapters={"theirs": small(0, base=None)})
    assert store.base == {"name": "owner/base", "kind": None}
    store.append("ours", small(1))
    assert store.base == BASE
    with pytest.raises(AdapterError, match="the store holds adapters of base 'owner/base'"):
        store.append("foreign", small(2, base={**BASE, "fingerprint": "cd" * 32}))
    store.compact()
    assert Store.open(store.path).base == BASE


def test_a_store_of_another_base_is_refused_by_a_model(tmp_path: Path) -> None:
    model = make_model("t5")
    model.name_or_path = "b/t5"
    with pytest.raises(AdapterError) as caught:
        small_store(tmp_path / "s.ia3", "a").check_base(model, "Loading adapters")
    assert str(caught.value).startswith(
        f"Loading adapters: {tmp_path / 's.ia3'} holds adapters of base 'owner/base' (fingerprint abababababab), this "
        "model is 'b/t5' (fingerprint "
    )
    create_store(tmp_path / "t.ia3", PLAN).check_base(model, "Loading adapters")  # nothing is known of its base


def test_an_adapter_in_training_and_a_head_that_shares_memory_are_packed(tmp_path: Path) -> None:
    model = make_model("bert")
    attachment = attach(model, head_modules=("classifier",))
    adapter = adapter_of(attachment, "default")
    shared = spread((3, 16))
    adapter = replace(
        adapter,
        vectors={name: vector.requires_grad_(True) for name, vector in adapter.vectors.items()},
        head={"classifier.weight": shared, "classifier.bias": shared[0, :3]},
    )
    store = create_store(tmp_path / "s.ia3", attachment.bank.plan, adapters={"a": adapter})
    assert_same(store.adapter("a"), adapter)


def test_half_the_size_is_chosen_by_the_measured_error_and_recorded(tmp_path: Path) -> None:
    store = small_store(tmp_path / "s.ia3", "whole")
    near = replace(small(2), vectors={site.name: 1 + 0.1 * spread(site.width, 3) for site in SITES})
    far = replace(small(4), vectors={site.name: 1e5 * spread(site.width, 5) for site in SITES})
    beyond = replace(small(6), vectors={site.name: torch.full((site.width,), 3.4e38) for site in SITES})
    store.append_many({"near": near, "far": far, "beyond": beyond}, half=True)
    store = Store.open(store.path)
    kinds = {name: store.stored(name)[0] for name in store.names}
    assert kinds == {
        "whole": Stored.FLOAT32, "near": Stored.FLOAT16, "far": Stored.BFLOAT16, "beyond": Stored.FLOAT32,
    }  # fmt: skip
    for name, adapter in (("near", near), ("far", far)):
        error = float((store.vector(name) - _row(adapter)).abs().max())
        assert error > 0 and store.stored(name)[1] == pytest.approx(error)
        assert _row(store.adapter(name)).equal(store.vector(name))
        assert len(store._file.part(name, "numbers")) == 2 * PLAN.width
    assert _row(store.adapter("beyond")).equal(_row(beyond))
    store.compact()
    assert store.stored("near") == Store.open(store.path).stored("near")


def test_a_one_stays_exactly_one_at_half_the_size(tmp_path: Path) -> None:
    ones = replace(small(2), vectors={site.name: torch.ones(site.width) for site in SITES})
    store = create_store(tmp_path / "s.ia3", PLAN, adapters={"a": ones}, half=True)
    assert store.vector("a").equal(torch.ones(PLAN.width)) and store.stored("a")[1] == 0


def test_what_is_no_store_is_told_in_one_sentence(tmp_path: Path) -> None:
    small_store(tmp_path / "news.ia3", "a")
    content = (tmp_path / "news.ia3").read_bytes()
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("x" * 5000)
    (tmp_path / "later").write_bytes(content)
    with closing(sqlite3.connect(tmp_path / "later")) as later:
        later.execute("PRAGMA user_version = 7")
    (tmp_path / "cut").write_bytes(content[:5000])
    (tmp_path / "begun").write_bytes(content[:300])
    with closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE adapters (id INTEGER)")
    for name, told in (
        ("new.ia3", r"there is no such file\. Did you mean 'news\.ia3'\? 'ia3 adapters pack' makes one\."),
        ("no/where", "there is no such file"),
        ("", "this is a folder, expected a packed store"),
        ("empty", "the file is empty, expected a packed store"),
        ("text", "this is no packed store, expected a file that 'ia3 adapters pack' has written"),
        ("later", r"its format has version 7, expected at most 2\. Upgrade"),
        ("cut", r"the file is damaged or cut off\. Take another copy of it"),
        ("begun", ""),
        ("other", "this is no packed store"),
    ):
        with pytest.raises(AdapterError, match=rf"^Opening {re.escape(str(tmp_path / name))}: {told}") as caught:
            Store.open(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "added",
    [
        "CREATE TRIGGER t AFTER INSERT ON names BEGIN DELETE FROM adapters; END",
        "CREATE VIEW v AS SELECT * FROM names",
        "CREATE INDEX i ON adapters (text)",
        "CREATE TABLE more (x)",
        "ALTER TABLE names ADD COLUMN x",
        "DROP TABLE adapters",
        "PRAGMA application_id = 0",
        "PRAGMA journal_mode = WAL",
    ],
)
def test_a_file_that_is_not_exactly_a_store_is_not_read(added: str, tmp_path: Path) -> None:
    small_store(tmp_path / "s.ia3", "a").close()
    with closing(sqlite3.connect(tmp_path / "s.ia3")) as other:
        other.execute(added)
    with pytest.raises(AdapterError, match="this is no packed store, expected a file that"):
        Store.open(tmp_path / "s.ia3")


@pytest.mark.parametrize("name", ["50 %.ia3", "a?mode=ro.ia3", "b#c.ia3", "%41.ia3", "ü 客.ia3", "x;y&z.ia3"])
def test_a_file_may_have_any_name(name: str, tmp_path: Path) -> None:
    store = small_store(tmp_path / name, "a")
    store.append("b", small(1))
    assert_holds(Store.open(tmp_path / name), {"a": small(0), "b": small(1)})
    store.close()
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_new_store_takes_no_name_that_is_taken_and_makes_its_folder(tmp_path: Path) -> None:
    store = small_store(tmp_path / "deep" / "er" / "s.ia3", "a")
    with pytest.raises(AdapterError, match=r"Packing .*s\.ia3: it is there already\. Add to it with"):
        small_store(store.path, "b")
    assert_holds(Store.open(store.path), {"a": small(0)})
    with pytest.raises(AdapterError, match="adapter 'x': "):
        create_store(
            tmp_path / "new.ia3", PLAN, adapters={"fine": small(1), "x": small(1, (*SITES, whole("q", "output", 2)))}
        )
    assert not [p.name for p in tmp_path.iterdir() if "new.ia3" in p.name]


def test_a_row_is_read_without_its_neighbours(tmp_path: Path) -> None:
    """A damaged neighbour, head or record is no matter for a row."""
    path = tmp_path / "s.ia3"
    small_store(path, "a", "b", "c").close()
    for name, part in (("a", "numbers"), ("c", "numbers"), ("b", "text"), ("b", "tensors")):
        damage(path, name, part)
    damaged = Store.open(path)
    assert damaged.vector("b").equal(_row(small(1)))
    with pytest.raises(AdapterError, match=r"Reading adapter 'c' from .*: its row is damaged, the checksum differs"):
        damaged.rows(["b", "c"])


def test_a_link_to_a_store_stays_one(tmp_path: Path) -> None:
    store = small_store(tmp_path / "deep" / "s.ia3", "a", "b")
    link = tmp_path / "link[1].ia3"
    link.symlink_to(store.path)
    linked = Store.open(link)
    linked.remove("a")
    linked.compact()
    assert link.is_symlink() and Store.open(store.path).names == ("b",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "link[1].ia3"]


def test_a_store_of_no_adapters_and_of_no_numbers_is_one_too(tmp_path: Path) -> None:
    assert create_store(tmp_path / "s.ia3", PLAN).names == ()
    empty = create_store(tmp_path / "e.ia3", Plan((), "toy", "targets"), adapters={"a": Adapter((), {})})
    assert empty.vector("a").shape == (0,) and empty.adapter("a").vectors == {}
    assert Store.open(empty.path).verify() == ()


def test_a_closed_store_gives_its_file_back(tmp_path: Path) -> None:
    with small_store(tmp_path / "s.ia3", "a") as store:
        assert "a" in store and len(store) == 1
    with pytest.raises(AdapterError, match=r"Reading adapter 'a' from .*: it is closed\. Open it again\."):
        store.vector("a")


def test_interleaved_channels_are_laid_out(tmp_path: Path) -> None:
    site = Site("a.qkv", "output", "key", Channels(2, 6, 2, 2), 12)
    adapter = Adapter((site,), {site.name: spread(4)}, config=AdapterConfig(target_modules=("qkv",)))
    store = create_store(tmp_path / "s.ia3", Plan((site,), "toy", "family"), adapters={"a": adapter})
    assert Store.open(store.path).plan.sites == (site,)
    assert_same(store.adapter("a"), adapter)


def test_a_folder_of_another_format_is_read_by_shapes_and_packed(tmp_path: Path) -> None:
    _, adapter = adapter_for("gpt2")
    save_adapter(adapter, tmp_path / "f")
    (tmp_path / "f" / "ia3.json").unlink()
    theirs = load_adapter(tmp_path / "f", make_model("gpt2"))
    store = create_store(
        tmp_path / "s.ia3", find_plan(make_model("gpt2")), adapters={"ours": adapter, "theirs": theirs}
    )
    assert_same(store.adapter("theirs"), theirs)
    assert store.vector("theirs").equal(store.vector("ours"))
    save_adapter(store.adapter("theirs"), tmp_path / "g")
    assert_same(load_adapter(tmp_path / "g"), theirs)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "f" / name).read_bytes() == (tmp_path / "g" / name).read_bytes()
