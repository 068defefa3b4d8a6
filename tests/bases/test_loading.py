"""Loading: what comes back is frozen, whole, padded and quiet, and every wrong base is one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from ia3.bases.folders import has_own_head
from ia3.bases.loading import load_base, load_config
from ia3.errors import BaseError, SettingsError
from tests.models import VOCABULARY, save_tiny_base, tiny_gemma3, tiny_mt5, tiny_tokenizer

KINDS = ("encoder", "causal", "seq2seq")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_comes_frozen_in_eval_mode_with_its_tokenizer(tmp_path: Path, kind: str) -> None:
    save_tiny_base(tmp_path, kind)
    base = load_base(tmp_path)
    assert base.kind == kind
    assert base.name == base.folder == str(tmp_path)
    assert not base.model.training
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert {parameter.dtype for parameter in base.model.parameters()} == {torch.float32}
    assert base.tokenizer("é").input_ids == tiny_tokenizer(kind)("é").input_ids
    assert base.head_modules == (("classifier",) if kind == "encoder" else ())


@pytest.mark.parametrize("kind", KINDS)
def test_loading_prints_nothing_and_leaves_transformers_settings_as_they_were(
    tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    save_tiny_base(tmp_path, kind)
    capfd.readouterr()
    before = hf.utils.logging.get_verbosity(), hf.utils.logging.is_progress_bar_enabled()
    load_base(tmp_path)
    assert capfd.readouterr() == ("", "")
    assert (hf.utils.logging.get_verbosity(), hf.utils.logging.is_progress_bar_enabled()) == before


def test_settings_are_put_back_after_an_error_too(tmp_path: Path) -> None:
    save_tiny_base(tmp_path, "causal")
    _change_weights(tmp_path, lambda weights: weights.pop("model.norm.weight"))
    before = hf.utils.logging.get_verbosity()
    with pytest.raises(BaseError):
        load_base(tmp_path)
    assert hf.utils.logging.get_verbosity() == before


# --- the head that T5's relatives keep beside their embeddings ---


def test_an_mt5_keeps_the_output_matrix_of_its_checkpoint(tmp_path: Path) -> None:
    save_tiny_base(tmp_path, "seq2seq")
    own = tiny_mt5().lm_head.weight
    base = load_base(tmp_path)
    assert torch.equal(base.model.lm_head.weight, own)
    assert not torch.equal(base.model.shared.weight, own)
    ids = torch.tensor([[5, 6, 7]])
    out = base.model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
    torch.testing.assert_close(out.logits, out.decoder_hidden_states[-1] @ own.T)
    base.model.tie_weights()
    assert torch.equal(base.model.lm_head.weight, own)


@pytest.mark.parametrize("make", ["T5", "MT5", "UMT5", "LongT5"])
def test_an_own_output_matrix_gives_the_same_logits_as_by_hand_after_saving_again_too(
    tmp_path: Path, make: str
) -> None:
    """In transformers 5.23 UMT5's logits are scaled by width^-0.5, because its config is forced to say 'tied'."""
    config = getattr(hf, f"{make}Config")(
        vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_decoder_layers=1, num_heads=4,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, dropout_rate=0.0,
    )  # fmt: skip
    getattr(hf, f"{make}ForConditionalGeneration")(config).save_pretrained(tmp_path)
    tiny_tokenizer("seq2seq").save_pretrained(tmp_path)
    own = torch.randn(VOCABULARY, 16, generator=torch.Generator().manual_seed(0))
    _change_weights(tmp_path, lambda weights: weights.update({"lm_head.weight": own}))
    raw = json.loads((tmp_path / "config.json").read_text())
    raw.pop("scale_decoder_outputs", None)
    (tmp_path / "config.json").write_text(json.dumps({**raw, "tie_word_embeddings": False}))
    ids = torch.tensor([[5, 6, 7]])
    for folder in (tmp_path, tmp_path / "again"):
        base = load_base(folder)
        out = base.model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
        torch.testing.assert_close(out.logits, out.decoder_hidden_states[-1] @ own.T)
        base.model.save_pretrained(tmp_path / "again")
        base.tokenizer.save_pretrained(tmp_path / "again")


