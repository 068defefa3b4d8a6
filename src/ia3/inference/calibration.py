"""Contextual calibration: what a base says to a prompt without content is taken off what it says to a text.

A base that was never trained on a task prefers some answers whatever the text is. Zhao et al. 2021 (arXiv 2102.09690)
divide the probability of every choice by its probability behind content-free inputs, averaged over a few of them. This
file knows scores; it knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ia3.inference.evaluate import Array, softmax

CONTENT_FREE = ("N/A", "[MASK]", "")  # the paper's


def content_free_prior(score: Callable[[Sequence[str]], Array]) -> Array:
    """Return the logarithm of each choice's mean probability behind content-free inputs, shape (choices,), float64.

    Args:
        score: Gives the log-probabilities of the choices behind some texts, shape (texts, choices).
    """
    return np.asarray(np.log(softmax(score(CONTENT_FREE)).mean(axis=0)), dtype=np.float64)


def calibrate(scores: Array, prior: Array) -> Array:
    """Return scores whose softmax is the calibrated probability of each choice, shape (rows, choices).

    Args:
        scores: Log-probabilities of the choices, shape (rows, choices).
        prior: As `content_free_prior` gives it, shape (choices,).

    Example:
        >>> calibrate(np.log([[0.6, 0.4]]), np.log([0.8, 0.2])).argmax()
        np.int64(1)
    """
    return scores - prior
