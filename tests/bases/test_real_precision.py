"""The named bases in int8 beside themselves in float: sentences, next tokens, and an adapter that is carried over."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

import ia3.demo
from ia3.bases.loading import Base, load_base
from ia3.bases.named import find_named_base, is_installed
from ia3.inference.loading import load_predictor
from ia3.runs.plans.one import train_adapter

pytestmark = pytest.mark.slow

SENTENCES = (
    "The company said on Tuesday that its operating profit rose to EUR 13.1 million from EUR 8.7 million.",
    "Sales fell by a third in the last quarter, and the board proposed to close the plant in the north of the country.",
    "The cat sat on the window sill and watched the rain run down the glass.",
    "Water boils at one hundred degrees Celsius at sea level, and at a lower temperature on a mountain.",
    "In 1969 two men walked on the surface of the Moon while a third circled above them.",
)
TABLE = Path(ia3.demo.__file__).parent / "business_news.csv"


def _load(name: str, precision: str) -> Base:
    named = find_named_base(name)
    assert named is not None
    if not is_installed(named):
        pytest.skip(f"{name} is not installed")
    return load_base(name, labels=["negative", "neutral", "positive"], precision=precision, device="cpu")


def _each(name: str, run: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return [run(_load(name, precision)) for precision in ("float", "int8")]


def test_minilms_sentences_point_where_they_did() -> None:
    def embed(base: Base) -> torch.Tensor:
        batch = base.tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
        mask = batch.attention_mask[..., None]
        return (base.model.bert(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)

    before, after = _each("minilm", embed)
    assert float(torch.cosine_similarity(before, after).min()) > 0.99


def test_gemma_goes_on_with_the_tokens_it_went_on_with() -> None:
    def log_probabilities(base: Base) -> torch.Tensor:
        encoded = [base.tokenizer(sentence, return_tensors="pt") for sentence in SENTENCES]
        return torch.cat([base.model(**one).logits[0] for one in encoded]).log_softmax(-1)

    before, after = _each("gemma-3-270m", log_probabilities)
    assert float((before.argmax(-1) == after.argmax(-1)).float().mean()) > 0.9
    assert float((before.exp() * (before - after)).sum(-1).mean()) < 0.02


@pytest.mark.parametrize(("name", "steps"), [("minilm", 160), ("gemma-3-270m", 40)])
def test_an_adapter_trained_on_the_int8_base_is_as_good_on_the_float_one(name: str, steps: int, tmp_path: Path) -> None:
    _load(name, "int8")
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = [(row["sentence"], row["label"]) for row in csv.DictReader(file)][:440]
    learned, held_out = rows[:320], rows[320:]
    result = train_adapter(
        learned, name, tmp_path / "o", eval_source=held_out, precision="int8", device="cpu", max_steps=steps
    )
    assert result.metrics is not None
    on_int8 = result.metrics.accuracy or 0.0
    on_float = load_predictor(tmp_path / "o", device="cpu").evaluate(held_out).accuracy or 0.0
    assert on_int8 > 0.5 and abs(on_int8 - on_float) < 0.05
