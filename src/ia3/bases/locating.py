"""Finding a base: from what the user wrote to the folder that holds it.

Looked up in this order: an existing local path, a named base, a hub id. A GGUF file is converted, a hub model fetched.
It reads no weights.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ia3.bases.cache import Say
from ia3.bases.folders import is_base_folder
from ia3.bases.gguf import convert_gguf, find_converted
from ia3.bases.gguf_header import is_gguf
from ia3.bases.hub import can_ask_hub, fetch_config, fetch_model
from ia3.bases.named import NamedBase, find_by_hub_id, find_named_base, is_installed, named_base_names, verified_files
from ia3.bases.revisions import MAIN, CachedRepository, agreed_revision, at_revision, note_revision
from ia3.errors import BaseError, near_matches


def say_on_stderr(line: str) -> None:
    """Print one line of talk on stderr."""
    print(line, file=sys.stderr, flush=True)


def locate(
    name_or_path: str | Path, say: Say = say_on_stderr, *, with_weights: bool = True, revision: str | None = None
) -> Place:
    """Return the folder that holds a base.

    Args:
        name_or_path: What the user wrote; a hub id may have its revision behind it: `NAME@REVISION`.
        say: Told about conversions and downloads.
        with_weights: Whether the weights are needed too, or the config alone.
        revision: Of a hub id, where it is not spelled in the name.

    Raises:
        BaseError: If nothing of this name is there, or a revision is asked for of what has none.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise BaseError(
            f"Loading a base: got a value of type {type(name_or_path).__name__}, expected a name, a path or what "
            "ia3.load_base returns. A model in memory is written with save_pretrained, beside its tokenizer, or taken "
            "by ia3.attach and ia3.peft."
        )
    given = str(name_or_path)
    doing = f"Loading base {given!r}"
    bare, wanted = agreed_revision(given, revision, doing)
    path = Path(bare).expanduser()
    named = find_named_base(bare)
    is_folder = path.is_dir() and (named is None or is_base_folder(path))  # an output folder may be called 'minilm'
    if wanted is not None and (is_folder or path.is_file() or named is not None):
        raise _no_revisions(doing, path, wanted, None if is_folder or path.is_file() else named)
    if is_folder:
        return Place(path, given)
    if path.is_file():
        return _locate_file(path, given, say)
    named = named or (_installed_copy(bare) if wanted in (None, MAIN) else None)
    if named is not None:
        return _locate_named(named, say)
    if isinstance(name_or_path, Path) or bare.startswith((".", "~", os.sep)):
        raise BaseError(f"{doing}: there is no such file or folder.{_near_folders(path)}")
    return _locate_on_hub(bare, wanted, say, with_weights=with_weights)


def _locate_on_hub(hub_id: str, revision: str | None, say: Say, *, with_weights: bool) -> Place:
    """Return the folder of a hub id in the hub's cache."""
    given = at_revision(hub_id, revision)
    if revision is not None:
        revision = CachedRepository.read(hub_id).full(revision, f"Loading base {given!r}")
    try:
        folder = fetch_model(hub_id, say, revision) if with_weights else fetch_config(hub_id, revision)
    except BaseError as error:
        if "/" in hub_id or revision is not None or CachedRepository.read(hub_id).commits:
            raise
        raise _unknown_name(given) from error  # rather a slip of the pen than one of the hub's old ids (gpt2)
    return Place(folder, hub_id, revision, is_on_hub=True)


def _no_revisions(doing: str, path: Path, revision: str, named: NamedBase | None) -> BaseError:
    """Return the error that a local path or a named base has no revisions."""
    if named is None:
        what = "folder" if path.is_dir() else "file"
        return BaseError(
            f"{doing}: {str(path)!r} is a {what} on this machine and has no revision {revision!r}; a hub id has. Leave "
            f"the revision out, or give the path of another {what}."
        )
    return BaseError(
        f"{doing}: the named base {named.name!r} is one package and has no revision {revision!r}. Leave it out, or "
        f"give the hub's: {at_revision(named.hub_id, revision)}."
    )


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
    """Where a base lies, and what it is called: the hub id for named bases, else what was written.

    Attributes:
        folder: Where.
        name: The hub id without a revision, or the path.
        revision: The revision of the hub's that was asked for; a commit with all its digits.
        is_on_hub: Whether it was fetched from the hub, now or before.
    """

    folder: Path
    name: str
    revision: str | None = None
    is_on_hub: bool = False

    @property
    def address(self) -> str:
        """The name with the revision, by which what is on the hub is found again."""
        return at_revision(self.name, self.revision)

    def name_model(self, model: Any) -> None:
        """Write into a model that was loaded from here what it is called.

        PEFT writes the name as base_model_name_or_path: for a named base the hub id, never a path in site-packages.
        """
        model.name_or_path = model.config.name_or_path = self.name
        if self.is_on_hub:
            note_revision(model, self.revision)
