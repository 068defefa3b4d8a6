"""What the first blocks give for each row of a task, kept where none of their vectors is trained.

The rows go through those blocks once, before the first step and in an order of their own, so that a resumed run keeps
the same bits. This file knows tasks and their rows; which blocks may be left out is `core.fast.first_blocks`' matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ia3.core.fast.first_blocks import FirstBlocks
from ia3.core.modes import evaluating
from ia3.data.batches import collate, split_by_tokens
from ia3.data.encoding import Encoded
from ia3.training.settings import Settings
from ia3.training.t_few import learns_from_choices
from ia3.training.tasks import Task

MOST_BYTES = 2**30  # that are kept of all tasks of a run
_FEWEST_VISITS = 2.0  # of each row, below which nothing is gained


@dataclass(frozen=True)
class KeptRows:
    """What the first blocks give for the rows of one task.

    Attributes:
        blocks: Of the model.
        count: How many are the first.
        hidden: What they give for an example, by its `id`, each of shape (tokens, width).
    """

    blocks: FirstBlocks
    count: int
    hidden: dict[int, Tensor]


def keep_rows(
    task: Task, settings: Settings, held: frozenset[int], steps: int, blocks: FirstBlocks, most_bytes: int
) -> KeptRows | None:
    """Return what the first blocks give for the rows of a task; None where it changes, is too much, or gains nothing.

    Args:
        task: The task; its row of the bank has the numbers that it begins with.
        settings: Its settings.
        held: Numbers of the sites whose vectors are not trained.
        steps: How many it takes in all: a resumed run decides as the one before it.
        blocks: Of its model.
        most_bytes: That may be kept.
    """
    count = blocks.count(held)
    rows = [example for version in (task.train, *task.variants) for example in version]
    width = task.attachment.model.config.get_text_config().hidden_size
    element = next(task.attachment.model.parameters()).element_size()
    is_small = sum(map(len, rows)) * width * element <= most_bytes
    is_often = steps * settings.batch_size >= _FEWEST_VISITS * len(rows)
    # choices go on from a cache that the first blocks must fill
    if not (count and is_small and is_often) or settings.dropout or learns_from_choices(settings.losses, task.kind):
        return None
    return KeptRows(blocks, count, _run(task, rows, settings.token_budget, blocks, count))


def _run(task: Task, rows: Sequence[Encoded], budget: int, blocks: FirstBlocks, count: int) -> dict[int, Tensor]:
    device = next(task.attachment.model.parameters()).device
    found: dict[int, Tensor] = {}
    with evaluating(task.attachment.model):
        for part in split_by_tokens(range(len(rows)), [len(row) for row in rows], budget):
            chosen = [rows[place] for place in part]
            batch = collate(chosen, task.kind, task.pad_id).to(device)
            cache = {} if task.kind == "encoder" else {"use_cache": False}
            hidden = blocks.run({**batch.inputs, **cache, "rows": task.adapter}, count)
            found |= {id(row): hidden[place, : len(row)].clone() for place, row in enumerate(chosen)}
    return found


@contextmanager
def behind_first_blocks(kept: Sequence[KeptRows | None], examples: Sequence[Encoded]) -> Iterator[None]:
    """Let a pass of a micro-batch begin behind the first blocks, where what they give is kept for all its examples.

    Args:
        kept: Of the task of each example.
        examples: The micro-batch, padded at the end.
    """
    first = kept[0]
    if first is None or any(one is None or one.count != first.count for one in kept):
        yield
        return
    rows = [one.hidden[id(example)] for one, example in zip(kept, examples, strict=True) if one is not None]
    with first.blocks.given(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), first.count):
        yield
