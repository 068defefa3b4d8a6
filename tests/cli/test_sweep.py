"""`ia3 sweep`: a table of medians, the best adapter in the folder, and one sentence for what cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ia3.cli.main import main
from tests.cli.test_train import _signal_at

Sweep = Callable[..., int]


@pytest.fixture
def sweep(home: Path, table: str, tmp_path: Path) -> Sweep:
    def run(*options: str, base: str = "encoder") -> int:
        given = ["--base", str(home / base), "--output", str(tmp_path / "out"), "--epochs", "1"]
        return main(["sweep", table, *given, *options])

    return run


def test_the_groups_are_told_with_median_and_extremes_and_the_best_is_saved(
    sweep: Sweep, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("--learning-rates", "4e-3,0.5", "--seeds", "0,1") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "medians over the seeds, on the rows held out; the lowest loss first"
    assert lines[2].split() == ["settings", "loss", "from", "to", "accuracy", "from", "to", "runs"]
    assert sorted(line.split()[1] for line in lines[3:5]) == ["0.004", "0.5"]
    assert "12 steps in " in out and f"lies in {tmp_path / 'out'}" in out
    assert out.endswith(f"use it: ia3 predict TABLE --adapter {tmp_path / 'out'} --output predictions.csv\n")
    assert "4 runs of 18 rows." in err and "epoch 1" not in err
    assert main(["evaluate", table, "--adapter", str(tmp_path / "out")]) == 0


def test_any_setting_can_be_varied_and_json_is_one_document(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("--vary", "batch-size=4,9", "--vary", "class_weights=on,off", "--seeds", "5", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    settings = [run["settings"] for group in found["groups"] for run in group["runs"]]
    assert len(settings) == 4 and {s["batch_size"] for s in settings} == {4, 9} and {s["seed"] for s in settings} == {5}
    assert found["best"]["eval_loss"] == min(run["eval_loss"] for g in found["groups"] for run in g["runs"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--vary", "batch_size"], "--vary got 'batch_size', expected NAME=VALUE,VALUE. See 'ia3 sweep --help'."),
        (["--vary", "learning_rate=1", "--learning-rates", "2"], "the values of 'learning_rate' are given twice."),
        (["--vary", "batchsize=1"], "there is no setting 'batchsize'. Did you mean 'batch_size'?"),
        (["--learning-rates", "1,x"], "--learning-rates: got 'x', expected a number"),
        (["--seeds", "1,1"], "seed has the value 1 twice"),
        (["--eval-fraction", "0"], "nothing is held out to compare on."),
        (["--learning-rate", "1"], "there is no option '--learning-rate'. Did you mean '--learning-rates'"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(
    options: list[str], told: str, sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*options) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_ctrl_c_ends_after_the_round_and_resume_goes_on(
    sweep: Sweep, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _signal_at(4, patch)
        assert sweep("--seeds", "0", "--vary", "epochs=1,2") == 130
    told = f"ia3: stopped. The best adapter so far lies in {tmp_path / 'out'}. The same command with --resume goes on."
    assert told in capfd.readouterr().err
    assert sweep("--seeds", "0", "--vary", "epochs=1,2", "--resume", "--json") == 0
    groups = {group["name"]: group["runs"] for group in json.loads(capfd.readouterr().out)["groups"]}
    assert [groups[name][0]["steps"] for name in ("epochs 1", "epochs 2")] == [3, 6]
