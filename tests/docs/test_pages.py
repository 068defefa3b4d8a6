"""The pages are true: links lead somewhere, commands are read, settings and families are the code's, Python runs.

Python blocks run twice: in the default run on tiny bases that lie in folders called `minilm` and `gemma-3-270m`, which
a local folder's right of way makes the named ones; in the slow tier on the real ones, where what is printed is compared
with the text block below it as well (whole numbers and words exactly, fractions not).
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from ia3.bases.named import find_named_base, is_installed
from ia3.cli.main import VERBS
from ia3.cli.parsing import Verb, make_parser, read_arguments
from ia3.core.families import FAMILIES
from tests.models import save_tiny_base

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = (*sorted((ROOT / "docs").glob("*.md")), README)
_WITH_PYTHON = ("python.md", "peft.md", "plans.md", "many.md", "combine.md", "store.md")
WITH_PYTHON = (*(ROOT / "docs" / name for name in _WITH_PYTHON), README)
BY_NAME: dict[str, Verb] = {verb.name: verb for verb in VERBS}

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Trainer prints its numbers in quotes, and 112.0 as '112'
_FRACTION = re.compile(r"'\d+(?:\.\d+)?'|-?\d+\.\d+(e-?\d+)?")
_INLINE = re.compile(r"`(ia3 [^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced or indented block of a page."""

    page: Path
    line: int  # of its first line, from 1
    kind: str  # what stands behind the fence; "indented" without one
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the code blocks of a page, in order."""
    found: list[Block] = []
    kind: str | None = None
    begin, lines = 0, list[str]()
    before = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```"):
            if kind is None:
                kind, begin, lines = line[3:].strip(), number + 1, []
            else:
                found.append(Block(page, begin, kind, "\n".join(lines) + "\n"))
                kind = None
        elif kind is not None:
            lines.append(line)
        elif line.startswith("    ") and (not before.strip() or before.startswith("    ")):
            found.append(Block(page, number, "indented", line[4:] + "\n"))
        before = line
    assert kind is None, f"{page}:{begin}: a fence is never closed"
    return found


def prose_of(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def write_table(path: Path) -> None:
    """Write the table that the pages call `news.csv`: the first 96 rows of the bundled one."""
    lines = (ROOT / "src" / "ia3" / "demo" / "business_news.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:97]), encoding="utf-8")


def commands_of(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield where each `ia3 …` command line of a page stands, and its words."""
    for block in blocks_of(page):
        if block.kind == "python":
            continue
        for offset, line in enumerate(block.text.replace("\\\n", "  ").splitlines()):
            command = line.removeprefix("$ ").strip()
            if re.search(r"(^|\| )ia3 ", command):
                last = command.split("| ")[-1] if not command.startswith("ia3 ") else command
                yield f"{page.name}:{block.line + offset}", shlex.split(last.split(" > ")[0], comments=True)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that a hub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in _LINK.findall(prose_of(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        place = page.parent / name if name else page
        assert place.exists(), f"{page.name} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors_of(place), f"{page.name} links to {target}, which has no such heading"


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in PAGES if f"]({page.name})" not in index and page.name != "README.md"]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_is_read_by_its_parser(page: Path) -> None:
    for where, words in commands_of(page):
        assert words[0] == "ia3", where
        if words[1] in ("--help", "--version"):
            continue
        assert words[1] in BY_NAME, f"{where}: there is no verb {words[1]!r}"
        try:
            read_arguments(BY_NAME[words[1]], words[2:])
        except SystemExit:  # --help
            continue
        except Exception as error:
            raise AssertionError(f"{where}: {shlex.join(words)}: {error}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_verbs_and_options_named_in_the_text_are_there(page: Path) -> None:
    for words in map(str.split, _INLINE.findall(prose_of(page))):
        name = words[1]
        assert name in {*BY_NAME, "--help", "--version", "VERB"}, f"{page.name}: ia3 {name}"
        if name in BY_NAME:
            inside = [one for one in BY_NAME[name].verbs if one.name in words[2:3]]
            known = make_parser(*(inside or [BY_NAME[name]]))._option_string_actions
            unknown = [word for word in words[2:] if word.startswith("--") and word.partition("=")[0] not in known]
            assert not unknown, f"{page.name}: ia3 {name} {unknown}"


def test_the_page_on_plans_has_every_model_type_of_the_table_of_families() -> None:
    page = (ROOT / "docs" / "plans.md").read_text(encoding="utf-8")
    missing = [kind for family in FAMILIES if family.rules for kind in family.model_types if f"`{kind}`" not in page]
    assert not missing


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_blocks_run_on_tiny_bases(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_base(tmp_path / "minilm", "encoder")
    save_tiny_base(tmp_path / "gemma-3-270m", "causal")
    write_table(tmp_path / "news.csv")
    monkeypatch.chdir(tmp_path)
    assert list(run_blocks(page)), f"{page.name} has no Python"


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_python_blocks_print_what_the_page_shows(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("minilm", "gemma-3-270m"):
        named = find_named_base(name)
        if named is None or not is_installed(named):
            pytest.skip(f"{name} is not installed")
    write_table(tmp_path / "news.csv")
    monkeypatch.chdir(tmp_path)
    for block, printed, shown in run_blocks(page):
        if shown is not None:
            assert _without_fractions(printed) == _without_fractions(shown), f"{block} prints:\n{printed}"


def run_blocks(page: Path) -> Iterator[tuple[Block, str, str | None]]:
    """Run a page's Python in order and yield each block with what it printed and what the page says it prints.

    The blocks of a page share their names; those of the README stand alone.
    """
    blocks = [*blocks_of(page), Block(page, 0, "", "")]
    names: dict[str, Any] = {}
    for block, following in pairwise(blocks):
        if block.kind != "python":
            continue
        names = {} if page == README else names
        with _other_peoples_warnings_ignored(), contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)
        yield block, out.getvalue(), following.text if following.kind == "text" else None


@contextlib.contextmanager
def _other_peoples_warnings_ignored() -> Iterator[None]:
    """Leave torch as it was, and let Trainer and PEFT warn as they like."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        yield


def _without_fractions(text: str) -> list[str]:
    return [_FRACTION.sub("#", line).rstrip() for line in text.strip().splitlines()]
