"""What autograd keeps for the backward pass: distinct memory, counted in bytes, the model's own numbers left out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Kept:
    """Storages that are kept inside the scope, by address, with their sizes in bytes.

    Views share a storage and count once. Parameters and buffers are there anyway and count as nothing.

    Args:
        model: Whose parameters and buffers are left out; None for none.
        besides: Other tensors that are left out.
    """

    def __init__(self, model: nn.Module | None = None, besides: Iterable[Tensor] = ()) -> None:
        own = [] if model is None else [*model.parameters(), *model.buffers()]
        self.bytes: dict[int, int] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}  # for who looks what is kept in excess
        self._left_out = {address(tensor) for tensor in (*own, *besides)}
        self._alive: list[Tensor] = []  # an address that is freed could be given again
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.bytes.values())

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor's storage is kept."""
        return address(tensor) in self.bytes

    def _pack(self, tensor: Tensor) -> Tensor:
        place = address(tensor)
        if place not in self._left_out:
            self.bytes[place] = tensor.untyped_storage().nbytes()
            self.shapes[place] = tuple(tensor.shape)
            self._alive.append(tensor)
        return tensor

    def __enter__(self) -> Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)


def address(tensor: Tensor) -> int:
    """Return where a tensor's storage begins."""
    return tensor.untyped_storage().data_ptr()