def test_whether_a_checkpoint_has_an_own_head_is_seen_without_loading_it(tmp_path: Path) -> None:
    assert has_own_head(save_tiny_base(tmp_path / "a", "seq2seq")) is True
    assert has_own_head(save_tiny_base(tmp_path / "b", "causal")) is False
    tiny_mt5().save_pretrained(tmp_path / "c", max_shard_size="20KB")
    assert (tmp_path / "c" / "model.safetensors.index.json").is_file()
    assert has_own_head(tmp_path / "c") is True
    assert has_own_head(tmp_path) is None


# --- padding ---


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_token(tmp_path: Path) -> None:
    tiny_gemma3().save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    _change_config(tmp_path, pad_token_id=None)
    base = load_base(tmp_path)
    assert base.tokenizer.pad_token_id == base.model.config.pad_token_id == 1
    assert base.model.generation_config.pad_token_id == 1
    as_classifier = load_base(tmp_path, kind="encoder", num_labels=3)
    assert as_classifier.head_modules == ("score",)
    ids = torch.tensor([[5, 6, 7], [5, 6, 1]])
    padded = as_classifier.model(ids, attention_mask=ids.ne(1).long()).logits[1]
    alone = as_classifier.model(ids[1:, :2]).logits[0]
    torch.testing.assert_close(padded, alone)


def test_a_pad_token_without_a_row_in_the_embeddings_is_replaced(tmp_path: Path) -> None:
    tiny_gemma3().save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == VOCABULARY
    tokenizer.save_pretrained(tmp_path)
    assert load_base(tmp_path).tokenizer.pad_token == "<eos>"


def test_a_tokenizer_with_nothing_to_pad_with_is_refused(tmp_path: Path) -> None:
    tiny_gemma3().save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token = tokenizer.unk_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BaseError, match="no pad, end or unknown token, expected one to pad batches with"):
        load_base(tmp_path)


# --- what the caller chooses ---


def test_the_kind_can_be_chosen(tmp_path: Path) -> None:
    save_tiny_base(tmp_path, "causal")
    assert load_base(tmp_path, kind="encoder").model.config.num_labels == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", torch.bfloat16])
def test_the_dtype_can_be_chosen(tmp_path: Path, dtype: str | torch.dtype) -> None:
    save_tiny_base(tmp_path, "causal")
    got = {parameter.dtype for parameter in load_base(tmp_path, dtype=dtype).model.parameters()}
    assert got == {dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)}


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    save_tiny_base(tmp_path, "encoder")
    with pytest.raises(SettingsError, match=r"dtype: 'bfloat' is unknown\. Did you mean 'bfloat16' or 'float"):
        load_base(tmp_path, dtype="bfloat")
    with pytest.raises(SettingsError, match="cannot use 'cudda', expected auto, cpu, cuda or mps"):
        load_base(tmp_path, device="cudda")
    with pytest.raises(SettingsError, match="num_labels is 2, but 3 labels are given"):
        load_base(tmp_path, labels=["a", "b", "c"], num_labels=2)
    with pytest.raises(SettingsError, match="got 1 label 'a', expected at least 2"):
        load_base(tmp_path, labels=["a"])
    with pytest.raises(SettingsError, match=r"kind 'decoder' is unknown"):
        load_base(tmp_path, kind="decoder")  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot use 'cuda'"):
        load_base(tmp_path, device="cuda")


# --- wrong bases ---


def test_the_config_alone_needs_no_weights(tmp_path: Path) -> None:
    tiny_gemma3().config.save_pretrained(tmp_path)
    assert load_config(tmp_path).model_type == "gemma3_text"
    with pytest.raises(BaseError, match=r"has no weights, expected model\.safetensors or pytorch_model\.bin"):
        load_base(tmp_path)


