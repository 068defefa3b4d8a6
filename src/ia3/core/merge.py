"""A merged copy: one adapter multiplied into the weights of a new plain transformers model.

The attached model is never written; it goes on as before. This file knows weights; it knows nothing of files.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ia3.core.attach import BANK_MODULE, Attachment, attachment_of
from ia3.core.generation_settings import drop_unused
from ia3.core.labels import count_outputs, name_labels
from ia3.core.projections import is_transposed
from ia3.core.sites import Site
from ia3.core.weights import bring_home, is_stand_in, refuse_parts
from ia3.errors import BankError


@torch.no_grad()
def merge(attachment: Attachment, adapter: str | int) -> Any:
    """Return a new model whose weights hold one adapter; no trace of the bank is left on it.

    An output-side vector multiplies the rows of the weight and the bias, an input-side vector the columns. The product
    is taken in fp32 (float64 for a float64 base) and rounded once to the weight's dtype. Of a model whose weights
    accelerate keeps elsewhere (offloaded to memory or disk) the copy lies in memory as a whole, on the CPU.

    Args:
        attachment: The handle of the model.
        adapter: Name or row; `__base__` gives a plain copy of the base.

    Returns:
        A model of the same class, with the adapter's head in place of the base's, in the base's dtype; its config
        has the labels of the head. Its generation settings are the attached model's, but for those without effect,
        which transformers would not save.

    Raises:
        BankError: If the name is unknown, or a weight cannot be scaled because it is quantised, made of other
            parameters, or shared with another module.
        BaseError: If the weights are not here as a whole: sharded, or never loaded.
    """
    bank = attachment.bank
    row = bank.row(adapter)
    refuse_parts(attachment.model, f"Merging adapter {adapter!r}")
    for site in bank.plan.sites:
        _check_weight(attachment.model.get_submodule(site.module), site)
    # the bank stays out of the copy: it may hold thousands of rows
    merged = copy.deepcopy(attachment.model, {id(bank): bank})
    merged._modules.pop(BANK_MODULE)  # the attached model's own
    bring_home(merged)
    attachment_of(merged).detach()
    users = _users_of_weights(merged)
    values = bank.vector(row)
    for site, span in bank.plan.spans():
        module = merged.get_submodule(site.module)
        _check_unshared(module, site, users)
        _scale_weight(module, site, values[span])
    head = bank.snapshot.head(row)
    if head is not None:
        for path, part in zip(head.paths, head.parts, strict=True):
            _set_head(merged, path, copy.deepcopy(part))
    _name_labels(merged, bank.record(row).get("labels"))
    if getattr(merged, "generation_config", None) is not None:
        drop_unused(merged.generation_config)
    return merged


def _users_of_weights(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """Return, by the id of each parameter, the modules that hold it, each once."""
    users: dict[int, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            users.setdefault(id(parameter), []).append((path, module))
    return users


def _check_weight(module: Any, site: Site) -> None:
    """Raise unless a weight is a parameter that can be multiplied."""
    weight: Any = getattr(module, "weight", None)
    is_plain = isinstance(weight, Tensor) and not is_stand_in(weight)
    if not is_plain or not weight.is_floating_point() or weight.itemsize < 2:
        found = weight.dtype if is_plain else f"{type(weight).__name__} for a weight" if weight is not None else None
        raise BankError(
            f"Merging {site.module!r}: its weight is quantised, got {found or 'no weight'}, expected floating point of "
            "16 bits or more. Load the base unquantised."
        )
    if module._parameters.get("weight") is not weight:
        parts = ", ".join(name for name, _ in module.named_parameters())
        raise BankError(
            f"Merging {site.module!r}: its weight is made anew from other parameters ({parts}) whenever it is read, "
            "expected a parameter. Make it one first: torch.nn.utils.parametrize.remove_parametrizations, or merge "
            "what else adapts it."
        )


def _check_unshared(module: nn.Module, site: Site, users: dict[int, list[tuple[str, nn.Module]]]) -> None:
    """Raise if another module holds a weight as well."""
    for parameter in module.parameters(recurse=False):
        others = [path for path, user in users[id(parameter)] if user is not module]
        if others:
            raise BankError(
                f"Merging {site.module!r}: its weight is shared with {others[0]!r}, which the vector is not for. Untie "
                "the weights first."
            )


def _scale_weight(module: Any, site: Site, vector: Tensor) -> None:
    index = torch.tensor(site.channels.indices(), device=module.weight.device)
    full = torch.ones(site.features, dtype=vector.dtype, device=module.weight.device)
    full[index] = vector.to(full.device)
    by_row = (site.side == "output") != is_transposed(module)
    factor = full.unsqueeze(1) if by_row else full.unsqueeze(0)
    module.weight.data = (module.weight.data * factor).to(module.weight.dtype)
    if site.side == "output" and module.bias is not None:
        module.bias.data = (module.bias.data * full).to(module.bias.dtype)


def _set_head(model: Any, path: str, part: nn.Module) -> None:
    """Put an adapter's head into the model, whose config and loss then count its labels."""
    base = model.get_submodule(path)
    dtype = next((p.dtype for p in base.parameters()), None)
    before, after = count_outputs(base), count_outputs(part)
    model.set_submodule(path, part.to(dtype=dtype).train(base.training).requires_grad_(True))
    if before != after and before == getattr(model.config, "num_labels", None):
        model.config.num_labels = after
        if hasattr(model, "num_labels"):
            model.num_labels = after


def _name_labels(model: Any, labels: Sequence[str] | None) -> None:
    """Give a classifier's config the labels that the adapter was trained with, where there is one for each output."""
    is_classifier = "ForSequenceClassification" in type(model).__name__
    if labels and is_classifier and getattr(model.config, "num_labels", None) == len(labels):
        name_labels(model.config, labels)
