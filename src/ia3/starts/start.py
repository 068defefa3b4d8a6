"""A start: the adapter whose numbers a row begins with in place of ones, as T-Few began with vectors of other tasks.

The vectors are always taken; a head only where it says the same labels in the same order. This file knows adapters and
rows; it knows nothing of tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ia3.adapters.adapter import Adapter
from ia3.adapters.config import other_task
from ia3.adapters.fitting import build_head
from ia3.adapters.folder import check_adapter, is_of_weights, load_adapter
from ia3.bases.loading import Base
from ia3.bases.pooling import pooling_of
from ia3.core.attach import Attachment
from ia3.core.heads import Head
from ia3.errors import AdapterError, near_matches
from ia3.names import CONFIG_FILE
from ia3.starts.packaged import origin_of, packaged_start, start_folders, start_names


@dataclass(frozen=True)
class Start:
    """An adapter to begin with.

    Attributes:
        given: Folder, hub id or name, as it was asked for.
        adapter: The adapter.
        digest: sha256 of its numbers, 64 hexadecimal digits.
        choice: Which starts it was chosen from, and how well each knew the rows; None where it was named.
        is_of_other_weights: Whether its base's hash is another than that of the base it is for, of the same shapes.
    """

    given: str
    adapter: Adapter
    digest: str
    choice: Mapping[str, Any] | None = None
    is_of_other_weights: bool = False

    @property
    def name(self) -> str:
        """What it is called in records: the folder's name, or the hub id."""
        path = Path(self.given).expanduser()
        return path.resolve().name if path.exists() else self.given

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of its head, or those it learned; empty if they are not known."""
        return tuple(self.adapter.record.get("labels") or ())

    def to_json(self) -> dict[str, Any]:
        """Return its identity as plain values, for the record of what is trained from it."""
        record = self.adapter.record
        data, base, origin = record.get("data") or {}, record.get("base") or {}, origin_of(record)
        return {
            "name": self.name,
            **({} if origin in (None, self.name) else {"origin": origin}),
            "vectors": self.digest,
            "table": data.get("name"),
            "table_fingerprint": data.get("fingerprint"),
            "base_fingerprint": base.get("fingerprint"),
            "labels": list(self.labels) or None,
            **({"is_of_other_weights": True} if self.is_of_other_weights else {}),
            **({} if self.choice is None else {"chosen": dict(self.choice)}),
        }


def read_start(given: str | Path, base: Base | None = None) -> Start:
    """Return the adapter of a folder to begin with.

    Args:
        given: A folder of ours or of PEFT's, an id on the hub, or the name of a start that comes with the project.
        base: The base that it must be for; left out, only the folder is read.

    Raises:
        AdapterError: If there is no adapter, or it is one of another base: its record has the base's hash.
    """
    packaged = packaged_start(given)
    if packaged is not None and base is not None:
        return _read_named(str(given), base)
    folder = packaged or given
    if not Path(folder).exists() and not set("/:@") & set(str(given)):  # neither on the hub nor in a packed store
        beside = [path.name for path in Path().iterdir() if (path / CONFIG_FILE).exists()]
        raise AdapterError(
            f"Starting from {given}: there is no such folder, and no such start comes with ia3."
            f"{near_matches(str(given), [*start_names(), *beside])}"
        )
    try:
        return _read(given, folder, base)
    except AdapterError as error:
        raise AdapterError(f"Starting from {given}: {error}") from error


def _read(given: str | Path, folder: str | Path, base: Base | None, *, of_any_weights: bool = False) -> Start:
    """Return the adapter of a folder as a start; with a base it must fit it, and unless said otherwise its weights."""
    adapter = load_adapter(folder)
    digest = _digest(adapter)
    if base is None:
        return Start(str(given), adapter, digest)
    # its vectors are of use without a head that reads something else, or answers something else
    if adapter.pooling != base.pooling or other_task(adapter.config) is not None:
        adapter = replace(adapter, head={}, head_modules=())
    check_adapter(adapter, base.model, f"Loading adapter from {folder}", of_any_weights=of_any_weights)
    is_other = of_any_weights and not is_of_weights(adapter, base.model)
    return Start(str(given), adapter, digest, is_of_other_weights=is_other)


def _read_named(name: str, base: Base) -> Start:
    """Return a start that comes with the project, which was named; it must have been trained on the base's weights."""
    found = packaged_start_for(name, base)
    if found is None:  # the reason is that there is none for a base of this name, or the shape of the one that is
        folder = packaged_start(name, base.name)
        assert folder is not None
        return read_packaged(name, folder, base)
    if found.is_of_other_weights:
        raise AdapterError(
            f"Starting from {name}: it was trained on other weights of the same shape as those of {base.name!r}. In a "
            "run of one task, --start auto takes it where its answers on your rows leave no doubt that it serves."
        )
    return found


