"""What frozen first blocks give for each row of a task, kept from its first visit on.

Rows go through those blocks in groups that are a function of the task alone, so that a resumed run has the same bits.
This file knows tasks and their rows; which blocks may be left out is `fast.first_blocks`' matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ia3.core.modes import evaluating
from ia3.core.weights import input_device
from ia3.data.batches import collate, split_by_tokens
from ia3.data.encoding import Encoded
from ia3.fast.first_blocks import FirstBlocks
from ia3.training.settings import Settings
from ia3.training.t_few import learns_from_choices
from ia3.training.tasks import Task

MOST_BYTES = 2**28  # that are kept of one task, or of all tasks of a mixed run
_FEWEST_VISITS = 2  # of each row: with fewer nothing is gained


def make_cache(
    task: Task, settings: Settings, frozen: frozenset[int], steps: int, blocks: FirstBlocks, most_bytes: int
) -> HiddenCache | None:
    """Return an empty cache for the rows of a task; None where their output changes, is much, or is of no use.

    Args:
        task: The task.
        settings: Its settings.
        frozen: Numbers of the sites whose vectors are not trained.
        steps: How many it takes in all: a resumed run decides as the one before it.
        blocks: Of its model.
        most_bytes: That may be kept.
    """
    count = blocks.count(frozen)
    rows = [example for version in (task.train, *task.variants) for example in version]
    model = task.attachment.model
    token_bytes = model.config.get_text_config().hidden_size * next(model.parameters()).element_size()
    is_small = sum(map(len, rows)) * token_bytes <= most_bytes
    is_often = steps * settings.batch_size >= _FEWEST_VISITS * len(rows)
    # choices go on from a key-value cache that the first blocks must fill
    if not (count and is_small and is_often) or settings.dropout or learns_from_choices(settings.losses, task.kind):
        return None
    return HiddenCache(task, rows, settings.token_budget, blocks, count)


class HiddenCache:
    """The hidden states that frozen first blocks give for the rows of one task.

    Attributes:
        blocks: Of the model.
        count: How many are the first.
    """

    def __init__(self, task: Task, rows: Sequence[Encoded], token_budget: int, blocks: FirstBlocks, count: int) -> None:
        self.blocks, self.count = blocks, count
        self._task = task
        parts = split_by_tokens(range(len(rows)), [len(row) for row in rows], token_budget)
        groups = [[rows[place] for place in part] for part in parts]
        self._groups = {id(row): group for group in groups for row in group}  # the rows live as long as the task
        self._hidden: dict[int, Tensor] = {}  # tokens width

    def hidden(self, example: Encoded) -> Tensor:
        """Return what the first blocks give for a row of the task, shape (tokens, width)."""
        if id(example) not in self._hidden:
            self._run(self._groups[id(example)])
        return self._hidden[id(example)]

    def _run(self, rows: Sequence[Encoded]) -> None:
        model, kind = self._task.attachment.model, self._task.kind
        batch = collate(rows, kind, self._task.pad_id).to(input_device(model))
        inputs = {**batch.inputs, "rows": self._task.adapter} | ({} if kind == "encoder" else {"use_cache": False})
        with evaluating(model):
            found = self.blocks.run(inputs, self.count)
        self._hidden |= {id(row): found[place, : len(row)].clone() for place, row in enumerate(rows)}


@contextmanager
def behind_first_blocks(caches: Sequence[HiddenCache | None], examples: Sequence[Encoded]) -> Iterator[None]:
    """Let a pass of a micro-batch begin behind the first blocks, where what they give is kept for all its examples.

    Args:
        caches: Of the task of each example.
        examples: The micro-batch, padded at the end.
    """
    known = [cache for cache in caches if cache is not None]
    if len(known) < len(caches) or len({cache.count for cache in known}) > 1:
        yield
        return
    hidden = [cache.hidden(example) for cache, example in zip(known, examples, strict=True)]
    with known[0].blocks.given(pad_sequence(hidden, batch_first=True), known[0].count):
        yield
