"""The cache: hashes are remembered as long as the file is the same; folders appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ia3.bases import cache
from ia3.errors import BaseError

FILL_SLOWLY = """
import os, sys, time
from pathlib import Path
from ia3.bases.cache import publish_folder

def fill(folder):
    (folder / "begun").write_text(str(os.getpid()))
    print("begun", flush=True)
    time.sleep(float(sys.argv[2]))
    (folder / "done").write_text(str(os.getpid()))

folder = publish_folder(Path(sys.argv[1]), fill, {"from": "a test"}, lambda line: print(line, flush=True))
print("published", (folder / "begun").read_text(), (folder / "done").read_text(), flush=True)
"""
ABOUT = {"from": "a test"}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IA3_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IA3_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert cache.cache_root() == Path("/a")
    monkeypatch.setenv("IA3_CACHE", "")
    assert cache.cache_root() == Path("/b/ia3")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_root() == Path("/c/.cache/ia3")


def test_the_hash_is_that_of_the_joined_bytes(tmp_path: Path) -> None:
    parts = [tmp_path / "a", tmp_path / "b"]
    parts[0].write_bytes(b"one")
    parts[1].write_bytes(b"two")
    assert cache.content_hash(parts) == hashlib.sha256(b"onetwo").hexdigest()
    assert cache.join_files(parts, tmp_path / "joined") == cache.content_hash(parts)
    assert (tmp_path / "joined").read_bytes() == b"onetwo"


def test_a_file_is_hashed_once_and_again_after_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    hashed: list[bytes] = []
    real = cache.join_files
    monkeypatch.setattr(cache, "join_files", lambda paths, to: hashed.append(b"") or real(paths, to))
    first = cache.content_hash([file])
    assert cache.content_hash([file]) == first
    assert len(hashed) == 1
    file.write_bytes(b"two")
    os.utime(file, ns=(0, 0))  # the same size; another time
    assert cache.content_hash([file]) == hashlib.sha256(b"two").hexdigest()
    assert len(hashed) == 2


@pytest.mark.parametrize("stamp", ["", "{", "[]", '{"files": 1}'])
def test_an_unreadable_stamp_only_costs_another_hashing(tmp_path: Path, root: Path, stamp: str) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    expected = cache.content_hash([file])
    for written in (root / "sha256").iterdir():
        written.write_text(stamp)
    assert cache.content_hash([file]) == expected


def test_hashing_works_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    monkeypatch.setenv("IA3_CACHE", str(file / "inside"))
    assert cache.content_hash([file]) == hashlib.sha256(b"one").hexdigest()


def test_a_folder_is_filled_once(root: Path) -> None:
    filled: list[Path] = []

    def fill(folder: Path) -> None:
        filled.append(folder)
        (folder / "weights").write_bytes(b"12345")

    for _ in range(2):
        folder = cache.publish_folder(root / "x", fill, ABOUT, pytest.fail)
        assert (folder / "weights").read_bytes() == b"12345"
    assert len(filled) == 1
    assert [p.name for p in root.iterdir() if p.is_dir()] == ["x"]


@pytest.mark.parametrize("damage", ["cut", "gone", "no record", "bad record", "made from something else"])
def test_a_damaged_folder_is_filled_again(root: Path, damage: str) -> None:
    def fill(folder: Path) -> None:
        (folder / "weights").write_bytes(b"12345")

    folder = cache.publish_folder(root / "x", fill, ABOUT, pytest.fail)
    about = {"from": "a newer test"} if damage == "made from something else" else ABOUT
    if damage == "cut":
        (folder / "weights").write_bytes(b"123")
    elif damage == "gone":
        (folder / "weights").unlink()
    elif damage == "no record":
        (folder / cache.RECORD).unlink()
    elif damage == "bad record":
        (folder / cache.RECORD).write_text("[1]")
    assert not cache.is_whole(folder, about)
    cache.publish_folder(root / "x", fill, about, pytest.fail)
    assert (folder / "weights").read_bytes() == b"12345"
    assert cache.is_whole(folder, about)


def test_nothing_is_left_when_filling_fails(root: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "weights").write_bytes(b"123")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.publish_folder(root / "x", fail, ABOUT, pytest.fail)
    assert [p for p in root.iterdir() if p.is_dir()] == []


def test_a_full_disk_is_told_with_what_to_do(root: Path) -> None:
    def fail(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(
        BaseError, match=r"Writing the cache folder .*No space left on device. Set IA3_CACHE to a folder"
    ):
        cache.publish_folder(root / "x", fail, ABOUT, pytest.fail)
    assert [p for p in root.iterdir() if p.is_dir()] == []


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BaseError, match="Set IA3_CACHE to a folder that can be written"):
        cache.publish_folder(tmp_path / "file" / "x", lambda folder: None, ABOUT, pytest.fail)


def test_of_two_processes_one_fills_and_both_get_the_whole_folder(root: Path) -> None:
    folder = root / "x"
    processes = [_start(folder, 0.5) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    fillers = {
        line.split(maxsplit=1)[1] for out in outputs for line in out.splitlines() if line.startswith("published")
    }
    assert len(fillers) == 1
    assert sum(out.count("begun") for out in outputs) == 1
    assert sum(f"another process is writing {folder}; waiting for it" in out for out in outputs) <= 1


def test_what_a_killed_process_left_is_removed_and_never_taken_for_whole(root: Path) -> None:
    folder = root / "x"
    process = _start(folder, 60)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert len(list(root.glob("x.*.partial"))) == 1
    assert not folder.exists()
    began = time.monotonic()
    assert _start(folder, 0).communicate(timeout=60)[0].startswith("begun\npublished")
    assert time.monotonic() - began < 30
    assert list(root.glob("x.*.partial")) == []
    assert cache.is_whole(folder, ABOUT)


def _start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FILL_SLOWLY, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
