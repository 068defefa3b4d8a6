"""What is put on a model comes off again, and nothing else does."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ia3.core.surgery import Surgery, has_entrance


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor, *, gain: float = 1.0, **kwargs: Any) -> Tensor:
        """Scale and map."""
        return self.linear(x) * gain


class _Log:
    """Notes each scope it opens."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @contextmanager
    def opened(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: Any) -> Iterator[None]:
        self.seen.append(("in", len(args), dict(kwargs), rows))
        try:
            yield
        finally:
            self.seen.append("out")


def test_an_entrance_takes_rows_and_opens_its_scope() -> None:
    block, log = _Block(), _Log()
    expected = block(torch.ones(1, 2), gain=2.0)
    surgery = Surgery(block)
    surgery.set_entrance("", log.opened)
    assert has_entrance(block)
    assert torch.equal(block(torch.ones(1, 2), gain=2.0, rows=["a"]), expected)
    assert log.seen == [("in", 1, {"gain": 2.0}, ["a"]), "out"]
    surgery.undo()
    assert not has_entrance(block)
    assert "forward" not in block.__dict__


def test_an_entrance_shows_the_signature_and_the_words_of_what_it_covers() -> None:
    block = _Block()
    Surgery(block).set_entrance("", _Log().opened)
    assert (
        str(inspect.signature(block.forward))
        == "(x: 'Tensor', *, gain: 'float' = 1.0, rows=None, **kwargs: 'Any') -> 'Tensor'"
    )
    assert block.forward.__doc__ == "Scale and map."
    assert not hasattr(block.forward, "__wrapped__")


def test_a_function_that_outlives_its_entrance_is_the_plain_one() -> None:
    block, log = _Block(), _Log()
    surgery = Surgery(block)
    surgery.set_entrance("", log.opened)
    kept = block.forward
    surgery.undo()
    assert torch.equal(kept(torch.ones(1, 2)), block(torch.ones(1, 2)))
    assert log.seen == []


def test_a_copy_enters_its_own_module() -> None:
    block = _Block()
    surgery = Surgery(block)
    surgery.set_entrance("", _Log().opened)
    copied = copy.deepcopy(block)
    with torch.no_grad():
        copied.linear.weight.zero_()
        copied.linear.bias.zero_()
    assert float(copied(torch.ones(1, 2)).detach().abs().max()) == 0.0
    assert float(block(torch.ones(1, 2)).detach().abs().max()) > 0.0


def test_hooks_and_attributes_come_off_and_those_of_others_stay() -> None:
    block, seen = _Block(), []
    others = block.linear.register_forward_hook(lambda *_: seen.append("theirs"))
    block.note = "before"
    surgery = Surgery(block)
    surgery.hook_output("linear", lambda *_: seen.append("ours"))
    surgery.hook_input("linear", lambda *_: seen.append("ours, before"))
    surgery.set("", "note", "ours")
    surgery.set("", "note", "ours again")
    surgery.set("linear", "mark", "ours")
    block(torch.ones(1, 2))
    assert seen == ["ours, before", "theirs", "ours"]
    surgery.undo()
    block(torch.ones(1, 2))
    assert seen[3:] == ["theirs"]
    assert block.note == "before"
    assert not hasattr(block.linear, "mark")
    others.remove()
    surgery.undo()
    assert block.note == "before"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_scope_is_left_with_any_exception(error: type[BaseException]) -> None:
    block, log = _Block(), _Log()
    Surgery(block).set_entrance("", log.opened)

    def fail(*_: Any) -> None:
        raise error

    block.linear.register_forward_hook(fail)
    with pytest.raises(error):
        block(torch.ones(1, 2))
    assert log.seen[-1] == "out"
