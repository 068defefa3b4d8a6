"""Batches: nothing is lost, the order is a pure function of seed and epoch, and padding is never a target."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.data.batches import (
    IGNORED,
    PASS_TOKENS,
    balanced_batches,
    collate,
    epoch_batches,
    pad_left,
    pad_right,
    pass_cost,
    split_by_tokens,
)
from ia3.data.encoding import Encoded
from ia3.errors import SettingsError

LENGTHS = st.lists(st.integers(1, 200), max_size=300)
SEEDS = st.integers(0, 2**40)


def encoded(index: int, prompt: tuple[int, ...], target: tuple[int, ...] = (), choice: int = -1) -> Encoded:
    return Encoded(index, prompt, target, choice, truncated=False)


# -- an epoch ----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 40), SEEDS, st.integers(0, 9))
def test_one_epoch_is_every_example_exactly_once(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    batches = epoch_batches(lengths, size, seed, epoch)

    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 40), SEEDS)
def test_every_batch_but_one_is_full(lengths: list[int], size: int, seed: int) -> None:
    sizes = sorted(map(len, epoch_batches(lengths, size, seed, 0)), reverse=True)

    assert sizes == [size] * (len(lengths) // size) + [len(lengths) % size] * (len(lengths) % size > 0)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 40), SEEDS, st.integers(0, 9))
def test_order_depends_on_nothing_but_the_arguments(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    first = epoch_batches(lengths, size, seed, epoch)
    random.seed(1)
    torch.manual_seed(2)

    assert epoch_batches(tuple(lengths), size, seed, epoch) == first


def test_the_order_of_a_seed_never_changes_so_that_old_runs_can_be_resumed() -> None:
    assert epoch_batches([3, 1, 4, 1, 5, 9, 2, 6], 3, seed=7, epoch=2) == [[0, 2, 4], [7, 5], [3, 1, 6]]


def test_epochs_and_seeds_differ() -> None:
    lengths = [i % 17 for i in range(200)]
    orders = {str(epoch_batches(lengths, 8, seed, epoch)) for seed in range(3) for epoch in range(3)}

    assert len(orders) == 9


def test_like_lengths_meet_in_a_batch() -> None:
    lengths = [i * 37 % 128 + 1 for i in range(512)]
    batches = epoch_batches(lengths, 8, 0, 0)
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)

    assert padded < 1.1 * sum(lengths)


def test_batches_do_not_come_by_length() -> None:
    lengths = [i + 1 for i in range(512)]
    longest = [max(lengths[i] for i in batch) for batch in epoch_batches(lengths, 8, 0, 0)]

    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


@pytest.mark.parametrize(
    ("size", "seed", "epoch", "told"),
    [
        (0, 0, 0, "batch_size is 0, expected at least 1"),
        (1, -1, 0, "seed is -1 and epoch 0, expected 0 or more"),
        (1, 0, -2, "seed is 0 and epoch -2, expected 0 or more"),
    ],
)
def test_impossible_arguments_are_refused(size: int, seed: int, epoch: int, told: str) -> None:
    with pytest.raises(SettingsError, match=f"Making batches: {told}"):
        epoch_batches([1, 2], size, seed, epoch)


# -- an epoch of labels that meet their own ----------------------------------------------------------------------------

CHOICES = st.lists(st.integers(0, 9), min_size=1, max_size=120)


@settings(deadline=None)
@given(CHOICES, st.integers(1, 70), SEEDS, st.integers(0, 9))
def test_one_balanced_epoch_is_every_example_once_in_batches_of_about_one_size(
    choices: list[int], size: int, seed: int, epoch: int
) -> None:
    batches = balanced_batches(choices, size, seed, epoch)
    sizes = [len(batch) for batch in batches]

    assert sorted(i for batch in batches for i in batch) == list(range(len(choices)))
    assert len(batches) == len(epoch_batches([1] * len(choices), size, seed, epoch))
    assert not sizes or (min(sizes) > 0 and max(sizes) <= 3 * size)  # groups are not cut


@settings(deadline=None)
@given(CHOICES, st.integers(4, 70), SEEDS, st.integers(0, 9))
def test_each_label_of_two_rows_meets_its_own(choices: list[int], size: int, seed: int, epoch: int) -> None:
    batches = balanced_batches(choices, size, seed, epoch)
    met = {choices[i] for batch in batches for i in batch if [choices[j] for j in batch].count(choices[i]) > 1}

    assert met == {label for label in choices if choices.count(label) > 1}


@settings(deadline=None)
@given(CHOICES, st.integers(1, 70), SEEDS, st.integers(0, 9))
def test_a_balanced_order_depends_on_nothing_but_the_arguments(
    choices: list[int], size: int, seed: int, epoch: int
) -> None:
    first = balanced_batches(choices, size, seed, epoch)
    random.seed(1)
    torch.manual_seed(2)

    assert balanced_batches(tuple(choices), size, seed, epoch) == first


def test_balanced_epochs_and_seeds_differ() -> None:
    orders = {str(balanced_batches([0, 1, 2] * 9, 6, seed, epoch)) for seed in range(3) for epoch in range(3)}

    assert len(orders) == 9


def test_a_batch_has_labels_in_their_shares() -> None:
    batches = balanced_batches([0] * 48 + [1] * 48 + [2] * 48, 12, seed=0, epoch=0)
    counts = [[i // 48 for i in batch].count(label) for batch in batches for label in range(3)]

    assert min(counts) >= 2 and max(counts) <= 6


# -- micro-batches -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 500), st.randoms())
def test_micro_batches_lose_nothing_and_stay_within_the_budget(
    lengths: list[int], budget: int, rng: random.Random
) -> None:
    indices = rng.sample(range(len(lengths)), rng.randint(0, len(lengths)))
    parts = split_by_tokens(indices, lengths, budget)

    assert sorted(i for part in parts for i in part) == sorted(indices)
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[i] for i in part) <= budget
    longest = [max(lengths[i] for i in part) for part in parts]
    assert longest == sorted(longest, reverse=True)


def test_an_example_longer_than_the_budget_goes_alone() -> None:
    assert split_by_tokens([0, 1, 2], [5, 90, 5], 10) == [[1], [0, 2]]


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(1, 200), st.integers(0, 90), st.integers(1, 7))
def test_micro_batches_cost_the_least_that_any_cuts_do(
    lengths: list[int], budget: int, pass_tokens: int, most: int
) -> None:
    ordered = sorted(lengths, reverse=True)
    every_cut = []
    for cuts in itertools.product((False, True), repeat=len(ordered) - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(ordered)]
        groups = [ordered[a:b] for a, b in itertools.pairwise(edges)]
        if all(len(g) == 1 or (len(g) * g[0] <= budget and len(g) <= most) for g in groups):
            every_cut.append(sum(pass_tokens + len(g) * g[0] for g in groups))

    parts = split_by_tokens(range(len(lengths)), lengths, budget, pass_tokens, most)

    assert sum(pass_tokens + len(p) * max(lengths[i] for i in p) for p in parts) == min(every_cut)


def test_long_and_short_examples_are_parted_where_their_padding_costs_more_than_a_pass() -> None:
    lengths = [100, 10, 100, 10]

    assert split_by_tokens(range(4), lengths, 1000, pass_tokens=96) == [[0, 2], [1, 3]]
    assert split_by_tokens(range(4), lengths, 1000, pass_tokens=200) == [[0, 2, 1, 3]]


def test_a_pass_costs_a_full_batch_where_it_was_not_measured() -> None:
    assert pass_cost(torch.device("cpu"), 4096) == PASS_TOKENS
    assert pass_cost(torch.device("meta"), 4096) == 4096


# -- padding -----------------------------------------------------------------------------------------------------------


def test_a_causal_batch_predicts_each_target_from_the_token_before_it() -> None:
    batch = collate([encoded(4, (7, 8, 9), (5, 1), 2), encoded(9, (6,), (3, 2, 1), 0)], "causal", pad_id=0)

    assert batch.input_ids.tolist() == [[7, 8, 9, 5, 1], [6, 3, 2, 1, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 5, 1, IGNORED], [3, 2, 1, IGNORED, IGNORED]]
    assert (batch.decoder_input_ids, batch.indices, batch.choices.tolist()) == (None, (4, 9), [2, 0])


def test_a_seq2seq_batch_shifts_its_targets_by_the_start_token() -> None:
    batch = collate([encoded(0, (7, 1), (5, 6, 1)), encoded(1, (8, 9, 1), (4, 1))], "seq2seq", 0, decoder_start_id=2)

    assert batch.input_ids.tolist() == [[7, 1, 0], [8, 9, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch.decoder_input_ids is not None and batch.decoder_input_ids.tolist() == [[2, 5, 6], [2, 4, 0]]
    assert batch.labels.tolist() == [[5, 6, 1], [4, 1, IGNORED]]


def test_an_encoder_batch_has_a_choice_for_each_example() -> None:
    batch = collate([encoded(0, (2, 7, 1), (), 1), encoded(1, (2, 1), (), 0)], "encoder", 0)

    assert batch.labels.tolist() == batch.choices.tolist() == [1, 0]
    assert set(batch.inputs) == {"input_ids", "attention_mask"}


def test_a_pad_token_that_is_the_end_token_stays_a_target() -> None:
    batch = collate([encoded(0, (7,), (5, 1)), encoded(1, (7,), (5, 6, 1))], "causal", pad_id=1)

    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch.labels.tolist()[0] == [5, 1, IGNORED, IGNORED]


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_the_targets_of_a_batch_are_those_of_its_examples(kind: str) -> None:
    examples = [encoded(i, tuple(range(3, 4 + i)), tuple(range(10, 12 + i % 3))) for i in range(7)]
    batch = collate(examples, kind, 0, 2)  # type: ignore[arg-type]

    assert int((batch.labels != IGNORED).sum()) == sum(len(e.target_ids) for e in examples)
    assert batch.to("cpu").labels.equal(batch.labels)


def test_a_seq2seq_base_without_a_start_token_is_refused() -> None:
    with pytest.raises(SettingsError, match="the base names no decoder_start_token_id"):
        collate([encoded(0, (7,), (5, 1))], "seq2seq", 0)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=6))
def test_padding_left_and_right_keeps_every_row(rows: list[list[int]]) -> None:
    longest = max(map(len, rows))
    right, left = pad_right(rows, 0), pad_left(rows, 0)

    assert right.shape == left.shape == (len(rows), longest) and right.dtype == left.dtype == torch.long
    for row, from_start, from_end in zip(rows, right.tolist(), left.tolist(), strict=True):
        assert from_start[: len(row)] == row and not any(from_start[len(row) :])
        assert from_end[longest - len(row) :] == row and not any(from_end[: longest - len(row)])
