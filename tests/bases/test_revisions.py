"""A hub id at a revision: what is named is what is loaded and recorded, or an error that says which there are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors

from ia3.bases import hub
from ia3.bases.loading import Base, load_base, load_config
from ia3.bases.locating import locate
from ia3.bases.revisions import CachedRepository, differ, split_revision
from ia3.errors import BaseError
from tests.hub_cache import NEW, OLD, HubCache, offline_cache
from tests.models import save_tiny_base, tiny_gemma3, tiny_tokenizer

ID = "owner/tiny"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """The same model at two commits with other weights, another tokenizer and another end of a text."""
    monkeypatch.chdir(tmp_path)
    cache = offline_cache(tmp_path / "hub", monkeypatch)
    old, new = (save_tiny_base(tmp_path / name, "causal", seed) for name, seed in (("old", 1), ("new", 2)))
    (tokenizer := tiny_tokenizer("causal")).add_tokens(["<old>"])
    tokenizer.save_pretrained(old)
    (model := tiny_gemma3(1)).generation_config.max_new_tokens = 7
    model.save_pretrained(old)
    cache.put(ID, OLD, old, refs=("v1", "refs/pr/1"))
    cache.put(ID, NEW, new, refs=("main",))
    return cache


def is_old(base: Base) -> bool:
    """Whether weights, tokenizer and generation config are all those of the old commit, or all those of the new one."""
    own = base.model.get_input_embeddings().weight
    seeds = [seed for seed in (1, 2) if torch.equal(own, tiny_gemma3(seed).get_input_embeddings().weight)]
    is_first = seeds == [1]
    assert seeds and ("<old>" in base.tokenizer.get_vocab()) == is_first
    assert (base.model.generation_config.max_new_tokens == 7) == is_first
    return is_first


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("revision", ["v1", "refs/pr/1", OLD])
def test_the_revision_named_is_the_one_that_is_loaded_whole(revision: str) -> None:
    base = load_base(f"{ID}@{revision}")
    assert is_old(base)
    assert (base.name, base.revision, base.given) == (ID, revision, f"{ID}@{revision}")
    assert base.model.name_or_path == base.model.config.name_or_path == ID  # what PEFT writes
    assert is_old(load_base(ID, revision=revision)) and is_old(load_base(f"{ID}@{revision}", revision=revision))
    assert not is_old(load_base(ID)) and not is_old(load_base(f"{ID}@main"))


@pytest.mark.usefixtures("cache")
def test_the_first_digits_of_a_commit_are_enough_and_all_are_kept() -> None:
    base = load_base(f"{ID}@{OLD[:7]}")
    assert is_old(base) and base.revision == OLD and base.given == f"{ID}@{OLD}"


def test_digits_of_several_commits_are_an_error(cache: HubCache, tmp_path: Path) -> None:
    twin = OLD[:20] + "c" * 20
    cache.put(ID, twin, tmp_path / "new")
    with pytest.raises(
        BaseError, match=rf"several commits begin with '{OLD[:8]}': {OLD} and {twin}\. Give more digits"
    ):
        load_base(f"{ID}@{OLD[:8]}")
    assert load_base(f"{ID}@{twin[:30]}").revision == twin


@pytest.mark.usefixtures("cache")
def test_two_revisions_at_once_and_an_empty_one_are_errors() -> None:
    with pytest.raises(BaseError, match=r"it names revision 'v1', and revision='main' is given\. Give one of them\."):
        load_base(f"{ID}@v1", revision="main")
    for name, revision in ((f"{ID}@", None), (ID, "")):
        with pytest.raises(BaseError, match=r"the revision is empty, expected a branch, a tag or a commit"):
            load_base(name, revision=revision)


def test_what_was_fetched_at_a_revision_is_found_offline_by_that_revision_alone(
    cache: HubCache, tmp_path: Path
) -> None:
    """Fetched with `--revision v1` the cache has no refs/main; the id alone was told to be nowhere."""
    cache.put("owner/pinned", OLD, tmp_path / "old", refs=("v1",))
    assert is_old(load_base("owner/pinned@v1"))
    with pytest.raises(
        BaseError,
        match=r"'owner/pinned': HF_HUB_OFFLINE is set, and the hub's cache has owner/pinned at revision 'v1' \('main' "
        r"is not there\); name the one you want, as in owner/pinned@v1; or unset",
    ):
        load_base("owner/pinned")
    with pytest.raises(BaseError, match=r"at revision 'v1' .*'hf download owner/pinned --revision v2 --local-dir DIR'"):
        load_config("owner/pinned@v2")


def test_commits_without_a_name_are_shown_by_their_digits(cache: HubCache, tmp_path: Path) -> None:
    cache.put("owner/bare", OLD, tmp_path / "old")
    cache.put("owner/bare", NEW, tmp_path / "new")
    with pytest.raises(BaseError, match=rf"at the revisions '{OLD}', '{NEW}' \('main' is not there\)"):
        load_base("owner/bare")
    assert not is_old(load_base(f"owner/bare@{NEW[:7]}"))


def test_a_name_whose_commit_has_no_files_says_so(cache: HubCache) -> None:
    cache.point(ID, "v2", "c" * 40)
    with pytest.raises(BaseError, match=r"revisions 'main', 'refs/pr/1', 'v1' \('v2' is there without its files\)"):
        load_base(f"{ID}@v2")


@pytest.mark.usefixtures("cache")
def test_what_lies_on_this_machine_has_no_revisions(tmp_path: Path) -> None:
    for name, revision in (("old@v1", None), ("old", "v1"), (tmp_path / "old", "v1")):
        with pytest.raises(BaseError, match=r"is a folder on this machine and has no revision 'v1'; a hub id has"):
            load_base(name, revision=revision)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(BaseError, match=r"'model\.gguf' is a file on this machine and has no revision 'v1'"):
        locate("model.gguf@v1")


@pytest.mark.usefixtures("cache")
def test_a_folder_with_an_at_sign_in_its_name_stays_a_folder(tmp_path: Path) -> None:
    save_tiny_base(tmp_path / "team" / "base@home", "causal")
    base = load_base("team/base@home")
    assert (base.name, base.given, base.revision) == ("team/base@home", "team/base@home", None)
    assert split_revision("team/base@home") == ("team/base@home", None)
    with pytest.raises(BaseError, match=r"has no revision 'v1'"):
        load_base("team/base@home", revision="v1")
    with pytest.raises(BaseError, match=r"'\./old@v1': there is no such file or folder"):
        load_base("./old@v1")


@pytest.mark.usefixtures("cache")
def test_a_named_base_has_no_revisions_and_the_hubs_model_has() -> None:
    with pytest.raises(BaseError, match=r"no revision 'v1'\. .* give the hub's: sentence-transformers/all-Mini.*@v1\."):
        load_base("minilm@v1")
    with pytest.raises(BaseError, match=r"'sentence-transformers/all-MiniLM-L6-v2@v1': it is neither a local path nor"):
        load_base("sentence-transformers/all-MiniLM-L6-v2@v1")  # not the package, whose revision is not known


@pytest.mark.usefixtures("cache")
def test_main_of_a_copied_base_is_the_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ia3.bases.locating.is_installed", lambda base: True)
    monkeypatch.setattr("ia3.bases.locating.verified_files", lambda base: (tmp_path / "model.safetensors",))
    assert locate("sentence-transformers/all-MiniLM-L6-v2@main").folder == tmp_path


@pytest.mark.usefixtures("cache")
def test_a_revision_that_the_hub_does_not_have_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    response = SimpleNamespace(headers={}, request=None, status_code=404, url="", text="", json=dict)
    asked = []

    def download(hub_id: str, file: str, **more: object) -> str:
        asked.append((hub_id, more["revision"]))
        raise errors.RevisionNotFoundError("404", response=response)

    monkeypatch.setattr(hub, "can_ask_hub", lambda: True)
    monkeypatch.setattr(hub, "hf_hub_download", download)
    with pytest.raises(
        BaseError, match=r"'owner/tiny@v7': the hub has the model without a revision 'v7', expected a br"
    ):
        load_base(f"{ID}@v7")
    assert asked == [(ID, "v7")]


def test_two_names_of_one_commit_are_one_revision(cache: HubCache) -> None:
    def of(revision: str | None, name: str = ID) -> dict[str, str | None]:
        return {"name": name, "revision": revision}

    assert differ(of("v1"), of("main"))
    assert not differ(of("v1"), of("refs/pr/1")) and not differ(of("v1"), of(OLD[:9]))
    assert not differ(of("v1"), of(None)) and not differ(of("v1"), of("main", "other/name"))
    assert CachedRepository.read("owner/nowhere").commits == ()
