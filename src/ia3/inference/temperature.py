"""Temperature scaling: one number that the scores of all choices are divided by, so that probabilities come true.

Guo et al. 2017 (arXiv 1706.04599), section 4.2. Dividing by a positive number never changes which choice is the most
probable one. This file knows numpy arrays, all of it float64; it knows nothing of models or labels, and imports no
torch.

Rules: the number minimises the cross-entropy of the right choice, whose target is not 1 but (n + 1) / (n + 2) as in
Platt 1999, as if one row more had been wrong: where all of a few rows are right, the best temperature would be zero. A
number that does not help rows that it was not fitted on is not used. Where it is known what adapters of the same
settings usually need, that is what rows are weighed against: its logarithm is the mean of a normal distribution before
the rows, and the number is the most probable one behind them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ia3.inference.reliability import CalibrationBin, calibration_bins, calibration_error

_Float = npt.NDArray[np.float64]

FEWEST_ROWS = 20  # a temperature fitted on fewer is mostly luck
MOST = 20.0  # the largest temperature; one over it is the smallest
SPREAD = 0.3  # standard deviation of the logarithm around what is usual, over tables and draws
_PARTS = 5  # of the cross-fitting
_LOWEST = 700.0  # nats below the best choice, where a probability is zero
_MOST_STEPS = 60


def fit_temperature(scores: _Float, gold: Sequence[int] | npt.NDArray[np.int64], usual: float | None = None) -> float:
    """Return the temperature at which the right choices are the most probable.

    Args:
        scores: Log-probabilities of the choices, up to a number for each row, shape (rows, choices).
        gold: The index of the right choice of each row.
        usual: The temperature that adapters of the same settings usually need; None where that is not known.

    Returns:
        A number from 1 / 20 to 20.

    Example:
        >>> round(fit_temperature(np.log([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.1]] * 50), [0, 1, 1, 0] * 50), 1)
        2.0
    """
    shifted = _shifted(scores)
    rows, choices = shifted.shape
    targets = np.full(shifted.shape, 1 / (rows + 2) / max(1, choices - 1))
    targets[np.arange(rows), gold] = (rows + 1) / (rows + 2)
    wanted = float((targets * shifted).sum(axis=1).mean())
    # of the squared distance of the logarithms, for one row of the mean loss
    weight = 0.0 if usual is None else 1 / (rows * SPREAD**2)
    centre = 0.0 if usual is None else math.log(usual)
    # the rows' loss is convex in one over the temperature: Newton's steps between bounds that close in on a minimum
    low, high, inverse = 1 / MOST, MOST, 1.0
    for _ in range(_MOST_STEPS):
        shares = scale(shifted * inverse)
        means = (shares * shifted).sum(axis=1)  # (rows,)
        away = math.log(inverse) + centre
        slope = float(means.mean()) - wanted + weight * away / inverse
        bend = float(((shares * shifted**2).sum(axis=1) - means**2).mean()) + weight * (1 - away) / inverse**2
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / bend if bend > 0 else np.inf
        before, inverse = inverse, float(step if low < step < high else np.sqrt(low * high))
        if abs(inverse - before) <= 1e-12 * before:
            break
    return 1 / inverse


def scale(scores: _Float, temperature: float = 1.0) -> _Float:
    """Return the probability of each choice at a temperature, shape (rows, choices); at 1 the softmax of the scores."""
    heated = scores / temperature
    with np.errstate(invalid="ignore"):  # an overflow stays NaN, which is told with its row
        powers = np.exp(heated - heated.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float64)


def fit_scaling(scores: _Float, gold: Sequence[int], usual: float | None = None) -> Scaling | None:
    """Return the temperature of some rows, and what it does to rows that it was not fitted on.

    Before and after are measured on the same rows; after with five temperatures, each fitted on the other four fifths
    of the rows and used on its own.

    Args:
        scores: As for `fit_temperature`; no NaN.
        gold: The index of the right choice of each row.
        usual: As for `fit_temperature`.

    Returns:
        None where there are fewer than two choices or rows; without a usual one also for fewer than 20 rows, or where
        the loss after is not lower.
    """
    right = np.asarray(gold, dtype=np.int64)
    rows = len(right)
    if rows < (FEWEST_ROWS if usual is None else 2) or scores.shape[1] < 2:
        return None
    part = np.arange(rows) % _PARTS
    after = np.empty(scores.shape)
    for number in range(_PARTS):
        here = part == number
        after[here] = scale(scores[here], fit_temperature(scores[~here], right[~here], usual))
    before = scale(scores)
    losses = _loss(before, right), _loss(after, right)
    bins = [calibration_bins(shares.max(axis=1), shares.argmax(axis=1) == right) for shares in (before, after)]
    # the loss decides: of few rows the calibration error is itself rough
    is_used = usual is not None or losses[1] < losses[0]
    return Scaling(fit_temperature(scores, right, usual), rows, *losses, *bins) if is_used else None


def _loss(shares: _Float, gold: npt.NDArray[np.int64]) -> float:
    """Return the mean cross-entropy of the right choice among the choices, in nats."""
    picked = np.maximum(shares[np.arange(len(gold)), gold], np.exp(-_LOWEST))
    return float(-np.log(picked).mean())


def _shifted(scores: _Float) -> _Float:
    """Return the scores with zero for the best choice of a row, and no choice so low that it is −inf."""
    return np.asarray(np.maximum(scores - scores.max(axis=1, keepdims=True), -_LOWEST), dtype=np.float64)


@dataclass(frozen=True)
class Scaling:
    """A temperature, and what it does.

    Attributes:
        temperature: What scores are divided by; fitted on all rows.
        rows: Their number.
        loss_before: Cross-entropy of the right choice among the choices, nats a row.
        loss_after: The same at a temperature that was fitted on other rows.
        bins_before: Rows by their top probability.
        bins_after: The same after.
    """

    temperature: float
    rows: int
    loss_before: float
    loss_after: float
    bins_before: tuple[CalibrationBin, ...]
    bins_after: tuple[CalibrationBin, ...]

    @property
    def error_before(self) -> float:
        """The expected calibration error."""
        return calibration_error(self.bins_before)

    @property
    def error_after(self) -> float:
        """The same at a temperature that was fitted on other rows."""
        return calibration_error(self.bins_after)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without the bins."""
        plain = {name: value for name, value in asdict(self).items() if not name.startswith("bins")}
        return {**plain, "calibration_error_before": self.error_before, "calibration_error_after": self.error_after}
