"""The starts that come with the project: vectors of the named bases, trained on open tables.

`python -m benchmarks.starts` makes them; each folder's README.md says from which rows, and under which licence they
are. Beside them lie hashes of the texts that they have learned, so that nobody measures on one unawares. This file
knows where they lie; what a start is stands in `start`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np

from ia3.bases.named import find_by_hub_id
from ia3.data.duplicates import normal_text
from ia3.errors import AdapterError

STARTS = Path(__file__).parent / "starts"  # starts/NAME/BASE/ is an adapter's folder
LEARNED = "learned.npy"  # starts/NAME/learned.npy: `text_hashes` of its texts, uint64, in order


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
    bases = sorted(path.parent.name for path in (STARTS / str(given)).glob("*/adapter_config.json"))
    named = None if base is None else find_by_hub_id(base)
    base = base if named is None else named.name
    if base is not None and base not in bases:
        raise AdapterError(
            f"Starting from {given}: it is there for the bases {', '.join(bases)}, got {base!r}. Make one for yours "
            "with python -m benchmarks.starts, or leave --start out."
        )
    return STARTS / str(given) / (base or bases[0])


def has_learned(name: str, texts: Iterable[str]) -> list[bool]:
    """Return for each text whether a start that comes with the project has learned it, blanks and case aside.

    Args:
        name: Of the start.
        texts: Any texts.
    """
    learned = _read_hashes(STARTS / name / LEARNED)
    return [one in learned for one in text_hashes(texts)]


def text_hashes(texts: Iterable[str]) -> list[int]:
    """Return the first eight bytes of the sha256 of each text, blanks and case aside, as a number."""
    digests = (hashlib.sha256(normal_text(text).encode()).digest() for text in texts)
    return [int.from_bytes(digest[:8], "big") for digest in digests]


@cache
def _read_hashes(file: Path) -> frozenset[int]:
    return frozenset(np.load(file, allow_pickle=False).tolist())
