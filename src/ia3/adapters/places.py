"""Where an adapter is: a folder on this machine, an id on the hub, or a name in a packed store (`STORE:NAME`).

Everything that is wrong with a path ends in one sentence that says what is there instead. This file reads names and
opens nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from ia3.adapters.atomic import has_leftovers
from ia3.adapters.config import CONFIG_FILE
from ia3.errors import AdapterError, near_matches

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = ["adapter_config.json", "adapter_model.*", "ia3.json", "README.md"]
# With one of these and no adapter_config.json the folder is a half adapter.
_PARTS = ("adapter_model.safetensors", "adapter_model.bin", "ia3.json")


def find_stored(address: str | Path) -> tuple[Path, str | None] | None:
    """Return the packed store that an address means and the adapter's name in it, or None if it means a folder.

    Args:
        address: `STORE:NAME`, where STORE is a file; or the file alone, which names no adapter.

    Raises:
        AdapterError: If there is a colon, and no such file nor folder; near matches are named.
    """
    text = str(address)
    if Path(text).is_file() and Path(text).name not in (CONFIG_FILE, *_PARTS):
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
    return stored[1] if stored and stored[1] else Path(address).resolve().name


def _is_of_drive(text: str, place: int) -> bool:
    """Whether a colon stands behind the letter of a drive."""
    return place == 1 and text[2:3] in ("\\", "/")


def find_folder(name: str | Path) -> Path:
    """Return the folder of an adapter; one on the hub is fetched first.

    Args:
        name: A folder, or `owner/name` on the hub if no such folder or parent folder is there.

    Raises:
        AdapterError: If there is nothing, or something else; near matches are named. A folder that holds a half adapter
            is returned, its reader says what is missing.
    """
    path = Path(name)
    if path.is_dir():
        if has_leftovers(path) or any((path / part).exists() for part in (CONFIG_FILE, *_PARTS)):
            return path
        raise AdapterError(f"Loading adapter from {path}: {_what_is_there(path)}")
    if path.exists():
        raise AdapterError(f"Loading adapter from {path}: this is a file, expected a folder. Give {path.parent}.")
    if isinstance(name, str) and _HUB_ID.fullmatch(name) and not path.parent.is_dir():
        return _fetch(name)
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    raise AdapterError(
        f"Loading adapter from {path}: there is no such folder.{near_matches(path.name, siblings)} Give a folder with "
        f"an {CONFIG_FILE}."
    )


def _what_is_there(path: Path) -> str:
    entries = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    inside = [name for name in entries if (path / name / CONFIG_FILE).exists()]
    shown = ", ".join(entries[:8]) + (", …" if len(entries) > 8 else "")
    found = f"it has no {CONFIG_FILE}, got {shown or 'an empty folder'}."
    if inside:
        return f"{found} Adapters lie in {' and '.join(str(path / name) for name in inside[:5])}."
    return f"{found} Give the folder that an adapter was saved to."


def _fetch(name: str) -> Path:
    try:
        path = Path(snapshot_download(name, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        told = str(error).strip().partition("\n")[0].rstrip(".")
        raise AdapterError(
            f"Loading adapter {name!r}: there is no such folder here, and the hub cannot give it ({told}). Check the "
            "name and the network, or give a folder."
        ) from error
    if not (path / CONFIG_FILE).exists():
        raise AdapterError(f"Loading adapter {name!r}: the hub has it without an {CONFIG_FILE}; it is no adapter.")
    return path
