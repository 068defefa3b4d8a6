"""The starts that come with the project: vectors of the named bases, trained on open tables.

`python -m benchmarks.starts` makes them; each folder's README.md says from which rows, and under which licence they
are. This file knows where they lie; what a start is stands in `start`.
"""

from __future__ import annotations

from pathlib import Path

from ia3.bases.named import find_by_hub_id
from ia3.errors import AdapterError

_FOLDER = Path(__file__).parent / "starts"  # starts/NAME/BASE/ is an adapter's folder


def start_names() -> tuple[str, ...]:
    """Return the names that `--start` takes beside folders and hub ids."""
    return tuple(sorted({path.parts[-3] for path in _FOLDER.glob("*/*/adapter_config.json")}))


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
    bases = sorted(path.parent.name for path in (_FOLDER / str(given)).glob("*/adapter_config.json"))
    named = None if base is None else find_by_hub_id(base)
    base = base if named is None else named.name
    if base is not None and base not in bases:
        raise AdapterError(
            f"Starting from {given}: it is there for the bases {', '.join(bases)}, got {base!r}. Make one for yours "
            "with python -m benchmarks.starts, or leave --start out."
        )
    return _FOLDER / str(given) / (base or bases[0])
