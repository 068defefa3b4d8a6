"""Several templates in training: one is drawn for each example in each epoch, as seed and epoch say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ia3.training.learner import Learner
from ia3.training.tasks import Task
from ia3.training.variants import draw_variants
from tests.training.tasks import SHORT, copy_trained, make_task, run_loop, same_bits


def _task(bases: Path, kind: str = "causal") -> Task:
    """A task with a second template, whose prompts are one token longer."""
    task = make_task(bases, kind)
    longer = tuple(replace(e, prompt_ids=(*e.prompt_ids, 40)) for e in task.train)
    return replace(task, variants=(longer,))


@given(st.integers(0, 50), st.integers(1, 5), st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_a_draw_is_a_function_of_seed_and_epoch(examples: int, variants: int, seed: int, epoch: int) -> None:
    drawn = draw_variants(examples, variants, seed, epoch)

    assert drawn == draw_variants(examples, variants, seed, epoch)
    assert len(drawn) == examples and set(drawn) <= set(range(variants))


def test_every_template_has_its_share_and_epochs_and_seeds_differ() -> None:
    drawn = [draw_variants(3000, 3, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]

    assert all(900 < one.count(number) < 1100 for one in drawn for number in range(3))
    assert drawn[0] != drawn[1] != drawn[2] != drawn[0]


def test_an_epoch_has_every_row_once_with_one_of_its_templates(bases: Path) -> None:
    task = _task(bases)
    learner = Learner(task, SHORT)
    versions = [task.train, *task.variants]
    seen = []
    for step in range(learner.total):
        learner.state = replace(learner.state, step=step)
        seen += learner.next_examples()
    for epoch, part in enumerate((seen[:7], seen[7:])):
        drawn = draw_variants(7, 2, SHORT.seed, epoch)
        assert sorted(e.index for e in part) == list(range(7))
        assert all(e is versions[drawn[e.index]][e.index] for e in part)
        assert {len(e.prompt_ids) - len(task.train[e.index].prompt_ids) for e in part} == {0, 1}


def test_a_resumed_run_draws_the_same(bases: Path) -> None:
    settings = replace(SHORT, losses="lm+ul+ln")
    whole, part, rest, plain = (_task(bases) for _ in range(4))
    run_loop(whole, settings)
    _, watched = run_loop(part, settings, stop_after=4)
    run_loop(rest, settings, resume=watched.checkpoints[-1])
    run_loop(replace(plain, variants=()), settings)
    assert same_bits(copy_trained(whole), copy_trained(rest))
    assert not same_bits(copy_trained(whole), copy_trained(plain))
