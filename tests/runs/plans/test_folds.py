"""Folds: every row measured once by an adapter that has not seen it, and one of all rows in the folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ia3
from ia3.adapters.folder import load_adapter
from ia3.data.draws import make_folds
from ia3.data.tables import read_table
from ia3.errors import IA3Error
from ia3.runs.plans.folds import train_folds
from ia3.runs.results import OneResult
from tests.runs import trials
from tests.runs.trials import content, stop_after

BaseFolder = Callable[..., Path]
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "learning_rate": 0.05}
# half of the labels are wrong, so that an adapter is surer than it is right
ROWS = [(f"good news number {i}", "up" if i % 4 else "down") for i in range(12)]
ROWS += [(f"bad day {i}", "down" if i % 2 else "up") for i in range(12)]


def run(base: Path, output: Path, source: Any = ROWS, **options: Any) -> OneResult:
    fixed = {"now": lambda: trials.datetime(2026, 1, 2, tzinfo=trials.UTC), "folds": 3}
    return train_folds(source, base, output, **{**fixed, **SETTINGS, **options})


@pytest.fixture(scope="module")
def whole(base: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[OneResult, Path, list[str]]:
    """Three folds of an encoder whose head learns too fast, their folder, and what was said."""
    folder, said = tmp_path_factory.mktemp("folds") / "o", list[str]()
    return run(base("encoder"), folder, say=said.append, head_learning_rate=5.0), folder, said


def test_every_row_is_measured_once_and_the_record_says_how(whole: tuple[OneResult, Path, list[str]]) -> None:
    result, folder, said = whole
    assert "3 folds of 24 rows, and one adapter of all of them." in said
    assert any(line.startswith("Only 24 rows are measured on") for line in said)
    hint = "24 rows of 2 labels are few for the defaults (12 steps): --recipe t-few-small is made for so few rows."
    assert said.count(hint) == 1
    assert result.metrics is not None and result.metrics.rows == 24
    sizes = [one.rows for one in result.folds if one is not None]
    right = sum(round((one.accuracy or 0) * one.rows) for one in result.folds if one is not None)
    assert sizes == [8, 8, 8] and right == round((result.metrics.accuracy or 0) * 24)
    record = json.loads((folder / "ia3.json").read_text())
    assert record["metrics"]["accuracy"] == result.metrics.accuracy and record["data"]["rows"] == 24
    told = record["cross_validation"]
    assert told["folds"] == 3 and [one["rows"] for one in told["each"]] == sizes
    assert result.to_json()["cross_validation"] == told
    assert "(one of 3 folds) (24 rows)" in (folder / "README.md").read_text()


def test_every_fold_takes_the_steps_of_the_adapter_that_is_saved(whole: tuple[OneResult, Path, list[str]]) -> None:
    result, folder, _ = whole
    events = trials.read(folder)
    steps = Counter(event["task"] for event in events if event["event"] == "step")
    rates = {event["task"]: event["learning_rate"] for event in events if event["event"] == "step"}
    assert steps == {"fold 1": 12, "fold 2": 12, "fold 3": 12, "all rows": 12} and result.steps == 48
    assert len(set(rates.values())) == 1  # their rates fall alike
    assert result.settings.max_steps is None and json.loads((folder / "ia3.json").read_text())["steps"] == 12


def test_the_temperature_is_that_of_the_folds_and_what_predictions_use(
    whole: tuple[OneResult, Path, list[str]],
) -> None:
    result, folder, _ = whole
    assert result.metrics is not None and result.metrics.scaling is not None
    scaling = result.metrics.scaling
    assert scaling.temperature > 1 and scaling.loss_after < scaling.loss_before and scaling.rows == 24
    record = json.loads((folder / "ia3.json").read_text())
    assert record["calibration"] == {**scaling.to_json(), "fitted_on": "3 folds"}
    names = {path.name for path in folder.iterdir()}
    assert {"reliability.png", "confusion.png", "curves.png", "ia3.json"} <= names and "checkpoints" not in names
    model = ia3.load(folder)
    assert model.temperature == scaling.temperature
    measured = model.evaluate(ROWS)
    assert measured.temperature == scaling.temperature and measured.unscaled_error != measured.calibration_error


@pytest.mark.usefixtures("undrawn")
def test_apart_both_adapters_have_the_bits_of_training_them_alone(base: BaseFolder, tmp_path: Path) -> None:
    given = {**SETTINGS, "epochs": 1, "eval_fraction": 0}
    result = run(base("causal"), tmp_path / "o", batches="apart", folds=2, epochs=1)
    trials.run(base("causal"), tmp_path / "alone", source=ROWS, **given)
    one, alone = (load_adapter(tmp_path / name) for name in ("o", "alone"))
    assert all(torch.equal(vector, alone.vectors[site]) for site, vector in one.vectors.items())
    first = set(make_folds(read_table(ROWS), 2, 0)[0])
    rows = [row for i, row in enumerate(ROWS) if i not in first]
    held = [ROWS[i] for i in sorted(first)]
    trials.run(base("causal"), tmp_path / "fold", source=rows, **given, max_steps=6)  # as that of all rows takes
    measured, fold = ia3.load(tmp_path / "fold").evaluate(held), result.folds[0]
    assert fold is not None and measured.accuracy == fold.accuracy
    assert measured.loss == pytest.approx(fold.loss, abs=1e-5)


@pytest.mark.usefixtures("undrawn")
def test_stopped_and_resumed_the_adapter_is_that_of_an_uninterrupted_run(
    base: BaseFolder, tmp_path: Path, whole: tuple[OneResult, Path, list[str]]
) -> None:
    stopped = run(base("encoder"), tmp_path / "o", head_learning_rate=5.0, **stop_after(5))
    assert stopped.is_stopped and stopped.metrics is None and not (tmp_path / "o" / "ia3.json").exists()
    resumed = run(base("encoder"), tmp_path / "o", head_learning_rate=5.0, resume=True)
    assert not resumed.is_stopped
    found, expected = content(tmp_path / "o"), content(whole[1])
    for name in ("ia3.json", "adapter_model.safetensors", "README.md"):
        assert found[name] == expected[name]


@pytest.mark.usefixtures("undrawn")
def test_free_text_has_a_loss_of_all_rows(base: BaseFolder, tmp_path: Path) -> None:
    rows = [(f"question {i}", f"answer {i}") for i in range(9)]
    result = run(base("causal"), tmp_path / "o", rows, epochs=1)
    assert result.metrics is not None and result.metrics.accuracy is None and result.metrics.rows == 9
    assert result.metrics.loss == pytest.approx(
        sum((one.loss or 0) * 3 for one in result.folds if one is not None) / 9, rel=1e-3
    )


@pytest.mark.parametrize("folds", [1, 25])
def test_folds_that_cannot_be_cut_are_refused(folds: int, base: BaseFolder, tmp_path: Path) -> None:
    with pytest.raises(IA3Error, match=f"got {folds} folds for 24 different texts"):
        run(base("encoder"), tmp_path / "o", folds=folds)
    assert not (tmp_path / "o").exists()