def packaged_start_for(name: str, base: Base) -> Start | None:
    """Return a start that comes with the project for a base of the same shape, of the same weights if there is one.

    Args:
        name: Of the start.
        base: The base.
    """
    found = []
    for folder in start_folders(name, base.name):
        with suppress(AdapterError):  # it is for a base of another shape
            found.append(read_packaged(name, folder, base))
    return min(found, key=lambda start: start.is_of_other_weights, default=None)


def read_packaged(name: str, folder: Path, base: Base) -> Start:
    """Return a start that comes with the project, for a base that may have other weights than it was trained on.

    Args:
        name: Of the start.
        folder: Of its adapter.
        base: The base; every module must be there, in the same shape.

    Raises:
        AdapterError: If it is for a base of another shape.
    """
    start = _read(name, folder, base, of_any_weights=True)
    if start.adapter.kind != base.kind:
        raise AdapterError(f"Starting from {name}: it is for a base of kind {start.adapter.kind}, got {base.kind}.")
    return start


def read_starts(given: Sequence[str | Path | None], base: Base | None = None) -> list[Start | None]:
    """Return what each of several tasks begins with, each folder read once; None stays None.

    Raises:
        AdapterError: With the faults of all.
    """
    found: dict[str, Start] = {}
    faults: list[str] = []
    for one in dict.fromkeys(str(one) for one in given if one is not None):
        try:
            found[one] = read_start(one, base)
        except AdapterError as error:
            faults.append(str(error))
    if faults:
        raise AdapterError("\n".join([f"Reading the starts: {len(faults)} faults.", *faults][len(faults) == 1 :]))
    return [None if one is None else found[str(one)] for one in given]


def begin_from(attachment: Attachment, row: str, start: Start, labels: Sequence[str], *, with_head: bool = True) -> str:
    """Give a row in training the numbers of an adapter, and say what was taken.

    Args:
        attachment: Of the base; its bank has the row.
        row: Name of the row.
        start: What it begins with, read for this base.
        labels: Of the task, in the order of its head; empty for free text.
        with_head: Whether the start's head is taken where it can be.

    Returns:
        One sentence for the user.

    Raises:
        AdapterError: If the plan has no place for a vector.
    """
    try:
        vectors = start.adapter.row(attachment.bank.plan)
    except AdapterError as error:
        raise AdapterError(f"Starting from {start.given}: {error}") from error
    with torch.no_grad():
        snapshot = attachment.bank.snapshot
        snapshot.vector(snapshot.row(row)).copy_(vectors)
    told = f"The vectors start from {start.name!r}{_origin(start)}"
    unproven = (
        "" if start.to_json()["base_fingerprint"] else " Its record has no hash of its base: shapes were compared."
    )
    if (task := other_task(start.adapter.config)) is not None:
        unproven += f" Its task is {task}, another one than yours."
    if start.is_of_other_weights:
        unproven = " Its own base has another hash: its answers on your rows left no doubt that it serves."
    head = attachment.bank.snapshot.head(attachment.bank.row(row))
    if head is None or not with_head:
        return f"{told}.{unproven}"
    return f"{told}; {_begin_head(attachment, head, start, tuple(labels))}.{unproven}"


def part_of_start(start: Start | None) -> dict[str, str]:
    """Return what a start counts in whether two runs are the same; nothing for ones."""
    return {} if start is None else {"start": start.digest}


def _begin_head(attachment: Attachment, head: Head, start: Start, labels: tuple[str, ...]) -> str:
    """Give a head the numbers of the start's, where both are of the same labels; return what was done in words."""
    if not start.adapter.head:
        return f"it has no head that reads what this base's reads ({pooling_of(attachment.model.config)}): drawn anew"
    if start.labels != labels:
        return f"the head is drawn anew, since its labels are {_spell(start.labels)} and here {_spell(labels)}"
    source = build_head(start.adapter, attachment.model, f"Starting from {start.given}")
    tensors = {} if source is None else source.tensors()
    own = head.tensors()
    if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in tensors.items()}:
        return "the head is drawn anew, since its modules are others"
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
    return "the head as well"


def _origin(start: Start) -> str:
    data = start.adapter.record.get("data") or {}
    table, rows = data.get("name"), data.get("rows")
    where = f" of {table}" if table and table != "rows" else ""
    return f", trained on {rows:,} rows{where}" if isinstance(rows, int) else ""


def _spell(labels: Sequence[str]) -> str:
    if not labels:
        return "unknown"
    shown = ", ".join(map(repr, labels[:4]))
    return f"{shown}, …" if len(labels) > 4 else shown


def _digest(adapter: Adapter) -> str:
    """Return the sha256 of every number, vectors before the head, each in the order of names."""
    digest = hashlib.sha256()
    for tensors in (adapter.vectors, adapter.head):
        for name in sorted(tensors):
            digest.update(f"{name}\0".encode())
            digest.update(tensors[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
