"""What every test shares: one thread (small models run slower on two, and two workers share the cores), no hub."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest

hypothesis.settings.register_profile("ia3", deadline=None)  # the machine may be busy; no test is timed
hypothesis.settings.load_profile("ia3")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch  # here: the process that hands tests to workers runs none, and need not wait for it

    torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Import without the garbage collector, and leave what was imported out of its rounds: it stays until the end.

    The rounds that are left took a twentieth of a test run at Python's default of 700 objects.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 10, 10)
        gc.enable()
