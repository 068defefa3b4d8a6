"""One task's optimizer: AdamW or Adafactor over its row and its head, its own clipping, its own rate at every step.

Each task has an optimizer of its own, so that a task that is finished or given up is never touched again. This file
knows tensors and rates; it knows nothing of examples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ia3.core.sites import Plan
from ia3.training.adafactor import VectorAdafactor
from ia3.training.settings import Settings


def make_optimizer(trained: Mapping[str, Tensor], settings: Settings, plan: Plan) -> torch.optim.Optimizer:
    """Return the optimizer of one task; where they have a rate of their own, it scales the feed-forward's steps.

    Args:
        trained: What it trains by name, as `trained_tensors` returns it.
        settings: Its rates.
        plan: Layout of the row.
    """
    optimizer = _make(trained, settings, plan)
    if settings.feedforward_rate != 1.0:
        row, sites = trained["vectors"], [n for n, site in enumerate(plan.sites) if site.role == "feedforward"]
        _scale_steps(optimizer, row, by_site(row, plan, sites, settings.feedforward_rate))
    return optimizer


def _make(trained: Mapping[str, Tensor], settings: Settings, plan: Plan) -> torch.optim.Optimizer:
    heads = [tensor for name, tensor in trained.items() if name != "vectors" and tensor.requires_grad]
    if settings.optimizer == "adafactor":
        rates = settings.learning_rate, settings.head_learning_rate
        return VectorAdafactor(trained["vectors"], plan.widths, rates[0], heads, rates[1])
    groups = [{"params": [trained["vectors"]], "lr": settings.learning_rate, "highest": settings.learning_rate}]
    if heads:
        rate = settings.head_learning_rate
        groups.append({"params": heads, "lr": rate, "highest": rate})
    # the pull towards one is done by step_optimizer: AdamW's own pulls towards zero
    betas = settings.beta1, settings.beta2
    return torch.optim.AdamW(groups, betas=betas, weight_decay=0.0, fused=True)


def by_site(row: Tensor, plan: Plan, sites: Collection[int], value: float) -> Tensor:
    """Return a value for every number of some sites and 1 for the others, of a row's shape.

    Args:
        row: The row.
        plan: Its layout.
        sites: Numbers of the sites.
        value: Of their numbers.
    """
    found = torch.ones_like(row, requires_grad=False)
    for number, (_, span) in enumerate(plan.spans()):
        if number in sites:
            found[span] = value
    return found


def _scale_steps(optimizer: torch.optim.Optimizer, row: Tensor, factors: Tensor) -> None:
    """Multiply every step that an optimizer takes with a row; for AdamW that is another learning rate."""
    held: list[Tensor] = []

    def before(*_: Any) -> None:
        held.append(row.detach().clone())

    def after(*_: Any) -> None:
        old = held.pop()
        if held:  # torch runs the hooks once more for a step within a step, once its class was used by itself
            return
        with torch.no_grad():
            row.copy_(old + (row - old) * factors)

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the norm of the gradient of everything that an optimizer trains, a scalar."""
    if isinstance(optimizer, VectorAdafactor):
        optimizer.share_gradient()
    return torch.nn.utils.get_total_norm([p.grad for p in _parameters(optimizer) if p.grad is not None])


def step_optimizer(
    optimizer: torch.optim.Optimizer, settings: Settings, norm: Tensor, factor: float, moving: Tensor
) -> float:
    """Clip, pull towards one, and take a step; the gradients are then gone.

    Args:
        optimizer: Of one task, with its gradients.
        settings: Its clip and weight decay.
        norm: Of the gradients, as `gradient_norm` returns it.
        factor: On the highest rates, of the schedule.
        moving: How much each number of the row is pulled; 0 where it is to stay.

    Returns:
        The vectors' learning rate.
    """
    if settings.clip:
        torch.nn.utils.clip_grads_with_norm_(_parameters(optimizer), settings.clip, norm)
    for group in optimizer.param_groups:
        group["lr"] = group["highest"] * factor
    rate: float = optimizer.param_groups[0]["lr"]
    if settings.weight_decay:
        with torch.no_grad():
            pieces = optimizer.param_groups[0]["params"]  # the row, or one vector after another
            for vectors, moves in zip(pieces, moving.split([piece.numel() for piece in pieces]), strict=True):
                vectors.sub_((vectors - 1) * moves * rate * settings.weight_decay)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return rate


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
