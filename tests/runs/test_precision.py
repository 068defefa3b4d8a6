"""Runs on a base in int8: the precision is recorded, is part of what makes a run, and binds the adapter to nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ia3.bases.loading import load_base
from ia3.bases.precision import precision_of
from ia3.errors import RunError, SettingsError
from ia3.inference.loading import load_predictor
from ia3.runs.plans.sweep import sweep
from tests.runs.trials import ROWS, content, run, run_many

pytestmark = pytest.mark.usefixtures("undrawn")
BaseFolder = Callable[..., Path]


def _recorded(folder: Path) -> Any:
    return json.loads((folder / "ia3.json").read_text(encoding="utf-8"))["base"]["precision"]


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_an_adapter_trained_in_one_precision_says_so_and_answers_in_both(
    kind: str, base: BaseFolder, tmp_path: Path
) -> None:
    for precision in ("float", "int8"):
        folder = tmp_path / precision
        run(base(kind), folder, precision=precision, epochs=1)
        assert _recorded(folder) == precision
        found = []
        for used in ("float", "int8"):
            predictor = load_predictor(folder, precision=used)
            assert (predictor.base.precision, precision_of(predictor.base.model)) == (used, used)
            found.append(predictor.evaluate(list(ROWS)).loss or 0.0)
        assert found[0] != found[1] and found[0] == pytest.approx(found[1], rel=0.05)


def test_the_same_int8_run_gives_the_same_bits(base: BaseFolder, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(base("causal"), tmp_path / name / "o", precision="int8", epochs=1)
    assert content(tmp_path / "one" / "o") == content(tmp_path / "two" / "o")


def test_a_run_in_int8_is_not_resumed_in_float(base: BaseFolder, tmp_path: Path) -> None:
    run(base("causal"), tmp_path, precision="int8", should_stop=iter([False, False, True]).__next__)
    with pytest.raises(RunError, match=r'this is another run: precision was "int8" and is "float"\. Give the same'):
        run(base("causal"), tmp_path, resume=True)
    run(base("causal"), tmp_path, resume=True, precision="int8")


def test_a_base_that_is_loaded_has_its_own_precision(base: BaseFolder, tmp_path: Path) -> None:
    loaded = load_base(base("causal"), precision="int8", device="cpu")
    with pytest.raises(SettingsError, match=r"precision 'int8' cannot be given to a base that is loaded already"):
        run(loaded, tmp_path / "no", precision="int8")
    run(loaded, tmp_path / "o", epochs=1)
    assert _recorded(tmp_path / "o") == "int8"


def test_several_tasks_and_a_sweep_run_in_int8_too(base: BaseFolder, tmp_path: Path) -> None:
    run_many(base("encoder"), tmp_path / "many", precision="int8", epochs=1)
    assert _recorded(next(path.parent for path in sorted((tmp_path / "many").rglob("ia3.json")))) == "int8"
    options: dict[str, Any] = {"vary": {"learning_rate": [0.01]}, "seeds": [0], "epochs": 1, "precision": "int8"}
    sweep(ROWS, base("causal"), tmp_path / "sweep", **options)
    assert _recorded(next(path.parent for path in sorted((tmp_path / "sweep").rglob("ia3.json")))) == "int8"
