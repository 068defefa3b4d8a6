"""A run with several templates: what is recorded, and what an ensemble of them predicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ia3
from ia3.cli.main import main
from ia3.data.tables import read_table
from ia3.data.templates import Template
from ia3.errors import SettingsError, TemplateError
from tests.runs.trials import ROWS, draw_nothing, run

TEMPLATES = ["{{ text }}\\nMood:", "News: {{ text }} It goes ||| {{ label }}ward", "{{ text }} ("]
TEXTS = ["good news", "a bad day", "x"]
CELLS = "\n".join(["text,label", *(f'"{text}",{label}' for text, label in ROWS)])


def _quietly(line: str) -> None:
    """Take a line of talk."""


@pytest.fixture(scope="module")
def folder(base: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patched:
        draw_nothing(patched)
        run(base("causal"), home / "o", template=TEMPLATES, losses="lm+ul+ln", recipe="t-few-small", max_steps=4)
    return home / "o"


def _record(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "ia3.json").read_text(encoding="utf-8"))
    return record


def _log_probabilities(predictor: Any) -> np.ndarray[Any, Any]:
    return np.log([list(found.probabilities.values()) for found in predictor.classify(TEXTS)])


def test_all_templates_stand_in_the_record(folder: Path) -> None:
    words = _record(folder)["template"]

    assert words["prompt"] == "{{ text }}\nMood:" and words["ranking"] == "mean"
    assert words["others"] == [
        Template("News: {{ text }} It goes", "{{ label }}ward").to_json(),
        Template("{{ text }} (").to_json(),
    ]
    assert "templates" not in {one["setting"] for one in _record(folder)["differs_from_paper"]}
    start = json.loads((folder / "run.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert start["run"]["further templates"] == words["others"]
    assert any("One of 3 templates is drawn for each row in each epoch" in note for note in start["notes"])


def test_an_ensemble_averages_the_log_probabilities_of_all_templates(folder: Path) -> None:
    first = ia3.load(folder, device="cpu", say=_quietly)
    base = first.base
    ensemble = ia3.load(folder, base=base, name="all", ensemble=True, say=_quietly)
    alone = []
    for encoding in (ensemble.encoding, *ensemble.others):
        alone.append(_log_probabilities(replace(ensemble, encoding=encoding, others=())))
    mean = np.mean(alone, axis=0)

    assert np.allclose(_log_probabilities(first), alone[0], atol=1e-5)
    found = _log_probabilities(ensemble)
    assert np.allclose(found, mean - np.log(np.exp(mean).sum(axis=1, keepdims=True)), atol=1e-5)
    assert not np.allclose(found, alone[0], atol=1e-3)
    table = read_table(ROWS)
    metrics = ensemble.evaluate(table)
    right = [p.prediction == e.label for p, e in zip(ensemble.classify(table.examples), table.examples, strict=True)]
    assert metrics.accuracy == sum(right) / len(right) and metrics.rows == len(ROWS)
    mixed = np.log([list(found.probabilities.values()) for found in ensemble.classify(TEXTS, adapters=["all"] * 3)])
    assert np.allclose(mixed, found, atol=1e-5)


def test_the_command_line_takes_several_and_asks_for_the_ensemble(
    folder: Path, base: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.csv"
    table.write_text(CELLS, encoding="utf-8")
    assert main(["evaluate", str(table), "--adapter", str(folder), "--ensemble", "--json"]) == 0
    ensemble = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(table), "--adapter", str(folder), "--json"]) == 0
    assert ensemble["loss"] != json.loads(capsys.readouterr().out)["loss"]
    assert main(["evaluate", str(table), "--base", str(base("causal")), "--ensemble"]) == 2
    assert "--ensemble is for an adapter with several templates" in capsys.readouterr().err
    (tmp_path / "t.yaml").write_text("- '{{ text }} !'\n", encoding="utf-8")
    command = ["train", str(table), "--base", str(base("causal")), "--output", str(tmp_path / "o"), "--max-steps", "1"]
    assert main([*command, "--template", "{{ text }}:", "--templates", str(tmp_path / "t.yaml")]) == 0
    words = _record(tmp_path / "o")["template"]
    assert [words["prompt"], *(other["prompt"] for other in words["others"])] == ["{{ text }}:", "{{ text }} !"]


def test_one_template_is_no_ensemble(base: Callable[..., Path], tmp_path: Path, undrawn: None) -> None:
    run(base("causal"), tmp_path / "o", epochs=1)
    with pytest.raises(SettingsError, match=r"over several templates, and its record has one template.*--ensemble"):
        ia3.load(tmp_path / "o", ensemble=True, device="cpu", say=_quietly)


def test_each_template_is_checked_against_the_table(base: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="the prompt has the placeholder 'body'"):
        run(base("causal"), tmp_path / "o", template=["{{ text }}", "{{ body }}{{ text }}"])


def test_the_model_card_shows_all_templates(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")

    assert "{{ text }}\nMood:" in card and "News: {{ text }} It goes" in card and "{{ text }} (" in card
