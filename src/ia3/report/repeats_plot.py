"""A picture of repeated runs: each with its interval, and the median and quartiles of all.

This file knows plain rows and matplotlib; it draws as `drawing` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ia3.errors import RunError
from ia3.report.drawing import BLUE, GREY, INK, ORANGE, SIZE, clean_axes, is_number, title_axes, write_figure

_WORDS = {"accuracy": "Accuracy", "loss": "Loss"}


def draw_repeats(runs: Sequence[Mapping[str, Any]], measure: str, path: str | Path) -> None:
    """Write a picture with a dot for each run and the median and quartiles of all.

    Args:
        runs: Each with `seed`, the measure, and for an accuracy `accuracy_interval`.
        measure: `accuracy`, drawn in per cent, or `loss`.
        path: The PNG file to write, in a folder that exists.

    Raises:
        RunError: If no run has the measure.
    """
    drawn = [run for run in runs if is_number(run.get(measure))]
    if not drawn:
        raise RunError(
            f"Drawing the runs {Path(path).name}: none of {len(runs)} runs has a finite {measure}, expected at least "
            "one. Train until a run has ended."
        )
    scale = 100.0 if measure == "accuracy" else 1.0
    values = [scale * run[measure] for run in drawn]
    lower, median, upper = np.percentile(values, (25, 50, 75)).tolist()
    height = 0.24 * len(drawn) + 0.3  # inches
    figure = Figure(figsize=(6.0, height + 1.1))
    axes = figure.add_axes((0.14, 0.62 / (height + 1.1), 0.83, height / (height + 1.1)))
    clean_axes(axes)
    axes.grid(visible=False, axis="y")
    axes.axvspan(lower, upper, color=ORANGE, alpha=0.15, linewidth=0)
    axes.axvline(median, color=ORANGE, linewidth=1.6)
    for place, (run, value) in enumerate(zip(drawn, values, strict=True)):
        interval = run.get("accuracy_interval") if measure == "accuracy" else None
        if interval:
            axes.plot([scale * bound for bound in interval], [place] * 2, color=BLUE, alpha=0.45, linewidth=1.6)
        axes.plot([value], [place], color=BLUE, marker="o", markersize=5.5)
    axes.set_yticks(range(len(drawn)), labels=[f"seed {run['seed']}" for run in drawn], color=INK)
    axes.set_ylim(len(drawn) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7))
    unit = " in %" if measure == "accuracy" else " in nats"
    more = ", with the 95 % interval of each run" if measure == "accuracy" else ""
    axes.set_xlabel(f"{measure}{unit}{more}", color=GREY, fontsize=SIZE)
    spell = (lambda value: f"{value:.1f}") if measure == "accuracy" else (lambda value: f"{value:.4g}")
    title = f"{_WORDS[measure]} {spell(median)}{' %' if measure == 'accuracy' else ''}"
    many = f"median of {len(drawn)} runs, quartiles {spell(lower)} and {spell(upper)}"
    title_axes(axes, title, many if len(drawn) > 1 else "one run", height=height)
    write_figure(figure, path)
