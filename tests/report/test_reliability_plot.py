"""The reliability diagram: a dot for each bin that has rows, and the error before and after a temperature."""

from __future__ import annotations

from typing import Any

import pytest

from ia3.errors import RunError
from ia3.inference.reliability import CalibrationBin
from ia3.report.reliability_plot import draw_reliability
from tests.report.test_plots import texts

BINS = [CalibrationBin(0.8, 0.9, 20, 0.86, 0.75), CalibrationBin(0.9, 1.0, 80, 0.97, 0.95)]


def test_reliability_shows_error_rows_and_one_dot_for_each_bin_that_has_rows(drawn: list[Any]) -> None:
    draw_reliability([CalibrationBin(0.0, 0.8, 0, None, None), *BINS], "r.png")
    assert {"Calibration error 0.038", "on 100 rows", "20", "80"} <= set(texts(drawn[0]))
    dots = [line for line in drawn[0].axes[0].lines if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in dots] == [(0.86, 0.75), (0.97, 0.95)]


def test_before_and_after_a_temperature_stand_in_one_picture(drawn: list[Any]) -> None:
    draw_reliability(BINS, "r.png", [CalibrationBin(0.9, 1.0, 100, 0.99, 0.91)])
    assert {"Calibration error 0.038", "● with the temperature", "○ without: 0.080"} <= set(texts(drawn[0]))
    rings = [line for line in drawn[0].axes[0].lines if line.get_markerfacecolor() == "none"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in rings] == [(0.99, 0.91)]


def test_reliability_of_nothing_is_refused() -> None:
    with pytest.raises(RunError, match="nothing to draw, got 1 bins without rows, expected at least one row"):
        draw_reliability([CalibrationBin(0.0, 1.0, 0, None, None)], "r.png")
