"""What a row begins with: ones and drawn numbers, those of a start, and a head that is fitted before the first step.

With a handful of rows a drawn head pulls the vectors to wherever it happens to point before it knows a label. One that
begins with the logistic regression on what it reads leaves them what they know (Kumar et al. 2022, arXiv 2202.10054).
This file knows banks and examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ia3.bases.loading import Base
from ia3.core.attach import Attachment
from ia3.core.modes import evaluating
from ia3.core.weights import input_device
from ia3.data.batches import collate
from ia3.data.encoding import Encoded
from ia3.inference.logits import class_logits
from ia3.starts.start import Start, begin_from
from ia3.training.settings import Settings

STRENGTH = 10.0  # scikit-learn's C, for inputs of length one
_ROWS = 32  # that go through the base at once
_STEPS = 200  # of L-BFGS; some dozens are usual


def begin_row(
    base: Base,
    attachment: Attachment,
    row: str,
    start: Start | None,
    labels: Sequence[str],
    examples: Sequence[Encoded],
    settings: Settings,
) -> list[str]:
    """Give a row in training the numbers that its settings and its start say, and return what was done.

    Args:
        base: The base.
        attachment: Of the base; its bank has the row, of ones and with drawn heads.
        row: Name of the row.
        start: An adapter to begin with; None for ones.
        labels: Of the task, in the order of its head; empty for free text.
        examples: The training rows.
        settings: Of the training.

    Raises:
        AdapterError: If the plan has no place for a vector of the start.
    """
    is_fitted = settings.fit_head and base.kind == "encoder"
    told = [] if not base.head_modules else [_told_of_drawn(base, settings.seed)]
    told += [] if start is None else [begin_from(attachment, row, start, labels, with_head=not is_fitted)]
    if is_fitted:
        told.append(fit_head(base, attachment, row, examples))
    share = settings.frozen_blocks
    if share and not attachment.bank.plan.sites_of_first_blocks(share):
        told.append(
            f"The base has too few blocks for frozen_blocks {share:g} to be one of them: all vectors are trained."
        )
    return told


def _told_of_drawn(base: Base, seed: int) -> str:
    names = ", ".join(base.head_modules)
    return f"The checkpoint has no head for these labels: {names} is drawn at random (seed {seed}) and trained."


def fit_head(base: Base, attachment: Attachment, row: str, examples: Sequence[Encoded]) -> str:
    """Give the last layer of a row's head the numbers of a logistic regression on the training rows, and say so.

    Args:
        base: The base.
        attachment: Of the base; its bank has the row, with the vectors that it begins with.
        row: Name of the row.
        examples: The training rows.

    Returns:
        One sentence for the user; a head that does not end in a linear layer with a bias stays as it is.
    """
    head = attachment.bank.snapshot.head(attachment.bank.row(row))
    layers = [] if head is None else [part for part in head.modules() if isinstance(part, nn.Linear)]
    read = None
    if layers and layers[-1].bias is not None:
        read = _what_it_reads(base, attachment, row, layers[-1], examples)
    if read is None:
        return (
            "No head is fitted beforehand, since it is the base's own or does not end in one linear layer for a text."
        )
    layer = layers[-1]
    labels = torch.tensor([example.choice for example in examples])
    weight, bias = fit_linear(read, labels, layer.out_features)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return f"The head begins with a logistic regression on {len(examples)} rows."


def fit_linear(inputs: Tensor, labels: Tensor, count: int, strength: float = STRENGTH) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the logistic regression with a penalty on the squared weights.

    Args:
        inputs: What the layer reads, shape (rows, width), on the CPU.
        labels: Right label of each row, int64, shape (rows,).
        count: Number of labels.
        strength: C: what the summed cross-entropy counts against half of the squared weights, for inputs of length one;
            others are fitted as if they had it on average.

    Returns:
        Weight of shape (count, width) and bias of shape (count,), float64.
    """
    length = torch.linalg.vector_norm(inputs.double(), dim=1).mean().clamp(min=1e-12)
    unit = inputs.double() / length
    weight = torch.zeros(count, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        wrong = nn.functional.cross_entropy(nn.functional.linear(unit, weight, bias), labels, reduction="sum")
        total = wrong + weight.square().sum() / (2 * strength)
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    return weight.detach() / length, bias.detach()


@torch.no_grad()
def _what_it_reads(
    base: Base, attachment: Attachment, row: str, layer: nn.Linear, examples: Sequence[Encoded]
) -> Tensor | None:
    """Return what a layer of a row's head receives for each example, shape (rows, width), on the CPU.

    None where it receives more than one vector for an example.
    """
    caught: list[Tensor] = []

    def catch(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        caught.append(args[0].cpu())

    device = input_device(base.model)
    order = sorted(range(len(examples)), key=lambda place: len(examples[place]))  # of like length together
    handle = layer.register_forward_pre_hook(catch)
    try:
        with evaluating(base.model), attachment.use(row):
            for start in range(0, len(order), _ROWS):
                chosen = [examples[place] for place in order[start : start + _ROWS]]
                class_logits(base.model, collate(chosen, "encoder", base.pad_id).to(device).inputs)
    finally:
        handle.remove()
    if [len(one) for one in caught if one.dim() == 2] != [
        len(order[i : i + _ROWS]) for i in range(0, len(order), _ROWS)
    ]:
        return None
    read = torch.empty(len(order), caught[0].shape[1], dtype=torch.float64)
    read[torch.tensor(order)] = torch.cat(caught).double()
    return read
