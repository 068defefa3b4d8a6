"""transformers' continuous batching on a model with a bank: the answers of `generate` in the same scope, or an error.

It runs the model in a thread of its own and swallows arguments that it does not know, so `rows=` was dropped and the
scopes around it were not seen: requests were answered by another adapter than the one asked for, in silence.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from ia3.core.attach import Attachment
from ia3.core.strengths import AtStrength
from ia3.errors import BankError
from ia3.peft import IA3Config, get_peft_model
from tests.core.banks import attached_model, random_row, tiny_model
from tests.families import VOCABULARY

SETTINGS = {"do_sample": False, "max_new_tokens": 4, "eos_token_id": -1, "pad_token_id": 0}
PROMPTS = torch.randint(3, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(4))
NAMES = ("a", "b", "__base__")


class Answers:
    """A model of two adapters, of which `a` is active, and what `generate` answers by each."""

    def __init__(self) -> None:
        model, attachment = attached_model("llama", "a", "b")
        attachment.activate("a")
        self.model: Any = model
        self.attachment: Attachment = attachment
        self.expected = {name: self._generated(name) for name in NAMES}
        assert len({str(answer) for answer in self.expected.values()}) == len(NAMES)

    def _generated(self, name: str) -> list[list[int]]:
        out = self.model.generate(PROMPTS, rows=name, generation_config=GenerationConfig(**SETTINGS))
        return [sequence[PROMPTS.shape[1] :].tolist() for sequence in out]

    def who(self, answer: list[list[int]]) -> str:
        return next(name for name, known in self.expected.items() if known == answer)

    def batch(self, **options: Any) -> str:
        return self.who(_batch(self.model, **options))

    def scoped(self, name: str | None) -> Any:
        return nullcontext() if name is None else self.attachment.use(name)


def _batch(model: Any, **options: Any) -> list[list[int]]:
    given = {"generation_config": GenerationConfig(**SETTINGS), "warmup": False, **options}
    out = model.generate_batch(PROMPTS.tolist(), continuous_batching_config=_small(), **given)
    return [result.generated_tokens for result in out.values()]


def _small() -> ContinuousBatchingConfig:
    return ContinuousBatchingConfig(page_size=8, num_blocks=16, max_batch_tokens=64)


@pytest.fixture
def answers() -> Iterator[Answers]:
    made = Answers()
    yield made
    made.model.destroy_cached_continuous_batching_manager()


def test_a_batch_is_answered_by_the_rows_that_are_given_or_the_scope_around_it(answers: Answers) -> None:
    assert answers.batch() == "a"
    assert answers.batch(rows="b") == "b"
    assert answers.batch(adapter_names=["__base__", "__base__"]) == "__base__"
    with answers.attachment.rows(["b", "b"]):
        assert answers.batch(rows="a") == "a"
        assert answers.batch() == "b"
    with answers.attachment.disabled():
        assert answers.batch(warmup=True) == "__base__"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a", "b"], r"its requests lie in one row of tokens, and got different rows for them \('a', 'b'\)"),
        ([AtStrength("a", 0.5), "a"], r"\('a' at strength 0.5, 'a' at strength 1\), expected one for all"),
        (["a"], "1 rows were given for 2 prompts"),
        ("nobody", "'nobody': the bank has no such name"),
        (["nobody", "nobody"], "'nobody': the bank has no such name"),
    ],
)
def test_rows_that_it_cannot_keep_apart_or_that_are_not_there_are_refused(
    answers: Answers, rows: Any, message: str
) -> None:
    with pytest.raises(BankError, match=message):
        _batch(answers.model, rows=rows)
    if "nobody" not in rows:
        with answers.attachment.rows(rows), pytest.raises(BankError, match=message):
            _batch(answers.model)


def test_without_rows_and_without_an_active_adapter_it_is_an_error(answers: Answers) -> None:
    answers.attachment.active = None
    with pytest.raises(BankError, match="no rows are given and the bank has 2 adapters"):
        _batch(answers.model)


@contextmanager
def _running(answers: Answers, **options: Any) -> Iterator[Any]:
    with answers.model.continuous_batching_context_manager(
        GenerationConfig(**SETTINGS), continuous_batching_config=_small(), warmup=False, **options
    ) as manager:
        yield manager


def _answer(answers: Answers, manager: Any, **options: Any) -> str:
    asked = [manager.add_request(prompt, max_new_tokens=4, eos_token_id=-1, **options) for prompt in PROMPTS.tolist()]
    results = [manager.get_result(timeout=20) for _ in asked]
    tokens = {result.request_id: result.generated_tokens for result in results}
    return answers.who([tokens[request] for request in asked])


@pytest.mark.parametrize("outer", [None, "b", "__base__"])
def test_a_manager_answers_by_the_scope_it_was_started_in(answers: Answers, outer: str | None) -> None:
    with answers.scoped(outer), _running(answers) as manager:
        assert _answer(answers, manager) == (outer or "a")
    with _running(answers, rows=outer) as manager:
        assert _answer(answers, manager, rows=outer or "a") == (outer or "a")


def test_a_request_for_another_adapter_than_the_managers_is_refused(answers: Answers) -> None:
    with _running(answers) as manager:
        message = "this manager answers by 'a', and '__base__' was asked for. Make another manager"
        with answers.attachment.disabled(), pytest.raises(BankError, match=message):
            _answer(answers, manager)
        with pytest.raises(BankError, match=message):
            manager.add_requests(PROMPTS.tolist(), rows="__base__")
        with pytest.raises(BankError, match="'nobody'"):
            _answer(answers, manager, rows="nobody")
        answers.attachment.activate("b")
        with pytest.raises(BankError, match="answers by 'a', and 'b' was asked for"):
            _answer(answers, manager)
        assert _answer(answers, manager, rows="a") == "a"


def test_a_manager_made_for_an_adapter_keeps_it(answers: Answers) -> None:
    manager = answers.model.init_continuous_batching(GenerationConfig(**SETTINGS), _small(), rows="b")
    manager.start()
    try:
        assert _answer(answers, manager) == "b"
    finally:
        manager.stop()


def test_a_kept_manager_forgets_what_another_adapter_made_of_a_prompt(answers: Answers) -> None:
    """It keeps keys and values of earlier prompts for those that begin alike, and they hold an adapter's vectors."""
    for name in ("a", "b", "b", "__base__"):
        with answers.attachment.use(name):
            assert answers.batch(persistent_manager=True) == name
    answers.attachment.bank.set_vector("b", random_row(answers.attachment.bank, seed=0))  # those of a
    assert answers.batch(persistent_manager=True, rows="b") == "a"


