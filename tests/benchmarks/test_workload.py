"""The chunk of steps: whole batches of one epoch, spread over all lengths, the same in every process."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bases import load_case
from benchmarks.workload import BATCH_SIZE, NOTEBOOK_LENGTH, choose_batches, make_chunk
from ia3.data.batches import IGNORED


@given(st.lists(st.integers(1, 180), min_size=BATCH_SIZE, max_size=900), st.integers(1, 9), st.integers(0, 5))
def test_every_batch_is_whole_and_of_the_epoch(lengths: list[int], steps: int, seed: int) -> None:
    chosen = choose_batches(lengths, steps, seed)
    assert len(chosen) == steps
    assert chosen == choose_batches(lengths, steps, seed)
    for batch in chosen:
        assert len(set(batch)) == BATCH_SIZE
        assert all(0 <= i < len(lengths) for i in batch)


def test_the_chunk_has_the_tokens_of_the_epoch_on_average() -> None:
    lengths = [int(number) for number in torch.randint(4, 120, (1600,), generator=torch.Generator().manual_seed(0))]
    chosen = choose_batches(lengths, 6, seed=0)
    mean = sum(lengths[i] for batch in chosen for i in batch) / (6 * BATCH_SIZE)
    assert abs(mean - sum(lengths) / len(lengths)) < 3
    longest = sorted(max(lengths[i] for i in batch) for batch in chosen)
    assert longest[0] < 40 and longest[-1] > 90


def test_the_notebooks_batch_has_the_same_examples_at_128_tokens() -> None:
    for work in make_chunk(load_case("tiny", None), 3):
        assert work.padded.input_ids.shape == (BATCH_SIZE, NOTEBOOK_LENGTH)
        assert work.padded.indices == work.batch.indices
        length = work.batch.input_ids.shape[1]
        assert torch.equal(work.padded.input_ids[:, :length], work.batch.input_ids)
        is_real = work.padded.attention_mask == 1
        assert torch.equal(work.padded.labels[is_real], work.padded.input_ids[is_real])
        assert (work.padded.labels[~is_real] == IGNORED).all()
        assert work.tokens == int(work.batch.attention_mask.sum())
        assert work.targets == int((work.batch.labels != IGNORED).sum())
