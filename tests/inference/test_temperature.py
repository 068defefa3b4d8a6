"""Temperature scaling: the minimum that scipy finds, the same answers, and probabilities that come true."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from ia3.inference.temperature import FEWEST_ROWS, MOST, SPREAD, fit_scaling, fit_temperature, scale


def drawn(seed: int, rows: int, choices: int, heat: float) -> tuple[np.ndarray, list[int]]:
    """Return scores that are sure of themselves by a factor, and right answers drawn from what they should say."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 2, (rows, choices))
    gold = [int(random.choice(choices, p=shares)) for shares in scale(honest, 1.0)]
    return honest * heat + random.normal(0, 5, (rows, 1)), gold


def smoothed_loss(scores: np.ndarray, gold: list[int], temperature: float) -> float:
    """Return the loss that is minimised, written from its definition."""
    rows, choices = scores.shape
    targets = np.full(scores.shape, 1 / (rows + 2) / (choices - 1))
    targets[np.arange(rows), gold] = (rows + 1) / (rows + 2)
    return float(-(targets * np.log(scale(scores, temperature))).sum(axis=1).mean())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(5, 80),
    st.integers(2, 6),
    st.floats(0.3, 4),
    st.none() | st.floats(0.5, 4),
)
def test_the_temperature_is_the_one_that_scipy_finds(
    seed: int, rows: int, choices: int, heat: float, usual: float | None
) -> None:
    scores, gold = drawn(seed, rows, choices, heat)

    def loss(log: float) -> float:
        """The negative logarithm of what is most probable: of the rows, and of the normal distribution before them."""
        before = 0.0 if usual is None else (log - float(np.log(usual))) ** 2 / (2 * SPREAD**2)
        return rows * smoothed_loss(scores, gold, float(np.exp(log))) + before

    found = fit_temperature(scores, gold, usual)
    bounds = (-np.log(MOST), np.log(MOST))
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    assert loss(float(np.log(found))) <= best.fun + 1e-9
    assert 1 / MOST <= found <= MOST


def test_few_rows_leave_what_is_usual_and_many_decide() -> None:
    scores, gold = drawn(3, 4000, 3, 3.0)
    few, many = (fit_temperature(scores[:rows], gold[:rows], 1.5) for rows in (10, 4000))
    assert fit_temperature(scores[:10], gold[:10]) > few > 1.5 and few < 2.2
    assert many == pytest.approx(fit_temperature(scores, gold), rel=0.02)


def test_what_is_usual_is_used_where_the_rows_show_no_gain() -> None:
    sure = np.tile([0.0, -4.0], (10, 1))  # ten rows, all right: alone they are too few, and would make it surer
    scaling = fit_scaling(sure, [0] * 10, 1.6)
    assert scaling is not None and scaling.temperature == pytest.approx(1.6, rel=0.05) and scaling.rows == 10
    assert fit_scaling(sure, [0] * 10) is None and fit_scaling(sure[:1], [0], 1.6) is None


def test_scores_that_are_three_times_too_sure_get_the_temperature_three_and_come_true() -> None:
    scores, gold = drawn(0, 4000, 3, 3.0)
    scaling = fit_scaling(scores, gold)
    assert scaling is not None and scaling.temperature == pytest.approx(3.0, rel=0.1)
    assert scaling.error_before > 0.1 and scaling.error_after < 0.02
    assert scaling.loss_after < scaling.loss_before and scaling.rows == sum(b.count for b in scaling.bins_after) == 4000
    told = scaling.to_json()
    assert told["calibration_error_after"] == scaling.error_after and "bins_before" not in told


@given(st.integers(0, 10_000), st.floats(0.05, 20))
def test_no_answer_changes(seed: int, temperature: float) -> None:
    scores, _ = drawn(seed, 30, 4, 1.0)
    assert (scale(scores, temperature).argmax(axis=1) == scores.argmax(axis=1)).all()


def test_where_all_of_a_few_rows_are_right_the_temperature_stays_away_from_zero() -> None:
    scores = np.tile([0.0, -4.0], (20, 1))
    assert scale(scores, fit_temperature(scores, [0] * 20))[0, 1] == pytest.approx(1 / 22)
    assert fit_temperature(scores, [1] * 20) == pytest.approx(MOST)  # worse than any guess: as unsure as can be


def test_choices_without_any_probability_leave_a_number() -> None:
    scores, gold = drawn(1, 40, 3, 2.0)
    scores[:, 2] = -np.inf
    assert np.isfinite(fit_temperature(scores, [min(g, 1) for g in gold]))


def test_few_rows_or_no_gain_on_other_rows_is_no_temperature() -> None:
    scores, gold = drawn(2, 400, 3, 3.0)
    assert fit_scaling(scores[: FEWEST_ROWS - 1], gold[: FEWEST_ROWS - 1]) is None
    assert fit_scaling(scores[:, :1], [0] * 400) is None
    scaling = fit_scaling(scores, gold)
    assert scaling is not None
    assert fit_scaling(scores / scaling.temperature, gold) is None  # it is right already
