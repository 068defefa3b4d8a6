"""Temperatures in use: the same answers with other probabilities, the error with and without, and bad records."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from ia3.errors import AdapterError
from ia3.inference.asking import Array
from ia3.inference.evaluate import Ranked
from ia3.inference.predictions import predictions_of
from ia3.inference.recorded import Recorded
from ia3.inference.temperature import scale

RANKS = np.log([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
GOLD = [0, 1, 1]


def ranked(ranks: Array, gold: list[int], temperature: float = 1.0) -> Ranked:
    return Ranked(("no", "yes"), gold, ranks, (np.full(len(gold), 0.5),), len(gold), "example", temperature)


def test_a_prediction_keeps_its_label_and_has_the_probability_of_the_temperature() -> None:
    plain, scaled = (predictions_of(RANKS, ["no", "yes"], [], heat) for heat in (1.0, 2.0))
    assert [one.prediction for one in scaled] == [one.prediction for one in plain] == ["no", "yes", "no"]
    assert [one.probability for one in scaled] == pytest.approx(scale(RANKS, 2.0).max(axis=1).tolist())
    assert all(math.fsum(one.probabilities.values()) == pytest.approx(1) for one in scaled)
    assert predictions_of(RANKS[:1] * 1e-17, ["no", "yes"], [], 20.0)[0].prediction == "no"  # equal after rounding


def test_metrics_have_the_calibration_error_with_and_without_and_the_same_loss() -> None:
    plain = ranked(RANKS, GOLD).metrics()
    scaled = ranked(RANKS, GOLD, 2.0).metrics()
    assert (scaled.accuracy, scaled.confusion, scaled.loss) == (plain.accuracy, plain.confusion, plain.loss)
    assert scaled.unscaled_error == plain.calibration_error != scaled.calibration_error
    assert scaled.unscaled_bins == plain.calibration_bins and scaled.temperature == 2.0
    assert (plain.temperature, plain.unscaled_error, plain.unscaled_bins, plain.scaling) == (1.0, None, (), None)
    told = f"({plain.calibration_error:.3f} without the temperature 2)"
    assert any(line.startswith("calibration error ") and line.endswith(told) for line in scaled.lines())


def test_a_fitted_temperature_is_told_and_is_not_in_the_numbers() -> None:
    ranks, gold = np.tile([[4.0, 0.0], [0.0, 4.0]], (20, 1)), [0, 1, 1, 1] * 10
    fitted = ranked(ranks, gold).metrics(is_fitted=True)
    assert fitted.scaling is not None and fitted.temperature == 1.0
    assert fitted.scaling.temperature == pytest.approx(4 / math.log(31 / 11), rel=0.1)
    assert fitted.to_json()["scaling"] == fitted.scaling.to_json()
    assert any(" with the temperature " in line and "which predictions use" in line for line in fitted.lines())


@pytest.mark.parametrize("heat", [0, -1.0, math.inf, "1", True, None])
def test_a_record_whose_temperature_is_no_positive_number_is_refused(heat: Any) -> None:
    with pytest.raises(AdapterError, match=r"Loading: temperature in ia3\.json cannot be used"):
        Recorded.read("Loading", {"calibration": {"temperature": heat}})


def test_a_record_without_a_temperature_has_one() -> None:
    assert Recorded.read("Loading", {}).temperature == Recorded.read("Loading", {"calibration": None}).temperature == 1
    assert Recorded.read("Loading", {"calibration": {"temperature": 2}}).temperature == 2.0
