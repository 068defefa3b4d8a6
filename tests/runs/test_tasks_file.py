"""Task files: YAML and JSONL give the same tasks, and every fault is told at once with its line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ia3.data.templates import Template
from ia3.errors import SettingsError
from ia3.runs.task_specs import Found, check_tasks, name_fault, name_faults, specs_of
from ia3.runs.tasks_file import read_tasks

ROWS = [("Profit rose.", "up"), ("Sales fell.", "down")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("books.csv", "sub/games.csv", "held.csv"):
        (tmp_path / name).write_text("text,label\na,b\n")
    return tmp_path


def _write(folder: Path, text: str, name: str = "tasks.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def _told(path: Path) -> str:
    with pytest.raises(SettingsError) as raised:
        read_tasks(path)
    return str(raised.value).replace(str(path), "FILE")


def test_a_task_has_what_its_file_says_and_paths_begin_at_the_files_folder(folder: Path) -> None:
    text = """
# two tasks
- name: books
  table: books.csv
  text: title
  label: 1
  eval: held.csv
  template: "{{ text }} ||| {{ label }}"
  settings: {epochs: 4, learning_rate: 8e-3}
- table: sub/games.csv
  eval_fraction: 0.2
  max_length: 60
  answers: labels
"""
    books, games = read_tasks(_write(folder, text))
    assert (books.name, books.table, books.text, books.label) == ("books", folder / "books.csv", "title", "1")
    assert books.eval == folder / "held.csv" and books.template == (Template("{{ text }}", "{{ label }}"),)
    assert books.settings == {"epochs": 4, "learning_rate": 0.008} and books.origin == "tasks.yaml:3"
    assert (games.name, games.table) == ("games", folder / "sub" / "games.csv")
    assert (games.eval_fraction, games.max_length, games.answers) == (0.2, 60, "labels")


def test_a_task_has_several_templates_and_a_column_of_choices(folder: Path) -> None:
    (folder / "sub" / "mood.txt").write_text("{{ text }} Mood:")
    (folder / "sub" / "more.yaml").write_text("- {prompt: '{{ text }} It is', target: '{{ label }}ly'}\n")
    text = """
- table: books.csv
  choices: 7
  template: sub/mood.txt
  templates: ["{{ text }}:", {prompt: "News: {{ text }}", target: "{{ label }}"}]
- {table: held.csv, templates: sub/more.yaml}
- {table: sub/games.csv}
- {name: searched, table: held.csv, template: auto}
"""
    books, held, games, searched = read_tasks(_write(folder, text))
    assert books.choices == "7" and games.choices is None and games.template is None
    assert books.template == (
        Template("{{ text }} Mood:"), Template("{{ text }}:"), Template("News: {{ text }}", "{{ label }}"),
    )  # fmt: skip
    assert held.template == (Template("{{ text }} It is", "{{ label }}ly"),) and searched.template == "auto"


def test_what_is_no_template_is_told_with_its_line(folder: Path) -> None:
    text = """- table: books.csv
  template: "{{ text"
- table: held.csv
  templates: ["{{ text }}", 3]
- table: sub/games.csv
  template: "{{ text }}"
  templates: ["{{ text }}"]
- {name: a, table: held.csv, templates: none.yaml}
- {name: b, table: held.csv, template: auto, templates: ["{{ text }}"]}
- {name: c, table: held.csv, template: 3, templates: {}}
"""
    told = _told(_write(folder, text)).splitlines()
    for place, line in enumerate([
        "tasks.yaml:2: ",
        "tasks.yaml:4: templates: number 2: it is '3', expected a text with {{ text }}, or prompt and target",
        "tasks.yaml:7: Reading the templates: the 1. and the 2. are the same, '{{ text }}'. Leave one of them out",
        f"tasks.yaml:8: Reading the templates of {folder / 'none.yaml'}: it cannot be read (No such file or directory)",
        "tasks.yaml:9: Reading the templates: 'auto' searches one on rows that a run learns from, and stands",
        "tasks.yaml:10: Reading the template '",
        "tasks.yaml:10: templates is {}, expected a list of templates, or the name of a file of one",
    ], start=1):  # fmt: skip
        assert told[place].startswith(line)
    assert len(told) == 8


def test_jsonl_and_a_list_below_tasks_mean_the_same(folder: Path) -> None:
    listed = read_tasks(_write(folder, "- {name: a, table: books.csv}\n- {name: b, table: held.csv}\n"))
    below = read_tasks(_write(folder, "tasks:\n- {name: a, table: books.csv}\n- {name: b, table: held.csv}\n"))
    lines = '{"name": "a", "table": "books.csv"}\n\n{"name": "b", "table": "held.csv"}\n'
    objects = read_tasks(_write(folder, lines, "tasks.jsonl"))
    plain = [[(spec.name, spec.table, spec.settings) for spec in specs] for specs in (listed, below, objects)]
    assert plain[0] == plain[1] == plain[2] and objects[1].origin == "tasks.jsonl:3"


def test_every_fault_is_told_at_once_with_its_line(folder: Path) -> None:
    text = """- name: books
  tabel: books.csv
- name: a/b
  table: book.csv
  settings:
    epoch: 3
    batch_size: 0
    dropout: true
- name: games
  table: sub/games.csv
  eval_fraction: 2
- name: Games
  table: books.csv
  name: games
  answers: maybe
