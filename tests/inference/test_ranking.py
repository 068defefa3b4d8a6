"""What choices are compared by: the sum of their tokens' log-probabilities, or the mean, as an adapter records it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ia3.bases.loading import Base, load_base
from ia3.data.encoding import Encoding
from ia3.data.tables import read_table
from ia3.data.templates import Template
from ia3.errors import AdapterError
from ia3.inference.asking import score_encoded
from ia3.inference.evaluate import HeldOut, evaluate_together
from ia3.inference.ranking import count_tokens, rank_scores
from ia3.inference.recorded import Recorded, words_to_json
from ia3.inference.temperature import scale
from ia3.inference.zero_shot import load_zero_shot
from ia3.names import RANKINGS
from tests.models import save_tiny_base

ROWS = [(f"{what} in week {week}", label) for week in range(4) for what, label in (("gains", "up"), ("losses", "down"))]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = save_tiny_base(tmp_path_factory.mktemp("bases") / "causal", "causal")
    return load_base(folder, kind="causal", dtype="float32", device="cpu", say=lambda line: None)


def test_the_mean_is_by_tokens_and_the_sum_is_left_alone() -> None:
    scores = np.array([[-2.0, -3.0, -9.0], [-1.0, -4.0, -3.0]])
    lengths = count_tokens([(5, 1), (5, 6, 7, 1), (8, 9, 1)])

    assert rank_scores(scores, lengths, "sum") is scores
    assert rank_scores(scores, lengths, "mean").tolist() == [[-1.0, -0.75, -3.0], [-0.5, -1.0, -1.0]]
    assert rank_scores(scores, count_tokens([]), "mean") is scores  # an encoder's outputs have no tokens


def test_metrics_by_the_mean_have_other_probabilities_and_the_same_loss(base: Base) -> None:
    encoding = Encoding(base.tokenizer, "causal", Template("{{ text }}:"), "text", ("up", "down a lot", "level"))
    encoded = list(encoding.encode(read_table([(t, "up") for t, _ in ROWS]).examples))
    scores = score_encoded(base, encoded, encoding.choice_ids)

    parts = [HeldOut(encoded, encoding.choice_ids, encoding.labels, None, ranking) for ranking in RANKINGS]
    by_sum, by_mean = evaluate_together(base, parts)

    assert by_sum.loss == by_mean.loss
    probabilities = scale(scores / [len(" up") + 1, len(" down a lot") + 1, len(" level") + 1])
    assert sum(by_mean.confusion[0]) == len(encoded)
    assert by_mean.confusion[0] == tuple(np.bincount(probabilities.argmax(axis=1), minlength=3).tolist())
    assert by_mean.calibration_error != by_sum.calibration_error


def test_a_base_alone_can_be_asked_either_way(base: Base) -> None:
    table = read_table(ROWS)

    by_sum, by_mean = (load_zero_shot(base, table, ranking=ranking) for ranking in ("sum", "mean"))

    assert by_mean.evaluate(table).loss == by_sum.evaluate(table).loss
    assert by_mean.evaluate(table).calibration_error != by_sum.evaluate(table).calibration_error
    assert by_mean.evaluate(table, is_calibrated=True).calibration_error != by_mean.evaluate(table).calibration_error


@pytest.mark.parametrize("ranking", ["sum", "mean", None])
def test_what_is_recorded_is_read(ranking: Any) -> None:
    words = words_to_json(Template("{{ text }}:"), ranking)

    assert Recorded.read("Loading", {"template": words}).ranking == (ranking or "sum")
    assert ("ranking" in words) == (ranking is not None)


def test_an_unknown_ranking_is_refused() -> None:
    words = {"prompt": "{{ text }}", "target": "{{ label }}", "ranking": "median"}

    with pytest.raises(AdapterError, match=r"Loading: ranking in ia3\.json cannot be used"):
        Recorded.read("Loading", {"template": words})


def test_a_record_that_does_not_say_means_the_sum() -> None:
    assert Recorded.read("Loading", {}).ranking == "sum"
