from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ia3.adapters.half import DTYPES, halve, halve_as, restore

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(numbers=st.lists(FINITE, max_size=20))
def test_the_nearer_dtype_is_taken_and_its_error_is_the_largest_difference(numbers: list[float]) -> None:
    vector = torch.tensor(numbers, dtype=torch.float32)
    half = halve(vector)
    assert half.numbers.dtype in DTYPES and half.numbers.shape == vector.shape
    assert half.error == min(halve_as(vector, dtype).error for dtype in DTYPES)
    if numbers and math.isfinite(half.error):
        assert half.error == float((restore(half.numbers).double() - vector.double()).abs().max())


@given(numbers=st.lists(st.floats(-1, 3, width=32), min_size=1, max_size=20))
def test_near_one_the_error_is_a_two_thousandth_of_the_distance_from_one(numbers: list[float]) -> None:
    vector = torch.tensor(numbers, dtype=torch.float32)
    half = halve(vector)
    assert half.numbers.dtype == torch.float16
    # half a step of float16 at the largest |l - 1|, and a rounding of the sum with one
    assert half.error <= float((vector - 1).abs().max()) * 2**-11 + 2**-23


def test_one_is_exact_and_a_small_step_from_it_is_kept() -> None:
    vector = torch.tensor([1.0, 1.0001, 0.9999])
    assert restore(halve(vector).numbers)[0] == 1
    assert restore(halve(vector).numbers)[1:].sub(1).abs() == pytest.approx([1e-4, 1e-4], rel=2e-3)
    assert vector.half()[1] == 1  # where l itself would have lost it


def test_numbers_beyond_float16_are_kept_in_bfloat16() -> None:
    assert halve(torch.tensor([1e6, 1.0])).numbers.dtype == torch.bfloat16
    assert math.isinf(halve_as(torch.tensor([1e6]), torch.float16).error)
