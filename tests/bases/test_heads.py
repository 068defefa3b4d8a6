"""Heads: found as what the checkpoint lacks, drawn from the seed alone, and nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf

from ia3.bases.heads import draw_heads, drawn_weights, find_heads, is_head_weight, label_weights
from ia3.bases.loading import load_base
from ia3.errors import BaseError
from tests.models import VOCABULARY, save_tiny_base, tiny_bert, tiny_tokenizer

SHAPE = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 64,
}  # fmt: skip
DISTIL = {
    "vocab_size": VOCABULARY, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 64,
}  # fmt: skip
TOKENS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "cls_token_id": 2, "sep_token_id": 1}

CHECKPOINTS = {
    "bert body": (hf.BertModel, hf.BertConfig(**SHAPE), ("classifier",)),
    "bert masked": (hf.BertForMaskedLM, hf.BertConfig(**SHAPE), ("bert.pooler", "classifier")),
    "roberta": (hf.RobertaForMaskedLM, hf.RobertaConfig(**SHAPE), ("classifier",)),
    "xlm-roberta": (hf.XLMRobertaForMaskedLM, hf.XLMRobertaConfig(**SHAPE), ("classifier",)),
    "distilbert": (hf.DistilBertForMaskedLM, hf.DistilBertConfig(**DISTIL), ("pre_classifier", "classifier")),
    "albert": (hf.AlbertForMaskedLM, hf.AlbertConfig(**SHAPE, embedding_size=8), ("albert.pooler", "classifier")),
    "electra": (hf.ElectraForPreTraining, hf.ElectraConfig(**SHAPE, embedding_size=8), ("classifier",)),
    "deberta": (hf.DebertaForMaskedLM, hf.DebertaConfig(**SHAPE), ("pooler", "classifier")),
    "deberta-v2": (hf.DebertaV2ForMaskedLM, hf.DebertaV2Config(**SHAPE), ("pooler", "classifier")),
    "modernbert": (hf.ModernBertForMaskedLM, hf.ModernBertConfig(**SHAPE, **TOKENS), ("classifier",)),
}


def _saved(folder: Path, make: Any, config: Any) -> Any:
    torch.manual_seed(0)
    model = make(config)
    model.save_pretrained(folder)
    tiny_tokenizer("encoder").save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_the_heads_are_the_topmost_modules_that_the_checkpoint_lacks(name: str, tmp_path: Path) -> None:
    make, config, heads = CHECKPOINTS[name]
    body = _saved(tmp_path, make, config).base_model.state_dict()
    base = load_base(tmp_path, num_labels=3, seed=1)
    assert base.head_modules == heads
    loaded = base.model.base_model.state_dict()
    assert set(body) & set(loaded)
    assert all(torch.equal(body[key], loaded[key]) for key in set(body) & set(loaded))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_new_head_is_a_function_of_the_seed_and_moves_no_global_random_state(name: str, tmp_path: Path) -> None:
    make, config, heads = CHECKPOINTS[name]
    _saved(tmp_path, make, config)
    before = torch.get_rng_state()
    first = load_base(tmp_path, num_labels=3, seed=1).model.state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    again = load_base(tmp_path, num_labels=3, seed=1).model.state_dict()
    other = load_base(tmp_path, num_labels=3, seed=2).model.state_dict()
    drawn = [key for key in first if key.startswith(heads) and key.endswith("weight") and first[key].ndim == 2]
    assert drawn
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


def test_two_heads_do_not_begin_with_the_same_numbers(tmp_path: Path) -> None:
    make, config, _ = CHECKPOINTS["deberta"]
    _saved(tmp_path, make, config)
    model = load_base(tmp_path, num_labels=3).model
    assert not torch.allclose(model.pooler.dense.weight[:3], model.classifier.weight)


def test_a_head_in_bfloat16_is_the_rounded_head_of_float32(tmp_path: Path) -> None:
    save_tiny_base(tmp_path, "encoder")
    exact = load_base(tmp_path, seed=5).model.classifier.weight
    rounded = load_base(tmp_path, seed=5, dtype="bfloat16").model.classifier.weight
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(exact.bfloat16(), rounded)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A folder with a trained classifier for three labels."""
    save_tiny_base(tmp_path / "body", "encoder")
    base = load_base(tmp_path / "body", labels=["bad", "fair", "good"], seed=7)
    base.model.save_pretrained(tmp_path / "trained")
    base.tokenizer.save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


def test_a_classifier_in_the_checkpoint_is_kept_for_its_own_labels(classifier: Path) -> None:
    base = load_base(classifier, labels=["bad", "fair", "good"])
    kept = load_base(classifier, num_labels=3)
    assert base.head_modules == kept.head_modules == ()
    assert torch.equal(base.model.classifier.weight, kept.model.classifier.weight)
    assert kept.model.config.id2label == {0: "bad", 1: "fair", 2: "good"}


