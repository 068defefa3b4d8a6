"""The benchmark as it is run, on a tiny base: speeds here, memory in fresh processes, one file of JSON, one picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.training import METHODS, main

pytestmark = pytest.mark.parity

MEASURED = ("peft-tuned", "frozen-floor", "ia3")


def test_a_run_writes_every_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, picture = tmp_path / "speed.json", tmp_path / "speed.png"
    chosen = [word for name in (*MEASURED, "gemm", "gemm-best") for word in ("--method", name)]
    files = ["--json", str(report), "--png", str(picture)]
    assert main(["--base", "tiny", *chosen, "--steps", "1", "--repeats", "1", *files]) == 0
    found = json.loads(report.read_text())
    assert set(found) == {"machine", "rows", "ratios", "warnings", "quality"}
    assert found["warnings"] == []
    assert {"cpu", "threads", "torch", "transformers", "peft", "date"} <= set(found["machine"])
    rows = {row["method"]: row for row in found["rows"]}
    assert set(rows) == {*MEASURED, "gemm", "gemm-best"}
    for name, row in rows.items():
        assert (row["base"], row["steps"], row["skipped"], row["examples"]) == ("tiny", 1, None, 8)
        assert 0 < row["examples_per_second_low"] <= row["examples_per_second"] <= row["examples_per_second_high"]
        assert row["tokens_per_second"] > row["examples_per_second"]
        assert row["gemm_share"] > 0 and row["gemm_best_share"] > 0
        if name in MEASURED:
            assert row["memory_skipped"] is None
            assert row["peak_memory_bytes"] > row["loaded_bytes"] > 10_000_000
            assert row["peak_above_base_bytes"] == row["peak_memory_bytes"] - row["loaded_bytes"]
    assert rows["ia3"]["loss"] == pytest.approx(rows["peft-tuned"]["loss"], abs=1e-4)
    assert rows["ia3"]["loss_difference"] <= 1e-4
    assert 0 < rows["frozen-floor"]["kept_bytes"] <= rows["peft-tuned"]["kept_bytes"]
    assert found["ratios"]["tiny"]["ia3"]["peft-tuned"]["ratio"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "ia3" in capsys.readouterr().out


@pytest.mark.parametrize("base", ["tiny", "tiny-mt5", "tiny-bert"])
def test_every_kind_learns_what_peft_learns(base: str, tmp_path: Path) -> None:
    report = tmp_path / "speed.json"
    chosen = [word for name in METHODS if name not in ("ia3-int8",) for word in ("--method", name)]
    files = ["--json", str(report), "--png", str(tmp_path / "speed.png")]
    options = ["--steps", "4", "--repeats", "2", "--no-memory", "--no-compile"]
    assert main(["--base", base, *chosen, *options, *files]) == 0
    found = json.loads(report.read_text())
    rows = {row["method"]: row for row in found["rows"]}
    assert [row["skipped"] for row in rows.values()] == [None] * (len(METHODS) - 2)
    assert found["warnings"] == [] and rows["ia3"]["loss_difference"] <= 1e-4
    for name in ("peft-tuned", "ia3"):
        assert rows[name]["loss"] < rows["frozen-floor"]["loss"]
