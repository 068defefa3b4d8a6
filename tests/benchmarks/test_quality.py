"""Time to quality: events are seen while the run writes them, and the run ends when the accuracy is reached."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import quality
from benchmarks.quality import time_to_quality
from ia3.errors import RunError
from tests.models import save_tiny_base

# stands for `python -m ia3 train …`: writes three evaluations, the second line in two pieces
RUN = """
import json, pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
time.sleep(0.2)
out.mkdir()
with (out / "run.jsonl").open("w") as file:
    for step, accuracy in ((1, None), (2, 0.5), (3, 0.75), (4, 0.9)):
        line = json.dumps({"event": "epoch", "epoch": step, "step": step, "eval_accuracy": accuracy}) + "\\n"
        for piece in (line[:20], line[20:]):
            file.write(piece)
            file.flush()
            time.sleep(0.1)
"""


@pytest.fixture
def popen(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Start RUN in place of `python -m ia3`, and keep the commands."""
    commands: list[list[str]] = []
    real = subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return real([sys.executable, "-c", RUN, *command[3:]], **options)

    monkeypatch.setattr(quality.subprocess, "Popen", start)
    return commands


def test_the_clock_stops_at_the_first_evaluation_that_is_good_enough(popen: list[list[str]]) -> None:
    found = time_to_quality(Path("data/train.csv"), "minilm", 0.7, ["--epochs", "2"])
    assert popen[0][1:4] == ["-m", "ia3", "train"] and popen[0][-4:-2] == ["--epochs", "2"]
    assert found["reached"] and found["total_seconds"] is None
    assert [seen["accuracy"] for seen in found["evaluations"]] == [0.5, 0.75]
    assert 0.2 < found["evaluations"][0]["seconds"] < found["seconds"] == found["evaluations"][1]["seconds"]
    assert found["command"] == "ia3 train train.csv --base minilm --json --epochs 2"


def test_an_accuracy_that_is_never_reached_is_told(popen: list[list[str]]) -> None:
    found = time_to_quality(Path("train.csv"), "minilm", 0.95)
    assert not found["reached"] and found["seconds"] is None and found["total_seconds"] > 0.2
    assert len(found["evaluations"]) == 3


def test_a_run_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen
    monkeypatch.setattr(
        quality.subprocess,
        "Popen",
        lambda command, **options: real(
            [sys.executable, "-c", "import sys; sys.exit('ia3: the table is empty')"], **options
        ),
    )
    with pytest.raises(RunError, match="ended with code 1: ia3: the table is empty"):
        time_to_quality(Path("train.csv"), "minilm")


@pytest.mark.slow
def test_a_real_run_is_timed(tmp_path: Path) -> None:
    base = save_tiny_base(tmp_path / "base", "encoder")
    table = tmp_path / "train.csv"
    table.write_text("text,label\n" + "".join(f"{word} {n},{word}\n" for n in range(40) for word in ("up", "down")))
    found = time_to_quality(table, str(base), 0.0)
    assert found["reached"] and found["evaluations"][0]["epoch"] == 1
    json.dumps(found)
