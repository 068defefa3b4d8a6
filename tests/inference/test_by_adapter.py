"""Metrics of a table whose rows are of different adapters: each has those of its rows alone, and all rows together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ia3.adapters.attached import adapter_of, put_on
from ia3.data.examples import Example
from ia3.data.tables import read_table
from ia3.errors import SettingsError, TableError
from ia3.inference.adapter_column import read_answered_rows
from ia3.inference.by_adapter import evaluate_by_adapter, predictors_beside
from ia3.inference.metrics import Metrics
from ia3.inference.predictor import Predictor
from tests.inference.test_mixed import KINDS, RECORDS, TEXTS, give_templates, predictor_of

NAMES = ("mood", "topic", "tone")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("by_adapter")


def rows_of(*names: str, labels: Sequence[str] | None = None) -> dict[str, tuple[Example, ...]]:
    """Return rows for each adapter, one more for each, with its labels in turn."""
    rows = {}
    for place, name in enumerate(names):
        known = labels or RECORDS[name]["labels"]
        pairs = [(text, known[number % len(known)]) for number, text in enumerate(TEXTS[place:])]
        rows[name] = read_table(pairs).examples
    return rows


def check_alone(found: Metrics, predictor: Predictor, rows: Sequence[Example]) -> Metrics:
    """Compare metrics with those that a predictor has for its rows alone, and return these."""
    alone = predictor.evaluate([(row.text, row.label) for row in rows])
    check_same(found, alone)
    return alone


def check_same(found: Metrics, alone: Metrics) -> None:
    assert (found.rows, found.labels, found.confusion) == (alone.rows, alone.labels, alone.confusion)
    assert (found.accuracy, found.macro_f1, found.loss_unit) == (alone.accuracy, alone.macro_f1, alone.loss_unit)
    assert found.loss == pytest.approx(alone.loss, abs=1e-5)
    assert found.calibration_error == pytest.approx(alone.calibration_error, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_adapter_has_the_metrics_of_its_rows_alone_and_all_rows_have_theirs(kind: str, home: Path) -> None:
    predictor = predictor_of(kind, home)
    rows = rows_of(*NAMES)
    told: list[tuple[int, int | None]] = []
    found = evaluate_by_adapter(
        predictors_beside(predictor, NAMES), rows, lambda done, total: told.append((done, total))
    )
    assert list(found.adapters) == list(NAMES) and told[-1] == (15, 15)
    summed = targets = 0.0
    for name, own in found.adapters.items():
        one = predictor.beside(name)
        check_alone(own, one, rows[name])
        count = sum(
            1 if kind == "encoder" else len(e.target_ids) for e in one.asked(rows[name], is_labelled=True)[0].encoded
        )
        summed, targets = summed + count * (own.loss or 0), targets + count
    assert found.overall.rows == 15 and found.overall.loss == pytest.approx(summed / targets)
    right = sum(round((own.accuracy or 0) * own.rows) for own in found.adapters.values())
    assert found.overall.accuracy == pytest.approx(right / 15)
    assert (found.overall.labels, found.overall.confusion, found.overall.macro_f1) == ((), (), None)
    assert (found.overall.perplexity is None) == (kind == "encoder")
    assert sum(b.count for b in found.overall.calibration_bins) == 15
    assert set(found.to_json()["adapters"]) == set(NAMES) and found.to_json()["rows"] == 15


def test_adapters_with_the_same_labels_have_a_confusion_in_common(home: Path) -> None:
    rows = rows_of("mood", "tone")
    found = evaluate_by_adapter(predictors_beside(predictor_of("causal", home), ["mood", "tone"]), rows)
    tables = [own.confusion for own in found.adapters.values()]
    expected = tuple(tuple(a + b for a, b in zip(*lines, strict=True)) for lines in zip(*tables, strict=True))
    assert found.overall.confusion == expected and found.overall.macro_f1 is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_strength_holds_for_every_adapter(kind: str, home: Path) -> None:
    predictor = predictor_of(kind, home)
    rows = rows_of(*NAMES)
    found = evaluate_by_adapter(predictors_beside(predictor, NAMES, 0.0), rows)
    full = evaluate_by_adapter(predictors_beside(predictor, NAMES), rows)
    for name in NAMES:
        own = predictor.beside(name)
        expected = replace(own, strength=0.0) if kind == "encoder" else replace(own, adapter="__base__")
        check_alone(found.adapters[name], expected, rows[name])
        assert found.adapters[name].loss != pytest.approx(full.adapters[name].loss, abs=1e-4)


def test_an_ensemble_averages_over_the_templates_of_each(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = predictor_of("causal", home)
    give_templates(predictor, monkeypatch, calibration={"temperature": 3.0})
    ensemble = replace(predictor.beside("topic"), others=(predictor.encoding,)).beside("mood")
    rows = rows_of("mood", "topic")
    own = predictors_beside(ensemble, ["mood", "topic"])
    assert [len(one.others) for one in own.values()] == [1, 2]
    found = evaluate_by_adapter(own, rows)
    for name, one in own.items():
        alone = check_alone(found.adapters[name], one, rows[name])
        assert found.adapters[name].temperature == alone.temperature == 3.0


def test_rows_with_choices_of_their_own_are_read_and_measured_beside_labels(home: Path, tmp_path: Path) -> None:
    predictor = predictor_of("causal", home)
    record = predictor.attachment.bank.record("mood")
    words = {"prompt": "{{ text }} One of {{ choices }}:", "target": "{{ label }}", "ranking": "mean"}
    own = {"base": record["base"], "template": {**words, "choices_column": "options"}}
    put_on(predictor.base.model, replace(adapter_of(predictor.attachment, "topic"), record=own), "quiz")
    path = tmp_path / "t.csv"
    lines = [
        "text,label,options,who",
        "a,red,red | green,quiz",
        "b,good,,mood",
        "c,f,a b c | d | f,quiz",
        "d,bad,,mood",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    several = predictors_beside(predictor, ["quiz", "mood"])
    rows, table = read_answered_rows(path, "who", several)
    assert len(table.examples) == 4 and rows["quiz"][1].choices == ("a b c", "d", "f")
    found = evaluate_by_adapter(several, rows)
    alone = several["quiz"].evaluate([dict(row.fields) for row in rows["quiz"]])
    check_same(found.adapters["quiz"], alone)
    check_alone(found.adapters["mood"], several["mood"], rows["mood"])
    assert found.overall.rows == 4 and found.overall.accuracy is not None
    path.write_text("\n".join([*lines, "e,blue,red | green,quiz", "f,red,,quiz"]), encoding="utf-8")
    with pytest.raises(TableError, match="2 bad rows of 6") as caught:
        read_answered_rows(path, "who", several)
    assert f"{path}:6, column 'options': its answer 'blue' is not among its choices" in str(caught.value)
    assert f"{path}:7, column 'options': choices are missing" in str(caught.value)
    predictor.attachment.bank.remove("quiz")


def test_free_text_is_measured_by_what_each_adapter_writes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = predictor_of("causal", home)
    predictor.attachment.bank.add("poet", predictor.attachment.bank.vector("mood"))
    own = predictors_beside(predictor, ["writer", "poet"], 0.5)
    rows = rows_of("writer", "poet", labels=["rose", "fell"])
    asked: list[Any] = []

    rose = own["writer"].base.tokenizer("rose", add_special_tokens=False)["input_ids"]

    def write(base: Any, encoded: Sequence[Any], *, adapter: Any, **options: Any) -> list[Any]:
        asked.extend(adapter if isinstance(adapter, list) else [])
        return [rose] * len(encoded)

    monkeypatch.setattr("ia3.inference.answerer.generate_tokens", write)
    found = evaluate_by_adapter(own, rows)
    assert [one.adapter for one in asked] == ["writer"] * 6 + ["poet"] * 5
    assert {one.strength for one in asked} == {0.5}
    assert (found.adapters["writer"].accuracy, found.adapters["poet"].accuracy) == (0.5, 0.6)
    assert found.overall.accuracy == pytest.approx(6 / 11)
    for name, metrics in found.adapters.items():
        check_alone(metrics, own[name], rows[name])
    predictor.attachment.bank.remove("poet")
    with pytest.raises(SettingsError, match="'writer' answers with free text and 'mood' has labels, expected one sort"):
        predictors_beside(predictor, ["mood", "writer"])
