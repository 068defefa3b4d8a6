"""A run with enough rows held out: its temperature stands in the record, its picture in the folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from ia3.inference.loading import load_predictor
from tests.runs import trials
from tests.runs.test_folds import ROWS, SETTINGS

EVAL = [(f"{text} again", label) for text, label in ROWS]


def test_the_temperature_of_the_saved_epoch_is_recorded_drawn_and_used(
    base: Callable[..., Path], tmp_path: Path
) -> None:
    given = {**SETTINGS, "head_learning_rate": 5.0, "epochs": 1}
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
