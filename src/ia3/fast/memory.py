"""Keep the memory that activations have left, instead of giving it back to the system and asking for it anew.

glibc gives large blocks and the free end of its heap back at once, so that activations cost a page fault for every
4 KiB, batch after batch. Told to keep them, a step or a batch writes into the pages of the one before it. That is a
property of the whole process, so a program asks for it and the library does not; the command line does. This file
knows the allocator.
"""

from __future__ import annotations

import ctypes
import sys

# mallopt's parameters (malloc.h), and its largest threshold for blocks of their own: 32 MiB
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_SETTINGS = ((_MMAP_THRESHOLD, 32 * 2**20), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))


def keep_freed_memory() -> bool:
    """Have this process keep freed memory for its next allocations; its peak stays what it was.

    Returns:
        Whether the system's allocator was told; false where it is not glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    answers = [mallopt(name, value) for name, value in _SETTINGS]  # each is told, whatever the others answer
    return all(answer == 1 for answer in answers)
