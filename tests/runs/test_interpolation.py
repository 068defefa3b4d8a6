"""What is kept of a training: so much of the way from the numbers that it began with to those it ended with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ia3.adapters.folder import load_adapter
from tests.runs.trials import ROWS, TASKS, content, read, run, run_many, stop_after

BaseFolder = Callable[..., Path]
SHORT: dict[str, Any] = {"epochs": 2, "eval_fraction": 0.0, "fit_head": False}

pytestmark = pytest.mark.usefixtures("undrawn")


def _numbers(folder: Path) -> dict[str, Tensor]:
    adapter = load_adapter(folder)
    return {**adapter.vectors, **{f"head.{name}": tensor for name, tensor in adapter.head.items()}}


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_quarter_of_the_way_is_kept_of_vectors_and_head(kind: str, base: BaseFolder, tmp_path: Path) -> None:
    run(base(kind), tmp_path / "start", source=ROWS[::-1], **SHORT)
    for share in (1.0, 0.25):
        run(base(kind), tmp_path / f"{share}", start=tmp_path / "start", interpolation=share, **SHORT)
    begun, ended, kept = (_numbers(tmp_path / name) for name in ("start", "1.0", "0.25"))
    assert max(float((ended[name] - begun[name]).abs().max()) for name in begun) > 0.01
    for name in begun:
        torch.testing.assert_close(kept[name], begun[name] + (ended[name] - begun[name]) / 4)


def test_training_goes_on_from_where_it_was_whatever_was_looked_at(base: BaseFolder, tmp_path: Path) -> None:
    for share in (1.0, 0.5):
        run(base("causal"), tmp_path / f"{share}", interpolation=share, epochs=3)
    steps, halves = ([e["loss"] for e in read(tmp_path / f"{s}") if e["event"] == "step"] for s in (1.0, 0.5))
    assert steps == halves
    looked, other = ([e["eval_loss"] for e in read(tmp_path / f"{s}") if e["event"] == "epoch"] for s in (1.0, 0.5))
    assert looked != other


@pytest.mark.parametrize("setting", ["interpolation", "frozen_blocks"])
def test_a_resumed_run_ends_in_the_same_bits(setting: str, base: BaseFolder, tmp_path: Path) -> None:
    given = {**SHORT, setting: 0.5, "checkpoint_seconds": 0.0}
    run(base("causal"), tmp_path / "whole", **given)
    run(base("causal"), tmp_path / "o", **given, **stop_after(5))
    run(base("causal"), tmp_path / "o", resume=True, **given)
    resumed, whole = ({**content(tmp_path / name), "README.md": ""} for name in ("o", "whole"))  # has the folder's name
    assert resumed == whole


def test_what_begins_with_a_shared_stage_is_pulled_back_to_it(base: BaseFolder, tmp_path: Path) -> None:
    rows = TASKS[0]["table"]
    tasks = [{"name": "still", "table": rows, "settings": {"learning_rate": 1e-9}}, {"name": "moved", "table": rows}]
    for share in (1.0, 0.5):
        folder = tmp_path / f"{share}"
        run_many(base("causal"), folder, tasks, shared_steps=4, interpolation=share, batches="apart", **SHORT)
    begun, ended, kept = (_numbers(tmp_path / name) for name in ("0.5/still", "1.0/moved", "0.5/moved"))
    assert any(float((tensor - 1).abs().max()) > 1e-3 for tensor in begun.values())
    assert max(float((kept[name] - begun[name]).abs().max()) for name in begun) > 1e-4
    ratio = [(kept[n] - begun[n]).norm() / (ended[n] - begun[n]).norm() for n in begun]
    assert max(abs(float(one) - 0.5) for one in ratio) < 0.2
