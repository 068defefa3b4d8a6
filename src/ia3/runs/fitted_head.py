"""A head in closed form: the logistic regression on what it reads, and what that is.

This file knows banks, examples and numbers; when a head is fitted is decided by its callers.
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

STRENGTH = 30.0  # scikit-learn's C, for inputs of length one
_ROWS = 64  # that go through the base at once
_STEPS = 200  # of L-BFGS; some dozens are usual
_ENOUGH = 1e-5  # largest slope of the mean loss at the end


def fit_head(
    base: Base, attachment: Attachment, row: str, examples: Sequence[Encoded], read: Tensor | None = None
) -> str:
    """Give the last layer of a row's head the numbers of a logistic regression on the training rows, and say so.

    Args:
        base: The base.
        attachment: Of the base; its bank has the row, with the vectors that it begins with.
        row: Name of the row.
        examples: The training rows.
        read: What `read_inputs` gives for them, where it is known.

    Returns:
        One sentence for the user; a head that does not end in a linear layer with a bias stays as it is.
    """
    head = attachment.bank.snapshot.head(attachment.bank.row(row))
    layer = None if head is None else _last_layer(head)
    if layer is not None and read is None:
        read = read_inputs(attachment, row, examples, base.pad_id)
    if layer is None or read is None:
        return "No head is fitted, since it is the base's own or does not end in one linear layer for a text."
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
    unit, basis = inputs.double() / length, None
    if len(unit) < unit.shape[1]:  # the weights lie in the span of the rows
        basis, coordinates = torch.linalg.qr(unit.T)
        unit = coordinates.T
    rows = len(unit)
    inputs = torch.cat([unit, torch.ones(rows, 1, dtype=unit.dtype)], dim=1).float()
    wanted = nn.functional.one_hot(labels, count).float()
    weight = torch.zeros(count, inputs.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=_STEPS, history_size=20, tolerance_grad=_ENOUGH, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        """Return the loss divided by the rows, with its slope written down."""
        with torch.no_grad():
            shares = nn.functional.linear(inputs, weight).log_softmax(dim=1)
            bent = torch.cat([weight[:, :-1] / strength, weight.new_zeros(count, 1)], dim=1)
            weight.grad = ((shares.exp() - wanted).T @ inputs + bent) / rows
            return ((bent * weight).sum() / 2 - (shares * wanted).sum()) / rows

    optimizer.step(loss)
    found = weight.detach().double()
    slope = found[:, :-1] if basis is None else found[:, :-1] @ basis.T
    return slope / length, found[:, -1]


def _last_layer(head: nn.Module) -> nn.Linear | None:
    """Return the linear layer that a head ends in, if it has a bias."""
    layers = [part for part in head.modules() if isinstance(part, nn.Linear)]
    return layers[-1] if layers and layers[-1].bias is not None else None


@torch.no_grad()
def read_inputs(attachment: Attachment, row: str, examples: Sequence[Encoded], pad_id: int) -> Tensor | None:
    """Return what the last layer of a row's head receives for each example, float64, shape (rows, width), on the CPU.

    None where there is no such layer, or it receives more than one vector for an example.
    """
    head = attachment.bank.snapshot.head(attachment.bank.row(row))
    layer = None if head is None else _last_layer(head)
    if layer is None:
        return None
    caught: list[Tensor] = []

    def catch(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        caught.append(args[0].cpu())

    device = input_device(attachment.model)
    order = sorted(range(len(examples)), key=lambda place: len(examples[place]))  # of like length together
    handle = layer.register_forward_pre_hook(catch)
    try:
        with evaluating(attachment.model), attachment.use(row):
            for start in range(0, len(order), _ROWS):
                chosen = [examples[place] for place in order[start : start + _ROWS]]
                class_logits(attachment.model, collate(chosen, "encoder", pad_id).to(device).inputs)
    finally:
        handle.remove()
    if [len(one) for one in caught if one.dim() == 2] != [
        len(order[i : i + _ROWS]) for i in range(0, len(order), _ROWS)
    ]:
        return None
    read = torch.empty(len(order), caught[0].shape[1], dtype=torch.float64)
    read[torch.tensor(order)] = torch.cat(caught).double()
    return read
