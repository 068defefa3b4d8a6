"""Plots: they say what the rows say, fit what they hold, and leave nothing else changed."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from ia3.errors import IA3Error, RunError
from ia3.inference.reliability import CalibrationBin
from ia3.report.plots import draw_confusion, draw_curves
from ia3.report.reliability_plot import draw_reliability

Row = dict[str, Any]


def step(number: int, loss: float) -> Row:
    return {
        "event": "step",
        "step": number,
        "epoch": 1,
        "loss": loss,
        "learning_rate": 1e-3,
        "examples_per_second": 9.5,
    }


def epoch(number: int, at: int, train: float, held_out: float | None, accuracy: float | None = None) -> Row:
    return {
        "event": "epoch",
        "epoch": number,
        "step": at,
        "train_loss": train,
        "eval_loss": held_out,
        "eval_accuracy": accuracy,
    }


STEPS = [step(i, 4.0 * math.exp(-i / 20) + 0.1 * (1 + i % 3)) for i in range(1, 91)]
EPOCHS = [epoch(1, 30, 2.0, 0.9, 0.81), epoch(2, 60, 0.6, 0.4, 0.9), epoch(3, 90, 0.2, 0.5, 0.92)]
BINS = [CalibrationBin(0.8, 0.9, 20, 0.86, 0.75), CalibrationBin(0.9, 1.0, 80, 0.97, 0.95)]


def texts(figure: Any) -> list[str]:
    """Every text that can be seen in the figure."""
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_visible() and t.get_text()]


def boxes(figure: Any, artists: list[Any]) -> list[Any]:
    """The places of texts in pixels, after drawing."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return [artist.get_window_extent(canvas.get_renderer()) for artist in artists]


def test_every_plot_is_a_png_of_150_dpi(tmp_path: Path) -> None:
    draw_curves(STEPS, EPOCHS, tmp_path / "curves.png")
    draw_confusion(["no", "yes"], [[5, 1], [0, 4]], tmp_path / "confusion.png")
    draw_reliability(BINS, str(tmp_path / "reliability.png"))
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
            assert min(image.size) > 300
    assert sorted(p.name for p in tmp_path.iterdir()) == ["confusion.png", "curves.png", "reliability.png"]


