"""Batches: which examples go together, in which order, and how they are padded.

Order is a pure function of (seed, epoch): resuming needs two integers. Examples of like length meet in a batch. An
optimizer step is one batch; the token budget only splits it into micro-batches. This file knows token ids and lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.names import Kind

IGNORED = -100
PASS_TOKENS = 96  # that a pass of a model costs on a processor before its first token; see benchmarks/LOG.md
_POOL = 64  # batches that are sorted by length together: enough to waste little padding, few enough to stay random


@dataclass(frozen=True)
class Batch:
    """Examples padded to one length; every tensor is int64."""

    input_ids: Tensor  # (batch, seq)
    attention_mask: Tensor  # (batch, seq), 0 at padding
    decoder_input_ids: Tensor | None  # (batch, target_seq), seq2seq only
    labels: Tensor  # token to predict at each position, -100 elsewhere: (batch, seq) causal, (batch, target_seq)
    #                 seq2seq; choice of each example for encoders: (batch,)
    choices: Tensor  # position of each example's label in the label set, -1 for none: (batch,)
    indices: tuple[int, ...]  # positions of the examples in their table

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        decoder = None if self.decoder_input_ids is None else self.decoder_input_ids.to(device)
        return Batch(
            self.input_ids.to(device),
            self.attention_mask.to(device),
            decoder,
            self.labels.to(device),
            self.choices.to(device),
            self.indices,
        )

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the model is called with."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        if self.decoder_input_ids is not None:
            inputs["decoder_input_ids"] = self.decoder_input_ids
        return inputs


def epoch_batches(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return one epoch's batches: every example exactly once, like lengths together, in random order.

    Args:
        lengths: Number of tokens of each example.
        batch_size: Examples in a batch; the last one of the epoch may have fewer.
        seed: The run's seed.
        epoch: Number of the epoch, from 0.

    Returns:
        Positions in `lengths`, batch by batch; a pure function of the arguments.

    Raises:
        SettingsError: If the batch size is below one, or seed or epoch below zero.

    Example:
        >>> sorted(i for batch in epoch_batches([5, 9, 5, 8, 7], 2, seed=0, epoch=0) for i in batch)
        [0, 1, 2, 3, 4]
    """
    if batch_size < 1:
        raise SettingsError(f"Making batches: batch_size is {batch_size}, expected at least 1.")
    if seed < 0 or epoch < 0:
        raise SettingsError(f"Making batches: seed is {seed} and epoch {epoch}, expected 0 or more.")
    random = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = random.permutation(len(lengths)).tolist()
    pool = _POOL * batch_size
    batches = [
        batch
        for start in range(0, len(order), pool)
        for batch in _chunks(sorted(order[start : start + pool], key=lambda i: lengths[i]), batch_size)
    ]
    return [batches[i] for i in random.permutation(len(batches)).tolist()]


