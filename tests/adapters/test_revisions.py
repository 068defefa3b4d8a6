"""Adapters at a revision, and of a base at one: loaded, recorded, packed and written back as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ia3.adapters import places
from ia3.adapters.arithmetic import average
from ia3.adapters.attached import adapter_of, attach, load
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.adapters.places import find_folder, name_of
from ia3.adapters.store import Store, create_store
from ia3.adapters.stored import attach_store
from ia3.bases.loading import load_base
from ia3.errors import AdapterError
from ia3.inference.loading import load_predictor
from tests.hub_cache import NEW, OLD, HubCache, two_commits

ID, ADAPTERS = "owner/tiny", "owner/adapters"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """A base at two commits, and adapters of the older one: `one` at the top of v1, `two` in a folder of main."""
    cache = two_commits(ID, "causal", tmp_path, monkeypatch)
    for number, name in enumerate(("one", "two"), start=1):
        make(tmp_path / name, number)
    cache.put(ADAPTERS, OLD, tmp_path / "one", refs=("v1",))
    cache.put(ADAPTERS, NEW, tmp_path / "two", refs=("main",), folder="deep/two")
    return cache


def make(folder: Path, number: float, revision: str = "v1") -> Path:
    """Write an adapter of the older base whose vectors are all one number, and return its folder."""
    base = load_base(f"{ID}@{revision}")
    attachment = attach(base.model)
    adapter = adapter_of(attachment, "default")
    vectors = {name: torch.full_like(vector, number) for name, vector in adapter.vectors.items()}
    return save_adapter(replace(adapter, vectors=vectors), folder)


def as_peft(folder: Path) -> Path:
    """Take the record away, which has the base's fingerprint; what is left is as PEFT writes it."""
    (folder / "ia3.json").unlink()
    return folder


def number_of(adapter: Any) -> float:
    return float(next(iter(adapter.vectors.values()))[0])


@pytest.mark.usefixtures("cache")
def test_the_revision_of_the_base_stands_in_both_files_and_is_what_is_loaded() -> None:
    adapter = load_adapter("one")
    assert adapter.base_name == f"{ID}@v1"
    assert (adapter.config.base_model_name_or_path, adapter.config.revision) == (ID, "v1")
    assert (adapter.record["base"]["name"], adapter.record["base"]["revision"]) == (ID, "v1")
    assert load_predictor("one").base.revision == "v1"


@pytest.mark.usefixtures("cache")
def test_the_revision_in_a_folder_of_pefts_is_what_is_loaded(tmp_path: Path) -> None:
    """The field was read and passed over: the adapter ran on whatever main was."""
    predictor = load_predictor(as_peft(tmp_path / "one"))
    assert Path(predictor.base.folder).name == OLD
    assert load_adapter("one").base_name == f"{ID}@v1"


@pytest.mark.usefixtures("cache")
def test_an_adapter_of_one_revision_is_refused_on_another_and_both_are_named(tmp_path: Path) -> None:
    message = r"it was trained on base 'owner/tiny@v1' \(fingerprint \w+\), this model is 'owner/tiny' \(fingerprint"
    with pytest.raises(AdapterError, match=message):
        load_predictor("one", base=ID)
    as_peft(tmp_path / "one")  # no fingerprint; the revisions are all that tells them apart
    message = r"it was trained on base 'owner/tiny@v1', this model is 'owner/tiny'\. Load it on that base"
    for base in (ID, load_base(ID)):
        with pytest.raises(AdapterError, match=message):
            load_predictor("one", base=base)
    assert load_predictor("one", base=f"{ID}@same").base.revision == "same"  # another name of the same commit
    assert load_predictor("one", base="new").base.name == "new"  # a copy elsewhere is the user's word


@pytest.mark.usefixtures("cache")
def test_an_adapter_on_the_hub_is_taken_at_its_revision_and_from_its_folder() -> None:
    assert number_of(load_adapter(f"{ADAPTERS}@v1")) == 1.0
    assert number_of(load_adapter(ADAPTERS, revision=OLD[:7])) == 1.0
    assert number_of(load_adapter(f"{ADAPTERS}/deep/two")) == 2.0
    assert find_folder(ADAPTERS, revision="main", subfolder="deep/two").parts[-3:] == (NEW, "deep", "two")
    assert load_predictor(ADAPTERS, revision="v1").attachment.bank.names == ("adapters",)


@pytest.mark.usefixtures("cache")
def test_the_name_of_an_adapter_has_no_revision_in_it() -> None:
    assert name_of(f"{ADAPTERS}@refs/pr/1") == "adapters" and name_of(f"{ADAPTERS}/deep/two@v1") == "two"
    assert load(load_base(f"{ID}@v1").model, f"{ADAPTERS}@v1").bank.names == ("adapters",)


