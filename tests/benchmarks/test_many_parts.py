"""The parts of the benchmark of many adapters: draws, windows, groups, ratios, goals and the 32 tasks."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.bases import load_case
from benchmarks.many import main, make_parser
from benchmarks.many_measure import (
    Load,
    Measured,
    answer_window,
    measure_memory,
    paired_ratio,
    run_memory_child,
)
from benchmarks.many_methods import build, make_adapters, make_recipes
from benchmarks.many_report import goal, goal_lines, make_goals, make_rows, make_warnings, table_lines
from benchmarks.many_requests import WINDOW, draw_adapters, make_windows
from benchmarks.many_tasks import make_tasks, measure_tasks, tasks_line, tasks_of_table
from tests.models import save_tiny_base


def test_draws_are_the_same_for_every_method_and_new_in_every_repeat() -> None:
    first = draw_adapters(100, 3, 0, is_distinct=False)
    assert first == draw_adapters(100, 3, 0, is_distinct=False) != draw_adapters(100, 3, 1, is_distinct=False)
    assert [len(window) for window in first] == [WINDOW] * 3
    assert set(draw_adapters(1, 1, 0, is_distinct=False)[0]) == {0}
    for window in draw_adapters(WINDOW, 2, 0, is_distinct=True):
        assert sorted(window) == list(range(WINDOW))


def test_windows_hold_texts_of_like_length_and_use_few_rows_again() -> None:
    case = load_case("tiny", None)
    windows = make_windows(case, 2)
    lengths = [[len(example.prompt_ids) for example in window] for window in windows]
    assert [len(window) for window in windows] == [WINDOW] * 2
    assert max(lengths[0]) <= min(lengths[1])
    assert make_windows(case, 2) == windows


@pytest.mark.parity
def test_every_method_answers_in_the_order_of_the_requests() -> None:
    case = load_case("tiny-bert", None)
    adapters = make_adapters(case, 5)
    [window], [chosen] = make_windows(case, 1), draw_adapters(5, 1, 0, is_distinct=False)
    recipes = {recipe.method: recipe for recipe in make_recipes((5,), merged=5, peft=5) if not recipe.is_distinct}
    values, waits = {}, {}
    for name, recipe in recipes.items():
        method = build(recipe, case, adapters)
        waits[name], _, values[name] = answer_window(case, "classification", method, window, chosen, 1)
    for name in ("peft-set-adapter", "peft-grouped", "merged-copies"):
        assert torch.allclose(values[name], values["ia3"], atol=1e-5)
    assert not torch.allclose(values["base"], values["ia3"], atol=1e-3)
    assert len(set(waits["ia3"])) == 1 and len(set(waits["merged-copies"])) == 5
    assert waits["peft-set-adapter"] == sorted(waits["peft-set-adapter"])
    assert not case.model.__dict__.get("ia3_attachment")  # the base itself is as it was


def test_ratios_are_taken_within_the_common_repeats() -> None:
    assert paired_ratio({0: 1.0, 1: 2.0, 2: 1.0, 3: 9.0}, {0: 2.0, 1: 2.0, 2: 3.0}) == (2.0, 1.0, 3.0)
    assert paired_ratio({0: 1.0}, {1: 1.0}) is None


def measured(*seconds: float, value: float = 0.0) -> Measured:
    by_repeat = dict(enumerate(seconds))
    values = [torch.full((WINDOW, 2), value)]
    return Measured(by_repeat, {r: s / 2 for r, s in by_repeat.items()}, [*seconds], values)


def test_goals_say_what_was_reached() -> None:
    found = {
        "base": measured(1.0, 1.0, 1.0),
        "ia3 0": measured(0.99, 0.99, 0.99),
        "ia3 1": measured(1.0, 1.02, 1.01),
        "ia3 5": measured(1.0, 1.0),
        "ia3 100": measured(1.1, 1.1, 1.1),
        "ia3 2000": measured(1.0, 1.05),
        f"ia3 {WINDOW} distinct": measured(1.02, 1.02, 1.02),
        "peft-set-adapter 100": measured(4.0, 4.0),
        "peft-grouped 100": measured(3.3, 3.3),
    }
    goals = {one["goal"]: one for one in make_goals("toy", "generation", found)}
    assert [one["is_met"] for one in goals.values()] == [True, False, True, False, False, True, True, True, False]
    assert goals["1 adapter over the base"]["value"] == pytest.approx(1 / 1.01)
    assert goals["100 adapters over the base's row"]["value"] == pytest.approx(0.9)
    assert goals["over PEFT grouped by adapter"]["value"] == pytest.approx(3)
    assert goals["3.64 over PEFT's set_adapter, of the ceiling 4.00"]["value"] == pytest.approx(1 / 1.1)
    assert goals["time added to a token by 32 distinct adapters"]["value"] == pytest.approx(0.02)
    lines = goal_lines([*goals.values()])
    assert lines[1].endswith("goal ≥ 0.97: MISSED") and lines[-2].endswith("goal ≤ 0.03: met")
    assert lines[-1].endswith("over the base's row: 0.030 (0.030 … 0.030), goal ≤ 0.03: MISSED")


def test_a_skipped_method_has_a_row_with_the_reason() -> None:
    recipes = make_recipes((1,), merged=0)
    found = {recipe.name: Measured(skipped="not available: no memory") for recipe in recipes}
    found["base"] = measured(1.0, 2.0)
    rows = make_rows("toy", "classification", recipes, found, Load({"classification": 2}, 1, 2, 2), {})
    by_method = {row["method"]: row for row in rows}
    assert by_method["base"]["requests_per_second"] == pytest.approx(48)  # of 64 and 32
    assert by_method["merged-copies"]["skipped"] == "not available: no memory"
    assert by_method["merged-copies"]["requests_per_second"] is by_method["merged-copies"]["p50_ms"] is None


def test_a_child_builds_the_one_method_that_it_is_told() -> None:
    for recipe in make_recipes((3,), merged=3, peft=3)[:3]:
        order = {"base": "tiny-bert", "recipe": recipe.name, "adapters": recipe.adapters, "table": None}
        assert run_memory_child({**order, "task": "classification", "tokens": 1})["peak_memory_bytes"] > 10_000_000


def test_a_row_without_a_number_of_memory_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(command: list[str], **options: Any) -> Any:
        return subprocess.CompletedProcess(command, 9, stdout="", stderr="loading\nno room\n")

    monkeypatch.setattr("benchmarks.many_measure.subprocess.run", failed)
    recipes = make_recipes((1,), merged=2)
    held = measure_memory("tiny-bert", recipes[1], "classification", None, tokens=1)
    assert held == {"memory_skipped": "failed with code 9: no room"}
    found = {recipe.name: measured(1.0) for recipe in recipes}
    memory = {"base": {"peak_memory_bytes": 7_000_000}, "ia3 1": held}
    rows = make_rows("toy", "classification", recipes, found, Load({"classification": 2}, 1, 1, 1), memory)
    assert [row["peak_memory_bytes"] for row in rows[:3]] == [7_000_000, None, None]
    assert table_lines(rows, "toy")[-1] == "ia3 1: no memory number, failed with code 9: no room"


def test_answers_that_differ_from_pefts_are_told() -> None:
    found = {
        "ia3 100": measured(1.0),
        "peft-grouped 100": measured(1.0),
        "peft-set-adapter 100": measured(1.0, value=1),
    }
    [warning] = make_warnings("toy", "classification", found)
    assert warning.startswith(
        "warning: toy, classification: the answers of ia3 and peft-set-adapter 100 differ: by 1.0"
    )


def test_a_goal_without_an_upper_bound_has_none() -> None:
    assert goal("here", "speed", (1e9, 1.0, 1e9), least=2)["is_met"]
    assert not goal("here", "speed", (1.0, 1.0, 1.0), least=2)["is_met"]


def table(rows: int) -> tuple[tuple[str, str], ...]:
    labels = ("negative", "neutral", "positive")
    return tuple((f"sentence number {number} is {labels[number % 3]}", labels[number % 3]) for number in range(rows))


def test_eight_tasks_of_a_table() -> None:
    tasks = {task.name: task.pairs for task in tasks_of_table("news", table(30))}
    assert len(tasks) == 8
    assert {label for _, label in tasks["news-negative-or-positive"]} == {"negative", "positive"}
    assert len(tasks["news-negative-or-positive"]) == 20
    assert {label for _, label in tasks["news-neutral-or-rest"]} == {"neutral", "rest"}
    assert len(tasks["news-neutral-or-rest"]) == 30
    assert sorted(tasks["news-half-1"] + tasks["news-half-2"]) == sorted(table(30))


def test_32_tasks_from_a_folder_of_tables(tmp_path: Path) -> None:
    for name in ("financial_phrasebank/train", "vader/editorials", "vader/reviews", "vader/tweets"):
        path = tmp_path / f"{name}.csv"
        path.parent.mkdir(exist_ok=True)
        lines = ["text,label,score", *(f"{text},{label},0.5" for text, label in table(12))]
        path.write_text("\n".join(lines))
    tasks = make_tasks(str(tmp_path))
    assert len({task.name for task in tasks}) == 32
    assert {task.name.split("-")[0] for task in tasks} == {"financial_phrasebank", "editorials", "reviews", "tweets"}


@pytest.mark.slow
def test_both_ways_train_every_task_on_as_many_examples(tmp_path: Path) -> None:
    base = save_tiny_base(tmp_path / "base", "encoder")
    row, reached = measure_tasks(tasks_of_table("news", table(60))[:2], base, 2, 1, lambda line: None)
    assert (row["tasks"], row["steps"], row["examples"]) == (2, 2, 32)
    assert reached["value"] == pytest.approx(row["apart_seconds"][0] / row["together_seconds"][0])
    assert "2 tasks of 2 steps" in tasks_line(row)


def test_wrong_options_are_said_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> Any:
        assert main([*words]) == 2
        return capsys.readouterr().err

    assert "no base 'minilmm'" in told("--base", "minilmm")
    assert "'minilm' is not asked for generation" in told("--base", "minilm", "--task", "generation")
    assert "--repeats is 0" in told("--repeats", "0")
    assert "--tasks" in make_parser().format_help()
