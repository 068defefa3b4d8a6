"""Numbers, sizes, times and columns as people read them."""

from __future__ import annotations

import pytest

from ia3.spelling import align_columns, size_in_words, time_in_words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (59.5, "1 min 0 s"), (3599, "59 min 59 s"), (7500, "2 h 5 min")]
)
def test_times_are_told_in_words(seconds: float, words: str) -> None:
    assert time_in_words(seconds) == words


def test_columns_are_aligned_to_their_side() -> None:
    assert align_columns([("a", "10"), ("bbb", "9")], right=[1]) == ["a    10", "bbb   9"]
    assert align_columns([("a", ""), ("bbb", "9")]) == ["a", "bbb  9"]


@pytest.mark.parametrize(
    ("size", "words"), [(12, "12 bytes"), (1234, "1.23 kB"), (1_130_496, "1.13 MB"), (2_500_000_000, "2.5 GB")]
)
def test_sizes_are_told_with_a_fitting_unit(size: int, words: str) -> None:
    assert size_in_words(size) == words
