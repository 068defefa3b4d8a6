"""The few-shot losses: equal to a plain reference written from the paper's equations, value and gradient.

The reference runs every prompt with every choice alone, whole, in float64, with all logits.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ia3.adapters.attached import attach
from ia3.data.batches import split_by_tokens
from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.fast.acceleration import accelerated
from ia3.inference.scoring import ChoiceLogprobs, choice_logprobs
from ia3.training.t_few import Factors, check_choices, few_shot_loss, step_factors, t_few_terms
from ia3.training.tasks import Task, trained_tensors
from tests.families import CASES, VOCABULARY, TinyBase, make_model
from tests.training.tasks import ADAPTER, LABELS, ROWS, make_task

LANGUAGE = ("causal", "seq2seq")
WIDE = 10**9  # a budget that splits nothing


def _choice_by_the_book(model: Any, kind: str, prompt: Any, ids: Any, start: int | None, rows: Any) -> Tensor:
    """Return log p of each token of one choice behind one prompt."""
    target = torch.tensor(ids)
    if kind == "causal":
        whole = torch.tensor([[*prompt, *ids]])
        logits = model(input_ids=whole, rows=rows).logits[0, len(prompt) - 1 : -1]
    else:
        given = torch.tensor([[start, *ids[:-1]]])
        logits = model(input_ids=torch.tensor([list(prompt)]), decoder_input_ids=given, rows=rows).logits[0]
    return logits.double().log_softmax(-1).gather(1, target[:, None]).squeeze(1)


def _reference(task: Task, weights: list[float], rows: Any = ADAPTER) -> Tensor:
    """Equations (1) to (3) of the paper, averaged over the step."""
    lm, ul, ln = ([] for _ in range(3))
    tokens = wrong = 0.0
    for place, (encoded, weight) in enumerate(zip(task.train, weights, strict=True)):
        row = rows if isinstance(rows, str) else rows[place]
        model, start = task.attachment.model, task.decoder_start_id
        found = [_choice_by_the_book(model, task.kind, encoded.prompt_ids, ids, start, row) for ids in encoded.choices]
        lm.append(-weight * found[encoded.choice].sum())
        tokens += weight * len(found[encoded.choice])
        for number, logprobs in enumerate(found):
            if number != encoded.choice:
                ul.append(-weight * torch.log(1 - logprobs.exp() + 0.01).sum())
                wrong += weight * len(logprobs)
        beta = torch.stack([logprobs.mean() for logprobs in found])
        ln.append(-weight * (beta[encoded.choice] - beta.logsumexp(0)))
    return sum(lm) / tokens + (sum(ul) / wrong if wrong else 0.0) + sum(ln) / sum(weights)


def _step_loss(task: Task, weights: list[float], budget: int, rows: Any = ADAPTER, token_budget: int = WIDE) -> Tensor:
    """The same, as the loop computes it: in micro-batches of the budget, each divided by the whole step's numbers."""
    factors = step_factors(task.train, weights)
    targets = sum(w * len(e.target_ids) for e, w in zip(task.train, weights, strict=True))
    parts = split_by_tokens(range(len(task.train)), [len(e) for e in task.train], budget)
    return torch.stack(
        [
            few_shot_loss(
                task,
                [task.train[i] for i in part],
                rows if isinstance(rows, str) else [rows[i] for i in part],
                [factors] * len(part),
                token_budget,
                torch.tensor([weights[i] / targets for i in part], dtype=torch.float64),
            )
            for part in parts
        ]
    ).sum()


def _gradients(task: Task, loss: Tensor) -> dict[str, Tensor]:
    trained = {name: t for name, t in trained_tensors(task.attachment, ADAPTER).items() if t.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, trained.values()), strict=True))


