"""GGUF files: converted once, to the same model; what the import loses is mended or refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ia3.bases import gguf
from ia3.bases.cache import RECORD
from ia3.bases.gguf_header import GGUFHeader, GGUFTensor, is_gguf, read_floats, read_header
from ia3.bases.gguf_mending import mend_config
from ia3.bases.loading import load_base
from ia3.errors import BaseError
from tests.models import VOCABULARY, save_tiny_base, tiny_gguf

IDS = torch.arange(4, 104)[None]  # longer than the sliding window


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IA3_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_converted_file_is_the_same_model_with_its_tokenizer(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "tiny.gguf"
    model = tiny_gguf(file)
    said: list[str] = []
    base = load_base(file, say=said.append)
    assert torch.equal(base.model(IDS).logits, model(IDS).logits)
    assert base.name == str(file)
    assert Path(base.folder).parent == cache / "gguf"
    assert base.tokenizer("é").input_ids == [2, 4 + 0xC3, 4 + 0xA9]  # <bos>, then its bytes
    assert base.tokenizer.decode(base.tokenizer("né 1 €", add_special_tokens=False).input_ids) == "né 1 €"
    assert len(said) == 2
    assert "once, the dequantised values as float32" in said[0]


def test_the_folder_says_nothing_of_gguf_or_of_this_machine(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf(file)
    folder = gguf.convert_gguf([file], "tiny", lambda line: None)
    config = (folder / "config.json").read_text()
    assert "quantization_config" not in config
    assert str(tmp_path) not in config
    assert json.loads(config)["dtype"] == "float32"
    assert {p.name for p in folder.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", RECORD,
    }  # fmt: skip


def test_a_file_is_converted_once_and_found_under_any_name(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf(file)
    first = gguf.convert_gguf([file], "tiny", lambda line: None)
    renamed = file.rename(tmp_path / "renamed")
    assert is_gguf(renamed)
    assert gguf.convert_gguf([renamed], "tiny", pytest.fail) == first
    assert gguf.find_converted(first.name) == first
    tiny_gguf(tmp_path / "other.gguf", seed=1)
    assert gguf.convert_gguf([tmp_path / "other.gguf"], "other", lambda line: None) != first


def test_the_parts_of_a_split_file_are_joined_for_the_conversion_only(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf(file)
    content = file.read_bytes()
    parts = [tmp_path / f"part{n}" for n in range(3)]
    for n, part in enumerate(parts):
        part.write_bytes(content[n * 20_000 : (n + 1) * 20_000 if n < 2 else None])
    folder = gguf.convert_gguf(parts, "tiny", lambda line: None)
    assert gguf.convert_gguf([file], "tiny", pytest.fail) == folder
    assert len(content) not in {p.stat().st_size for p in cache.rglob("*")}


def test_the_conversion_prints_nothing_but_what_it_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf(file)
    capfd.readouterr()
    gguf.convert_gguf([file], "tiny", lambda line: None)
    assert capfd.readouterr() == ("", "")


def test_a_failed_conversion_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf(file, residual_scale=0.5)
    with pytest.raises(BaseError, match=r"it has residual_scale = 0\.5, which transformers does not import"):
        load_base(file, say=lambda line: None)
    assert [p for p in (cache / "gguf").iterdir() if p.is_dir()] == []


def test_missing_packages_are_all_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf(file)
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(BaseError, match=r"needs gguf and accelerate\. Run pip install gguf accelerate\."):
        load_base(file)


# --- damaged files ---


def test_a_file_that_only_is_called_gguf_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(BaseError, match=r"tiny\.gguf: it begins with b'PK\\x03\\x04', expected b'GGUF'"):
        load_base(file)
    file.write_bytes(b"GGUF\x01\x00\x00\x00" + bytes(16))
    with pytest.raises(BaseError, match="version 1, expected 2 or 3"):
        load_base(file)


@pytest.mark.parametrize("kept", [6, 100, 9000, -200])
def test_a_cut_file_is_refused(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf(file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(
        BaseError, match=r"Reading the GGUF file .*The file is damaged; fetch it again\.|cannot read this"
    ):
        load_base(file, say=lambda line: None)


def test_a_family_that_transformers_does_not_import_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf(file)
    file.write_bytes(file.read_bytes().replace(b"gemma3", b"gemmaX"))
    with pytest.raises(BaseError, match=r"cannot read this file of the family 'gemmaX': .*not supported yet"):
        load_base(file, say=lambda line: None)


def test_a_file_without_one_of_the_models_weights_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf(file)
    file.write_bytes(file.read_bytes().replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_no.weight"))
    with pytest.raises(BaseError, match=r"1 weights are not in it, first 'model\.layers\.1\.mlp\.up_proj\.weight'"):
        load_base(file, say=lambda line: None)


# --- what transformers' import leaves out ---


def test_the_pattern_of_sliding_layers_is_taken_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf(file)
    config = load_base(file, say=lambda line: None).model.config
    assert config.layer_types == ["sliding_attention", "full_attention"]


def test_soft_caps_and_rope_scaling_are_taken_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf(
        file, attn_logit_softcapping=50.0, final_logit_softcapping=30.0, rope__freq_base_swa=5000.0,
        rope__scaling__type="linear", rope__scaling__factor=8.0,
    )  # fmt: skip
    config = load_base(file, say=lambda line: None).model.config
    assert (config.attn_logit_softcapping, config.final_logit_softcapping) == (50.0, 30.0)
    assert config.rope_parameters == {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
    }


def test_other_rope_scaling_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    tiny_gguf(file, rope__scaling__type="yarn")
    with pytest.raises(BaseError, match=r"it has rope\.scaling\.type = 'yarn', which transformers does not import"):
        load_base(file, say=lambda line: None)


def test_the_27b_models_scale_their_queries_by_width_and_heads() -> None:
    config = SimpleNamespace(
        model_type="gemma3_text", num_hidden_layers=62, hidden_size=5376, num_attention_heads=32,
        query_pre_attn_scalar=256,
    )  # fmt: skip
    mend_config(config, _header(Path("x"), {}))
    assert config.query_pre_attn_scalar == 168


def test_the_frequency_factors_of_llama_3_become_its_rope_scaling(tmp_path: Path) -> None:
    """The factors as transformers' own code has them for this scaling."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig(head_dim=64, rope_parameters=scaling), torch.device("cpu"))
    plain = 1 / 500_000.0 ** (torch.arange(0, 64, 2) / 64)
    header = _rope_file(tmp_path / "rope", plain / scaled)
    config = _llama()
    mend_config(config, header)
    assert config.rope_parameters == pytest.approx(scaling)
    assert read_floats(header, "rope_freqs.weight")[0] == 1.0
    with pytest.raises(BaseError, match=r"rope_freqs\.weight with other values than Llama 3's"):
        mend_config(_llama(), _rope_file(tmp_path / "other", (plain / scaled).sqrt()))