def test_a_bank_is_not_taken_off_under_a_running_manager_and_leaves_none_behind(answers: Answers) -> None:
    with _running(answers), pytest.raises(BankError, match="a continuous batching manager is answering requests"):
        answers.attachment.detach()
    assert answers.batch(persistent_manager=True) == "a"
    copied = copy.deepcopy(answers.model)
    assert answers.who(_batch(copied, rows="b")) == "b"
    before = set(vars(answers.model))
    answers.attachment.detach()
    left = {"_cached_continuous_batching_manager", "generate_batch", "init_continuous_batching"}
    assert left <= before and not left & set(vars(answers.model))
    assert answers.batch(persistent_manager=True) == "__base__"


def test_a_manager_that_was_kept_before_the_bank_was_put_on_is_not_used_any_more() -> None:
    model = tiny_model("llama")
    _batch(model, persistent_manager=True)
    other, _ = attached_model("llama", "a")
    expected = _batch(other)
    attachment = Attachment(model, copy.deepcopy(other.ia3_bank), (), None)
    assert _batch(model) == expected
    attachment.detach()


def test_a_peft_model_answers_by_its_active_adapter_and_by_names() -> None:
    config = {"task_type": "CAUSAL_LM", "init_ia3_weights": False}
    model = get_peft_model(tiny_model("llama"), IA3Config(**config), adapter_name="first").eval()
    model.add_adapter("second", IA3Config(**config))
    settings = GenerationConfig(**SETTINGS)

    def generated(name: str) -> list[list[int]]:
        out = model.generate(PROMPTS, adapter_names=[name] * 2, generation_config=settings)
        return [sequence[PROMPTS.shape[1] :].tolist() for sequence in out]

    assert _batch(model) == generated("first")
    model.set_adapter("second")
    assert _batch(model) == generated("second")
    assert _batch(model, adapter_names=["first"] * 2) == generated("first")
    with model.disable_adapter():
        assert _batch(model) == generated("__base__")
