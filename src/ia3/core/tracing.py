"""Tracing: a program that is written down while the model runs once cannot choose adapters later.

`torch.compile` asks for the rows at every call, a trace and an exported program never again: they would answer by the
adapter of the one run, whatever is asked for. This file knows torch's ways of writing a run down, and no rows.
"""

from __future__ import annotations

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from ia3.errors import BankError


def check_untraced() -> None:
    """Raise if this run of the model is being written down.

    Raises:
        BankError: Saying how a program with one adapter is made.
    """
    if torch._C._get_tracing_state() is not None or _is_exporting() or get_proxy_mode() is not None:
        raise BankError(
            "Tracing the model: it has a bank, and the traced program would answer by one adapter for good, whatever "
            "rows are asked for. Merge the adapter and trace that: ia3.merge(…); torch.compile keeps rows."
        )


def _is_exporting() -> bool:
    return bool(getattr(torch.compiler, "is_exporting", lambda: False)())
