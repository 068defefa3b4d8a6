"""Few rows: the recipe that is made for them is taken where the user left it open, and told where not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ia3
from ia3.runs.few_rows import with_recipe
from ia3.runs.folds import train_folds
from ia3.runs.many_run import train_tasks
from ia3.runs.repeat import train_repeats
from ia3.runs.training_run import train_adapter
from ia3.training.settings import Settings, settings_for
from tests.runs.trials import ROWS

BaseFolder = Callable[..., Path]
TAKEN = (
    "17 rows of 2 labels are few: the settings are those of --recipe t-few-small ({} steps); --recipe default has the"
)
FREE = [(f"item {i}", f"its name is {i}") for i in range(12)]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run.draw_curves", "run.draw_confusion", "run.draw_reliability", "repeat.draw_repeats"):
        monkeypatch.setattr(f"ia3.runs.{name}", lambda *args: None)
    for name in ("many_run", "folds"):
        monkeypatch.setattr(f"ia3.runs.{name}.draw_tasks", lambda *args: None)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """End every training after two steps, whatever its settings say."""
    monkeypatch.setattr(Settings, "total_steps", lambda self, examples: 2)


def record_of(folder: Path) -> Any:
    return json.loads((folder / "ia3.json").read_text(encoding="utf-8"))


def learned_by(base: Any, kind: str, given: dict[str, Any], counts: tuple[int, ...] = (17,)) -> dict[str, Any]:
    """Return the settings that runs on tables of two labels have."""
    from ia3.runs.dataset import read_rows

    rows = read_rows(ROWS, eval_fraction=None)
    return with_recipe(given, base, kind, [(rows, count) for count in counts], lambda sentence: None)  # type: ignore[arg-type]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_run_on_few_rows_has_the_recipe_for_them_and_says_so(kind: str, base: BaseFolder, tmp_path: Path) -> None:
    said: list[str] = []
    train_adapter(ROWS, base(kind), tmp_path / "left", say=said.append, seed=3)
    assert sum(line.startswith(TAKEN.format(100)) for line in said) == 1
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
    assert not any("few:" in line or "so few rows" in line for line in said)
    train_adapter(ROWS, base("causal"), tmp_path / "epochs", epochs=1, say=said.append)
    assert record_of(tmp_path / "epochs")["settings"] == settings_for("causal", epochs=1).to_json()
    assert sum("--recipe t-few-small is made for so few rows." in line for line in said) == 1


def test_it_is_for_few_rows_of_a_small_base(base: BaseFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = base("causal")
    assert learned_by(folder, "causal", {"seed": 3, "losses": None}) == {
        "seed": 3,
        "losses": None,
        "recipe": "t-few-small",
    }
    assert learned_by(folder, "causal", {}, (64,)) == {"recipe": "t-few-small"}
    assert learned_by(folder, "causal", {}, (65,)) == learned_by(folder, "causal", {}, (17, 65)) == {}
    assert learned_by(folder, "causal", {"learning_rate": 1e-2}) == {"learning_rate": 1e-2}
    assert learned_by(folder, "encoder", {"head_learning_rate": 1e-2}) == {"head_learning_rate": 1e-2}
    loaded = ia3.load_base(folder, dtype="float32", device="cpu")
    size = sum(parameter.numel() for parameter in loaded.model.parameters())
    for most, taken in ((size, {}), (size + 1, {"recipe": "t-few-small"})):
        monkeypatch.setattr("ia3.training.recipes.SMALL", most)
        assert learned_by(folder, "causal", {}) == learned_by(loaded, "causal", {}) == taken


@pytest.mark.usefixtures("undrawn")
def test_a_start_has_the_settings_for_a_start(base: BaseFolder, tmp_path: Path) -> None:
    said: list[str] = []
    train_adapter(ROWS, base("causal"), tmp_path / "start", max_steps=1)
    train_adapter(ROWS, base("causal"), tmp_path / "o", start=tmp_path / "start", say=said.append)
    expected = settings_for("causal", recipe="t-few-small", has_start=True).to_json()
    assert record_of(tmp_path / "o")["settings"] == expected and expected["max_steps"] == 60
    assert sum(line.startswith(TAKEN.format(60)) for line in said) == 1


@pytest.mark.usefixtures("undrawn", "short")
def test_folds_and_repeats_have_it_too(base: BaseFolder, tmp_path: Path) -> None:
    said: list[str] = []
    train_folds(ROWS, base("encoder"), tmp_path / "folds", folds=2, say=said.append)
    assert record_of(tmp_path / "folds")["settings"]["recipe"] == "t-few-small"
    assert sum(line.startswith(TAKEN.format(2)) for line in said) == 1
    many = [(f"{text} {number}", label) for number in range(5) for text, label in ROWS]
    given: dict[str, Any] = {"repeats": 2, "say": said.append}
    train_repeats(many, base("encoder"), tmp_path / "drawn", per_label=4, **given)
    assert record_of(tmp_path / "drawn")["settings"]["recipe"] == "t-few-small"
    assert any(line.startswith("8 rows of 2 labels are few") for line in said)
    train_repeats(many, base("encoder"), tmp_path / "all", eval_fraction=0.2, **given)  # 68 to learn from
    assert record_of(tmp_path / "all")["settings"]["recipe"] == "default"


@pytest.mark.usefixtures("undrawn", "short")
def test_several_tasks_have_it_where_all_are_small(base: BaseFolder, tmp_path: Path) -> None:
    said: list[str] = []
    few: list[dict[str, Any]] = [{"name": name, "table": ROWS} for name in ("one", "two")]
    train_tasks(few, base("encoder"), tmp_path / "few", say=said.append)
    records = [record_of(tmp_path / "few" / name) for name in ("one", "two")]
    assert [record["settings"]["recipe"] for record in records] == ["t-few-small"] * 2
    assert [record["data"]["eval_rows"] for record in records] == [0, 0]
    told = "17 rows of 2 labels, and those of 1 other task, are few: the settings are those of --recipe t-few-small"
    assert sum(line.startswith(told) for line in said) == 1
    many = [(f"{text} {number}", label) for number in range(5) for text, label in ROWS]
    train_tasks([*few, {"name": "many", "table": many}], base("encoder"), tmp_path / "mixed", say=said.append)
    assert record_of(tmp_path / "mixed" / "one")["settings"]["recipe"] == "default"
    assert sum("so few rows. So it is with two." in line for line in said) == 1
    own = [few[0], {**few[1], "settings": {"max_steps": 2}}]
    train_tasks(own, base("encoder"), tmp_path / "own")
    assert record_of(tmp_path / "own" / "one")["settings"]["recipe"] == "default"


@pytest.mark.usefixtures("undrawn", "short")
def test_free_text_is_no_case_for_it(base: BaseFolder, tmp_path: Path) -> None:
    train_adapter(FREE, base("causal"), tmp_path / "o", answers="text")
    assert record_of(tmp_path / "o")["settings"]["recipe"] == "default"
