"""The first blocks once for each row: where no vector in them is trained, what they give does not change from step to
step.

A handful of rows goes through a model many times. `FirstBlocks.run` gives what comes out of the first blocks, and a
pass inside `FirstBlocks.given` begins behind them: the embedding, positions and masks are made as always, the first
blocks hand on what was given. This file knows blocks; which are frozen and what is kept is the training's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ia3.core.attach import Attachment
from ia3.core.modes import evaluating
from ia3.core.surgery import Surgery
from ia3.core.surroundings import surrounded, surroundings
from ia3.fast.last_block import path_of_blocks
from ia3.fast.trial import small_inputs

_TOLERANCE = 1e-4  # of a pass that begins behind blocks, relative to the largest number of a whole one


@dataclass(frozen=True)
class _Pass:
    """What a forward pass in this thread does with the first blocks.

    Attributes:
        count: How many there are.
        given: What they would give; None for a pass that ends with them.
        found: What they gave.
    """

    count: int
    given: Tensor | None
    found: list[Tensor] = field(default_factory=list)


@contextmanager
def first_blocks(attachment: Attachment) -> Iterator[FirstBlocks | None]:
    """Let the model's first blocks be left out of passes inside; gives None where its blocks are not understood.

    Args:
        attachment: The handle of the bank.
    """
    path = path_of_blocks(attachment.model, attachment.bank.plan.model_type)
    if path is None:
        yield None
        return
    surgery = Surgery(attachment.model)
    try:
        for number, block in enumerate(attachment.model.get_submodule(path).children()):
            surgery.set(f"{path}.{number}", "forward", partial(_run_block, number, block.forward))
        blocks = FirstBlocks(attachment, path)
        yield blocks if blocks.are_understood() else None
    finally:
        surgery.undo()


def _run_block(number: int, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    now: _Pass | None = surroundings().first_blocks
    if now is None:
        return plain(*args, **kwargs)
    is_first, is_last = number < now.count, number == now.count - 1
    if now.given is not None:
        return now.given if is_last else args[0] if is_first else plain(*args, **kwargs)
    if not is_first:
        return args[0]
    output = plain(*args, **kwargs)
    if is_last:
        now.found.append(output)
    return output


@dataclass(frozen=True, eq=False)
class FirstBlocks:
    """The blocks of a model whose first ones may be left out.

    Attributes:
        attachment: The handle of the bank.
        path: Of the list of blocks.
    """

    attachment: Attachment
    path: str

    def count(self, frozen: frozenset[int]) -> int:
        """Return how many of the first blocks have no site but frozen ones; at least one block is left.

        Args:
            frozen: Numbers of the frozen sites.
        """
        trained = [site.module for n, site in enumerate(self.attachment.bank.plan.sites) if n not in frozen]
        inside = [module.removeprefix(f"{self.path}.") for module in trained if module.startswith(f"{self.path}.")]
        return min((int(rest.partition(".")[0]) for rest in inside), default=0) if len(inside) == len(trained) else 0

    @torch.no_grad()
    def run(self, inputs: dict[str, Any], count: int) -> Tensor:
        """Return what the first blocks give, shape (batch, seq, width).

        Args:
            inputs: What the model is called with, rows included; no labels.
            count: How many blocks.
        """
        model, under_way = self.attachment.model, _Pass(count, None)
        with surrounded(first_blocks=under_way):
            getattr(model, model.base_model_prefix)(**inputs)  # an output head would take longer than the blocks
        return under_way.found[0]

    def given(self, hidden: Tensor, count: int) -> AbstractContextManager[None]:
        """Let passes inside begin behind the first blocks.

        Args:
            hidden: What they would give, shape (batch, seq, width); what stands at padded positions is of no matter.
            count: How many blocks.
        """
        return surrounded(first_blocks=_Pass(count, hidden))

    def are_understood(self) -> bool:
        """Whether a pass that begins behind the first block gives what a whole one gives; tried on three tokens."""
        model = self.attachment.model
        body = getattr(model, model.base_model_prefix)
        inputs = small_inputs(model)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        with evaluating(model), torch.no_grad():
            try:
                whole = body(**inputs)[0]
                hidden: Any = self.run(inputs, 1)
                if not isinstance(hidden, Tensor):
                    return False
                with self.given(hidden, 1):
                    part = body(**inputs)[0]
            except (AttributeError, IndexError, KeyError, TypeError, ValueError):
                return False  # a model that wants more than ids
        return part.shape == whole.shape and bool((part - whole).abs().max() <= _TOLERANCE * whole.abs().max())
