"""What may go into a packed store: names that are free, adapters of its base, vectors that its plan has a place for.

Faults are gathered, so that of hundreds of adapters all that cannot be added are told at once. This file knows adapters
and names; how they are written is `store_writing`'s matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ia3.adapters.adapter import Adapter
from ia3.adapters.identity import short
from ia3.adapters.store_records import Parts, find_misfit, pack_adapter, pack_description
from ia3.adapters.store_tables import name_fault
from ia3.adapters.store_writing import Writer
from ia3.adapters.targets import CLASSIFIER_NAMES, find_heads
from ia3.bases.revisions import address_in, differ
from ia3.core.sites import Plan
from ia3.errors import AdapterError

Given = Adapter | Callable[[], Adapter]  # an adapter, or what loads it when its turn comes
Adapters = Mapping[str, Given] | Iterable[tuple[str, Given]]
_SHOWN = 5


def add_adapters(store: Additions, adapters: Adapters, *, half: bool = False, replaces: bool = False) -> None:
    """Put adapters behind what a store holds.

    Args:
        store: Where.
        adapters: By name.
        half: Store l − 1 in two bytes a number.
        replaces: Whether a name may be one that the store has.

    Raises:
        AdapterError: If one cannot be added; all of them are named (the first five).
    """
    faults: list[str] = []
    taken = set() if replaces else set(store.writer.lines)
    given_before: set[str] = set()
    for name, given in adapters.items() if isinstance(adapters, Mapping) else adapters:
        try:
            fault = name_fault(name, taken, given_before)
            parts = None if fault else store.check(given() if callable(given) else given, half=half)
        except AdapterError as error:
            fault = str(error)
        given_before.add(name)
        if fault:
            faults.append(f"adapter {name!r}: {fault}")
        elif not faults and parts is not None:
            store.put(name, parts)
    if faults:
        raise AdapterError(_told(store.doing, faults))


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU, shared with it."""
    return tensor.view(torch.uint8).numpy().data


def told_base(base: Mapping[str, Any]) -> str:
    """Return a base in words."""
    print_ = base.get("fingerprint")
    return f"{address_in(base) or 'without a name'!r} (fingerprint {short(print_) if print_ else 'not known'})"


def _parents(path: str) -> list[str]:
    """Return a path and those of the modules around it, the outermost first."""
    parts = path.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def _told(doing: str, faults: Sequence[str]) -> str:
    if len(faults) == 1:
        return f"{doing}: {faults[0]}"
    more = f" And {len(faults) - _SHOWN} more." if len(faults) > _SHOWN else ""
    return f"{doing}: {len(faults)} adapters cannot be added, so none was: {' '.join(faults[:_SHOWN])}{more}"


class Additions:
    """A store that adapters are being added to.

    Attributes:
        plan: Its plan.
        base: What is known of its base; an adapter that records it, the first one, makes it known.
        writer: Writes its blocks.
        doing: Beginning of errors.
    """

    def __init__(self, plan: Plan, base: Mapping[str, Any], writer: Writer, doing: str) -> None:
        self.plan, self.base, self.writer, self.doing = plan, dict(base), writer, doing

    def check(self, adapter: Adapter, *, half: bool) -> Parts:
        """Return an adapter's parts, if it belongs here.

        Raises:
            AdapterError: If it is of another base, does not fit the plan, or cannot be written.
        """
        own = adapter.base_facts
        is_known = bool(own.get("fingerprint") and self.base.get("fingerprint"))
        if own["fingerprint"] != self.base["fingerprint"] if is_known else differ(own, self.base):
            raise AdapterError(
                f"it was trained on base {told_base(own)}, the store holds adapters of base {told_base(self.base)}. "
                "Pack it into a store of its own."
            )
        poolings = [str(one.get("pooling") or "own") for one in (own, self.base)]
        if is_known and adapter.head_modules and poolings[0] != poolings[1]:
            raise AdapterError(
                f"its head reads another place of the base ({poolings[0]}) than those of the store ({poolings[1]}). "
                "Pack it into a store of its own."
            )
        misfit = find_misfit(adapter, self.plan)
        if misfit:
            raise AdapterError(
                f"{misfit}. It was trained on another base: {adapter.config.base}. Pack it into a store of its own."
            )
        known = (*(own.get("head_modules") or ()), *(self.base.get("head_modules") or ()), *CLASSIFIER_NAMES)
        strange = [path for path in adapter.head_modules if not find_heads(_parents(path), known)]
        if strange:
            raise AdapterError(
                f"it brings {strange[0]!r}, which is no head that the store knows of its base, so that it would be "
                "left out when it answers. Adapters of a store share the base's embeddings and output layer; keep it "
                "in its folder."
            )
        parts = self._pack(adapter, half=half)
        self._learn_base(adapter)
        return parts

    def put(self, name: str, parts: Parts) -> None:
        """Write an adapter."""
        row = bytes_of(parts.row)
        self.writer.add(name, parts.text, row, parts.tensors, parts.stored, parts.error)

    def _pack(self, adapter: Adapter, *, half: bool) -> Parts:
        try:
            return pack_adapter(adapter, self.plan, half=half)
        except AdapterError as error:
            doing, _, told = str(error).partition(": ")
            if doing != "Laying out an adapter":
                raise
            raise AdapterError(
                f"{told.partition(' Load the adapter')[0]} Pack it into a store of its own, or all of them with --base "
                "if the base's own plan has these places."
            ) from error

    def _learn_base(self, adapter: Adapter) -> None:
        own = adapter.record.get("base") or {}
        known = adapter.base_facts
        is_better = own.get("fingerprint") or (known["name"] and not self.base)
        if is_better and not self.base.get("fingerprint"):
            self.base = known
            self.writer.describe(pack_description(self.plan, known))