def test_the_same_rows_give_the_same_bytes_without_a_version(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_curves(STEPS, EPOCHS, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert set(image.info) == {"dpi"}


def test_a_picture_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "confusion.png"
    path.write_bytes(b"old")
    draw_confusion(["no", "yes"], [[5, 1], [0, 4]], path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_picture_before_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "confusion.png"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        draw_confusion(["no", "yes"], [[5, 1], [0, 4]], path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_drawing_imports_no_pyplot_and_changes_no_setting(tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib; before = dict(dict.items(matplotlib.rcParams))\n"
        "from ia3.report.plots import draw_confusion\n"
        f"draw_confusion(['a', 'b'], [[1, 0], [0, 1]], {str(tmp_path / 'c.png')!r})\n"
        "print({'matplotlib.pyplot', 'torch'} & set(sys.modules), dict(dict.items(matplotlib.rcParams)) == before)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set() True"


def test_curves_name_their_lines_and_the_epoch_of_the_lowest_eval_loss(drawn: list[Any]) -> None:
    draw_curves(STEPS, EPOCHS, "curves.png")
    seen = texts(drawn[0])
    assert "○ best epoch 2: eval loss 0.4, accuracy 90.0 %" in seen
    assert {"train, smoothed", "train, mean of epoch", "eval", "eval, 92.0 %", "1", "2", "3"} <= set(seen)
    assert len(drawn[0].axes) == 2


def test_the_first_of_equally_good_epochs_is_the_best(drawn: list[Any]) -> None:
    draw_curves([], [epoch(1, 10, 1.0, 0.5), epoch(2, 20, 0.9, 0.5)], "curves.png")
    assert "○ best epoch 1: eval loss 0.5" in texts(drawn[0])


def test_curves_have_one_panel_without_accuracy_and_no_best_epoch_without_eval(drawn: list[Any]) -> None:
    draw_curves(STEPS, [epoch(1, 45, 1.0, None), epoch(2, 90, 0.5, None)], "curves.png")
    assert len(drawn[0].axes) == 1
    assert not [text for text in texts(drawn[0]) if "best" in text]


def test_the_faint_line_holds_every_finite_loss_and_the_strong_one_their_moving_mean(drawn: list[Any]) -> None:
    rows = [*STEPS, step(91, math.nan), step(92, math.inf)]
    draw_curves(rows, [], "curves.png")
    faint, strong = drawn[0].axes[0].lines
    losses = np.array([row["loss"] for row in STEPS])
    assert faint.get_ydata().tolist() == losses.tolist()
    expected = [losses[max(i - 2, 0) : i + 3].mean() for i in range(90)]
    assert strong.get_ydata() == pytest.approx(expected)


def test_a_loss_that_falls_far_is_drawn_on_a_logarithmic_axis(drawn: list[Any]) -> None:
    draw_curves([step(i, 5.0 * 0.9**i) for i in range(60)], [], "a.png")
    draw_curves([step(i, 5.0 - i / 60) for i in range(60)], [], "b.png")
    assert [figure.axes[0].get_yscale() for figure in drawn] == ["log", "linear"]


@pytest.mark.parametrize(
    ("steps", "epochs"),
    [
        ([step(1, 2.0)], []),
        ([], [epoch(1, 10, 1.0, 1.0, 0.5)]),
        ([], [epoch(1, 10, 1.0, 1.0, 1.0), epoch(2, 20, 1.0, 1.0, 1.0)]),
        ([step(i, 0.0) for i in range(50)], [epoch(1, 49, 0.0, 0.0, 0.0)]),
        ([step(i, 1.0) for i in range(3)], [epoch(1, 3, math.nan, None)]),
        ([step(i, 1.0 + i % 2) for i in range(300)], [epoch(i, 10 * i, 1.0, 1.0 / i, 0.5) for i in range(1, 31)]),
    ],
)
def test_short_flat_and_long_runs_are_drawn_without_a_warning(
    tmp_path: Path, steps: list[Row], epochs: list[Row]
) -> None:
    draw_curves(steps, epochs, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize("held_out", [0.2, 0.21, 1.0, 4.0])
def test_the_names_of_lines_never_overlap(drawn: list[Any], held_out: float) -> None:
    draw_curves(STEPS, [epoch(1, 90, 0.2, held_out)], "curves.png")
    names = [t for t in drawn[0].axes[0].texts if t.get_text() in ("train, smoothed", "train, mean of epoch", "eval")]
    assert len(names) == 3
    for one, other in itertools.combinations(boxes(drawn[0], names), 2):
        assert not one.overlaps(other)


def test_a_run_without_a_loss_is_refused() -> None:
    with pytest.raises(RunError) as caught:
        draw_curves([step(1, math.nan)], [], "runs/7/curves.png")
    assert str(caught.value) == (
        "Drawing the curves curves.png: the run has no loss, got 1 steps and 0 epochs without one, expected at least "
        "one finite loss. Train for at least one step."
    )


def test_confusion_shows_every_count_the_support_and_the_share_that_is_right(drawn: list[Any]) -> None:
    draw_confusion(["negative", "neutral", "positive"], [[30, 0, 1], [2, 136, 4], [7, 9, 1056]], "c.png")
    seen = texts(drawn[0])
    assert {"30", "0", "1", "2", "136", "4", "7", "9", "1056"} <= set(seen)
    assert {"negative (31)", "neutral (142)", "positive (1,072)", "negative"} <= set(seen)
    assert "Confusion on 1,245 rows, 98.2 % right" in seen


def test_colours_follow_the_share_of_the_row_not_the_count(drawn: list[Any]) -> None:
    draw_confusion(["a", "b", "c"], [[90, 10, 0], [100, 900, 0], [0, 0, 0]], "c.png")
    colours = drawn[0].axes[0].collections[0].get_array()  # (choices, choices, 4)
    assert colours[0, 0].tolist() == colours[1, 1].tolist()
    assert colours[0, 1].tolist() == colours[1, 0].tolist()
    assert colours[0, 0].tolist() != colours[0, 1].tolist()
    assert len({tuple(colour) for colour in colours[2].tolist()}) == 1  # no rows: the same grey throughout


@pytest.mark.parametrize("choices", [2, 5, 12, 30, 77])
def test_counts_fit_their_cells_and_names_do_not_overlap(drawn: list[Any], choices: int) -> None:
    counts = np.full((choices, choices), 7, dtype=int) if choices < 30 else np.zeros((choices, choices), dtype=int)
    np.fill_diagonal(counts, 1234)
    draw_confusion([f"a rather long label {i}" for i in range(choices)], counts.tolist(), "c.png")
    axes = drawn[0].axes[0]
    cell = axes.get_window_extent().width / choices
    written = [t for t in axes.texts if t.get_text() == "1234"]
    assert len(written) == choices
    assert min(t.get_fontsize() for t in written) >= 5
    columns, rows = axes.get_xticklabels(), axes.get_yticklabels()
    places = boxes(drawn[0], [*written, *rows, *columns])
    for box in places[:choices]:
        assert max(box.width, box.height) < cell
    for one, other in itertools.pairwise(places[choices : 2 * choices]):
        assert not one.overlaps(other)
    if choices > 12:  # turned upright; at 45° the boxes overlap where the letters do not
        for one, other in itertools.pairwise(places[2 * choices :]):
            assert not one.overlaps(other)


def test_labels_of_any_characters_are_drawn_as_they_are_or_as_escapes(tmp_path: Path, drawn: list[Any]) -> None:
    labels = ["$x_1$", "a\nb", "Ölpreis: ↑ | 'x'", "\ue123\U0010fffd", "\ud800", "", "y" * 60]
    draw_confusion(labels, np.eye(7, dtype=int).tolist(), "c.png")
    figure = drawn[0]
    figure.savefig(tmp_path / "c.png")  # a glyph that is missing would warn, and warnings are errors
    names = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert names == ["$x_1$", r"a\nb", "Ölpreis: ↑ | 'x'", r"\ue123\U0010fffd", r"\ud800", "", "y" * 31 + "…"]


@pytest.mark.parametrize("counts", [[[1, 2]], [[1]], []])
def test_counts_that_do_not_fit_the_labels_are_refused(counts: list[list[int]]) -> None:
    with pytest.raises(
        IA3Error, match=r"the counts do not fit the labels, got shape .*, expected \(2, 2\) for 2 labels"
    ):
        draw_confusion(["a", "b"], counts, "c.png")
