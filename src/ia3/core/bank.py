"""The bank: many adapters on one base, a table with one row per adapter.

Row 0 is always ones: the base. A row at rest lies in one table; a row in training is its own flat parameter, so that an
optimizer touches only what is trained. Every change makes a new `Snapshot`; a forward pass that has taken one keeps the
rows it started with. This file knows rows and names; how rows reach the sites of a model is `attach`'s matter.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ia3.core.heads import Head
from ia3.core.sites import Plan
from ia3.errors import BankError, near_matches

BASE_NAME = "__base__"
BASE_ROW = 0


@dataclass(frozen=True)
class Snapshot:
    """What a bank holds at one moment; never changed after it is made.

    Attributes:
        rows: Row of each name.
        table: Rows at rest, shape (capacity, width), fp32 or float64. Row 0 is ones.
        parameters: Rows in training, each of shape (width,), by row.
        heads: Heads by row.
        used: Number of rows of the table that were ever given out.
    """

    rows: Mapping[str, int]
    table: Tensor
    parameters: Mapping[int, Tensor]
    heads: Mapping[int, Head]
    used: int

    @cached_property
    def taken(self) -> frozenset[int]:
        """The rows that hold something, the base among them."""
        return frozenset((BASE_ROW, *self.rows.values()))

    def row(self, adapter: str | int) -> int:
        """Return the row of a name, or check a row.

        Raises:
            BankError: For an unknown name or a row that holds no adapter.
        """
        if isinstance(adapter, str):
            if adapter == BASE_NAME:
                return BASE_ROW
            if adapter not in self.rows:
                raise BankError(
                    f"Looking up adapter {adapter!r}: the bank has no such name."
                    f"{near_matches(adapter, self.rows)} {BASE_NAME!r} is the base."
                )
            return self.rows[adapter]
        if isinstance(adapter, bool) or adapter not in self.taken:
            known = ", ".join(["0 (the base)", *(f"{row} ({name})" for name, row in list(self.rows.items())[:8])])
            raise BankError(f"Looking up row {adapter!r}: no adapter lies there, expected one of {known}.")
        return int(adapter)

    def vector(self, row: int) -> Tensor:
        """Return one row, shape (width,); the parameter itself if it is in training."""
        return self.parameters[row] if row in self.parameters else self.table[row]

    def gather(self, rows: Sequence[int]) -> Tensor:
        """Return the rows of a batch, shape (len(rows), width), or (1, width) where all are the same.

        Always a copy: neither a later `Bank.add` nor `Bank.set_vector` changes what a pass under way multiplies by.
        """
        distinct = sorted(set(rows))
        if len(distinct) == 1:
            return self.vector(distinct[0]).unsqueeze(0).clone()
        if not any(row in self.parameters for row in distinct):
            return self.table.index_select(0, torch.tensor(rows, device=self.table.device))
        places = {row: place for place, row in enumerate(distinct)}
        index = torch.tensor([places[row] for row in rows], device=self.table.device)
        return torch.stack([self.vector(row) for row in distinct]).index_select(0, index)


class Bank(nn.Module):
    """Adapters of one base as rows of one table.

    The bank is a module so that a trainer finds its parameters, `.to(device)` moves it and a state dict holds it. Its
    numbers stay fp32 (float64 on a float64 base) whatever the model is cast to: in bf16, 1 + 0.003 rounds to 1.

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
        self._snapshot = Snapshot({}, torch.ones(1, plan.width, dtype=dtype, device=device), {}, {}, used=1)

    @property
    def snapshot(self) -> Snapshot:
        """What the bank holds now, with the tensors that are its parameters now.

        `load_state_dict(assign=True)` and `torch.func.functional_call` put other tensors in their place.
        """
        held = self._snapshot
        live = {row: self.vectors[f"row{row}"] for row in held.parameters if f"row{row}" in self.vectors}
        if all(live.get(row) is parameter for row, parameter in held.parameters.items()):
            return held
        return replace(held, parameters={**held.parameters, **live})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters, in the order they were added; the base is not among them."""
        return tuple(self._snapshot.rows)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of every vector."""
        return self._snapshot.table.dtype

    def row(self, adapter: str | int) -> int:
        """Return the row of a name, or check a row; see `Snapshot.row`."""
        return self._snapshot.row(adapter)

    def gather(self, rows: Sequence[int]) -> Tensor:
        """Return the rows of a batch; see `Snapshot.gather`."""
        return self.snapshot.gather(rows)

    def vector(self, adapter: str | int) -> Tensor:
        """Return a copy of one row, shape (width,), detached."""
        snapshot = self.snapshot
        return snapshot.vector(snapshot.row(adapter)).detach().clone()

    def site_vectors(self, adapter: str | int) -> dict[str, Tensor]:
        """Return a copy of one row cut into its vectors, by site name."""
        row = self.vector(adapter)
        return {site.name: row[span] for site, span in self.plan.spans()}

    def add(
        self, name: str, vectors: Tensor | None = None, *, trainable: bool = False, head: Head | None = None
    ) -> int:
        """Add an adapter and return its row.

        Args:
            name: New name, not empty and not `__base__`.
            vectors: The row, shape (width,); ones if left out. Copied.
            trainable: Whether the row becomes a parameter of its own.
            head: Its head, if it has one; trainable like the row.

        Raises:
            BankError: For a name in use, or a row of another width.
        """
        with self._lock, torch.inference_mode(False):
            old = self.snapshot
            if not name or name == BASE_NAME:
                raise BankError(f"Adding adapter {name!r}: this name is not free to use. Choose another one.")
            if name in old.rows:
                raise BankError(
                    f"Adding adapter {name!r}: the bank has one of this name. Remove it or rename it first."
                )
            row = old.used
            table = _with_capacity(old.table, row + 1)
            table[row] = self._checked(name, vectors)
            heads = old.heads if head is None else {**old.heads, row: head}
            self._snapshot = replace(old, rows={**old.rows, name: row}, table=table, heads=heads, used=row + 1)
            if head is not None:
                self.heads[f"row{row}"] = head.to(table.device).train(self.training)
            self.set_trainable(name, trainable)
            return row

    def set_trainable(self, name: str | int, trainable: bool = True) -> None:
        """Turn a row into a parameter of its own, or lay it back into the table."""
        with self._lock, torch.inference_mode(False):
            old = self.snapshot
            row = old.row(name)
            if row == BASE_ROW:
                raise BankError(f"Training row 0: it is the base ({BASE_NAME!r}) and always ones. Add an adapter.")
            if row in old.heads:
                old.heads[row].requires_grad_(trainable)
            if trainable == (row in old.parameters):
                return
            parameters = dict(old.parameters)
            if trainable:
                self.vectors[f"row{row}"] = nn.Parameter(old.table[row].detach().clone())
                parameters[row] = self.vectors[f"row{row}"]
                self._snapshot = replace(old, parameters=parameters)
            else:
                table = old.table.clone()
                table[row] = parameters.pop(row).detach()
                del self.vectors[f"row{row}"]
                self._snapshot = replace(old, parameters=parameters, table=table)

    def set_vector(self, name: str | int, vectors: Tensor) -> None:
        """Give an adapter other numbers; a parameter in training is written in place, its optimizer keeps it."""
        with self._lock, torch.inference_mode(False):
            old = self.snapshot
            row = old.row(name)
            if row == BASE_ROW:
                raise BankError(f"Changing row 0: it is the base ({BASE_NAME!r}) and always ones. Add an adapter.")
            values = self._checked(str(name), vectors)
            if row in old.parameters:
                with torch.no_grad():
                    old.parameters[row].copy_(values)
                return
            table = old.table.clone()
            table[row] = values
            self._snapshot = replace(old, table=table)

    def remove(self, name: str) -> None:
        """Take an adapter out; its row is not given to another one."""
        with self._lock:
            old = self.snapshot
            row = old.row(name)
            if row == BASE_ROW:
                raise BankError(f"Removing {BASE_NAME!r}: it is the base, row 0, and stays.")
            self._snapshot = replace(
                old,
                rows={n: r for n, r in old.rows.items() if r != row},
                parameters={r: p for r, p in old.parameters.items() if r != row},
                heads={r: h for r, h in old.heads.items() if r != row},
            )
            if f"row{row}" in self.vectors:
                del self.vectors[f"row{row}"]
            if f"row{row}" in self.heads:
                del self.heads[f"row{row}"]

    def rename(self, name: str, new: str) -> None:
        """Give an adapter another name; its row stays.

        Raises:
            BankError: For an unknown name, or a new one in use.
        """
        with self._lock:
            old = self.snapshot
            row = old.row(name)
            if row == BASE_ROW or not new or new == BASE_NAME or new in old.rows:
                raise BankError(f"Renaming adapter {name!r} to {new!r}: this name is not free. Choose another one.")
            self._snapshot = replace(old, rows={new if r == row else n: r for n, r in old.rows.items()})

    def _checked(self, name: str, vectors: Tensor | None) -> Tensor:
        table = self._snapshot.table
        if vectors is None:
            return torch.ones(self.plan.width, dtype=table.dtype, device=table.device)
        if vectors.shape != (self.plan.width,):
            raise BankError(
                f"Setting adapter {name!r}: its row has shape {tuple(vectors.shape)}, this base needs "
                f"({self.plan.width},). The adapter belongs to another base or another plan."
            )
        return vectors.detach().to(dtype=table.dtype, device=table.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Bank:
        """Follow the model to another device, never to another dtype."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(fn(tensor).device)

        with self._lock:
            super()._apply(move, recurse)
            parameters = {row: self.vectors[f"row{row}"] for row in self._snapshot.parameters}
            self._snapshot = replace(self._snapshot, table=move(self._snapshot.table), parameters=parameters)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Put the whole table and the names into a state dict, as tensors: rows at rest are no parameters."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        held = self.snapshot
        destination[f"{prefix}table"] = held.table[: held.used]
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
        with self._lock:
            old = self.snapshot
            rows = json.loads(bytes(names.tolist()))
            if rows != dict(old.rows) or table.shape != (old.used, self.plan.width):
                errors.append(
                    f"Loading a bank: the state holds adapters {rows} in a table of shape {tuple(table.shape)}, this "
                    f"bank has {dict(old.rows)} and ({old.used}, {self.plan.width}). Add the same adapters first."
                )
                return
            self._snapshot = replace(old, table=table.detach().to(old.table).clone())

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock behind when copied or pickled."""
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a new lock."""
        super().__setstate__(state)
        self._lock = threading.RLock()


def _with_capacity(table: Tensor, rows: int) -> Tensor:
    """Return the table itself if `rows` fit, else a copy of twice the size; rows given out keep their numbers."""
    if rows <= table.shape[0]:
        return table
    larger = torch.ones(max(rows, 2 * table.shape[0]), table.shape[1], dtype=table.dtype, device=table.device)
    larger[: table.shape[0]] = table
    return larger
