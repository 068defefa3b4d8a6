"""Few rows: the recipe that is made for them is taken where the user left it open, and told where not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ia3
from ia3.runs.dataset import read_rows
from ia3.runs.drafts import Draft
from ia3.runs.few_rows import recipe_taken
from ia3.runs.plans.folds import train_folds
from ia3.runs.plans.one import train_adapter
from ia3.runs.plans.repeats import train_repeats
from ia3.runs.plans.tasks import train_tasks
from ia3.runs.task_specs import TaskSpec
from ia3.training.settings import Settings, settings_for
from tests.runs.trials import ROWS

BaseFolder = Callable[..., Path]
TAKEN = (
    "Rows are few{}: the defaults would take {} steps{}. The settings are those of --recipe t-few-small ({} steps); "
    "--recipe default keeps the defaults."
)
FREE = [(f"item {i}", f"its name is {i}") for i in range(12)]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """End every training after two steps, whatever its settings say."""
    monkeypatch.setattr(Settings, "total_steps", lambda self, examples: 2)


def record_of(folder: Path) -> Any:
    return json.loads((folder / "ia3.json").read_text(encoding="utf-8"))


def plan(given: dict[str, Any], count: int = 17, *, has_start: bool = False, name: str = "") -> Draft:
    """Return a task of two labels with a number of rows to learn from."""
    return Draft(TaskSpec(name, ROWS), read_rows(ROWS, eval_fraction=None), given, count, has_start)


def taken_by(base: Any, kind: Any, *tasks: Draft) -> tuple[bool, list[str]]:
    """Return whether the recipe for few rows is taken, and what is said."""
    said: list[str] = []
    found = recipe_taken(tasks, base, kind, said.append)
    assert found in ({}, {"recipe": "t-few-small"})
    return bool(found), said


@pytest.mark.usefixtures("undrawn", "short")
@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_run_on_few_rows_has_the_recipe_for_them_and_says_so(kind: str, base: BaseFolder, tmp_path: Path) -> None:
    said: list[str] = []
    train_adapter(ROWS, base(kind), tmp_path / "left", say=said.append, seed=3)
    assert said.count(TAKEN.format("", 2, "", 2)) == 1
    assert not any("is made for so few rows" in line for line in said)
    train_adapter(ROWS, base(kind), tmp_path / "named", recipe="t-few-small", seed=3)
    left, named = record_of(tmp_path / "left"), record_of(tmp_path / "named")
    assert left["settings"] == named["settings"] and left["settings"]["recipe"] == "t-few-small"
    assert left["data"]["rows"] == 17 and left["data"]["eval_rows"] == 0
    assert left["differs_from_paper"] == named["differs_from_paper"] != []
    numbers = "adapter_model.safetensors"
    assert (tmp_path / "left" / numbers).read_bytes() == (tmp_path / "named" / numbers).read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_what_is_given_decides(base: BaseFolder, tmp_path: Path) -> None:
    said: list[str] = []
    train_adapter(ROWS, base("causal"), tmp_path / "default", recipe="default", say=said.append)
    record = record_of(tmp_path / "default")
    assert record["settings"] == settings_for("causal").to_json() and record["data"]["eval_rows"] == 2
    assert not any("are few" in line for line in said)
    train_adapter(ROWS, base("causal"), tmp_path / "epochs", epochs=1, say=said.append)
    assert record_of(tmp_path / "epochs")["settings"] == settings_for("causal", epochs=1).to_json()
    assert sum("--recipe t-few-small is made for so few rows." in line for line in said) == 1


def test_it_is_for_few_rows_of_a_small_base(base: BaseFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, loaded = base("causal"), ia3.load_base(base("causal"), dtype="float32", device="cpu")
    told = TAKEN.format("", 9, "", 100).replace("100 steps", "100 steps, 60 from a start")
    assert taken_by(folder, "causal", plan({"seed": 3, "losses": None})) == (True, [told])
    assert [taken_by(folder, "causal", plan({}, count))[0] for count in (64, 65)] == [True, False]
    assert taken_by(folder, "causal", plan({}, 65)) == (False, [])
    size = sum(parameter.numel() for parameter in loaded.model.parameters())
    for most, is_taken in ((size, False), (size + 1, True)):
        monkeypatch.setattr("ia3.training.recipes.SMALL", most)
        for given in (folder, loaded):
            is_found, said = taken_by(given, "causal", plan({}))
            assert is_found == is_taken and ("--recipe t-few is made for so few rows" in said[0]) != is_taken


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("causal", {"learning_rate": 1e-2}),
        ("causal", {"epochs": 2}),
        ("causal", {"patience": 2}),  # which needs rows held out
        ("encoder", {"head_learning_rate": 1e-2}),
        ("encoder", {"eval_strategy": "epoch"}),
        ("seq2seq", {"compile": "on"}),  # which the recipe's losses do not go with
    ],
)
def test_a_setting_of_its_own_keeps_the_defaults_and_the_recipe_is_told(
    kind: str, given: dict[str, Any], base: BaseFolder
) -> None:
    is_taken, said = taken_by(base(kind), kind, plan(given))
    assert not is_taken and len(said) == 1 and "--recipe t-few-small is made for so few rows." in said[0]
    assert taken_by(base(kind), kind, plan({**given, "recipe": "default"})) == (False, [])


def test_a_base_in_int8_has_the_size_of_its_config(base: BaseFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = ia3.load_base(base("causal"), dtype="float32", device="cpu")
    size = sum(parameter.numel() for parameter in loaded.model.parameters())
    small = ia3.load_base(base("causal"), dtype="float32", device="cpu", precision="int8")
    assert sum(parameter.numel() for parameter in small.model.parameters()) < size
    monkeypatch.setattr("ia3.training.recipes.SMALL", size)
    assert not taken_by(small, "causal", plan({}))[0]


def test_of_several_tasks_all_must_leave_it_open(base: BaseFolder) -> None:
    folder = base("causal")
    one, two = plan({}, 17, name="one"), plan({}, 20, has_start=True, name="two")
    told = TAKEN.format(" in all 2 tasks", 9, " in one", 100).replace("100 steps", "100 steps, 60 from a start")
    assert taken_by(folder, "causal", one, two) == (True, [told])
    assert taken_by(folder, "causal", two, one) == (True, [TAKEN.format(" in all 2 tasks", 9, " in two", 60)])
    note = "17 rows of 2 labels are few for the defaults ({} steps): --recipe t-few-small is made for so few rows."
    for other in (plan({}, 65, name="x"), plan({"recipe": "fast"}, name="x")):
        assert taken_by(folder, "causal", one, other) == (False, [f"one: {note.format(9)}"])
    short = plan({"max_steps": 2}, name="short")
    for open_one in (one, plan({"max_steps": None}, name="one")):
        assert taken_by(folder, "causal", short, open_one) == (False, [f"short: {note.format(2)} So it is with one."])


@pytest.mark.usefixtures("undrawn", "short")
def test_a_start_has_the_settings_for_a_start(base: BaseFolder, tmp_path: Path) -> None:
    said: list[str] = []
    train_adapter(ROWS, base("causal"), tmp_path / "start", max_steps=1)
    train_adapter(ROWS, base("causal"), tmp_path / "o", start=tmp_path / "start", say=said.append)
    expected = settings_for("causal", recipe="t-few-small", has_start=True).to_json()
    assert record_of(tmp_path / "o")["settings"] == expected and expected["max_steps"] == 60
    assert said.count(TAKEN.format("", 2, "", 2)) == 1


@pytest.mark.usefixtures("undrawn", "short")
def test_folds_and_repeats_have_it_too(sentences: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train_folds(ROWS, sentences, tmp_path / "folds", folds=2, say=said.append)
    assert record_of(tmp_path / "folds")["settings"]["recipe"] == "t-few-small"
    assert record_of(tmp_path / "folds")["worth"]["rows"] == 4  # a fifth of the 17
    assert said.count(TAKEN.format("", 2, "", 2)) == 1
    many = [(f"{text} {number}", label) for number in range(5) for text, label in ROWS]
    given: dict[str, Any] = {"repeats": 2, "say": said.append}
    train_repeats(many, sentences, tmp_path / "drawn", per_label=4, **given)
    assert record_of(tmp_path / "drawn")["settings"]["recipe"] == "t-few-small"
    assert record_of(tmp_path / "drawn")["worth"]["rows"] == 8  # few of a label: all of them
    assert said.count(TAKEN.format("", 2, "", 2)) == 2
    train_repeats(many, sentences, tmp_path / "all", eval_fraction=0.2, **given)  # 68 to learn from
    assert record_of(tmp_path / "all")["settings"]["recipe"] == "default"


@pytest.mark.usefixtures("undrawn", "short")
def test_several_tasks_have_it_where_all_are_small(sentences: Path, tmp_path: Path) -> None:
    said: list[str] = []
    few: list[dict[str, Any]] = [{"name": name, "table": ROWS} for name in ("one", "two")]
    train_tasks(few, sentences, tmp_path / "few", say=said.append)
    records = [record_of(tmp_path / "few" / name) for name in ("one", "two")]
    assert [record["settings"]["recipe"] for record in records] == ["t-few-small"] * 2
    assert [record["data"]["eval_rows"] for record in records] == [0, 0]
    assert [record["worth"]["rows"] for record in records] == [4, 4]
    assert [sum(line.startswith(f"{name}: The frozen base") for line in said) for name in ("one", "two")] == [1, 1]
    assert said.count(TAKEN.format(" in all 2 tasks", 2, " in one", 2)) == 1
    many = [(f"{text} {number}", label) for number in range(5) for text, label in ROWS]
    train_tasks([*few, {"name": "many", "table": many}], sentences, tmp_path / "mixed", say=said.append)
    assert record_of(tmp_path / "mixed" / "one")["settings"]["recipe"] == "default"
    assert sum("so few rows. So it is with two." in line for line in said) == 1
    half = [{"name": "many", "table": many, "eval_fraction": 0.5}]  # 42 to learn from
    train_tasks(half, sentences, tmp_path / "half")
    assert record_of(tmp_path / "half" / "many")["settings"]["recipe"] == "t-few-small"
    train_adapter(many, sentences, tmp_path / "alone", eval_fraction=0.5)
    assert record_of(tmp_path / "alone")["settings"]["recipe"] == "t-few-small"


@pytest.mark.usefixtures("undrawn", "short")
def test_free_text_is_no_case_for_it(base: BaseFolder, tmp_path: Path) -> None:
    train_adapter(FREE, base("causal"), tmp_path / "o", answers="text")
    assert record_of(tmp_path / "o")["settings"]["recipe"] == "default"
