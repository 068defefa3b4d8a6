"""Variants: which of several templates each example is read with in an epoch.

A pure function of (seed, epoch), with random numbers of its own, so that the order of the examples is the same with one
template and with many. This file knows numbers.
"""

from __future__ import annotations

import numpy as np

_STREAM = 0x7E39  # keeps these random numbers apart from those of the order


def draw_variants(examples: int, variants: int, seed: int, epoch: int) -> list[int]:
    """Return the number of the template of each example, each of them as likely.

    Args:
        examples: How many examples there are.
        variants: How many templates.
        seed: Of the run.
        epoch: From 0.

    Example:
        >>> draw_variants(3, 1, seed=0, epoch=0)
        [0, 0, 0]
    """
    if variants == 1:
        return [0] * examples
    random = np.random.Generator(np.random.PCG64([seed, epoch, _STREAM]))
    return random.integers(variants, size=examples).tolist()
