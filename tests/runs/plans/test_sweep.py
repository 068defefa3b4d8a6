"""Sweeps: every combination a row, compared on the same held-out rows, and the best one in the folder."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ia3
from ia3.adapters.folder import load_adapter
from ia3.errors import RunError, SettingsError
from ia3.runs.plans.sweep import make_variants, sweep
from ia3.runs.results import SweepResult
from ia3.training.learner import Learner
from tests.runs import trials
from tests.runs.trials import ROWS, content, read

BaseFolder = Callable[..., Path]
SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 5}
VARY = {"learning_rate": [0.05, 0.001]}


def run(base: Path, output: Path, **options: Any) -> SweepResult:
    given = {"vary": VARY, "seeds": [0, 1], "now": lambda: trials.datetime(2026, 1, 2, tzinfo=trials.UTC)}
    return sweep(ROWS, base, output, **{**given, **SETTINGS, **options})


def test_every_combination_is_run_for_every_seed() -> None:
    variants = make_variants({"learning_rate": [0.01, 0.02], "batch_size": [4, 8]}, [0, 7])
    assert len(variants) == 8 and len({variant.name for variant in variants}) == 8
    assert variants[1].changes == {"learning_rate": 0.01, "batch_size": 4, "seed": 7}
    assert variants[1].name == "learning_rate 0.01, batch_size 4, seed 7"
    assert [variant.name for variant in make_variants({}, [3])] == ["the defaults, seed 3"]


def test_everything_that_cannot_be_compared_is_told_at_once() -> None:
    vary = {"learning_rat": [1], "dropout": [True, False], "batch_size": [0, 4, 4], "warmup": [], "epochs": ["x"]}
    with pytest.raises(SettingsError) as raised:
        make_variants(vary, [-1])
    told = str(raised.value)
    for part in (
        "there is no setting 'learning_rat'. Did you mean 'learning_rate'",
        "dropout is the same for all rows of a run and cannot be compared",
        "batch_size has the value 4 twice",
        "batch_size is 0, expected at least 1",
        "warmup has no values",
        "epochs is 'x', expected a whole number",
        "seed is -1",
    ):
        assert part in told
    with pytest.raises(SettingsError, match="there are 1100 runs, expected at most 1000"):
        make_variants({"epochs": list(range(1, 111))}, list(range(10)))


def test_the_folder_holds_the_best_adapter_the_table_the_picture_and_the_record(
    base: BaseFolder, tmp_path: Path
) -> None:
    result = run(base("encoder"), tmp_path / "o")
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "curves.png", "ia3.json", "run.jsonl",
        "sweep.csv",
    ]  # fmt: skip
    best = result.best
    assert best is not None
    losses = [one.outcome.best_loss for group in result.groups for one in group.runs]
    assert best.outcome.best_loss == min(losses)
    assert [group.median_loss for group in result.groups] == sorted(group.median_loss for group in result.groups)
    record = json.loads((tmp_path / "o" / "ia3.json").read_text())
    assert record["metrics"]["loss"] == pytest.approx(best.outcome.best_loss)
    assert record["settings"]["learning_rate"] == best.settings.learning_rate
    assert record["settings"]["seed"] == best.seed and record["epoch"] == best.outcome.best_epoch
    assert ia3.load(tmp_path / "o").classify(["good news"])[0].prediction in ("up", "down")
    with (tmp_path / "o" / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and sorted(float(row["eval_loss"]) for row in rows) == pytest.approx(sorted(losses), rel=1e-4)
    assert len({event["task"] for event in read(tmp_path / "o") if event["event"] == "step"}) == 4


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_recipes_are_compared_whatever_their_losses(kind: str, base: BaseFolder, tmp_path: Path) -> None:
    vary = {"recipe": ["default", "t-few", "t-few-small"]}
    result = sweep(ROWS, base(kind), tmp_path / "o", vary=vary, seeds=[0], max_steps=2)
    steps = sorted(group.runs[0].outcome.steps for group in result.groups)
    assert steps == [2, 2, 2] or (kind == "encoder" and steps == [1, 2, 2])  # one where vectors are not kept
    assert all(group.losses for group in result.groups)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_with_batches_apart_the_best_has_the_bits_of_training_it_alone(
    kind: str, base: BaseFolder, tmp_path: Path
) -> None:
    rows = {"eval_source": ROWS[::4]}
    result = run(base(kind), tmp_path / "o", batches="apart", **rows)
    assert result.best is not None and result.best in result.groups[0].runs
    changes = {**result.groups[0].changes, "seed": result.best.seed}
    trials.run(base(kind), tmp_path / "alone", **{**SETTINGS, **changes}, **rows)
    swept, alone = (load_adapter(tmp_path / name) for name in ("o", "alone"))
    assert all(torch.equal(vector, alone.vectors[site]) for site, vector in swept.vectors.items())
    assert all(torch.equal(tensor, alone.head[name]) for name, tensor in swept.head.items())


@pytest.mark.usefixtures("undrawn")
def test_stopped_and_resumed_every_file_is_that_of_an_uninterrupted_sweep(base: BaseFolder, tmp_path: Path) -> None:
    run(base("encoder"), tmp_path / "whole" / "o")
    whole = content(tmp_path / "whole" / "o")
    for stop in (1, 4, 5):
        asked: list[int] = []
        output = tmp_path / str(stop) / "o"
        stopped = run(
            base("encoder"), output, should_stop=lambda a=asked, s=stop: len(a) >= s or a.append(1) is not None
        )
        assert stopped.is_stopped and (stopped.best is None) == (stop < 3)
        assert not run(base("encoder"), output, resume=True).is_stopped
        found = content(output)
        assert sorted(map(str, found.pop("run.jsonl"))) == sorted(map(str, whole["run.jsonl"]))
        assert found == {name: value for name, value in whole.items() if name != "run.jsonl"}


@pytest.mark.usefixtures("undrawn")
def test_stopped_before_the_only_look_the_best_so_far_is_saved(base: BaseFolder, tmp_path: Path) -> None:
    asked: list[int] = []
    stop = {"should_stop": lambda: len(asked) >= 4 or asked.append(1) is not None}
    result = run(base("encoder"), tmp_path / "o", eval_strategy="end", epochs=4, **stop)
    assert result.is_stopped and result.best is not None and result.best.outcome.best_epoch == 1
    record = json.loads((tmp_path / "o" / "ia3.json").read_text())
    losses = [one.outcome.best_loss for group in result.groups for one in group.runs]
    assert record["metrics"]["loss"] == result.best.outcome.best_loss == min(losses)


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_diverges_is_in_the_table_and_the_best_of_the_others_is_saved(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Learner.take_step
    bad = ["learning_rate 0.05, seed 0", "learning_rate 0.05, seed 1"]

    def take_step(learner: Learner, summed: float, targets: float) -> float | None:
        return original(learner, math.nan if learner.task.name in bad else summed, targets)

    monkeypatch.setattr(Learner, "take_step", take_step)
    result = run(base("causal"), tmp_path / "o")
    assert result.best is not None and result.best.settings.learning_rate == 0.001
    assert result.groups[-1].name == "learning_rate 0.05" and math.isinf(result.groups[-1].median_loss)
    assert result.groups[-1].losses == () and "the loss is nan" in (tmp_path / "o" / "sweep.csv").read_text()
    bad += ["learning_rate 0.001, seed 0", "learning_rate 0.001, seed 1"]
    with pytest.raises(RunError, match="All 4 tasks have diverged"):
        run(base("causal"), tmp_path / "p")


def test_with_nothing_held_out_there_is_nothing_to_compare(base: BaseFolder, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing is held out to compare on"):
        run(base("causal"), tmp_path / "o", eval_fraction=0)