@pytest.mark.usefixtures("cache")
def test_where_no_adapter_is_it_says_where_there_are_some() -> None:
    with pytest.raises(AdapterError, match=r"no adapter_config\.json at its top\. Adapters there: .*/deep/two@main\."):
        load_adapter(f"{ADAPTERS}@main")
    with pytest.raises(AdapterError, match=r"'owner/adapters/two': the hub has no adapter_config\.json in 'two'\. Ada"):
        load_adapter(f"{ADAPTERS}/two")
    with pytest.raises(
        AdapterError, match=r"cache has owner/adapters at the revisions 'main', 'v1' \('v9' is not there"
    ):
        load_adapter(f"{ADAPTERS}@v9")


@pytest.mark.usefixtures("cache")
def test_a_folder_here_and_a_packed_store_have_no_revisions(tmp_path: Path) -> None:
    pack(tmp_path / "s.ia3", "one")
    for name, revision in (("one@v1", None), ("one", "v1"), (tmp_path / "one", "v1"), ("s.ia3:one", "v1")):
        with pytest.raises(AdapterError, match=r"lies on this machine and has no revision 'v1'"):
            load_adapter(name, revision=revision)
    with pytest.raises(AdapterError, match=r"it names revision 'v1', and revision='main' is given"):
        load_adapter(f"{ADAPTERS}@v1", revision="main")
    save_adapter(load_adapter("one"), tmp_path / "kept@home")
    assert number_of(load_adapter("kept@home")) == 1.0 and name_of("kept@home") == "kept@home"


def test_the_hub_is_asked_for_the_revision_and_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def download(name: str, **more: Any) -> str:
        asked.append({"name": name, **more})
        return str(tmp_path)

    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text("{}")
    monkeypatch.setattr(places, "snapshot_download", download)
    monkeypatch.setattr(places, "can_ask_hub", lambda: True)
    assert find_folder("owner/far@refs/pr/3", subfolder="a") == tmp_path / "a"
    assert (asked[0]["name"], asked[0]["revision"], asked[0]["local_files_only"]) == ("owner/far", "refs/pr/3", False)
    assert "a/adapter_config.json" in asked[0]["allow_patterns"]


def pack(path: Path, *folders: str) -> Store:
    first = load_adapter(folders[0])
    plan = load(load_base(str(first.base_name)).model, folders[0]).bank.plan
    return create_store(path, plan, base=None, adapters={name: load_adapter(name) for name in folders})


@pytest.mark.usefixtures("cache")
def test_a_packed_adapter_keeps_the_revision_of_its_base(tmp_path: Path) -> None:
    with pack(tmp_path / "s.ia3", "one", "two") as store:
        assert store.base["revision"] == "v1" and store.adapter("two").config.revision == "v1"
    assert load_predictor("s.ia3:two").base.revision == "v1"


@pytest.mark.usefixtures("cache")
def test_a_store_of_pefts_adapters_holds_one_revision_and_knows_it(tmp_path: Path) -> None:
    make(tmp_path / "other", 3.0, "main")
    for name in ("one", "other"):
        as_peft(tmp_path / name)
    with pack(tmp_path / "s.ia3", "one") as store:
        assert load_predictor("s.ia3:one").base.revision == "v1"
        with pytest.raises(
            AdapterError, match=r"base 'owner/tiny@main' \(fingerprint not known\), the store .*tiny@v1'"
        ):
            store.append("other", load_adapter("other"))
        with pytest.raises(
            AdapterError, match=r"holds adapters of base 'owner/tiny@v1' .*, this model is 'owner/tiny' "
        ):
            attach_store(load_base(ID).model, store)


@pytest.mark.usefixtures("cache")
def test_arithmetic_keeps_the_revision_and_does_not_mix_two(tmp_path: Path) -> None:
    made = average({name: load_adapter(name) for name in ("one", "two")})
    assert made.base_name == f"{ID}@v1" and made.config.revision == "v1"
    make(tmp_path / "other", 3.0, "main")
    for name in ("one", "other"):
        as_peft(tmp_path / name)
    with pytest.raises(AdapterError, match=r"'one' on 'owner/tiny@v1', 'other' on 'owner/tiny@main'\. Leave one"):
        average({name: load_adapter(name) for name in ("one", "other")})


@pytest.mark.usefixtures("cache")
def test_the_name_given_to_attach_may_have_its_revision(tmp_path: Path) -> None:
    attach(load_base("old").model, base_name=f"{ID}@v1").model.save_pretrained(tmp_path / "a")
    assert load_adapter("a").config.revision == "v1" and load_adapter("a").base_name == f"{ID}@v1"
