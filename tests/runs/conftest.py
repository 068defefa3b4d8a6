"""Tiny bases for all tests of runs, and runs whose pictures are not drawn where nobody looks at them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bases.test_pooling import say_mean
from tests.models import save_tiny_base
from tests.runs.trials import draw_nothing
from tests.training.tasks import save_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return the folder of a tiny base of a kind, with dropout if asked for."""
    folder = tmp_path_factory.mktemp("bases")

    def folder_of(kind: str, *, dropout: bool = False) -> Path:
        return save_base(folder / f"{kind}{'-dropout' * dropout}", kind, dropout=dropout)

    return folder_of


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny encoder that was trained for the mean, by its own word."""
    return say_mean(save_tiny_base(tmp_path_factory.mktemp("sentences") / "base", "encoder"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no pictures."""
    draw_nothing(monkeypatch)
