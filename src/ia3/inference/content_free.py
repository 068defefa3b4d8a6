"""Contextual calibration: what a base says to a prompt without content is taken off what it says to a text.

A base that was never trained on a task prefers some answers whatever the text is. Zhao et al. 2021 (arXiv 2102.09690)
divide the probability of every choice by its probability behind content-free inputs, averaged over a few of them. This
file knows rows and scores; it knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ia3.data.examples import Example, Origin
from ia3.inference.asking import Array
from ia3.inference.temperature import scale

CONTENT_FREE = ("N/A", "[MASK]", "")  # the paper's


def content_free_rows(columns: Sequence[str]) -> list[Example]:
    """Return rows that have the same content-free input in every column of a table."""
    origins = [Origin("<content-free>", number) for number, _ in enumerate(CONTENT_FREE, start=1)]
    pairs = zip(CONTENT_FREE, origins, strict=True)
    return [Example(text, None, dict.fromkeys(columns, text), origin) for text, origin in pairs]


def content_free_prior(ranks: Array) -> Array:
    """Return the logarithm of each choice's mean probability behind content-free inputs, shape (choices,), float64.

    Args:
        ranks: What the choices are compared by behind `content_free_rows`, shape (rows, choices).
    """
    return np.asarray(np.log(scale(ranks).mean(axis=0)), dtype=np.float64)


def calibrate(ranks: Array, prior: Array) -> Array:
    """Return ranks whose softmax is the calibrated probability of each choice, shape (rows, choices).

    Args:
        ranks: What the choices are compared by, shape (rows, choices).
        prior: As `content_free_prior` gives it, shape (choices,).

    Example:
        >>> calibrate(np.log([[0.6, 0.4]]), np.log([0.8, 0.2])).argmax()
        np.int64(1)
    """
    return ranks - prior
