"""The adapters of a PeftModel as rows of its bank: adding, loading over one another, freezing.

Every adapter keeps its vectors as a parameter, trained or not, and freezing is `requires_grad` alone: an optimizer that
was made earlier goes on with the right one after `set_adapter`. An adapter that has a part of the bank's plan is ones
in the rest and is never trained, since that would train what its config does not name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ia3.adapters.adapter import Adapter
from ia3.adapters.attached import put_on as put_on_bank
from ia3.adapters.fitting import build_head
from ia3.core.attach import attachment_of
from ia3.core.heads import copy_head
from ia3.errors import AdapterError, BankError
from ia3.peft.config import IA3Config
from ia3.peft.targets import Selection, covers


def add(model: Any, name: str, selection: Selection) -> None:
    """Add a new adapter, frozen."""
    attachment = attachment_of(model)
    width = attachment.bank.plan.width
    vectors = None if selection.config.init_ia3_weights else torch.randn(width)
    head = copy_head(model, selection.heads) if selection.heads else None
    attachment.bank.add(name, vectors, trainable=True, head=head)
    attachment.route_heads(selection.heads)
    model.peft_config[name] = selection.config
    set_grad(model, name, False)


def put_on(model: Any, name: str, adapter: Adapter, config: IA3Config, *, trainable: bool) -> None:
    """Add an adapter that was loaded."""
    is_partial = not covers(adapter.sites, attachment_of(model).bank.plan)
    if is_partial and trainable:
        raise other_plan(f"Loading adapter {name!r} to train it on", model)
    attachment = put_on_bank(model, adapter, name, trainable=trainable)
    attachment.bank.set_trainable(name, True)
    config.inference_mode = not trainable
    model.peft_config[name] = config
    if is_partial:
        model._ia3_partial.add(name)
    set_grad(model, name, trainable)


def overwrite(model: Any, name: str, adapter: Adapter) -> None:
    """Give an adapter that is there the numbers of one that was loaded; an optimizer keeps its parameters."""
    attachment = attachment_of(model)
    doing = f"Loading adapter {name!r} over the one of this name"
    if not covers(adapter.sites, attachment.bank.plan) and name not in model._ia3_partial:
        raise other_plan(doing, model)
    row = adapter.row(attachment.bank.plan)
    old, new = attachment.bank.snapshot.head(attachment.bank.row(name)), build_head(adapter, model, doing)
    numbers = {} if new is None else new.tensors()
    held = {} if old is None else old.tensors()
    if {key: t.shape for key, t in numbers.items()} != {key: t.shape for key, t in held.items()}:
        raise AdapterError(
            f"{doing}: its head has the tensors {_shapes(numbers)}, expected {_shapes(held)}. Load it under a new name."
        )
    attachment.bank.set_vector(name, row)
    attachment.bank.describe(name, dict(adapter.record))
    with torch.no_grad():
        for key, tensor in held.items():
            tensor.copy_(numbers[key])
    set_grad(model, name, attachment.bank.snapshot.vector(attachment.bank.row(name)).requires_grad)


def _shapes(tensors: dict[str, Tensor]) -> str:
    return ", ".join(f"{key} {tuple(tensor.shape)}" for key, tensor in tensors.items()) or "none"


def other_plan(doing: str, model: Any) -> BankError:
    """Return the error for targets that are not those of the bank."""
    names = ", ".join(map(repr, model.peft_config))
    return BankError(
        f"{doing}: its targets are not those of the adapters on this model ({names}), and adapters on one model share "
        "one plan. Give the same targets, or load the base a second time for it."
    )


def set_grad(model: Any, name: str, requires_grad: bool) -> None:
    """Freeze or unfreeze an adapter's vectors and head; one with a part of the plan stays frozen."""
    attachment = attachment_of(model)
    row = attachment.bank.row(name)
    snapshot = attachment.bank.snapshot
    is_trained = requires_grad and name not in model._ia3_partial
    snapshot.vector(row).requires_grad_(is_trained)
    head, record = snapshot.head(row), snapshot.record(row)
    if head is not None:
        head.requires_grad_(is_trained)
    if is_trained and record is not None:  # trained on, it is not what the old data and metrics made
        kept = ("base", "labels", "template")
        attachment.bank.describe(row, {key: v for key, v in record.items() if key in kept})
