"""Every model type of transformers is planned and right, or refused with a reason; docs/models.md says which."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import transformers

from tests.every_model.page import COMMAND, PAGE, outcome_of, render_row, rows_of
from tests.every_model.tiny_configs import Pair, every_pair
from tests.every_model.verdicts import judge

_SECONDS = 120  # a tiny model takes two; one that hangs fails alone

EVERY = tuple(every_pair())
ROWS = rows_of(PAGE.read_text(encoding="utf-8"))
VERSION = next(word for word in PAGE.read_text(encoding="utf-8").split() if word.count(".") == 2 and word[0].isdigit())


@pytest.fixture
def time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it did not end within {_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(transformers.__version__ != VERSION, reason=f"the page is of transformers {VERSION}")
def test_the_page_has_a_line_for_every_model_type_and_kind() -> None:
    assert list(ROWS) == [(pair.model_type, pair.kind) for pair in EVERY], f"write it anew: {COMMAND}"


@pytest.mark.slow
@pytest.mark.skipif(transformers.__version__ != VERSION, reason=f"the page is of transformers {VERSION}")
@pytest.mark.usefixtures("time_limit")
@pytest.mark.parametrize("pair", EVERY, ids=lambda pair: f"{pair.model_type}-{pair.kind}")
def test_a_model_type_is_what_the_page_says(pair: Pair, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, of sizes no real model has
        verdict = judge(pair, tmp_path)
    expected = ROWS[pair.model_type, pair.kind]
    if outcome_of(expected) == "right":
        assert verdict.outcome == "right", f"it was right and is {verdict.outcome} now: {verdict.why}"
    assert render_row(verdict) == expected, f"docs/models.md says otherwise. If this is meant, write it anew: {COMMAND}"
