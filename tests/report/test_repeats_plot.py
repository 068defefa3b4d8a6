"""The picture of repeated runs: a dot and an interval for each, median and quartiles of all."""

from __future__ import annotations

from typing import Any

import pytest

from ia3.errors import RunError
from ia3.report.repeats_plot import draw_repeats
from tests.report.test_plots import texts

RUNS = [
    {"seed": seed, "accuracy": share, "accuracy_interval": [share - 0.1, share + 0.05], "loss": 1 - share}
    for seed, share in ((0, 0.8), (1, 0.6), (2, 0.7))
]


def test_each_run_has_a_dot_and_an_interval_and_all_have_a_median(drawn: list[Any]) -> None:
    draw_repeats([*RUNS, {"seed": 3, "accuracy": None}], "accuracy", "r.png")
    seen = set(texts(drawn[0]))
    assert {"Accuracy 70.0 %", "median of 3 runs, quartiles 65.0 and 75.0", "seed 0", "seed 2"} <= seen
    lines = drawn[0].axes[0].lines
    dots = [float(line.get_xdata()[0]) for line in lines if line.get_marker() == "o"]
    assert dots == pytest.approx([80, 60, 70])
    assert [line.get_xdata()[1] for line in lines if len(line.get_xdata()) == 2][1:] == pytest.approx([85, 65, 75])


def test_a_loss_is_drawn_without_intervals_and_one_run_alone(drawn: list[Any]) -> None:
    draw_repeats(RUNS[:1], "loss", "r.png")
    assert {"Loss 0.2", "one run", "loss in nats"} <= set(texts(drawn[0]))


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(RunError, match="none of 1 runs has a finite loss"):
        draw_repeats([{"seed": 0, "loss": None}], "loss", "r.png")
