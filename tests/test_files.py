"""Files are whole whatever ends the process; locks end with it.

Written over and killed at any instant, an adapter's folder is the old one, the new one, or clearly incomplete.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout

from ia3.adapters.adapter import Adapter
from ia3.adapters.config import AdapterConfig
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.errors import AdapterError
from ia3.files import locked, replace_files, writing
from tests.adapters.examples import whole

CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "ia3.json"


def numbered(number: int) -> Adapter:
    """Return an adapter whose every part says which one it is."""
    value = torch.full((400,), float(number))
    return Adapter(
        (whole("a.k", "output", 400),), {"a.k": value}, {"classifier.weight": value}, ("classifier",),
        AdapterConfig(base_model_name_or_path=str(number), modules_to_save=("classifier",)), {"labels": [str(number)]},
    )  # fmt: skip


def number_of(adapter: Adapter) -> int:
    """Return which adapter this is; raise for a mixture."""
    found = {
        *adapter.vectors["a.k"].tolist(), *adapter.head["classifier.weight"].tolist(),
        float(adapter.config.base_model_name_or_path or -1), float(adapter.record["labels"][0]),
    }  # fmt: skip
    assert len(found) == 1, f"a mixture of {found}"
    return int(found.pop())


def state_of(folder: Path) -> int | str:
    """Return the number of the adapter that is there, or `incomplete`."""
    try:
        return number_of(load_adapter(folder))
    except AdapterError as error:
        assert any(told in str(error) for told in ("incomplete", "no such folder", "an empty folder")), error
        return "incomplete"


class Killed(BaseException):
    """What a process that is killed never gets to see; here, so that nothing after it runs."""


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stop every touch of the disk from the given one on, as SIGKILL would."""
    left = [step]

    def counted(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for owner, name in (
            (Path, "unlink"), (Path, "replace"), (Path, "open"), (Path, "mkdir"), (os, "fsync"),
        ):  # fmt: skip
            patch.setattr(owner, name, counted(getattr(owner, name)))
        yield


@pytest.mark.parametrize("is_first", [True, False])
def test_stopped_at_every_step_it_is_never_a_mixture(
    is_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for step in range(60):
        folder = tmp_path / str(step)
        if not is_first:
            save_adapter(numbered(1), folder)
        with killed_at(step, monkeypatch):
            try:
                save_adapter(numbered(2), folder)
                done = True
            except Killed:
                done = False
        seen.append(state_of(folder))
        save_adapter(numbered(3), folder)  # whatever was left, the next save is whole and tidy
        assert state_of(folder) == 3
        assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS, RECORD]
        if done:
            break
    order = [*dict.fromkeys(seen)]
    assert order == (["incomplete", 2] if is_first else [1, "incomplete", 2])


_WRITER = """
import os, sys
from pathlib import Path
from tests.test_files import numbered
from ia3.adapters.folder import save_adapter
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        for number in range(1, 10_000):
            save_adapter(numbered(number), Path(line.strip()))
        os._exit(0)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("gone", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_killed_while_it_saves_leaves_no_mixture(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", _WRITER]
    chance, seen = random.Random(0), []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as writer:
        assert writer.stdin and writer.stdout
        assert writer.stdout.readline().strip() == "ready"
        for attempt in range(60):
            folder = tmp_path / str(attempt)
            writer.stdin.write(f"{folder}\n")
            writer.stdin.flush()
            pid = int(writer.stdout.readline())
            time.sleep(chance.uniform(0.005, 0.1))
            os.kill(pid, signal.SIGKILL)
            assert writer.stdout.readline().strip() == "gone"
            seen.append(state_of(folder))
        writer.stdin.close()
        assert writer.wait(10) == 0
    assert any(isinstance(state, int) and state > 1 for state in seen)  # killed amid saves, not before them


def test_a_reader_beside_a_writer_sees_whole_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_adapter(numbered(1), tmp_path)
    read = Path.read_bytes

    def read_late(path: Path) -> bytes:
        content = read(path)
        if path.name == CONFIG and not written:
            written.append(True)
            save_adapter(numbered(2), tmp_path)  # between the reader's first file and its second
        return content

    written: list[bool] = []
    monkeypatch.setattr(Path, "read_bytes", read_late)
    assert number_of(load_adapter(tmp_path)) == 2


def test_a_folder_that_is_always_being_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_adapter(numbered(1), tmp_path)
    read, count = Path.read_bytes, [1]

    def read_late(path: Path) -> bytes:
        content = read(path)
        if path.name == CONFIG:
            count[0] += 1
            save_adapter(numbered(count[0]), tmp_path)
        return content

    monkeypatch.setattr(Path, "read_bytes", read_late)
    with pytest.raises(AdapterError, match=r"it is being written just now\. Load it again\."):
        load_adapter(tmp_path)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    replace_files(tmp_path, {"key": b"1", "a": b"2"}, "key")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"README.md": "mine", "key": "1", "a": "2"}


def test_a_full_disk_leaves_the_old_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_adapter(numbered(1), tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AdapterError, match=r"cannot be written \(No space left on device\)\. Free space"):
        save_adapter(numbered(2), tmp_path)
    assert state_of(tmp_path) == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_has_its_name_only_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), writing(path) as file:
        file.write(b"half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"] and path.read_text() == "old"
    with writing(path) as file:
        file.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"] and path.read_text() == "new"


def test_half_files_of_other_names_stay_when_those_of_a_killed_process_go(tmp_path: Path) -> None:
    with writing(tmp_path / "predictions.csv") as file:
        (tmp_path / ".key.0123abcd.ia3-part").touch()
        replace_files(tmp_path, {"key": b"1"}, "key")
        file.write(b"text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "predictions.csv"]


_HOLDER = """
import sys
from pathlib import Path
from ia3.files import locked
with locked(Path(sys.argv[1]), lambda: print("held", flush=True)):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_waited_for_or_not_and_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "lock"

    def refuse() -> None:
        raise AdapterError("held")

    command = [sys.executable, "-c", _HOLDER, str(lock)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with locked(lock, refuse), pytest.raises(AdapterError, match="held"), locked(lock, refuse):
        pass
    assert not lock.exists()
    with subprocess.Popen(command, **pipes) as first, subprocess.Popen(command, **pipes) as second:
        assert first.stdout and second.stdout
        said = {first: first.stdout.readline(), second: second.stdout.readline()}
        holder, waiting = sorted(said, key=lambda process: said[process] != "locked\n")
        assert (said[holder], said[waiting]) == ("locked\n", "held\n")
        holder.kill()
        assert waiting.stdout and waiting.stdout.readline() == "locked\n"
        waiting.kill()
    with locked(lock, refuse):
        assert lock.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_was_removed_while_it_was_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder removes the file at its end: one process had the lock of the file that was gone, another a new one's."""
    lock, times = tmp_path / "lock", list[int]()
    acquire = FileLock.acquire

    def acquire_late(own: FileLock, *args: Any, **options: Any) -> Any:
        found = acquire(own, *args, **options)
        times.append(1)
        if len(times) < 3:
            lock.unlink()
        if len(times) == 2:  # a third process has made a new one
            lock.touch()
        return found

    monkeypatch.setattr(FileLock, "acquire", acquire_late)
    with locked(lock, pytest.fail):
        assert len(times) == 3
        with pytest.raises(Timeout):
            acquire(FileLock(lock), timeout=0)


def test_where_there_can_be_no_lock_nothing_is_held(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with locked(tmp_path / "file" / "lock", pytest.fail):
        pass
