"""Templates that are searched where a table is cut: each run's on the rows that it learns from, and no others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import ia3
from ia3.data.examples import Table
from ia3.data.templates import Template
from ia3.inference.template_search import Candidate, Search
from ia3.runs import wording
from ia3.runs.plans.folds import train_folds
from ia3.runs.plans.one import train_adapter
from ia3.runs.plans.repeats import train_repeats
from ia3.runs.plans.sweep import sweep
from tests.runs.trials import ROWS, UTC, content, datetime, stop_after

BaseFolder = Callable[..., Path]
SETTINGS: dict[str, Any] = {"epochs": 1, "batch_size": 4, "template": "auto"}
WORDS = (Template("{{ text }} A:", "{{ label }}"), Template("{{ text }} B:", "it is {{ label | upper }}"))


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Have searches find other words in turn, and return the texts that each has read."""
    read: list[set[str]] = []

    def search(base: Any, table: Table, *args: Any) -> Search:
        read.append({example.text for example in table.examples})
        found = WORDS[len(read) % 2]
        return Search(found, (Candidate(found, -1.0, 0.5),), len(table.examples), 0.5)

    monkeypatch.setattr(wording, "search_template", search)
    return read


def _record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "ia3.json").read_text(encoding="utf-8"))
    return found


def test_a_fold_is_measured_with_the_words_of_its_own_rows(
    base: BaseFolder, tmp_path: Path, searched: list[set[str]]
) -> None:
    texts = {text for text, _ in ROWS}
    result = train_folds(ROWS, base("causal"), tmp_path / "o", folds=3, **SETTINGS)
    measured = [texts - read for read in searched]
    assert measured[-1] == set() and set.union(*measured[:-1]) == texts  # the last is of all rows
    assert sum(map(len, measured)) == len(texts)  # each fold has searched on the rows of the others
    assert result.metrics is not None and result.metrics.rows == len(ROWS)
    right = sum(round((one.accuracy or 0) * one.rows) for one in result.folds if one is not None)
    assert right == round((result.metrics.accuracy or 0) * len(ROWS))
    assert _record(tmp_path / "o")["template"] | {"ranking": ""} == {
        **WORDS[len(searched) % 2].to_json(),
        "ranking": "",
    }


def test_a_repeat_is_measured_with_the_words_of_its_own_draw(
    base: BaseFolder, tmp_path: Path, searched: list[set[str]]
) -> None:
    result = train_repeats(ROWS, base("causal"), tmp_path / "o", repeats=2, per_label=3, **SETTINGS)
    assert [len(read) for read in searched] == [6, 6] and searched[0] != searched[1]
    saved = result.runs.index(result.median)  # type: ignore[arg-type]
    assert _record(tmp_path / "o")["template"]["prompt"] == WORDS[(saved + 1) % 2].prompt
    rest = [row for row in ROWS if row[0] not in searched[saved]]
    measured = ia3.load(tmp_path / "o", base=str(base("causal")), device="cpu").evaluate(rest)
    assert result.median is not None and result.median.metrics is not None
    assert measured.accuracy == result.median.metrics.accuracy
    assert measured.loss == pytest.approx(result.median.metrics.loss, abs=1e-5)


@pytest.mark.parametrize("command", ["folds", "repeats", "sweep"])
def test_what_was_searched_is_in_the_record(command: str, base: BaseFolder, tmp_path: Path) -> None:
    said: list[str] = []
    given: tuple[Any, ...] = (ROWS, base("causal"), tmp_path / "o")
    words: Sequence[str] = ("Each run searches its template on the rows that it learns from.",)
    if command == "folds":
        train_folds(*given, folds=2, say=said.append, **SETTINGS)
    elif command == "repeats":
        train_repeats(*given, repeats=2, per_label=3, say=said.append, **SETTINGS)
    else:
        sweep(*given, vary={"learning_rate": [0.01]}, seeds=(0,), say=said.append, **SETTINGS)
        words = ("Comparing 12 prompts on",)
    record = _record(tmp_path / "o")
    best = record["template_search"]["candidates"][0]
    assert record["template"]["prompt"] == best["prompt"] and record["template"]["target"] == best["target"]
    assert sum(line.startswith(words[0]) for line in said) == 1
    assert any("templates the base understands this one best" in line for line in said)


@pytest.mark.parametrize(
    ("kind", "given", "is_searched"),
    [
        ("causal", {"recipe": "t-few-small"}, True),
        ("seq2seq", {"recipe": "t-few-small"}, True),
        ("causal", {"recipe": "t-few-small", "template": "{{ text }}"}, False),
        ("causal", {"recipe": "t-few-small", "answers": "text"}, False),
        ("causal", {"recipe": "t-few"}, False),
        ("causal", {"epochs": 1}, False),
        ("encoder", {"recipe": "t-few-small"}, False),
    ],
)
def test_the_recipe_for_few_rows_searches_where_no_template_is_given(
    kind: str, given: dict[str, Any], is_searched: bool, base: BaseFolder, tmp_path: Path, searched: list[set[str]]
) -> None:
    said: list[str] = []
    train_adapter(ROWS, base(kind), tmp_path / "o", max_steps=1, say=said.append, **given)
    assert len(searched) == is_searched == ("template_search" in _record(tmp_path / "o"))
    told = "No template is given, and --recipe t-few-small searches one. --template has the last word."
    assert said.count(told) == is_searched
    assert (_record(tmp_path / "o")["template"]["prompt"] == WORDS[1].prompt) == is_searched


def test_stopped_and_resumed_the_words_are_searched_again_and_the_same(base: BaseFolder, tmp_path: Path) -> None:
    few: dict[str, Any] = {"recipe": "t-few-small", "max_steps": 6, "now": lambda: datetime(2026, 1, 2, tzinfo=UTC)}
    train_adapter(ROWS, base("causal"), tmp_path / "whole", **few)
    stopped = train_adapter(ROWS, base("causal"), tmp_path / "o", **few, **stop_after(3))
    assert stopped.outcome.is_stopped
    train_adapter(ROWS, base("causal"), tmp_path / "o", **few, resume=True)
    found, whole = content(tmp_path / "o"), content(tmp_path / "whole")
    assert found["adapter_model.safetensors"] == whole["adapter_model.safetensors"]
    assert _record(tmp_path / "o")["template_search"] == _record(tmp_path / "whole")["template_search"]


def test_the_words_of_a_start_go_before_a_search(base: BaseFolder, tmp_path: Path, searched: list[set[str]]) -> None:
    words = {"recipe": "t-few-small", "max_steps": 1}
    train_adapter(ROWS, base("causal"), tmp_path / "start", template="Say: {{ text }}", **words)
    train_adapter(ROWS, base("causal"), tmp_path / "o", start=tmp_path / "start", **words)
    assert _record(tmp_path / "o")["template"]["prompt"] == "Say: {{ text }}" and searched == []
