"""What frozen first blocks give is kept for each row, of its own task, and training ends where it would without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ia3.fast.first_blocks import first_blocks
from ia3.training import loop
from ia3.training.hidden_cache import MOST_BYTES
from ia3.training.learner import Learner
from ia3.training.loop import train_together
from ia3.training.settings import Settings
from ia3.training.tasks import Callbacks, Task
from tests.training.tasks import ADAPTER, SHORT, copy_trained, make_task, same_bits

HALF = replace(SHORT, frozen_blocks=0.5)


def _trained(tasks: Sequence[Task], settings: Settings, *, is_mixed: bool = True) -> list[dict[str, Tensor]]:
    callbacks = Callbacks(evaluate=lambda adapters: [None for _ in adapters])
    train_together([(task, settings) for task in tasks], callbacks, run="a run", is_mixed=is_mixed)
    return [copy_trained(task) for task in tasks]


def _passes(task: Task) -> list[int]:
    """Return a list that grows by the examples of each pass through the first block's first projection."""
    seen: list[int] = []
    site = task.attachment.bank.plan.sites[0]
    task.attachment.model.get_submodule(site.module).register_forward_hook(
        lambda module, args, output: seen.append(len(args[0]))
    )
    return seen


@pytest.mark.parametrize("changes", [{}, {"class_weights": True}], ids=str)
@pytest.mark.parametrize("versions", [1, 3])
@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_row_goes_through_the_first_blocks_once_and_the_end_is_the_same(
    kind: str, versions: int, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(HALF, epochs=2 * versions, **changes)
    task = _with_variants(make_task(tmp_path, kind), versions)
    kept = _passes(task)
    (found,) = _trained([task], settings)
    monkeypatch.setattr(loop, "MOST_BYTES", 0)
    plain = _with_variants(make_task(tmp_path, kind), versions)
    seen = _passes(plain)
    (expected,) = _trained([plain], settings)
    visits = settings.epochs * len(task.train)
    assert sum(seen) - sum(kept) == visits - versions * len(task.train)  # beside passes that try what is put on
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9)


def _with_variants(task: Task, versions: int) -> Task:
    """Return a task whose rows are there in several versions, as further templates make them."""
    longer = [
        tuple(replace(row, prompt_ids=(*row.prompt_ids, *row.prompt_ids[-1:] * n)) for row in task.train)
        for n in range(1, versions)
    ]
    return replace(task, variants=tuple(longer))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("causal", {"losses": "lm+ul+ln"}),
        ("causal", {"dropout": True}),
        ("causal", {"max_steps": 4}),
        ("causal", {"frozen_blocks": 0.0}),
        ("seq2seq", {}),
    ],
    ids=str,
)
def test_nothing_is_kept_where_it_changes_or_is_of_no_use(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    task = make_task(tmp_path, kind)
    settings = replace(HALF, **changes)
    one = Learner(task, settings)
    with first_blocks(task.attachment) as blocks:
        if blocks is not None:
            one.make_cache(blocks, MOST_BYTES)
    assert one.cache is None


def test_what_tasks_apart_keep_does_not_depend_on_how_many_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = make_task(tmp_path, "causal")
    width = alone.attachment.model.config.hidden_size
    monkeypatch.setattr(loop, "MOST_BYTES", sum(map(len, alone.train)) * width * 8)  # of one in float64
    (expected,) = _trained([alone], HALF)
    first = make_task(tmp_path, "causal")
    first.attachment.add("second")
    second = _with_vectors(replace(first, adapter="second"), "second", 2)
    seen = _passes(first)
    found = _trained([first, second], HALF, is_mixed=False)
    assert same_bits(found[0], expected)
    apart = sum(seen)
    first.attachment.bank.set_vector(ADAPTER, torch.ones(first.attachment.bank.plan.width))
    seen.clear()
    _trained([first, second], HALF)
    assert sum(seen) > apart  # mixed, they share what there is


@pytest.mark.parametrize("is_mixed", [True, False], ids=["mixed", "apart"])
def test_tasks_with_the_same_rows_and_other_vectors_keep_their_own(is_mixed: bool, tmp_path: Path) -> None:
    alone = []
    for seed in (1, 2):
        task = _with_vectors(make_task(tmp_path, "causal"), ADAPTER, seed)
        alone += _trained([task], HALF)
    first = _with_vectors(make_task(tmp_path, "causal"), ADAPTER, 1)
    first.attachment.add("second")
    second = _with_vectors(replace(first, adapter="second"), "second", 2)
    found = _trained([first, second], HALF, is_mixed=is_mixed)
    for one, expected in zip(found, alone, strict=True):
        if is_mixed:
            torch.testing.assert_close(one["vectors"], expected["vectors"], rtol=1e-8, atol=1e-8)
        else:
            assert same_bits(one, expected)


def _with_vectors(task: Task, name: str, seed: int) -> Task:
    bank = task.attachment.bank
    bank.set_vector(name, 1 + 0.2 * torch.randn(bank.plan.width, generator=torch.Generator().manual_seed(seed)))
    return task
