"""What a run is asked for: every option by its name, and what is none of them is a setting."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

import ia3
from ia3.errors import SettingsError
from ia3.runs.request import Request, RunOptions, SettingOptions, request_of
from ia3.runs.run_base import Placement
from ia3.runs.watch import Watch


def test_editors_know_every_option() -> None:
    options = {*RunOptions.__annotations__} - {*SettingOptions.__annotations__}
    held = {one.name for kind in (Request, Placement, Watch) for one in fields(kind)}
    assert options == held - {"base", "output", "placement", "watch", "settings"}


def test_what_is_no_option_is_a_setting() -> None:
    request = request_of(
        "minilm", "runs/a", {"text": "body", "dtype": "float16", "epochs": 2, "base": 3, "settings": 1}
    )
    assert request.output == Path("runs/a") and request.text == "body" and request.placement == Placement("float16")
    assert request.settings == {"epochs": 2, "base": 3, "settings": 1}


@pytest.mark.parametrize(
    ("train", "option"),
    [(ia3.train_folds, "eval_source"), (ia3.train_folds, "eval_fraction"), (ia3.train_tasks, "eval_source")],
)
def test_what_a_kind_of_run_has_no_use_for_is_refused(train: object, option: str, tmp_path: Path) -> None:
    assert callable(train)
    with pytest.raises(SettingsError, match=f"{option} is not for this kind of run"):
        train([], "minilm", tmp_path / "o", **{option: 0.5})
    with pytest.raises(SettingsError, match="there is no setting 'epoch'"):
        ia3.train([("good", "up"), ("bad", "down")], "minilm", tmp_path / "o", epoch=1)  # type: ignore[call-arg]
    assert not (tmp_path / "o").exists()
