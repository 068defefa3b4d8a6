"""The clock and the count of kept bytes, on methods whose numbers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.bases import Case, load_case
from benchmarks.measure import Timing, kept_bytes, loss_difference, paired_ratio, time_methods
from benchmarks.methods import NotAvailable, Recipe, Training, label_loss, shared_copy
from benchmarks.workload import Work, make_chunk


@pytest.fixture(scope="module")
def case() -> Case:
    return load_case("tiny", None)


class Recorder:
    """A method that writes down what is asked of it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def reset(self) -> None:
        self.log.append(f"{self.name} reset")

    def step(self, work: Work) -> float:
        self.log.append(f"{self.name} {work.number}")
        return float(work.number)


def recipe_of(name: str, log: list[str]) -> Recipe:
    return Recipe(lambda case, works: Recorder(name, log))


def test_methods_take_turns_and_begin_each_repeat_anew(case: Case) -> None:
    log: list[str] = []
    works = make_chunk(case, 2)
    found = time_methods(case, works, {n: recipe_of(n, log) for n in "ab"}, 2, lambda line: None)
    warm = ["a 0", "a 1", "b 0", "b 1"]
    a, b = (["%s reset", "%s 0", "%s 1"] for _ in "ab")
    turns = [step % name for name, steps in (("a", a), ("b", b), ("b", b), ("a", a)) for step in steps]
    assert log == warm + turns
    assert [len(timing.seconds) for timing in found.values()] == [2, 2]
    assert found["a"].losses == (0.0, 1.0)


def test_a_method_that_fails_leaves_the_others_their_numbers(case: Case) -> None:
    def absent(case: Case, works: Sequence[Work]) -> Any:
        raise NotAvailable("no such library")

    def broken(case: Case, works: Sequence[Work]) -> Any:
        raise ValueError("of width 3")

    recipes = {"absent": Recipe(absent), "good": recipe_of("good", []), "broken": Recipe(broken)}
    found = time_methods(case, make_chunk(case, 1), recipes, 1, lambda line: None)
    assert list(found) == list(recipes)
    assert found["absent"].skipped == "not available: no such library"
    assert found["broken"].skipped == "failed: ValueError: of width 3"
    assert found["good"].skipped is None and len(found["good"].seconds) == 1


def test_ratios_are_taken_within_a_repeat() -> None:
    mine, rival = Timing((1.0, 2.0, 4.0)), Timing((2.0, 2.0, 12.0))
    assert paired_ratio(mine, rival) == (2.0, 1.0, 3.0)


def test_the_largest_difference_of_any_loss_counts() -> None:
    assert loss_difference(Timing(losses=(1.0, 2.0)), Timing(losses=(1.5, 2.25))) == 0.5
    assert loss_difference(Timing(), Timing(losses=(1.5,))) is None


def test_a_kept_block_counts_once_and_weights_and_inputs_do_not(case: Case) -> None:
    (work,) = make_chunk(case, 1)
    weight = nn.Linear(4, 4, bias=False)
    x = torch.ones(3, 4, requires_grad=True)

    def compute(work: Work) -> torch.Tensor:
        y = weight(x).sigmoid()  # keeps x for the weight, the weight, and y
        z = y.sum() * work.batch.input_ids.float().sum()  # two scalars
        return (y.view(12) * y.view(12)).sum() + z  # y twice more

    blocks = 3 * 4 * 4 + 3 * 4 * 4 + 4 + 4
    assert kept_bytes(Training(weight, compute, ()), work) in (blocks, blocks - 4)


def test_a_shared_copy_has_the_memory_of_the_weights_and_its_own_modules(case: Case) -> None:
    copied = shared_copy(case.model)
    for (name, own), (_, other) in zip(case.model.named_parameters(), copied.named_parameters(), strict=True):
        assert own is not other and own.data_ptr() == other.data_ptr(), name
    assert copied.lm_head.weight is copied.model.embed_tokens.weight  # tied as before
    copied.requires_grad_(True)
    copied.lm_head = nn.Identity()
    assert not any(p.requires_grad for p in case.model.parameters())
    assert isinstance(case.model.lm_head, nn.Linear)


@pytest.mark.parametrize("base", ["tiny", "tiny-mt5", "tiny-bert"])
def test_a_reset_method_learns_the_same_again(base: str) -> None:
    case = load_case(base, None)
    works = make_chunk(case, 3)
    model = shared_copy(case.model)
    trained = [p for name, p in model.named_parameters() if "norm" in name.lower()]
    for parameter in trained:
        # trained in place: memory of its own
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)
    method = Training(model, lambda work: label_loss(model, case.kind, work), trained)
    first = [method.step(work) for work in works * 2]
    method.reset()
    assert [method.step(work) for work in works * 2] == first
    assert first[3] < first[0]
