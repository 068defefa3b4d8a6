"""The starts that come with the project: vectors of the named bases, trained on open tables.

`python -m benchmarks.starts` makes them; each folder's README.md says from which rows, and under which licence they
are. Beside them lie hashes of the texts that they have learned, so that nobody measures on one unawares. This file
knows where they lie and what records say of them; how a row begins with one it need not know.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ia3.bases.named import find_by_hub_id
from ia3.data.duplicates import normal_text
from ia3.errors import AdapterError, IA3Warning
from ia3.names import CONFIG_FILE

STARTS = Path(__file__).parent / "vectors"  # vectors/NAME/BASE/ is an adapter's folder
AUTO, NONE = "auto", "none"  # in place of a start's name: choose one, begin with ones
LEARNED = "learned.npy"  # vectors/NAME/learned.npy: `text_hashes` of its texts, uint64, in order


def start_names() -> tuple[str, ...]:
    """Return the names that `--start` takes beside folders and hub ids."""
    return tuple(sorted({path.parts[-3] for path in STARTS.glob("*/*/adapter_config.json")}))


def packaged_start(given: str | Path, base: str | None = None) -> Path | None:
    """Return the folder of a start that comes with the project; None if it is none of them, or a folder of the user's.

    Args:
        given: What `--start` was given.
        base: Name or hub id of the base it must be for; left out, that of any base.

    Raises:
        AdapterError: If there is none for this base.

    Example:
        >>> packaged_start("sentiment", "minilm").name
        'minilm'
    """
    if str(given) not in start_names() or Path(given).exists():
        return None
    bases = sorted(path.parent.name for path in (STARTS / str(given)).glob(f"*/{CONFIG_FILE}"))
    found = STARTS / str(given) / bases[0] if base is None else start_for(str(given), base)
    if found is None:
        raise AdapterError(
            f"Starting from {given}: it is there for the bases {', '.join(bases)}, got {base!r}. Make one for yours "
            "with python -m benchmarks.starts, or leave --start out."
        )
    return found


def start_for(name: str, base: str) -> Path | None:
    """Return the folder of a start that comes with the project for a base, whatever lies in the working directory.

    Args:
        name: One of `start_names`.
        base: Name or hub id of the base.
    """
    named = find_by_hub_id(base)
    folder = STARTS / name / (base if named is None else named.name)
    return folder if folder.parent == STARTS / name and (folder / CONFIG_FILE).is_file() else None


def start_folders(name: str, base: str) -> list[Path]:
    """Return the folders of a start that comes with the project, for whichever base; that of the given base first.

    Args:
        name: One of `start_names`.
        base: Name or hub id of a base.
    """
    own = start_for(name, base)
    every = sorted(path.parent for path in (STARTS / name).glob(f"*/{CONFIG_FILE}"))
    return every if own is None else [own, *(folder for folder in every if folder != own)]


def has_learned(name: str, texts: Iterable[str]) -> list[bool]:
    """Return for each text whether a start that comes with the project has learned it, blanks and case aside.

    Args:
        name: Of the start.
        texts: Any texts.
    """
    learned = _read_hashes(STARTS / name / LEARNED)
    return [one in learned for one in text_hashes(texts)]


def seen_note(name: str | None, texts: Sequence[str], what: str = "rows") -> str:
    """Return the sentence that a start has learned some of the texts that are measured on; "" where it has not.

    Args:
        name: Of the start; one that does not come with the project is not known to have learned anything.
        texts: Of the rows.
        what: They are.
    """
    seen = sum(has_learned(name, texts)) if name in start_names() else 0
    if not seen:
        return ""
    return (
        f"{seen} of {len(texts)} {what} are among those that the start {name!r} has learned from: what is measured on "
        "them says nothing of new texts."
    )


def origin_of(record: Mapping[str, Any]) -> str | None:
    """Return the start that comes with the project from which an adapter has learned, by its record.

    Args:
        record: Of an adapter that began with a start, with an adapter that did, or that is one.
    """
    start, tables = record.get("start") or {}, _tables(STARTS)
    if start.get("origin") in tables:
        return str(start["origin"])
    if start.get("table_fingerprint") in tables.get(
        str(start.get("name")), ()
    ):  # a folder of the user's may be called so
        return str(start["name"])
    own = (record.get("data") or {}).get("fingerprint")
    return next((name for name, fingerprints in tables.items() if own in fingerprints), None)


def warn_of_seen(record: Mapping[str, Any], texts: Iterable[str], what: str = "rows", *, stacklevel: int = 2) -> None:
    """Warn that an adapter is measured on rows that its start has learned.

    Args:
        record: The adapter's.
        texts: Of the rows.
        what: They are.
        stacklevel: As `warnings.warn` counts it, for the caller.

    Warns:
        IA3Warning: How many of them.
    """
    name = origin_of(record)
    if name is not None and (note := seen_note(name, list(texts), what)):
        warnings.warn(note, IA3Warning, stacklevel=stacklevel + 1)


def text_hashes(texts: Iterable[str]) -> list[int]:
    """Return the first eight bytes of the sha256 of each text, blanks and case aside, as a number."""
    digests = (hashlib.sha256(normal_text(text).encode()).digest() for text in texts)
    return [int.from_bytes(digest[:8], "big") for digest in digests]


@cache
def _tables(root: Path) -> Mapping[str, Collection[str]]:
    """Return the fingerprints of what each start was trained on, one for each base."""
    found: dict[str, set[str]] = {}
    for path in sorted(root.glob("*/*/ia3.json")):
        found.setdefault(path.parts[-3], set()).add(json.loads(path.read_text(encoding="utf-8"))["data"]["fingerprint"])
    return found


@cache
def _read_hashes(file: Path) -> frozenset[int]:
    return frozenset(np.load(file, allow_pickle=False).tolist())
