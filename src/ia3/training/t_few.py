"""The three losses of T-Few (Liu et al. 2022, arXiv 2205.05638, section 3.2), and what a step divides each of them by.

    LM  −log p of the right choice's tokens, averaged over the tokens of the step's right choices
    UL  −log(1 − p + 0.01) of the wrong choices' tokens, averaged over all of these in the step
    LN  cross-entropy over the choices' (Σ log p of the tokens) / (number of tokens), averaged over the step's examples

and their plain sum. Each divisor is the whole step's, so that no split of a step into micro-batches changes the loss.
(T-Few's own code adds −log 1.01 to UL for every padded place and token of a right choice; that has no gradient and is
left out here.) An encoder's head has one output for each choice and no tokens: its cross-entropy is LN, and LM and UL
have no counterpart. This file knows log-probabilities; where they come from is `scoring`'s matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ia3.core.strengths import AdapterRefs
from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.inference.scoring import ChoiceLogprobs, choice_logprobs
from ia3.names import Kind, Ranking
from ia3.training.tasks import Task

_EPSILON = 1e-2  # of UL, in T-Few's code


@dataclass(frozen=True)
class Factors:
    """What an example's UL and LN count beside its LM, whose divisor is the step's number of right tokens."""

    ul: float  # right tokens of the step / wrong tokens of the step
    ln: float  # right tokens of the step / examples of the step


def t_few_terms(found: ChoiceLogprobs, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each example's LM, UL and LN, not yet divided by anything, each of shape (batch,).

    Args:
        found: Log-probabilities of the choices' tokens.
        right: Position of the right choice of each example, int64, shape (batch,).

    Example:
        >>> halves = torch.tensor([[[0.5, 0.5], [0.5, 1.0]]]).log()  # two choices; the second has one token
        >>> found = ChoiceLogprobs(halves, torch.tensor([[[True, True], [True, False]]]))
        >>> [round(float(term), 4) for term in t_few_terms(found, torch.tensor([0]))]
        [1.3863, 0.6733, 0.6931]
    """
    is_right = functional.one_hot(right, found.values.shape[1]).bool().unsqueeze(-1)  # batch choices 1
    lm = -torch.where(is_right, found.values, 0.0).sum(dim=(1, 2))
    unlikely = -torch.log(1 - found.values.exp() + _EPSILON)
    ul = torch.where(found.is_token & ~is_right, unlikely, 0.0).sum(dim=(1, 2))
    lengths = found.is_token.sum(dim=-1)
    scores = found.values.sum(dim=-1) / lengths.clamp(min=1)  # batch choices
    ln = functional.cross_entropy(scores.masked_fill(lengths == 0, -torch.inf), right, reduction="none")
    return lm, ul, ln


def few_shot_loss(
    task: Task,
    examples: Sequence[Encoded],
    rows: AdapterRefs,
    factors: Sequence[Factors],
    token_budget: int,
    shares: Tensor,
) -> Tensor:
    """Return Σ share · (LM + factor · UL + factor · LN) over the examples of a micro-batch.

    Args:
        task: The base with its bank, and what it pads with.
        examples: The micro-batch, each with its choices and the position of the right one.
        rows: Row of each example, or one for all.
        factors: Of each example's step.
        token_budget: Most tokens through the base at once.
        shares: Weight of each example over its step's weighted number of right tokens, shape (batch,). If it requires
            a gradient, that is each example's summed loss, as in `sum_loss`.

    Returns:
        A scalar in nats, fp32 (float64 on a float64 base).
    """
    found = choice_logprobs(task, examples, rows=rows, token_budget=token_budget)
    right = torch.tensor([example.choice for example in examples], device=found.values.device)
    lm, ul, ln = t_few_terms(found, right)
    by_ul, by_ln = (found.values.new_tensor(f) for f in zip(*((f.ul, f.ln) for f in factors), strict=True))
    return (shares.to(lm.dtype) * (lm + by_ul * ul + by_ln * ln)).sum()


def step_factors(examples: Sequence[Encoded], weights: Sequence[float]) -> Factors:
    """Return the factors of one step.

    Args:
        examples: All examples of the step.
        weights: How much each of them counts; a weighted mean is divided by the sum of its weights.
    """
    right = wrong = total = 0.0
    for example, weight in zip(examples, weights, strict=True):
        lengths = [len(ids) for ids in example.choices]
        right += weight * lengths[example.choice]
        wrong += weight * (sum(lengths) - lengths[example.choice])
        total += weight
    return Factors(right / wrong if wrong else 0.0, right / total if total else 0.0)


def learns_from_choices(losses: str, kind: Kind) -> bool:
    """Whether the losses are of all choices' tokens; an encoder's is always its head's cross-entropy."""
    return losses != "lm" and kind != "encoder"


def ranking_for(losses: str, kind: Kind) -> Ranking:
    """Return what an adapter that is trained with some losses compares choices by: the mean that LN trains, or the sum.

    Example:
        >>> ranking_for("lm+ul+ln", "causal"), ranking_for("lm", "causal")
        ('mean', 'sum')
    """
    return "mean" if learns_from_choices(losses, kind) else "sum"


def check_choices(examples: Sequence[Encoded], losses: str, kind: Kind) -> None:
    """Raise if the losses need choices and an example has none.

    Raises:
        SettingsError: Naming the losses and what to do.
    """
    if not learns_from_choices(losses, kind):
        return
    bare = [example for example in examples if not example.choices or example.choice < 0]
    if bare:
        raise SettingsError(
            f"Checking the settings: losses is {losses!r} and {len(bare)} of {len(examples)} rows have no choices to "
            "learn against, since the answers are free text. Give --losses lm, or --answers labels for a closed set."
        )
