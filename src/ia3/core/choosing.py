"""Choosing rows: what a user gives, or has activated, read into a `Scope`.

A name that is not there, or an adapter whose head nothing is sent to, is an error here, before anything runs. This file
knows a bank and what may be written for rows; it knows nothing of modules and batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ia3.core.bank import Bank
from ia3.core.calls import Scope
from ia3.core.strengths import AdapterRef, AdapterRefs, split_strengths
from ia3.errors import BankError
from ia3.names import BASE_NAME

Rows = AdapterRefs | Tensor
_SHOWN = 8  # names in a message


def read_rows(bank: Bank, head_paths: Collection[str], rows: Any) -> Scope:
    """Read a name or row for all, or one for each example, from a sequence, array or tensor.

    Args:
        bank: The bank.
        head_paths: Modules of the model that adapters bring themselves.
        rows: What was given; a name or row may be one at a strength, which its head does not feel.

    Raises:
        BankError: For anything else, an unknown name or row, or an adapter whose head would not be run.
    """
    given = rows.tolist() if hasattr(rows, "tolist") else rows
    if isinstance(given, AdapterRef):
        return _scope(bank, head_paths, [given], is_uniform=True)
    names = [_plain(row) for row in given] if isinstance(given, Iterable) else []
    if not names or not all(isinstance(row, AdapterRef) for row in names):
        raise BankError(f"Reading the rows of a batch: got {rows!r}, expected one name or row for each example.")
    return _scope(bank, head_paths, names, is_uniform=False)


def default_rows(bank: Bank, head_paths: Collection[str], active: int | None) -> Scope:
    """Return the scope of the activated or only adapter.

    Raises:
        BankError: If there is none, it was removed, or its head would not be run.
    """
    known = bank.look_up(())[0].rows
    in_backward = torch._C._current_graph_task_id() != -1
    if in_backward and len(known) != 1:
        raise BankError(
            "Recomputing a checkpointed block: its rows are not known here. Enable gradient checkpointing with "
            "model.gradient_checkpointing_enable() on the model that has the bank, or give rows= to its forward."
        )
    if active is not None:
        return _scope(bank, head_paths, [active], is_uniform=True)
    if len(known) == 1:
        return _scope(bank, head_paths, list(known), is_uniform=True)
    names = ", ".join(map(repr, list(known)[:_SHOWN])) or "none"
    raise BankError(
        f"Running the model: no rows are given and the bank has {len(known)} adapters ({names}). Give "
        f"rows=[…] with a name for each example, activate one, or use rows={BASE_NAME!r} for the base."
    )


def _scope(bank: Bank, head_paths: Collection[str], choices: Sequence[AdapterRef], *, is_uniform: bool) -> Scope:
    adapters, strengths = split_strengths(choices)
    snapshot, rows = bank.look_up(adapters)
    for name, head in snapshot.heads_of(rows).items():
        lost = [path for path in head.paths if path not in head_paths]
        if lost:
            raise BankError(
                f"Using adapter {name!r}: it brings its own {lost[0]!r}, and no example is sent there "
                f"yet. Call route_heads([{lost[0]!r}]) on the handle of the bank first."
            )
    return Scope(rows, is_uniform, False, snapshot, strengths)


def _plain(row: Any) -> Any:
    """Turn numpy's and torch's numbers into Python's."""
    return row.item() if hasattr(row, "item") else row
