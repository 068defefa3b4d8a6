"""What every method is measured on: a chunk of the same few length-bucketed steps, chosen once by a seed.

The steps are spread evenly over the lengths of an epoch's batches, so that a few of them stand for all. This file knows
token ids; it knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.bases import SEED, Case
from ia3.data.batches import IGNORED, Batch, collate, epoch_batches
from ia3.data.encoding import Encoded

BATCH_SIZE = 8
NOTEBOOK_LENGTH = 128  # tokens that the notebooks pad and cut every text to


@dataclass(frozen=True)
class Work:
    """One step's examples.

    Attributes:
        number: Of the step, from 0.
        batch: Padded to its own longest example.
        padded: The same examples padded and cut to 128 tokens; its labels are what `model(labels=…)` takes.
        targets: What the summed loss is divided by: target tokens, for encoders examples.
        tokens: Real tokens, prompts and answers, without padding.
    """

    number: int
    batch: Batch
    padded: Batch
    targets: int
    tokens: int

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self.batch.indices)


def make_chunk(case: Case, steps: int) -> tuple[Work, ...]:
    """Return the steps that every method of a base is measured on.

    Args:
        case: The base with its rows.
        steps: How many steps.
    """
    chosen = choose_batches([len(example) for example in case.examples], steps, SEED)
    return tuple(_work(case, number, [case.examples[i] for i in batch]) for number, batch in enumerate(chosen))


def choose_batches(lengths: Sequence[int], steps: int, seed: int) -> list[list[int]]:
    """Return batches of one epoch: in order of length and cut into equal parts, the middle one of each part.

    Args:
        lengths: Tokens of each example.
        steps: How many batches.
        seed: Decides the epoch's batches and the order of those chosen.

    Returns:
        Positions in `lengths`, batch by batch, in random order.
    """
    whole = [batch for batch in epoch_batches(lengths, BATCH_SIZE, seed, 0) if len(batch) == BATCH_SIZE]
    whole.sort(key=lambda batch: sum(lengths[i] for i in batch))
    middles = [whole[(2 * part + 1) * len(whole) // (2 * steps)] for part in range(steps)]
    order = torch.randperm(steps, generator=torch.Generator().manual_seed(seed)).tolist()
    return [middles[i] for i in order]


def _work(case: Case, number: int, examples: Sequence[Encoded]) -> Work:
    batch = collate(examples, case.kind, case.pad_id, case.decoder_start_id)
    targets = len(examples) if case.kind == "encoder" else sum(len(e.target_ids) for e in examples)
    return Work(number, batch, _padded(case, examples), targets, sum(len(e) for e in examples))


def _padded(case: Case, examples: Sequence[Encoded]) -> Batch:
    """Return the batch as the notebooks make it: every text 128 tokens, a causal model's labels all of them."""
    room = {e.index: NOTEBOOK_LENGTH - (len(e.target_ids) if case.kind == "causal" else 0) for e in examples}
    cut = [replace(e, prompt_ids=e.prompt_ids[: room[e.index]]) for e in examples]
    batch = collate(cut, case.kind, case.pad_id, case.decoder_start_id)
    ids = _widen(batch.input_ids, case.pad_id)
    mask = _widen(batch.attention_mask, 0)
    labels = ids.masked_fill(mask == 0, IGNORED) if case.kind == "causal" else batch.labels
    return Batch(ids, mask, None, labels, batch.choices, batch.indices)


def _widen(ids: Tensor, fill: int) -> Tensor:
    return functional.pad(ids, (0, NOTEBOOK_LENGTH - ids.shape[1]), value=fill)
