"""A base without an adapter, also where a bank is on it. This file knows models and banks, and nothing of texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from ia3.core.attach import Attachment, attach_bank, attachment_of
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.errors import BankError, PlanError
from ia3.fast.acceleration import accelerated


@contextmanager
def base_alone(model: nn.Module) -> Iterator[None]:
    """Have passes of a model be those of the base inside, whatever adapters are on it, and the faster ones.

    Faster passes belong to a bank, so that a model without one has an empty one inside. A model that no vector can be
    placed in keeps its own passes. Other threads must leave the model alone meanwhile.
    """
    with ExitStack() as stack:
        attachment = _attachment(model, stack)
        if attachment is not None:
            stack.enter_context(accelerated(attachment))
            stack.enter_context(attachment.disabled())
        yield


def _attachment(model: nn.Module, stack: ExitStack) -> Attachment | None:
    """Return the handle of a model's bank, of an empty one that goes with the stack, or None."""
    try:
        return attachment_of(model)
    except BankError:
        pass
    try:
        attachment = attach_bank(model, Bank(find_plan(model)))
    except (PlanError, BankError):  # the latter where a part of it has a bank
        return None
    stack.callback(attachment.detach)
    return attachment