@pytest.mark.parametrize(("key", "value"), [("logit_scale", 0.1), ("attn_logit_softcapping", 50.0)])
def test_what_the_config_has_no_place_for_is_refused(key: str, value: float) -> None:
    with pytest.raises(BaseError, match=f"it has {key} = {value}, which transformers does not import"):
        mend_config(_llama(), _header(Path("x"), {f"llama.{key}": value}))


def test_long_rope_factors_are_refused() -> None:
    header = _header(Path("x"), {}, GGUFTensor("rope_factors_long.weight", (48,), 0, 0))
    with pytest.raises(BaseError, match=r"it has tensor 'rope_factors_long\.weight'"):
        mend_config(_llama(), header)


def test_the_header_holds_every_field_and_tensor(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    model = tiny_gguf(file)
    header = read_header(file)
    assert header.field("embedding_length") == model.config.hidden_size
    assert header.fields["tokenizer.ggml.tokens"] is None
    assert len(header.fields["tokenizer.ggml.token_type"]) == VOCABULARY
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    assert shapes["blk.0.ffn_up.weight"] == tuple(model.model.layers[0].mlp.up_proj.weight.shape)
    assert read_floats(header, "output_norm.weight") == pytest.approx((model.model.norm.weight + 1).tolist())
    with pytest.raises(BaseError, match="expected one row of fp32"):
        read_floats(header, "token_embd.weight")


def test_a_folder_is_not_taken_for_a_gguf_file(tmp_path: Path) -> None:
    save_tiny_base(tmp_path / "base.gguf", "causal")
    assert load_base(tmp_path / "base.gguf").folder == str(tmp_path / "base.gguf")


def _llama() -> Any:
    return SimpleNamespace(
        model_type="llama", num_hidden_layers=1, head_dim=64, rope_parameters={"rope_theta": 500_000.0}
    )


def _header(path: Path, fields: dict[str, Any], *tensors: GGUFTensor) -> GGUFHeader:
    return GGUFHeader(path, {"general.architecture": "llama", **fields}, tensors, 0)


def _rope_file(path: Path, factors: torch.Tensor) -> GGUFHeader:
    assert math.isclose(factors[0], 1.0)
    path.write_bytes(factors.float().numpy().tobytes())
    return _header(path, {}, GGUFTensor("rope_freqs.weight", (len(factors),), 0, 0))
