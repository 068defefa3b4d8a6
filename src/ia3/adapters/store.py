"""A packed store: one file that holds many adapters of one base.

    create_store(path, plan, base=…, adapters=…)     a new file
    Store.open(path)                                 names, rows and adapters of one that is there

A store has one plan, and each adapter a row in it. Opening reads names and places alone; reading a row touches that row
alone. Writers add behind what is there, so an opened store goes on reading what it opened. What can go wrong on a disk,
and how the bytes lie, is the matter of `store_writing` and `store_tables`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from ia3.adapters.adapter import Adapter
from ia3.adapters.half import restore
from ia3.adapters.identity import base_fingerprint
from ia3.adapters.layout import lay_out
from ia3.adapters.store_adding import Adapters, Additions, Given, add_adapters, bytes_of, told_base
from ia3.adapters.store_file import Damage, StoreFile, open_store_file, unpack_text
from ia3.adapters.store_records import (
    DTYPES,
    Metadata,
    join_adapter,
    pack_description,
    read_description,
    read_metadata,
)
from ia3.adapters.store_tables import Stored
from ia3.adapters.store_writing import (
    Writer,
    change_store_file,
    compact_store_file,
    create_store_file,
    remove_adapters,
    rename_adapter,
)
from ia3.bases.revisions import address_of, is_at_another
from ia3.core.sites import Plan
from ia3.errors import AdapterError


def create_store(
    path: str | Path,
    plan: Plan,
    *,
    base: Mapping[str, Any] | None = None,
    adapters: Adapters = (),
    half: bool = False,
) -> Store:
    """Make a new store, and return it opened; the file appears with all of its adapters or not at all.

    Args:
        path: The file.
        plan: Layout of the rows, as `find_plan` gives it for the base.
        base: What is known of the base, as `record.describe_base` returns it; left out, that of the first adapter that
            records its own.
        adapters: By name, each an adapter or a function that loads it when its turn comes.
        half: Store l − 1 in two bytes a number; see `half`.

    Raises:
        AdapterError: If the name is taken, an adapter cannot be added, or the file cannot be written.
    """
    place = Path(path)
    doing = f"Packing {place}"

    def write(writer: Writer) -> None:
        writer.describe(pack_description(plan, base or {}))
        add_adapters(Additions(plan, base or {}, writer, doing), adapters, half=half)

    return Store(create_store_file(place, doing, plan.width * (2 if half else 4), write))


@final
class Store:
    """An opened store. It goes on reading what it opened, and what it has itself added since.

    Example:
        >>> store = Store.open("news.ia3")  # doctest: +SKIP
        >>> store.names[:2], store.rows(store.names[:2]).shape  # doctest: +SKIP
        (('a', 'b'), torch.Size([2, 13824]))
    """

    def __init__(self, file: StoreFile) -> None:
        self._use(file)

    def _use(self, file: StoreFile) -> None:
        self._file = file
        self.plan, self._base = read_description(file.description, str(file.path))

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store.

        Raises:
            AdapterError: If there is none, or it cannot be read.
        """
        return cls(open_store_file(Path(path)))

    @property
    def path(self) -> Path:
        """The file."""
        return self._file.path

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters, in the order they were added."""
        return tuple(self._file.state.lines)

    def __len__(self) -> int:
        return len(self._file.state.lines)

    def __contains__(self, name: object) -> bool:
        return name in self._file.state.lines

    @property
    def base(self) -> dict[str, Any]:
        """What is known of the base: name, fingerprint, kind …; empty if no adapter records it."""
        return dict(self._base)

    def metadata(self, name: str) -> Metadata:
        """Return config, record, sites and head modules of an adapter, without its numbers.

        Raises:
            AdapterError: For an unknown name, or if they are damaged.
        """
        return read_metadata(self._file.text(name), self.plan, f"adapter {name!r} in {self.path}")

    def stored(self, name: str) -> tuple[Stored, float]:
        """Return how an adapter's row is written, and the largest |l' − l| that came of it."""
        facts = self._file.facts(name)
        return Stored(facts.stored), facts.error

    def has_tensors(self, name: str) -> bool:
        """Whether an adapter has tensors beside its row, as those of a head are; nothing is read.

        Raises:
            AdapterError: For an unknown name.
        """
        return self._file.facts(name).tensors_length > 0

    def vector(self, name: str) -> Tensor:
        """Return the row of an adapter, shape (plan.width,), fp32; a copy.

        Raises:
            AdapterError: For an unknown name, or if the row is damaged.
        """
        return self.rows([name])[0]

    def rows(self, names: Sequence[str], out: Tensor | None = None) -> Tensor:
        """Return the rows of adapters; nothing else of the table is read.

        Args:
            names: Of the adapters, in any order, one more than once as well.
            out: Where to put them, shape (len(names), plan.width), fp32 on the CPU, contiguous; a new tensor if left
                out.

        Returns:
            Shape (len(names), plan.width), fp32.

        Raises:
            AdapterError: For an unknown name, a row that is damaged, or an `out` of another shape or dtype.
        """
        stored = [Stored(self._file.facts(name).stored) for name in names]
        shape = (len(names), self.plan.width)
        rows = torch.empty(shape) if out is None else out
        if rows.shape != shape or rows.dtype != torch.float32 or not rows.is_contiguous():
            raise AdapterError(
                f"Reading {len(names)} rows from {self.path}: out has shape {tuple(rows.shape)} and {rows.dtype}, "
                f"expected {shape} and torch.float32, contiguous."
            )
        for row, name, how in zip(rows, names, stored, strict=True):
            content = self._file.part(name, "numbers")
            if len(content) != how.size * self.plan.width:
                raise AdapterError(
                    f"Reading adapter {name!r} from {self.path}: its row has {len(content)} bytes, expected "
                    f"{how.size * self.plan.width}. Take another copy of the file."
                )
            numbers = row if how is Stored.FLOAT32 else torch.empty(self.plan.width, dtype=DTYPES[how])
            bytes_of(numbers)[:] = content
            if numbers is not row:
                row.copy_(restore(numbers))
        return rows

    def tensors(self, name: str) -> bytes:
        """Return what an adapter has beside its row, as a safetensors file; nothing without a head.

        Raises:
            AdapterError: For an unknown name, or if they are damaged.
        """
        return self._file.part(name, "tensors")

    def adapter(self, name: str) -> Adapter:
        """Return an adapter as it was added: sites, vectors, head, config and record.

        The vectors are equal to the last bit, but for those stored at half their size.

        Raises:
            AdapterError: For an unknown name, or if it is damaged.
        """
        return join_adapter(self.metadata(name), self.plan, self.vector(name), self.tensors(name))

    def append(self, name: str, adapter: Given, *, half: bool = False, replaces: bool = False) -> None:
        """Add an adapter; see `append_many`."""
        self.append_many({name: adapter}, half=half, replaces=replaces)

    def append_many(self, adapters: Adapters, *, half: bool = False, replaces: bool = False) -> None:
        """Add adapters: all of them, or none where one of them cannot be added.

        Args:
            adapters: By name, each an adapter or a function that loads it when its turn comes.
            half: Store l − 1 in two bytes a number.
            replaces: Whether an adapter may take the place of one that has its name.

        Raises:
            AdapterError: For a name that is taken or cannot be one, an adapter of another base, one that the plan has
                no place for, or if the file cannot be written. All such adapters are told at once.
        """
        doing = f"Adding to {self.path}"

        def write(writer: Writer) -> None:
            plan, base = read_description(unpack_text(writer.state.description), str(self.path))
            add_adapters(Additions(plan, base, writer, doing), adapters, half=half, replaces=replaces)

        self._use(change_store_file(self._file, doing, write))

    def replace(self, name: str, adapter: Given, *, half: bool = False) -> None:
        """Put an adapter in the place of one that is there.

        Raises:
            AdapterError: For an unknown name, and as `append_many`.
        """
        self._file.facts(name)
        self.append_many({name: adapter}, half=half, replaces=True)

    def remove(self, *names: str) -> None:
        """Take adapters out: all of them, or none where one is unknown. `compact` gives their bytes back.

        Raises:
            AdapterError: For an unknown name, or if the file cannot be written.
        """
        self._use(remove_adapters(self._file, names))

    def rename(self, name: str, new: str) -> None:
        """Give an adapter another name; it then stands last.

        Raises:
            AdapterError: For an unknown name, or a new one that is taken or cannot be one.
        """
        self._use(rename_adapter(self._file, name, new))

    def compact(self) -> int:
        """Write the file anew without what was removed and replaced; return how many bytes shorter it is.

        Raises:
            AdapterError: If the file cannot be written; it then holds what it held.
        """
        before = self._file.size
        self._use(compact_store_file(self._file, f"Compacting {self.path}"))
        return before - self._file.size

    def verify(self) -> tuple[Damage, ...]:
        """Read everything against its checksums and return what is damaged."""
        return self._file.find_damage()

    def check_base(self, model: nn.Module, doing: str) -> None:
        """Raise if the adapters belong to another base than a model, where their base is known.

        Args:
            model: With or without a bank.
            doing: Beginning of the error.

        Raises:
            AdapterError: Naming both.
        """
        known, got = self.base, None
        if known.get("fingerprint"):
            got = base_fingerprint(model, known.get("head_modules") or ())
        if got != known["fingerprint"] if got else is_at_another(known, model):
            given = {"name": address_of(model), "fingerprint": got}
            raise AdapterError(
                f"{doing}: {self.path} holds adapters of base {told_base(known)}, this model is {told_base(given)}. "
                "Load them on that base."
            )

    def close(self) -> None:
        """Close the file; nothing can be read any more."""
        self._file.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def rows_from_store(store: Store, names: Sequence[str], plan: Plan) -> Tensor:
    """Return the rows of adapters laid out for a plan, shape (len(names), plan.width), fp32.

    Args:
        store: Where they lie.
        names: Of the adapters.
        plan: A bank's; may differ from the store's where no function changes.

    Raises:
        AdapterError: For an unknown name, a damaged row, or a number that the plan has no site for.
    """
    if [site.place for site in store.plan.sites] == [site.place for site in plan.sites]:
        return store.rows(names)
    rows = torch.empty(len(names), plan.width)
    for row, name in zip(rows, names, strict=True):
        numbers = store.vector(name)
        row.copy_(lay_out(store.plan.sites, {site.name: numbers[span] for site, span in store.plan.spans()}, plan))
    return rows
