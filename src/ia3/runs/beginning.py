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
from ia3.data.batches import collate
from ia3.data.encoding import Encoded
from ia3.inference.logits import class_logits
from ia3.runs.start import Start, begin_from
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
    told = [] if start is None else [begin_from(attachment, row, start, labels)]
    if settings.fit_head and base.kind == "encoder":
        told.append(fit_head(base, attachment, row, examples))
    return told


def fit_head(base: Base, attachment: Attachment, row: str, examples: Sequence[Encoded]) -> str:
    """Give a row's head the numbers of a logistic regression on the training rows, and say so.

    Args:
        base: The base.
        attachment: Of the base; its bank has the row, with the vectors that it begins with.
        row: Name of the row.
        examples: The training rows.

    Returns:
        One sentence for the user; a head of more layers than one linear stays as it is.
    """
    head = attachment.bank.snapshot.heads.get(attachment.bank.row(row))
    if head is None or len(head.parts) != 1 or type(head.parts[0]) is not nn.Linear:
        return "The head is not fitted beforehand, since it is not one linear layer: it begins with drawn numbers."
    read = _what_it_reads(base, attachment, row, head.paths[0], examples)
    labels = torch.tensor([example.choice for example in examples], device=read.device)
    layer = head.parts[0]
    weight, bias = fit_linear(read, labels, layer.out_features)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return f"The head begins with a logistic regression on {len(examples)} rows."


def fit_linear(inputs: Tensor, labels: Tensor, count: int, strength: float = STRENGTH) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the logistic regression with a penalty on the squared weights.

    Args:
        inputs: What the layer reads, shape (rows, width).
        labels: Right label of each row, int64, shape (rows,).
        count: Number of labels.
        strength: C: what the summed cross-entropy counts against half of the squared weights, for inputs of length one;
            others are fitted as if they had it on average.

    Returns:
        Weight of shape (count, width) and bias of shape (count,), float64.
    """
    length = torch.linalg.vector_norm(inputs.double(), dim=1).mean().clamp(min=1e-12)
    unit = inputs.double() / length
    weight = torch.zeros(count, inputs.shape[1], dtype=torch.float64, device=inputs.device, requires_grad=True)
    bias = torch.zeros(count, dtype=torch.float64, device=inputs.device, requires_grad=True)
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
def _what_it_reads(base: Base, attachment: Attachment, row: str, path: str, examples: Sequence[Encoded]) -> Tensor:
    """Return what the head at a path receives for each example, shape (rows, width)."""
    caught: list[Tensor] = []

    def catch(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        caught.append(args[0].float())

    order = sorted(range(len(examples)), key=lambda place: len(examples[place]))  # of like length together
    handle = base.model.get_submodule(path).register_forward_pre_hook(catch)
    try:
        with evaluating(base.model), attachment.use(row):
            for start in range(0, len(order), _ROWS):
                batch = collate([examples[place] for place in order[start : start + _ROWS]], "encoder", base.pad_id)
                class_logits(base.model, batch.inputs)
    finally:
        handle.remove()
    read = torch.cat(caught)
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.tensor(order)] = torch.arange(len(order))
    return read[back.to(read.device)]
