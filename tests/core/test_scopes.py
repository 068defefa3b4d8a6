"""Scopes go along into what is started in them: threads, tasks, the work of an executor."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
import torch

from ia3.core.attach import Attachment
from ia3.core.scopes import innermost_scope
from ia3.errors import BankError
from tests.core.banks import attached_model
from tests.families import make_inputs


class Answers:
    """Whose answer a model of two adapters, of which `a` is active, gives where it is asked."""

    def __init__(self) -> None:
        model, attachment = attached_model("llama", "a", "b")
        attachment.activate("a")
        self.model: Any = model
        self.attachment: Attachment = attachment
        self.inputs = make_inputs("llama")
        self.expected = {name: self._logits(rows=name) for name in ("a", "b", "__base__")}

    def _logits(self, **options: Any) -> torch.Tensor:
        logits: torch.Tensor = self.model(**self.inputs, **options).logits.detach()
        return logits

    def who(self, **options: Any) -> str:
        logits = self._logits(**options)
        return next(name for name, known in self.expected.items() if torch.equal(known, logits))


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers()


def _in_a_thread(work: Callable[[], str]) -> str:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(20)
    return found[0]


@pytest.mark.parametrize("name", ["b", "__base__"])
def test_a_thread_begins_in_the_scope_it_was_started_in(answers: Answers, name: str) -> None:
    """A streamer's thread, started inside `use("b")` or `disabled()`, answered by the active adapter in silence."""
    with answers.attachment.use(name):
        assert _in_a_thread(answers.who) == name
        assert _in_a_thread(lambda: answers.who(rows="a")) == "a"
    assert _in_a_thread(answers.who) == "a"


def test_a_thread_keeps_its_scope_when_the_one_that_started_it_has_left_it(answers: Answers) -> None:
    may_go, found = threading.Event(), list[str]()

    def work() -> None:
        may_go.wait(20)
        found.append(answers.who())

    thread = threading.Thread(target=work)
    with answers.attachment.use("b"):
        thread.start()
    may_go.set()
    thread.join(20)
    assert found == ["b"]


def test_a_thread_of_ones_own_class_begins_in_it_as_well_and_runs_as_it_was_written(answers: Answers) -> None:
    class Worker(threading.Thread):
        found = ""

        def run(self) -> None:
            with answers.attachment.use("__base__"):
                inner = answers.who()
            self.found = f"{answers.who()} {inner}"

    with answers.attachment.use("b"):
        worker = Worker()
        worker.start()
        worker.join(20)
    assert worker.found == "b __base__"
    assert "run" not in vars(worker)


def test_the_work_of_an_executor_runs_in_the_scope_it_was_submitted_in(answers: Answers) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(answers.who).result(20) == "a"  # its thread is there before any scope
        for name in ("b", "__base__"):
            with answers.attachment.use(name):
                assert pool.submit(answers.who).result(20) == name
                assert list(pool.map(lambda _: answers.who(), range(2))) == [name, name]
        assert pool.submit(answers.who).result(20) == "a"


def test_an_executor_whose_thread_was_started_in_a_scope_does_not_keep_it(answers: Answers) -> None:
    with ThreadPoolExecutor(1) as pool:
        with answers.attachment.use("b"):
            assert pool.submit(answers.who).result(20) == "b"
        assert pool.submit(answers.who).result(20) == "a"


@pytest.mark.parametrize("copies", [True, False], ids=["to_thread", "run_in_executor"])
def test_what_an_asyncio_task_hands_to_a_thread_runs_in_its_scope(answers: Answers, copies: bool) -> None:
    async def work(name: str) -> str:
        with answers.attachment.use(name):
            if copies:
                return await asyncio.to_thread(answers.who)
            return await asyncio.get_running_loop().run_in_executor(None, answers.who)

    async def both() -> list[str]:
        return list(await asyncio.gather(work("b"), work("__base__")))

    assert asyncio.run(both()) == ["b", "__base__"]


def test_a_thread_of_another_kind_of_pool_refuses_to_guess(answers: Answers) -> None:
    with answers.attachment.use("b"), ThreadPool(1) as pool:
        with pytest.raises(BankError, match=r"this thread of a pool was started inside a scope .* Give rows=…"):
            pool.apply(answers.who)
        assert pool.apply(answers.who, kwds={"rows": "b"}) == "b"

        def scoped() -> str:
            with answers.attachment.use("__base__"):
                return answers.who()

        assert pool.apply(scoped) == "__base__"


def test_a_thread_started_outside_every_scope_is_left_as_it_is(answers: Answers) -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    assert "run" not in vars(thread)
    thread.join(20)
    assert innermost_scope(answers.attachment) is None