def balanced_batches(choices: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return one epoch's batches in which labels meet others of their own: every example once, labels in their shares.

    Each label's examples come in groups of about `batch_size / labels`, two at the least, and the groups of a label are
    spread evenly over the epoch.

    Args:
        choices: Label of each example.
        batch_size: About how many examples a batch has: groups are not cut. Of batches there are as many as of
            `epoch_batches`.
        seed: The run's seed.
        epoch: Number of the epoch, from 0.

    Returns:
        Positions in `choices`, batch by batch; a pure function of the arguments.

    Example:
        >>> batches = balanced_batches([0, 0, 0, 0, 1, 1, 1, 1], 4, seed=0, epoch=0)
        >>> [sorted([0, 0, 0, 0, 1, 1, 1, 1][i] for i in batch) for batch in batches]
        [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    random = np.random.Generator(np.random.PCG64([seed, epoch]))
    labels = np.asarray(choices, dtype=np.int64)
    own = [random.permutation(np.flatnonzero(labels == label)).tolist() for label in sorted(set(choices))]
    size = max(2, batch_size // max(1, len(own)))
    placed: list[tuple[float, int, list[int]]] = []
    for number, places in enumerate(own):
        count = max(1, len(places) // size)
        groups = [places[i::count] for i in range(count)]
        placed += [((i + random.random()) / count, number, group) for i, group in enumerate(groups)]
    groups = [group for _, _, group in sorted(placed)]
    cut = _cut_evenly(groups, -(-len(choices) // batch_size))
    return [[place for group in part for place in group] for part in cut]


def _cut_evenly(groups: Sequence[list[int]], count: int) -> list[list[list[int]]]:
    """Return groups in so many runs of about as many items, none of them empty and no group cut if it can be."""
    if len(groups) < count:
        groups = [[item] for group in groups for item in group]
    ends = np.cumsum([0, *map(len, groups)])
    cuts = [0]
    for number in range(1, count):
        possible = np.arange(cuts[-1] + 1, len(groups) - (count - number) + 1)
        cuts.append(int(possible[np.abs(ends[possible] - number * ends[-1] / count).argmin()]))
    return [list(groups[start:end]) for start, end in zip(cuts, [*cuts[1:], len(groups)], strict=True)] if count else []


def split_by_tokens(
    indices: Sequence[int], lengths: Sequence[int], budget: int, pass_tokens: int = PASS_TOKENS, most: int | None = None
) -> list[list[int]]:
    """Split examples into batches of like length whose padded size stays within a budget, at the least predicted cost.

    A batch is predicted to cost its tokens, padding included, and `pass_tokens` for the pass itself. The lengths at
    which batches are cut are those of the examples given: the shortest path over them in order of length is exact.

    Args:
        indices: Positions of the examples.
        lengths: Number of tokens of every example of the table.
        budget: Most tokens of a batch, padding included; an example longer than that goes alone.
        pass_tokens: What one more pass costs, in tokens; see `pass_cost`.
        most: Most examples of a batch; None for any number.

    Returns:
        The batches, longest examples first; together exactly `indices`.

    Example:
        >>> split_by_tokens([0, 1, 2, 3], [90, 9, 90, 9], budget=1000)
        [[0, 2], [1, 3]]
    """
    order = sorted(indices, key=lambda i: -lengths[i])
    longest = np.array([lengths[i] for i in order], dtype=np.int64)
    cost = np.zeros(len(order) + 1)  # of the first so many examples
    begins = np.zeros(len(order) + 1, dtype=np.int64)  # of the last batch of the first so many
    first = 0
    for end in range(1, len(order) + 1):
        while first < end - 1 and ((end - first) * longest[first] > budget or (most and end - first > most)):
            first += 1
        starts = np.arange(first, end)
        costs = cost[first:end] + pass_tokens + (end - starts) * longest[first:end]
        best = int(costs.argmin())
        cost[end], begins[end] = costs[best], first + best
    parts: list[list[int]] = []
    end = len(order)
    while end:
        parts.append(order[begins[end] : end])
        end = int(begins[end])
    return parts[::-1]


def pass_cost(device: torch.device, budget: int) -> int:
    """Return what one more pass costs, in tokens: measured on processors; elsewhere as much as a full batch."""
    return PASS_TOKENS if device.type == "cpu" else budget


def collate(encoded: Sequence[Encoded], kind: Kind, pad_id: int, decoder_start_id: int | None = None) -> Batch:
    """Pad examples into a batch for training or for their own targets' loss.

    Args:
        encoded: The examples.
        kind: Kind of the base.
        pad_id: Token id of padding; it is masked out.
        decoder_start_id: First decoder token; seq2seq only.

    Returns:
        The batch.
    """
    indices = tuple(e.index for e in encoded)
    choices = torch.tensor([e.choice for e in encoded], dtype=torch.long)
    if kind == "causal":
        ids = pad_right([(*e.prompt_ids, *e.target_ids) for e in encoded], pad_id)
        mask = pad_right([(1,) * len(e) for e in encoded], 0)
        # the position before a target token predicts it
        labels = pad_right([(IGNORED,) * (len(e.prompt_ids) - 1) + e.target_ids + (IGNORED,) for e in encoded], IGNORED)
        return Batch(ids, mask, None, labels, choices, indices)
    ids = pad_right([e.prompt_ids for e in encoded], pad_id)
    mask = pad_right([(1,) * len(e.prompt_ids) for e in encoded], 0)
    if kind == "encoder":
        return Batch(ids, mask, None, choices, choices, indices)
    if decoder_start_id is None:
        raise SettingsError("Making batches: the base names no decoder_start_token_id, expected one in its config.")
    decoder = pad_right([(decoder_start_id, *e.target_ids[:-1]) for e in encoded], pad_id)
    return Batch(ids, mask, decoder, pad_right([e.target_ids for e in encoded], IGNORED), choices, indices)


def pad_right(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Return int64 rows padded at the end to the longest, shape (rows, longest)."""
    longest = max((len(row) for row in rows), default=0)
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows], dtype=torch.long)


def pad_left(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Return int64 rows padded at the front to the longest, shape (rows, longest)."""
    longest = max((len(row) for row in rows), default=0)
    return torch.tensor([[*[fill] * (longest - len(row)), *row] for row in rows], dtype=torch.long)


def _chunks(items: Sequence[int], size: int) -> list[list[int]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