def _assert_same(task: Task, loss: Tensor, expected: Tensor, wanted: dict[str, Tensor], digits: float) -> None:
    torch.testing.assert_close(loss, expected.to(loss.dtype), rtol=digits, atol=0)
    for name, gradient in _gradients(task, loss).items():
        scale = wanted[name].abs().max()
        assert scale > 0
        torch.testing.assert_close(gradient / scale, wanted[name] / scale, rtol=0, atol=digits)


@pytest.mark.parametrize(
    ("is_fast", "is_weighted"), [(False, True), (True, False), (True, True)], ids=["weighted", "fast", "fast weighted"]
)
@pytest.mark.parametrize("kind", LANGUAGE)
def test_value_and_gradient_are_the_papers_however_a_step_and_its_choices_are_split(
    kind: str, is_fast: bool, is_weighted: bool, bases: Path
) -> None:
    task = make_task(bases, kind)
    weights = [1.0 + e.choice for e in task.train] if is_weighted else [1.0] * len(task.train)
    expected = _reference(task, weights)
    wanted = _gradients(task, expected)
    with accelerated(task.attachment) if is_fast else nullcontext():
        # transformers' norms are fp32 inside a float64 model, the faster ones are not
        for budget, token_budget in ((WIDE, WIDE), (1, WIDE), (150, 400)):
            loss = _step_loss(task, weights, budget, token_budget=token_budget)
            assert loss.dtype == torch.float64
            _assert_same(task, loss, expected, wanted, 1e-5 if is_fast else 1e-6)


def _with_choices(task: Task, choices: list[tuple[tuple[int, ...], ...]]) -> Task:
    """Give each row choices of its own; the right one is where it was in the label set, or the first."""
    rows = []
    for encoded, own in zip(task.train, choices, strict=True):
        right = encoded.choice if encoded.choice < len(own) else 0
        rows.append(replace(encoded, choices=own, choice=right, target_ids=own[right]))
    return replace(task, train=tuple(rows))


@pytest.mark.parametrize("kind", LANGUAGE)
def test_rows_may_have_choices_of_their_own_in_any_number_and_of_any_length(kind: str, bases: Path) -> None:
    task = make_task(bases, kind)
    lengths = [(3, 1), (2,), (1, 4, 2, 7), (5, 5), (1, 1, 1), (2, 6), (1,)]  # a single one, and single tokens
    random = torch.Generator().manual_seed(0)
    choices = [tuple(tuple(torch.randint(10, 200, (n,), generator=random).tolist()) for n in row) for row in lengths]
    task = _with_choices(task, choices)
    weights = [1.0] * len(task.train)
    expected = _reference(task, weights)
    wanted = _gradients(task, expected)
    for budget, token_budget in ((WIDE, WIDE), (1, 1), (200, 300)):
        _assert_same(task, _step_loss(task, weights, budget, token_budget=token_budget), expected, wanted, 1e-6)


@pytest.mark.parametrize("kind", LANGUAGE)
def test_choices_of_one_token_each_need_the_prompt_alone(kind: str, bases: Path) -> None:
    task = make_task(bases, kind)
    task = _with_choices(task, [((5,), (6,), (7,))] * len(task.train))
    expected = _reference(task, [1.0] * 7)
    _assert_same(task, _step_loss(task, [1.0] * 7, WIDE), expected, _gradients(task, expected), 1e-6)


@pytest.mark.parametrize("kind", LANGUAGE)
def test_examples_of_different_rows_in_a_batch_have_their_own_loss_and_gradient(kind: str, bases: Path) -> None:
    task = make_task(bases, kind)
    task.attachment.add("other")
    width = task.attachment.bank.plan.width
    task.attachment.bank.set_vector("other", 1 + 0.3 * torch.randn(width, generator=torch.Generator().manual_seed(2)))
    rows = [ADAPTER, "other", "__base__", ADAPTER, "other", ADAPTER, "other"]
    expected = _reference(task, [1.0] * 7, rows)
    wanted = _gradients(task, expected)
    for token_budget in (WIDE, 300):
        loss = _step_loss(task, [1.0] * 7, WIDE, rows, token_budget)
        _assert_same(task, loss, expected, wanted, 1e-6)


