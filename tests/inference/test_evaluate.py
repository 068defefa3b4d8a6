"""Evaluation: the loss is the sum over target tokens by their number, and one pass gives it beside the accuracy."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.bases.loading import Base
from ia3.core.modes import evaluating
from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.inference.asking import length_batches, score_encoded, target_losses
from ia3.inference.evaluate import HeldOut, evaluate_together, metrics_of, score_together
from ia3.inference.metrics import MetricsError
from ia3.inference.temperature import scale
from tests.families import CASES, make_model

CHOICES = [(5, 1), (5, 6, 1), (9, 1)]
LABELS = ["a", "b", "c"]
KINDS = {"causal": "gemma3", "seq2seq": "t5-gated", "encoder": "bert"}


def rows_of(kind: str, count: int = 9) -> list[Encoded]:
    """Return rows of lengths 1 to 8 with the choices in turn."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(count):
        prompt = torch.randint(3, 48, (1 + i * 5 % 8,), generator=generator).tolist()
        target = () if kind == "encoder" else CHOICES[i % 3]
        rows.append(Encoded(100 + i, tuple(prompt), target, i % 3, truncated=False))
    return rows


def base_of(kind: str, model: Any = None) -> Base:
    """Return a base in float64 without a tokenizer of its own: rows are token ids already."""
    tokenizer: Any = SimpleNamespace(pad_token_id=0)
    return Base(model or make_model(KINDS[kind], torch.float64), tokenizer, kind, "", "", "", ())  # type: ignore[arg-type]


def evaluate(kind: str, rows: list[Encoded], labels: list[str] | None = None, **settings: Any) -> Any:
    given_labels = LABELS if labels is None else labels
    choices = CHOICES if given_labels and kind != "encoder" else ()
    return evaluate_together(base_of(kind), [HeldOut(rows, choices, given_labels, None)], **settings)[0]


@torch.inference_mode()
def losses_of_tokens(kind: str, row: Encoded) -> list[float]:
    """The definition: one row alone, one whole pass, the loss of each of its target tokens."""
    model = make_model(KINDS[kind], torch.float64)
    if kind == "encoder":
        logits = model(input_ids=torch.tensor([row.prompt_ids])).logits
        return [float(-logits.log_softmax(dim=-1)[0, row.choice])]
    if kind == "seq2seq":
        decoder = torch.tensor([[0, *row.target_ids[:-1]]])
        logits = model(input_ids=torch.tensor([row.prompt_ids]), decoder_input_ids=decoder).logits[0]
    else:
        logits = model(input_ids=torch.tensor([[*row.prompt_ids, *row.target_ids]])).logits[0]
        logits = logits[len(row.prompt_ids) - 1 : -1]
    return [float(-logits.log_softmax(dim=-1)[i, token]) for i, token in enumerate(row.target_ids)]


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_loss_is_the_mean_over_all_target_tokens(kind: str) -> None:
    rows = rows_of(kind)
    tokens = [loss for row in rows for loss in losses_of_tokens(kind, row)]

    metrics = evaluate(kind, rows)

    assert math.isclose(metrics.loss, sum(tokens) / len(tokens), abs_tol=1e-6)
    assert len(tokens) == (len(rows) if kind == "encoder" else 3 * (2 + 3 + 2))
    if kind == "encoder":
        assert (metrics.loss_unit, metrics.perplexity) == ("example", None)
    else:
        assert metrics.loss_unit == "token" and math.isclose(metrics.perplexity, math.exp(metrics.loss))


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_free_text_has_the_same_loss_and_no_accuracy(kind: str) -> None:
    rows = rows_of(kind)

    closed, free = evaluate(kind, rows), evaluate(kind, rows, labels=[])

    assert math.isclose(closed.loss, free.loss, abs_tol=1e-6) and closed.perplexity is not None
    assert (free.accuracy, free.accuracy_interval, free.labels, free.rows) == (None, None, (), len(rows))
    assert free.to_json()["accuracy_interval"] is None and free.lines()[0] == "9 rows"


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_confusion_is_that_of_the_scores(kind: str) -> None:
    rows = rows_of(kind)
    scores = score_encoded(base_of(kind), rows, () if kind == "encoder" else CHOICES)

    metrics = evaluate(kind, rows)

    assert scores.shape == (len(rows), 3) and scores.dtype == np.float64
    right = [int(row.argmax()) == e.choice for row, e in zip(scores, rows, strict=True)]
    assert metrics.accuracy == sum(right) / len(right)
    assert np.array(metrics.confusion).sum() == len(rows)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("budget", [1, 20, 10**6])
