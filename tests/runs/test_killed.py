"""Killed at any instant and resumed: every file is that of an uninterrupted run."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ia3.errors import RunError
from ia3.runs.folder import CHECKPOINTS
from tests.runs import trials
from tests.runs.trials import content, run, run_in_child, stop_after

BaseFolder = Callable[..., Path]
needs_sigkill = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")


@pytest.fixture(scope="module")
def whole(base: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Return what an uninterrupted run in a child process leaves."""
    found: dict[str, dict[str, Any]] = {}

    def content_of(kind: str, **options: Any) -> dict[str, Any]:
        key = f"{kind}{options}"
        if key not in found:
            folder = tmp_path_factory.mktemp("whole") / "o"
            assert run_in_child(_place(base, kind), folder, **options) == 0
            found[key] = content(folder)
        return found[key]

    return content_of


def _place(base: BaseFolder, kind: str) -> Path:
    return base(kind, dropout=True)


def _finish(base: Path, folder: Path, **options: Any) -> None:
    """Do what the user does after a kill: the same command, with --resume where the folder is in use."""
    is_done = (folder / "run.jsonl").exists() and read_whole(folder)[-1:] == ["end"] and not _has_checkpoints(folder)
    code = run_in_child(base, folder, resume=(folder / "run.jsonl").exists(), **options)
    assert code == (1 if is_done else 0)  # a finished run is not resumed


def read_whole(folder: Path) -> list[str]:
    """Return the kinds of the events whose lines are whole."""
    return [json.loads(line)["event"] for line in (folder / "run.jsonl").read_bytes().split(b"\n")[:-1]]


def _has_checkpoints(folder: Path) -> bool:
    return any((folder / CHECKPOINTS).glob("step-*.pt"))


@needs_sigkill
@pytest.mark.parametrize("instant", [9, 40, 75])
def test_killed_at_an_instant_and_resumed_every_file_is_that_of_an_uninterrupted_run(
    instant: int, base: BaseFolder, whole: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    assert run_in_child(_place(base, "causal"), tmp_path / "o", kill_at=instant) == -signal.SIGKILL
    _finish(_place(base, "causal"), tmp_path / "o")
    assert content(tmp_path / "o") == whole("causal")


@needs_sigkill
def test_killed_again_and_again_the_end_is_still_the_same(
    base: BaseFolder, whole: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    options = {"dropout": True}
    codes = []
    while codes[-1:] != [0]:
        resume = (tmp_path / "o" / "run.jsonl").exists()
        codes.append(run_in_child(_place(base, "encoder"), tmp_path / "o", resume=resume, kill_at=45, **options))
    assert len(codes) > 2 and set(codes[:-1]) == {-signal.SIGKILL}
    assert content(tmp_path / "o") == whole("encoder", **options)


@needs_sigkill
def test_killed_at_any_time_and_resumed_the_end_is_the_same(
    base: BaseFolder, whole: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    expected = whole("causal")
    process = trials.start_child(_place(base, "causal"), tmp_path / "o")
    _wait_for(lambda: (tmp_path / "o" / CHECKPOINTS).exists() or not process.is_alive())
    time.sleep(random.Random(0).uniform(0, 0.1))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    _finish(_place(base, "causal"), tmp_path / "o")
    assert content(tmp_path / "o") == expected


def _wait_for(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_so() and time.monotonic() < until:
        time.sleep(0.005)


@pytest.mark.slow
@needs_sigkill
@pytest.mark.parametrize(
    ("kind", "options", "every"),
    [("encoder", {"dropout": True}, 1), ("causal", {}, 5), ("seq2seq", {"dropout": True}, 5)],
)
def test_killed_at_every_instant_the_end_is_the_same(
    kind: str,
    options: dict[str, Any],
    every: int,
    base: BaseFolder,
    whole: Callable[..., dict[str, Any]],
    tmp_path: Path,
) -> None:
    expected = whole(kind, draws=True, **options)
    for instant in itertools.count(1, every):
        folder = tmp_path / str(instant) / "o"
        if run_in_child(_place(base, kind), folder, kill_at=instant, draws=True, **options) == 0:
            break
        _finish(_place(base, kind), folder, draws=True, **options)
        assert content(folder) == expected, f"killed at instant {instant}"
        shutil.rmtree(folder)
    assert instant > 100  # the run ended by itself


@pytest.mark.slow
@needs_sigkill
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_twenty_times_the_end_is_the_same(
    seed: int, base: BaseFolder, whole: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    expected, chance = whole("seq2seq", dropout=True), random.Random(seed)
    for attempt in itertools.count():
        resume = (tmp_path / "o" / "run.jsonl").exists()
        process = trials.start_child(_place(base, "seq2seq"), tmp_path / "o", resume=resume, dropout=True)
        process.join(chance.uniform(0.05, 0.5) * 1.3**attempt)
        if not process.is_alive():
            break
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert content(tmp_path / "o") == expected


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("damage", ["cut", "gone", "part"])
def test_with_its_newest_checkpoint_damaged_a_run_goes_on_from_the_one_before(
    damage: str, base: BaseFolder, tmp_path: Path
) -> None:
    run(base("causal"), tmp_path / "whole" / "o")
    output = tmp_path / "stopped" / "o"
    run(base("causal"), output, checkpoint_seconds=0, **stop_after(5))
    older, newest = sorted((output / CHECKPOINTS).glob("*.pt"))
    assert (older.name, newest.name) == ("step-00000004.pt", "step-00000005.pt")
    if damage == "cut":
        newest.write_bytes(newest.read_bytes()[:1000])
    else:
        newest.unlink()
    if damage == "part":
        (output / CHECKPOINTS / ".step-00000099.pt.0123.ia3-part").write_bytes(b"half of it")
    said: list[str] = []
    run(base("causal"), output, resume=True, say=said.append)
    assert "Resuming after step 4." in said
    assert content(output) == content(tmp_path / "whole" / "o")


@pytest.mark.usefixtures("undrawn")
def test_with_every_checkpoint_damaged_resuming_is_an_error(base: BaseFolder, tmp_path: Path) -> None:
    run(base("causal"), tmp_path, checkpoint_seconds=0, **stop_after(3))
    for path in (tmp_path / CHECKPOINTS).iterdir():
        path.write_bytes(b"")
    with pytest.raises(RunError, match=r"none of its 2 checkpoints can be read\. Start again with --overwrite"):
        run(base("causal"), tmp_path, resume=True)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("cut", ["within its first line", "after it", "empty"])
def test_killed_before_the_first_checkpoint_a_run_begins_anew(cut: str, base: BaseFolder, tmp_path: Path) -> None:
    run(base("causal"), tmp_path / "whole" / "o")
    output = tmp_path / "killed" / "o"
    output.mkdir(parents=True)
    first = (tmp_path / "whole" / "o" / "run.jsonl").read_bytes().split(b"\n")[0]
    (output / "run.jsonl").write_bytes(
        {"within its first line": first[:200], "after it": first + b"\n", "empty": b""}[cut]
    )
    run(base("causal"), output, resume=True)
    assert content(output) == content(tmp_path / "whole" / "o")
