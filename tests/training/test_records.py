"""The record of a run: lines that survive a kill, and any character that a label may hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ia3.errors import RunError
from ia3.training.records import Event, RunLog, keep_events, read_events

EVENTS: list[Event] = [
    {"event": "start", "step": 0, "run": {"labels": ["gefällt", "a\u2028b", "c\x85d", "e\x0bf"]}},
    {"event": "step", "step": 1, "loss": 0.1},
    {"event": "step", "step": 2, "loss": 1 / 3},
    {"event": "epoch", "epoch": 1, "step": 2, "eval_loss": None},
    {"event": "step", "step": 3, "loss": 0.2},
    {"event": "end", "step": 3, "stopped": True},
]


def _write(path: Path, events: list[Event] = EVENTS) -> Path:
    with RunLog(path) as log:
        for event in events:
            log.write(event)
    return path


def test_events_come_back_whatever_their_words_hold(tmp_path: Path) -> None:
    assert read_events(_write(tmp_path / "new" / "run.jsonl")) == EVENTS
    assert "gefällt" in (tmp_path / "new" / "run.jsonl").read_text(encoding="utf-8")


def test_a_lone_surrogate_is_written_escaped(tmp_path: Path) -> None:
    event: Event = {"event": "start", "step": 0, "label": "ä\udc80"}
    assert read_events(_write(tmp_path / "run.jsonl", [event, event])) == [event, event]


def test_numbers_that_are_not_finite_are_null_so_that_every_line_is_json(tmp_path: Path) -> None:
    event: Event = {
        "event": "epoch",
        "step": 1,
        "eval_loss": float("inf"),
        "more": [(float("nan"), {"x": -float("inf")})],
    }
    path = _write(tmp_path / "run.jsonl", [event])

    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    line = json.loads(path.read_text(), parse_constant=refuse)
    assert line == {"event": "epoch", "step": 1, "eval_loss": None, "more": [[None, {"x": None}]]}


def test_a_record_that_is_not_there_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "run.jsonl") == []
    keep_events(tmp_path / "run.jsonl", step=3)
    assert not (tmp_path / "run.jsonl").exists()


def test_cut_off_at_any_byte_the_whole_lines_are_read_and_the_next_event_gets_a_line_of_its_own(tmp_path: Path) -> None:
    path = _write(tmp_path / "run.jsonl")
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        count = sum(end - 1 <= cut for end in ends)  # a line is whole without its line break
        assert read_events(path) == EVENTS[:count]
    for cut in (0, 5, ends[0] - 1, ends[0], ends[0] + 5, ends[2] - 1):
        path.write_bytes(whole[:cut])
        keep_events(path, step=2)
        _write(path, [EVENTS[4]])
        count = sum(end - 1 <= cut for end in ends)
        assert read_events(path) == [*EVENTS[:count], EVENTS[4]]


@pytest.mark.parametrize("line", [b"{", b"\xff\xfe", b"3", b'{"event": "step"}', b'{"step": 3}', b""])
def test_another_line_that_is_no_event_is_an_error_with_its_number(line: bytes, tmp_path: Path) -> None:
    path = _write(tmp_path / "run.jsonl")
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(RunError, match=r"run\.jsonl: line 3 is no event of a run \(.*\)\. Remove the line"):
        read_events(path)


def test_what_happened_behind_a_step_is_dropped_and_the_end_with_it(tmp_path: Path) -> None:
    path = _write(tmp_path / "run.jsonl")
    keep_events(path, step=3)
    assert read_events(path) == EVENTS[:5]
    keep_events(path, step=2)
    assert read_events(path) == EVENTS[:4]
    keep_events(path, step=1)
    assert read_events(path) == EVENTS[:2]
    keep_events(path, step=0)
    assert read_events(path) == EVENTS[:1]  # a run stopped before its first step has begun
    keep_events(path, step=None)
    assert path.read_bytes() == b""
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.jsonl"]


def test_nothing_is_left_even_of_a_record_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"{\n{\n")
    keep_events(path, step=None)
    assert path.read_bytes() == b""


def test_an_event_is_with_the_system_at_once(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run.jsonl") as log:
        log.write(EVENTS[1])
        assert read_events(tmp_path / "run.jsonl") == [EVENTS[1]]
        log.sync()


def test_a_record_that_cannot_be_written_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Writing .*run\.jsonl: it cannot be written \(.+\)\. Free space"):
        RunLog(tmp_path / "file" / "run.jsonl")
    if Path("/dev/full").exists():
        with RunLog(Path("/dev/full")) as log, pytest.raises(RunError, match=r"\(No space left on device\)"):
            log.write(EVENTS[0])
    with RunLog(tmp_path / "run.jsonl") as log:
        monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(RunError, match=r"\(Input/output error\)"):
            log.sync()
