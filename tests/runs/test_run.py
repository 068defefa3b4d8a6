"""A run under way: its record, what makes it the same run, and that no stop changes its end."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ia3
import ia3.runs.run
from ia3.errors import RunError
from ia3.runs.folder import CHECKPOINTS
from ia3.training.records import RunLog
from tests.models import save_tiny_base
from tests.runs.trials import ADAPTER_FILES, FINISHED, ROWS, TOTAL, content, read, run, stop_after

BaseFolder = Callable[..., Path]


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


def test_resumed_with_another_layout_of_the_vectors_is_an_error(
    base: BaseFolder, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ia3.runs.training_run as module

    original = module.attach

    def attach_reversed(model: Any, **options: Any) -> Any:
        plan = ia3.find_plan(model)
        return original(model, plan=dataclasses.replace(plan, sites=plan.sites[::-1]), **options)

    monkeypatch.setattr(module, "attach", attach_reversed)
    with pytest.raises(RunError, match=r'another run: sites was "(\d+) sites [0-9a-f]{12}" and is "\1 sites'):
        _resume(base("causal"), stopped)


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
@pytest.mark.parametrize(
    ("kind", "dropout", "stops"),
    [
        ("causal", False, (1, 5)),
        ("encoder", True, (3, 6)),
        pytest.param("causal", False, (3, 6), marks=pytest.mark.slow),
        pytest.param("encoder", True, (1, 5), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_stopped_at_any_step_and_resumed_the_folder_is_that_of_an_uninterrupted_run(
    kind: str, dropout: bool, stops: tuple[int, ...], base: BaseFolder, tmp_path: Path
) -> None:
    folder = base(kind, dropout=dropout)
    options = {"dropout": dropout, "max_steps": 7, "warmup": 0.2, "weight_decay": 0.1}
    run(folder, tmp_path / "whole" / "o", **options)
    whole = content(tmp_path / "whole" / "o")
    for stop in stops:
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


@pytest.mark.usefixtures("undrawn")
def test_a_run_stopped_before_its_only_look_is_measured_and_its_record_says_what_came_out(
    base: BaseFolder, tmp_path: Path
) -> None:
    options = {"eval_strategy": "end", "epochs": 4}
    result = run(base("encoder"), tmp_path, **options, **stop_after(7))
    assert (result.outcome.best_epoch, result.outcome.is_stopped) == (2, True) and result.metrics is not None
    record = json.loads((tmp_path / "ia3.json").read_text())
    assert (record["metrics"]["loss"], record["steps"], record["epoch"]) == (result.metrics.loss, 6, 2)
    whole = run(base("encoder"), tmp_path, **options, resume=True)
    assert (whole.outcome.best_epoch, whole.outcome.is_stopped) == (4, False)
    assert whole.metrics is not None and whole.outcome.best_loss == whole.metrics.loss != result.metrics.loss


def test_a_finished_folder_holds_the_adapter_and_the_record_and_nothing_else(base: BaseFolder, tmp_path: Path) -> None:
    run(base("encoder"), tmp_path, checkpoint_seconds=0)
    assert _names(tmp_path) == FINISHED
    for picture in ("curves.png", "confusion.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG\r\n")
