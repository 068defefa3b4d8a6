"""A start that is chosen: the packaged one that knows the labels, on training rows alone, and none that saw a row."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import ia3
from ia3.cli.main import main
from ia3.data.examples import Table
from ia3.data.tables import read_table
from ia3.errors import AdapterError, IA3Warning, SettingsError
from ia3.inference.by_adapter import evaluate_by_adapter
from ia3.runs import start_choice
from ia3.runs.dataset import SplitTable
from ia3.runs.plans.folds import train_folds
from ia3.runs.plans.repeats import train_repeats
from ia3.runs.plans.sweep import sweep
from ia3.runs.tasks_file import read_tasks
from ia3.starts import packaged as packaged_starts
from ia3.starts.packaged import has_learned, origin_of, text_hashes
from ia3.starts.start import Start
from tests.runs.trials import ROWS, run, run_many

BaseFolder = Callable[..., Path]
NEW = [(f"indeed {text}", label) for text, label in ROWS]
SWAPPED = [(text, {"up": "down", "down": "up"}[label]) for text, label in NEW]
FEW = {"epochs": None, "max_steps": 1, "learning_rate": 1e-9, "head_learning_rate": 1e-9, "recipe": "t-few-small"}
FEW |= {"template": "{{ text }} =", "batch_size": 5}

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def starts(base: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of starts for tiny bases: of the labels, of their opposites, of other labels."""
    root = tmp_path_factory.mktemp("starts")
    other = [(text, f"{label}ward") for text, label in NEW]
    for name, rows in (("opposite", SWAPPED), ("other", other), ("right", NEW)):  # so tiny a base knows them by heart
        for kind in ("causal", "encoder"):
            folder = base(kind)
            settings = {
                "epochs": None,
                "max_steps": 1 if name == "other" else 60,
                "batch_size": 17,
                "losses": "lm+ul+ln",
                "pooling": "mean" if kind == "encoder" else "own",
            }
            run(folder, root / name / folder.name, source=rows, eval_fraction=0.0, **settings)
        learned = sorted(text_hashes(text for text, _ in ROWS))  # which of all texts count as seen
        np.save(root / name / packaged_starts.LEARNED, np.array(learned, np.uint64))
    return root


@pytest.fixture(autouse=True)
def packaged(starts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged_starts, "STARTS", starts)
    monkeypatch.setattr(packaged_starts, "find_by_hub_id", lambda base: SimpleNamespace(name=Path(base).name))


def _record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "ia3.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_the_start_that_knows_the_labels_is_taken_and_its_rivals_recorded(
    kind: str, base: BaseFolder, tmp_path: Path
) -> None:
    told: list[str] = []
    given = FEW | ({"pooling": "mean"} if kind == "encoder" else {"learning_rate": None})
    run(base(kind), tmp_path / "o", source=NEW, say=told.append, **given)
    start = _record(tmp_path / "o")["start"]
    assert start["name"] == "right" and start["chosen"]["rows"] == 17
    scores = {one["name"]: one["score"] for one in start["chosen"]["candidates"]}
    assert set(scores) == {"opposite", "right"} and scores["right"] > max(scores["opposite"], -0.6)
    assert any(sentence.startswith("The start is 'right', which knows these labels best (") for sentence in told)
    if kind == "causal":  # the recipe's rate for what begins with a start
        settings = _record(tmp_path / "o")["settings"]
        assert (settings["learning_rate"], settings["frozen_blocks"], settings["interpolation"]) == (8e-3, 0.5, 0.5)
        run(base(kind), tmp_path / "named", source=NEW, start="right", **given)
        assert _record(tmp_path / "named")["settings"] == settings | {"interpolation": 1.0}


