"""The hub: only what is read is fetched, and what is not there is one sentence with what to do."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants, errors

from ia3.bases import hub
from ia3.bases.loading import load_base, load_config
from ia3.bases.locating import locate
from ia3.errors import BaseError
from tests.models import save_tiny_base

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def _put_into(hub_cache: Path, hub_id: str, kind: str) -> Path:
    """Lay out a model as the hub's client does, and return its folder."""
    repository = hub_cache / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return save_tiny_base(repository / "snapshots" / COMMIT, kind)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Make the hub's client answer with what a function returns or raises."""

    def answer(download: Callable[..., Any]) -> None:
        monkeypatch.setattr(hub, "can_ask_hub", lambda: True)
        monkeypatch.setattr("ia3.bases.locating.can_ask_hub", lambda: True)
        monkeypatch.setattr(hub, "hf_hub_download", download)

    return answer


def test_a_model_in_the_hubs_cache_loads_without_a_hub(hub_cache: Path) -> None:
    folder = _put_into(hub_cache, "example/tiny", "causal")
    base = load_base("example/tiny")
    assert base.name == base.model.config.name_or_path == base.model.name_or_path == "example/tiny"
    assert Path(base.folder) == folder
    assert load_config("example/tiny").model_type == "gemma3_text"


def test_an_id_without_an_owner_loads_from_the_hubs_cache_too(hub_cache: Path) -> None:
    _put_into(hub_cache, "gpt0", "causal")
    assert load_base("gpt0").name == "gpt0"


def test_a_model_half_in_the_cache_is_told_by_what_is_missing(hub_cache: Path) -> None:
    (_put_into(hub_cache, "example/tiny", "causal") / "model.safetensors").unlink()
    with pytest.raises(BaseError, match=r"'example/tiny': .* has no weights"):
        load_base("example/tiny")


def test_without_a_hub_the_sentence_says_what_to_do() -> None:
    with pytest.raises(BaseError) as caught:
        load_base("google/mt5-small")
    assert str(caught.value) == (
        "Loading base 'google/mt5-small': it is neither a local path nor in the hub's cache, and HF_HUB_OFFLINE is "
        "set; unset HF_HUB_OFFLINE, or run 'hf download google/mt5-small --local-dir DIR' on a connected machine and "
        "give DIR; the named bases 'minilm', 'gemma-3-270m', 'smollm2-135m-instruct' need no hub."
    )


def test_without_a_network_the_sentence_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.urllib.request, "getproxies", dict)
    monkeypatch.setattr(hub.socket, "getaddrinfo", no_network)
    message = (
        r"and https://huggingface.co cannot be reached; run 'hf download google/gemma-3-270m .*; the named base 'gem"
    )
    with pytest.raises(BaseError, match=message):
        load_base("google/gemma-3-270m")


def test_a_proxy_does_the_looking_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.urllib.request, "getproxies", lambda: {"https": "http://proxy"})
    monkeypatch.setattr(hub.socket, "getaddrinfo", lambda *args: pytest.fail("looked up"))
    assert hub.can_ask_hub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub.can_ask_hub()


def test_something_that_is_no_hub_id_is_told_so() -> None:
    with pytest.raises(
        BaseError, match=r"'a/b/c': it is no local path, and not a hub id either, expected 'owner/name'"
    ):
        load_base("a/b/c")


def test_the_hubs_refusals_are_one_sentence_each(online: Callable[[Callable[..., Any]], None]) -> None:
    response = SimpleNamespace(headers={}, request=None, status_code=404, url="", text="", json=dict)
    for error, message in (
        (
            errors.GatedRepoError("gated", response=response),
            r"only to those who accepted its terms\. Accept them on http",
        ),
        (
            errors.RepositoryNotFoundError("404", response=response),
            r"the hub has no such model, or only for those who log",
        ),
        (errors.LocalEntryNotFoundError("gone"), r"it is neither a local path nor in the hub's cache"),
        (
            errors.EntryNotFoundError("no config"),
            r"the hub's model has no config\.json; it is not a transformers model",
        ),
        (OSError("broken\n pipe"), r"the hub answered with an error: broken pipe\. Try again, or fetch it by hand"),
    ):
        online(lambda *args, error=error, **kwargs: (_ for _ in ()).throw(error))
        with pytest.raises(BaseError, match=rf"^Loading base 'example/tiny': .*{message}"):
            load_base("example/tiny")


def test_a_slip_of_the_pen_shows_near_matches_after_the_hub_was_asked(
    online: Callable[[Callable[..., Any]], None],
) -> None:
    error = errors.LocalEntryNotFoundError("gone")
    online(lambda *args, **kwargs: (_ for _ in ()).throw(error))
    with pytest.raises(BaseError, match=r"nor does the hub have such a model\. Did you mean 'gemma-3-270m'\?"):
        load_base("gemma-3-27m")


def test_only_the_files_that_are_read_are_fetched(
    hub_cache: Path, online: Callable[[Callable[..., Any]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _put_into(hub_cache, "example/tiny", "causal")
    files = sorted(p.name for p in folder.iterdir())
    fetched: list[str] = []

    def fetch(hub_id: str, *, revision: str, allow_patterns: list[str]) -> str:
        assert (hub_id, revision) == ("example/tiny", COMMIT)
        fetched.extend(allow_patterns)
        return str(folder)

    online(lambda *args, **kwargs: str(folder / "config.json"))
    listed = [*files, "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "README.md", ".gitattributes"]
    monkeypatch.setattr(hub, "HfApi", lambda: SimpleNamespace(list_repo_files=lambda *args, **kwargs: listed))
    monkeypatch.setattr(hub, "snapshot_download", fetch)
    said: list[str] = []
    assert locate("example/tiny", said.append).folder == folder
    assert fetched == files
    assert said == []
    (folder / "model.safetensors").unlink()
    locate("example/tiny", said.append)
    assert said == ["fetching example/tiny from the hub"]


def test_weights_in_pytorchs_own_format_are_fetched_where_there_are_no_others() -> None:
    assert hub.wanted_files(["pytorch_model.bin", "config.json", "training_args.bin", "spiece.model", "vocab.txt"]) == [
        "config.json",
        "pytorch_model.bin",
        "spiece.model",
        "vocab.txt",
    ]


def test_what_a_sentence_encoder_was_trained_for_is_fetched_as_well() -> None:
    others = ["2_Dense/model.safetensors", "onnx/config.json"]
    assert hub.wanted_files(["1_Pooling/config.json", "config.json", "model.safetensors", "modules.json", *others]) == [
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "modules.json",
    ]


def test_the_hub_id_of_an_installed_copy_needs_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ia3.bases.locating.is_installed", lambda base: True)
    monkeypatch.setattr("ia3.bases.locating.verified_files", lambda base: (tmp_path / "model.safetensors",))
    assert locate("sentence-transformers/all-MiniLM-L6-v2").folder == tmp_path
    monkeypatch.setattr("ia3.bases.locating.is_installed", lambda base: False)
    with pytest.raises(BaseError, match="the named base 'minilm' has weights of this model and needs no hub"):
        locate("sentence-transformers/all-MiniLM-L6-v2")
