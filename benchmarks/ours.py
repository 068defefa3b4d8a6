"""Our side: everything the benchmark needs of ia3's own training, in one place.

The modules are imported when a method is built, so that a checkout without one of them measures the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional

from benchmarks.bases import Case
from benchmarks.methods import Recipe, Training
from benchmarks.workload import Work
from ia3.adapters.attached import attach
from ia3.training.loop import trained_tensors
from ia3.training.losses import sum_loss

ADAPTER = "default"


def _ia3(case: Case, works: Sequence[Work], *, compiled: bool) -> Training:
    from ia3.fast.acceleration import accelerate

    attachment = attach(case.model, head_modules=case.head_modules, name=ADAPTER)
    accelerate(attachment, compiled=compiled)
    model = case.model
    trained = [tensor for tensor in trained_tensors(attachment, ADAPTER).values() if tensor.requires_grad]
    return Training(model, lambda work: sum_loss(model, case.kind, work.batch, ADAPTER) / work.targets, trained)


def _to_int8(model: Any, *, rounds_gradients: bool) -> None:
    from ia3.bases.precision import to_int8

    to_int8(model, rounds_gradients=rounds_gradients)


def fastest_product() -> Callable[[Tensor, Tensor], Tensor]:
    """Return the product x · weightᵀ of the fastest library on this machine: (rows, in), (out, in) → (rows, out)."""
    from ia3.kernels.products import fastest_library, frozen_linear

    return frozen_linear if fastest_library() == "onednn" else functional.linear


OURS = {
    "ia3": Recipe(partial(_ia3, compiled=False)),
    "ia3-compiled": Recipe(partial(_ia3, compiled=True), is_compiled=True),
    "ia3-int8": Recipe(partial(_ia3, compiled=False), prepare=partial(_to_int8, rounds_gradients=False)),
    "ia3-int8-gradients": Recipe(partial(_ia3, compiled=False), prepare=partial(_to_int8, rounds_gradients=True)),
}
