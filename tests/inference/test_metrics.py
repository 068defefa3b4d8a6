"""Metrics: equal to scikit-learn's and scipy's numbers, and never a number where there is none."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from ia3.errors import IA3Error
from ia3.inference.measures import score_predictions, score_texts
from ia3.inference.metrics import Metrics, MetricsError, describe_few_rows, wilson_interval
from ia3.inference.reliability import CalibrationBin, calibration_error
from ia3.spelling import printable

THREE = ["negative", "neutral", "positive"]


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities of shape (rows, choices)."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sure_of(predicted: list[int], choices: int, sureness: float = 0.8) -> np.ndarray:
    """Probabilities of shape (rows, choices) whose largest entry is the predicted choice."""
    table = np.full((len(predicted), choices), (1 - sureness) / max(choices - 1, 1))
    table[np.arange(len(predicted)), predicted] = sureness if choices > 1 else 1.0
    return table


def refused(*args: Any, **settings: Any) -> str:
    with pytest.raises(IA3Error) as caught:
        score_predictions(*args, **settings)
    return str(caught.value)


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    """Return (choices, gold, predicted); with many choices some occur in neither, which divides by zero."""
    choices = draw(st.integers(1, 6))
    rows = draw(st.integers(1, 25))
    index = st.integers(0, choices - 1)
    exactly = {"min_size": rows, "max_size": rows}
    return choices, draw(st.lists(index, **exactly)), draw(st.lists(index, **exactly))


@pytest.mark.filterwarnings("ignore:A single label was found")  # scikit-learn doubts a matrix of one label
@given(answers())
def test_counts_and_ratios_are_those_of_scikit_learn(case: tuple[int, list[int], list[int]]) -> None:
    choices, gold, predicted = case
    names = [f"label {i}" for i in range(choices)]
    found = score_predictions(names, gold, sure_of(predicted, choices), None)
    known = list(range(choices))
    expected = precision_recall_fscore_support(gold, predicted, labels=known, zero_division=0)
    columns = zip(*[[s.precision, s.recall, s.f1, s.support] for s in found.per_label.values()], strict=True)
    for ours, theirs in zip(columns, expected, strict=True):
        assert ours == pytest.approx(list(theirs), abs=1e-12)
    assert found.macro_f1 == pytest.approx(f1_score(gold, predicted, average="macro", zero_division=0), abs=1e-12)
    assert found.accuracy == pytest.approx(accuracy_score(gold, predicted))
    assert [list(row) for row in found.confusion] == confusion_matrix(gold, predicted, labels=known).tolist()
    assert list(found.per_label) == names


def test_macro_f1_counts_a_label_that_is_only_predicted_and_leaves_out_one_that_occurs_nowhere() -> None:
    found = score_predictions([*THREE, "mixed"], [0, 0, 1, 1], sure_of([0, 0, 1, 2], 4), None)
    # F1 of negative 1, neutral 2/3, positive 0 (predicted only); mixed is in neither and does not count
    assert found.macro_f1 == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found.per_label["mixed"].support == 0
    assert found.per_label["mixed"].f1 == 0.0


def test_the_first_of_equally_probable_choices_is_the_prediction() -> None:
    assert score_predictions(["a", "b"], [0, 1], np.full((2, 2), 0.5), None).confusion == ((1, 0), (1, 0))


def test_calibration_error_equals_the_case_computed_by_hand() -> None:
    # in (14/15, 1]: 0.95 right, 0.97 right, 0.94 wrong; in (8/15, 9/15]: 0.55 right, 0.58 wrong
    top = [0.95, 0.97, 0.94, 0.55, 0.58]
    table = np.array([[p, 1 - p] for p in top])
    found = score_predictions(["a", "b"], [0, 0, 1, 0, 1], table, None)
    high, low = abs(2 / 3 - (0.95 + 0.97 + 0.94) / 3), abs(1 / 2 - (0.55 + 0.58) / 2)
    assert found.calibration_error == pytest.approx((3 * high + 2 * low) / 5)
    filled = {i: b.count for i, b in enumerate(found.calibration_bins) if b.count}
    assert filled == {14: 3, 8: 2}
    assert found.calibration_bins[14].accuracy == pytest.approx(2 / 3)
    assert found.calibration_bins[8].confidence == pytest.approx(0.565)


def test_a_probability_on_the_edge_of_two_bins_belongs_to_the_lower_one() -> None:
    table = np.array([[0.6, 0.4], [1.0, 0.0]])
    bins = score_predictions(["a", "b"], [0, 0], table, None).calibration_bins
    assert [i for i, b in enumerate(bins) if b.count] == [8, 14]  # (8/15, 9/15 = 0.6] and (14/15, 1]
    assert (bins[8].lower, bins[8].upper) == (8 / 15, 9 / 15)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 40))
def test_every_row_lies_in_the_one_bin_that_holds_its_top_probability(seed: int, choices: int, rows: int) -> None:
    random = np.random.default_rng(seed)
    table = softmax(3 * random.normal(size=(rows, choices)))
    gold = random.integers(0, choices, size=rows).tolist()
    found = score_predictions([str(i) for i in range(choices)], gold, table, None)
    top = table.max(axis=1)
    assert len(found.calibration_bins) == 15
    for b in found.calibration_bins:
        assert b.count == int(((top > b.lower) & (top <= min(b.upper, 1.0))).sum())
        assert b.confidence is None or b.lower < b.confidence <= b.upper + 1e-12
        assert (b.confidence is None) == (b.accuracy is None) == (b.count == 0)
    assert 0 <= calibration_error(found.calibration_bins) <= 1


def test_a_perfectly_calibrated_table_has_no_calibration_error() -> None:
    assert calibration_error([CalibrationBin(0.8, 0.9, 10, 0.85, 0.85), CalibrationBin(0.9, 1.0, 0, None, None)]) == 0


def test_perplexity_is_the_exponential_of_the_loss_per_token() -> None:
    found = score_predictions(THREE, [0], sure_of([0], 3), 0.5)
    assert found.perplexity == pytest.approx(math.exp(0.5))
    assert found.loss == 0.5


def test_perplexity_is_none_without_a_loss_and_for_a_loss_per_example() -> None:
    assert score_predictions(THREE, [0], sure_of([0], 3), None).perplexity is None
    assert score_predictions(THREE, [0], sure_of([0], 3), 0.5, loss_unit="example").perplexity is None


def test_perplexity_of_a_huge_loss_is_infinite_and_null_in_json() -> None:
    found = score_texts(["a"], ["a"], 1e4)
    assert found.perplexity == math.inf
    written = found.to_json()
    assert written["perplexity"] is None
    assert written["loss"] == 1e4
    json.dumps(written, allow_nan=False)


def test_json_holds_every_number_and_survives_writing_and_reading() -> None:
    found = score_predictions(THREE, [0, 1, 2, 2], sure_of([0, 1, 2, 1], 3), 0.25)
    written = found.to_json()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert written["rows"] == 4
    assert written["accuracy"] == 0.75
    assert written["accuracy_interval"] == list(wilson_interval(3, 4))
    assert written["per_label"]["positive"] == {
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "support": 2,
    }
    assert written["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert [b["count"] for b in written["calibration_bins"]] == [0] * 11 + [4] + [0] * 3
    assert CalibrationBin(**written["calibration_bins"][11]) == found.calibration_bins[11]


def test_numbers_are_plain_python_numbers() -> None:
    found = score_predictions(THREE, [0, 1], sure_of([0, 1], 3), np.float32(0.25))

    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(map(plain, value.values()))
        if isinstance(value, list):
            return all(map(plain, value))
        return type(value) in (int, float, str, type(None))

    assert plain(found.to_json())


def test_lines_give_totals_labels_and_the_confusion_matrix() -> None:
    lines = score_predictions(THREE, [0, 1, 2, 2], sure_of([0, 1, 2, 1], 3), 0.25).lines()
    assert lines == [
        "accuracy 75.0 % of 4 rows (95 % interval 30.1 % to 95.4 %)",
        "macro F1 0.778",
        "loss 0.25 nats per target token",
        "perplexity 1.284",
        "calibration error 0.050",
        "always answering 'positive' is right in 50.0 %, which is within the interval: these rows do not show that it "
        "is better",
        "",
        "label     precision  recall     F1  rows",
        "negative      1.000   1.000  1.000     1",
        "neutral       0.500   1.000  0.667     1",
        "positive      1.000   0.500  0.667     2",
        "",
        "confusion (rows: gold, columns: predicted)",
        "          negative  neutral  positive",
        "negative         1        0         0",
        "neutral          0        1         0",
        "positive         0        1         1",
    ]


def test_lines_of_many_labels_name_the_most_frequent_confusions() -> None:
    names = [f"label_{i}" for i in range(12)]
    gold = [0, 0, 0, 1, 5]
    lines = score_predictions(names, gold, sure_of([3, 3, 2, 1, 4], 12), None).lines()
    assert lines[-4:] == [
        "most confused (3 of 3 pairs)",
        "  label_0 taken for label_3: 2",
        "  label_0 taken for label_2: 1",
        "  label_5 taken for label_4: 1",
    ]
    assert score_predictions(names, [1], sure_of([1], 12), None).lines()[-1] == "nothing was confused"


def test_lines_stay_one_line_each_with_control_characters_in_a_label() -> None:
    lines = score_predictions(["a\nb", "\x1b[31m\ud800", "x" * 99], [0], sure_of([0], 3), None).lines()
    assert all("\n" not in line and "\x1b" not in line for line in lines)
    assert any(line.startswith(r"a\nb ") for line in lines)
    assert any(line.startswith("x" * 31 + "…") for line in lines)
    "\n".join(lines).encode("utf-8")


def test_printable_keeps_letters_of_every_script() -> None:
    assert printable("Überschuss 利益 🙂\t\u2028") == r"Überschuss 利益 🙂\t\u2028"


def test_a_nan_is_an_error_that_names_its_rows() -> None:
    table = sure_of([0, 1, 2, 0], 3)
    table[1, 2] = math.nan
    assert refused(THREE, [0, 1, 2, 0], table, None) == (
        "Scoring predictions: probabilities are NaN in row 2 of 4, got 0.1, 0.8, nan, expected a number for each of "
        "the 3 labels. The model overflowed or diverged: load the base as float32, or train with a lower learning rate."
    )


def test_of_many_bad_rows_the_first_five_and_their_number_are_named() -> None:
    table = np.full((9, 2), math.nan)
    assert "in rows 1, 2, 3, 4, 5, … (9 in all) of 9, got nan, nan, expected" in refused(
        ["a", "b"], [0] * 9, table, None
    )


@pytest.mark.parametrize("row", [[2.0, 3.0], [-0.5, 1.5], [0.5, 0.4], [math.inf, 0.0]])
def test_what_is_no_softmax_is_an_error_that_names_its_row(row: list[float]) -> None:
    message = refused(["a", "b"], [0, 1], np.array([[0.5, 0.5], row]), None)
    assert message.startswith("Scoring predictions: probabilities are out of range in row 2 of 2, got ")
    assert message.endswith("expected numbers from 0 to 1 with sum 1. Apply a softmax over the choices first.")


def test_a_softmax_of_bfloat16_is_accepted() -> None:
    assert score_predictions(["a", "b"], [0], np.array([[0.703125, 0.298828125]]), None).accuracy == 1.0


@pytest.mark.parametrize(
    ("labels", "gold", "table", "message"),
    [
        (THREE, [], np.zeros((0, 3)), "Scoring predictions: nothing is there, got 0 rows, expected at least 1."),
        ([], [0], np.ones((1, 1)), "Scoring predictions: there are no labels, got 0, expected at least 1."),
        (["a", "b", "a"], [0], sure_of([0], 3), "labels occur twice, got 'a', expected every label once."),
        (THREE, [0], sure_of([0], 2), "wrong shape, got (1, 2), expected (rows, 3) for 3 labels."),
        (THREE, [0], np.ones(3) / 3, "wrong shape, got (3,), expected (rows, 3) for 3 labels."),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(
    labels: list[str], gold: list[int], table: np.ndarray, message: str
) -> None:
    assert message in refused(labels, gold, table, None)


def test_a_loss_that_is_no_number_is_refused() -> None:
    assert "the loss is no number, got nan" in refused(THREE, [0], sure_of([0], 3), math.nan)
    with pytest.raises(MetricsError, match="the loss is no number"):
        score_texts(["a"], ["a"], math.nan)


def test_texts_are_right_when_equal_after_stripping_and_not_otherwise() -> None:
    found = score_texts(["up 3 %", "down", "flat"], [" up 3 %\n", "Down", "flat"], math.log(2))
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.perplexity == pytest.approx(2)
    assert found.lines() == [
        "exact match 66.7 % of 3 rows (95 % interval 20.8 % to 93.9 %)",
        "loss 0.6931 nats per target token",
        "perplexity 2",
    ]


def test_texts_have_neither_labels_nor_calibration() -> None:
    found = score_texts(["a"], ["a"], None)
    assert found == Metrics(rows=1, loss=None, loss_unit="token", perplexity=None, accuracy=1.0)
    assert found.to_json()["macro_f1"] is None
    assert found.to_json()["calibration_error"] is None


def test_no_texts_are_refused() -> None:
    with pytest.raises(MetricsError, match=re.escape("Scoring texts: nothing is there, got 0 rows")):
        score_texts([], [], None)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_that_of_scipy(case: tuple[int, int]) -> None:
    successes, n = case
    expected = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    low, high = wilson_interval(successes, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= successes / n <= high <= 1


def test_few_rows_are_a_warning_with_an_interval_and_many_are_none() -> None:
    low, high = wilson_interval(8, 10)
    assert describe_few_rows(10, "evaluated on") == (
        "Only 10 rows are evaluated on: with 8 of them right the 95 % interval of the accuracy is "
        f"{100 * low:.1f} % to {100 * high:.1f} %, and smaller differences mean nothing."
    )
    assert describe_few_rows(1, "held out").startswith("Only 1 row is held out: with 1 of them right")
    assert describe_few_rows(99, "x") and describe_few_rows(100, "x") == ""


def test_an_accuracy_that_one_answer_alone_may_reach_is_told() -> None:
    gold = [0] * 6 + [1] * 4
    told = score_predictions(["no", "yes"], gold, sure_of([0] * 7 + [1] * 3, 2), None).lines()
    assert any(
        line.startswith("always answering 'no' is right in 60.0 %, which is within the interval") for line in told
    )
    worse = score_predictions(["no", "yes"], gold, sure_of([1] * 10, 2), None)
    assert worse.commonest == ("no", 0.6)
    many = score_predictions(["no", "yes"], [1] * 10 + [0] * 90, sure_of([0] * 100, 2)[:, ::-1], None).lines()
    assert any("which is above the interval" in line for line in many)
    right = score_predictions(["no", "yes"], gold * 20, sure_of(gold * 20, 2), None).lines()
    assert not any("always answering" in line for line in right)


def test_importing_the_metrics_imports_no_torch() -> None:
    code = "import sys, ia3.inference.measures; print({'torch', 'transformers', 'matplotlib'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