"""
    told = _told(_write(folder, text))
    assert told == ("Reading FILE: tasks.yaml:14: the key 'name' is there twice, first at tasks.yaml:12.")
    told = _told(_write(folder, text.replace("  name: games\n  answers", "  answers")))
    assert told.splitlines() == [
        "Reading FILE: 10 faults.",
        "tasks.yaml:2: there is no key 'tabel'. Did you mean 'table' or 'label'?",
        "tasks.yaml:1: 'table' is missing",
        "tasks.yaml:4: table 'book.csv' is not there. Did you mean 'books.csv'?",
        "tasks.yaml:6: there is no setting 'epoch'. Did you mean 'epochs'?",
        "tasks.yaml:7: batch_size is 0, expected at least 1",
        "tasks.yaml:8: dropout is the same for all tasks of a run. Give it for the whole run",
        "tasks.yaml:11: eval_fraction is 2, expected a share in [0, 1)",
        "tasks.yaml:14: answers is 'maybe', expected one of auto, labels, text",
        "tasks.yaml:3: the name 'a/b' cannot be a folder's: it holds '/'",
        "tasks.yaml:12: the name 'Games' is there beside 'games', which is one folder on some systems, first at "
        "tasks.yaml:9",
    ]


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("- name: [", "t.yaml", r"t\.yaml:\d+: it is no YAML \("),
        ("a: 1", "t.yaml", r"there is no key 'a' here, expected 'tasks'"),
        ("just words", "t.yaml", r"t\.yaml:1: expected a list of tasks, or 'tasks:' with one below it"),
        ("- just words", "t.yaml", r"t\.yaml:1: expected a task with 'name' and 'table'"),
        ("", "t.yaml", "there are no tasks, expected at least one"),
        ("- {name: x, table: [a]}", "t.yaml", r"t\.yaml:1: table is \['a'\], expected the name of a file"),
        ("- {name: yes, table: books.csv, settings: 3}", "t.yaml", "settings is 3, expected names with values"),
        ("{\n", "t.jsonl", r"t\.jsonl:1: it is no JSON \("),
        ("[1]\n", "t.jsonl", r"t\.jsonl:1: it is '\[1\]', expected an object with 'name' and 'table'"),
        ('{"name": true, "table": "books.csv"}', "t.jsonl", r"name is True, expected text"),
        ("", "t.txt", r"the file has the suffix '\.txt', expected one of \.yaml \.yml \.jsonl"),
    ],
)
def test_what_is_no_task_file_is_an_error_with_its_place(text: str, name: str, told: str, folder: Path) -> None:
    assert re.search(told, _told(_write(folder, text, name)))


def test_a_file_that_is_not_there_is_an_error(folder: Path) -> None:
    assert _told(folder / "none.yaml") == "Reading FILE: there is no such file."


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "it is empty"),
        (" ", "it is empty"),
        ("a/b", "it holds '/'"),
        ("a\\b", r"it holds '\\'"),
        ("a\nb", r"it holds '\n'"),
        ("..", "begins or ends with a dot"),
        (".hidden", "begins or ends with a dot"),
        ("end ", "begins or ends with a dot or a blank"),
        ("x" * 101, "it has 101 bytes, at most 100"),
        ("checkpoints", "the run needs it for itself"),
        ("README.md", "the run needs it for itself"),
        ("__base__", "the run needs it for itself"),
        ("con", "Windows keeps it for a device"),
    ],
)
def test_a_name_that_is_no_good_folder_name_is_refused_with_the_reason(name: str, told: str) -> None:
    assert told in name_fault(name)


@given(st.text(max_size=30))
def test_a_name_without_a_fault_is_one_folder(name: str) -> None:
    if not name_fault(name):
        assert Path(name).name == name and Path("x", name).parent == Path("x")


def test_names_that_are_there_twice_are_told_with_both_places() -> None:
    assert name_faults([("a", "f:1"), ("b", "f:2"), ("a", "f:3")]) == ["f:3: the name 'a' is there twice, first at f:1"]
    assert "one folder on some systems" in name_faults([("Ä", "f:1"), ("ä", "f:2")])[0]


def test_tasks_in_memory_have_the_same_checks() -> None:
    (spec,) = check_tasks("Training tasks", [Found({"name": "a", "table": [("x", "y")]}, "task 1")])
    assert spec.table == [("x", "y")]
    with pytest.raises(SettingsError, match=r"Training tasks: task 1: there is no key 'nam'\. Did you mean 'name'"):
        check_tasks("Training tasks", [Found({"nam": "a", "table": [("x", "y")], "name": "b"}, "task 1")])


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ({"books": ROWS}, r"got a value of type dict, .*\[{'name': name, 'table': table} for name, table in"),
        ("tasks.yaml", r"got a value of type str, .*read_tasks\(path\)"),
        (pd.DataFrame(ROWS), r"got a value of type DataFrame, .*train_by_column\(table, column, base, output\)"),
        ([pd.DataFrame(ROWS), ("a", ROWS)], "task 2 is of type tuple, expected a mapping with its name and table"),
        ([{"name": "a", "table": iter(ROWS)}], "table is of type .*iterator, which can be read once"),
    ],
)
def test_what_is_no_list_of_tasks_is_told_with_what_to_give(tasks: Any, told: str) -> None:
    """A dict of tables ended in an AttributeError, a list of frames in pandas' "truth value is ambiguous"."""
    with pytest.raises(SettingsError, match=told):
        specs_of(tasks)


def test_tasks_may_come_one_by_one() -> None:
    assert [spec.name for spec in specs_of({"name": name, "table": ROWS} for name in "ab")] == ["a", "b"]
