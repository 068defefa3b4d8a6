"""The benchmark of many adapters on tiny bases: every method answers the same requests, and all of it is written."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.many import main
from benchmarks.many_methods import make_recipes, told_name

pytestmark = pytest.mark.parity


def run(base: str, folder: Path, *words: str) -> Any:
    report = folder / "many.json"
    files = ["--json", str(report), "--png", str(folder / "many.png")]
    assert main(["--base", base, "--quick", "--repeats", "2", *words, *files]) == 0
    return json.loads(report.read_text())


@pytest.mark.parametrize(("base", "task"), [("tiny-bert", "classification"), ("tiny-mt5", "generation")])
def test_every_method_answers_the_same_requests(base: str, task: str, tmp_path: Path) -> None:
    counts = [word for count in ("1", "5", "100", "200") for word in ("--adapters", count)]
    found = run(base, tmp_path, "--requests", "--no-memory", *counts)
    assert found["warnings"] == []  # PEFT's adapters with our numbers answer alike
    rows = {told_name(row["method"], row["adapters"], row["is_distinct"]): row for row in found["rows"]}
    [merged] = [row["adapters"] for row in found["rows"] if row["method"] == "merged-copies"]
    expected = ["base 0", *(recipe.name for recipe in make_recipes((1, 5, 100, 200), merged)[1:])]
    assert set(rows) == {name for name in expected if task == "generation" or "distinct" not in name}
    for row in rows.values():
        assert (row["base"], row["task"], row["skipped"]) == (base, task, None)
        assert 0 < row["requests_per_second_low"] <= row["requests_per_second"] <= row["requests_per_second_high"]
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["ceiling"] == rows["base 0"]["ceiling"] > 0
    assert rows["base 0"]["of_base"] == 1 and rows["ia3 0"]["of_base"] > 0
    assert (rows["ia3 100"]["ms_per_token"] is not None) == (task == "generation")
    told = {one["goal"].split(" over")[0] for one in found["goals"]}
    assert {"1 adapter", "100 adapters"} <= told
    assert all(one["low"] <= one["value"] <= one["high"] for one in found["goals"])
    assert (tmp_path / "many.png").read_bytes().startswith(b"\x89PNG")


def test_memory_is_that_of_a_fresh_process_for_each_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that were built one after another in one process each had what the ones before had left behind."""
    orders: list[Any] = []
    start = subprocess.run

    def counted(command: list[str], **options: Any) -> Any:
        orders.append(json.loads(command[-1]))
        return start(command, **options)

    monkeypatch.setattr("benchmarks.many_measure.subprocess.run", counted)
    found = run("tiny", tmp_path, "--requests", "--task", "classification", "--adapters", "1")
    assert all(row["peak_memory_bytes"] > 10_000_000 and row["memory_skipped"] is None for row in found["rows"])
    asked = [(order["recipe"].split()[0], order["adapters"]) for order in orders]
    assert asked == [(row["method"], row["adapters"]) for row in found["rows"]] and len(set(asked)) == len(asked)


def test_a_store_is_opened_and_read_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run("tiny-bert", tmp_path, "--store", "--adapters", "40")
    [row] = found["stores"]
    assert (row["base"], row["adapters"]) == ("tiny-bert", 40)
    assert row["file_bytes"] > 40 * 100 and min(row["open_seconds"]) > 0
    assert len(row["cold_seconds"]) == len(row["hot_seconds"]) == 15
    assert [one["goal"] for one in found["goals"]] == ["seconds to open it", "a cold request over a hot one"]
    assert "40 adapters" in capsys.readouterr().out
