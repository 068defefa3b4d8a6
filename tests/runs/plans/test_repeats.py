"""Repeats: draws and seeds of their own, median and quartiles of what they are worth, the median run in the folder."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ia3
from ia3.adapters.folder import load_adapter
from ia3.data.draws import draw_per_label
from ia3.data.tables import read_table
from ia3.errors import IA3Error
from ia3.runs.plans.repeats import train_repeats
from ia3.runs.results import RepeatsResult, Spread
from tests.runs import trials
from tests.runs.trials import ROWS, content, read, stop_after

BaseFolder = Callable[..., Path]
SETTINGS: dict[str, Any] = {"epochs": 1, "batch_size": 4, "learning_rate": 0.05}


def run(base: Path, output: Path, source: Any = ROWS, **options: Any) -> RepeatsResult:
    fixed = {"now": lambda: trials.datetime(2026, 1, 2, tzinfo=trials.UTC), "repeats": 3, "per_label": 4}
    return train_repeats(source, base, output, **{**fixed, **SETTINGS, **options})


@pytest.fixture(scope="module")
def whole(base: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[RepeatsResult, Path, list[str]]:
    """Three runs of four rows a label, their folder, and what was said."""
    folder, said = tmp_path_factory.mktemp("repeats") / "o", list[str]()
    return run(base("encoder"), folder, say=said.append), folder, said


def test_each_run_learns_from_a_draw_of_its_own_and_is_measured_on_the_other_rows(
    whole: tuple[RepeatsResult, Path, list[str]],
) -> None:
    result, folder, said = whole
    assert "3 runs of 8 rows, measured on 9 rows each." in said
    assert sum("--recipe t-few-small is made for so few rows." in line for line in said) == 1
    assert any(line.startswith("Only 9 rows are measured on by a run") for line in said)
    assert [one.seed for one in result.runs] == [0, 1, 2] and len({one.fingerprint for one in result.runs}) == 3
    for one in result.runs:
        drawn, rest = draw_per_label(read_table(ROWS), 4, one.seed)
        assert one.fingerprint == drawn.fingerprint and one.drawn == tuple(str(e.origin) for e in drawn.examples)
        assert one.metrics is not None and rest is not None and one.metrics.rows == len(rest.examples)
        assert one.metrics.scaling is None  # no temperature is fitted on rows that measure
    assert not any(event.get("eval_loss") for event in read(folder) if event["event"] == "epoch")


def test_the_median_run_is_saved_with_its_numbers_and_the_record_of_all(
    whole: tuple[RepeatsResult, Path, list[str]],
) -> None:
    result, folder, _ = whole
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "ia3.json", "repeats.json", "repeats.png",
        "run.jsonl",
    ]  # fmt: skip
    median = result.median
    assert median is not None and median.metrics is not None
    shares = [one.metrics.accuracy for one in result.runs if one.metrics is not None]
    assert median.metrics.accuracy == statistics.median(shares)  # type: ignore[type-var]
    record = json.loads((folder / "ia3.json").read_text())
    assert record["metrics"]["accuracy"] == median.metrics.accuracy and record["settings"]["seed"] == median.seed
    assert (record["data"]["rows"], record["data"]["eval_rows"]) == (8, 9)
    told = json.loads((folder / "repeats.json").read_text())
    assert [one["accuracy"] for one in told["runs"]] == shares and told["saved_seed"] == median.seed
    assert record["repeats"] == {"runs": 3, "spread": told["spread"]}
    rest = draw_per_label(read_table(ROWS), 4, median.seed)[1]
    assert rest is not None
    again = ia3.load(folder).evaluate(rest)
    assert again.accuracy == median.metrics.accuracy and again.loss == pytest.approx(median.metrics.loss, abs=1e-5)


def test_quartiles_are_those_of_the_standard_library() -> None:
    values = [0.7, 0.9, 0.6, 0.85, 0.88]
    spread = Spread.of(values)
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    assert (spread.lower, spread.median, spread.upper) == pytest.approx((lower, median, upper))
    assert (spread.lowest, spread.highest) == (0.6, 0.9)
    assert Spread.of([0.5]) == Spread(0.5, 0.5, 0.5, 0.5, 0.5)


@pytest.mark.usefixtures("undrawn")
def test_with_batches_apart_a_run_has_the_bits_of_training_it_alone(base: BaseFolder, tmp_path: Path) -> None:
    result = run(base("causal"), tmp_path / "o", repeats=2, batches="apart", eval_source=ROWS[:5])
    assert result.median is not None and all(o.metrics is not None and o.metrics.rows == 5 for o in result.runs)
    drawn = draw_per_label(read_table(ROWS), 4, result.median.seed)[0]
    rows = [(e.text, e.label) for e in drawn.examples]
    given = {**SETTINGS, "seed": result.median.seed, "eval_fraction": 0}
    trials.run(base("causal"), tmp_path / "alone", source=rows, **given)
    one, alone = (load_adapter(tmp_path / name) for name in ("o", "alone"))
    assert all(torch.equal(vector, alone.vectors[site]) for site, vector in one.vectors.items())


@pytest.mark.usefixtures("undrawn")
def test_stopped_and_resumed_every_file_is_that_of_uninterrupted_runs(
    base: BaseFolder, tmp_path: Path, whole: tuple[RepeatsResult, Path, list[str]]
) -> None:
    stopped = run(base("encoder"), tmp_path / "o", **stop_after(2))
    assert stopped.is_stopped and stopped.median is None and not (tmp_path / "o" / "ia3.json").exists()
    assert not run(base("encoder"), tmp_path / "o", resume=True).is_stopped
    found, expected = content(tmp_path / "o"), content(whole[1])
    assert sorted(map(str, found.pop("run.jsonl"))) == sorted(map(str, expected.pop("run.jsonl")))
    assert {**found, "repeats.png": expected["repeats.png"]} == expected


@pytest.mark.usefixtures("undrawn")
def test_without_draws_each_seed_holds_other_rows_out_and_free_text_is_told_by_its_loss(
    base: BaseFolder, tmp_path: Path
) -> None:
    rows = [(f"question {i}", f"answer {i}") for i in range(10)]
    result = run(base("causal"), tmp_path / "o", rows, repeats=2, per_label=None, eval_fraction=0.2)
    assert result.spread("accuracy") is None and (spread := result.spread("loss")) is not None
    assert [one.rows for one in result.runs] == [8, 8] and len({one.fingerprint for one in result.runs}) == 2
    assert result.median is not None and result.median.metrics is not None
    assert result.median.metrics.loss == spread.highest  # of two the worse one


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"repeats": 0, "per_label": 0}, "repeats is 0, expected 1 to 100; per_label is 0, expected at least 1"),
        ({"per_label": None, "eval_fraction": 0}, "nothing is left to measure on: give --eval, --per-label, or"),
        ({"per_label": 9}, "fewer different texts of 'down' 8. Draw fewer"),
        ({"per_label": 2, "source": ROWS[7:11]}, "2 rows of each label are all 4 rows of the table, none is left"),
        ({"source": [(f"q{i}", f"a{i}") for i in range(9)]}, "per_label is 4 and the answers are free text"),
        ({"batchsize": 1.0}, "there is no setting 'batchsize'. Did you mean 'batch_size'?"),
    ],
)
def test_what_makes_no_plan_is_one_sentence(
    options: dict[str, Any], told: str, base: BaseFolder, tmp_path: Path
) -> None:
    with pytest.raises(IA3Error) as raised:
        run(base("causal"), tmp_path / "o", **options)
    assert told in str(raised.value) and not (tmp_path / "o").exists()
