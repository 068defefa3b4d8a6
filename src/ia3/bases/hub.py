"""A hub id as a base: its files in the hub's own cache, fetched if the hub can be reached.

What is not there ends in one sentence that says what to do. It knows nothing of models.
"""

from __future__ import annotations

import logging
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ia3.bases.cache import Say
from ia3.bases.named import find_by_hub_id, named_base_names
from ia3.bases.revisions import CachedRepository, at_revision
from ia3.errors import BaseError
from ia3.names import MODEL_FILE
from ia3.spelling import one_line

_TEXT_FILES = (".json", ".txt", ".model", ".spm", ".jinja")


def fetch_config(hub_id: str, revision: str | None = None) -> Path:
    """Return the folder in the hub's cache that holds a model's config, fetched if it is not there.

    Args:
        hub_id: The model.
        revision: A branch, a tag, a pull request or a commit; left out, main.

    Raises:
        BaseError: If there is no such model or revision, or the hub is needed and cannot be asked.
    """
    with _patient(), _explained(hub_id, revision):
        is_local = not can_ask_hub()
        return Path(hf_hub_download(hub_id, MODEL_FILE, revision=revision, local_files_only=is_local)).parent


def fetch_model(hub_id: str, say: Say, revision: str | None = None) -> Path:
    """Return the folder in the hub's cache that holds a model, its tokenizer and config, fetched if not there.

    Only the files that are read are fetched: of several formats the safetensors, and no sub-folders but the pooling's.

    Raises:
        BaseError: As for `fetch_config`.
    """
    folder = fetch_config(hub_id, revision)
    if not can_ask_hub():
        return folder
    with _patient(), _explained(hub_id, revision):
        wanted = wanted_files(HfApi().list_repo_files(hub_id, revision=folder.name))
        if any(not (folder / file).exists() for file in wanted):
            say(f"fetching {at_revision(hub_id, revision)} from the hub")
        return Path(snapshot_download(hub_id, revision=folder.name, allow_patterns=wanted))


def wanted_files(files: Sequence[str]) -> list[str]:
    """Return which of a hub model's files are read: config, tokenizer, and the weights in one format."""
    top = [file for file in files if "/" not in file]
    safe = [file for file in top if file.startswith("model") and file.endswith(".safetensors")]
    weights = safe or [file for file in top if file.startswith("pytorch_model") and file.endswith(".bin")]
    pooling = [file for file in files if file.endswith("_Pooling/config.json")]  # what a sentence encoder is made for
    return sorted({*weights, *pooling, *(file for file in top if file.endswith(_TEXT_FILES))})


def can_ask_hub() -> bool:
    """Return whether the hub may be asked and its name can be looked up.

    Without a name server huggingface_hub tries five times, for 23 s [run, 2.4]; the look-up fails at once.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    if urllib.request.getproxies():  # the proxy does the looking up
        return True
    host = urllib.parse.urlsplit(constants.ENDPOINT).hostname or ""
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


@contextmanager
def _patient() -> Iterator[None]:
    """Keep the hub client's notes about retries off the terminal."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _explained(hub_id: str, revision: str | None) -> Iterator[None]:
    """Turn the hub client's errors into one sentence each; the order goes from the special to the general."""
    name = at_revision(hub_id, revision)
    by_hand = f"hf download {hub_id}{'' if revision is None else f' --revision {revision}'} --local-dir DIR"
    try:
        yield
    except HFValidationError as error:
        raise BaseError(
            f"Loading base {name!r}: it is no local path, and not a hub id either, expected 'owner/name'."
        ) from error
    except GatedRepoError as error:
        raise BaseError(
            f"Loading base {name!r}: the hub gives it only to those who accepted its terms. Accept them on "
            f"{constants.ENDPOINT}/{hub_id} and run 'hf auth login'{_or_named(hub_id)}."
        ) from error
    except RevisionNotFoundError as error:
        raise BaseError(
            f"Loading base {name!r}: the hub has the model without a revision {revision!r}, expected a branch, a tag "
            f"or a commit of {constants.ENDPOINT}/{hub_id}/commits/main."
        ) from error
    except RepositoryNotFoundError as error:
        raise BaseError(
            f"Loading base {name!r}: there is no such local path, and the hub has no such model, or only for those "
            f"who log in ('hf auth login')."
        ) from error
    except LocalEntryNotFoundError as error:
        raise BaseError(no_hub_sentence(hub_id, revision, by_hand)) from error
    except EntryNotFoundError as error:
        raise BaseError(
            f"Loading base {name!r}: the hub's model has no config.json; it is not a transformers model (an adapter "
            f"or a GGUF file, perhaps)."
        ) from error
    except Exception as error:  # of whichever HTTP library this release of the client uses
        raise BaseError(
            f"Loading base {name!r}: the hub answered with an error: {one_line(error, 200)}. Try "
            f"again, or fetch it by hand: {by_hand}, and give DIR."
        ) from error


def no_hub_sentence(hub_id: str, revision: str | None, by_hand: str) -> str:
    """Return what to do about a model that is not on this machine while the hub cannot be asked."""
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} cannot be reached"
    unset = "unset HF_HUB_OFFLINE, or " if constants.HF_HUB_OFFLINE else ""
    named = ", ".join(repr(name) for name in named_base_names())
    others = _or_named(hub_id) or f"; the named bases {named} need no hub"
    doing = f"Loading base {at_revision(hub_id, revision)!r}"
    if there := CachedRepository.read(hub_id).others(revision):
        return f"{doing}: {reason}, and {there}; or {unset}run '{by_hand}' on a connected machine and give DIR."
    return (
        f"{doing}: it is neither a local path nor in the hub's cache, and {reason}; {unset}run "
        f"'{by_hand}' on a connected machine and give DIR{others}."
    )


def _or_named(hub_id: str) -> str:
    """Return the clause that offers the named base with this hub id, if there is one."""
    named = find_by_hub_id(hub_id)
    return f"; the named base {named.name!r} has weights of this model and needs no hub" if named else ""
