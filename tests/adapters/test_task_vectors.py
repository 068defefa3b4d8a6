"""Arithmetic on rows: exact where nothing is combined, independent of the order, and what the papers say."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ia3.adapters.task_vectors import (
    add_rows,
    average_rows,
    cosine_between,
    distance_between,
    drop_rows,
    merge_rows_by_sign,
    multiply_rows,
    scale_row,
)
from ia3.errors import AdapterError, SettingsError

WIDTH = 5
# every finite fp32 of a size that arithmetic leaves finite: zeros of both signs, subnormals and negatives among them
numbers = st.floats(-1e6, 1e6, width=32, allow_subnormal=True)
a_row = st.lists(numbers, min_size=WIDTH, max_size=WIDTH).map(lambda values: torch.tensor(values, dtype=torch.float32))
some_rows = st.lists(a_row, min_size=1, max_size=4).map(torch.stack)
positive = st.floats(0.01, 100)


def weighted(rows: Tensor) -> st.SearchStrategy[tuple[Tensor, list[float]]]:
    return st.tuples(st.just(rows), st.lists(positive, min_size=len(rows), max_size=len(rows)))


def same_bits(got: Tensor, want: Tensor) -> bool:
    return got.dtype == want.dtype and got.shape == want.shape and got.view(torch.int32).equal(want.view(torch.int32))


@given(a_row, st.lists(positive, min_size=1, max_size=5))
def test_the_average_of_equal_rows_is_the_row_bit_for_bit(row: Tensor, weights: list[float]) -> None:
    assert same_bits(average_rows(row.repeat(len(weights), 1), weights), row)


@given(a_row)
def test_one_row_comes_out_of_every_merge_as_it_went_in(row: Tensor) -> None:
    alone = row.unsqueeze(0)
    for result in (
        average_rows(alone),
        add_rows(alone),
        multiply_rows(alone),
        merge_rows_by_sign(alone, density=1.0),
        merge_rows_by_sign(alone, [0.3], density=1.0),
        drop_rows(row, 0.0, seed=7),
        scale_row(row, 1.0),
    ):
        assert same_bits(result, row)


@given(a_row)
def test_no_strength_is_the_base(row: Tensor) -> None:
    assert same_bits(scale_row(row, 0.0), torch.ones(WIDTH))


@given(a_row)
def test_two_negations_are_the_row_up_to_one_rounding(row: Tensor) -> None:
    once = scale_row(row, -1.0)
    assert torch.equal(once, (2 - row.double()).float())
    rounding = torch.tensor(np.spacing(once.abs().numpy()))  # of the first result, which the second one takes over
    assert ((scale_row(once, -1.0) - row).abs() <= rounding).all()


@given(a_row, st.floats(-10, 10))
def test_negation_is_the_papers_formula(row: Tensor, strength: float) -> None:
    expected = ((1 + strength) - strength * row.double()).float()
    assert torch.allclose(scale_row(row, -strength), expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=50)
@given(some_rows.flatmap(weighted), st.randoms(use_true_random=False), st.sampled_from([0.2, 0.5, 1.0]))
def test_the_order_of_the_rows_changes_nothing(given_rows: tuple[Tensor, list[float]], random, density: float) -> None:  # type: ignore[no-untyped-def]
    rows, weights = given_rows
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled, reordered = rows[order], [weights[i] for i in order]
    assert torch.equal(average_rows(rows, weights), average_rows(shuffled, reordered))
    assert torch.equal(add_rows(rows, weights), add_rows(shuffled, reordered))
    ties = merge_rows_by_sign(rows, weights, density=density)
    assert torch.equal(ties, merge_rows_by_sign(shuffled, reordered, density=density))


@given(some_rows.flatmap(weighted))
def test_averages_and_sums_are_those_of_the_task_vectors(given_rows: tuple[Tensor, list[float]]) -> None:
    rows, weights = given_rows
    shares = torch.tensor(weights, dtype=torch.float64).unsqueeze(1)
    moved = (shares * (rows.double() - 1)).sum(dim=0)
    assert torch.allclose(add_rows(rows, weights).double(), 1 + moved, rtol=1e-6, atol=1e-2)
    assert torch.allclose(average_rows(rows, weights).double(), 1 + moved / shares.sum(), rtol=1e-6, atol=1e-3)


def test_a_sum_of_two_bases_is_the_base() -> None:
    assert same_bits(add_rows(torch.ones(2, 3), [1.0, 1.0]), torch.ones(3))
    assert same_bits(add_rows(torch.ones(2, 3), [0.1, 0.2]), torch.ones(3))
    assert same_bits(average_rows(torch.ones(3, 3), [0.1, 0.2, 0.4]), torch.ones(3))


def test_the_product_multiplies() -> None:
    rows = torch.tensor([[2.0, 0.0, -1.0], [0.5, 3.0, -2.0]])
    assert torch.equal(multiply_rows(rows), torch.tensor([1.0, 0.0, 2.0]))


def test_ties_trims_elects_and_takes_the_mean_of_those_that_agree() -> None:
    """The example of the paper's first figure in small: a large and a small positive, and a negative in their way."""
    task = torch.tensor([
        [0.9, 0.5, 0.1, -0.25],
        [0.3, -0.8, 0.1, 0.25],
        [-0.6, -0.4, 0.1, 0.0],
    ])  # fmt: skip
    merged = merge_rows_by_sign(1 + task, density=1.0)
    # elected: + (0.6), − (−0.7), +, and none where the sum is zero
    assert torch.allclose(merged - 1, torch.tensor([0.6, -0.6, 0.1, 0.0]))
    halved = merge_rows_by_sign(1 + task, density=0.5)  # two of four, two of four, two of three (rounded)
    assert torch.allclose(halved - 1, torch.tensor([0.6, -0.6, 0.0, 0.0]))


