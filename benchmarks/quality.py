"""Time to quality: `ia3 train` as a user runs it, and the clock until its record tells of an accuracy.

The record's events carry no time, so they are stamped as they are seen. The run is ended once the accuracy is reached.
This file knows processes and lines of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ia3.errors import RunError

TARGET = 0.969  # what PEFT's notebook reports of its own table
_PAUSE = 0.05  # seconds between two looks
_PATIENCE = 30.0  # seconds for an ended run to go


def time_to_quality(table: Path, base: str, target: float = TARGET, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Return how long `ia3 train` takes, from its start, until an evaluation reaches an accuracy.

    Args:
        table: The table to train on.
        base: Name of the base.
        target: The accuracy, in [0, 1].
        arguments: Further arguments of `ia3 train`.

    Returns:
        `base`, `target`, `command`, `reached`, `seconds` (until then, None if never), `total_seconds` (of the whole
        run, None if it was ended), and `evaluations`: the seconds, step, epoch and accuracy of each.

    Raises:
        RunError: If the run fails.
    """
    given = ["train", str(table), "--base", base, "--json", *arguments]
    evaluations: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix="ia3-quality-") as folder, Path(folder, "talk").open("w+") as talk:
        output = Path(folder, "run")
        began = time.perf_counter()
        command = [sys.executable, "-m", "ia3", *given, "--output", str(output)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=talk)
        try:
            for event in _follow(output / "run.jsonl", process):
                if event.get("eval_accuracy") is None:
                    continue
                seen = {"seconds": time.perf_counter() - began, "accuracy": event["eval_accuracy"]}
                evaluations.append({**seen, "step": event.get("step"), "epoch": event.get("epoch")})
                if event["eval_accuracy"] >= target:
                    break
            reached = bool(evaluations) and evaluations[-1]["accuracy"] >= target
            total = None if reached else time.perf_counter() - began
            if not reached:
                _check_ended(process.wait(), talk)
        finally:
            _end(process)
    return {
        "base": base,
        "target": target,
        "command": "ia3 " + " ".join(["train", table.name, *given[2:]]),
        "reached": reached,
        "seconds": evaluations[-1]["seconds"] if reached else None,
        "total_seconds": total,
        "evaluations": evaluations,
    }


def _follow(path: Path, process: subprocess.Popen[Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of a record while the process writes it."""
    read = 0
    while True:
        is_over = process.poll() is not None  # asked before the look, so that the last lines are not missed
        content = path.read_bytes() if path.exists() else b""
        whole = content.rfind(b"\n") + 1
        for line in content[read:whole].splitlines():
            yield json.loads(line)
        read = whole
        if is_over:
            return
        time.sleep(_PAUSE)


def _check_ended(code: int, talk: Any) -> None:
    if code != 0:
        talk.seek(0)
        lines = talk.read().strip().splitlines() or ["no message"]
        raise RunError(f"Timing ia3 train: it ended with code {code}: {lines[-1][:300]}")


def _end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
