"""A merged copy: one adapter multiplied into the weights of a new plain transformers model.

The attached model is never written; it goes on as before. This file knows weights; it knows nothing of files.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ia3.core.attach import Attachment
from ia3.core.sites import Site
from ia3.errors import BankError


@torch.no_grad()
def merge(attachment: Attachment, adapter: str | int) -> Any:
    """Return a new model whose weights hold one adapter; no trace of the bank is left on it.

    An output-side vector multiplies the rows of the weight and the bias, an input-side vector the columns. The product
    is taken in fp32 (float64 for a float64 base) and rounded once to the weight's dtype.

    Args:
        attachment: The handle of the model.
        adapter: Name or row; `__base__` gives a plain copy of the base.

    Returns:
        A model of the same class, with the adapter's head in place of the base's.

    Raises:
        BankError: If the name is unknown, or a weight cannot be scaled because it is quantised or shared with another
            module that carries no vector.
    """
    bank = attachment.bank
    row = bank.row(adapter)
    # the bank stays out of the copy: it may hold thousands of rows
    merged = attachment.stripped(copy.deepcopy(attachment.model, {id(bank): nn.Module()}))
    users = _users_of_weights(merged)
    values = bank.vector(row)
    for site, span in bank.plan.spans():
        module = merged.get_submodule(site.module)
        _check_weight(module, site, users)
        _scale_weight(module, site, values[span])
    head = bank.snapshot.heads.get(row)
    if head is not None:
        for path, part in zip(head.paths, head.parts, strict=True):
            merged.set_submodule(path, copy.deepcopy(part).requires_grad_(True))
    return merged


def _users_of_weights(model: nn.Module) -> dict[int, set[str]]:
    users: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        users.setdefault(id(parameter), set()).add(name.rpartition(".")[0])
    return users


def _check_weight(module: Any, site: Site, users: dict[int, set[str]]) -> None:
    if not module.weight.is_floating_point():
        raise BankError(
            f"Merging {site.module!r}: its weight is {module.weight.dtype}, expected floating point. A quantised base "
            "cannot be merged; load it unquantised."
        )
    shared = users[id(module.weight)] - {site.module}
    if shared:
        raise BankError(
            f"Merging {site.module!r}: its weight is shared with {sorted(shared)[0]!r}, which carries no vector of its "
            "own. Untie the weights first."
        )


def _scale_weight(module: Any, site: Site, vector: Tensor) -> None:
    index = torch.tensor(site.channels.indices(), device=module.weight.device)
    full = torch.ones(site.features, dtype=vector.dtype, device=module.weight.device)
    full[index] = vector.to(full.device)
    is_transposed = type(module).__name__ == "Conv1D"  # GPT-2 holds (inputs, outputs)
    by_row = (site.side == "output") != is_transposed
    factor = full.unsqueeze(1) if by_row else full.unsqueeze(0)
    module.weight.data = (module.weight.data * factor).to(module.weight.dtype)
    if site.side == "output" and module.bias is not None:
        module.bias.data = (module.bias.data * full).to(module.bias.dtype)
