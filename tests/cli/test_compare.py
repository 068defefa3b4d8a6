from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ia3.adapters.arithmetic import negate, size_of, with_strength
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.cli.compare import VERB
from ia3.cli.parsing import read_arguments
from ia3.errors import IA3Error


def second_of(folder: str, output: Path, *, labels: list[str] | None = None) -> str:
    """Write another adapter of the same base beside one, with other numbers in its vectors and its head."""
    adapter = load_adapter(folder)
    generator = torch.Generator().manual_seed(1)
    vectors = {name: v + 0.1 * torch.randn(v.shape, generator=generator) for name, v in adapter.vectors.items()}
    head = {name: tensor + 0.1 for name, tensor in adapter.head.items()}
    record = {**adapter.record, **({"labels": labels} if labels else {})}
    return str(save_adapter(replace(adapter, vectors=vectors, head=head, record=record), output))


def compare(*arguments: str) -> int:
    return VERB.run(read_arguments(VERB, arguments))


def test_distances_and_cosines_are_shown_by_role(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = load_adapter(encoder)
    save_adapter(negate(adapter), tmp_path / "back")
    save_adapter(with_strength(adapter, 0), tmp_path / "idle")
    capsys.readouterr()
    assert compare(encoder, str(tmp_path / "back"), str(tmp_path / "idle")) == 0
    out, err = capsys.readouterr()
    size = size_of(adapter)
    sizes, pairs = out.split("\n\n")
    assert sizes.splitlines()[1].split() == ["adapter-encoder", f"{size:.4f}"]
    assert sizes.splitlines()[3].split() == ["idle", "0.0000"] and err == ""
    lines = [line.split() for line in pairs.splitlines()]
    assert lines[0] == ["adapters", "role", "distance", "cosine"]
    assert lines[1] == ["adapter-encoder,", "back", "all", f"{2 * size:.4f}", "-1.0000"]
    assert [line[0] for line in lines[2:5]] == ["key", "value", "feedforward"]
    assert lines[5] == ["adapter-encoder,", "idle", "all", f"{size:.4f}", "–"]


def test_json_has_the_numbers(encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = second_of(encoder, tmp_path / "other")
    capsys.readouterr()
    assert compare(encoder, other, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["sizes"]) == ["adapter-encoder", "other"]
    (pair,) = found["pairs"]
    assert (pair["first"], pair["second"]) == ("adapter-encoder", "other")
    assert set(pair["distance"]) == set(pair["cosine"]) == {"all", "key", "value", "feedforward"}
    parts = sum(pair["distance"][role] ** 2 for role in ("key", "value", "feedforward"))
    assert pair["distance"]["all"] ** 2 == pytest.approx(parts)


def test_one_adapter_is_not_compared(encoder: str) -> None:
    with pytest.raises(IA3Error, match="got one, expected two or more"):
        compare(encoder)
