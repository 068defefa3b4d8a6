"""Which outputs a model writes over: OLMo's attention clamps its keys and values in place, behind the vectors.

The multiply keeps its output for the backward pass, which is lost where the model writes over it; there it must keep
its input. Nobody says which models do that, so it is seen: a mark that shares the version counter of an output, and
none of its memory, is looked at when the pass has ended. Until an output was seen to be left alone, its input is kept.
This file knows outputs and groups; it knows nothing of rows and modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ia3.core.calls import Group
from ia3.core.surroundings import surrounded, surroundings


@dataclass(frozen=True, eq=False)
class _Mark:
    """An output of a pass under way.

    Attributes:
        group: Number of the group it belongs to.
        counter: A tensor without numbers that shares the output's version counter.
        version: What the counter said.
    """

    group: int
    counter: Tensor
    version: int


@dataclass
class Overwriting:
    """What is known of the outputs of one attached model.

    A model may do in training what it does not do in evaluation, so both are seen apart.

    Attributes:
        groups: Numbers of the groups whose outputs are multiplied.
        left_alone: Group and mode of those that a whole pass has left alone.
        overwritten: Numbers of those that were written over.
    """

    groups: frozenset[int]
    left_alone: set[tuple[int, bool]] = field(default_factory=set)
    overwritten: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, source: str, groups: Sequence[Group]) -> Overwriting:
        """Return what is known before anything has run: the modeling code of the families in the table was read.

        Args:
            source: What the plan was made from.
            groups: Its groups.
        """
        multiplied = frozenset(number for number, group in enumerate(groups) if group.side == "output")
        known = multiplied if source == "family" else ()
        return cls(multiplied, {(number, is_training) for number in known for is_training in (False, True)})

    def kept(self, is_training: bool) -> frozenset[int]:
        """Return the numbers of the groups whose inputs are kept."""
        return frozenset(group for group in self.groups if (group, is_training) not in self.left_alone)

    def is_seen(self, is_training: bool) -> bool:
        """Whether it is known of every group in a mode."""
        return self.kept(is_training) <= self.overwritten

    @contextmanager
    def watched(self, is_training: bool) -> Iterator[None]:
        """Be in a forward pass; a pass that ends in an error shows nothing."""
        marks: list[_Mark] = []
        with surrounded(marks=marks):
            yield
        if not marks:
            return
        self.overwritten |= {one.group for one in marks if one.counter._version != one.version}
        seen = {(one.group, is_training) for one in marks}
        self.left_alone = {entry for entry in self.left_alone | seen if entry[0] not in self.overwritten}

    def look_at(self, group: int, output: Tensor, is_training: bool) -> None:
        """Mark an output of the pass under way, if nothing is known of its group and it can be seen."""
        marks = surroundings().marks
        is_known = group in self.overwritten or (group, is_training) in self.left_alone
        if is_known or marks is None or torch.compiler.is_compiling() or output.is_inference():
            return
        counter = output.detach()  # shares the version counter
        counter.data = output.new_empty(0)  # and keeps it, with other numbers
        marks.append(_Mark(group, counter, output._version))