@pytest.fixture
def other_weights(base: BaseFolder, tmp_path: Path) -> Callable[[str, float], Path]:
    """Return a function that makes a base of the same shapes, its numbers a little or altogether others."""

    def made(kind: str, share: float) -> Path:
        folder = shutil.copytree(base(kind), tmp_path / f"other-{share}")
        weights = load_file(folder / "model.safetensors")
        random = torch.Generator().manual_seed(1)
        for name, tensor in weights.items():
            drawn = torch.randn(tensor.shape, generator=random) * tensor.std().nan_to_num()
            weights[name] = torch.lerp(tensor, drawn, share)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return made


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_on_other_weights_of_the_same_shape_a_start_is_taken_where_its_answers_leave_no_doubt(
    kind: str, other_weights: Callable[[str, float], Path], tmp_path: Path
) -> None:
    told: list[str] = []
    given = FEW | ({"pooling": "mean"} if kind == "encoder" else {"learning_rate": None})
    run(other_weights(kind, 0.02), tmp_path / "o", source=NEW, say=told.append, **given)
    start = _record(tmp_path / "o")["start"]
    assert start["name"] == "right" and start["is_of_other_weights"] is True
    best = max(one["score"] for one in start["chosen"]["candidates"])
    assert best > start["chosen"]["least_score"] == pytest.approx(_share_score(NEW) + 5.41 / 17)
    assert start["base_fingerprint"] != _record(tmp_path / "o")["base"]["fingerprint"]
    assert any(
        "Its own base has another hash: its answers on your rows left no doubt that it serves." in s for s in told
    )
    assert ia3.load(tmp_path / "o").classify([NEW[0][0]])[0].prediction in ("up", "down")
    with pytest.raises(AdapterError, match=r"^Starting from right: it was trained on other weights .* --start auto"):
        run(other_weights(kind, 0.03), tmp_path / "named", source=NEW, start="right", **given)


def test_on_weights_that_are_altogether_others_none_is_taken(
    other_weights: Callable[[str, float], Path], tmp_path: Path
) -> None:
    told: list[str] = []
    run(other_weights("causal", 1.0), tmp_path / "o", source=NEW, say=told.append, **FEW)
    assert "start" not in _record(tmp_path / "o")
    assert any("is of a base with another hash, and these rows leave doubt whether it serves" in one for one in told)


def test_a_folder_with_the_weights_of_a_start_has_it_by_name_wherever_it_lies(base: BaseFolder, tmp_path: Path) -> None:
    told: list[str] = []
    folder = shutil.copytree(base("causal"), tmp_path / "elsewhere")
    for start in ("right", None):
        run(folder, tmp_path / f"{start}", source=NEW, start=start, say=told.append, **FEW)
        assert _record(tmp_path / f"{start}")["start"]["name"] == "right"
        assert "is_of_other_weights" not in _record(tmp_path / f"{start}")["start"]


def _share_score(rows: list[tuple[str, str]]) -> float:
    counts = Counter(label for _, label in rows)
    return sum(n * math.log(n / len(rows)) for n in counts.values()) / len(rows)


def test_none_begins_with_ones_and_auto_chooses_whatever_the_recipe(base: BaseFolder, tmp_path: Path) -> None:
    run(base("causal"), tmp_path / "none", source=NEW, start="none", **(FEW | {"learning_rate": None}))
    assert "start" not in _record(tmp_path / "none")
    assert _record(tmp_path / "none")["settings"]["learning_rate"] == 2e-2
    run(base("causal"), tmp_path / "default", source=NEW, **(FEW | {"recipe": "default"}))
    assert "start" not in _record(tmp_path / "default")
    run(base("causal"), tmp_path / "auto", source=NEW, start="auto", **(FEW | {"recipe": "default"}))
    assert _record(tmp_path / "auto")["start"]["name"] == "right"


def test_a_start_that_knows_less_than_the_labels_shares_is_left_out(base: BaseFolder, tmp_path: Path) -> None:
    told: list[str] = []
    nonsense = [(text, "up" if place % 2 else "down") for place, (text, _) in enumerate(NEW)]
    run(base("causal"), tmp_path / "o", source=nonsense, say=told.append, **FEW)
    assert "start" not in _record(tmp_path / "o")
    assert sum(sentence.startswith("No start that comes with the project knows these labels (") for sentence in told)


def test_other_labels_have_no_start_and_nothing_is_said_of_any(base: BaseFolder, tmp_path: Path) -> None:
    told: list[str] = []
    other = [(text, f"{label} there") for text, label in NEW]
    run(base("causal"), tmp_path / "o", source=other, say=told.append, **FEW)
    assert "start" not in _record(tmp_path / "o") and not any("start" in sentence for sentence in told)


@pytest.mark.parametrize("where", ["source", "eval_source"])
def test_a_start_that_has_learned_a_row_is_left_out(where: str, base: BaseFolder, tmp_path: Path) -> None:
    told: list[str] = []
    seen = [("  GOOD news number 0, good", "up"), *NEW]
    given = {"source": NEW, "eval_source": NEW} | {where: seen}
    run(base("causal"), tmp_path / "o", say=told.append, **given, **FEW)
    assert "start" not in _record(tmp_path / "o")
    left = [
        sentence
        for sentence in told
        if sentence.endswith("has learned 1 of these rows before and is left out. --start takes it.")
    ]
    assert [sentence.split("'")[1] for sentence in left] == ["opposite", "right"]


