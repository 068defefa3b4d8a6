"""What the first blocks give is kept for each row, of its own task, and training ends where it would without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ia3.core.fast.first_blocks import first_blocks
from ia3.training import learner
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


@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_row_goes_through_the_first_blocks_once_and_the_end_is_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(tmp_path, kind)
    kept = _passes(task)
    (found,) = _trained([task], HALF)
    monkeypatch.setattr(learner, "MOST_BYTES", 0)
    plain = make_task(tmp_path, kind)
    seen = _passes(plain)
    (expected,) = _trained([plain], HALF)
    assert sum(seen) - sum(kept) == (SHORT.epochs - 1) * len(task.train)  # beside passes that try what is put on
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-9)


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
    one = learner.Learner(task, settings)
    with first_blocks(task.attachment) as blocks:
        one.keep_rows(blocks, 1)
    assert one.kept is None


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
