"""Pictures of many curves: a line each with its name, median and extremes of groups, the same bytes again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from ia3.report import many_plots
from ia3.report.many_plots import curve_of, draw_groups, draw_tasks


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were written."""
    figures: list[Figure] = []
    original = many_plots.write_figure
    monkeypatch.setattr(many_plots, "write_figure", lambda f, path: figures.append(f) or original(f, path))
    return figures


def _events(names: list[str], epochs: int = 3) -> list[dict[str, Any]]:
    return [
        {"event": "epoch", "task": name, "epoch": e, "eval_loss": 1 / e + i, "train_loss": 9.0}
        for i, name in enumerate(names)
        for e in range(1, epochs + 1)
    ]


def _words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_each_task_has_a_line_with_its_name_and_its_last_loss(drawn: list[Figure], tmp_path: Path) -> None:
    draw_tasks(_events(["books", "games"]), ["books", "games", "never began"], tmp_path / "curves.png")
    axes = drawn[0].axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[1, 0.5, 1 / 3], [2, 1.5, 4 / 3]]
    assert {"books  0.333", "games  1.33"} <= set(_words(drawn[0]))
    first = (tmp_path / "curves.png").read_bytes()
    draw_tasks(_events(["books", "games"]), ["books", "games"], tmp_path / "again.png")
    assert first == (tmp_path / "again.png").read_bytes()


def test_of_many_tasks_the_best_the_middle_and_the_last_are_named(drawn: list[Figure], tmp_path: Path) -> None:
    names = [f"task {i:02}" for i in range(31)]
    draw_tasks(_events(names), names, tmp_path / "curves.png")
    assert len(drawn[0].axes[0].lines) == 31
    assert [word.split("  ")[0] for word in _words(drawn[0]) if word.startswith("task")] == [
        "task 00", "task 15", "task 30",
    ]  # fmt: skip


def test_a_group_is_drawn_by_its_median_and_the_area_between_its_extremes(drawn: list[Figure], tmp_path: Path) -> None:
    curves = [[(1.0, 3.0), (2.0, 2.0)], [(1.0, 1.0), (2.0, 0.5)], [(1.0, 2.0)]]
    draw_groups({"rate 0.1": curves, "rate 1": [[(1.0, 5.0)]]}, tmp_path / "curves.png", "Loss")
    axes = drawn[0].axes[0]
    assert list(axes.lines[0].get_ydata()) == [2.0, 1.25] and len(axes.collections) == 1


def test_nothing_is_drawn_of_runs_without_an_epoch(tmp_path: Path) -> None:
    draw_tasks([{"event": "step", "task": "a"}], ["a"], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_a_curve_takes_the_training_loss_where_nothing_is_held_out_and_leaves_out_what_is_no_number() -> None:
    events = [
        {"event": "epoch", "task": "a", "epoch": 1, "eval_loss": None, "train_loss": 2.0},
        {"event": "epoch", "task": "a", "epoch": 2, "eval_loss": None, "train_loss": math.inf},
        {"event": "epoch", "task": "b", "epoch": 1, "eval_loss": None, "train_loss": 1.0},
        {"event": "epoch", "task": "b", "epoch": 2, "eval_loss": 3.0, "train_loss": 0.5},
    ]
    assert curve_of(events, "a") == [(1.0, 2.0)]
    assert curve_of(events, "b") == [(2.0, 3.0)]  # one line is of one loss: rows held out were looked at in the end


@pytest.mark.parametrize("name", ["$x$", "数 $", "a" * 200])
def test_any_name_can_be_drawn(name: str, tmp_path: Path) -> None:
    draw_tasks(_events([name]), [name], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
