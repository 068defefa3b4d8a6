"""What surrounds a pass: put back as it was, a thread's own, and whole wherever a block is computed again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import pytest
import torch

from ia3.core.calls import Call
from ia3.core.surroundings import Surroundings, surrounded, surroundings
from tests.core.banks import attached_model
from tests.families import make_inputs


def test_a_scope_ends_with_what_was_before_it() -> None:
    outer, inner = frozenset({1}), frozenset({2, 3})
    with surrounded(frozen=outer):
        with pytest.raises(ValueError, match="inside"), surrounded(frozen=inner):
            assert surroundings().frozen == inner
            raise ValueError("inside")
        assert surroundings().frozen == outer
    assert surroundings().frozen == frozenset()


def test_a_scope_that_is_left_late_puts_back_nothing_but_its_own() -> None:
    def stream() -> Iterator[int]:
        with surrounded(wanted="the last"):
            yield 1

    streaming = stream()
    next(streaming)
    with surrounded(frozen=frozenset({1})):
        streaming.close()
        assert surroundings().frozen == {1} and surroundings().wanted is None


def test_a_scope_belongs_to_its_thread() -> None:
    seen: list[object] = []
    with surrounded(wanted="the last"):
        _in_another_thread(lambda: seen.append(surroundings().wanted))
    assert seen == [None]


@pytest.mark.parametrize("is_reentrant", [False, True], ids=["plain", "reentrant"])
def test_everything_survives_a_recomputation_in_another_thread(is_reentrant: bool) -> None:
    model, attachment = attached_model("llama", "a", "b", trainable=True)
    model.train().activation_checkpointing_enable({"use_reentrant": is_reentrant})
    model.enable_input_require_grads()
    stranger = object()
    with attachment.use("b"):
        scopes = surroundings().scopes
    call = Call((1,), 1, attachment.bank.snapshot, ())
    given = {
        "scopes": scopes,
        "calls": {stranger: (call, None)},
        "still": {id(attachment.bank): attachment.bank.snapshot},
        "frozen": frozenset({0}),
        "suspended": frozenset({(stranger, 1)}),
        "marks": [],
        "wanted": object(),
        "captured": [],
        "answer": torch.zeros(1),
        "first_blocks": object(),
    }
    names = [field.name for field in fields(Surroundings)]
    assert sorted(names) == sorted(given), "a new field: give it a value that it does not have by itself"
    seen: list[tuple[bool, Surroundings]] = []

    def note(*_: Any) -> None:
        seen.append((torch._C._current_graph_task_id() != -1, surroundings()))

    model.model.layers[0].self_attn.register_forward_hook(note)
    with surrounded(**given):
        hidden = model.model(**make_inputs("llama"), use_cache=False).last_hidden_state
    _in_another_thread(hidden.sum().backward)
    (was_recomputed, first), (is_recomputed, second) = seen
    assert is_recomputed and not was_recomputed
    for name in names:
        before, found = getattr(first, name), getattr(second, name)
        if name == "calls":  # the pass's own rows are gathered anew
            assert found[stranger] is before[stranger] is given[name][stranger]
            ((mine, scope),) = (entry for owner, entry in found.items() if owner is not stranger)
            assert (mine.rows, mine.snapshot, scope) == ((2,), attachment.bank.snapshot, scopes[-1][1])
        else:
            assert found is before and (before is given[name] or name == "marks"), name


def _in_another_thread(work: Callable[[], Any]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
