"""What is told of the measurements: rows, ratios, warnings, the table."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.bases import find_table, load_case
from benchmarks.measure import Timing
from benchmarks.report import (
    describe_machine,
    machine_line,
    make_ratios,
    make_rows,
    table_lines,
    warnings_of,
    write_json,
)
from benchmarks.training import main, make_parser
from benchmarks.workload import make_chunk
from ia3.errors import TableError

TIMINGS = {
    "peft-tuned": Timing((4.0, 4.0, 8.0), 0.5, (3.0, 2.0, 1.0)),
    "frozen-floor": Timing(skipped="failed: it broke"),
    "ia3": Timing((2.0, 4.0, 2.0), 0.5, (3.0, 2.0, 1.001)),
    "ia3-int8": Timing((1.0, 1.0, 1.0), 0.5, (3.5, 2.5, 1.5)),
    "gemm": Timing((1.0, 1.0, 1.0), 0.0),
}


def test_rows_tell_speeds_shares_and_differences() -> None:
    works = make_chunk(load_case("tiny", None), 2)
    memory = {"ia3": {"peak_memory_bytes": 5_000_000}, "peft-tuned": {"memory_skipped": "failed with code 1: no"}}
    rows = {row["method"]: row for row in make_rows("tiny", works, TIMINGS, memory)}
    assert len({tuple(sorted(row)) for row in rows.values()}) == 1  # the same keys in every row
    ours = rows["ia3"]
    assert (ours["examples_per_second"], ours["examples_per_second_low"]) == (8.0, 4.0)
    assert ours["examples_per_second_high"] == 8.0
    assert ours["tokens_per_second"] == sum(work.tokens for work in works) / 2
    assert ours["gemm_share"] == 0.5 and ours["gemm_best_share"] is None
    assert ours["peak_memory_bytes"] == 5_000_000 and ours["kept_bytes"] is None
    assert ours["loss_difference"] == pytest.approx(1e-3)
    assert rows["frozen-floor"]["examples_per_second"] is None
    assert rows["peft-tuned"]["loss_difference"] is None
    ratios = make_ratios(TIMINGS)
    assert ratios["ia3"]["peft-tuned"] == {"ratio": 2.0, "low": 1.0, "high": 4.0}
    assert set(ratios["ia3"]) == {"peft-tuned"}
    lines = table_lines([*rows.values()], ratios, "the title")
    assert lines[0] == "the title" and lines[1].startswith("method")
    assert "frozen-floor: failed: it broke" in lines
    assert "peft-tuned: no memory numbers, failed with code 1: no" in lines


def test_a_loss_that_is_not_pefts_is_warned_of() -> None:
    works = make_chunk(load_case("tiny", None), 2)
    (told,) = warnings_of(make_rows("tiny", works, TIMINGS, {}))  # int8 is another function
    assert told == (
        "warning: tiny: the loss of ia3 differs from peft-tuned's by 1.00e-03 after the same steps, expected at most "
        "1e-04"
    )
    lost = {**TIMINGS, "ia3": Timing((1.0,) * 3, 0.5, (3.0, math.nan, math.nan))}
    assert len(warnings_of(make_rows("tiny", works, lost, {}))) == 1


def test_the_machine_is_described_and_written(tmp_path: Path) -> None:
    machine = describe_machine(datetime(2026, 1, 2, tzinfo=UTC))
    assert machine["torch"] in machine_line(machine) and "2026-01-02" in machine_line(machine)
    write_json(tmp_path / "deep" / "it.json", {"machine": machine, "rows": [{"loss": math.nan}]})
    assert json.loads((tmp_path / "deep" / "it.json").read_text()) == {"machine": machine, "rows": [{"loss": None}]}


def test_a_table_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IA3_DATA", str(tmp_path))
    with pytest.raises(
        TableError, match=r"there is no financial_phrasebank/train.csv in .*--data DIR, or set IA3_DATA"
    ):
        find_table(None)
    (tmp_path / "financial_phrasebank").mkdir()
    (tmp_path / "financial_phrasebank" / "train.csv").write_text("sentence,label\n")
    assert find_table(None) == (tmp_path / "financial_phrasebank" / "train.csv").resolve()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--base", "gemma-270m"], "no base 'gemma-270m'. Did you mean 'gemma-3-270m'?"),
        (["--base", "tiny", "--method", "ia4"], "no method 'ia4'. Did you mean 'ia3'"),
        (["--base", "tiny", "--steps", "0"], "--steps is 0, expected at least 1."),
        (["--base", "minilm", "--data", "nowhere"], "no financial_phrasebank/train.csv in nowhere"),
        (["--base", "tiny", "--quality"], "'tiny' has random weights, expected one that can learn."),
    ],
)
def test_bad_options_are_one_sentence(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert told in captured.err and captured.err.count("\n") == 1


def test_the_help_names_every_base_and_method() -> None:
    from benchmarks.bases import NAMES
    from benchmarks.training import METHODS

    shown = make_parser().format_help()
    for name in (*NAMES, *METHODS):
        assert name in shown
    assert "tiny" not in shown