def test_a_folder_without_a_config_is_refused_and_a_gguf_file_in_it_named(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"has no config\.json\. Give a folder written by save_pretrained\."):
        load_config(tmp_path)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(BaseError, match=r"has no config\.json\. Give the file: .*model\.gguf\."):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "bert",\n "vocab', r"config\.json is not JSON, line 2 column 2: Unterminated string.*Fetch"),
        ("[1]", r"config\.json holds a JSON list, expected an object"),
        ("{}", r"config\.json has no key 'model_type', expected a model's config"),
        ('{"model_type": "bret"}', r"has model_type 'bret', which transformers \S+ does not know\. Did you mean 'b"),
        ('{"model_type": "bert", "hidden_size": "wide"}', r"config\.json is not a 'bert' config: "),
    ],
)
def test_a_broken_config_is_told_by_its_fault(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BaseError, match=message):
        load_config(tmp_path)


def test_a_config_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BaseError, match=r"config\.json cannot be read"):
        load_config(tmp_path)


def test_an_adapter_given_as_a_base_names_the_base_it_was_made_on(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "IA3", "base_model_name_or_path": "bigscience/mt0"}')
    with pytest.raises(
        BaseError, match=r"holds an adapter \(IA3\), not a base\. It was made on 'bigscience/mt0'; give"
    ):
        load_base(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BaseError, match=r"holds an adapter \(of unknown type\).* not named in it; give the base"):
        load_base(tmp_path)


@pytest.mark.parametrize("kept", [4, 300, -1])
def test_cut_weights_are_refused(tmp_path: Path, kept: int) -> None:
    save_tiny_base(tmp_path, "causal")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BaseError, match=r"(is cut short, got \S+ bytes|has \S+ bytes, expected \S+)\. Fetch it again"):
        load_base(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    tiny_gemma3().save_pretrained(tmp_path, max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_base(tmp_path).kind == "causal"
    next(tmp_path.glob("model-00002-*")).unlink()
    with pytest.raises(BaseError, match=r"1 of the \d+ weight files .* are missing, first model-00002-of-"):
        load_base(tmp_path)


def test_weights_in_pytorchs_own_format_load_and_a_damaged_file_is_refused(tmp_path: Path) -> None:
    save_tiny_base(tmp_path, "seq2seq")
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert torch.equal(load_base(tmp_path).model.lm_head.weight, weights["lm_head.weight"])
    (tmp_path / "pytorch_model.bin").write_bytes(b"no weights")
    with pytest.raises(BaseError, match="transformers cannot load the weights in"):
        load_base(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, kind: str) -> None:
    """From transformers comes an empty tokenizer there, with which every text is the same unknown token."""
    save_tiny_base(tmp_path, kind)
    for file in tmp_path.glob("*token*"):
        file.unlink()
    with pytest.raises(BaseError, match=r"has no tokenizer .*Save it beside the weights with tokenizer\.save_pretr"):
        load_base(tmp_path)


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    save_tiny_base(tmp_path, "causal")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BaseError, match=r"its tokenizer in .* cannot be read: "):
        load_base(tmp_path)


def test_a_body_weight_that_is_missing_is_an_error_that_names_it(tmp_path: Path) -> None:
    save_tiny_base(tmp_path, "encoder")
    key = "encoder.layer.1.output.dense.weight"
    _change_weights(tmp_path, lambda weights: weights.pop(key))
    message = (
        rf"as encoder: 1 of \d+ weights are missing .*, first 'bert\.{key}'; expected every weight outside the head"
    )
    with pytest.raises(BaseError, match=message):
        load_base(tmp_path)


def test_a_body_weight_of_another_shape_is_an_error(tmp_path: Path) -> None:
    save_tiny_base(tmp_path, "causal")
    key = "model.layers.0.mlp.up_proj.weight"
    _change_weights(tmp_path, lambda weights: weights.update({key: weights[key][:-1].clone()}))
    with pytest.raises(BaseError, match=rf"have another shape there, first '{key}'; expected every weight\. "):
        load_base(tmp_path)


def test_a_language_model_may_not_lack_its_output_matrix(tmp_path: Path) -> None:
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    hf.LlamaModel(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(BaseError, match=r"as causal: 1 of \d+ weights are missing .*first 'lm_head\.weight'"):
        load_base(tmp_path)


def test_the_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_tiny_base(tmp_path / "a", "encoder")
    save_tiny_base(tmp_path / "b", "causal")
    shutil.copy(tmp_path / "b" / "model.safetensors", tmp_path / "a" / "model.safetensors")
    with pytest.raises(BaseError, match="The checkpoint is damaged, or of another model or kind"):
        load_base(tmp_path / "a")


def _change_weights(folder: Path, change: object) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)  # type: ignore[operator]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _change_config(folder: Path, **values: object) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **values}))


@pytest.mark.parametrize(
    ("kind", "setting", "told"),
    [
        ("encoder", {"num_attention_heads": 5}, r"config: The hidden size \(32\) is not a multiple of the number"),
        ("causal", {"hidden_activation": "swisch"}, r"config: hidden_activation is 'swisch' \(KeyError: 'swisch'\)"),
        ("causal", {"hidden_size": 30}, r"is not a 'gemma3_text' config: The hidden size \(30\) is not a multiple"),
    ],
)
def test_weights_beside_a_config_that_cannot_be_built_are_not_blamed(
    tmp_path: Path, kind: str, setting: dict[str, object], told: str
) -> None:
    save_tiny_base(tmp_path, kind)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **setting}))
    with pytest.raises(BaseError, match=told) as caught:
        load_base(tmp_path)
    assert "weights in" not in str(caught.value)


