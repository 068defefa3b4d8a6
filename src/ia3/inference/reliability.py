"""How far probabilities can be taken at their word: rows in bins by their top probability, and the calibration error.

This file knows numpy arrays; it knows nothing of labels, models or files, and imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_Float = npt.NDArray[np.float64]

CALIBRATION_BINS = 15  # Guo et al. 2017, section 3


def calibration_bins(confidence: _Float, is_right: npt.NDArray[np.bool_]) -> tuple[CalibrationBin, ...]:
    """Return the bins (lower, upper] of the top probability, all of the same width.

    Args:
        confidence: The probability of each row's prediction, shape (rows,).
        is_right: Whether the prediction is right, shape (rows,).
    """
    edges = np.arange(CALIBRATION_BINS + 1) / CALIBRATION_BINS
    # side="left": a probability on an edge belongs to the bin below; rounding may leave it just above 1
    place = np.minimum(np.searchsorted(edges[1:], confidence, side="left"), CALIBRATION_BINS - 1)
    found = []
    for i in range(CALIBRATION_BINS):
        here = place == i
        count = int(here.sum())
        mean = float(confidence[here].mean()) if count else None
        right = float(is_right[here].mean()) if count else None
        found.append(CalibrationBin(float(edges[i]), float(edges[i + 1]), count, mean, right))
    return tuple(found)


def calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Return the expected calibration error: mean |accuracy − confidence| of the bins, weighted by rows.

    Guo et al. 2017 (arXiv 1706.04599), equation 3; in [0, 1].

    Args:
        bins: At least one of them with rows.
    """
    gaps = [
        b.count * abs(b.accuracy - b.confidence) for b in bins if b.accuracy is not None and b.confidence is not None
    ]
    return sum(gaps) / sum(b.count for b in bins)


@dataclass(frozen=True)
class CalibrationBin:
    """The rows whose top probability lies in (lower, upper]."""

    lower: float
    upper: float
    count: int
    confidence: float | None  # mean top probability; None without rows
    accuracy: float | None  # share of right rows; None without rows
