"""Contextual calibration: the paper's formula, and no preference left where there is no content."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ia3.inference.content_free import CONTENT_FREE, calibrate, content_free_prior, content_free_rows
from ia3.inference.temperature import scale


def test_a_probability_is_divided_by_the_mean_of_those_without_content() -> None:
    shares = np.array([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25], [0.6, 0.3, 0.1]])
    prior = content_free_prior(np.log(shares) - 3.0)  # what the choices have together does not matter
    given_text = np.array([[0.5, 0.4, 0.1]])
    expected = given_text / shares.mean(axis=0)
    np.testing.assert_allclose(scale(calibrate(np.log(given_text), prior)), expected / expected.sum())


def test_rows_without_content_have_it_in_no_column() -> None:
    rows = content_free_rows(["text", "title"])
    assert [row.text for row in rows] == [*CONTENT_FREE] and {row.label for row in rows} == {None}
    assert [dict(row.fields) for row in rows] == [{"text": text, "title": text} for text in CONTENT_FREE]


@given(st.lists(st.floats(-50, 0), min_size=2, max_size=6))
def test_without_content_no_choice_is_preferred(scores: list[float]) -> None:
    row = np.array([scores])
    prior = content_free_prior(np.repeat(row, len(CONTENT_FREE), axis=0))
    np.testing.assert_allclose(scale(calibrate(row, prior)), np.full((1, len(scores)), 1 / len(scores)), atol=1e-9)
