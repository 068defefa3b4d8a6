"""A start: rows that begin with another adapter's numbers, what the record says of it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ia3.adapters.folder import load_adapter
from ia3.errors import AdapterError, RunError, SettingsError
from ia3.runs.plans.folds import train_folds
from ia3.runs.plans.repeats import train_repeats
from ia3.runs.tasks_file import read_tasks
from ia3.starts.start import read_start, read_starts
from tests.runs.trials import ROWS, TASKS, read, run, run_many, stop_after

BaseFolder = Callable[..., Path]
OTHER = [(text, {"up": "good", "down": "bad"}[label]) for text, label in ROWS]
STILL: dict[str, Any] = {  # stays where it is
    "max_steps": 1, "learning_rate": 1e-9, "head_learning_rate": 1e-9, "fit_head": False, "eval_fraction": 0.0,
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def source(base: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of an adapter of a kind of base, trained once."""
    made: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("source") / kind
            run(base(kind), made[kind], max_steps=3, eval_fraction=0.0)
        return made[kind]

    return folder_of


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "ia3.json").read_text(encoding="utf-8"))
    return record


def _distance(one: Path, other: Path, *, head: bool = False) -> float:
    first, second = (load_adapter(folder) for folder in (one, other))
    left, right = (first.head, second.head) if head else (first.vectors, second.vectors)
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_the_row_and_its_head_begin_with_the_starts_numbers(
    kind: str, source: Callable[[str], Path], base: BaseFolder, tmp_path: Path
) -> None:
    told: list[str] = []
    run(base(kind), tmp_path / "o", start=source(kind), say=told.append, **STILL)
    assert _distance(tmp_path / "o", source(kind)) < 1e-6 < _distance_from_ones(source(kind))
    expected = f"The vectors start from '{kind}', trained on 17 rows"
    assert f"{expected}{'; the head as well' if kind == 'encoder' else ''}." in told
    if kind == "encoder":
        assert _distance(tmp_path / "o", source(kind), head=True) < 1e-6


def _distance_from_ones(folder: Path) -> float:
    return max(float((vector - 1).abs().max()) for vector in load_adapter(folder).vectors.values())


def test_a_head_of_other_labels_is_drawn_anew_and_the_user_told(
    source: Callable[[str], Path], base: BaseFolder, tmp_path: Path
) -> None:
    told: list[str] = []
    start = source("encoder")
    run(base("encoder"), tmp_path / "o", start=start, say=told.append, source=OTHER, **STILL)
    run(base("encoder"), tmp_path / "fresh", source=OTHER, **STILL)
    assert "the head is drawn anew, since its labels are 'down', 'up' and here 'bad', 'good'." in " ".join(told)
    assert _distance(tmp_path / "o", start) < 1e-6
    assert _distance(tmp_path / "o", tmp_path / "fresh", head=True) < 1e-6


def test_the_record_has_the_starts_identity_in_place_of_ones(
    source: Callable[[str], Path], base: BaseFolder, tmp_path: Path
) -> None:
    start = source("causal")
    run(base("causal"), tmp_path / "o", start=start, recipe="t-few-small", **STILL)
    record, own = _record(tmp_path / "o"), _record(start)
    assert record["start"] == {
        "name": "causal",
        "vectors": read_start(start).digest,
        "table": "rows",
        "table_fingerprint": own["data"]["fingerprint"],
        "base_fingerprint": own["base"]["fingerprint"],
        "labels": ["down", "up"],
    }
    assert "start" not in {one["setting"] for one in record["differs_from_paper"]}


def test_a_resumed_run_has_the_same_start_or_is_refused(
    source: Callable[[str], Path], base: BaseFolder, tmp_path: Path
) -> None:
    start = source("causal")
    run(base("causal"), tmp_path / "whole", start=start)
    run(base("causal"), tmp_path / "o", start=start, **stop_after(4))
    with pytest.raises(RunError, match=r"this is another run: start was .* and is null"):
        run(base("causal"), tmp_path / "o", resume=True)
    run(base("causal"), tmp_path / "o", start=start, resume=True)
    assert _distance(tmp_path / "o", tmp_path / "whole") == 0