def test_a_saved_classifier_is_kept_where_nothing_is_said_of_labels(classifier: Path) -> None:
    """Without labels and a width two were taken: a classifier of three was dropped, and random numbers answered."""
    base = load_base(classifier)
    assert base.head_modules == () and base.model.config.id2label == {0: "bad", 1: "fair", 2: "good"}
    assert torch.equal(base.model.classifier.weight, load_base(classifier, num_labels=3).model.classifier.weight)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"id2label": {"0": "stars"}, "label2id": {"stars": 0}, "problem_type": "regression"}, "a number"),
        ({"problem_type": "multi_label_classification"}, "several labels"),
    ],
)
def test_a_saved_classifier_of_something_else_is_refused_without_labels(
    classifier: Path, setting: dict[str, Any], told: str
) -> None:
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps(config | setting))
    with pytest.raises(BaseError, match=f"its classifier answers {told}"):
        load_base(classifier)


@pytest.mark.parametrize("labels", [["good", "fair", "bad"], ["a", "b", "c"], ["bad", "good"], ["1", "2", "3", "4"]])
def test_a_classifier_for_other_labels_is_drawn_anew(classifier: Path, labels: list[str]) -> None:
    trained = load_base(classifier, num_labels=3).model.classifier.weight
    base = load_base(classifier, labels=labels, seed=1)
    assert base.head_modules == ("classifier",)
    assert base.model.classifier.weight.shape[0] == len(labels)
    assert list(base.model.config.id2label.values()) == labels
    assert base.model.config.label2id == {label: i for i, label in enumerate(labels)}
    assert not torch.isin(base.model.classifier.weight, trained).any()


def test_a_classifier_of_another_width_is_drawn_anew_without_labels_too(classifier: Path) -> None:
    base = load_base(classifier, num_labels=4)
    assert base.head_modules == ("classifier",)
    assert base.model.config.num_labels == 4


def test_a_saved_classifier_of_a_causal_model_is_loaded_as_an_encoder(tmp_path: Path) -> None:
    config = hf.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=64, pad_token_id=0)
    _saved(tmp_path, hf.GPT2ForSequenceClassification, config)
    base = load_base(tmp_path)
    assert (base.kind, base.head_modules) == ("encoder", ())


def test_a_module_that_lacks_one_of_its_own_parameters_counts_whole() -> None:
    model = hf.BertForSequenceClassification(tiny_bert().config)
    assert find_heads(model, {"classifier.bias"}) == ("classifier",)
    assert find_heads(model, {"bert.pooler.dense.bias", "bert.pooler.dense.weight"}) == ("bert.pooler",)
    assert find_heads(model, set()) == ()


def test_only_weights_outside_the_body_and_poolers_belong_to_a_head() -> None:
    assert is_head_weight("classifier.weight", "bert")
    assert is_head_weight("bert.pooler.dense.weight", "bert")
    assert is_head_weight("pooler.dense.weight", "deberta")
    assert not is_head_weight("bert.encoder.layer.0.output.dense.weight", "bert")


def test_the_weights_that_follow_the_labels_are_found_by_their_shape() -> None:
    _, config, _ = CHECKPOINTS["roberta"]
    assert label_weights(config) == {"classifier.out_proj.weight", "classifier.out_proj.bias"}


def test_drawing_no_head_changes_nothing() -> None:
    model = hf.BertForSequenceClassification(tiny_bert().config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    draw_heads(model, (), 0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_a_checkpoint_lacks_is_seen_on_any_model_that_was_loaded(tmp_path: Path) -> None:
    make, config, _ = CHECKPOINTS["bert masked"]
    _saved(tmp_path, make, config)
    expected = {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"}
    assert drawn_weights(hf.AutoModelForSequenceClassification.from_pretrained(tmp_path)) == expected
    assert drawn_weights(load_base(tmp_path).model) == expected
    assert drawn_weights(load_base(tmp_path, dtype="bfloat16").model) == expected
    assert drawn_weights(hf.AutoModelForMaskedLM.from_pretrained(tmp_path)) == frozenset()
    assert drawn_weights(hf.AutoModel.from_pretrained(tmp_path)) == frozenset()  # a pooler that may not be read
    assert drawn_weights(hf.BertForSequenceClassification(config)) == frozenset()  # nothing is known of it


def test_a_classifier_that_is_drawn_anew_counts_as_drawn(classifier: Path) -> None:
    assert drawn_weights(load_base(classifier, num_labels=3).model) == frozenset()
    other = load_base(classifier, labels=["x", "y", "z"])
    assert drawn_weights(other.model) == {"classifier.weight", "classifier.bias"}


def test_of_what_somebody_put_in_resized_or_keeps_elsewhere_nothing_is_known(classifier: Path, tmp_path: Path) -> None:
    """Their parameters have no mark either: a trained head was taken for random numbers."""
    model = hf.AutoModelForSequenceClassification.from_pretrained(classifier)
    model.classifier = torch.nn.Linear(model.config.hidden_size, 3)
    assert drawn_weights(model) == frozenset()
    elsewhere = {"bert": "cpu", "classifier": "disk"}
    options = {"device_map": elsewhere, "offload_folder": tmp_path / "disk"}
    assert drawn_weights(hf.AutoModelForSequenceClassification.from_pretrained(classifier, **options)) == frozenset()
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    _saved(tmp_path / "llama", hf.LlamaForCausalLM, config)
    words = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    words.resize_token_embeddings(VOCABULARY + 8)
    assert drawn_weights(words) == frozenset()
