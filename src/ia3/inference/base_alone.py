"""A base without an adapter, also where a bank is on it. This file knows models and banks, and nothing of texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from torch import nn

from ia3.core.attach import attachment_of
from ia3.errors import BankError


@contextmanager
def base_alone(model: nn.Module) -> Iterator[None]:
    """Have passes of a model be those of the base inside, whatever adapters are on it."""
    disabled: AbstractContextManager[None] = nullcontext()
    with suppress(BankError):  # it has no bank
        disabled = attachment_of(model).disabled()
    with disabled:
        yield
