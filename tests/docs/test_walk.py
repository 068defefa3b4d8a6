"""A page that is one run: its shell and Python blocks are run in order, and print what the page shows below them."""

from __future__ import annotations

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
    """Raise unless a page shows what is printed, but for fractions, seconds, and lines that are left out."""
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == _SKIPPED else re.escape(_plain(line)) + r"\n"
        for line in shown.text.rstrip("\n").splitlines()
    )
    plain = "".join(f"{_plain(line)}\n" for line in printed.strip("\n").splitlines())
    assert re.fullmatch(pattern, plain), f"{shown} is printed as:\n{printed}"


def _plain(line: str) -> str:
    return _SECONDS.sub("# s", _FRACTION.sub("#", line)).rstrip()


def test_what_is_shown_is_compared_but_for_fractions_and_lines_left_out() -> None:
    shown = Block(PAGE, 1, "text", "loss 0.51\n…\n3 rows in 4 s\n")
    assert_shown("loss 0.62\nmore\nand more\n3 rows in 17 s\n", shown)
    with pytest.raises(AssertionError, match="is printed as"):
        assert_shown("loss 0.62\n4 rows in 17 s\n", shown)
