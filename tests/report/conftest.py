"""Figures that would be written."""

from __future__ import annotations

from typing import Any

import pytest

from ia3.report import plots, reliability_plot, repeats_plot


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that would be written; nothing is written."""
    figures: list[Any] = []
    for room in (plots, reliability_plot, repeats_plot):
        monkeypatch.setattr(room, "write_figure", lambda figure, path: figures.append(figure))
    return figures