def test_no_token_budget_changes_a_number(kind: str, budget: int) -> None:
    rows = rows_of(kind)

    small, usual = evaluate(kind, rows, token_budget=budget), evaluate(kind, rows)

    assert math.isclose(small.loss, usual.loss, abs_tol=1e-9)
    assert small.confusion == usual.confusion


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_parts_with_other_words_for_the_labels_are_one_table(kind: Any) -> None:
    words = [CHOICES, [(7, 1), (8, 3, 8, 1), (3, 1)]]
    rows = [rows_of(kind), [replace(e, target_ids=words[1][e.choice]) for e in rows_of(kind, 17)[9:]]]
    parts = [HeldOut(own, ids, LABELS, None, "mean") for own, ids in zip(rows, words, strict=True)]
    scored = score_together(base_of(kind), parts)

    each = [metrics_of(kind, [part], [own]) for part, own in zip(parts, scored, strict=True)]
    together = metrics_of(kind, parts, scored)

    assert together.rows == 17 and np.array_equal(together.confusion, sum(np.array(one.confusion) for one in each))
    tokens = [sum(len(e.target_ids) for e in own) for own in rows]
    expected = sum((one.loss or 0) * count for one, count in zip(each, tokens, strict=True)) / sum(tokens)
    assert together.loss == pytest.approx(expected, rel=1e-12)


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), max_size=200), st.integers(1, 4000))
def test_batches_hold_every_row_once(lengths: list[int], budget: int) -> None:
    batches = list(length_batches(lengths, budget))

    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= 64 and (len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget)


def test_progress_counts_up_to_all_rows() -> None:
    told: list[tuple[int, int | None]] = []

    part = HeldOut(rows_of("causal"), CHOICES, LABELS, None)
    score_together(base_of("causal"), [part], 20, lambda done, total: told.append((done, total)))

    assert told[-1] == (9, 9) and told == sorted(told) and len(told) > 2


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_rows_are_scored_as_none(kind: str) -> None:
    scores = score_encoded(base_of(kind), [], CHOICES)

    assert scores.shape == (0, 3)
    with pytest.raises(MetricsError, match="nothing is there, got 0 rows"):
        evaluate(kind, [])


@pytest.mark.parametrize("labels", [LABELS, []])
def test_a_row_without_an_answer_is_refused(labels: list[str]) -> None:
    rows = [*rows_of("causal"), Encoded(41, (7, 8), (), -1, truncated=False)]

    with pytest.raises(SettingsError) as caught:
        evaluate("causal", rows, labels=labels)

    assert str(caught.value) == (
        "Evaluating: 1 of 10 rows have no answer to compare with, the first is row 42. Give a table with a label in "
        "every row."
    )


def test_a_model_that_overflows_is_an_error_and_no_accuracy() -> None:
    model = make_model("bert")
    with torch.no_grad():
        model.classifier.weight.fill_(math.nan)

    with pytest.raises(MetricsError, match="NaN in rows 1, 2, 3"):
        evaluate_together(base_of("encoder", model), [HeldOut(rows_of("encoder"), (), LABELS, None)])


def test_dropout_is_off_while_evaluating_and_every_module_gets_its_mode_back() -> None:
    model = make_model("bert")
    model.train()
    model.bert.encoder.layer[0].eval()
    modes = [module.training for module in model.modules()]

    with evaluating(model):
        assert not any(module.training for module in model.modules())

    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_the_summed_loss_leaves_no_graph(kind: str) -> None:
    model = make_model(KINDS[kind])

    losses = target_losses(base_of(kind, model), rows_of(kind))

    assert losses.shape == (9,) and losses.min() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_probabilities_are_stable_and_keeps_what_is_no_number() -> None:
    table = scale(np.array([[-1000.0, -1001.0], [0.0, -math.inf], [math.nan, 0.0], [-math.inf, -math.inf]]))

    assert np.allclose(table[0], [1 / (1 + math.exp(-1)), 1 / (1 + math.e)]) and table[1].tolist() == [1.0, 0.0]
    assert np.isnan(table[2]).all() and np.isnan(table[3]).all()


def test_every_kind_is_covered() -> None:
    assert {kind: CASES[name].kind for kind, name in KINDS.items()} == {kind: kind for kind in KINDS}
