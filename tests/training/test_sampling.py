"""Sampling: weights by size, turns spread evenly, and a shared stage drawn from all tasks."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.training.sampling import Sampling, draw_shared, has_turn


@given(sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=8), temperature=st.floats(1, 50))
def test_weights_lie_between_those_of_size_and_equal_ones_and_the_largest_is_one(
    sizes: list[int], temperature: float
) -> None:
    weights = Sampling("temperature", temperature).weights(sizes)
    proportional = Sampling("proportional").weights(sizes)
    assert max(weights) == 1.0
    assert all(low <= weight <= 1.0 for low, weight in zip(proportional, weights, strict=True))
    assert Sampling("equal").weights(sizes) == (1.0,) * len(sizes)
    assert Sampling("temperature", math.inf).weights(sizes) == (1.0,) * len(sizes)
    assert Sampling("temperature", 1.0).weights(sizes) == pytest.approx(proportional)


@given(weight=st.floats(0.001, 1.0), rounds=st.integers(1, 2000))
def test_turns_are_spread_evenly(weight: float, rounds: int) -> None:
    turns = sum(has_turn(weight, number) for number in range(rounds))
    assert turns == math.floor(rounds * weight)


def test_what_cannot_be_a_sampling_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"there is no 'propotional', .* Did you mean 'proportional'\?"):
        Sampling("propotional")
    for temperature in (0.5, math.nan):
        with pytest.raises(SettingsError, match=r"the temperature is .*, expected at least 1"):
            Sampling("temperature", temperature)


def _table(task: int, rows: int) -> list[Encoded]:
    return [Encoded(i, (task,), (i,), 0, truncated=False) for i in range(rows)]


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4), count=st.integers(0, 60), seed=st.integers(0, 99))
def test_a_shared_stage_takes_each_tasks_rows_in_passes_and_is_a_function_of_the_seed(
    sizes: list[int], count: int, seed: int
) -> None:
    tables = [_table(task, rows) for task, rows in enumerate(sizes)]
    drawn = draw_shared(tables, count, Sampling("proportional"), seed)
    assert len(drawn) == count and drawn == draw_shared(tables, count, Sampling("proportional"), seed)
    for task in range(len(sizes)):
        times = Counter(e.index for e in drawn if e.prompt_ids == (task,))
        full = list(times.values()) + [0] * (sizes[task] - len(times))
        assert max(full) - min(full) <= 1


def test_a_shared_stage_follows_the_sampling() -> None:
    tables = [_table(0, 900), _table(1, 100)]

    def share(sampling: Sampling) -> float:
        return sum(e.prompt_ids == (1,) for e in draw_shared(tables, 4000, sampling, 0)) / 4000

    assert share(Sampling("equal")) == pytest.approx(0.5, abs=0.03)
    assert share(Sampling("proportional")) == pytest.approx(0.1, abs=0.02)
    assert share(Sampling("temperature", 2.0)) == pytest.approx(0.25, abs=0.03)
