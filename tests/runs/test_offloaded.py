"""A base whose weights accelerate keeps elsewhere is trained and used as one in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch

import ia3
from ia3.bases.loading import Base, load_base
from tests.models import save_tiny_base

_ROWS = [(f"{what} number {i}", label) for i in range(4) for what, label in (("Rose", "up"), ("Fell", "down"))]
_QUICK: dict[str, Any] = {"max_steps": 2, "eval_fraction": 0, "compile": "off", "recipe": "default"}


def _base(folder: Path, kind: Any, *, offloaded: bool) -> Base:
    labels = ("up", "down") if kind == "encoder" else None
    base = load_base(str(folder), labels=labels, device="cpu", say=lambda _: None)
    if offloaded:
        accelerate.cpu_offload(base.model, execution_device=torch.device("cpu"))
    return base


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "encoder"])
def test_an_offloaded_base_is_trained_and_answers_as_one_in_memory(kind: Any, tmp_path: Path) -> None:
    """Inputs went to where the first parameter lies, which is the meta device between the passes."""
    folder = save_tiny_base(tmp_path / "base", kind)
    answers = []
    for name in ("whole", "away"):
        base = _base(folder, kind, offloaded=name == "away")
        ia3.train(_ROWS, base, tmp_path / name, **_QUICK)
        model = ia3.load(tmp_path / name, base=base)
        found = [one.probabilities["up"] for one in model.classify(["Rose", "Fell further"])]
        found += [model.evaluate(_ROWS).loss]
        texts = [] if kind == "encoder" else model.generate(["Rose", "Fell further"], max_new_tokens=3)
        answers.append((found, texts))
    (whole, whole_texts), (away, away_texts) = answers
    assert away == pytest.approx(whole, abs=1e-5)
    assert away_texts == whole_texts
