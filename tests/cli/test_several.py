"""`ia3 train` with several tasks: by a task file, by a column, and what cannot stand together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ia3.cli.main import main
from tests.cli.conftest import ROWS, write_table
from tests.cli.test_train import _signal_at

Train = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two tables, a task file, and a table with a column of tasks."""
    write_table(tmp_path / "books.csv", ROWS)
    write_table(tmp_path / "games.csv", [(text, "yes" if label == "up" else "no") for text, label in ROWS[:12]])
    (tmp_path / "tasks.yaml").write_text(
        "- {name: books, table: books.csv}\n- {name: games, table: games.csv, settings: {epochs: 2}}\n"
    )
    rows = [(text, label, ("pen", "car")[i // 2 % 2]) for i, (text, label) in enumerate(ROWS)]
    write_table(tmp_path / "reviews.csv", rows, ("text", "label", "product"))
    return tmp_path


@pytest.fixture
def train(home: Path, folder: Path) -> Train:
    def run(*options: str, base: str = "encoder") -> int:
        return main(["train", *options, "--base", str(home / base), "--output", str(folder / "out")])

    return run


def test_the_tasks_of_a_file_become_a_table_of_results_and_folders(
    train: Train, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--tasks", str(folder / "tasks.yaml"), "--epochs", "1") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split() == ["task", "steps", "epoch", "loss", "accuracy", "rows"]
    assert lines[1].startswith("books      3      1  ") and lines[2].startswith("games      4      ")
    assert f"7 steps in 1 s; 2 adapters lie in {folder / 'out'}" in out or "2 adapters lie in" in out
    assert out.endswith(f"use one: ia3 predict TABLE --adapter {folder / 'out' / 'books'} --output answers.csv\n")
    assert "books: 18 rows to train on, 2 held out, 2 labels" in err and "games, epoch 2: train loss" in err
    assert main(["predict", str(folder / "books.csv"), "--adapter", str(folder / "out" / "games"),
                 "--output", str(folder / "answers.csv")]) == 0  # fmt: skip


def test_a_column_makes_tasks_and_json_is_one_document(
    train: Train, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--task-column", "product", "--epochs", "1", "--shared-steps", "2", "--sampling", "temperature"]
    options += ["--temperature", "3", "--batches", "apart", "--store", str(folder / "all.ia3"), "--json"]
    assert train(str(folder / "reviews.csv"), *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert [task["name"] for task in found["tasks"]] == ["pen", "car"] and found["stopped"] is False
    assert all(task["metrics"]["accuracy"] is not None for task in found["tasks"])
    assert (folder / "all.ia3").is_file() and (folder / "out" / "car" / "adapter_config.json").is_file()


def test_tasks_whose_rows_bring_their_own_choices_have_an_accuracy_and_free_text_has_none(
    train: Train, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"Is {n} odd?", ("no", "yes")[n % 2], "yes | no", ("odd", "even")[n // 5]) for n in range(10)]
    write_table(folder / "quiz.csv", rows, ("text", "label", "options", "part"))
    write_table(folder / "free.csv", [(f"item {n}", f"number {n}") for n in range(10)])
    (folder / "tasks.yaml").write_text(
        "- {table: quiz.csv, choices: options, templates: ['{{ text }} One of {{ choices }}.', '{{ text }} =']}\n"
        "- table: free.csv\n"
    )
    assert train("--tasks", str(folder / "tasks.yaml"), "--epochs", "1", base="causal") == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split()[5:] == ["%", "1"] and len(out.splitlines()[2].split()) == 5
    assert "quiz: 9 rows to train on, 1 held out, choices of each row" in err
    assert "quiz: One of 2 templates is drawn for each row in each epoch" in err
    by_column = [str(folder / "quiz.csv"), "--task-column", "part", "--choices", "options", "--epochs", "1", "--json"]
    assert train(*by_column, "--overwrite", base="causal") == 0
    found = json.loads(capsys.readouterr().out)["tasks"]
    assert [task["name"] for task in found] == ["odd", "even"]
    assert all(task["metrics"]["accuracy"] is not None for task in found)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["TABLE", "--tasks", "TASKS"], "got a table and --tasks, which names the tables. Leave one of them out."),
        ([], "expected a table, or --tasks FILE. See 'ia3 train --help'."),
        (["--tasks", "TASKS", "--eval", "TABLE"], "--eval cannot stand beside --tasks. Give each task its own"),
        (["TABLE", "--sampling", "equal"], "--sampling is for several tasks. Give --tasks or --task-column"),
        (["TABLE", "--shared-steps", "0"], "--shared-steps is for several tasks."),
        (["TABLE", "--store", "x.ia3"], "--store is for several tasks."),
        (["--tasks", "TASKS", "--task-column", "x"], "--task-column: not allowed with argument --tasks"),
        (["TABLE", "--task-column", "produkt"], "there is no such column. Did you mean 'product'?"),
        (["--tasks", "none.yaml"], "Reading none.yaml: there is no such file."),
    ],
)
def test_what_cannot_stand_together_is_one_sentence(
    options: list[str], told: str, train: Train, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"TABLE": str(folder / "reviews.csv"), "TASKS": str(folder / "tasks.yaml")}
    assert train(*(places.get(option, option) for option in options)) == 2
    out, err = capsys.readouterr()
    assert out == "" and told in err and not (folder / "out").exists()


def test_ctrl_c_ends_after_the_round_and_resume_goes_on(
    train: Train, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--tasks", str(folder / "tasks.yaml"), "--epochs", "3"]
    with monkeypatch.context() as patch:
        _signal_at(5, patch)  # of books alone
        assert train(*command) == 130
    _, err = capfd.readouterr()
    assert f"ia3: stopped. The best adapters so far lie in folders of {folder / 'out'}. The same command with" in err
    assert train(*command, "--resume", "--json") == 0
    assert [task["steps"] for task in json.loads(capfd.readouterr().out)["tasks"]] == [9, 4]
