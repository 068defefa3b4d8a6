"""A run under way: its record, what makes it the same run, and that no kill and no stop changes its end."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ia3.runs.run
from ia3.errors import RunError
from ia3.runs.folder import CHECKPOINTS
from ia3.training.records import RunLog
from tests.models import save_tiny_base
from tests.runs import trials
from tests.runs.trials import ADAPTER_FILES, FINISHED, ROWS, TOTAL, content, read, run, run_in_child, stop_after

BaseFolder = Callable[..., Path]
needs_sigkill = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _steps(folder: Path) -> list[int]:
    return [event["step"] for event in read(folder) if event["event"] == "step"]


# -- the record -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_the_record_tells_the_run_from_start_to_end(base: BaseFolder, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    run(base("causal"), tmp_path / "o", on_event=told.append)
    events = read(tmp_path / "o")
    assert events == json.loads(json.dumps(told))
    kinds = [event["event"] for event in events]
    assert kinds == ["start", *(["step"] * 3 + ["epoch"]) * 3, "end"]
    start, end = events[0], events[-1]
    assert (start["step"], start["total_steps"], start["table"], start["eval_table"]) == (0, TOTAL, "rows", None)
    assert start["time"] == "2026-01-02T03:04:05+00:00" and start["threads"] == torch.get_num_threads()
    assert set(start["versions"]) == {"python", "ia3", "torch", "transformers"}
    assert start["statistics"]["rows"] == 15 and start["skipped_rows"] == []
    assert "2 of 17 rows are held out for evaluation (seed 0)." in start["notes"]
    assert start["run"]["labels"] == ["down", "up"] and start["run"]["epochs"] == 3
    assert _steps(tmp_path / "o") == list(range(1, TOTAL + 1))
    for event in events:
        if event["event"] == "step":
            assert set(event) == {"event", "step", "epoch", "loss", "learning_rate", "examples_per_second"}
            assert event["epoch"] == (event["step"] - 1) // 3 + 1 and event["examples_per_second"] > 0
        if event["event"] == "epoch":
            assert event["step"] == 3 * event["epoch"] and isinstance(event["eval_accuracy"], float)
            assert event["train_perplexity"] > 1 and event["eval_perplexity"] > 1
    best = min((event for event in events if event["event"] == "epoch"), key=lambda event: event["eval_loss"])
    assert end == {"event": "end", "step": TOTAL, "stopped": False, "best_epoch": best["epoch"]}


@pytest.mark.usefixtures("undrawn")
def test_rows_left_out_of_both_tables_are_in_the_record(base: BaseFolder, tmp_path: Path) -> None:
    rows, held_out = [*ROWS, ("", "up")], [("a", "up"), ("b", "sideways")]
    run(base("causal"), tmp_path / "o", source=rows, eval_source=held_out, skip_bad_rows=True, epochs=1)
    skipped = read(tmp_path / "o")[0]["skipped_rows"]
    assert len(skipped) == 2 and "text is empty" in skipped[0] and "sideways" in skipped[1]
    data = json.loads((tmp_path / "o" / "ia3.json").read_text())["data"]
    assert (data["skipped_rows"], data["eval_skipped_rows"], data["eval_rows"]) == (1, 1, 1)


@pytest.mark.usefixtures("undrawn")
def test_the_record_is_on_disk_before_a_checkpoint_that_stands_behind_it(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, save = RunLog.sync, ia3.runs.run.save_checkpoint
    monkeypatch.setattr(RunLog, "sync", lambda log: done.append("record") or sync(log))
    monkeypatch.setattr(ia3.runs.run, "save_checkpoint", lambda *args: done.append("checkpoint") or save(*args))
    run(base("causal"), tmp_path)
    assert done == ["record", "checkpoint"] * 3


# -- the same run -----------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped(base: BaseFolder, tmp_path: Path, undrawn: None) -> Path:
    """The folder of a run that was stopped after its fourth step."""
    rows = [{"text": text, "label": label, "source": "wire"} for text, label in ROWS]
    run(base("causal"), tmp_path / "o", source=rows, template="{{ source }}: {{ text }}\nlabel:", **stop_after(4))
    return tmp_path / "o"


def _resume(base: Path, folder: Path, **changed: Any) -> Any:
    rows = changed.pop("source", [{"text": text, "label": label, "source": "wire"} for text, label in ROWS])
    given = {"template": "{{ source }}: {{ text }}\nlabel:", "resume": True} | changed
    return run(base, folder, source=rows, **given)


def test_resumed_with_other_settings_each_difference_is_named_with_both_values(base: BaseFolder, stopped: Path) -> None:
    before = content(stopped)
    told = (
        r"this is another run: epochs was 3 and is 4, learning_rate was 0\.05 and is 0\.01, max_steps was null and is 9"
        r"\. "
        "Give the same table and settings, or --overwrite to start again"
    )
    with pytest.raises(RunError, match=told):
        _resume(base("causal"), stopped, epochs=4, learning_rate=0.01, max_steps=9)
    assert content(stopped) == before


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"dtype": "float64"}, 'dtype was "float32" and is "float64"'),
        ({"max_length": 60}, "max_length was 512 and is 60"),
        ({"template": "{{ text }}\nlabel:"}, r'prompt was "\{\{ source \}\}.*" and is "\{\{ text \}\}\\nlabel:"\.'),
        ({"answers": "text"}, r'labels was \["down", "up"\] and is \[\]'),
        (
            {"eval_fraction": 0.2},
            r'eval rows was "2 rows [0-9a-f]{12}" and is "3 rows [0-9a-f]{12}".*rows was "15 rows',
        ),
        ({"seed": 1}, r'rows was "15 rows [0-9a-f]{12}" and is "15 rows [0-9a-f]{12}", seed was 0 and is 1\.'),
        (
            {"source": [{"text": text, "label": label, "source": "blog"} for text, label in ROWS]},
            r'another run: token ids \(other columns, or another tokenizer\) was "[0-9a-f]{12}" and is "[0-9a-f]{12}"',
        ),
    ],
    ids=["dtype", "max_length", "template", "answers", "share", "seed", "another column"],
)
def test_resumed_on_anything_else_the_difference_is_named(
    changed: dict[str, Any], told: str, base: BaseFolder, stopped: Path
) -> None:
    with pytest.raises(RunError, match=told):
        _resume(base("causal"), stopped, **changed)


def test_resumed_with_other_rows_or_another_base_is_an_error(base: BaseFolder, stopped: Path, tmp_path: Path) -> None:
    rows = [{"text": text, "label": label, "source": "wire"} for text, label in [*ROWS, ("x", "up"), ("y", "down")]]
    with pytest.raises(RunError, match=r'rows was "15 rows [0-9a-f]{12}" and is "17 rows'):
        _resume(base("causal"), stopped, source=rows)
    other = save_tiny_base(tmp_path / "other", "causal", seed=9)
    with pytest.raises(RunError, match=r'another run: base was "[0-9a-f]{12}" and is "[0-9a-f]{12}"\. Give the same'):
        _resume(other, stopped)


def test_a_moved_base_and_another_place_for_the_folder_are_the_same_run(
    base: BaseFolder, stopped: Path, tmp_path: Path
) -> None:
    shutil.copytree(base("causal"), tmp_path / "moved")
    stopped.rename(tmp_path / "elsewhere")
    assert _resume(tmp_path / "moved", tmp_path / "elsewhere").outcome.steps == TOTAL
    assert _steps(tmp_path / "elsewhere") == list(range(1, TOTAL + 1))


def test_settings_that_are_spelt_out_are_those_of_the_defaults(base: BaseFolder, stopped: Path) -> None:
    assert _resume(base("causal"), stopped, token_budget=4096, clip=1, dropout=False).outcome.steps == TOTAL


def test_a_checkpoint_of_another_run_is_refused_even_without_the_record(base: BaseFolder, stopped: Path) -> None:
    (stopped / "run.jsonl").unlink()
    with pytest.raises(RunError, match="its checkpoint is of another run"):
        _resume(base("causal"), stopped, epochs=4)
    assert _resume(base("causal"), stopped).outcome.steps == TOTAL  # the same run: it goes on with a new record
    assert [event["event"] for event in read(stopped)][:2] == ["start", "step"]
    assert _steps(stopped) == list(range(5, TOTAL + 1))


def test_a_run_that_goes_on_elsewhere_is_told_so(base: BaseFolder, stopped: Path) -> None:
    lines = (stopped / "run.jsonl").read_text().splitlines(keepends=True)
    start = json.loads(lines[0])
    start["threads"], start["versions"]["torch"] = 77, "1.0"
    (stopped / "run.jsonl").write_text(json.dumps(start) + "\n" + "".join(lines[1:]))
    said: list[str] = []
    _resume(base("causal"), stopped, say=said.append)
    assert "Resuming after step 4." in said
    (note,) = [line for line in said if "began elsewhere" in line]
    assert re.search(r"torch 1\.0, now .*; threads 77, now \d+\): its last bits may differ", note)


def test_a_finished_run_is_not_resumed_and_its_folder_stays_as_it_is(base: BaseFolder, stopped: Path) -> None:
    _resume(base("causal"), stopped)
    before = content(stopped)
    with pytest.raises(RunError, match=r"the run is finished \(9 steps\)"):
        _resume(base("causal"), stopped)
    assert content(stopped) == before


# -- stopped ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("kind", "dropout"), [("causal", False), ("encoder", True)])
def test_stopped_at_any_step_and_resumed_the_folder_is_that_of_an_uninterrupted_run(
    kind: str, dropout: bool, base: BaseFolder, tmp_path: Path
) -> None:
    folder = base(kind, dropout=dropout)
    options = {"dropout": dropout, "max_steps": 7, "warmup": 0.2, "weight_decay": 0.1}
    run(folder, tmp_path / "whole" / "o", **options)
    whole = content(tmp_path / "whole" / "o")
    for stop in (1, 3, 5, 6):
        output = tmp_path / str(stop) / "o"
        result = run(folder, output, **options, **stop_after(stop))
        assert result.outcome.is_stopped and read(output)[-1]["stopped"] is True
        assert set(_names(output)) == {*ADAPTER_FILES, "run.jsonl", CHECKPOINTS}
        assert not run(folder, output, **options, resume=True).outcome.is_stopped
        assert content(output) == whole


@pytest.mark.usefixtures("undrawn")
def test_stopped_before_an_epoch_ended_the_adapter_of_that_step_is_saved_without_metrics(
    base: BaseFolder, tmp_path: Path
) -> None:
    result = run(base("causal"), tmp_path, **stop_after(2))
    assert (result.outcome.steps, result.outcome.best_epoch, result.metrics) == (2, 0, None)
    record = json.loads((tmp_path / "ia3.json").read_text())
    assert (record["steps"], record["epoch"], record["metrics"]) == (2, 1, None)


@pytest.mark.usefixtures("undrawn")
def test_resumed_and_stopped_at_once_the_record_of_the_adapter_still_names_its_step(
    base: BaseFolder, tmp_path: Path
) -> None:
    run(base("causal"), tmp_path, **stop_after(2))
    before = content(tmp_path)
    run(base("causal"), tmp_path, resume=True, **stop_after(0))
    assert content(tmp_path) == before


@pytest.mark.usefixtures("undrawn")
def test_stopped_before_the_first_step_nothing_is_saved_and_the_run_can_begin_anew(
    base: BaseFolder, tmp_path: Path
) -> None:
    run(base("causal"), tmp_path, **stop_after(0))
    assert _names(tmp_path) == ["run.jsonl"]
    said: list[str] = []
    run(base("causal"), tmp_path, resume=True, say=said.append)
    assert "The run stopped before its first checkpoint; it starts from the first step." in said
    assert [event["event"] for event in read(tmp_path)].count("start") == 1


@pytest.mark.usefixtures("undrawn")
def test_a_run_stopped_later_than_its_best_epoch_gives_the_metrics_of_what_is_saved(
    base: BaseFolder, tmp_path: Path
) -> None:
    swapped = [(text, {"up": "down", "down": "up"}[label]) for text, label in ROWS]  # what is learned is wrong there
    options = {"eval_source": swapped, "epochs": 4}
    result = run(base("encoder"), tmp_path, **options, **stop_after(14))
    epochs = [event for event in read(tmp_path) if event["event"] == "epoch"]
    best = result.outcome.best_epoch
    assert 0 < best < len(epochs) == 3
    assert result.metrics is not None and result.metrics.loss == epochs[best - 1]["eval_loss"]
    again = run(base("encoder"), tmp_path, **options, resume=True, **stop_after(0))  # which evaluates no epoch
    assert again.metrics == result.metrics
    assert json.loads((tmp_path / "ia3.json").read_text())["metrics"]["loss"] == result.metrics.loss


# -- killed -----------------------------------------------------------------------------------------------------------


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
    ("kind", "options"), [("causal", {}), ("seq2seq", {"dropout": True}), ("encoder", {"dropout": True})]
)
def test_killed_at_every_instant_the_end_is_the_same(
    kind: str, options: dict[str, Any], base: BaseFolder, whole: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    expected = whole(kind, draws=True, **options)
    for instant in itertools.count(1):
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
        (output / CHECKPOINTS / ".ia3-part-0123").write_bytes(b"half of it")
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


def test_a_finished_folder_holds_the_adapter_and_the_record_and_nothing_else(base: BaseFolder, tmp_path: Path) -> None:
    run(base("encoder"), tmp_path, checkpoint_seconds=0)
    assert _names(tmp_path) == FINISHED
    for picture in ("curves.png", "confusion.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG\r\n")
