"""The bank: many adapters on one base, a table with one row per adapter.

Row 0 is always ones: the base. A row at rest lies in the table; a row in training is its own flat parameter, so that an
optimizer touches only what is trained. Every change makes a new `Snapshot` in one step, and costs the rows it is about,
not the bank. The number of a row is an adapter's identity: it stays when the adapter is renamed or its numbers change,
and is never given to another one. This file knows who may change what; where the numbers lie is `table`'s matter, how
rows reach the sites of a model `attach`'s.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ia3.core.deferred import Deferred
from ia3.core.heads import Head
from ia3.core.sites import Plan
from ia3.core.snapshot import BASE_ROW, Entry, Record, Snapshot, told_rows
from ia3.core.surroundings import surroundings
from ia3.core.table import RowTable, Slot, Table, adopt
from ia3.core.weights import whole, write
from ia3.errors import BankError
from ia3.names import BASE_NAME

_CHANGING = threading.RLock()  # of any bank: a change takes microseconds, and a copy needs no lock of its own


class Bank(nn.Module):
    """Adapters of one base as rows of one table.

    The bank is a module so that a trainer finds its parameters, `.to(device)` moves it and a state dict holds it. Its
    numbers stay fp32 (float64 on a float64 base) whatever the model is cast to: in bf16, 1 + 0.003 rounds to 1.

    Several threads may read and change a bank at the same time. A row in training is the exception: its optimizer
    writes it in place.

    Args:
        plan: Layout of a row.
        dtype: `torch.float32`, or `torch.float64` for a float64 base.
        device: Where the table lies.

    Attributes:
        snapshot: What the bank holds now.

    Example:
        >>> from ia3.core.sites import Channels, Plan, Site
        >>> bank = Bank(Plan((Site("k", "output", "key", Channels.span(0, 4, 4), 4),), "toy", "targets"))
        >>> bank.add("news", torch.full((4,), 2.0))
        1
        >>> bank.gather([0, 1])
        tensor([[1., 1., 1., 1.],
                [2., 2., 2., 2.]])
    """

    def __init__(self, plan: Plan, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        super().__init__()
        if dtype not in (torch.float32, torch.float64):
            raise BankError(f"Making a bank: the dtype is {dtype}, expected float32, or float64 for a float64 base.")
        self.plan = plan
        self.vectors = nn.Module()
        self.heads = nn.ModuleDict()
        with torch.inference_mode(False):
            self._table = Table(plan.width, dtype, device)
        self.snapshot = Snapshot({}, {BASE_ROW: Entry(BASE_NAME, self._table.ones)})
        self._next_row = 1
        self.register_load_state_dict_post_hook(_take_loaded)

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters, in the order they were added; the base is not among them."""
        return tuple(self.snapshot.rows)

    @property
    def table(self) -> Tensor:
        """A copy of the rows at rest in ascending order, shape (rows at rest, width): what a state dict calls so."""
        return self._table.read(self.snapshot.slots(self.snapshot.resting))

    def record(self, adapter: str | int) -> Record:
        """Return what whoever loads and saves knows of an adapter; empty where nothing is known."""
        return self.snapshot.record(self.snapshot.row(adapter)) or {}

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of every vector."""
        return self._table.dtype

    def row(self, adapter: str | int) -> int:
        """Return the row of a name, or check a row; see `Snapshot.row`."""
        return surroundings().still.get(id(self), self.snapshot).row(adapter)

    def look_up(self, adapters: Iterable[str | int]) -> tuple[Snapshot, tuple[int, ...]]:
        """Return the rows of adapters, and the snapshot in which they were found.

        The snapshot has the tensors that are these rows' parameters now: `torch.func.functional_call` puts other ones
        in their place.

        Raises:
            BankError: For an unknown name or a row that holds no adapter.
        """
        held = surroundings().still.get(id(self), self.snapshot)
        rows = tuple(held.row(adapter) for adapter in adapters)
        return self._with_live(held, rows), rows

    def gather(self, rows: Sequence[int]) -> Tensor:
        """Return the rows of a batch; see `Snapshot.gather`."""
        return self.look_up(rows)[0].gather(rows)

    def vector(self, adapter: str | int) -> Tensor:
        """Return a copy of one row, shape (width,), detached."""
        snapshot, (row,) = self.look_up([adapter])
        held = whole(snapshot.vector(row).detach()).clone()
        if held.shape != (self.plan.width,):
            raise BankError(
                f"Reading adapter {adapter!r}: FSDP has laid a slice {tuple(held.shape)} of its row here, expected "
                f"({self.plan.width},). Save with state_dict= the full state dict, or in FSDP.summon_full_params."
            )
        return held

    def site_vectors(self, adapter: str | int) -> dict[str, Tensor]:
        """Return a copy of one row cut into its vectors, by site name."""
        row = self.vector(adapter)
        return {site.name: row[span] for site, span in self.plan.spans()}

    def _with_live(self, held: Snapshot, rows: Iterable[int]) -> Snapshot:
        """Return a snapshot with the tensors that are the parameters of some rows now."""
        now = {row: self.vectors._parameters.get(f"row{row}") for row in rows if held.is_trained(row)}
        live = {row: parameter for row, parameter in now.items() if parameter is not None}
        away = next((row for row, parameter in live.items() if parameter.is_meta), None)
        if away is not None and self._table.device.type != "meta":  # an optimizer would hold what no pass reads
            raise BankError(
                f"Reading adapter {held.entries[away].name!r}: its row was offloaded with the model (accelerate), "
                "expected in memory. Offload the base first, then attach."
            )
        return held.with_numbers(live)

    # -- adding -------------------------------------------------------------------------------------------------------

    def add(
        self,
        name: str,
        vectors: Tensor | None = None,
        *,
        trainable: bool = False,
        head: Head | None = None,
        record: Record | None = None,
    ) -> int:
        """Add an adapter and return its row.

        Args:
            name: New name, not empty and not `__base__`.
            vectors: The row, shape (width,); ones if left out. Copied.
            trainable: Whether the row becomes a parameter of its own.
            head: Its head, if it has one; trainable like the row.
            record: What is to be known of it.

        Raises:
            BankError: For a name in use, or a row of another width.
        """
        with _CHANGING, torch.inference_mode(False):
            values = torch.ones(self.plan.width, device="cpu") if vectors is None else self._checked(name, vectors)
            heads, records = {} if head is None else {name: head}, {} if record is None else {name: record}
            (row,) = self.add_many([name], values.unsqueeze(0), heads=heads, records=records)
            self.set_trainable(name, trainable)
            return row

    def add_many(
        self,
        names: Sequence[str],
        table: Tensor,
        *,
        heads: Mapping[str, Head] | None = None,
        records: Mapping[str, Record] | None = None,
    ) -> tuple[int, ...]:
        """Add adapters at rest, all of them or none, and return their rows; their numbers are copied once.

        Args:
            names: New names.
            table: Their rows, shape (len(names), width).
            heads: Heads of those that have one, by name.
            records: What is to be known of them, by name.

        Raises:
            BankError: For names in use, or a table of another shape.
        """
        return self._insert(names, table, lambda: self._table.store(self._own(table)), heads or {}, records or {})

    def adopt(
        self,
        names: Sequence[str],
        table: RowTable,
        *,
        heads: Mapping[str, Head | Deferred[Head]] | None = None,
        records: Mapping[str, Record | Deferred[Record]] | None = None,
    ) -> tuple[int, ...]:
        """Add adapters at rest whose numbers stay where they are, in a memory-mapped file for one; return their rows.

        Nothing is copied: a forward pass reads the rows of its batch and touches no other. The table is never written;
        an adapter that gets other numbers gets a row of the bank's own. Nobody else may write it either.

        Args:
            names: New names.
            table: Their rows, shape (len(names), width), in the bank's dtype, on any device: a tensor, or what has its
                `shape`, `dtype` and `index_select(0, numbers)`, to be called from several threads.
            heads: As for `add_many`, or to be made when a batch needs them.
            records: As for `add_many`, or to be read when somebody asks.

        Raises:
            BankError: For names in use, or a table of another shape or dtype.
        """
        if table.dtype != self.dtype:
            raise BankError(f"Adopting a table: its dtype is {table.dtype}, expected {self.dtype}. Use add_many.")
        given = table.detach() if isinstance(table, Tensor) else table
        return self._insert(names, given, lambda: adopt(given), heads or {}, records or {})

    def _insert(
        self,
        names: Sequence[str],
        table: RowTable,
        store: Callable[[], list[Slot]],
        heads: Mapping[str, Head | Deferred[Head]],
        records: Mapping[str, Record | Deferred[Record]],
    ) -> tuple[int, ...]:
        """Give names and numbers a row each, in one step."""
        with _CHANGING, torch.inference_mode(False):
            self.snapshot.check_free(names, {**heads, **records})
            if tuple(table.shape) != (len(names), self.plan.width):
                raise BankError(
                    f"Adding {len(names)} adapters: their table has shape {tuple(table.shape)}, expected "
                    f"{(len(names), self.plan.width)}. The adapters belong to another base or another plan."
                )
            rows = dict(zip(names, range(self._next_row, self._next_row + len(names)), strict=True))
            self._next_row += len(names)
            for name, head in heads.items():
                if isinstance(head, Head):
                    self._register_head(rows[name], head.requires_grad_(False))
            self.snapshot = self.snapshot.with_added(rows, store(), heads, records)
            return tuple(rows.values())

    # -- changing -----------------------------------------------------------------------------------------------------

    def set_trainable(self, name: str | int, trainable: bool = True) -> None:
        """Turn a row into a parameter of its own, or lay it back into the table."""
        with self._changing(name, "Training") as (held, row):
            head = held.head(row)
            if head is not None and (trainable or f"row{row}" in self.heads):
                self._register_head(row, head.requires_grad_(trainable))
                held = self.snapshot = held.with_entry(row, head=head)  # one that was made just now stays
            if trainable and not held.is_trained(row):
                parameter = nn.Parameter(held.vector(row))
                _register(self.vectors, "_parameters", row, parameter)
                self.snapshot = held.with_entry(row, numbers=parameter)
            elif not trainable and held.is_trained(row):
                self.snapshot = held.with_entry(row, numbers=self._stored(name, self.vector(row)))
                _register(self.vectors, "_parameters", row, None)

    def set_vector(self, name: str | int, vectors: Tensor) -> None:
        """Give an adapter other numbers; a parameter in training is written in place, its optimizer keeps it."""
        with self._changing(name, "Changing") as (held, row), torch.no_grad():
            if held.is_trained(row):
                write(self._with_live(held, [row]).vector(row), self._checked(name, vectors))
            else:
                self.snapshot = held.with_entry(row, numbers=self._stored(name, vectors))

    def replace(
        self, name: str | int, vectors: Tensor, *, head: Head | None = None, record: Record | None = None
    ) -> None:
        """Put another adapter in the place of one at rest: numbers, head and record in one step. Its row stays.

        Args:
            name: Of the adapter, or its row.
            vectors: The row, shape (width,). Copied.
            head: The new head; without one, examples of this row go through the base's.
            record: What is to be known of it.

        Raises:
            BankError: For an unknown name, a row in training, or a row of another width.
        """
        with self._changing(name, "Replacing") as (held, row):
            if held.is_trained(row):
                raise BankError(
                    f"Replacing adapter {held.entries[row].name!r}: it is in training, and its optimizer would go on "
                    "with what is no longer there. Change its numbers with set_vector, or lay it at rest first: "
                    "set_trainable(name, False)."
                )
            slot = self._stored(name, vectors)
            self._register_head(row, head if head is None else head.requires_grad_(False))
            self.snapshot = held.with_entry(row, numbers=slot, head=head, record=record)

    def remove(self, name: str | int) -> None:
        """Take an adapter out. Its number is never given to another one; its place in the table is."""
        with self._changing(name, "Removing") as (held, row):
            self.snapshot = held.without(row)
            _register(self.vectors, "_parameters", row, None)
            self._register_head(row, None)

    def rename(self, name: str | int, new: str) -> None:
        """Give an adapter another name; its row stays.

        Raises:
            BankError: For an unknown name, or a new one in use.
        """
        with self._changing(name, "Renaming") as (held, row):
            if not new or new == BASE_NAME or new in held.rows:
                raise BankError(f"Renaming adapter {name!r} to {new!r}: this name is not free. Choose another one.")
            self.snapshot = held.with_entry(row, name=new)

    def describe(self, name: str | int, record: Record | None) -> None:
        """Say what is to be known of an adapter, in place of what was known; None for nothing."""
        with self._changing(name, "Describing") as (held, row):
            self.snapshot = held.with_entry(row, record=record)

    @contextmanager
    def _changing(self, adapter: str | int, doing: str) -> Iterator[tuple[Snapshot, int]]:
        """Give what the bank holds and the row of an adapter, which is not the base; nobody else changes it inside."""
        with _CHANGING, torch.inference_mode(False):
            row = self.snapshot.row(adapter)
            if row == BASE_ROW:
                raise BankError(
                    f"{doing} row 0: it is the base ({BASE_NAME!r}), always ones, and stays. Add an adapter."
                )
            yield self.snapshot, row

    def _stored(self, name: str | int, vectors: Tensor) -> Slot:
        """Write a row to a free place of the table."""
        return self._table.store(self._checked(name, vectors).unsqueeze(0))[0]

    def _checked(self, name: str | int, vectors: Tensor) -> Tensor:
        if vectors.shape != (self.plan.width,):
            raise BankError(
                f"Setting adapter {str(name)!r}: its row has shape {tuple(vectors.shape)}, this base needs "
                f"({self.plan.width},). The adapter belongs to another base or another plan."
            )
        return self._own(vectors)

    def _own(self, values: Tensor) -> Tensor:
        """Return numbers as the table has them."""
        return values.detach().to(dtype=self.dtype, device=self._table.device)

    # -- being a module -----------------------------------------------------------------------------------------------

    def _register_head(self, row: int, head: Head | None) -> None:
        placed = None if head is None else head.to(self._table.device).train(self.training)
        _register(self.heads, "_modules", row, placed)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Bank:
        """Follow the model to another device, never to another dtype."""
        with _CHANGING, torch.inference_mode(False):
            super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)
            held, live = self.snapshot, {row: self.vectors.get_parameter(f"row{row}") for row in self.snapshot.trained}
            self._table, slots = self._table.moved(fn, held.slots(held.resting))
            moved = dict(zip(held.resting, slots, strict=True))
            self.snapshot = held.with_numbers({BASE_ROW: self._table.ones, **moved, **live})
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Put the rows at rest and the names into a state dict, as tensors: they are no parameters."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}table"] = self.table
        destination[f"{prefix}names"] = torch.tensor(list(json.dumps(self.snapshot.rows).encode()), dtype=torch.uint8)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, metadata: Any, strict: bool, missing: Any, unexpected: Any, errors: Any
    ) -> None:
        """Take the rows at rest from a state dict of a bank with the same adapters."""
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        table, names = (state_dict.get(f"{prefix}{name}") for name in ("table", "names"))
        unexpected[:] = [key for key in unexpected if key not in (f"{prefix}table", f"{prefix}names")]
        if table is None or names is None:
            missing.extend(f"{prefix}{n}" for n, t in (("table", table), ("names", names)) if t is None)
            return
        with _CHANGING, torch.inference_mode(False):
            held = self.snapshot
            rows, shape = json.loads(bytes(names.tolist())), (len(held.resting), self.plan.width)
            if rows != held.rows or table.shape != shape:
                errors.append(
                    f"Loading a bank: the state holds adapters {told_rows(rows)} and rows at rest of shape "
                    f"{tuple(table.shape)}, this bank {told_rows(held.rows)} and {shape}. Add the same adapters first."
                )
                return
            self.snapshot = held.with_numbers(dict(zip(held.resting, self._table.store(self._own(table)), strict=True)))


def _register(held: nn.Module, kind: str, row: int, part: nn.Parameter | nn.Module | None) -> None:
    """Put what belongs to a row into a module, or take it out; whoever is iterating there goes on undisturbed."""
    parts = {**vars(held)[kind], f"row{row}": part}
    held.__dict__[kind] = {name: other for name, other in parts.items() if other is not None}


def _take_loaded(bank: Bank, _: Any) -> None:
    """Go on with the parameters that `load_state_dict(assign=True)` has put in the place of others."""
    with _CHANGING:
        bank.snapshot = bank._with_live(bank.snapshot, bank.snapshot.trained)
