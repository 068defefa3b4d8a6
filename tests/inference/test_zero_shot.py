"""A base without an adapter: it scores what an adapter of ones scores, and says what it cannot do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ia3
from ia3.bases.loading import Base, load_base
from ia3.data.tables import read_table
from ia3.errors import SettingsError, TemplateError
from ia3.inference.asking import score_encoded
from ia3.inference.scoring import score_choices
from ia3.inference.template_search import search_template
from ia3.inference.zero_shot import load_zero_shot
from tests.models import save_tiny_base

ROWS = [(f"{what} in week {week}", label) for week in range(4) for what, label in (("gains", "up"), ("losses", "down"))]
LANGUAGE = pytest.mark.parametrize("kind", ["causal", "seq2seq"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def _base(folder: Path, kind: Any) -> Base:
    place = folder / kind if (folder / kind).exists() else save_tiny_base(folder / kind, kind)
    return load_base(place, kind=kind, dtype="float32", device="cpu", say=lambda line: None)


@LANGUAGE
def test_adapters_that_are_on_the_base_have_no_say(kind: str, folder: Path) -> None:
    base, table = _base(folder, kind), read_table(ROWS)
    expected = load_zero_shot(base, table).evaluate(table)
    found = search_template(base, table, ("down", "up"), "sum", seed=0)
    attachment = ia3.attach(base.model)
    for name in ("default", "other"):  # one, which a pass without rows would run, and two, which it would refuse
        if name not in attachment.bank.names:
            attachment.add(name)
        attachment.bank.set_vector(name, 20 * attachment.bank.vector(name))
        assert load_zero_shot(base, table).evaluate(table) == expected
        assert search_template(base, table, ("down", "up"), "sum", seed=0) == found
    attachment.bank.remove("other")
    encoded = list(load_zero_shot(base, table).encoding.encode(table.examples))
    choices = load_zero_shot(base, table).encoding.choice_ids
    scores = [score_encoded(base, encoded, choices, name) for name in ("default", "__base__")]
    assert not np.array_equal(*scores)  # it would have had one


@LANGUAGE
def test_the_metrics_are_those_of_the_choices_scores(kind: str, folder: Path) -> None:
    base, table = _base(folder, kind), read_table(ROWS)
    zero_shot = load_zero_shot(base, table)
    metrics = zero_shot.evaluate(table)
    encoded = list(zero_shot.encoding.encode(table.examples))
    scores = score_choices(base, encoded, zero_shot.encoding.choice_ids).numpy()
    gold = np.array([e.choice for e in encoded])
    assert metrics.labels == ("down", "up") and metrics.rows == len(ROWS)
    assert metrics.accuracy == pytest.approx((scores.argmax(axis=1) == gold).mean())
    tokens = sum(len(e.target_ids) for e in encoded)
    assert metrics.loss == pytest.approx(-scores[np.arange(len(gold)), gold].sum() / tokens, rel=1e-5)


@LANGUAGE
def test_calibration_changes_probabilities_and_not_the_loss(kind: str, folder: Path) -> None:
    base, table = _base(folder, kind), read_table(ROWS)
    zero_shot = load_zero_shot(base, table, template="Week: {{ text }} Trend: ||| {{ label }}")
    plain, calibrated = zero_shot.evaluate(table), zero_shot.evaluate(table, is_calibrated=True)
    assert plain.loss == calibrated.loss
    assert plain.calibration_error != calibrated.calibration_error


@LANGUAGE
def test_a_base_alone_answers_as_an_adapter_of_ones_does(kind: str, folder: Path) -> None:
    base, table, texts = _base(folder, kind), read_table(ROWS), [text for text, _ in ROWS]
    alone = load_zero_shot(base, table)
    predictions, written = alone.classify(texts), alone.generate(texts, 4)
    right = sum(found.prediction == label for found, (_, label) in zip(predictions, ROWS, strict=True))
    assert alone.evaluate(table).accuracy == right / len(ROWS)
    assert "ia3_attachment" not in vars(base.model)  # nothing stays on the base
    attachment = ia3.attach(base.model, name="ones")
    ones = replace(alone, adapter="ones")
    for found, other in zip(predictions, ones.classify(texts), strict=True):
        assert found.probabilities == pytest.approx(other.probabilities, abs=1e-6)
    assert ones.generate(texts, 4) == written
    assert ones.evaluate(table, is_calibrated=True).accuracy == alone.evaluate(table, is_calibrated=True).accuracy
    attachment.detach()


def test_labels_may_be_more_than_the_table_has_and_in_any_order(folder: Path) -> None:
    table = read_table(ROWS)
    zero_shot = load_zero_shot(_base(folder, "causal"), table, labels=["up", "level", "down"])
    assert zero_shot.evaluate(table).labels == ("up", "level", "down")


def test_an_encoder_is_refused_with_what_to_do(folder: Path) -> None:
    place = save_tiny_base(folder / "encoder", "encoder")
    with pytest.raises(SettingsError, match=r"is an encoder, whose head for these labels is not trained.*ia3 train"):
        load_zero_shot(place, read_table(ROWS))


def test_answers_that_never_repeat_are_no_labels(folder: Path) -> None:
    table = read_table([(f"text {i}", f"answer {i}") for i in range(8)])
    with pytest.raises(SettingsError, match=r"look like free text, got 8 different ones in 8 rows.*--labels"):
        load_zero_shot(_base(folder, "causal"), table)


def test_a_template_that_does_not_fit_the_table_is_told(folder: Path) -> None:
    with pytest.raises(TemplateError, match="placeholder 'txt'"):
        load_zero_shot(_base(folder, "causal"), read_table(ROWS), template="{{ txt }} {{ text }}:")