@pytest.mark.parametrize("kind", LANGUAGE)
def test_the_loss_of_each_example_is_the_gradient_of_its_share(kind: str, bases: Path) -> None:
    task = make_task(bases, kind)
    factors = step_factors(task.train, [1.0] * 7)
    targets = sum(len(e.target_ids) for e in task.train)
    shares = torch.full((7,), 1 / targets, dtype=torch.float64, requires_grad=True)
    loss = few_shot_loss(task, task.train, ADAPTER, [factors] * 7, WIDE, shares)
    loss.backward()
    assert shares.grad is not None
    torch.testing.assert_close(shares.grad.sum() / targets, loss.detach())


class _Kept:
    """Counts the bytes that autograd keeps at once, by tensor."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.seen[storage.data_ptr()] = storage.nbytes()
        return tensor


def _bytes_kept(task: Task, token_budget: int) -> int:
    kept = _Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        _step_loss(task, [1.0] * len(task.train), WIDE, token_budget=token_budget)
    return sum(kept.seen.values())


@pytest.mark.parametrize("kind", LANGUAGE)
def test_77_labels_are_learned_against_with_bounded_memory_and_the_same_loss(kind: str, bases: Path) -> None:
    labels = tuple(f"label {number:03d}" for number in range(77))
    rows = [(text, labels[11 * number]) for number, (text, _) in enumerate(ROWS[:2])]
    task = make_task(bases, kind, rows=rows, labels=labels)
    whole = _step_loss(task, [1.0] * 2, WIDE)
    chunked = _step_loss(task, [1.0] * 2, WIDE, token_budget=600)
    wanted = _gradients(task, whole)
    _assert_same(task, chunked, whole, wanted, 1e-9)
    few = replace(task, train=tuple(replace(e, choices=e.choices[:40], choice=0) for e in task.train))
    more = replace(task, train=tuple(replace(e, choices=e.choices[:77], choice=0) for e in task.train))
    growth = _bytes_kept(more, 600) - _bytes_kept(few, 600)
    unbounded = _bytes_kept(more, WIDE) - _bytes_kept(few, WIDE)
    assert growth < unbounded / 20


QUICK = ("gpt2", "opt", "gpt_neox", "bloom", "gemma3", "bart")  # what differs in positions, masks and caches
NARROW = ("bloom", "gemma2")  # a masked row overflows in float64, in transformers' own attention
FAMILIES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name, case in CASES.items()
    if case.kind != "encoder"
]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_its_choices_the_log_probabilities_that_they_have_alone(name: str) -> None:
    model = make_model(name, torch.float32 if name in NARROW else torch.float64)
    attachment = attach(model, name=ADAPTER)
    width = attachment.bank.plan.width
    attachment.bank.set_vector(ADAPTER, 1 + 0.2 * torch.randn(width, generator=torch.Generator().manual_seed(1)))
    random = torch.Generator().manual_seed(3)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, VOCABULARY, (length,), generator=random).tolist())

    choices = [(ids(1), ids(3)), (ids(2), ids(4), ids(1)), (ids(2),)]
    rows = [
        Encoded(i, ids(n), own[0], 0, False, own) for i, (n, own) in enumerate(zip((3, 7, 1), choices, strict=True))
    ]
    kind, start = CASES[name].kind, 0 if CASES[name].kind == "seq2seq" else None
    vector = trained_tensors(attachment, ADAPTER)["vectors"]
    for token_budget in (WIDE, 12):
        found = choice_logprobs(TinyBase(model, kind, 0, start), rows, rows=ADAPTER, token_budget=token_budget)
        (gradient,) = torch.autograd.grad(found.values.sum(), vector)
        alone = [
            [_choice_by_the_book(model, kind, row.prompt_ids, own, start, ADAPTER) for own in row.choices]
            for row in rows
        ]
        for place, row in enumerate(rows):
            for number, own in enumerate(row.choices):
                values = found.values[place, number, : len(own)]
                torch.testing.assert_close(values.double(), alone[place][number], rtol=0, atol=2e-5)
        assert int(found.is_token.sum()) == sum(len(own) for row in rows for own in row.choices)
        (expected,) = torch.autograd.grad(sum(x.sum() for one in alone for x in one), vector)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@settings(max_examples=50)
@given(
    lengths=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=4),
    seed=st.integers(0, 99),
)
def test_the_terms_are_the_papers_for_drawn_numbers(lengths: list[list[int]], seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    choices, tokens = max(map(len, lengths)), max(max(row) for row in lengths)
    is_token = torch.zeros(len(lengths), choices, tokens, dtype=torch.bool)
    for place, row in enumerate(lengths):
        for number, length in enumerate(row):
            is_token[place, number, :length] = True
    values = torch.where(is_token, torch.rand(is_token.shape, generator=random, dtype=torch.float64).log(), 0.0)
    right = torch.tensor([seed % len(row) for row in lengths])
    lm, ul, ln = t_few_terms(ChoiceLogprobs(values, is_token), right)
    for place, row in enumerate(lengths):
        own = [values[place, number, :length].tolist() for number, length in enumerate(row)]
        answer = int(right[place])
        assert float(lm[place]) == pytest.approx(-sum(own[answer]))
        wrong = [x for number, one in enumerate(own) if number != answer for x in one]
        assert float(ul[place]) == pytest.approx(sum(-math.log(1 - math.exp(x) + 0.01) for x in wrong))
        means = [sum(one) / len(one) for one in own]
        assert float(ln[place]) == pytest.approx(-means[answer] + math.log(sum(map(math.exp, means))), abs=1e-12)


def test_sure_predictions_have_finite_losses_and_gradients() -> None:
    values = torch.tensor([[[0.0, 0.0], [0.0, -200.0]]], requires_grad=True)
    terms = t_few_terms(ChoiceLogprobs(values, torch.ones(1, 2, 2, dtype=torch.bool)), torch.tensor([0]))
    (gradient,) = torch.autograd.grad(sum(term.sum() for term in terms), values)
    assert all(bool(term.isfinite().all()) for term in terms) and bool(gradient.isfinite().all())
    assert float(terms[1].detach()) == pytest.approx(-math.log(0.01) - math.log(1.01), rel=1e-5)


def test_the_divisors_are_those_of_the_whole_step() -> None:
    one = Encoded(0, (1,), (5, 5), 0, False, ((5, 5), (6, 6, 6), (7,)))
    two = Encoded(1, (1,), (8,), 1, False, ((9, 9), (8,)))
    assert step_factors([one, two], [1.0, 1.0]) == Factors(ul=3 / 6, ln=3 / 2)
    assert step_factors([one, two], [2.0, 1.0]) == Factors(ul=5 / 10, ln=5 / 3)


def test_a_row_with_one_choice_has_nothing_unlikely_to_learn() -> None:
    assert step_factors([Encoded(0, (1,), (5,), 0, False, ((5,),))], [1.0]) == Factors(ul=0.0, ln=1.0)


def test_free_text_has_no_choices_and_is_told(bases: Path) -> None:
    free = make_task(bases, "causal", labels=()).train
    with pytest.raises(SettingsError, match=r"losses is 'lm\+ul\+ln' and 7 of 7 rows have no choices.*--losses lm"):
        check_choices(free, "lm+ul+ln", "causal")
    check_choices(free, "lm", "causal")
    check_choices(make_task(bases, "causal").train, "lm+ul+ln", "causal")
    check_choices(make_task(bases, "encoder").train, "lm+ul+ln", "encoder")
    assert len(LABELS) == 3
