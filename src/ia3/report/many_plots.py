"""One picture of many tasks: how the loss of each fell, or how groups of runs compare, median and spread.

This file knows events and matplotlib; it draws as `drawing` says.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ia3.report.drawing import clean_axes, fit_label, is_number, name_lines, title_axes, write_figure

# Okabe and Ito (2008), the ones that are dark enough for text
_COLOURS = ("#0072B2", "#D55E00", "#007A5A", "#B0569A", "#8A6D00", "#3B8FBF", "#7A4A1E", "#555555")
_GREY = "#6E6E6E"
_MOST_NAMED = 12  # lines with a name of their own

Curve = list[tuple[float, float]]


def draw_tasks(events: Sequence[Mapping[str, Any]], names: Sequence[str], path: str | Path) -> None:
    """Write a picture of each task's loss after each of its epochs; nothing where no epoch has ended.

    Args:
        events: Of the run: the `epoch` events with `task`, `epoch`, `eval_loss` and `train_loss`.
        names: The tasks.
        path: The PNG file.
    """
    groups = {name: [curve] for name in names if (curve := curve_of(events, name))}
    draw_groups(groups, path, "Loss of each task")


def draw_groups(groups: Mapping[str, Sequence[Curve]], path: str | Path, title: str) -> None:
    """Write a picture with a line for each group: the median of its curves, and the area between its extremes.

    Args:
        groups: Curves of (epoch, loss) by the group's name; nothing is drawn without any.
        path: The PNG file.
        title: Of the picture.
    """
    if not any(any(curves) for curves in groups.values()):
        return
    figure = Figure(figsize=(7.2, 4.2))
    axes = figure.add_axes((0.1, 0.13, 0.6, 0.74))
    clean_axes(axes)
    ends = []
    for number, (name, curves) in enumerate(groups.items()):
        colour = _COLOURS[number % len(_COLOURS)] if len(groups) <= _MOST_NAMED else _GREY
        middle = _draw_group(axes, curves, colour, is_thin=len(groups) > _MOST_NAMED)
        ends.append((middle[-1][1], f"{fit_label(name)}  {middle[-1][1]:.3g}", colour))
    axes.set_xlabel("epoch", color=_GREY, fontsize=9.0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if axes.dataLim.width == 0:
        axes.set_xlim(axes.dataLim.x0 - 1, axes.dataLim.x0 + 1)
    ordered = sorted(ends)
    shown = ends if len(ends) <= _MOST_NAMED else [ordered[0], ordered[len(ordered) // 2], ordered[-1]]
    name_lines(axes, shown)
    spread = any(len(curves) > 1 for curves in groups.values())
    more = "median and extremes" if spread else "" if len(ends) <= _MOST_NAMED else "best, middle and last are named"
    title_axes(axes, title, more, height=3.1)
    write_figure(figure, path)


def curve_of(events: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """Return a task's (epoch, loss) after each epoch: the eval loss, or the training loss where none was measured."""
    epochs = [event for event in events if event["event"] == "epoch" and event.get("task") == name]
    loss = "train_loss" if all(event["eval_loss"] is None for event in epochs) else "eval_loss"
    return [(float(event["epoch"]), float(event[loss])) for event in epochs if is_number(event[loss])]


def _draw_group(axes: Any, curves: Sequence[Curve], colour: str, *, is_thin: bool) -> Curve:
    """Draw a group's area and median, and return the median."""
    by_epoch: dict[float, list[float]] = {}
    for curve in curves:
        for epoch, loss in curve:
            by_epoch.setdefault(epoch, []).append(loss)
    epochs = sorted(by_epoch)
    middle = [(epoch, statistics.median(by_epoch[epoch])) for epoch in epochs]
    if len(curves) > 1:
        low, high = ([edge(by_epoch[epoch]) for epoch in epochs] for edge in (min, max))
        axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    look: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.6} if is_thin else {"linewidth": 1.6, "marker": "o"}
    axes.plot(*zip(*middle, strict=True), color=colour, markersize=3.5, **look)
    return middle
