"""Temperatures of runs: fitted on rows held out, or what is usual for a recipe; in the record, and used."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ia3
from ia3.inference.loading import load_predictor
from ia3.inference.temperature import fit_scaling
from ia3.runs.plans.folds import train_folds
from ia3.runs.plans.repeats import train_repeats
from ia3.runs.plans.tasks import train_tasks
from ia3.training.recipes import find_recipe
from tests.runs import trials
from tests.runs.plans.test_folds import ROWS, SETTINGS

EVAL = [(f"{text} again", label) for text, label in ROWS]


def test_the_temperature_of_the_saved_epoch_is_recorded_drawn_and_used(
    base: Callable[..., Path], tmp_path: Path
) -> None:
    given = {**SETTINGS, "head_learning_rate": 5.0, "epochs": 1, "fit_head": False}
    result = trials.run(base("encoder"), tmp_path / "o", source=ROWS, eval_source=EVAL, **given)
    assert result.metrics is not None and (scaling := result.metrics.scaling) is not None
    record = json.loads((tmp_path / "o" / "ia3.json").read_text())
    assert record["calibration"] == {**scaling.to_json(), "fitted_on": "rows held out"}
    assert (tmp_path / "o" / "reliability.png").exists()
    assert "The same with the temperature" in (tmp_path / "o" / "README.md").read_text()
    model = load_predictor(tmp_path / "o", say=lambda line: None)
    measured = model.evaluate(EVAL)
    assert measured.accuracy == result.metrics.accuracy
    assert measured.temperature == scaling.temperature and measured.unscaled_error is not None
    assert abs(measured.unscaled_error - (result.metrics.calibration_error or 0)) < 1e-6
    assert model.attachment.bank.names and model.classify([EVAL[0][0]])[0].probability <= 1


USUAL = find_recipe("t-few-small").temperatures["causal", True]


@pytest.fixture
def started(base: Callable[..., Path], tmp_path: Path, undrawn: None) -> dict[str, Any]:
    """Return what a run of the recipe from a start is given, on a tiny language model; no pictures are drawn."""
    trials.run(base("causal"), tmp_path / "start", source=ROWS, eval_fraction=0.0, max_steps=2)
    return {"start": tmp_path / "start", "recipe": "t-few-small", "base": base("causal")}


def _temperature(folder: Path) -> float | None:
    record = json.loads((folder / "ia3.json").read_text())
    return (record.get("calibration") or {}).get("temperature")


def test_without_rows_held_out_the_recipes_usual_temperature_is_recorded_and_used(
    started: dict[str, Any], tmp_path: Path
) -> None:
    said: list[str] = []
    ia3.train(ROWS, output=tmp_path / "o", eval_fraction=0.0, say=said.append, **started)
    record = json.loads((tmp_path / "o" / "ia3.json").read_text())
    assert record["calibration"] == {"temperature": USUAL, "rows": 0, "fitted_on": "other tables, for the recipe"}
    assert (
        f"Probabilities will have the temperature {USUAL:g}, which adapters of such settings usually need" in said[-1]
    )
    model = load_predictor(tmp_path / "o", say=lambda line: None)
    assert model.evaluate(EVAL).temperature == USUAL


def test_an_adapter_that_is_not_what_was_measured_has_none(started: dict[str, Any], tmp_path: Path) -> None:
    ia3.train(ROWS, output=tmp_path / "short", eval_fraction=0.0, max_steps=2, **started)  # another setting
    ia3.train(ROWS, output=tmp_path / "cut", eval_fraction=0.0, **trials.stop_after(7), **started)  # stopped
    chosen = {"eval_source": EVAL[:6], "eval_strategy": "epoch"}  # its epoch is chosen on few rows
    ia3.train(ROWS, output=tmp_path / "chosen", **chosen, **started)
    assert [_temperature(tmp_path / name) for name in ("short", "cut", "chosen")] == [None] * 3


def test_rows_held_out_that_choose_nothing_move_it(started: dict[str, Any], tmp_path: Path) -> None:
    said: list[str] = []
    result = ia3.train(ROWS, output=tmp_path / "o", eval_source=EVAL[:6], say=said.append, **started)
    assert result.metrics is not None and result.metrics.scaling is not None  # fewer than any other run fits one on
    record = json.loads((tmp_path / "o" / "ia3.json").read_text())
    assert record["calibration"] == {**result.metrics.scaling.to_json(), "fitted_on": "rows held out"}
    assert record["calibration"]["temperature"] not in (1.0, USUAL) and record["calibration"]["rows"] == 6
    assert not any("usually need" in line for line in said)
    losses = [event["eval_loss"] for event in trials.read(tmp_path / "o") if event["event"] == "epoch"]
    assert losses.count(None) == len(losses) - 1 and losses[-1] == result.metrics.loss


def test_folds_weigh_their_answers_against_it(
    started: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[tuple[Any, ...]] = []

    def fit(scores: Any, gold: Any, usual: float | None = None) -> Any:
        fitted.append((usual, fit_scaling(scores, gold, usual), fit_scaling(scores, gold)))
        return fitted[-1][1]

    monkeypatch.setattr("ia3.inference.evaluate.fit_scaling", fit)
    folds = train_folds(ROWS, output=tmp_path / "o", folds=2, **started)
    [(usual, weighed, alone)] = fitted
    assert usual == USUAL and folds.metrics is not None and folds.metrics.scaling is weighed
    assert alone is None or abs(math.log(weighed.temperature / usual)) < abs(math.log(alone.temperature / usual))
    record = json.loads((tmp_path / "o" / "ia3.json").read_text())
    assert record["calibration"] == {**weighed.to_json(), "fitted_on": "2 folds"}


def test_repeats_are_measured_with_it_and_tasks_have_it_too(started: dict[str, Any], tmp_path: Path) -> None:
    repeats = train_repeats(ROWS, output=tmp_path / "p", repeats=1, per_label=4, **started)
    assert repeats.runs[0].metrics is not None and repeats.runs[0].metrics.temperature == USUAL
    assert _temperature(tmp_path / "p") == USUAL
    said: list[str] = []
    tasks = [{"name": name, "table": ROWS} for name in ("one", "two")]
    train_tasks(tasks, output=tmp_path / "t", eval_fraction=0.0, say=said.append, **started)
    assert [_temperature(tmp_path / "t" / name) for name in ("one", "two")] == [USUAL] * 2
    assert len([line for line in said if "Probabilities will have the temperature" in line]) == 1
    assert len([line for line in said if "The words are those of the start" in line]) == 1
