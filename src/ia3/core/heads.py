"""Heads: the modules an adapter brings itself, and running each example through its own.

A head is every module that the base's checkpoint does not have, such as a classifier. This file knows modules and rows;
which modules are heads is said by whoever loaded the base.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ia3.errors import BankError, near_matches


def copy_head(model: nn.Module, paths: Sequence[str]) -> Head:
    """Return a trainable copy of the modules of `model` at `paths`, without what was attached to them.

    Raises:
        BankError: If the model has no module at a path.
    """
    modules = {}
    for path in paths:
        try:
            module = model.get_submodule(path)
        except AttributeError as error:
            known = (name for name, _ in model.named_modules() if name)
            raise BankError(
                f"Copying the head: the model has no module {path!r}.{near_matches(path, known)}"
            ) from error
        routed = module.__dict__.pop("forward", None)  # set by attach; a deep copy would drag the bank along
        try:
            modules[path] = copy.deepcopy(module).requires_grad_(True)
        finally:
            if routed is not None:
                module.__dict__["forward"] = routed
    return Head(modules)


def run_heads(
    path: str,
    plain: Callable[..., Any],
    parts: Mapping[int, nn.Module | None],
    rows: Sequence[int],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Run each adapter's module on its own examples.

    Args:
        path: Path of the module in the base, for the error.
        plain: What the base does there; used for rows without a part.
        parts: The module of each row.
        rows: Row of each example, or one row for all.
        args: What the module was called with; tensors have the examples first.
        kwargs: The same by name.

    Returns:
        What the module returns. With different adapters in the batch a tensor of shape (batch, …, widest), where
        heads with fewer outputs are filled with −inf.

    Raises:
        BankError: If the input does not have one example for each row.
    """

    def run(row: int, inputs: tuple[Any, ...]) -> Any:
        part = parts.get(row)
        return plain(*inputs, **kwargs) if part is None else part(*_in_dtype_of(part, inputs), **kwargs)

    if len(set(rows)) == 1:
        return run(rows[0], args)
    x = args[0]
    if x.shape[0] != len(rows):
        raise BankError(
            f"Running the head {path!r}: its input has shape {tuple(x.shape)}, expected {len(rows)} examples first."
        )
    where = {row: [i for i, r in enumerate(rows) if r == row] for row in dict.fromkeys(rows)}
    outputs = [run(row, tuple(a[index] if isinstance(a, Tensor) else a for a in args)) for row, index in where.items()]
    width = max(out.shape[-1] for out in outputs)
    padded = [nn.functional.pad(out, (0, width - out.shape[-1]), value=-torch.inf) for out in outputs]
    order = torch.tensor([i for index in where.values() for i in index], device=x.device)
    return torch.cat([out.to(padded[0].dtype) for out in padded]).index_select(0, order.argsort())


def _in_dtype_of(part: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Cast what enters a head: it stays fp32 beside a bf16 base."""
    dtype = next((p.dtype for p in part.parameters()), None)
    return tuple(x.to(dtype) if dtype and isinstance(x, Tensor) and x.is_floating_point() else x for x in inputs)


class Head(nn.Module):
    """The trained modules of one adapter that the base's checkpoint does not have, by their path in the base."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.paths = tuple(modules)
        self.parts = nn.ModuleList(modules.values())

    def part(self, path: str) -> nn.Module | None:
        """Return the module for a path, or None."""
        return self.parts[self.paths.index(path)] if path in self.paths else None

    def tensors(self) -> dict[str, Tensor]:
        """Return every parameter and buffer under the name it has in the base, detached."""
        return {
            f"{path}.{name}": tensor.detach()
            for path, part in zip(self.paths, self.parts, strict=True)
            for name, tensor in part.state_dict().items()
        }
