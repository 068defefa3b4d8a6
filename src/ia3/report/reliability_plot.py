"""A reliability diagram: how often predictions of each probability are right, and how many rows have it.

This file knows bins of rows and matplotlib; it draws as `drawing` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ia3.errors import RunError
from ia3.inference.metrics import wilson_interval
from ia3.inference.reliability import CalibrationBin, calibration_error
from ia3.report.drawing import BLUE, GREY, ORANGE, SIZE, clean_axes, title_axes, write_figure


def draw_reliability(bins: Sequence[CalibrationBin], path: str | Path, before: Sequence[CalibrationBin] = ()) -> None:
    """Write a reliability diagram: how often the predictions of each confidence are right, and how many they are.

    Dots have 95 % intervals (Wilson). On the diagonal the confidence can be taken at its word.

    Args:
        bins: The bins of the top probability, as in `Metrics.calibration_bins`.
        path: The PNG file to write, in a folder that exists.
        before: The bins of the same rows without the temperature, drawn as rings behind.

    Raises:
        RunError: No bin has a row.
    """
    filled, rings = _filled(bins), _filled(before)
    if not filled:
        raise RunError(
            f"Drawing the reliability {Path(path).name}: there is nothing to draw, got {len(bins)} bins without rows, "
            "expected at least one row. Evaluate a table with labels."
        )
    figure = Figure(figsize=(4.6, 5.6))
    above = figure.add_axes((0.13, 0.32, 0.85, 0.6))
    below = figure.add_axes((0.13, 0.09, 0.85, 0.17), sharex=above)
    _draw_dots(above, filled)
    _draw_heights(below, filled)
    if rings:
        _draw_rings(above, rings)
    rows = sum(b.count for b in filled)
    title_axes(above, f"Calibration error {calibration_error(filled):.3f}", f"on {rows:,} rows", height=3.4)
    write_figure(figure, path)


def _filled(bins: Sequence[CalibrationBin]) -> list[CalibrationBin]:
    return [b for b in bins if b.count and b.confidence is not None and b.accuracy is not None]


def _draw_rings(axes: Any, bins: Sequence[CalibrationBin]) -> None:
    """Draw the bins without the temperature as rings that say so."""
    for b in bins:
        look = {"marker": "o", "markersize": 5.5, "markerfacecolor": "none", "zorder": 2.5, "clip_on": False}
        axes.plot([b.confidence], [b.accuracy], color=ORANGE, **look)
    note = {"transform": axes.transAxes, "fontsize": SIZE - 1, "va": "top"}
    axes.text(0.03, 0.88, "● with the temperature", color=BLUE, **note)
    axes.text(0.03, 0.82, f"○ without: {calibration_error(bins):.3f}", color=ORANGE, **note)


def _draw_dots(axes: Any, bins: Sequence[CalibrationBin]) -> None:
    """Draw the accuracy of each bin over its mean confidence, with its interval and the gap to the diagonal."""
    clean_axes(axes)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    for b in bins:
        assert b.confidence is not None and b.accuracy is not None  # bins are the filled ones
        interval = wilson_interval(round(b.accuracy * b.count), b.count)
        axes.plot([b.confidence] * 2, interval, color=BLUE, alpha=0.45, linewidth=1.6, zorder=2)
        axes.plot([b.confidence], [b.accuracy], color=BLUE, marker="o", markersize=5.5, zorder=3, clip_on=False)
    note = {"transform": axes.transAxes, "color": GREY, "fontsize": SIZE - 1}
    axes.text(0.03, 0.95, "under-confident", va="top", **note)
    axes.text(0.12, 0.03, "over-confident", **note)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.tick_params(labelbottom=False)
    axes.set_ylabel("share that is right", color=GREY, fontsize=SIZE)


def _draw_heights(axes: Any, bins: Sequence[CalibrationBin]) -> None:
    """Draw the number of rows of each bin as a bar with its count above."""
    clean_axes(axes)
    highest = max(b.count for b in bins)
    for b in bins:
        axes.bar((b.lower + b.upper) / 2, b.count, width=0.85 * (b.upper - b.lower), color=BLUE, alpha=0.55)
        place = ((b.lower + b.upper) / 2, b.count + 0.04 * highest)
        axes.text(*place, f"{b.count}", ha="center", va="bottom", fontsize=SIZE - 2.5, color=GREY)
    axes.set_ylim(0, 1.22 * highest)
    axes.set_yticks([])
    axes.set_ylabel("rows", color=GREY, fontsize=SIZE)
    axes.set_xlabel("probability of the prediction", color=GREY, fontsize=SIZE)
