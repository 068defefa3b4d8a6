"""The few-shot benchmark: what is measured on what, that no run is lost or done twice, and a whole small grid."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import fewshot, fewshot_data, fewshot_methods, fewshot_rivals, fewshot_tuning, starts
from benchmarks.fewshot import Bench, main, read_results, run_cells, tune_rates
from benchmarks.fewshot_data import ALL, TASKS, Cell, draw_at_most, find_tables, make_cells, read_parts, rows_of
from benchmarks.fewshot_report import comparison_lines, missing_lines, summarise, table_lines
from benchmarks.fewshot_rivals import pace
from benchmarks.fewshot_tuning import best_rates, rate_beyond, tuning_cells
from ia3.data.draws import draw_per_label
from ia3.data.duplicates import normal_text
from ia3.data.examples import Table
from ia3.data.tables import read_table
from ia3.errors import SettingsError
from ia3.inference.measures import score_predictions
from tests.models import save_tiny_base

LABELS = ("negative", "neutral", "positive")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with small tables."""
    folder = tmp_path_factory.mktemp("data")
    for task, path in TASKS.items():
        (folder / path).parent.mkdir(exist_ok=True)
        with (folder / path).open("w", newline="", encoding="utf-8") as file:
            rows = [(f"{task} {i} {label[:3]}", label) for i in range(30) for label in LABELS]
            csv.writer(file).writerows([("text", "label"), *rows])
    return folder


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a tiny language model."""
    return str(save_tiny_base(tmp_path_factory.mktemp("base") / "causal", "causal"))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for three epochs, ours and the rivals, draw no pictures, and take starts of two steps."""
    for module in (fewshot_methods, fewshot_rivals):
        monkeypatch.setattr(module, "RECIPE", "default")
    monkeypatch.setattr(starts, "STEPS", dict.fromkeys(starts.STEPS, 2))
    monkeypatch.setattr(starts, "PER_LABEL", 4)
    monkeypatch.setattr("ia3.runs.run.draw_curves", lambda *args: None)


def _texts(table: Table) -> set[str]:
    return {normal_text(example.text) for example in table.examples}


# -- what is measured on what -----------------------------------------------------------------------------------------


def test_sixteen_a_label_comes_first_and_one_draw_of_everything_before_the_next() -> None:
    cells = list(make_cells(["a", "b"], ["x"], [ALL, 4, 64, 16], 2, ["zero-shot", "lm"]))
    assert cells[:2] == [Cell("a", "x", 0, 0, "zero-shot"), Cell("b", "x", 0, 0, "zero-shot")]
    assert [(c.per_label, c.draw, c.base) for c in cells[2:6]] == [
        (16, 0, "a"),
        (16, 0, "b"),
        (16, 1, "a"),
        (16, 1, "b"),
    ]
    assert [c.per_label for c in cells[6:]] == [64] * 4 + [4] * 4 + [ALL] * 4
    assert len({cell.key for cell in cells}) == len(cells)


def test_no_row_is_in_two_parts_and_every_draw_is_measured_on_the_same_rows(data: Path) -> None:
    parts = read_parts(data / TASKS["tweets"])
    tuning, pool, test = (_texts(part) for part in (parts.tuning, parts.pool, parts.test))
    assert not tuning & pool and not tuning & test and not pool & test and len(tuning | pool | test) == 90
    first, second = (rows_of(parts, Cell("b", "tweets", 4, draw, "lm")) for draw in (0, 1))
    assert first[1] is second[1] is parts.test
    assert len(first[0].examples) == 12 and _texts(first[0]) <= pool and _texts(first[0]) != _texts(second[0])
    tried = rows_of(parts, Cell("b", "tweets", 4, 100, "lm", rate=0.1))
    assert _texts(tried[0]) | _texts(tried[1]) <= tuning
    assert rows_of(parts, Cell("b", "tweets", ALL, 1, "lm"))[0] is parts.pool
    quick = read_parts(data / TASKS["tweets"], 15).test
    assert len(quick.examples) <= 15 and {e.label for e in quick.examples} == set(LABELS) and _texts(quick) <= test


def test_a_label_with_fewer_rows_gives_all_it_has_and_the_draw_is_the_usual_one_where_there_are_enough() -> None:
    table = read_table([*((f"a {i}", "a") for i in range(9)), ("b 1", "b"), ("B  1", "b"), ("b 2", "b")])
    drawn, rest = draw_at_most(table, 4, seed=3)
    assert [example.label for example in drawn.examples] == ["a"] * 4 + ["b"] * 2
    assert len(_texts(drawn)) == 6 and not _texts(drawn) & _texts(rest) and len(rest.examples) == 5
    assert draw_at_most(table, 2, seed=3)[0] == draw_per_label(table, 2, seed=3)[0]


