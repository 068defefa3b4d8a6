"""The search for a template: what is kept, what it cost, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ia3.bases.loading import Base, load_base
from ia3.data.examples import choose_examples
from ia3.data.tables import read_table
from ia3.errors import SettingsError, TemplateError
from ia3.inference import template_search
from ia3.inference.asking import score_asked
from ia3.inference.template_search import search_template
from ia3.inference.zero_shot import load_zero_shot
from ia3.runs.plans.one import train_adapter
from tests.models import save_tiny_base
from tests.runs.trials import draw_nothing

ROWS = [(f"{what} in week {week}", label) for week in range(9) for what, label in (("gains", "Up"), ("losses", "Down"))]
LABELS = ("Down", "Up")


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Base]:
    home = tmp_path_factory.mktemp("bases")

    def load(kind: Any) -> Base:
        folder = home / kind
        return load_base(
            folder if folder.exists() else save_tiny_base(folder, kind),
            kind=kind,
            device="cpu",
            dtype="float32",
            say=lambda line: None,
        )

    return load


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_the_best_of_all_is_kept_and_scored_as_a_base_alone_scores_it(kind: Any, base_of: Any) -> None:
    base, table = base_of(kind), read_table(ROWS)

    found = search_template(base, table, LABELS, "sum", seed=0)

    usual = kind == "seq2seq"  # whose own prompt is the text alone
    assert len(found.candidates) == 12 + 1 + usual and found.rows == len(
        ROWS
    )  # lower-case words; the first word is the same
    best = max(found.candidates, key=lambda one: one.score)
    assert found.template == best.template and 0 <= found.cross_validated <= 1
    told = found.to_json()["candidates"]
    assert told[0]["prompt"] == best.template.prompt and told[0]["score"] == best.score
    metrics = load_zero_shot(base, table, template=found.template).evaluate(table, is_calibrated=True)
    assert metrics.accuracy == best.accuracy
    assert found == search_template(base, table, LABELS, "sum", seed=0)


def test_the_rows_that_are_read_are_bounded_and_of_all_labels(base_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_search, "MOST_ROWS", 5)
    seen: list[list[str]] = []

    def shares(base: Any, table: Any, labels: Any, template: Any, ranking: Any, examples: Any, known: Any) -> Any:
        seen.append([example.label for example in examples])
        return np.full((len(examples), 2), 0.5)

    monkeypatch.setattr(template_search, "_shares", shares)
    found = search_template(base_of("causal"), read_table(ROWS), LABELS, "sum", seed=1)

    assert seen == [["Down", "Up", "Down", "Up", "Down"]] * 13
    assert found.template == found.candidates[0].template  # of equal ones the first


def test_what_one_search_has_read_a_further_one_of_the_table_reads_no_more(
    base_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, table, known = base_of("causal"), read_table(ROWS), {}  # type: ignore[var-annotated]
    part, other = choose_examples(table, range(12)), choose_examples(table, range(6, 18))
    search_template(base, part, LABELS, "sum", seed=0, known=known)
    alone = search_template(base, other, LABELS, "sum", seed=0)
    read: list[int] = []

    def counted(base: Base, parts: Any) -> Any:
        read.append(len(parts[0].encoded))
        return score_asked(base, parts)

    monkeypatch.setattr(template_search, "score_asked", counted)
    found = search_template(base, other, LABELS, "sum", seed=0, known=known)
    assert set(read[:12]) == {6}  # and no text without content again
    assert found.template == alone.template and found.cross_validated == alone.cross_validated
    assert [one.score for one in found.candidates] == pytest.approx([one.score for one in alone.candidates], abs=1e-5)


def test_rows_of_one_line_are_scored_each_by_itself(base_of: Any, tmp_path: Path) -> None:
    rows = [{"text": text, "label": label} for text, label in ROWS]
    scores = []
    for name, indent in (("line.json", None), ("lines.json", 1)):
        (tmp_path / name).write_text(json.dumps(rows, indent=indent), encoding="utf-8")
        found = search_template(base_of("causal"), read_table(tmp_path / name), LABELS, "sum", seed=0)
        scores.append([(one.score, one.accuracy) for one in found.candidates])
    assert scores[0] == scores[1]


def test_what_is_chosen_on_other_rows_is_what_cross_validation_measures() -> None:
    good, bad = np.array([[0.9, 0.1], [0.1, 0.9]] * 4), np.array([[0.1, 0.9], [0.9, 0.1]] * 4)
    gold = np.array([0, 1] * 4)

    assert template_search._cross_validated({"bad": bad, "good": good}, gold) == 1.0  # type: ignore[dict-item]
    half = np.vstack([good[:4], bad[4:]])  # right on the first half; another on the second
    other = np.vstack([bad[:4], good[4:] * 0.8 + 0.1])
    assert template_search._cross_validated({"a": half, "b": other}, gold) < 1  # type: ignore[dict-item]


def test_a_run_records_the_search(base_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)
    told: list[str] = []

    train_adapter(ROWS, base_of("causal"), tmp_path / "o", template="auto", max_steps=1, say=told.append)

    record = json.loads((tmp_path / "o" / "ia3.json").read_text(encoding="utf-8"))
    best = record["template_search"]["candidates"][0]
    assert record["template"]["prompt"] == best["prompt"] and record["template_search"]["rows"] == 16
    assert any(line.startswith("Comparing 12 prompts on 16 training rows.") for line in told)
    start = json.loads((tmp_path / "o" / "run.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert any(note.startswith("Of 13 templates the base understands this one best") for note in start["notes"])


def test_what_cannot_be_searched_is_told(base_of: Any, tmp_path: Path) -> None:
    table = read_table(ROWS)
    with pytest.raises(SettingsError, match="is an encoder, whose head has learned nothing yet"):
        search_template(base_of("encoder"), table, LABELS, "sum", seed=0)
    with pytest.raises(
        SettingsError, match=r"the answers are free text, expected one label set\. Give one: --template"
    ):
        search_template(base_of("causal"), table, (), "sum", seed=0)
    with pytest.raises(TemplateError, match="'auto' searches one on rows that a run learns from, and stands alone"):
        train_adapter(ROWS, base_of("causal"), tmp_path / "o", template=["auto", "{{ text }}"])
