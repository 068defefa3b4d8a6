"""Tiny bases, a table and trained adapters, made once for all tests of the command line."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ia3.adapters.folder import load_adapter, save_adapter
from ia3.cli.main import main
from tests.models import save_tiny_base

ROWS = [
    (f"{what} {how} in week {week}", label)
    for week in range(1, 6)
    for what, how, label in (
        ("profit", "rose", "up"),
        ("orders", "grew", "up"),
        ("sales", "fell", "down"),
        ("income", "sank", "down"),
    )
]


def write_table(path: Path, rows: Sequence[Sequence[str]], columns: Sequence[str] = ("text", "label")) -> Path:
    """Write a CSV file and return it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the table and the tiny bases; tests write elsewhere."""
    folder = tmp_path_factory.mktemp("home")
    write_table(folder / "table.csv", ROWS)
    for kind in ("encoder", "causal", "seq2seq"):
        save_tiny_base(folder / kind, kind)
    return folder


@pytest.fixture(scope="session")
def table(home: Path) -> str:
    """Return a table of twenty rows with two labels."""
    return str(home / "table.csv")


@pytest.fixture(scope="session")
def encoder(home: Path, table: str) -> str:
    """Return the folder of an adapter of the tiny encoder."""
    return _train(home, table, "encoder")


@pytest.fixture(scope="session")
def causal(home: Path, table: str) -> str:
    """Return the folder of an adapter of the tiny causal base."""
    return _train(home, table, "causal")


@pytest.fixture(scope="session")
def seq2seq(home: Path, table: str) -> str:
    """Return the folder of an adapter of the tiny seq2seq base."""
    return _train(home, table, "seq2seq")


@pytest.fixture(scope="session")
def side_by_side(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two adapters with different labels, and a store of the same."""
    home = tmp_path_factory.mktemp("side")
    both = home / "both"
    shutil.copytree(encoder, both / "mood")
    adapter = load_adapter(encoder)
    head = {name: torch.cat([tensor, tensor[:1] - 1]) for name, tensor in adapter.head.items()}
    vectors = {name: 2 - vector for name, vector in adapter.vectors.items()}
    save_adapter(
        replace(adapter, vectors=vectors, head=head, record={**adapter.record, "labels": ["art", "law", "war"]}),
        both / "topic",
    )
    assert main(["adapters", "pack", str(home / "s.ia3"), str(both)]) == 0
    return home


def _train(home: Path, table: str, kind: str) -> str:
    output = str(home / f"adapter-{kind}")
    assert main(["train", table, "--base", str(home / kind), "--output", output, "--epochs", "1"]) == 0
    return output
