"""Where an adapter is: a folder on this machine, an id on the hub, or a name in a packed store (`STORE:NAME`).

On the hub it is `owner/name`, or `owner/name/folder` for one that lies deeper, with its revision behind it if need be:
`owner/name@revision`.

Everything that is wrong with a path ends in one sentence that says what is there instead. This file reads names and
opens nothing.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

from ia3.bases.hub import can_ask_hub
from ia3.bases.revisions import CachedRepository, agreed_revision, at_revision, split_revision
from ia3.errors import AdapterError, near_matches
from ia3.files import halves_of
from ia3.names import CARD_FILE, CONFIG_FILE, PICKLED_FILE, RECORD_FILE, WEIGHTS_FILE
from ia3.spelling import first_line, first_of

_HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/[\w.-]+)(?:/(?P<folder>[^@]+))?")
_TOKENIZER = ["tokenizer*", "*token*.json", "vocab.*", "merges.txt", "spiece.model", "*.jinja"]
_WANTED = [CONFIG_FILE, "adapter_model.*", RECORD_FILE, CARD_FILE, *_TOKENIZER]
_SHOWN = 5
# With one of these and no adapter_config.json the folder is a half adapter.
_PARTS = (WEIGHTS_FILE, PICKLED_FILE, RECORD_FILE)
_FILES = (CONFIG_FILE, *_PARTS)


def find_stored(address: str | Path) -> tuple[Path, str | None] | None:
    """Return the packed store that an address means and the adapter's name in it, or None if it means a folder.

    Args:
        address: `STORE:NAME`, where STORE is a file; or the file alone, which names no adapter.

    Raises:
        AdapterError: If there is a colon, and no such file nor folder; near matches are named.
    """
    text = str(address)
    if Path(text).is_file() and Path(text).name not in _FILES:
        return Path(text), None
    colons = [match.start() for match in re.finditer(":", text) if not _is_of_drive(text, match.start())]
    for place in colons:
        if Path(text[:place]).is_file():
            return Path(text[:place]), text[place + 1 :]
    if not colons or Path(text).exists():
        return None
    store = Path(text[: colons[0]])
    beside = [entry.name for entry in store.parent.iterdir() if entry.is_file()] if store.parent.is_dir() else []
    raise AdapterError(
        f"Loading adapter from {text}: there is no such folder, and no packed store {str(store)!r}."
        f"{near_matches(store.name, beside)} An adapter in a store is addressed as STORE:NAME."
    )


def name_of(address: str | Path) -> str:
    """Return what an adapter is called if nobody says: its name in a store, or that of its folder."""
    stored = find_stored(address)
    return stored[1] if stored and stored[1] else Path(split_revision(str(address))[0]).resolve().name


def _is_of_drive(text: str, place: int) -> bool:
    """Whether a colon stands behind the letter of a drive."""
    return place == 1 and text[2:3] in ("\\", "/")


def find_folder(name: str | Path, *, revision: str | None = None, subfolder: str | None = None) -> Path:
    """Return the folder of an adapter; one on the hub is fetched first.

    Args:
        name: A folder, or an id on the hub if no such folder or parent folder is there.
        revision: Of an id on the hub, where it is not spelled in the name.
        subfolder: Folder inside of it.

    Raises:
        AdapterError: If there is nothing, or something else; near matches are named. A folder that holds a half adapter
            is returned, its reader says what is missing. If a revision is asked for of a folder here.
    """
    doing = f"Loading adapter from {name}"
    bare, wanted = agreed_revision(str(name), revision, doing, AdapterError)
    path = Path(bare) if subfolder is None else Path(bare) / subfolder
    if wanted is not None and (Path(bare).exists() or find_stored(bare) is not None):
        raise AdapterError(
            f"{doing}: {bare!r} lies on this machine and has no revision {wanted!r}; an id on the hub has. Leave the "
            "revision out. That of the base stands behind the base: base='NAME@REVISION' (--base)."
        )
    if path.is_dir():
        if halves_of(path, _FILES) or any((path / name).exists() for name in _FILES):
            return path
        raise AdapterError(f"Loading adapter from {path}: {_what_is_there(path)}")
    if path.exists():
        raise AdapterError(f"Loading adapter from {path}: this is a file, expected a folder. Give {path.parent}.")
    on_hub = _HUB_ID.fullmatch(path.as_posix())
    if on_hub is not None and not isinstance(name, Path) and not Path(path.parts[0]).is_dir():
        return _fetch(on_hub["repository"], on_hub["folder"], wanted)
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    raise AdapterError(
        f"Loading adapter from {path}: there is no such folder.{near_matches(path.name, siblings)} Give a folder with "
        f"an {CONFIG_FILE}."
    )


def _what_is_there(path: Path) -> str:
    entries = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    inside = [name for name in entries if (path / name / CONFIG_FILE).exists()]
    found = f"it has no {CONFIG_FILE}, got {first_of(entries, 8) or 'an empty folder'}."
    if inside:
        return f"{found} Adapters lie in {' and '.join(str(path / name) for name in inside[:5])}."
    return f"{found} Give the folder that an adapter was saved to."


def _fetch(repository: str, folder: str | None, revision: str | None) -> Path:
    """Return the folder of an adapter in the hub's cache, fetched if it is not there."""
    name = at_revision(repository if folder is None else f"{repository}/{folder}", revision)
    doing = f"Loading adapter {name!r}"
    cache = CachedRepository.read(repository)
    if revision is not None:
        revision = cache.full(revision, doing, AdapterError)
    try:
        path = _download(repository, revision, _WANTED if folder is None else [f"{folder}/{file}" for file in _WANTED])
    except RevisionNotFoundError as error:
        raise AdapterError(
            f"{doing}: the hub has {repository} without a revision {revision!r}, expected a branch, a tag or a commit."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        told = cache.others(revision) or first_line(error)
        raise AdapterError(
            f"{doing}: there is no such folder here, and the hub cannot give it ({told}). Check the name and the "
            "network, or give a folder."
        ) from error
    found = path if folder is None else path / folder
    if not (found / CONFIG_FILE).exists():
        raise AdapterError(f"{doing}: {_what_the_hub_has(path, repository, folder, revision)}")
    return found


def _download(repository: str, revision: str | None, patterns: list[str]) -> Path:
    is_local = not can_ask_hub()
    return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=is_local))


def _what_the_hub_has(path: Path, repository: str, folder: str | None, revision: str | None) -> str:
    """Return a sentence that there is no adapter where it was looked for, and where in the repository adapters are."""
    with suppress(HfHubHTTPError, OSError):
        _download(repository, revision, [f"*/{CONFIG_FILE}"])
    inside = sorted(file.parent.relative_to(path).as_posix() for file in path.rglob(CONFIG_FILE))
    where = "" if folder is None else f" in {folder!r}"
    if not inside:
        return f"the hub has it without an {CONFIG_FILE}{where}; it is no adapter."
    ids = [repository if one == "." else f"{repository}/{one}" for one in inside[:_SHOWN]]
    shown = " and ".join(at_revision(one, revision) for one in ids)
    return f"the hub has no {CONFIG_FILE}{where or ' at its top'}. Adapters there: {shown}."