def test_a_decoder_that_reads_in_both_directions_is_refused_before_training(tmp_path: Path) -> None:
    config = hf.RobertaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        pad_token_id=0,
    )  # fmt: skip
    hf.RobertaForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer("causal").save_pretrained(tmp_path)
    with pytest.raises(BaseError, match=r"as causal: its config has is_decoder false"):
        load_base(tmp_path)
    assert load_base(tmp_path, kind="encoder").kind == "encoder"
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "is_decoder": True}))
    model = load_base(tmp_path).model
    ids = torch.arange(4, 10)[None]
    other = ids.clone()
    other[0, -1] = 20
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits[:, :-1], model(input_ids=other).logits[:, :-1])


def test_a_classifier_on_an_encoder_decoder_needs_a_start_token(tmp_path: Path) -> None:
    """T5 as a classifier without one ended in an AttributeError of transformers at the first batch."""
    config = hf.T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4)
    hf.T5ForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer("seq2seq").save_pretrained(tmp_path)
    with pytest.raises(BaseError, match=r"its config names no decoder_start_token_id.*Set it in .*config\.json"):
        load_base(tmp_path, kind="encoder")


def test_a_model_without_a_pad_setting_or_embeddings_is_loaded(tmp_path: Path) -> None:
    """CodeGen's config has no `pad_token_id` at all and CANINE no embeddings; both ended in an AttributeError."""
    codegen = hf.CodeGenConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=4, rotary_dim=4, n_positions=64)
    hf.CodeGenForCausalLM(codegen).save_pretrained(tmp_path / "codegen")
    tiny_tokenizer("causal").save_pretrained(tmp_path / "codegen")
    base = load_base(tmp_path / "codegen")
    assert base.model.config.pad_token_id == base.pad_id == 0
    canine = hf.CanineConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    hf.CanineForSequenceClassification(canine).save_pretrained(tmp_path / "canine")
    tiny_tokenizer("encoder").save_pretrained(tmp_path / "canine")
    assert load_base(tmp_path / "canine").kind == "encoder"


def test_a_base_whose_modules_do_not_fit_together_is_told_when_it_is_loaded(tmp_path: Path) -> None:
    """Four queries over three keys are built, and ended in torch's RuntimeError at the first batch of a run."""
    config = hf.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=3, pad_token_id=0, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    hf.LlamaForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer("causal").save_pretrained(tmp_path)
    for kind in ("causal", "encoder"):
        told = rf"as {kind}: transformers [\d.]+ builds this 'llama' model and cannot run it: RuntimeError: The size of"
        with pytest.raises(BaseError, match=told):
            load_base(tmp_path, kind=kind)
