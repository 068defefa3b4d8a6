"""Checkpoints: whole or not there, two of them kept, a damaged one passed over."""

from __future__ import annotations

import math
import os
import pickle
from pathlib import Path

import pytest
import torch

from ia3.errors import RunError
from ia3.training.checkpoint import (
    Checkpoint,
    TaskState,
    has_checkpoints,
    newest_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)


def _checkpoint(step: int, *, best: bool = True) -> Checkpoint:
    trained = {"vectors": torch.linspace(-1, 1, 7) * step, "head.bias": torch.zeros(2, dtype=torch.float64)}
    parameter = torch.nn.Parameter(trained["vectors"].clone())
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr": 0.1, "highest": 0.1}])
    parameter.grad = torch.ones(7)
    optimizer.step()
    kept = {"vectors": torch.full((7,), 0.1)} if best else {}
    best_loss = 0.1 if best else math.inf
    task = TaskState(step, trained, optimizer.state_dict(), kept, 2 * best, best_loss, 0.3, 11.0)
    return Checkpoint(step, "a run", (task, TaskState(), TaskState(2, trained, fault="it diverged")))


def _same(a: object, b: object) -> bool:
    if isinstance(a, TaskState):
        a, b = vars(a), vars(b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return a == b


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("best", [True, False], ids=["with a best epoch", "before the first"])
def test_a_checkpoint_comes_back_in_every_bit(best: bool, tmp_path: Path) -> None:
    saved = _checkpoint(3, best=best)
    path = save_checkpoint(tmp_path / "checkpoints", saved)
    assert path == tmp_path / "checkpoints" / "step-00000003.pt"
    read = newest_checkpoint(tmp_path / "checkpoints")
    assert read is not None and _same(vars(read), vars(saved))


def test_the_newest_and_the_one_before_it_are_kept(tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        save_checkpoint(tmp_path, _checkpoint(step))
    assert _names(tmp_path) == ["step-00000010.pt", "step-00000011.pt"]
    read = newest_checkpoint(tmp_path)
    assert read is not None and read.step == 11


def test_steps_of_more_than_eight_digits_are_still_in_order(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, _checkpoint(step))
    read = newest_checkpoint(tmp_path)
    assert read is not None and read.step == 100_000_000


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None and newest_checkpoint(tmp_path / "missing") is None
    assert not has_checkpoints(tmp_path / "missing")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "other", "later format"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(damage: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _checkpoint(4))
    path = save_checkpoint(tmp_path, _checkpoint(5))
    whole = path.read_bytes()
    if damage in ("other", "later format"):
        torch.save({"format": 99} if damage == "later format" else {"format": 2, "step": 5}, path)
    else:
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"step 5"}[damage])
    read = newest_checkpoint(tmp_path)
    assert read is not None and read.step == 4
    save_checkpoint(tmp_path, _checkpoint(4))
    assert _names(tmp_path) == ["step-00000004.pt"]  # the damaged one would otherwise stand for the one before


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "run"),)

    (tmp_path / "step-00000001.pt").write_bytes(pickle.dumps(Bomb()))
    torch.save({"format": 2, "step": Bomb()}, tmp_path / "step-00000002.pt")
    with pytest.raises(RunError, match=r"none of its 2 checkpoints can be read\. Start again with --overwrite"):
        newest_checkpoint(tmp_path)
    assert has_checkpoints(tmp_path) and not (tmp_path / "run").exists()


def test_a_file_cut_off_before_its_renaming_is_ignored_and_removed_in_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, _checkpoint(1))
    (folder / ".step-00000002.pt.0123.ia3-part").write_bytes(b"half")
    read = newest_checkpoint(folder)
    assert read is not None and read.step == 1
    remove_checkpoints(folder)
    assert not folder.exists()


def test_a_write_that_fails_leaves_the_checkpoints_before_and_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, _checkpoint(1))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RunError, match=r"step-00000002\.pt: it cannot be written \(No space left on device\)\. Free space"
    ):
        save_checkpoint(tmp_path, _checkpoint(2))
    assert _names(tmp_path) == ["step-00000001.pt"]


def test_the_file_is_on_disk_before_it_has_its_name_and_its_name_before_the_old_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, _checkpoint(step))
    done: list[str] = []
    fsync, replace, unlink = os.fsync, Path.replace, Path.unlink

    def told(name: str, original: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            if name != "unlink" or getattr(args[0], "suffix", "") == ".pt":
                done.append(name)
            return original(*args, **kwargs)  # type: ignore[operator]

        return call

    monkeypatch.setattr(os, "fsync", told("fsync", fsync))
    monkeypatch.setattr(Path, "replace", told("replace", replace))
    monkeypatch.setattr(Path, "unlink", told("unlink", unlink))
    save_checkpoint(tmp_path, _checkpoint(3))
    assert done == ["fsync", "replace", "fsync", "unlink"]


def test_files_of_others_stay_in_the_folder(tmp_path: Path) -> None:
    names = ["notes.txt", "step-1.pt", "step-00000001.pt.old"]
    for name in names:
        (tmp_path / name).write_text("mine")
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, _checkpoint(step))
    remove_checkpoints(tmp_path)
    assert _names(tmp_path) == sorted(names)
