"""Contextual calibration: the paper's formula, and no preference left where there is no content."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ia3.inference.calibration import CONTENT_FREE, calibrate, content_free_prior
from ia3.inference.evaluate import Array, softmax


def test_a_probability_is_divided_by_the_mean_of_those_without_content() -> None:
    shares = np.array([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25], [0.6, 0.3, 0.1]])
    seen: list[Sequence[str]] = []

    def score(texts: Sequence[str]) -> Array:
        seen.append(texts)
        return np.log(shares) - 3.0  # what the choices have together does not matter

    prior = content_free_prior(score)
    assert seen == [CONTENT_FREE]
    given_text = np.array([[0.5, 0.4, 0.1]])
    expected = given_text / shares.mean(axis=0)
    np.testing.assert_allclose(softmax(calibrate(np.log(given_text), prior)), expected / expected.sum())


@given(st.lists(st.floats(-50, 0), min_size=2, max_size=6))
def test_without_content_no_choice_is_preferred(scores: list[float]) -> None:
    row = np.array([scores])
    prior = content_free_prior(lambda texts: np.repeat(row, len(texts), axis=0))
    np.testing.assert_allclose(softmax(calibrate(row, prior)), np.full((1, len(scores)), 1 / len(scores)), atol=1e-9)
