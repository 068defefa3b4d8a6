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
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ia3.core.deferred import Deferred
from ia3.core.heads import Head
from ia3.core.records import Records
from ia3.core.sites import Plan
from ia3.core.snapshot import BASE_NAME, BASE_ROW, Record, Snapshot, told_rows
from ia3.core.surroundings import surroundings
from ia3.core.table import RowTable, Slot, Table, adopt
from ia3.core.weights import whole, write
from ia3.errors import BankError


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
        self.vectors = nn.ParameterDict()
        self.heads = nn.ModuleDict()
        self._lock = threading.RLock()
        with torch.inference_mode(False):
            self._table = Table(plan.width, dtype, device)
        self._snapshot = Snapshot({}, {}, {BASE_ROW: self._table.ones})
        self._next_row = 1
        self.register_load_state_dict_post_hook(_take_loaded)

    # -- reading ------------------------------------------------------------------------------------------------------

    @property
    def snapshot(self) -> Snapshot:
        """What the bank holds now."""
        return self._snapshot

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters, in the order they were added; the base is not among them."""
        return tuple(self._snapshot.rows)

    @property
    def table(self) -> Tensor:
        """A copy of the rows at rest in ascending order, shape (rows at rest, width): what a state dict calls so."""
        held = self._snapshot
        return self._table.read([held.slots[row] for row in held.resting])

    @property
    def records(self) -> MutableMapping[int, Record]:
        """What whoever loads and saves knows of an adapter, by row; removed with it."""
        return Records(lambda: self._snapshot, self._set_record)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of every vector."""
        return self._table.dtype

    def row(self, adapter: str | int) -> int:
        """Return the row of a name, or check a row; see `Snapshot.row`."""
        return surroundings().still.get(id(self), self._snapshot).row(adapter)

    def look_up(self, adapters: Iterable[str | int]) -> tuple[Snapshot, tuple[int, ...]]:
        """Return the rows of adapters, and the snapshot in which they were found.

        The snapshot has the tensors that are these rows' parameters now: `torch.func.functional_call` puts other ones
        in their place.

        Raises:
            BankError: For an unknown name or a row that holds no adapter.
        """
        held = surroundings().still.get(id(self), self._snapshot)
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
        live = {row: self.vectors._parameters.get(f"row{row}") for row in rows if row in held.parameters}
        absent = (held.names[row] for row, parameter in live.items() if parameter is not None and parameter.is_meta)
        away = None if self._table.device.type == "meta" else next(absent, None)
        if away is not None:  # an optimizer would hold what no pass reads
            raise BankError(
                f"Reading adapter {away!r}: its row was offloaded with the model (accelerate), expected in memory. "
                "Offload the base first, then attach."
            )
        return held.with_parameters({row: parameter for row, parameter in live.items() if parameter is not None})

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
        with self._lock, torch.inference_mode(False):
            self._snapshot.check_free([name])
            slots = self._table.store(self._checked(name, vectors).unsqueeze(0))
            (row,) = self._insert(
                [name], slots, {} if head is None else {name: head}, {} if record is None else {name: record}
            )
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
        with self._lock, torch.inference_mode(False):
            self._check_many(names, table, {**(heads or {}), **(records or {})})
            values = table.detach().to(dtype=self.dtype, device=self._table.device)
            return self._insert(names, self._table.store(values), heads or {}, records or {})

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
        with self._lock, torch.inference_mode(False):
            self._check_many(names, table, {**(heads or {}), **(records or {})})
            if table.dtype != self.dtype:
                raise BankError(f"Adopting a table: its dtype is {table.dtype}, expected {self.dtype}. Use add_many.")
            given = table.detach() if isinstance(table, Tensor) else table
            return self._insert(names, adopt(given), heads or {}, records or {})

    def _insert(
        self,
        names: Sequence[str],
        slots: Sequence[Slot],
        heads: Mapping[str, Head | Deferred[Head]],
        records: Mapping[str, Record | Deferred[Record]],
    ) -> tuple[int, ...]:
        """Give names and numbers that were checked a row each, in one step."""
        rows = dict(zip(names, range(self._next_row, self._next_row + len(names)), strict=True))
        self._next_row += len(names)
        for name, head in heads.items():
            if isinstance(head, Head):
                self._register_head(rows[name], head.requires_grad_(False))
        self._snapshot = self._snapshot.with_added(rows, slots, heads, records)
        return tuple(rows.values())

    # -- changing -----------------------------------------------------------------------------------------------------

    def set_trainable(self, name: str | int, trainable: bool = True) -> None:
        """Turn a row into a parameter of its own, or lay it back into the table."""
        with self._lock, torch.inference_mode(False):
            held, row = self._changeable(name, "Training")
            head = held.heads.get(row)
            if head is not None and (trainable or f"row{row}" in self.heads):
                self._register_head(row, head.requires_grad_(trainable))
                held = self._snapshot = held.with_head(row, head)  # one that was made just now stays
            if trainable and row not in held.parameters:
                parameter = nn.Parameter(held.vector(row))
                self._register_vector(row, parameter)
                self._snapshot = held.with_trained(row, parameter)
            elif not trainable and row in held.parameters:
                (slot,) = self._table.store(self._checked(str(name), self.vector(row)).unsqueeze(0))
                self._snapshot = held.with_resting({row: slot})
                self._register_vector(row, None)

    def set_vector(self, name: str | int, vectors: Tensor) -> None:
        """Give an adapter other numbers; a parameter in training is written in place, its optimizer keeps it."""
        with self._lock, torch.inference_mode(False):
            held, row = self._changeable(name, "Changing")
            values = self._checked(str(name), vectors)
            if row in held.parameters:
                with torch.no_grad():
                    write(self._with_live(held, [row]).parameters[row], values)
                return
            (slot,) = self._table.store(values.unsqueeze(0))
            self._snapshot = held.with_resting({row: slot})

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
        with self._lock, torch.inference_mode(False):
            held, row = self._changeable(name, "Replacing")
            if row in held.parameters:
                raise BankError(
                    f"Replacing adapter {held.names[row]!r}: it is in training, and its optimizer would go on with "
                    "what is no longer there. Change its numbers with set_vector, or lay it at rest first: "
                    "set_trainable(name, False)."
                )
            (slot,) = self._table.store(self._checked(str(name), vectors).unsqueeze(0))
            self._register_head(row, head if head is None else head.requires_grad_(False))
            self._snapshot = held.with_resting({row: slot}).with_head(row, head).with_record(row, record)

    def remove(self, name: str | int) -> None:
        """Take an adapter out. Its number is never given to another one; its place in the table is."""
        with self._lock:
            held, row = self._changeable(name, "Removing")
            self._snapshot = held.without(row)
            self._register_vector(row, None)
            self._register_head(row, None)

    def rename(self, name: str | int, new: str) -> None:
        """Give an adapter another name; its row stays.

        Raises:
            BankError: For an unknown name, or a new one in use.
        """
        with self._lock:
            held = self._snapshot
            row = held.row(name)
            if row == BASE_ROW or not new or new == BASE_NAME or new in held.rows:
                raise BankError(f"Renaming adapter {name!r} to {new!r}: this name is not free. Choose another one.")
            self._snapshot = held.renamed(row, new)

    def _set_record(self, row: int, record: Record | None) -> None:
        with self._lock:
            held, row = self._changeable(row, "Describing")
            self._snapshot = held.with_record(row, record)

    def _changeable(self, adapter: str | int, doing: str) -> tuple[Snapshot, int]:
        """Return what the bank holds and the row of an adapter, which is not the base."""
        held = self._snapshot
        row = held.row(adapter)
        if row == BASE_ROW:
            raise BankError(f"{doing} row 0: it is the base ({BASE_NAME!r}), always ones, and stays. Add an adapter.")
        return held, row

    def _checked(self, name: str, vectors: Tensor | None) -> Tensor:
        if vectors is None:
            return torch.ones(self.plan.width, dtype=self.dtype, device=self._table.device)
        if vectors.shape != (self.plan.width,):
            raise BankError(
                f"Setting adapter {name!r}: its row has shape {tuple(vectors.shape)}, this base needs "
                f"({self.plan.width},). The adapter belongs to another base or another plan."
            )
        return vectors.detach().to(dtype=self.dtype, device=self._table.device)

    def _check_many(self, names: Sequence[str], table: RowTable, described: Iterable[str]) -> None:
        self._snapshot.check_free(names, described)
        if tuple(table.shape) != (len(names), self.plan.width):
            raise BankError(
                f"Adding {len(names)} adapters: their table has shape {tuple(table.shape)}, expected "
                f"{(len(names), self.plan.width)}. The adapters belong to another base or another plan."
            )

    # -- being a module -----------------------------------------------------------------------------------------------

    def _register_vector(self, row: int, parameter: nn.Parameter | None) -> None:
        """Put a row among the parameters, or take it out; whoever is iterating over them goes on undisturbed."""
        self.vectors.__dict__["_parameters"] = dict(self.vectors._parameters)
        if parameter is not None:
            self.vectors[f"row{row}"] = parameter
        elif f"row{row}" in self.vectors:
            del self.vectors[f"row{row}"]

    def _register_head(self, row: int, head: Head | None) -> None:
        self.heads.__dict__["_modules"] = dict(self.heads._modules)
        if head is not None:
            self.heads[f"row{row}"] = head.to(self._table.device).train(self.training)
        elif f"row{row}" in self.heads:
            del self.heads[f"row{row}"]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Bank:
        """Follow the model to another device, never to another dtype."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor).device)

        with self._lock, torch.inference_mode(False):
            super()._apply(move, recurse)
            held = self._snapshot.with_parameters({row: self.vectors[f"row{row}"] for row in self._snapshot.parameters})
            self._table, slots = self._table.moved(fn, [held.slots[row] for row in held.resting])
            moved = {BASE_ROW: self._table.ones, **dict(zip(held.resting, slots, strict=True))}
            self._snapshot = held.with_resting(moved)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Put the rows at rest and the names into a state dict, as tensors: they are no parameters."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        held = self._snapshot
        destination[f"{prefix}table"] = self.table
        destination[f"{prefix}names"] = torch.tensor(list(json.dumps(held.rows).encode()), dtype=torch.uint8)

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
        with self._lock, torch.inference_mode(False):
            held = self._snapshot
            rows, shape = json.loads(bytes(names.tolist())), (len(held.resting), self.plan.width)
            if rows != held.rows or table.shape != shape:
                errors.append(
                    f"Loading a bank: the state holds adapters {told_rows(rows)} and rows at rest of shape "
                    f"{tuple(table.shape)}, this bank {told_rows(held.rows)} and {shape}. Add the same adapters first."
                )
                return
            slots = self._table.store(table.detach().to(dtype=self.dtype, device=self._table.device))
            self._snapshot = held.with_resting(dict(zip(held.resting, slots, strict=True)))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock behind when copied or pickled."""
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a new lock."""
        super().__setstate__(state)
        self._lock = threading.RLock()


def _take_loaded(bank: Bank, _: Any) -> None:
    """Go on with the parameters that `load_state_dict(assign=True)` has put in the place of others."""
    with bank._lock:
        bank._snapshot = bank._with_live(bank._snapshot, tuple(bank._snapshot.parameters))