def test_an_adapter_of_another_base_is_refused_by_its_hash_and_nothing_is_written(
    source: Callable[[str], Path], base: BaseFolder, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in source("causal").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    record = _record(other)
    record["base"]["fingerprint"] = "0" * 64
    (other / "ia3.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(
        AdapterError, match=r"Starting from .*other: .*it was trained on base .*fingerprint 000000000000"
    ):
        run(base("causal"), tmp_path / "o", start=other)
    assert not (tmp_path / "o").exists()


def test_a_run_that_is_replaced_is_still_there_when_the_start_is_refused_or_is_itself(
    source: Callable[[str], Path], base: BaseFolder, tmp_path: Path
) -> None:
    folder = tmp_path / "o"
    run(base("causal"), folder, max_steps=2, eval_fraction=0.0)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(AdapterError, match="Starting from"):
        run(base("causal"), folder, start=source("encoder"), overwrite=True)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    was = load_adapter(folder).vectors
    run(base("causal"), folder, start=folder, overwrite=True, **STILL)
    found = load_adapter(folder).vectors
    assert all(float((found[name] - was[name]).abs().max()) < 1e-6 for name in was)


def test_a_folder_without_a_record_is_taken_and_the_user_told_that_no_hash_was_compared(
    source: Callable[[str], Path], base: BaseFolder, tmp_path: Path
) -> None:
    told: list[str] = []
    plain = tmp_path / "peft"
    plain.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (plain / name).write_bytes((source("causal") / name).read_bytes())
    run(base("causal"), tmp_path / "o", start=plain, say=told.append, **STILL)
    assert "The vectors start from 'peft'. Its record has no hash of its base: shapes were compared." in told
    assert _distance(tmp_path / "o", source("causal")) < 1e-6


def test_every_folder_without_an_adapter_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(AdapterError) as caught:
        read_starts([tmp_path / "a", None, tmp_path / "b", tmp_path / "a"])
    assert str(caught.value).startswith("Reading the starts: 2 faults.\nStarting from ")
    assert str(tmp_path / "b") in str(caught.value)


# -- several tasks ----------------------------------------------------------------------------------------------------


def test_tasks_begin_with_the_runs_start_or_with_their_own(
    source: Callable[[str], Path], base: BaseFolder, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    run(base("causal"), own, max_steps=2, learning_rate=0.2, eval_fraction=0.0)
    tasks = [TASKS[0], {"name": "games", "table": TASKS[1]["table"], "start": own}]
    run_many(base("causal"), tmp_path / "o", tasks, start=source("causal"), **STILL)
    assert _distance(tmp_path / "o" / "books", source("causal")) < 1e-6
    assert _distance(tmp_path / "o" / "games", own) < 1e-6
    assert _record(tmp_path / "o" / "games")["start"]["name"] == "own"
    tasks_of_run = read(tmp_path / "o")[0]["run"]["tasks"]
    assert tasks_of_run["books"]["start"] == read_start(source("causal")).digest != tasks_of_run["games"]["start"]


def test_a_recipe_has_its_own_rate_for_what_begins_with_a_start(
    source: Callable[[str], Path], base: BaseFolder, tmp_path: Path
) -> None:
    few = {"recipe": "t-few-small", "learning_rate": None, "max_steps": 1, "eval_fraction": 0.0}
    tasks = [TASKS[0], {"name": "games", "table": TASKS[1]["table"], "start": source("causal")}]
    run_many(base("causal"), tmp_path / "o", tasks, **few)
    run(base("causal"), tmp_path / "one", start=source("causal"), **few)
    folders = (tmp_path / "o" / "books", tmp_path / "o" / "games", tmp_path / "one")
    assert [_record(folder)["settings"]["learning_rate"] for folder in folders] == [2e-2, 8e-3, 8e-3]


def test_a_shared_stage_begins_with_the_start_and_a_task_cannot_have_another(
    source: Callable[[str], Path], base: BaseFolder, tmp_path: Path
) -> None:
    tasks = TASKS[:1]
    run_many(base("causal"), tmp_path / "o", tasks, start=source("causal"), shared_steps=1, **STILL)
    assert _distance(tmp_path / "o" / "books", source("causal")) < 1e-6
    with pytest.raises(SettingsError, match="'books' has a start of its own, and with --shared-steps"):
        run_many(base("causal"), tmp_path / "p", [{**tasks[0], "start": "x"}], shared_steps=1)


def test_a_task_file_names_a_start_from_its_own_folder(source: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\nc,d\n", encoding="utf-8")
    (tmp_path / "begin").mkdir()
    (tmp_path / "tasks.yaml").write_text("- {name: x, table: rows.csv, start: begin}\n", encoding="utf-8")
    assert read_tasks(tmp_path / "tasks.yaml")[0].start == tmp_path / "begin"
    (tmp_path / "tasks.yaml").write_text("- {name: x, table: rows.csv, start: [begin]}\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"start is \['begin'\], expected the folder of an adapter"):
        read_tasks(tmp_path / "tasks.yaml")


@pytest.mark.parametrize("train", [train_repeats, train_folds])
def test_every_run_of_several_begins_with_the_start(
    train: Any, source: Callable[[str], Path], base: BaseFolder, tmp_path: Path
) -> None:
    told: list[str] = []
    several = {"repeats": 2, "per_label": 3} if train is train_repeats else {"folds": 2}
    still = {name: value for name, value in STILL.items() if name != "eval_fraction"}
    train(ROWS, base("causal"), tmp_path / "o", start=source("causal"), say=told.append, **several, **still)
    assert _distance(tmp_path / "o", source("causal")) < 1e-6
    assert _record(tmp_path / "o")["start"]["name"] == "causal"
    assert sum(sentence.startswith("The vectors start from") for sentence in told) == 1


# -- its words --------------------------------------------------------------------------------------------------------

WORDS = {"prompt": "Said: {{ text }}\nIt went", "target": "{{ label }}"}


@pytest.fixture(scope="module")
def worded(base: BaseFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an adapter that was trained in words of its own."""
    folder = tmp_path_factory.mktemp("worded") / "start"
    run(base("causal"), folder, max_steps=1, eval_fraction=0.0, template=" ||| ".join(WORDS.values()))
    return folder


def _words(folder: Path) -> dict[str, str]:
    template = _record(folder)["template"]
    return {part: template[part] for part in WORDS}


def test_a_run_without_a_template_has_the_words_of_its_start(worded: Path, base: BaseFolder, tmp_path: Path) -> None:
    told: list[str] = []
    run(base("causal"), tmp_path / "o", start=worded, say=told.append, **STILL)
    assert _words(tmp_path / "o") == WORDS
    sentence = r"The words are those of the start: 'Said: {{ text }}\nIt went'. --template has the last word."
    assert told.count(sentence) == 1
    run(base("causal"), tmp_path / "p", start=worded, template="{{ text }} =", **STILL)
    assert _words(tmp_path / "p")["prompt"] == "{{ text }} ="


@pytest.mark.parametrize("rows", [OTHER, [(text, "up") for text, _ in ROWS] + [("Level.", "flat")] * 4])
def test_a_start_of_other_labels_gives_no_words(
    rows: list[tuple[str, str]], worded: Path, base: BaseFolder, tmp_path: Path
) -> None:
    run(base("causal"), tmp_path / "o", start=worded, source=rows, **STILL)
    assert _words(tmp_path / "o")["prompt"] == "{{ text }}\nlabel:"


def test_words_that_need_another_column_are_left_where_they_are(base: BaseFolder, tmp_path: Path) -> None:
    titled = [{"text": text, "label": label, "title": "News"} for text, label in ROWS]
    template = "{{ title }}: {{ text }}"
    run(base("causal"), tmp_path / "s", source=titled, template=template, **STILL)
    run(base("causal"), tmp_path / "with", source=titled, start=tmp_path / "s", **STILL)
    run(base("causal"), tmp_path / "without", start=tmp_path / "s", **STILL)
    assert [_words(tmp_path / name)["prompt"] for name in ("with", "without")] == [template, "{{ text }}\nlabel:"]


def test_tasks_have_the_words_of_their_starts(worded: Path, base: BaseFolder, tmp_path: Path) -> None:
    own = {"name": "own", "table": ROWS, "template": "{{ text }} ="}
    run_many(base("causal"), tmp_path / "o", [{"name": "bare", "table": ROWS}, own, TASKS[0]], start=worded, **STILL)
    assert _words(tmp_path / "o" / "bare") == WORDS
    prompts = [_words(tmp_path / "o" / name)["prompt"] for name in ("own", "books")]
    assert prompts == ["{{ text }} =", "{{ text }}\nlabel:"]  # its own; and labels that are not the start's


@pytest.mark.parametrize("train", [train_repeats, train_folds])
def test_every_run_of_several_has_the_words_of_the_start(
    train: Any, worded: Path, base: BaseFolder, tmp_path: Path
) -> None:
    told: list[str] = []
    several = {"repeats": 2, "per_label": 3} if train is train_repeats else {"folds": 2}
    still = {name: value for name, value in STILL.items() if name != "eval_fraction"}
    train(ROWS, base("causal"), tmp_path / "o", start=worded, say=told.append, **several, **still)
    assert _words(tmp_path / "o") == WORDS
    assert sum(sentence.startswith("The words are those of the start") for sentence in told) == 1
