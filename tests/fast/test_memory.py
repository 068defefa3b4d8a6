"""Freed memory: kept, it costs no page faults again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ia3.fast import memory

_COUNT = """
import resource, sys
import torch
from ia3.fast.memory import keep_freed_memory

def faults(numbers):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        kept = [torch.empty(numbers).fill_(1) for _ in range(6)]
        del kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
print(faults(2**22), keep_freed_memory(), faults(2**22) and faults(2**22))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="another allocator")
def test_the_same_pages_are_written_again() -> None:
    strict = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}  # else they follow the sizes
    done = subprocess.run(
        [sys.executable, "-c", _COUNT], env={**os.environ, **strict}, capture_output=True, text=True, check=True
    )
    before, is_told, after = done.stdout.split()
    if is_told == "False":
        pytest.skip("not glibc's allocator")
    assert int(before) > 4 * 6 * 4096  # pages of 4 KiB in 6 tensors of 16 MiB, five times
    assert int(after) < int(before) / 100


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