def test_a_table_of_the_users_has_a_name_and_a_file(tmp_path: Path) -> None:
    found = find_tables(["trec", "mine=x/y.csv"], tmp_path)
    assert found == {"trec": tmp_path / TASKS["trec"], "mine": Path("x/y.csv")}
    for wrong in ("mine", "=x.csv", "mine=", "trec=x.csv"):
        with pytest.raises(SettingsError, match=r"Reading the arguments: .*expected .*NAME=FILE"):
            find_tables([wrong], tmp_path)


def test_rivals_take_the_recipes_steps_and_four_passes_over_many_rows() -> None:
    assert pace("encoder", 96) == pace("encoder", 12) == (64, 40)
    assert pace("encoder", 1600) == (16, 400)


# -- runs that end and go on ------------------------------------------------------------------------------------------


def _bench(data: Path, folder: Path) -> Bench:
    return Bench(data, folder / "r.jsonl", folder / "starts", find_tables([*TASKS], data))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Replace a method by one that keeps the rates it was given, and the base by none."""
    rates: list[float | None] = []

    def method(trial: Any) -> Any:
        rates.append(trial.rate)
        chosen = [[0.8, 0.1, 0.1]] * len(trial.test.examples)
        gold = [trial.labels.index(example.label) for example in trial.test.examples]
        return lambda: score_predictions(trial.labels, gold, np.array(chosen), None)

    monkeypatch.setattr(fewshot, "METHODS", {"lm": method})
    monkeypatch.setattr(Bench, "base", lambda self, name, labels, is_ours: None)
    return rates


def test_a_finished_run_is_not_done_again_and_a_line_cut_off_is(
    data: Path, tmp_path: Path, counted: list[float | None]
) -> None:
    bench = _bench(data, tmp_path)
    cells = [Cell("b", "reviews", 2, draw, "lm") for draw in range(3)]
    run_cells(bench, cells[:2], lambda line: None)
    whole = bench.results.read_text(encoding="utf-8")
    bench.results.write_text(whole[:-20], encoding="utf-8")  # as a kill leaves it
    results = run_cells(bench, cells, lambda line: None)
    assert len(counted) == 4 and {cell.key for cell in cells} == set(results) == set(read_results(bench.results))
    assert results[cells[0].key]["accuracy"] == pytest.approx(1 / 3, abs=0.05)


def test_a_run_of_an_earlier_recipe_or_start_does_not_count(
    data: Path, tmp_path: Path, counted: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = _bench(data, tmp_path)
    cell = Cell("b", "reviews", 2, 0, "lm")
    run_cells(bench, [cell], lambda line: None)
    versions = {method: fewshot_methods.method_version(method) for method in fewshot_methods.METHODS}
    monkeypatch.setattr(starts, "PER_LABEL", 5)
    changed = {m for m in versions if versions[m] != fewshot_methods.method_version(m)}
    assert changed == {"start", "start-business", "chosen", "auto"}
    assert {m for m in versions if versions[m]} == {"lm", "lm+ul+ln", *fewshot_methods.PARTS, *changed}
    run_cells(bench, [cell], lambda line: None)
    assert len(counted) == 1
    monkeypatch.setattr(fewshot_methods, "RECIPE", "t-few")
    run_cells(bench, [cell], lambda line: None)
    assert len(counted) == 2 and set(read_results(bench.results)) == {cell.key}


def test_the_rate_that_is_best_on_the_tuning_rows_is_taken(
    data: Path, tmp_path: Path, counted: list[float | None]
) -> None:
    bench = _bench(data, tmp_path)
    own = {"base": "b", "method": "lm", "version": fewshot_methods.method_version("lm")}
    numbers = ((0.1, "x", 0.5), (0.1, "y", 0.9), (0.2, "x", 0.7), (0.2, "y", 0.8))
    tried = [{**own, "rate": r, "task": t, "accuracy": a, "key": f"{r}{t}"} for r, t, a in numbers]
    bench.results.write_text("".join(json.dumps(one) + "\n" for one in tried), encoding="utf-8")
    assert best_rates(read_results(bench.results)) == {("b", "lm"): 0.2}
    run_cells(bench, [Cell("b", "reviews", 2, 0, "lm")], lambda line: None)
    assert counted == [0.2]


def test_every_method_with_a_rate_tries_as_many() -> None:
    cells = list(tuning_cells(["minilm", "gemma-3-270m"], list(fewshot_methods.METHODS)))
    tried = {(c.base, c.method): sum((o.base, o.method) == (c.base, c.method) for o in cells) for c in cells}
    assert set(tried.values()) == {3 * 2 * 2} and {("minilm", "setfit"), ("gemma-3-270m", "peft-lora")} <= set(tried)
    assert {method for base, method in tried if base == "minilm"} >= {*fewshot_methods.RIVALS, "both"}


def test_rates_go_on_while_the_best_lies_at_their_edge(
    data: Path, tmp_path: Path, counted: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def results(*accuracies: tuple[float, float]) -> dict[str, Any]:
        return {str(r): {"base": "b", "method": "lm", "task": "x", "rate": r, "accuracy": a} for r, a in accuracies}

    assert rate_beyond(results((0.004, 0.5), (0.008, 0.6), (0.016, 0.7)), "b", "lm") == 0.032
    assert rate_beyond(results((0.004, 0.7), (0.008, 0.6), (0.016, 0.7)), "b", "lm") == 0.002
    assert rate_beyond(results((0.004, 0.6), (0.008, 0.7), (0.016, 0.6)), "b", "lm") is None
    assert rate_beyond(results((0.004, 0.6)), "b", "lm") is rate_beyond({}, "b", "lm") is None
    assert rate_beyond(results((0.004, 0.7), (0.008, 0.6)), "b", "peft-ia3") is None
    monkeypatch.setattr(fewshot_tuning, "TASKS", ("reviews", "snips"))
    monkeypatch.setattr(fewshot_tuning, "ROWS", 2)
    bench = _bench(data, tmp_path)
    tune_rates(bench, ["b"], ["lm"], lambda line: None)  # all rates are equally good, so the lower one is, three times
    assert counted == [rate for rate in (0.01, 0.02, 0.04, 0.005, 0.0025, 0.00125) for _ in range(4)]
    tune_rates(bench, ["b"], ["lm"], lambda line: None)  # stopped and given again it tries no more
    assert len(counted) == 24


# -- what is told -----------------------------------------------------------------------------------------------------


def _result(draw: int, accuracy: float | None, method: str = "auto", per_label: int = 16) -> dict[str, Any]:
    cell = {"base": "b", "task": "x", "per_label": per_label, "draw": draw, "method": method}
    return {**cell, "accuracy": accuracy, "calibration_error": 0.1, "seconds": 2.0}


def test_medians_and_ranges_are_those_of_the_draws_and_missing_ones_are_named() -> None:
    results = [*(_result(i, i / 10) for i in range(1, 6)), _result(0, None, "setfit"), _result(0, 0.7, "full", ALL)]
    rows = summarise(results)
    assert [(row["method"], row["runs"], row["median"], row["lowest"], row["highest"]) for row in rows] == [
        ("auto", 5, 0.3, 0.1, 0.5),
        ("full", 1, 0.7, 0.7, 0.7),
    ]
    assert [" ".join(line.split()) for line in table_lines(rows)[1:]] == [
        "16 all",
        "auto 30.0 (10.0 to 50.0)",
        "full 70.0 (70.0 to 70.0)",
        "auto, calibration 0.100",
        "auto, seconds 2",
    ]
    told = missing_lines([Cell("b", "x", ALL, draw, "lm") for draw in (1, 2)])
    assert told == ["missing: 2 runs", "  b, x, all a label: lm (draws 1, 2)"]


def test_every_cell_is_named_where_a_rival_is_above_what_a_user_gets_and_the_worst_draw_beside_a_regression() -> None:
    ours = [_result(0, 0.5), _result(1, 0.7), _result(0, 0.8, per_label=ALL)]
    rivals = [_result(0, 0.55, "logistic"), _result(1, 0.6, "logistic"), _result(0, 0.9, "full", ALL)]
    results = [*ours, *rivals, _result(0, 0.99, "both")]
    assert comparison_lines(summarise(results), results, ("logistic", "full")) == [
        "rivals above auto, points: b, x, all a label: full +10.0",
        "auto minus logistic, in each draw: at least 0 in 1 of 2, the worst -5.0 points (b, x, 16 a label, draw 0)",
    ]
    assert comparison_lines(summarise(ours), ours, ("full",)) == ["rivals above auto, points: none"]
    assert comparison_lines(summarise(rivals), rivals, ("full",)) == []


# -- starts -----------------------------------------------------------------------------------------------------------


def test_a_start_has_not_seen_the_table_it_is_compared_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "PER_LABEL", 4)
    rows = starts.start_rows(data, without="tweets")
    assert len(rows) == 2 * 3 * 4 and not any(text.startswith("tweets") for text, _ in rows)
    assert len(starts.start_rows(data, without="phrasebank")) == 3 * 3 * 4


def test_the_start_for_business_news_has_seen_the_bundled_table_twice(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starts, "PER_LABEL", 4)
    plain, business = starts.start_rows(data), starts.start_rows(data, name="business")
    more = business[len(plain) :]
    assert business[: len(plain)] == plain
    assert len(more) == 2 * 885 and more[:885] == more[885:] and more[0][1] == "positive"
    assert starts.start_version("business") != starts.start_version()


# -- a whole grid -----------------------------------------------------------------------------------------------------


@pytest.fixture
def grid(data: Path, causal: str, tmp_path: Path, short: None) -> Callable[..., int]:
    """Return a function that runs a small grid with further arguments."""

    def run(*arguments: str) -> int:
        places = ["--data", str(data), "--results", str(tmp_path / "r.jsonl"), "--starts", str(tmp_path / "starts")]
        grid = ["--bases", causal, "--tasks", "reviews", "--per-label", "2", "--draws", "1"]
        return main([*places, *grid, *arguments])

    return run


def test_a_grid_gives_a_table_a_picture_and_what_is_missing(
    grid: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ["--methods", "zero-shot", "lm+ul+ln", "start", "start-business", "logistic", "setfit"]
    assert grid(*methods, "--json", str(tmp_path / "o.json"), "--png", str(tmp_path / "o.png")) == 0
    out = capsys.readouterr().out
    assert "reviews: median of the draws" in out and "nothing is missing" in out
    assert "not available: SetFit is for sentence encoders" in out
    assert "not available: there is no such start for this base and table" in out
    content = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in content["rows"]] == ["zero-shot", "lm+ul+ln", "start", "logistic"]
    assert all(0 <= row["median"] <= 1 and row["seconds"] > 0 for row in content["rows"])
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")
    made = next((tmp_path / "starts").iterdir()) / "ia3.json"
    assert json.loads(made.read_text(encoding="utf-8"))["data"]["rows"] == 2 * 3 * 4
    assert grid("--methods", "lm", "logistic", "--report") == 0
    assert "reviews, 2 a label: lm (draw 0)" in capsys.readouterr().out


def test_the_start_of_a_table_that_no_start_has_seen_is_the_one_that_comes_with_the_project(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str | None] = []
    monkeypatch.setattr(
        starts, "make_start", lambda base, data, output, *, name, without: made.append(without) or output
    )
    named, own = (SimpleNamespace(name=name) for name in ("sentence-transformers/all-MiniLM-L6-v2", "/some/folder"))
    found = starts.find_start(named, data, tmp_path, without="phrasebank")  # type: ignore[arg-type]
    assert found.parts[-2:] == ("sentiment", "minilm") and made == []
    assert starts.find_start(named, data, tmp_path, without="reviews") == tmp_path  # type: ignore[arg-type]
    assert starts.find_start(own, data, tmp_path, without="phrasebank") == tmp_path  # type: ignore[arg-type]
    assert made == ["reviews", "phrasebank"]


def test_an_unknown_method_is_one_sentence(grid: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert grid("--methods", "tfew") == 2
    assert "there is no method 'tfew', expected some of zero-shot, auto, " in capsys.readouterr().err


def test_a_bad_table_of_the_users_is_told_as_everywhere(
    grid: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.csv").write_text("text,label\nfine,a\n,b\n", encoding="utf-8")
    assert grid("--tasks", f"mine={tmp_path / 'bad.csv'}", "--methods", "logistic") == 2
    assert "bad.csv:3, column 'text': text is empty" in capsys.readouterr().err


@pytest.mark.parity
def test_pefts_adapters_learn_from_the_same_batches(grid: Callable[..., int], tmp_path: Path) -> None:
    methods = ["peft-ia3", "peft-lora", "peft-road", "full"]
    assert grid("--methods", *methods, "--json", str(tmp_path / "o.json")) == 0
    rows = json.loads((tmp_path / "o.json").read_text(encoding="utf-8"))["rows"]
    assert [row["method"] for row in rows] == methods and rows[0]["median"] is not None


def test_the_parts_of_a_table_are_the_same_in_every_run(data: Path) -> None:
    path = data / TASKS["reviews"]
    assert read_parts(path).test.fingerprint == read_parts(path).test.fingerprint
    assert fewshot_data.PER_LABEL[0] == 16
