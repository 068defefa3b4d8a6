"""Rows that bring their own choices, and several templates, in runs of many tasks: the same as trained alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ia3.adapters.folder import load_adapter
from ia3.errors import SettingsError, TableError
from ia3.runs.plans.column import train_by_column
from ia3.runs.plans.one import train_adapter
from ia3.runs.plans.sweep import sweep
from ia3.runs.results import RunResult
from tests.runs.test_own_choices import QUIZ, TEMPLATE
from tests.runs.trials import TASKS, draw_nothing, run_many

BaseFolder = Callable[..., Path]
COLUMNS = {"text": "question", "label": "answer"}
PAIRS = [{"question": f"Is {n} odd?", "answer": ("no", "yes")[n % 2], "pick": "yes | no"} for n in range(8)]
TEMPLATES = ["{{ text }} Say it: ||| {{ label }}", "{{ choices }}? {{ text }}"]
SETTINGS: dict[str, Any] = {"losses": "lm+ul+ln", "epochs": 2, "batch_size": 4, "learning_rate": 0.05}
ALONE: dict[str, dict[str, Any]] = {
    "quiz": {"table": QUIZ, "choices": "options", "template": TEMPLATE},
    "pairs": {"table": PAIRS, "choices": "pick", "template": TEMPLATES},
}


@pytest.fixture(autouse=True, scope="module")
def undrawn_all() -> Any:
    with pytest.MonkeyPatch.context() as patched:
        draw_nothing(patched)
        yield


@pytest.fixture(scope="module")
def trained(base: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunResult, list[str]]:
    """A run of a quiz, of pairs in two templates, and of a table with a label set; and what was said."""
    said: list[str] = []
    quiz, pairs = ({"name": name, "eval": one["table"], **COLUMNS, **one} for name, one in ALONE.items())
    (first, second) = pairs.pop("template")
    tasks = [quiz, pairs | {"template": first, "templates": [second]}, TASKS[0]]
    folder = tmp_path_factory.mktemp("choices") / "o"
    return run_many(base("causal"), folder, tasks, say=said.append, batches="apart", **SETTINGS), said


@pytest.mark.parametrize("name", ALONE)
def test_each_task_has_the_bits_and_the_metrics_that_training_alone_gives(
    name: str, trained: tuple[RunResult, list[str]], base: BaseFolder, tmp_path: Path
) -> None:
    options = dict(ALONE[name])
    table = options.pop("table")
    alone = train_adapter(table, base("causal"), tmp_path / "o", eval_source=table, **COLUMNS, **options, **SETTINGS)
    (task,) = (task for task in trained[0].tasks if task.name == name)
    assert task.folder is not None and task.metrics is not None and alone.metrics is not None
    one, other = load_adapter(task.folder).vectors, load_adapter(tmp_path / "o").vectors
    assert all(torch.equal(one[site], other[site]) for site in other)
    assert task.metrics.accuracy == alone.metrics.accuracy is not None
    assert task.metrics.loss == pytest.approx(alone.metrics.loss, rel=1e-5)
    words = [json.loads((folder / "ia3.json").read_text())["template"] for folder in (task.folder, tmp_path / "o")]
    assert words[0] == words[1] and words[0]["choices_column"] == options["choices"]


def test_what_each_task_answers_with_is_said(trained: tuple[RunResult, list[str]]) -> None:
    result, said = trained
    assert "quiz: 12 rows to train on, 12 held out, choices of each row" in said
    assert "quiz: Each row brings its own choices, 2 to 4 of them (column 'options')." in said
    assert "books: 15 rows to train on, 2 held out, 2 labels" in said
    assert any(line.startswith("pairs: One of 2 templates is drawn for each row in each epoch") for line in said)
    assert [task.labels for task in result.tasks] == [(), (), ("bad", "good")]


def test_a_column_splits_a_table_whose_rows_bring_their_own_choices(base: BaseFolder, tmp_path: Path) -> None:
    rows = [row | {"subject": row["question"].split()[-1].rstrip("?")} for row in QUIZ]
    options: dict[str, Any] = {"choices": "options", **COLUMNS, **SETTINGS, "epochs": 1}
    result = train_by_column(
        rows, "subject", base("causal"), tmp_path / "o", eval_source=rows, shared_steps=2, **options
    )
    assert [task.name for task in result.tasks] == ["warm", "wet", "loud"]
    assert all(task.metrics is not None and task.metrics.accuracy is not None for task in result.tasks)
    record = json.loads((tmp_path / "o" / "wet" / "ia3.json").read_text())
    assert record["template"]["choices_column"] == "options" and record["data"]["eval_rows"] == 4
    with pytest.raises(TableError, match=r"it is the choices column\. Name another one"):
        train_by_column(rows, "options", base("causal"), tmp_path / "p", **options)


def test_a_sweep_compares_on_the_choices_of_the_rows(base: BaseFolder, tmp_path: Path) -> None:
    options: dict[str, Any] = {"choices": "options", **COLUMNS, **SETTINGS, "epochs": 1}
    result = sweep(QUIZ, base("causal"), tmp_path / "o", seeds=[0], eval_source=QUIZ, **options)
    assert result.best is not None and result.best.metrics is not None and result.best.metrics.accuracy is not None
    assert json.loads((tmp_path / "o" / "ia3.json").read_text())["template"]["choices_column"] == "options"


def test_a_template_is_searched_for_each_task_that_asks_for_one(base: BaseFolder, tmp_path: Path) -> None:
    said: list[str] = []
    tasks = [TASKS[0] | {"template": "auto"}, TASKS[1] | {"template": "{{ text }}:"}]
    run_many(base("causal"), tmp_path / "o", tasks, say=said.append, max_steps=1, epochs=1)
    books, games = (json.loads((tmp_path / "o" / name / "ia3.json").read_text()) for name in ("books", "games"))
    assert books["template"]["prompt"] == books["template_search"]["candidates"][0]["prompt"]
    assert games["template"]["prompt"] == "{{ text }}:" and "template_search" not in games
    assert any(line.startswith("books: Comparing 12 prompts on 15 training rows.") for line in said)
    assert any(line.startswith("books: Of ") and "the base understands this one best" in line for line in said)
    with pytest.raises(SettingsError, match=r"Searching a template: the rows bring their own choices"):
        run_many(base("causal"), tmp_path / "p", [{"name": "quiz", "table": QUIZ, **COLUMNS}], choices="options",
                 template="auto")  # fmt: skip


def test_tables_without_the_column_and_bases_that_cannot_are_told_with_their_task(
    base: BaseFolder, tmp_path: Path
) -> None:
    tasks = [{"name": "quiz", "table": QUIZ, **COLUMNS}, TASKS[0] | {"choices": "optoins"}, TASKS[1]]
    with pytest.raises(SettingsError) as raised:
        run_many(base("encoder"), tmp_path / "o", tasks, choices="options")
    told = str(raised.value).splitlines()
    assert told[0] == "Reading the tables of the tasks: 3 faults."
    assert told[1].startswith("task 1 (quiz): ") and "an encoder's head has one output for each label" in told[1]
    assert told[2].startswith("task 2 (books): ") and "there is no column of choices 'optoins'" in told[2]
    assert told[3].startswith("task 3 (games): ") and "there is no column of choices 'options'" in told[3]