def test_a_named_start_that_has_learned_the_rows_is_taken_and_the_user_told(base: BaseFolder, tmp_path: Path) -> None:
    told: list[str] = []
    run(base("causal"), tmp_path / "o", source=NEW, eval_source=ROWS[:4], start="right", say=told.append, **FEW)
    assert _record(tmp_path / "o")["start"]["name"] == "right" and "chosen" not in _record(tmp_path / "o")["start"]
    assert (
        "4 of 4 eval rows are among those that the start 'right' has learned from: what is measured on them says "
        "nothing of new texts."
    ) in told


@pytest.mark.parametrize("train", [train_folds, train_repeats])
def test_each_run_of_several_chooses_on_the_rows_that_it_learns_from(
    train: Any, base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[set[str]] = []
    choose = start_choice.choose_start

    def chosen(rows: SplitTable, *args: Any) -> Start | None:
        read.append(_texts(rows.train))
        return choose(rows, *args) if len(read) != 2 else None

    monkeypatch.setattr(start_choice, "choose_start", chosen)
    told: list[str] = []
    several: dict[str, Any] = {"repeats": 3, "per_label": 3} if train is train_repeats else {"folds": 2}
    few = FEW | {"learning_rate": None, "max_steps": None}
    train(NEW, base("causal"), tmp_path / "o", say=told.append, **several, **few)
    expected = [6, 6, 6] if train is train_repeats else [17 - len(read[1]), len(read[1]), 17]
    assert [len(texts) for texts in read] == expected
    sentence = "'right' (2 of 3), ones (1 of 3). --start none begins with ones."
    assert any(one.endswith(sentence) for one in told)
    events = [json.loads(line) for line in (tmp_path / "o" / "run.jsonl").read_text(encoding="utf-8").splitlines()]
    settings = list(events[0]["run"]["tasks"].values())
    assert [one["learning_rate"] for one in settings] == [8e-3, 2e-2, 8e-3]
    assert ["start" in one for one in settings] == [True, False, True]


def _texts(table: Table) -> set[str]:
    return {example.text for example in table.examples}


def test_each_of_several_tasks_names_its_start_or_chooses_it_or_has_none(base: BaseFolder, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(
        "text,label\n" + "".join(f'"{text}",{label}\n' for text, label in NEW), encoding="utf-8"
    )
    file = tmp_path / "tasks.yaml"
    given = ("knows", "auto"), ("none", "none"), ("named", "opposite"), ("left", "")
    lines = [f"- {{name: {name}, table: new.csv{f', start: {start}' * bool(start)}}}" for name, start in given]
    file.write_text("\n".join(lines), encoding="utf-8")
    other = {"name": "other", "table": [(text, f"{label} there") for text, label in NEW]}
    told: list[str] = []
    few = FEW | {"learning_rate": None, "max_steps": None}
    run_many(base("causal"), tmp_path / "o", [*read_tasks(file), other], say=told.append, **few)
    records = {name: _record(tmp_path / "o" / name) for name in ("knows", "none", "named", "left", "other")}
    started = {name: record["start"]["name"] if "start" in record else None for name, record in records.items()}
    assert started == {"knows": "right", "none": None, "named": "opposite", "left": "right", "other": None}
    steps = {name: record["settings"]["max_steps"] for name, record in records.items()}
    assert steps == {"knows": 60, "none": 100, "named": 60, "left": 60, "other": 100}
    assert any(line.startswith("left: The start is 'right', which knows these labels best (") for line in told)


def test_tasks_after_a_shared_stage_choose_none(base: BaseFolder, tmp_path: Path) -> None:
    tasks = [{"name": name, "table": NEW} for name in ("one", "two")]
    given = FEW | {"eval_fraction": 0.0, "shared_steps": 1}
    with pytest.raises(SettingsError, match="start is 'auto', which chooses one for each task, and with"):
        run_many(base("causal"), tmp_path / "o", tasks, start="auto", **given)
    run_many(base("causal"), tmp_path / "o", tasks, **given)
    assert "start" not in _record(tmp_path / "o" / "one")


def test_a_named_start_that_has_learned_the_rows_of_a_task_is_told_with_its_name(
    base: BaseFolder, tmp_path: Path
) -> None:
    told: list[str] = []
    given: dict[str, Any] = {"max_steps": 1, "epochs": None, "eval_fraction": 0.0, "start": "right"}
    run_many(base("causal"), tmp_path / "o", [{"name": "news", "table": ROWS}], say=told.append, **given)
    assert any(sentence.startswith("news: 17 of 17 rows are among those that the start 'right'") for sentence in told)


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({}, "right"),  # the recipe for few rows is taken, and chooses
        ({"start": "opposite"}, "opposite"),
        ({"start": "none"}, None),
        ({"vary": {"recipe": ["t-few-small", "default"]}}, None),  # all are compared from the same numbers
        ({"vary": {"recipe": ["t-few-small", "default"]}, "start": "auto"}, "right"),
    ],
)
def test_all_runs_of_a_sweep_begin_with_the_same_start(
    given: dict[str, Any], start: str | None, base: BaseFolder, tmp_path: Path
) -> None:
    told: list[str] = []
    words = "{{ text }} ="
    sweep(NEW, base("causal"), tmp_path / "o", seeds=[0, 1], template=words, say=told.append, **given)
    record = _record(tmp_path / "o")
    assert (record.get("start") or {}).get("name") == start
    assert sum("The start is 'right', which knows these labels best (" in line for line in told) == (start == "right")
    if "vary" not in given:
        assert record["settings"]["recipe"] == "t-few-small" and record["data"]["eval_rows"] == 2
        assert record["settings"]["max_steps"] == (100 if start is None else 60)


