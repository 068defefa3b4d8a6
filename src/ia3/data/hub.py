"""Records of a data set on the hub, through the `datasets` library, imported only here and only when asked for.

Knows nothing of text and label columns. Rules: a class label becomes its name; the line of a record is its row
number; every failure of the library or the network ends in one sentence that says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ia3.bases.revisions import at_revision
from ia3.data.classes import name_classes, names_in_features
from ia3.data.examples import Origin
from ia3.data.objects import open_objects
from ia3.data.records import Record, Source
from ia3.errors import TableError
from ia3.spelling import first_line

_HUB_ID = re.compile(r"(?P<name>[\w.-]+/[\w.-]+|[\w.-]+(?=[:@]))(@(?P<revision>[^:\s]+))?(:(?P<split>[\w.\[\]:%+-]+))?")


def is_hub_id(source: str) -> bool:
    """Tell whether the text has the form `user/name` or `name`, then `@revision`, `:split` or both."""
    return _HUB_ID.fullmatch(source) is not None


def read_hub(source: str) -> Source:
    """Return the opened split of a hub data set; its rows are streamed.

    Args:
        source: `user/name`, which means its split "train", `user/name:split` or `user/name@revision:split`.

    Returns:
        Columns and records.

    Raises:
        TableError: `datasets` is not installed, the hub cannot be reached, or it knows no such data set or split.
    """
    match = _HUB_ID.fullmatch(source)
    assert match is not None, source
    name, split = match["name"], match["split"] or "train"
    rows = _load(source, name, match["revision"], split)
    note = f"rows: split '{split}' of the hub data set '{at_revision(name, match['revision'])}'"
    return replace(open_objects(source, read_rows(source, rows)), has_free_columns=False, notes=(note,))


def _load(source: str, name: str, revision: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise TableError(
            f"Reading {source}: hub data sets need the package 'datasets', which is not installed. "
            'Install it: pip install "ia3[datasets]".'
        ) from error
    try:
        more = {} if revision is None else {"revision": revision}
        return datasets.load_dataset(name, split=split, streaming=True, **more)
    except ConnectionError as error:
        raise TableError(
            f"Reading {source}: the hub cannot be reached ({first_line(error)}). "
            "Connect to the network, or download the table and give its path."
        ) from error
    except Exception as error:  # the library raises whatever the data set's format makes it raise
        raise TableError(f"Reading {source}: the hub data set cannot be loaded: {first_line(error)}.") from error


def read_rows(source: str, rows: Iterable[Mapping[str, object]]) -> Generator[Record, None, None]:
    """Yield the rows of a data set of `datasets`, streamed or in memory.

    Raises:
        TableError: While iterating: the rows break off.
    """
    names = names_in_features(getattr(rows, "features", None))
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            yield name_classes(Origin(source, number), row, names)
    except TableError:
        raise
    except Exception as error:  # rows may come over the network, so the same holds as in `_load`
        raise TableError(f"Reading {source}: it breaks off after row {number}: {first_line(error)}.") from error
