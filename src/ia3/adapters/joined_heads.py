"""The head of an adapter that several have been combined into.

A head is no task vector: it is never scaled, trimmed or negated. Equal heads are kept as they are; heads of one label
set may be averaged; else it must be said whose head the result has. This file knows heads and labels, not vectors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ia3.adapters.adapter import Adapter
from ia3.adapters.task_vectors import average_rows
from ia3.errors import AdapterError, SettingsError, near_matches


def join_heads(
    adapters: Mapping[str, Adapter],
    *,
    head_from: str | None = None,
    weights: Sequence[float] | None = None,
    may_average: bool = False,
) -> JoinedHead:
    """Return the head that a combination of adapters has.

    Args:
        adapters: By name.
        head_from: The adapter whose head it shall be.
        weights: For an average, one for each adapter; divided by their sum. All the same if left out.
        may_average: Whether heads that differ may be averaged, if they are of one label set.

    Raises:
        SettingsError: If there is no adapter of the name.
        AdapterError: If the heads differ and cannot be averaged; the adapter that is in the way is named.
    """
    if head_from is not None:
        if head_from not in adapters:
            raise SettingsError(
                f"Combining adapters: head_from is {head_from!r}, which is none of them."
                f"{near_matches(head_from, adapters)}"
            )
        return _of(adapters[head_from])
    with_head = [name for name, adapter in adapters.items() if adapter.head]
    if not with_head:
        return JoinedHead()
    first = with_head[0]
    for name, adapter in adapters.items():
        fault = _difference(adapters[first], adapter)
        if fault:
            raise _refusal(f"the head of {name!r} is not that of {first!r}: {fault}", first)
    if all(_is_equal(adapters[first], adapter) for adapter in adapters.values()):
        return _of(adapters[first])
    if not may_average:
        raise _refusal("their heads have other numbers, and this method is for vectors alone", first)
    _check_labels(adapters, first)
    if weights is not None and math.fsum(weights) == 0:
        raise _refusal("their heads cannot be averaged with weights whose sum is 0", first)
    head = {
        key: _average([adapter.head[key] for adapter in adapters.values()], weights) for key in adapters[first].head
    }
    return JoinedHead(head, adapters[first].head_modules, adapters[first].config.modules_to_save, is_averaged=True)


def _of(adapter: Adapter) -> JoinedHead:
    return JoinedHead(adapter.head, adapter.head_modules, adapter.config.modules_to_save)


def _difference(first: Adapter, other: Adapter) -> str | None:
    """Return what makes two heads tensors that cannot be averaged, or None."""
    if not other.head:
        return "it has none"
    odd = sorted(set(first.head) ^ set(other.head))
    if odd:
        return f"they differ in {odd[0]!r}"
    for key, tensor in first.head.items():
        if other.head[key].shape != tensor.shape or other.head[key].dtype != tensor.dtype:
            return (
                f"{key!r} is {tuple(other.head[key].shape)} {other.head[key].dtype}, there {tuple(tensor.shape)} "
                f"{tensor.dtype}"
            )
    return None


def _is_equal(first: Adapter, other: Adapter) -> bool:
    same_labels = first.record.get("labels") == other.record.get("labels")
    return same_labels and all(torch.equal(tensor, other.head[key]) for key, tensor in first.head.items())


def _check_labels(adapters: Mapping[str, Adapter], first: str) -> None:
    """Raise if an output of one head may mean another label than that of the next."""
    wanted = adapters[first].record.get("labels")
    for name, adapter in adapters.items():
        labels = adapter.record.get("labels")
        if not labels:
            raise _refusal(f"the record of {name!r} does not say what the outputs of its head mean", first)
        if labels != wanted:
            raise _refusal(f"the labels of {name!r} are {labels}, those of {first!r} {wanted}", first)


def _average(tensors: Sequence[Tensor], weights: Sequence[float] | None) -> Tensor:
    if not tensors[0].is_floating_point():  # a counter or a table of positions
        return tensors[0]
    return average_rows(torch.stack([tensor.flatten() for tensor in tensors]), weights).reshape(tensors[0].shape)


def _refusal(what: str, name: str) -> AdapterError:
    return AdapterError(
        f"Combining adapters with heads: {what}. Say whose head the result has: head_from={name!r} (--head-from)."
    )


@dataclass(frozen=True, eq=False)
class JoinedHead:
    """A head.

    Attributes:
        tensors: By their full name in the base.
        modules: Paths of its modules.
        saved: `modules_to_save` of PEFT's config.
        is_averaged: Whether it is the average of several.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    saved: tuple[str, ...] | None = None
    is_averaged: bool = False