def test_ties_weighs_the_vote_and_the_mean() -> None:
    rows = 1 + torch.tensor([[0.4, 0.4], [-0.3, 0.1]])
    assert torch.allclose(merge_rows_by_sign(rows, [1.0, 2.0], density=1.0) - 1, torch.tensor([-0.3, 0.2]))


def test_the_density_counts_what_has_moved_so_that_the_layout_does_not_matter() -> None:
    row = torch.tensor([1.5, 1.4, 1.3, 1.2])
    wide = torch.cat([row, torch.ones(12)])
    assert torch.equal(merge_rows_by_sign(row[None], density=0.5), torch.tensor([1.5, 1.4, 1.0, 1.0]))
    assert torch.equal(merge_rows_by_sign(wide[None], density=0.5)[:4], torch.tensor([1.5, 1.4, 1.0, 1.0]))
    assert torch.equal(merge_rows_by_sign(row[None], density=0.001), torch.tensor([1.5, 1.0, 1.0, 1.0]))
    assert torch.equal(merge_rows_by_sign(torch.ones(2, 3), density=0.5), torch.ones(3))


def test_dare_drops_a_share_and_keeps_the_expectation() -> None:
    row = torch.full((20_000,), 1.5)
    dropped = drop_rows(row, 0.75, seed=3)
    assert set(dropped.unique().tolist()) == {1.0, 3.0}
    assert float((dropped == 1).float().mean()) == pytest.approx(0.75, abs=0.02)
    assert float(dropped.mean()) == pytest.approx(1.5, abs=0.05)


def test_dare_is_a_function_of_the_seed_and_not_of_the_rows_behind() -> None:
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    assert torch.equal(drop_rows(rows, 0.5, 1), drop_rows(rows, 0.5, 1))
    assert not torch.equal(drop_rows(rows, 0.5, 1), drop_rows(rows, 0.5, 2))
    assert torch.equal(drop_rows(rows, 0.5, 1)[:2], drop_rows(rows[:2], 0.5, 1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_each_request_of_a_batch_has_its_own_strength() -> None:
    rows = torch.tensor([[1.5, 0.5], [1.5, 0.5], [1.5, 0.5]])
    scaled = scale_row(rows, torch.tensor([0.0, 1.0, 2.0]))
    assert torch.equal(scaled, torch.tensor([[1.0, 1.0], [1.5, 0.5], [2.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_the_rows_stays_and_nothing_is_changed_in_place(dtype: torch.dtype) -> None:
    rows = torch.tensor([[1.5, -0.5], [0.25, 1.0]], dtype=dtype)
    before = rows.clone()
    results = (scale_row(rows, 0.5), average_rows(rows), add_rows(rows), multiply_rows(rows), drop_rows(rows, 0.5, 0))
    assert all(result.dtype == dtype for result in (*results, merge_rows_by_sign(rows)))
    results[0].zero_()
    assert torch.equal(rows, before)


def test_results_are_rounded_once() -> None:
    """0.1 and 0.2 are no binary fractions; in fp32 the sum of products would be rounded three times."""
    rows = torch.tensor([[1.1], [0.7], [0.3]])
    exact = (rows.double() * torch.tensor([[0.1], [0.2], [0.7]], dtype=torch.float64)).sum() / 1.0
    assert average_rows(rows, [0.1, 0.2, 0.7]).item() == exact.float().item()


def test_distance_and_cosine() -> None:
    one, other, base = torch.tensor([1.3, 1.4]), torch.tensor([0.7, 0.6]), torch.ones(2)
    assert distance_between(one, base) == pytest.approx(0.5)
    assert distance_between(one, other) == pytest.approx(1.0)
    assert cosine_between(one, other) == pytest.approx(-1.0)
    assert cosine_between(one, one) == 1.0
    assert cosine_between(one, base) is None


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: average_rows(torch.ones(2, 3), [1.0]), "got 1 weights (1), expected one finite number for each of 2"),
        (lambda: average_rows(torch.ones(2, 3), [1.0, float("nan")]), "got 2 weights (1, nan), expected one finite"),
        (
            lambda: average_rows(torch.ones(2, 3), [1.0, -1.0]),
            "Averaging adapters: the weights 1, -1 sum to 0, expected another sum. Add them (sum) instead.",
        ),
        (lambda: merge_rows_by_sign(torch.ones(2, 3), [1.0, 0.0]), "the weights are 1, 0, expected numbers above 0."),
        (lambda: merge_rows_by_sign(torch.ones(2, 3), density=0.0), "the density is 0.0, expected above 0 and"),
        (lambda: merge_rows_by_sign(torch.ones(2, 3), density=1.5), "the density is 1.5, expected above 0 and"),
        (lambda: drop_rows(torch.ones(3), 1.0, 0), "drop is 1.0, expected from 0 up to, but not, 1."),
        (lambda: drop_rows(torch.ones(3), float("nan"), 0), "drop is nan, expected from 0 up to, but not, 1."),
        (lambda: scale_row(torch.ones(3), float("inf")), "the strength is inf, expected a finite number."),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_one_sentence(call: Callable[[], object], told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)):
        call()


def test_a_result_that_is_not_finite_is_refused() -> None:
    with pytest.raises(AdapterError) as caught:
        scale_row(torch.tensor([1.0, 3e38]), 10.0)
    assert str(caught.value) == (
        "Combining adapters: 1 of the 2 numbers of the result are not finite. Give smaller weights or a smaller "
        "strength, and check the adapters."
    )
    with pytest.raises(AdapterError, match="are not finite"):
        average_rows(torch.tensor([[1.0, float("nan")]]))