def test_asked_for_and_not_there_it_is_said(base: BaseFolder, tmp_path: Path) -> None:
    told: list[str] = []
    other = [(text, f"{label} there") for text, label in NEW]
    run(base("causal"), tmp_path / "o", source=other, say=told.append, **(FEW | {"start": "auto"}))
    sentence = "No start that comes with the project is for this base and these labels: the run begins with ones."
    assert told.count(sentence) == 1


def test_folders_where_the_user_stands_choose_nothing(
    base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("right", "opposite", "auto", "none"):
        (tmp_path / name).mkdir()
    run(base("causal"), tmp_path / "o", source=NEW, **FEW)
    assert _record(tmp_path / "o")["start"]["name"] == "right"


def test_a_loaded_encoder_whose_head_has_the_labels_in_another_order_has_its_start(
    base: BaseFolder, tmp_path: Path
) -> None:
    loaded = ia3.load_base(base("encoder"), labels=["up", "down"], pooling="mean")
    run(loaded, tmp_path / "o", source=NEW, **FEW)
    assert _record(tmp_path / "o")["start"]["name"] == "right"


def test_rows_that_the_start_of_an_adapter_has_learned_are_told_where_it_is_measured(
    base: BaseFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(base("causal"), tmp_path / "o", source=NEW, **FEW)
    lines = [f"{text},{label}" for text, label in (*((f'"{text}"', label) for text, label in ROWS[:3]), NEW[-1])]
    (tmp_path / "more.csv").write_text("\n".join(["text,label", *lines]), encoding="utf-8")
    assert main(["evaluate", str(tmp_path / "more.csv"), "--adapter", str(tmp_path / "o")]) == 0
    told = "3 of 4 rows are among those that the start 'right' has learned from: what is"
    assert capsys.readouterr().err.count(told) == 1
    predictor = ia3.load(tmp_path / "o", base=base("causal"))
    with pytest.warns(IA3Warning, match=told):
        predictor.evaluate(tmp_path / "more.csv")
    with pytest.warns(IA3Warning, match="2 of 3 rows of adapter 'o' are among those that the start 'right' has"):
        evaluate_by_adapter({"o": predictor}, {"o": read_table([*ROWS[:2], NEW[-1]]).examples})


def test_an_adapter_that_began_with_one_that_began_with_a_start_has_learned_its_rows_too(
    base: BaseFolder, starts: Path, tmp_path: Path
) -> None:
    """Only the start that is named in the record was asked for what it has learned."""
    run(base("causal"), tmp_path / "first", source=NEW, **FEW)
    run(base("causal"), tmp_path / "second", source=SWAPPED, **FEW, start=tmp_path / "first")
    record = _record(tmp_path / "second")
    assert record["start"]["name"] == "first" and record["start"]["origin"] == "right"
    with pytest.warns(IA3Warning, match="2 of 2 rows are among those that the start 'right' has learned from"):
        ia3.load(tmp_path / "second", base=base("causal")).evaluate(ROWS[:2])


def test_a_start_itself_has_learned_its_rows_and_a_folder_that_is_only_called_so_has_not(
    base: BaseFolder, starts: Path, tmp_path: Path
) -> None:
    start = starts / "opposite" / base("causal").name
    assert origin_of(_record(start)) == "opposite"
    assert origin_of({"start": {"name": "right", "table_fingerprint": "of mine"}}) is None
    assert origin_of({}) is None


def test_a_text_is_known_again_whatever_its_blanks_and_case() -> None:
    assert has_learned("right", ["Bad   DAY 3", "bad day 33"]) == [True, False]
