"""The loss of a micro-batch as a sum, so that no split of a step into micro-batches changes it.

A step's loss is the sum over its target tokens divided by their number; the division is by the whole step's number and
happens in the loop. For encoders an example takes the place of a token. The losses over choices are `t_few`'s, and a
loss without all logits is `kernels.frozen_head`'s. This file knows models and batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ia3.data.batches import IGNORED, Batch
from ia3.data.encoding import Encoded
from ia3.fast.acceleration import acceleration_of
from ia3.inference.logits import class_logits, logits_at
from ia3.kernels.frozen_head import head_loss
from ia3.names import Kind


def sum_loss(model: Any, kind: Kind, batch: Batch, rows: Any, shares: Tensor | None = None) -> Tensor:
    """Return the cross-entropy summed over the targets of a micro-batch.

    Args:
        model: The base with a bank.
        kind: Kind of the base.
        batch: The micro-batch, on the model's device.
        rows: Rows of its examples.
        shares: Weight of each example, shape (batch,), fp32; None for one each. If it requires a gradient, that is each
            example's summed loss: d(Σ share · loss) / d(share).

    Returns:
        A scalar in nats, fp32 (float64 on a float64 base).
    """
    if kind == "encoder":
        logits = _wide(class_logits(model, {**batch.inputs, "rows": rows}))
        return _weighted(logits, batch.choices, shares)
    positions = batch.labels != IGNORED
    inputs = {**batch.inputs, "use_cache": False, "rows": rows}
    targets = batch.labels[positions]
    by_token = None if shares is None else shares.unsqueeze(1).expand_as(batch.labels)[positions]
    acceleration = acceleration_of(model)
    if acceleration is not None and acceleration.has_head:
        head = model.get_output_embeddings()
        hidden, _ = acceleration.hidden_at(positions, inputs)
        return head_loss(hidden, head.weight, head.bias, targets, by_token)
    return _weighted(_wide(logits_at(model, positions, inputs)), targets, by_token)


def _weighted(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """Return the weighted sum of the cross-entropies of logits (targets, choices); weights have shape (targets,)."""
    if weights is None:
        return functional.cross_entropy(logits, targets, reduction="sum")
    return (functional.cross_entropy(logits, targets, reduction="none") * weights.to(logits.dtype)).sum()


def count_targets(encoded: Sequence[Encoded], kind: Kind) -> int:
    """Return what a summed loss is divided by: target tokens, for encoders examples."""
    return sum(1 if kind == "encoder" else len(e.target_ids) for e in encoded)


def class_weights(encoded: Sequence[Encoded], choices: int) -> Tensor:
    """Return n / (choices · n_choice) for each choice, shape (choices,), fp32; 0 for one that does not occur."""
    counts = torch.bincount(torch.tensor([e.choice for e in encoded]), minlength=choices).float()
    return torch.where(counts > 0, len(encoded) / (choices * counts.clamp(min=1)), 0.0)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
