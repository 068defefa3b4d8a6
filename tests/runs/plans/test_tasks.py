"""Many tasks in one run: a folder for each, as trained alone where batches are apart, stopped and resumed the same."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import ia3
from ia3.adapters.folder import load_adapter
from ia3.adapters.store import Store
from ia3.bases.loading import load_base
from ia3.errors import RunError, SettingsError, TableError
from ia3.runs.plans.column import train_by_column
from ia3.training.learner import Learner
from tests.runs import trials
from tests.runs.trials import ADAPTER_FILES, TASKS, content, read, run_in_child
from tests.runs.trials import run_many as run

BaseFolder = Callable[..., Path]


def _vectors(folder: Path) -> dict[str, torch.Tensor]:
    adapter = load_adapter(folder)
    return {**adapter.vectors, **adapter.head}


# -- the folders ------------------------------------------------------------------------------------------------------


def test_every_task_gets_a_folder_of_its_own_and_the_run_one_record_and_one_picture(
    base: BaseFolder, tmp_path: Path
) -> None:
    result = run(base("encoder"), tmp_path / "o")
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == [
        "books", "curves.png", "games", "mail", "run.jsonl",
    ]  # fmt: skip
    for task in result.tasks:
        assert task.folder == tmp_path / "o" / task.name and task.metrics is not None
        assert sorted(path.name for path in task.folder.iterdir()) == ADAPTER_FILES
        record = json.loads((task.folder / "ia3.json").read_text())
        assert record["labels"] == list(task.labels) and record["settings"] == task.settings.to_json()
        assert record["metrics"]["loss"] == pytest.approx(task.metrics.loss)
        assert ia3.load(task.folder).classify(["a book"])[0].prediction in task.labels
    assert [task.outcome.steps for task in result.tasks] == [9, 6, 12]
    assert result.tasks[1].settings.seed == 3 and result.tasks[0].settings.epochs == 3


@pytest.mark.usefixtures("undrawn")
def test_every_event_names_its_task(base: BaseFolder, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    run(base("causal"), tmp_path / "o", on_event=told.append)
    events = read(tmp_path / "o")
    assert events == json.loads(json.dumps(told))
    start, end = events[0], events[-1]
    assert start["total_steps"] == end["step"] == 27 and list(start["tasks"]) == ["books", "games", "mail"]
    assert set(start["run"]["tasks"]["mail"]) >= {"rows", "labels", "prompt", "epochs", "batch_size"}
    steps = {name: [e["step"] for e in events if e["event"] == "step" and e["task"] == name] for name in start["tasks"]}
    assert steps == {"books": [*range(1, 10)], "games": [*range(1, 7)], "mail": [*range(1, 13)]}
    assert end["tasks"]["games"] == {"steps": 6, "best_epoch": end["tasks"]["games"]["best_epoch"]}


@pytest.fixture(scope="module")
def alone(base: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], dict[str, torch.Tensor]]:
    """Return what a task ends with when it is trained by itself, once for a kind of base."""
    found: dict[tuple[str, str], dict[str, torch.Tensor]] = {}

    def vectors_of(kind: str, name: str) -> dict[str, torch.Tensor]:
        if (kind, name) not in found:
            (task,) = (task for task in TASKS if task["name"] == name)
            folder = tmp_path_factory.mktemp("alone") / name
            trials.run(base(kind), folder, source=task["table"], **task.get("settings", {}))
            found[kind, name] = _vectors(folder)
        return found[kind, name]

    return vectors_of


# The same of the loop is in tests/training/test_together.py, for every kind.
QUICK_KINDS = ("causal", "encoder", pytest.param("seq2seq", marks=pytest.mark.slow))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("kind", QUICK_KINDS)
def test_with_batches_apart_each_adapter_has_the_bits_that_training_alone_gives(
    kind: str, base: BaseFolder, tmp_path: Path, alone: Callable[[str, str], dict[str, torch.Tensor]]
) -> None:
    run(base(kind), tmp_path / "o", batches="apart")
    for task in TASKS:
        together, expected = _vectors(tmp_path / "o" / task["name"]), alone(kind, task["name"])
        assert together.keys() == expected.keys()
        assert all(torch.equal(together[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("kind", QUICK_KINDS)
def test_in_mixed_batches_each_adapter_is_near_to_training_alone(
    kind: str, base: BaseFolder, tmp_path: Path, alone: Callable[[str, str], dict[str, torch.Tensor]]
) -> None:
    run(base(kind), tmp_path / "o")
    for task in TASKS:
        together, expected = _vectors(tmp_path / "o" / task["name"]), alone(kind, task["name"])
        assert all((together[name] - expected[name]).abs().max() < 2e-3 for name in expected)


@pytest.mark.usefixtures("undrawn")
def test_a_loaded_base_is_given_back_and_may_be_an_encoder_with_other_labels(base: BaseFolder, tmp_path: Path) -> None:
    loaded = load_base(base("encoder"), labels=["x", "y"], device="cpu", say=lambda line: None)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    result = run(loaded, tmp_path / "o")
    assert [len(task.labels) for task in result.tasks] == [2, 2, 3]
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())
    ia3.attach(loaded.model).detach()  # it has no bank


@pytest.mark.usefixtures("undrawn")
def test_closed_sets_and_free_text_are_trained_and_evaluated_together(base: BaseFolder, tmp_path: Path) -> None:
    free = {"name": "free", "table": [(f"item {i}", f"number {i}") for i in range(12)]}
    result = run(base("causal"), tmp_path / "o", [*TASKS, free])
    *closed, last = result.tasks
    assert last.labels == () and last.metrics is not None and last.metrics.loss is not None
    assert all(task.metrics is not None and task.metrics.accuracy is not None for task in closed)


@pytest.mark.usefixtures("undrawn")
def test_all_adapters_go_into_a_packed_store_as_well(base: BaseFolder, tmp_path: Path) -> None:
    run(base("causal"), tmp_path / "o", store=tmp_path / "all.ia3", epochs=1)
    with Store.open(tmp_path / "all.ia3") as store:
        assert store.names == ("books", "games", "mail")
        own = load_adapter(tmp_path / "o" / "mail").vectors
        assert all(torch.equal(v, own[site]) for site, v in store.adapter("mail").vectors.items())
    with pytest.raises(RunError, match=r"Packing .*all\.ia3: the file is there already\. Give --overwrite"):
        run(base("causal"), tmp_path / "p", store=tmp_path / "all.ia3")
    assert not (tmp_path / "p").exists()


# -- one of them goes wrong -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_a_task_that_diverges_is_named_in_the_record_and_the_others_are_saved(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Learner.take_step

    def take_step(learner: Learner, summed: float, targets: float) -> float | None:
        return original(learner, math.nan if learner.task.name == "games" else summed, targets)

    monkeypatch.setattr(Learner, "take_step", take_step)
    result = run(base("causal"), tmp_path / "o")
    books, games, mail = result.tasks
    assert games.folder is None and games.metrics is None and games.outcome.steps == 0
    assert "Training 'games': the loss is nan at step 1" in (games.outcome.fault or "")
    assert not (tmp_path / "o" / "games").exists() and books.folder is not None and mail.folder is not None
    (event,) = [event for event in read(tmp_path / "o") if event["event"] == "diverged"]
    assert event["task"] == "games" and event["what"] == games.outcome.fault


def test_the_faults_of_all_tables_are_told_at_once(base: BaseFolder, tmp_path: Path) -> None:
    bad = {"name": "bad", "table": [("", "up"), ("x", "down")]}
    alike = {"name": "alike", "table": [("a", "up"), ("b", "up"), ("c", "up")]}
    with pytest.raises(SettingsError) as raised:
        run(base("causal"), tmp_path / "o", [TASKS[0], bad, alike])
    told = str(raised.value)
    assert told.startswith("Reading the tables of the tasks: 2 faults.\n")
    assert "task 2 (bad): " in told and "text is empty" in told and "task 3 (alike): " in told
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sampling": "some"}, r"there is no 'some', expected one of equal, proportional, temperature"),
        ({"sampling": "temperature", "temperature": 0.5}, r"the temperature is 0\.5, expected at least 1"),
        ({"batches": "other"}, "batches is 'other', expected one of mixed, apart"),
        ({"shared_steps": -1}, "shared_steps is -1, expected a number of at least 0"),
        ({"tasks": []}, "there are no tasks, expected at least one"),
        ({"learning_rat": 1}, "no setting 'learning_rat'"),
    ],
)
def test_options_that_cannot_be_are_errors(
    options: dict[str, Any], told: str, base: BaseFolder, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=told):
        run(base("causal"), tmp_path / "o", **options)
    assert not (tmp_path / "o").exists()


@pytest.mark.usefixtures("undrawn")
def test_a_folder_in_use_is_refused_and_replaced_only_when_asked(base: BaseFolder, tmp_path: Path) -> None:
    run(base("causal"), tmp_path / "o", epochs=1)
    with pytest.raises(RunError, match=r"it holds run\.jsonl"):
        run(base("causal"), tmp_path / "o", epochs=1)
    (tmp_path / "o" / "run.jsonl").unlink()
    with pytest.raises(RunError, match=r"it holds the adapters 'books', 'games', 'mail' already\. Give --overwrite"):
        run(base("causal"), tmp_path / "o", epochs=1)
    (tmp_path / "o" / "books" / "notes.txt").write_text("mine")
    run(base("causal"), tmp_path / "o", epochs=1, overwrite=True)
    assert (tmp_path / "o" / "books" / "notes.txt").read_text() == "mine"


# -- stopped and resumed ----------------------------------------------------------------------------------------------


def _stop_after(rounds: int) -> dict[str, Any]:
    asked: list[int] = []
    return {"should_stop": lambda: len(asked) >= rounds or asked.append(1) is not None}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("kind", "options", "stops"),
    [
        # in the shared stage, behind it, later; the other rounds of each in the slow tier
        ("causal", {"shared_steps": 2}, (1, 3)),
        ("encoder", {"sampling": "proportional"}, (4,)),
        ("seq2seq", {"batches": "apart"}, (7,)),
        pytest.param("causal", {"shared_steps": 2}, (4, 7, 11), marks=pytest.mark.slow),
        pytest.param("encoder", {"sampling": "proportional"}, (1, 3, 7, 11), marks=pytest.mark.slow),
        pytest.param("seq2seq", {"batches": "apart"}, (1, 3, 4, 11), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_stopped_in_any_round_and_resumed_every_file_is_that_of_an_uninterrupted_run(
    kind: str, options: dict[str, Any], stops: Sequence[int], base: BaseFolder, tmp_path: Path
) -> None:
    run(base(kind), tmp_path / "whole" / "o", **options)
    whole = content(tmp_path / "whole" / "o")
    for stop in stops:
        output = tmp_path / str(stop) / "o"
        assert run(base(kind), output, **options, **_stop_after(stop)).is_stopped
        assert not run(base(kind), output, **options, resume=True).is_stopped
        found = content(output)
        order = [[event for event in record.pop("run.jsonl") if event["event"] != "x"] for record in (found,)]
        assert found == {name: value for name, value in whole.items() if name != "run.jsonl"}
        assert sorted(map(str, order[0])) == sorted(map(str, whole["run.jsonl"]))


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
@pytest.mark.parametrize("instants", [(12, 60, 110), pytest.param(range(1, 400, 6), marks=pytest.mark.slow)])
def test_killed_at_an_instant_and_resumed_every_file_is_that_of_an_uninterrupted_run(
    instants: Sequence[int], base: BaseFolder, tmp_path: Path
) -> None:
    options = {"train": run, "shared_steps": 2, "store": tmp_path / "all.ia3"}
    assert run_in_child(base("causal"), tmp_path / "whole" / "o", **options) == 0
    whole, packed = content(tmp_path / "whole" / "o"), (tmp_path / "all.ia3").read_bytes()
    for instant in instants:
        output = tmp_path / str(instant) / "o"
        (tmp_path / "all.ia3").unlink(missing_ok=True)
        if run_in_child(base("causal"), output, kill_at=instant, **options) == 0:
            break
        run_in_child(base("causal"), output, resume=(output / "run.jsonl").exists(), **options)
        found = content(output)
        assert sorted(map(str, found.pop("run.jsonl"))) == sorted(map(str, whole["run.jsonl"])), instant
        assert found == {name: value for name, value in whole.items() if name != "run.jsonl"}, instant
        assert (tmp_path / "all.ia3").exists() and len((tmp_path / "all.ia3").read_bytes()) == len(packed)


@pytest.mark.usefixtures("undrawn")
def test_resumed_with_another_task_or_setting_the_difference_is_named(base: BaseFolder, tmp_path: Path) -> None:
    run(base("causal"), tmp_path, **_stop_after(3))
    changed = [TASKS[0] | {"settings": {"learning_rate": 0.01}}, TASKS[1], TASKS[2] | {"name": "post"}]
    told = (
        r"this is another run: task 'mail' is no longer there, task 'post' is new, books: learning_rate was 0\.05 and"
    )
    with pytest.raises(RunError, match=told):
        run(base("causal"), tmp_path, changed, resume=True)
    with pytest.raises(RunError, match='batches was "mixed" and is "apart"'):
        run(base("causal"), tmp_path, resume=True, batches="apart")


# -- a shared stage ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_a_shared_stage_is_in_the_record_and_changes_every_adapter(base: BaseFolder, tmp_path: Path) -> None:
    run(base("causal"), tmp_path / "o", shared_steps=4)
    run(base("causal"), tmp_path / "p")
    events = read(tmp_path / "o")
    shared = [event for event in events if event.get("task") == "shared stage"]
    assert [event["event"] for event in shared] == ["step"] * 4 + ["epoch"] and events[0]["total_steps"] == 31
    assert events[0]["run"]["shared stage"]["max_steps"] == 4
    for name in ("books", "games", "mail"):
        first, other = _vectors(tmp_path / "o" / name), _vectors(tmp_path / "p" / name)
        assert any(not torch.equal(first[site], other[site]) for site in first)
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["books", "games", "mail", "run.jsonl"]


def test_a_shared_stage_of_an_encoder_needs_one_label_set(base: BaseFolder, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="needs one head, and the tasks have 2 different label sets"):
        run(base("encoder"), tmp_path / "o", shared_steps=4)


# -- by a column ------------------------------------------------------------------------------------------------------

BY_PRODUCT = [
    {"text": f"{product} {i} {label}", "label": label, "product": product}
    for i in range(6)
    for product in ("pen", "car")
    for label in ("good", "bad")
] + [
    {"text": "only one label", "label": "good", "product": "tea"},
    {"text": "tea 2", "label": "good", "product": "tea"},
]


@pytest.mark.usefixtures("undrawn")
def test_each_value_of_a_column_is_a_task_with_the_label_set_of_the_whole_table(
    base: BaseFolder, tmp_path: Path
) -> None:
    said: list[str] = []
    result = train_by_column(
        BY_PRODUCT, "product", base("encoder"), tmp_path / "o", say=said.append, eval_fraction=0.0, epochs=1
    )
    assert [task.name for task in result.tasks] == ["pen", "car", "tea"]
    assert {task.labels for task in result.tasks} == {("bad", "good")}
    assert "3 tasks by 'product': 'pen' 12, 'car' 12, 'tea' 2 rows." in said
    (hint,) = [line for line in said if "t-few-small is made for so few rows." in line]
    assert hint.startswith("pen: 12 rows of ") and hint.endswith(" So it is with car, tea.")
    assert json.loads((tmp_path / "o" / "car" / "ia3.json").read_text())["data"]["rows"] == 12


@pytest.mark.usefixtures("undrawn")
def test_a_table_to_evaluate_on_is_split_by_the_same_column(base: BaseFolder, tmp_path: Path) -> None:
    held = [
        {"text": f"x {p}", "label": label, "product": p} for p in ("pen", "car", "tea") for label in ("good", "bad")
    ]
    result = train_by_column(BY_PRODUCT, "product", base("causal"), tmp_path / "o", eval_source=held, epochs=1)
    assert [task.metrics.rows if task.metrics else 0 for task in result.tasks] == [2, 2, 2]
    with pytest.raises(SettingsError, match=r"'cup' is no task of the table.*\n.*task 'tea' has no eval rows"):
        other = [*held[:4], {"text": "x", "label": "good", "product": "cup"}]
        train_by_column(BY_PRODUCT, "product", base("causal"), tmp_path / "p", eval_source=other)


@pytest.mark.parametrize(
    ("column", "rows", "error", "told"),
    [
        ("produkt", BY_PRODUCT, TableError, r"there is no such column\. Did you mean 'product'"),
        ("label", BY_PRODUCT, TableError, "it is the label column. Name another one"),
        (
            "product",
            [*BY_PRODUCT, {"text": "x", "label": "good", "product": " "}],
            TableError,
            "1 rows have nothing there: <rows>:27. Give each a value",
        ),
        (
            "product",
            [*BY_PRODUCT, {"text": "x", "label": "good", "product": "a/b"}],
            SettingsError,
            "<rows>:27: the name 'a/b' cannot be a folder's: it holds '/'",
        ),
    ],
)
def test_a_column_that_cannot_name_tasks_is_an_error(
    column: str, rows: Any, error: type[Exception], told: str, base: BaseFolder, tmp_path: Path
) -> None:
    with pytest.raises(error, match=told):
        train_by_column(rows, column, base("causal"), tmp_path / "o")
