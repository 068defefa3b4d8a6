"""What a run refuses, and that a mistake costs nothing that was there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ia3
from ia3.errors import BaseError, RunError, SettingsError, TableError, TemplateError
from ia3.inference.metrics import MetricsError
from ia3.training import backward
from tests.runs.trials import ADAPTER_FILES, ROWS, content, read, run, stop_after

BaseFolder = Callable[..., Path]
FREE = [(f"item {i}", f"the answer is number {i}") for i in range(12)]


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "ia3.json").read_text(encoding="utf-8"))
    return record


@pytest.mark.usefixtures("undrawn")
def test_overwrite_replaces_the_run_and_leaves_the_files_of_others(base: BaseFolder, tmp_path: Path) -> None:
    run(base("causal"), tmp_path / "o", **stop_after(4))
    (tmp_path / "o" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"it holds adapter_config\.json"):
        run(base("causal"), tmp_path / "o")
    run(base("causal"), tmp_path / "o", overwrite=True, epochs=1)
    left = content(tmp_path / "o")
    assert sorted(left) == sorted([*ADAPTER_FILES, "notes.txt", "run.jsonl"])
    run(base("causal"), tmp_path / "fresh" / "o", epochs=1)
    del left["notes.txt"]
    assert content(tmp_path / "fresh" / "o") == left


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"source": "missing.csv"}, TableError),
        ({"base": "missing-base"}, BaseError),
        ({"base": torch.nn.Linear(2, 2)}, BaseError),
        ({"answers": "label"}, SettingsError),
        ({"text": 0}, TableError),
        ({"learning_rat": 1.0}, SettingsError),
        ({"epochs": 0}, SettingsError),
        ({"max_length": 0}, SettingsError),
        ({"template": "{{ titel }}"}, TemplateError),
        ({"dtype": "float31"}, SettingsError),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_mistake_costs_neither_the_run_that_is_there_nor_leaves_a_new_folder(
    wrong: dict[str, Any], error: type[Exception], base: BaseFolder, tmp_path: Path
) -> None:
    run(base("causal"), tmp_path / "o", epochs=1)
    before = content(tmp_path / "o")
    options = {"base": base("causal"), "overwrite": True} | wrong
    with pytest.raises(error):
        run(options.pop("base"), tmp_path / "o", **options)
    assert content(tmp_path / "o") == before
    with pytest.raises(error):
        run(wrong.get("base", base("causal")), tmp_path / "new", **{k: v for k, v in wrong.items() if k != "base"})
    assert not (tmp_path / "new").exists()


def test_the_folder_of_the_base_is_no_folder_for_the_adapter(base: BaseFolder) -> None:
    before = sorted(path.name for path in base("causal").iterdir())
    with pytest.raises(RunError, match=r"a model lies in it \(config\.json\)"):
        run(base("causal"), base("causal"), overwrite=True)
    assert sorted(path.name for path in base("causal").iterdir()) == before


def test_an_encoder_refuses_free_text_before_its_weights_are_loaded(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ia3.runs.run_base.load_base", None)
    with pytest.raises(SettingsError, match="an encoder can only choose among labels"):
        run(base("encoder"), tmp_path / "o", source=ROWS, answers="text")
    with pytest.raises(SettingsError, match="an encoder can only choose among labels"):
        run(base("encoder"), tmp_path / "o", source=FREE)  # every answer another one


def test_class_weights_of_free_text_are_refused(base: BaseFolder, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="class_weights is on and the answers are free text"):
        run(base("causal"), tmp_path / "o", source=FREE, class_weights=True)


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_diverges_names_the_step_and_keeps_the_best_adapter(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = backward.sum_loss, []

    def diverge(*args: Any) -> Any:
        calls.append(1)
        return original(*args) * (float("nan") if len(calls) > 4 else 1.0)

    monkeypatch.setattr(backward, "sum_loss", diverge)
    told = r"the loss is nan at step 5, .*Lower the learning rate \(0\.05\).*epoch 1, the best so far, is kept"
    with pytest.raises(RunError, match=told):
        run(base("causal"), tmp_path)
    assert ia3.load(tmp_path).classify(["good news"])
    assert _record(tmp_path)["epoch"] == 1
    assert [event["step"] for event in read(tmp_path) if event["event"] == "step"] == [1, 2, 3, 4]


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_without_numbers_names_its_epoch(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(*args: Any, **options: Any) -> None:
        raise MetricsError("Scoring predictions: the loss is no number, got nan, expected a number of nats.")

    monkeypatch.setattr("ia3.runs.run.evaluate_together", overflow)
    with pytest.raises(RunError, match=r"Evaluating after step 3 \(epoch 1\): .*the loss is no number, got nan"):
        run(base("causal"), tmp_path)
