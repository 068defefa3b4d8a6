"""Files that a disk, a copy or an editor has changed: refused in a sentence of ours, or they give the same numbers.

Folders and packed stores are written, opened and loaded through what everybody uses, so that this holds for whatever
bytes they are made of. Which bytes are changed is drawn from a seed that a failure names.
"""

from __future__ import annotations

import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ia3.adapters.adapter import Adapter
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.adapters.store import Store
from ia3.errors import IA3Error, IA3Warning
from ia3.inference.recorded import Recorded
from tests.adapters.store_examples import PLAN, small, small_store

NAMES = ("a", "b", "c", "d")
FILES = ("adapter_config.json", "adapter_model.safetensors", "ia3.json")
MANY = pytest.param(2500, marks=pytest.mark.slow)  # of folders, and as many of stores

Change = Callable[[bytearray, random.Random], None]


def _flip(content: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 8))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _cut(content: bytearray, chance: random.Random) -> None:
    del content[chance.randrange(len(content)) :]


def _insert(content: bytearray, chance: random.Random) -> None:
    place = chance.randrange(len(content) + 1)
    content[place:place] = chance.randbytes(chance.choice((1, 3, 64, 500)))


def _zero(content: bytearray, chance: random.Random) -> None:
    start, length = chance.randrange(len(content)), chance.choice((1, 4, 64, 400))
    content[start : start + length] = bytes(len(content[start : start + length]))


def _lose(content: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(content))
    del content[start : start + chance.choice((1, 4, 64, 400))]


def _repeat(content: bytearray, chance: random.Random) -> None:
    start, length = chance.randrange(len(content)), chance.choice((1, 16, 64, 400))
    content[start:start] = content[start : start + length]


def _retype(content: bytearray, chance: random.Random) -> None:
    """Put another digit in the place of one: what stays JSON and says something else."""
    digits = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    if digits:
        content[chance.choice(digits)] = ord(chance.choice("0123456789"))


CHANGES: tuple[Change, ...] = (_flip, _flip, _cut, _insert, _zero, _lose, _repeat, _retype, _retype)


def changed_bytes(content: bytes, seed: int) -> tuple[bytes, str]:
    """Return changed content, and how it was changed."""
    chance = random.Random(seed)
    change, found = chance.choice(CHANGES), bytearray(content)
    change(found, chance)
    return bytes(found), f"seed {seed}, {change.__name__}"


def _has_numbers_of(got: Adapter, want: Adapter) -> bool:
    """Whether two adapters multiply the same channels by the same numbers, and bring the same heads."""
    return (
        torch.equal(got.row(PLAN), want.row(PLAN))
        and got.head.keys() == want.head.keys()
        and all(torch.equal(got.head[name], tensor) for name, tensor in want.head.items())
    )


@pytest.mark.parametrize("count", [200, MANY])
def test_a_changed_folder_is_refused_or_has_the_same_numbers(count: int, tmp_path: Path) -> None:
    want = small(1)
    whole = save_adapter(want, tmp_path / "whole")
    assert _has_numbers_of(load_adapter(whole), want)
    changed = Path(shutil.copytree(whole, tmp_path / "changed"))
    loaded = 0
    for seed in range(count):
        name = FILES[seed % len(FILES)]
        content, how = changed_bytes((whole / name).read_bytes(), seed)
        (changed / name).write_bytes(content)
        try:
            got = load_adapter(changed)
            Recorded.read("Reading a changed record", got.record)
            assert _has_numbers_of(got, want)
            loaded += 1
        except IA3Error as error:
            assert str(error)
        except Exception as error:
            raise AssertionError(f"{name}: {how}: {type(error).__name__}: {error}") from error
        shutil.copyfile(whole / name, changed / name)
    assert 0 < loaded < count


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("count", [100, pytest.param(1250, marks=pytest.mark.slow)])
def test_a_changed_store_is_refused_or_every_name_has_the_same_numbers(count: int, half: bool, tmp_path: Path) -> None:
    path = tmp_path / "s.ia3"
    store = small_store(path, *NAMES[:-1], half=half)
    store.append(NAMES[-1], small(3), half=half)
    want = {name: store.adapter(name) for name in NAMES}
    store.close()
    whole = path.read_bytes()
    read = 0
    for seed in range(count):
        content, how = changed_bytes(whole, seed)
        path.write_bytes(content)
        try:
            read += _read_all(path, want, how)
        except Exception as error:
            raise AssertionError(f"{how}: {type(error).__name__}: {error}") from error
    assert read > count  # most changes leave most adapters whole


def _read_all(path: Path, want: dict[str, Adapter], how: str) -> int:
    """Return how many adapters a changed store gives; raise if one is another, or is not there and nobody says."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", IA3Warning)
        try:
            store = Store.open(path)
        except IA3Error:
            return 0
    read = 0
    with store:
        assert set(store.names) <= set(want), how
        # cut exactly between two appends, a file is what it was before the second one
        is_earlier = how.endswith(("_cut", "_lose")) and store.names == NAMES[: len(store)]
        assert set(store.names) == set(want) or caught or is_earlier, f"{how}: {store.names}"
        for name, adapter in want.items():
            try:
                got = store.adapter(name)
            except IA3Error as error:
                assert repr(name) in str(error), f"{how}: {error}"
                continue
            assert _has_numbers_of(got, adapter), f"{how}: {name!r} has other numbers"
            read += 1
    return read
