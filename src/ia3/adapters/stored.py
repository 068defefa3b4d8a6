"""The adapters of a packed store on a model: all of them by name, each read when a batch needs it.

The bank gets a row for every adapter at once; numbers, head and record stay in the file. What was read last is kept,
within a bound, so a request for the same adapter costs no second look; the rest of the store takes no memory but its
names. This file brings store and bank together; how bytes lie is `store`'s matter, how rows reach a batch the core's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ia3.adapters.attached import _attach_empty, classifier_names, record_on_model
from ia3.adapters.config import kind_of_model
from ia3.adapters.fitting import build_head, named_modules
from ia3.adapters.store import Store, rows_from_store
from ia3.adapters.store_records import join_head
from ia3.adapters.targets import find_heads
from ia3.core.attach import Attachment, attachment_of
from ia3.core.deferred import Deferred
from ia3.core.discovery import find_plan
from ia3.core.heads import Head
from ia3.core.projections import model_type_of
from ia3.core.sites import Plan
from ia3.core.snapshot import Record, Snapshot
from ia3.core.table import Slot
from ia3.errors import AdapterError, BankError, PlanError

MOST_BYTES = 256 * 2**20  # of rows that are kept
_FEWEST_ROWS = 64
_MOST_HEADS = 256  # BERT's pooler is 2.4 MB
_MOST_RECORDS = 4096


def attach_store(model: nn.Module, store: Store | str | Path) -> Attachment:
    """Put the adapters of a store on a model, beside those it has, and return the handle.

    Names, and no numbers, are read. A row is read from the file when a batch first needs it. An adapter that is put on
    once more from the same store stays as it is.

    Args:
        model: The base; a fresh one gets a bank.
        store: An opened store, or its path. It must stay open.

    Raises:
        AdapterError: If the store cannot be read, or holds adapters of another base.
        BankError: If the bank has another adapter of one of the names.
        PlanError: If the model has not the modules of the store's plan.

    Example:
        >>> attachment = attach_store(model, "customers.ia3")  # doctest: +SKIP
        >>> model(**inputs, rows=["customer-7", "customer-4211"])  # doctest: +SKIP
    """
    opened = store if isinstance(store, Store) else Store.open(store)
    opened.check_base(model, f"Loading the adapters of {opened.path}")
    try:
        attachment, is_new = attachment_of(model), False
    except BankError:
        attachment, is_new = _attach_empty(model, _plan_for(opened, model), ()), True
    bank = attachment.bank
    names = [name for name in opened.names if not _is_there(bank.snapshot, name, opened.path)]
    rows = StoredRows(opened, tuple(names), bank.plan, bank.dtype)
    routed = _head_paths(opened, model)
    parts = StoredParts(opened, model, bank.snapshot.device, routed)
    try:
        bank.adopt(
            names,
            rows,
            heads={name: Deferred(partial(parts.head, name)) for name in names if opened.has_tensors(name)},
            records={name: Deferred(partial(parts.record, name)) for name in names},
        )
        attachment.route_heads(routed)
    except BankError:
        if is_new:
            attachment.detach()
        raise
    return attachment


def _plan_for(store: Store, model: nn.Module) -> Plan:
    """Return the model's own plan if the store has its places, so that other adapters fit beside; else the store's."""
    own = Plan(store.plan.sites, model_type_of(model), "store")
    try:
        plan = find_plan(model)
    except PlanError:
        return own
    return plan if [site.place for site in plan.sites] == [site.place for site in store.plan.sites] else own


def _head_paths(store: Store, model: nn.Module) -> tuple[str, ...]:
    """Return the modules of a model that adapters of a store may bring themselves."""
    known = tuple(store.base.get("head_modules") or ())
    names = (*known, *(classifier_names(model) if kind_of_model(model) == "encoder" else ()))
    return find_heads(named_modules(model), names) if names else ()


def _is_there(snapshot: Snapshot, name: str, path: Path) -> bool:
    """Whether a bank has an adapter from this very file."""
    numbers = snapshot.entries[snapshot.rows[name]].numbers if name in snapshot.rows else None
    held = numbers.block.rows if isinstance(numbers, Slot) else None
    return isinstance(held, StoredRows) and held.store.path.resolve() == path.resolve()


class StoredRows:
    """The rows of a store's adapters as a table of a bank: read when they are asked for; see `core.table.RowTable`.

    Attributes:
        store: Where they lie.
    """

    def __init__(self, store: Store, names: tuple[str, ...], plan: Plan, dtype: torch.dtype) -> None:
        self.store = store
        self._names = names
        self._plan = plan
        self._dtype = dtype
        most = max(_FEWEST_ROWS, MOST_BYTES // (plan.width * dtype.itemsize))
        self._row = lru_cache(maxsize=most)(self._read)

    @property
    def shape(self) -> torch.Size:
        """Shape (adapters, width)."""
        return torch.Size((len(self._names), self._plan.width))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the bank."""
        return self._dtype

    def index_select(self, dim: int, index: Tensor, /) -> Tensor:
        """Return a copy of rows by their numbers, shape (len(index), width); `dim` is 0."""
        numbers = index.tolist()
        return torch.stack([self._row(number) for number in numbers]) if numbers else torch.empty(0, *self.shape[1:])

    def _read(self, number: int) -> Tensor:
        with torch.inference_mode(False):  # kept for passes that train as well
            return rows_from_store(self.store, [self._names[number]], self._plan)[0].to(self._dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredRows:
        return self


class StoredParts:
    """Heads and records of a store's adapters, made when they are asked for."""

    def __init__(self, store: Store, model: nn.Module, device: torch.device, routed: tuple[str, ...]) -> None:
        self._store = store
        self._routed = routed  # the modules that adapters may bring; another one would never be run
        self._model = model
        self._device = device
        self._metadata = lru_cache(maxsize=_MOST_HEADS)(store.metadata)
        self._head = lru_cache(maxsize=_MOST_HEADS)(self._make_head)
        self._record = lru_cache(maxsize=_MOST_RECORDS)(self._read_record)

    def head(self, name: str) -> Head | None:
        """Return the head of an adapter, or None if its block holds no head.

        Raises:
            AdapterError: If it is damaged, or does not fit the model.
        """
        return self._head(name)

    def record(self, name: str) -> Record:
        """Return what is known of an adapter.

        Raises:
            AdapterError: If it is damaged.
        """
        return self._record(name)

    def _make_head(self, name: str) -> Head | None:
        store = self._store
        with torch.inference_mode(False):
            adapter = join_head(self._metadata(name), store.tensors(name))
            head = build_head(adapter, self._model, f"Loading adapter {name!r} of {store.path}")
            odd = [] if head is None else [path for path in head.paths if path not in self._routed]
            if odd:
                raise AdapterError(
                    f"Loading adapter {name!r} of {store.path}: it brings the module {odd[0]!r}, expected one of "
                    f"{', '.join(map(repr, self._routed)) or 'none'}. Use it apart: ia3 adapters unpack."
                )
            return None if head is None else head.requires_grad_(False).to(self._device).eval()

    def _read_record(self, name: str) -> Mapping[str, Any]:
        known = self._metadata(name)
        return record_on_model(known.config, known.record)

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredParts:
        return self
