"""A page that is one run: its shell and Python blocks are run in order, and print what the page shows below them.

Another processor rounds otherwise, so what a base is not sure of may differ there: a label counts where the page shows
it with a probability of 0.6 or more, which then has to be near; of rows that are counted by their label one in twenty
may go elsewhere; other fractions and seconds do not count.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from ia3.bases.named import find_named_base, is_installed
from tests.docs.test_pages import ROOT, Block, blocks_of

PAGE = ROOT / "docs" / "ten-thousand.md"
_FRACTION = re.compile(r"-?\d+\.\d+(e-?\d+)?")
_SECONDS = re.compile(r"(\d+ min )?\d+ s\b")
_SKIPPED = "…"  # a line that stands for any lines
_ANSWER = re.compile(r"((?:.*,)?)([^,]+),([01]\.\d+)")  # copied columns, the label of the answer, its probability
_COUNT = re.compile(r"(\S+) +(\d+)")
_COUNTS = "prediction  rows"  # the line above labels with the number of their rows
_SURE, _NEAR = 0.6, 0.05

Line = str | dict[str, int]  # a line as it stands, or a whole table of counts


@pytest.mark.slow
def test_the_walk_prints_what_the_page_shows(tmp_path: Path) -> None:
    named = find_named_base("minilm")
    if named is None or not is_installed(named):
        pytest.skip("minilm is not installed")
    (tmp_path / "src").symlink_to(ROOT / "src")
    shown_anything = False
    for block, following in pairwise([*blocks_of(PAGE), Block(PAGE, 0, "", "")]):
        if block.kind in ("sh", "python"):
            printed = run_block(block, tmp_path, fails=following.text.startswith("ia3: "))
            if following.kind == "text":
                shown_anything = True
                assert_shown(printed, following)
    assert shown_anything


def run_block(block: Block, folder: Path, *, fails: bool = False) -> str:
    """Return what a block prints, in a folder where what earlier ones wrote lies; one that shows an error must fail."""
    words = ["bash", "-euc"] if block.kind == "sh" else [sys.executable, "-W", "ignore", "-c"]
    binaries = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": binaries, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*words, block.text], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert (done.returncode != 0) == fails, f"{block} ends with {done.returncode}:\n{done.stdout}"
    return done.stdout


def assert_shown(printed: str, shown: Block) -> None:
    """Raise unless a page shows what is printed, but for what another processor may round elsewhere."""
    assert _is_like(_lines(shown.text), _lines(printed)), f"{shown} is printed as:\n{printed}"


def _lines(text: str) -> list[Line]:
    """Return the lines of a text, with each table of counts as one."""
    found: list[Line] = []
    for line in text.strip("\n").splitlines():
        count = _COUNT.fullmatch(line.rstrip())
        last = found[-1] if found else ""
        if count and last == _COUNTS:
            found.append({count[1]: int(count[2])})
        elif count and isinstance(last, dict):
            last[count[1]] = int(count[2])
        else:
            found.append(line.rstrip())
    return found


def _is_like(shown: list[Line], printed: list[Line]) -> bool:
    """Whether lines are those that a page shows."""
    if not shown:
        return not printed
    if isinstance(shown[0], str) and shown[0].strip() == _SKIPPED:
        return any(_is_like(shown[1:], printed[start:]) for start in range(len(printed) + 1))
    return bool(printed) and _is_near(shown[0], printed[0]) and _is_like(shown[1:], printed[1:])


def _is_near(shown: Line, printed: Line) -> bool:
    if isinstance(shown, dict) and isinstance(printed, dict):
        total = sum(shown.values())
        moved = [abs(shown.get(label, 0) - printed.get(label, 0)) for label in {*shown, *printed}]
        return total == sum(printed.values()) and max(moved) <= math.ceil(total / 20)
    if isinstance(shown, dict) or isinstance(printed, dict):
        return False
    before, after = _ANSWER.fullmatch(shown), _ANSWER.fullmatch(printed)
    if before is None or after is None:
        return _plain(shown) == _plain(printed)
    is_same = before[2] == after[2] and abs(float(before[3]) - float(after[3])) <= _NEAR
    return before[1] == after[1] and (is_same or float(before[3]) < _SURE)


def _plain(line: str) -> str:
    return _SECONDS.sub("# s", _FRACTION.sub("#", line)).rstrip()


def test_what_is_shown_is_compared_but_for_fractions_and_lines_left_out() -> None:
    shown = Block(PAGE, 1, "text", "loss 0.51\n…\n3 rows in 4 s\n")
    assert_shown("loss 0.62\nmore\nand more\n3 rows in 17 s\n", shown)
    with pytest.raises(AssertionError, match="is printed as"):
        assert_shown("loss 0.62\n4 rows in 17 s\n", shown)


def test_a_label_is_compared_where_it_is_sure_and_counts_to_one_in_twenty() -> None:
    shown = Block(
        PAGE, 1, "text", 'prediction  rows\ndown    30\nup      10\nid,text\n1,"a, b",up,0.91\n2,c,down,0.52\n'
    )
    start = "prediction  rows\nup      12\ndown    28\nid,text\n"
    assert_shown(f'{start}1,"a, b",up,0.93\n2,c,up,0.501\n', shown)
    for other in (
        f'{start}1,"a, b",down,0.91\n2,c,down,0.52\n',  # another label
        f'{start}1,"a, b",up,0.7\n2,c,down,0.52\n',  # far less sure
        f'{start}1,"a, b",up,0.91\n3,c,down,0.52\n',  # another row
        f'{start.replace("12", "13")}1,"a, b",up,0.91\n2,c,down,0.52\n',  # 41 rows
        f'{start.replace("12", "13").replace("28", "27")}1,"a, b",up,0.91\n2,c,down,0.52\n',  # three of 40 moved
    ):
        with pytest.raises(AssertionError, match="is printed as"):
            assert_shown(other, shown)
