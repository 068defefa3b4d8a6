"""Ranking: what the choices of a row are compared by, from the summed log-probabilities of their tokens.

`sum` compares the answers as they are: the probability that the base writes exactly this one. `mean` divides by the
number of tokens, so that a long answer is not the less likely for its length; T-Few is trained for that and ranks so
(Liu et al. 2022, arXiv 2205.05638, section 3.2). This file knows numbers; it knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ia3.data.encoding import Encoded
from ia3.names import Ranking


def rank_scores(
    scores: npt.NDArray[np.float64], lengths: npt.NDArray[np.float64], ranking: Ranking
) -> npt.NDArray[np.float64]:
    """Return what the choices are compared by, whose softmax is the probability of each.

    Args:
        scores: Summed log-probabilities of the choices' tokens, shape (rows, choices).
        lengths: Tokens of each choice, shape (choices,) or (rows, choices); empty for an encoder, which has none.
        ranking: `sum` returns the scores as they are.

    Example:
        >>> rank_scores(np.array([[-2.0, -3.0]]), count_tokens([(7, 1), (7, 8, 9, 1)]), "mean")
        array([[-1.  , -0.75]])
    """
    if ranking == "sum" or not lengths.size:
        return scores
    return scores / lengths


def count_own_tokens(encoded: Sequence[Encoded]) -> npt.NDArray[np.float64]:
    """Return the number of tokens of each example's own choices, shape (rows, choices); 1 where there is no choice."""
    counts = np.ones((len(encoded), max((len(e.choices) for e in encoded), default=0)))
    for row, example in zip(counts, encoded, strict=True):
        row[: len(example.choices)] = [len(ids) for ids in example.choices]
    return counts


def count_tokens(choice_ids: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
    """Return the number of tokens of each choice, end token included, shape (choices,)."""
    return np.array([len(ids) for ids in choice_ids], dtype=np.float64)
