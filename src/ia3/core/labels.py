"""How many labels a head has, and whether a model's own loss counts as many.

transformers computes a classifier's loss with the number of labels in the base's config; an adapter's head may have
another one. This file knows heads and configs; which head an example goes through is `heads`' matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ia3.core.heads import Head
from ia3.core.projections import projection_sizes
from ia3.errors import BankError


def count_outputs(module: nn.Module) -> int | None:
    """Return the number of outputs of a head, those of its last linear map; None if it has none."""
    sizes = [size for size in map(projection_sizes, module.modules()) if size is not None]
    return sizes[-1][1] if sizes else None


def name_labels(config: Any, labels: Sequence[str]) -> None:
    """Write the names of a head's outputs, in their order, into a config; it counts as many labels from then on."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}


def check_own_loss(model: nn.Module, heads: Mapping[str, Head]) -> None:
    """Raise if the loss that a model computes from `labels` counts other labels than a head has.

    Args:
        model: The model.
        heads: Heads of the batch, by the names of their adapters.

    Raises:
        BankError: Naming the adapter and what to do.
    """
    known = getattr(getattr(model, "config", None), "num_labels", None)
    for name, head in heads.items():
        for path, part in zip(head.paths, head.parts, strict=True):
            found = count_outputs(part)
            if found != known and count_outputs(model.get_submodule(path)) == known:
                raise BankError(
                    f"Computing the model's own loss: it counts {known} labels, and the head of adapter {name!r} has "
                    f"{found}. Leave labels out and compute it from the logits: "
                    "torch.nn.functional.cross_entropy(model(…).logits, labels)."
                )
