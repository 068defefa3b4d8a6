"""Pictures of a run: the curves of loss and accuracy, and the confusion matrix.

This file knows plain rows and counts, and matplotlib; it draws as `drawing` says, and knows nothing of models, training
or the command line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from ia3.errors import RunError
from ia3.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    POINTS,
    SIZE,
    clean_axes,
    fit_label,
    is_number,
    label_fonts,
    name_lines,
    title_axes,
    write_figure,
)
from ia3.spelling import percent

_FEWEST_SMOOTHED = 40  # steps
_LOG_RATIO = 20.0  # a loss that falls by more than this is drawn on a logarithmic axis

_Float = npt.NDArray[np.float64]
_Row = Mapping[str, Any]


def draw_curves(steps: Sequence[_Row], epochs: Sequence[_Row], path: str | Path) -> None:
    """Write a picture of how the loss fell, and of the accuracy if an epoch has one; the best epoch is marked.

    The best epoch is the one with the lowest eval loss, the first of equals. A loss that is not finite is left out.

    Args:
        steps: The step rows of a run: `step` and `loss`.
        epochs: The epoch rows of a run: `epoch` (from 1), `step`, `train_loss`, `eval_loss` and `eval_accuracy`
            (either may be None or missing).
        path: The PNG file to write, in a folder that exists.

    Raises:
        RunError: There is no finite loss in any row.
    """
    train = _points(steps, "step", "loss")
    ends = [row for row in epochs if is_number(row.get("train_loss")) or is_number(row.get("eval_loss"))]
    if not len(train) and not ends:
        raise RunError(
            f"Drawing the curves {Path(path).name}: the run has no loss, got {len(steps)} steps and {len(epochs)} "
            "epochs without one, expected at least one finite loss. Train for at least one step."
        )
    accuracy = _points(epochs, "step", "eval_accuracy")
    has_panel = len(accuracy) > 1  # a single one stands in the title
    best = _best_epoch(epochs)
    figure = Figure(figsize=(7.2, 5.6 if has_panel else 3.9))
    panels = [figure.add_axes((0.1, 0.42, 0.72, 0.5) if has_panel else (0.1, 0.14, 0.72, 0.74))]
    _draw_losses(panels[0], train, ends, best)
    if has_panel:
        panels.append(figure.add_axes((0.1, 0.1, 0.72, 0.24), sharex=panels[0]))
        panels[0].tick_params(labelbottom=False)
        _draw_accuracy(panels[1], accuracy, best)
    panels[-1].set_xlabel("step", color=GREY, fontsize=SIZE)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if panels[0].dataLim.width == 0:  # one step; around it matplotlib would count in hundredths
        panels[0].set_xlim(panels[0].dataLim.x0 - 1, panels[0].dataLim.x0 + 1)
    _mark_epochs(panels, epochs)
    write_figure(figure, path)


def draw_confusion(labels: Sequence[str], confusion: Sequence[Sequence[int]], path: str | Path) -> None:
    """Write a picture of what was taken for what: counts in the cells, colours by the share of the gold label's rows.

    The diagonal is blue, mistakes are orange; a gold label without rows stays grey.

    Args:
        labels: The labels, in the order of the counts.
        confusion: Counts of shape (choices, choices): rows gold, columns predicted.
        path: The PNG file to write, in a folder that exists.

    Raises:
        RunError: The counts are not one row and one column for each label.
    """
    counts = np.array(confusion, dtype=np.int64)
    choices = len(labels)
    if not choices or counts.shape != (choices, choices):
        raise RunError(
            f"Drawing the confusion matrix {Path(path).name}: the counts do not fit the labels, got shape "
            f"{counts.shape}, expected {(choices, choices)} for {choices} labels. Pass labels and counts of one table."
        )
    cell = max(0.27, min(0.85, 6.0 / choices), 2.6 / choices)  # inches; a count needs 0.27
    side = cell * choices
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    shares = _draw_cells(axes, counts)
    _write_counts(axes, counts, shares, cell * POINTS)
    _name_cells(axes, [fit_label(label) for label in labels], counts.sum(axis=1), cell * POINTS)
    rows, right = int(counts.sum()), int(np.trace(counts))
    share = f", {percent(right / rows)} right" if rows else ""
    title_axes(axes, f"Confusion on {rows:,} rows{share}", "", height=side, lift=0.2)
    axes.text(-0.5, -0.5 - 0.08 / cell, "colour: share of the gold label's rows", color=GREY, fontsize=SIZE)
    write_figure(figure, path)


def _draw_losses(axes: Any, train: _Float, ends: Sequence[_Row], best: _Row | None) -> None:
    """Draw the loss of every step (steps, 2), its moving mean, and the losses of the epochs."""
    clean_axes(axes)
    names: list[tuple[float, str, str]] = []  # (height in data, text, colour) of the names at the right edge
    if len(train):
        smooth = _moving_mean(train[:, 1])
        is_smoothed = len(train) >= _FEWEST_SMOOTHED
        if is_smoothed:
            axes.plot(*train.T, color=BLUE, alpha=0.22, linewidth=0.8, solid_joinstyle="round")
        marker = "o" if len(train) == 1 else None  # a line of one point cannot be seen
        axes.plot(train[:, 0], smooth, color=BLUE, linewidth=1.6, marker=marker, markersize=4)
        names.append((float(smooth[-1]), "train, smoothed" if is_smoothed else "train", BLUE))
        _scale_losses(axes, train[:, 1], smooth, ends)
    means, evals = _points(ends, "step", "train_loss"), _points(ends, "step", "eval_loss")
    if len(means):
        first = train[0, 0] if len(train) else 0.0
        axes.hlines(means[:, 1], [first, *means[:-1, 0]], means[:, 0], color=INK, linewidth=1.1)
        names.append((float(means[-1, 1]), "train, mean of epoch", INK))
    if len(evals):
        axes.plot(*evals.T, color=ORANGE, linewidth=1.6, marker="o", markersize=_dot(evals))
        names.append((float(evals[-1, 1]), "eval", ORANGE))
    if best is not None:
        _ring(axes, best["step"], best["eval_loss"], ORANGE)
    name_lines(axes, names)
    title_axes(axes, "Loss", "" if best is None else _tell(best), height=2.8, lift=0.16)


def _scale_losses(axes: Any, raw: _Float, smooth: _Float, ends: Sequence[_Row]) -> None:
    """Choose a linear or logarithmic axis, with limits that a few outliers of the raw losses do not set."""
    others = [row[key] for row in ends for key in ("train_loss", "eval_loss") if is_number(row.get(key))]
    low, high = float(np.percentile(raw, 2)), float(np.percentile(raw, 99.5))
    low, high = min([low, *smooth, *others]), max([high, *smooth, *others])
    lowest = min([*smooth, *others])
    if lowest > 0 and high / lowest > _LOG_RATIO:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(max(low, lowest / 10) / 1.25, high * 1.25)
        return
    room = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    axes.set_ylim(low - room, high + room)


def _draw_accuracy(axes: Any, accuracy: _Float, best: _Row | None) -> None:
    """Draw the eval accuracy in per cent at the end of every epoch; `accuracy` has shape (epochs, 2)."""
    clean_axes(axes)
    percent = 100 * accuracy[:, 1]
    axes.plot(accuracy[:, 0], percent, color=GREEN, linewidth=1.6, marker="o", markersize=_dot(accuracy))
    low, high = float(percent.min()), float(percent.max())
    room = max(0.15 * (high - low), 1.0)
    axes.set_ylim(max(low - room, -0.4), min(high + room, 100.4))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    if best is not None and is_number(best.get("eval_accuracy")):
        _ring(axes, best["step"], 100 * best["eval_accuracy"], GREEN)
    name_lines(axes, [(float(percent[-1]), f"eval, {percent[-1]:.1f} %", GREEN)])
    title_axes(axes, "Accuracy in %", "", height=1.3)


def _mark_epochs(panels: Sequence[Any], epochs: Sequence[_Row]) -> None:
    """Draw a faint line at the end of every epoch and number about a dozen of them above the first panel."""
    every = max(1, math.ceil(len(epochs) / 12))
    for row in epochs[every - 1 :: every]:
        for axes in panels:
            axes.axvline(row["step"], color=PALE, linewidth=0.7, zorder=0)
        place = {"transform": panels[0].get_xaxis_transform(), "ha": "center", "va": "bottom"}
        panels[0].text(row["step"], 1.01, str(row["epoch"]), color=GREY, fontsize=SIZE - 2, **place)
    if epochs:
        corner = {"transform": panels[0].transAxes, "ha": "left", "va": "bottom"}
        panels[0].text(1.03, 1.01, "epoch", color=GREY, fontsize=SIZE - 2, **corner)


def _dot(points: _Float) -> float:
    return 4.5 if len(points) <= 15 else 2.5


def _ring(axes: Any, x: float, y: float, colour: str) -> None:
    axes.plot([x], [y], marker="o", markersize=9, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.4)


def _draw_cells(axes: Any, counts: npt.NDArray[np.int64]) -> _Float:
    """Colour the cells and return the share of each in its row, shape (choices, choices)."""
    choices = len(counts)
    support = counts.sum(axis=1, keepdims=True)  # (choices, 1)
    shares: _Float = np.divide(counts, support, out=np.zeros(counts.shape), where=support > 0)
    colours = matplotlib.colormaps["Oranges"](0.8 * shares**0.7)  # (choices, choices, 4)
    diagonal = np.arange(choices)
    colours[diagonal, diagonal] = matplotlib.colormaps["Blues"](0.9 * shares[diagonal, diagonal])
    colours[counts == 0] = matplotlib.colors.to_rgba("#F5F5F5")
    colours[support[:, 0] == 0] = matplotlib.colors.to_rgba("#DDDDDD")
    edges = np.arange(choices + 1) - 0.5
    # imshow would resample every pixel: three seconds for 77 labels
    axes.pcolormesh(edges, edges, colours, edgecolors="white", linewidth=1.5 if choices <= 12 else 0.6)
    axes.set_xlim(-0.5, choices - 0.5)
    axes.set_ylim(choices - 0.5, -0.5)
    return shares


def _write_counts(axes: Any, counts: npt.NDArray[np.int64], shares: _Float, cell: float) -> None:
    """Write each count into its cell of `cell` points, a zero only where there is room for quiet ones."""
    digits = max(len(str(int(counts.max()))), 2)
    size = min(12.0, 0.4 * cell, 0.8 * cell / (0.62 * digits))
    for (i, j), count in np.ndenumerate(counts):
        if count or len(counts) <= 12:
            colour = "#BBBBBB" if not count else "white" if shares[i, j] > 0.55 else INK
            axes.text(j, i, str(count), ha="center", va="center", fontsize=size, color=colour)


def _name_cells(axes: Any, names: Sequence[str], support: npt.NDArray[np.int64], cell: float) -> None:
    """Name the columns below, turned where they are too wide for their cell, and the rows with their support."""
    size = min(SIZE + 1, 0.5 * cell)
    is_wide = max(map(len, names)) * 0.6 * size > cell
    turned = {"rotation": 90 if len(names) > 12 else 45, "rotation_mode": "anchor"} if is_wide else {}
    if is_wide:
        turned |= {"ha": "right", "va": "center" if len(names) > 12 else "top"}
    style: dict[str, Any] = {"fontsize": size, "color": INK, "fontfamily": label_fonts(), "parse_math": False}
    places = np.arange(len(names))
    axes.set_xticks(places, labels=list(names), **style, **turned)
    axes.set_yticks(places, labels=[f"{name} ({n:,})" for name, n in zip(names, support, strict=True)], **style)
    axes.tick_params(length=0, pad=5)
    axes.set_xlabel("predicted", color=GREY, fontsize=SIZE, labelpad=8)
    axes.set_ylabel("gold (rows)", color=GREY, fontsize=SIZE, labelpad=8)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _points(rows: Sequence[_Row], x: str, y: str) -> _Float:
    """Return the rows' (x, y) with a finite y, shape (points, 2), in the order of x."""
    found = sorted((float(row[x]), float(row[y])) for row in rows if is_number(row.get(y)))
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _tell(best: _Row) -> str:
    accuracy = best.get("eval_accuracy")
    more = f", accuracy {percent(accuracy)}" if isinstance(accuracy, float) and is_number(accuracy) else ""
    return f"○ best epoch {best['epoch']}: eval loss {best['eval_loss']:.4g}{more}"


def _best_epoch(epochs: Sequence[_Row]) -> _Row | None:
    """Return the row of the lowest eval loss, the first of equals."""
    return min((row for row in epochs if is_number(row.get("eval_loss"))), key=lambda r: r["eval_loss"], default=None)


def _moving_mean(values: _Float) -> _Float:
    """Return the mean of a window around each value, about a twentieth of all, cut off at the ends; shape (steps,)."""
    half = len(values) // _FEWEST_SMOOTHED
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    means: _Float = (sums[last] - sums[first]) / (last - first)
    return means
