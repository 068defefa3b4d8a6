"""The mean as what a head reads: what a folder says, what is computed, and that it is never taken for another head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import ia3
from ia3.adapters.attached import attach
from ia3.adapters.identity import base_fingerprint
from ia3.bases.loading import Base, load_base
from ia3.bases.pooling import mean_classifier_class, mean_sentence, pooling_in
from ia3.core.discovery import find_plan
from ia3.errors import BaseError, SettingsError
from ia3.fast.acceleration import accelerate
from ia3.inference.logits import class_logits
from tests.models import save_tiny_base

LABELS = ("down", "up")
TEXTS = ("Up.", "Sales fell by a third, and nobody at the plant knows why.")
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}


def say_mean(folder: Path, modes: Any = MEAN) -> Path:
    """Write into a base's folder what sentence-transformers writes beside a model."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return folder


def tiny(folder: Path, pooling: str = "mean") -> Base:
    """Return the tiny encoder with two labels, its numbers in float64."""
    if not folder.exists():
        save_tiny_base(folder, "encoder")
    return load_base(folder, labels=LABELS, dtype="float64", pooling=pooling)


def test_a_folder_says_what_its_encoder_was_trained_for(tmp_path: Path) -> None:
    assert pooling_in(tmp_path) == "own"
    assert pooling_in(say_mean(tmp_path)) == "mean"
    assert pooling_in(say_mean(tmp_path, {"word_embedding_dimension": 8, "pooling_mode": "mean"})) == "mean"
    assert pooling_in(say_mean(tmp_path, {"pooling_mode": "cls"})) == "own"
    assert pooling_in(say_mean(tmp_path, {**MEAN, "pooling_mode_mean_tokens": False})) == "own"
    assert pooling_in(say_mean(tmp_path, {**MEAN, "pooling_mode_max_tokens": True})) == "own"  # both, side by side
    (tmp_path / "modules.json").write_text("no json")
    assert pooling_in(tmp_path) == "own"


def test_auto_takes_the_mean_where_the_folder_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    assert tiny(folder, "auto").pooling == "own"
    say_mean(folder)
    loaded = tiny(folder, "auto")
    assert (loaded.pooling, loaded.kind, loaded.head_modules) == ("mean", "encoder", ("mean_classifier",))
    assert tiny(folder, "own").head_modules == ("classifier",)


def test_the_mean_is_of_the_tokens_alone_and_of_one_length() -> None:
    hidden = torch.tensor([[[3.0, 0.0], [1.0, 4.0], [9.0, 9.0]]])
    expected = torch.tensor([[2.0, 2.0]]) / (8**0.5) * 2**0.5
    torch.testing.assert_close(mean_sentence(hidden, torch.tensor([[1, 1, 0]])), expected)
    torch.testing.assert_close(mean_sentence(hidden[:, :2], None), expected)
    torch.testing.assert_close(mean_sentence(hidden, torch.tensor([[0, 0, 0]])), torch.zeros(1, 2))
    half = torch.full((1, 200, 2), 3e4, dtype=torch.float16)  # their sum is no number of this type
    torch.testing.assert_close(mean_sentence(half, torch.ones(1, 200)), torch.ones(1, 2, dtype=torch.float16))


def test_logits_are_those_of_the_bodys_mean_padded_or_alone(tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")
    model: Any = base.model
    both = base.tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    with torch.no_grad():
        together = model(**both).logits
        for text, logits in zip(TEXTS, together, strict=True):
            one = base.tokenizer([text], return_tensors="pt")
            mean = model.base_model(**one).last_hidden_state.mean(dim=1)
            unit = nn.functional.normalize(mean, dim=1) * mean.shape[1] ** 0.5
            torch.testing.assert_close(model.mean_classifier(unit)[0], logits)
        loss = model(**both, labels=torch.tensor([0, 1])).loss
    torch.testing.assert_close(loss, nn.functional.cross_entropy(together, torch.tensor([0, 1])))


def test_faster_passes_leave_no_position_out(tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")
    attachment = attach(base.model, head_modules=base.head_modules, name="one")
    batch = base.tokenizer(list(TEXTS), padding=True, return_tensors="pt")

    def logits() -> Tensor:
        with torch.no_grad():
            return class_logits(base.model, {**batch, "rows": "one"})

    plain = logits()
    with accelerate(attachment) as faster:
        assert faster.counts["last blocks"] == 0
        torch.testing.assert_close(logits(), plain)


def test_it_is_the_same_base_as_with_its_own_head(tmp_path: Path) -> None:
    mean, own = tiny(tmp_path / "base"), tiny(tmp_path / "base", "own")
    assert base_fingerprint(mean.model, mean.head_modules) == base_fingerprint(own.model, own.head_modules)


def test_a_saved_model_is_loaded_as_what_it_is(tmp_path: Path) -> None:
    base = tiny(tmp_path / "base")
    base.model.save_pretrained(tmp_path / "saved")
    base.tokenizer.save_pretrained(tmp_path / "saved")
    again = load_base(tmp_path / "saved", labels=LABELS, dtype="float64")
    assert (again.pooling, again.head_modules) == ("mean", ())  # it has the head already
    batch = base.tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(again.model(**batch).logits, base.model(**batch).logits)


@pytest.mark.parametrize("config", [transformers.T5Config, transformers.BartConfig, transformers.FunnelConfig])
def test_what_is_no_plain_encoder_has_no_such_class(config: type) -> None:
    with pytest.raises(BaseError, match="is of no plain encoder"):
        mean_classifier_class(config)


@pytest.mark.parametrize(
    "config",
    [
        transformers.RobertaConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2),
        transformers.DistilBertConfig(vocab_size=40, dim=8, hidden_dim=16, n_layers=1, n_heads=2),
        transformers.XLMRobertaConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2),
        transformers.DebertaV2Config(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2),
        transformers.MPNetConfig(vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=2),
    ],
    ids=lambda config: config.model_type,
)
def test_bodies_of_other_families_give_their_mean_and_have_no_pooler(config: Any) -> None:
    model = mean_classifier_class(type(config)).from_config(config).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        mean = mean_sentence(
            model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state, None
        )
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(logits, model.mean_classifier(mean))
    assert not any("pooler" in name for name, _ in model.named_parameters())
    assert find_plan(model).width > 0


@pytest.mark.parametrize(
    ("kind", "pooling", "told"),
    [
        ("causal", "mean", "pooling 'mean' is for the head of an encoder, and this is causal"),
        ("encoder", "men", "pooling 'men' is unknown. Did you mean 'mean'"),
    ],
)
def test_what_cannot_be_is_told(kind: str, pooling: str, told: str, tmp_path: Path) -> None:
    save_tiny_base(tmp_path / "base", kind)
    with pytest.raises(SettingsError, match=told):
        load_base(tmp_path / "base", pooling=pooling)


def test_minilm_says_that_it_was_trained_for_the_mean() -> None:
    """Its real files; how its embeddings come out is known from sentence-transformers' own pages of the model."""
    base = ia3.load_base("minilm", labels=list(LABELS), pooling="auto")
    assert (base.pooling, type(base.model).__name__) == ("mean", "BertMeanForSequenceClassification")
