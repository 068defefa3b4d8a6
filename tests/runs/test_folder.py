"""The output folder: when it is refused, what is removed, and that only one run is under way in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ia3.errors import RunError
from ia3.runs.folder import OWN_FILES, check_folder, open_folder


def _fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    return folder


def _record(folder: Path, *events: dict[str, object]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "run.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


START: dict[str, object] = {"event": "start", "step": 0}
END: dict[str, object] = {"event": "end", "step": 12, "stopped": False}
CHECKPOINT = "checkpoints/step-00000003.pt"


def _names(folder: Path) -> list[str]:
    """Return the files that are there beside the lock of a run under way."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != ".ia3-lock")


def _open(folder: Path, *, resume: bool = False, overwrite: bool = False) -> list[str]:
    with open_folder(folder, resume=resume, overwrite=overwrite):
        return _names(folder)


def test_a_new_folder_is_made_when_the_run_begins_and_not_when_it_is_checked(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "news"
    check_folder(folder, resume=False, overwrite=False)
    assert not folder.parent.exists()
    assert _open(folder) == [] and folder.is_dir()


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_empty_folder_and_files_of_others_are_no_obstacle_and_stay(overwrite: bool, tmp_path: Path) -> None:
    names = ["notes.txt", "model.safetensors", "checkpoints.txt", ".curves.txt.tmp"]
    assert _open(_fill(tmp_path, *names), overwrite=overwrite) == sorted(names)


@pytest.mark.parametrize("name", [*OWN_FILES, CHECKPOINT])
def test_a_used_folder_is_refused_by_the_names_of_what_it_holds(name: str, tmp_path: Path) -> None:
    _fill(tmp_path, name)
    told = (
        rf"it holds {name.split('/')[0]} already\. Give --resume to go on, --overwrite to replace, or another --output"
    )
    with pytest.raises(RunError, match=told):
        check_folder(tmp_path, resume=False, overwrite=False)
    with pytest.raises(RunError, match=told):
        _open(tmp_path)
    check_folder(tmp_path, resume=False, overwrite=True)
    assert _names(tmp_path) == [name]


def test_overwrite_removes_a_run_s_own_files_and_no_others(tmp_path: Path) -> None:
    foreign = ["notes.txt", "tokenizer.json", "model.safetensors", "checkpoints/mine.pt", "old/adapter_config.json"]
    _fill(tmp_path, *OWN_FILES, CHECKPOINT, *foreign)
    assert _open(tmp_path, overwrite=True) == sorted(foreign)


def test_overwrite_takes_the_config_first_and_the_record_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(tmp_path, *OWN_FILES, CHECKPOINT)
    removed: list[str] = []
    original = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        original(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    _open(tmp_path, overwrite=True)
    assert removed[:2] == ["adapter_config.json", "run.jsonl"]


def test_both_resume_and_overwrite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="both resume and overwrite are asked for, expected one of them at most"):
        check_folder(tmp_path, resume=True, overwrite=True)


def test_a_file_in_the_place_of_the_folder_or_above_it_is_refused(tmp_path: Path) -> None:
    _fill(tmp_path, "file")
    with pytest.raises(RunError, match=r"file: it is a file, expected a folder\. Give another --output"):
        check_folder(tmp_path / "file", resume=False, overwrite=True)
    with pytest.raises(RunError, match=r"file is a file, expected a folder"):
        check_folder(tmp_path / "file" / "a" / "b", resume=False, overwrite=False)


def test_a_folder_with_a_model_is_refused_even_to_overwrite_it(tmp_path: Path) -> None:
    _fill(tmp_path, "config.json", "model.safetensors", "README.md")
    with pytest.raises(RunError, match=r"a model lies in it \(config\.json\), expected a folder for the adapter alone"):
        check_folder(tmp_path, resume=False, overwrite=True)
    assert _names(tmp_path) == ["README.md", "config.json", "model.safetensors"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(RunError, match=r"news: .* cannot be written\. Give another --output, or change its rights"):
        check_folder(tmp_path / "news", resume=False, overwrite=False)


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RunError, match=r"there is no run in it\. Leave --resume out to start one\."):
            check_folder(folder, resume=True, overwrite=False)


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    _record(tmp_path, START, END)
    with pytest.raises(RunError, match=r"the run is finished \(12 steps\)\. Use the adapter in it, or give --ov"):
        check_folder(tmp_path, resume=True, overwrite=False)


def test_a_run_that_was_killed_before_its_checkpoints_went_is_resumed_to_draw_and_tidy(tmp_path: Path) -> None:
    _fill(_record(tmp_path, START, END), CHECKPOINT)
    assert _open(tmp_path, resume=True) == [CHECKPOINT, "run.jsonl"]


def test_a_stopped_run_and_one_without_a_checkpoint_are_resumed(tmp_path: Path) -> None:
    check_folder(_record(tmp_path, START, END | {"stopped": True}), resume=True, overwrite=False)
    check_folder(_record(tmp_path, START), resume=True, overwrite=False)
    check_folder(_record(tmp_path), resume=True, overwrite=False)  # killed while it wrote its first line


def test_an_adapter_without_the_record_of_a_run_is_not_resumed_and_so_not_overwritten(tmp_path: Path) -> None:
    _fill(tmp_path, "adapter_config.json", "adapter_model.safetensors")
    with pytest.raises(RunError, match=r"it holds adapter_config\.json, adapter_model\.safetensors and no record"):
        check_folder(tmp_path, resume=True, overwrite=False)


def test_what_a_kill_left_half_written_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    _fill(tmp_path, CHECKPOINT, "checkpoints/.step-00000004.pt.1.ia3-part")
    _fill(tmp_path, ".run.jsonl.2.ia3-part", ".curves.png.77.ia3-part", ".ia3-lock")
    _record(tmp_path, START)
    assert _open(tmp_path, resume=True) == [CHECKPOINT, "run.jsonl"]


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    told = "another process is training in it. Wait for it, or give another --output"
    with open_folder(tmp_path, resume=False, overwrite=False), pytest.raises(RunError, match=told):
        _open(tmp_path)
    assert _open(tmp_path) == []
    code = (
        "import sys; from pathlib import Path; from ia3.runs.folder import open_folder\n"
        "with open_folder(Path(sys.argv[1]), resume=False, overwrite=False):\n"
        " print('locked', flush=True), sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"locked\n"
        with pytest.raises(RunError, match=told):
            _open(tmp_path)
        other.kill()
    assert _open(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_came_between_check_and_start_is_not_overwritten(tmp_path: Path) -> None:
    check_folder(tmp_path, resume=False, overwrite=False)
    _record(tmp_path, START, END)
    with pytest.raises(RunError, match=r"it holds run\.jsonl already"):
        _open(tmp_path)
