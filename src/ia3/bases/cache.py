"""The cache folder: content hashes that are remembered, and folders that appear whole or not at all.

It lies at `IA3_CACHE`, else `XDG_CACHE_HOME/ia3`, else `~/.cache/ia3`. It knows nothing of models. Rules: everything in
it can be deleted at any time; a folder under its final name is whole; one process at a time fills a folder, and what a
killed one left is removed by the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ia3.errors import BaseError
from ia3.files import locked, sync, write_whole

Say = Callable[[str], None]  # takes one line of talk, without its line end

RECORD = "ia3_base.json"  # written last into a cached folder: the size of every file, and where it came from


def cache_root() -> Path:
    """Return the cache folder, which need not exist yet."""
    if own := os.environ.get("IA3_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ia3"


def content_hash(paths: Sequence[Path]) -> str:
    """Return the sha256 of the files' bytes joined in order, remembered by path, size and time of change.

    Hashing 91 MB takes 0.08 to 0.15 s and a GGUF file of some GB many seconds, at every start of every command. A file
    is hashed again when its size or its modification time (nanoseconds) differs, which is what make and git go by: it
    guards against a wrong or damaged file, not against someone who forges times in their own cache.

    Args:
        paths: Existing files.

    Returns:
        64 hexadecimal digits.
    """
    state = [[str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns] for path in paths]
    key = hashlib.sha256("\n".join(str(entry[0]) for entry in state).encode()).hexdigest()[:32]
    stamp = cache_root() / "sha256" / f"{key}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no stamp, or an unreadable one
        known = json.loads(stamp.read_text(encoding="utf-8"))
        if known["files"] == state:
            return str(known["sha256"])
    digest = join_files(paths, None)
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        stamp.parent.mkdir(parents=True, exist_ok=True)
        write_whole(stamp, json.dumps({"files": state, "sha256": digest}).encode())
    return digest


def join_files(paths: Sequence[Path], target: Path | None) -> str:
    """Return the sha256 of the files' bytes joined in order, and write them to `target` if one is given."""
    digest = hashlib.sha256()
    with (target or Path(os.devnull)).open("wb") as out:
        for path in paths:
            with path.open("rb") as part:
                while block := part.read(1 << 20):
                    digest.update(block)
                    out.write(block)
    return digest.hexdigest()


def is_whole(folder: Path, about: Mapping[str, Any]) -> bool:
    """Return whether a cached folder is there with every file at its full size, and was filled from `about`."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if any(record[key] != value for key, value in about.items()):
            return False
        return all((folder / name).stat().st_size == size for name, size in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def publish_folder(folder: Path, fill: Callable[[Path], None], about: Mapping[str, Any], say: Say) -> Path:
    """Return `folder`, filled by `fill` if it is not already whole.

    The files are written into a sibling folder, flushed to the disk, and renamed as one. Of two processes that want
    the same folder the second waits for the first and then uses its result.

    Args:
        folder: Where the files shall be; its parent is made.
        fill: Writes every file into the empty folder it is given.
        about: What the folder is made from, in values that JSON can hold; written into the record beside the sizes.
            A folder with another record is made anew.
        say: Told when another process is waited for.

    Raises:
        BaseError: If the cache cannot be written. What `fill` raises otherwise is passed on, and nothing is left.
    """
    if is_whole(folder, about):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        waiting = f"another process is writing {folder}; waiting for it"
        with locked(folder.with_name(f"{folder.name}.lock"), lambda: say(waiting)):
            if not is_whole(folder, about):
                _fill_and_rename(folder, fill, about)
    except (OSError, SafetensorError) as error:
        raise BaseError(
            f"Writing the cache folder {folder}: {error}. Set IA3_CACHE to a folder that can be written and has room."
        ) from error
    return folder


def _fill_and_rename(folder: Path, fill: Callable[[Path], None], about: Mapping[str, Any]) -> None:
    """Fill a sibling and rename it; call it under the lock."""
    for leftover in folder.parent.glob(f"{folder.name}.*.partial"):  # of a process that was killed
        shutil.rmtree(leftover)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        fill(partial)
        files = {str(p.relative_to(partial)): p.stat().st_size for p in sorted(partial.rglob("*")) if p.is_file()}
        (partial / RECORD).write_text(json.dumps({**about, "files": files}, indent=1) + "\n", encoding="utf-8")
        for name in (*files, RECORD):
            sync(partial / name)
        sync(partial)
        if folder.exists():  # damaged, or made by another version of the conversion
            shutil.rmtree(folder)
        partial.rename(folder)
        sync(folder.parent)
    except BaseException:  # Ctrl-C too: a gigabyte must not stay behind
        shutil.rmtree(partial, ignore_errors=True)
        raise
