"""Finding a base: from what the user wrote to the folder that holds it.

Looked up in this order: an existing local path, a named base, a hub id. A GGUF file is converted, a hub model fetched.
It reads no weights.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ia3.bases.cache import Say
from ia3.bases.folders import is_base_folder
from ia3.bases.gguf import convert_gguf, find_converted
from ia3.bases.gguf_header import is_gguf
from ia3.bases.hub import can_ask_hub, fetch_config, fetch_model
from ia3.bases.named import NamedBase, find_by_hub_id, find_named_base, is_installed, named_base_names, verified_files
from ia3.errors import BaseError, near_matches


def say_on_stderr(line: str) -> None:
    """Print one line of talk on stderr."""
    print(line, file=sys.stderr, flush=True)


def locate(name_or_path: str | Path, say: Say = say_on_stderr, *, with_weights: bool = True) -> Place:
    """Return the folder that holds a base.

    Args:
        name_or_path: What the user wrote.
        say: Told about conversions and downloads.
        with_weights: Whether the weights are needed too, or the config alone.

    Raises:
        BaseError: If nothing of this name is there.
    """
    given = str(name_or_path)
    path = Path(given).expanduser()
    named = find_named_base(given)
    if path.is_dir() and (named is None or is_base_folder(path)):  # an output folder may be called 'minilm'
        return Place(path, given)
    if path.is_file():
        return _locate_file(path, given, say)
    named = named or _installed_copy(given)
    if named is not None:
        return _locate_named(named, say)
    if isinstance(name_or_path, Path) or given.startswith((".", "~", os.sep)):
        raise BaseError(f"Loading base {given!r}: there is no such file or folder.{_near_folders(path)}")
    try:
        return Place(fetch_model(given, say) if with_weights else fetch_config(given), given)
    except BaseError as error:
        if "/" in given:
            raise
        raise _unknown_name(given) from error  # rather a slip of the pen than one of the hub's old ids (gpt2)


def _locate_file(path: Path, given: str, say: Say) -> Place:
    """Return the folder that a GGUF file is converted into."""
    if not is_gguf(path):
        raise BaseError(
            f"Loading base {given!r}: it is a file but no GGUF file, expected a folder written by save_pretrained or a "
            f"GGUF file."
        )
    return Place(convert_gguf([path], given, say), given)


def _installed_copy(given: str) -> NamedBase | None:
    """Return the installed named base whose weights are this hub id's byte for byte: the hub need not be asked."""
    named = find_by_hub_id(given)
    return named if named is not None and named.is_hub_copy and is_installed(named) else None


def _locate_named(named: NamedBase, say: Say) -> Place:
    """Return the folder of a named base, converted if it is a GGUF file."""
    if not named.is_gguf:
        return Place(verified_files(named)[0].parent, named.hub_id)
    # A folder under this hash came from a file of this hash, so the parts need not be read again, nor be there.
    folder = find_converted(named.sha256) or convert_gguf(verified_files(named), named.name, say)
    return Place(folder, named.hub_id)


def _unknown_name(given: str) -> BaseError:
    folders = [p.name for p in Path().iterdir() if p.is_dir() and is_base_folder(p)]
    also = ", nor does the hub have such a model" if can_ask_hub() else ", and the hub cannot be asked"
    return BaseError(
        f"Loading base {given!r}: no local path, GGUF file, named base or model in the hub's cache has this name{also}."
        f"{near_matches(given, [*named_base_names(), *folders])}"
    )


def _near_folders(path: Path) -> str:
    """Return near matches among what lies beside a path that does not exist."""
    parent = path.parent
    if not parent.is_dir():
        return f" {parent} does not exist either."
    return near_matches(path.name, [p.name for p in parent.iterdir() if is_base_folder(p) or p.suffix == ".gguf"])


@dataclass(frozen=True)
class Place:
    """Where a base lies, and what it is called: the hub id for named bases, else what was written."""

    folder: Path
    name: str
