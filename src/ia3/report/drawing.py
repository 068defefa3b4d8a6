"""How every picture looks: colours, axes, titles, names of lines, fonts; and how it is written, PNG of 150 dpi.

This file knows matplotlib; it knows nothing of what is drawn.

Rules: figures are made through matplotlib's object API, so that no backend, no window and no global setting is touched.
The same input gives the same bytes, and a half picture never stands there. Colours are those of Okabe and Ito (2008),
which the colour-blind can tell apart; lines carry their own names.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from ia3.files import write_whole
from ia3.spelling import printable

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#007A5A"
INK, GREY, PALE = "#222222", "#6E6E6E", "#D9D9D9"
SIZE = 9.0  # points, of ordinary text
POINTS = 72.0  # points in an inch
_DPI = 150
_LONGEST_LABEL = 32  # characters
# Families that may be installed and hold what DejaVu Sans, which comes with matplotlib, does not.
_WIDER_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic")


def clean_axes(axes: Any) -> None:
    """Leave two thin spines and a faint horizontal grid."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(PALE)
    axes.tick_params(which="both", color=PALE, labelcolor=GREY, labelsize=SIZE - 1)
    axes.grid(visible=True, axis="y", color=PALE, linewidth=0.5, alpha=0.7)
    axes.set_axisbelow(True)


def title_axes(axes: Any, text: str, more: str, *, height: float, lift: float = 0.0) -> None:
    """Write a title `lift` inches above the left upper corner and quieter words behind it; `height` is in inches."""
    y = 1 + (0.1 + lift) / height
    title = axes.text(0, y, text, transform=axes.transAxes, fontsize=SIZE + 2, fontweight="bold", color=INK)
    if more:
        after = {"xycoords": (title, "axes fraction"), "xytext": (8, 0), "textcoords": "offset points"}
        axes.annotate(more, (1, y), color=GREY, fontsize=SIZE, va="baseline", annotation_clip=False, **after)


def name_lines(axes: Any, names: Sequence[tuple[float, str, str]]) -> None:
    """Write each (height, text, colour) beside the right edge at its height, moved apart where they would overlap."""
    gap = 1.5 * SIZE / (axes.get_position().height * axes.figure.get_figheight() * POINTS)
    to_axes = axes.transData + axes.transAxes.inverted()
    x = axes.get_xlim()[1]
    heights = sorted((float(to_axes.transform((x, y))[1]), text, colour) for y, text, colour in names)
    placed = [height for height, _, _ in heights]
    for _ in range(50):  # halves the overlap of neighbours each time
        for i in range(len(placed) - 1):
            push = max(0.0, placed[i] + gap - placed[i + 1]) / 2
            placed[i], placed[i + 1] = placed[i] - push, placed[i + 1] + push
    for y, (_, text, colour) in zip(placed, heights, strict=True):
        axes.text(1.03, y, text, transform=axes.transAxes, color=colour, fontsize=SIZE, va="center")


def is_number(value: object) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def fit_label(label: str) -> str:
    """Return the label in characters that the fonts can draw, at most 32 of them."""
    shown = "".join(
        c if ord(c) in _drawable() else c.encode("unicode_escape").decode("ascii") for c in printable(label)
    )
    return shown if len(shown) <= _LONGEST_LABEL else shown[: _LONGEST_LABEL - 1] + "…"


@cache
def label_fonts() -> tuple[str, ...]:
    """Return DejaVu Sans and whichever of the wider fonts are installed."""
    installed = set(fontManager.get_font_names())
    return ("DejaVu Sans", *(name for name in _WIDER_FONTS if name in installed))


@cache
def _drawable() -> frozenset[int]:
    """Return the code points that one of the fonts has a glyph for."""
    return frozenset(c for name in label_fonts() for c in get_font(findfont(FontProperties(family=name))).get_charmap())


def write_figure(figure: Figure, path: str | Path) -> None:
    """Write the figure, cropped to what is drawn; there is never half a picture."""
    drawn = io.BytesIO()
    look: dict[str, Any] = {"dpi": _DPI, "facecolor": "white", "bbox_inches": "tight", "pad_inches": 0.15}
    figure.savefig(drawn, format="png", metadata={"Software": None}, **look)  # no version in the bytes
    write_whole(Path(path), drawn.getvalue())
