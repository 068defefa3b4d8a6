"""An adapter with tokens of its own: its base is loaded with them, and a base that is there refuses it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import ia3
from ia3.adapters.attached import adapter_of, attach
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.adapters.store import create_store
from ia3.adapters.vocabulary import find_vocabulary, take_vocabulary
from ia3.cli.main import main
from ia3.core.attach import attachment_of
from ia3.core.discovery import find_plan
from ia3.errors import AdapterError
from ia3.inference.loading import load_predictor
from ia3.peft import AutoPeftModelForCausalLM, IA3Config, PeftModel, get_peft_model
from tests.models import VOCABULARY, save_tiny_base, tiny_gemma3, tiny_mt5, tiny_tokenizer

ADDED = ("<one>", "<two>")


def quiet(line: str) -> None:
    """Say nothing."""


def adapter_folder(folder: Path, base: Path, model: Any) -> Path:
    """Write a folder as PEFT does after tokens were added: vectors, resized embeddings, and the tokenizer."""
    torch.manual_seed(1)
    model.resize_token_embeddings(VOCABULARY + len(ADDED), mean_resizing=False)
    model.name_or_path = str(base)
    config = IA3Config(task_type="SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM")
    made = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    made.save_pretrained(folder)
    (folder / "ia3.json").unlink()
    file = folder / "adapter_model.safetensors"
    paths = {id(m): p for p, m in made.named_modules()}
    layers = (made.get_input_embeddings(), made.get_output_embeddings())
    weights = {f"base_model.model.{paths[id(layer)]}.weight": layer.weight.detach().clone() for layer in layers}
    safetensors.torch.save_file(safetensors.torch.load_file(file) | weights, file)
    tokenizer = tiny_tokenizer("seq2seq" if model.config.is_encoder_decoder else "causal")
    tokenizer.add_tokens(list(ADDED))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, torch.Tensor]:
    """Return a base, an adapter with two tokens more, and the logits that it gives with them."""
    place = tmp_path_factory.mktemp("vocabulary")
    base, model = save_tiny_base(place / "base", "causal"), tiny_gemma3()
    folder = adapter_folder(place / "adapter", base, model)
    return base, folder, logits(model)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(input_ids=torch.tensor([[2, 40, VOCABULARY, 41, VOCABULARY + 1]])).logits
    return found


def test_the_auto_class_gives_the_base_the_embeddings_and_writes_them_again(
    made: tuple[Path, Path, torch.Tensor], tmp_path: Path
) -> None:
    """PEFT loads such a folder; it was refused here, since the embeddings were taken for a head of another size."""
    model = AutoPeftModelForCausalLM.from_pretrained(made[1])
    assert model.config.vocab_size == VOCABULARY + len(ADDED)
    assert torch.equal(logits(model), made[2])

    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(AutoPeftModelForCausalLM.from_pretrained(tmp_path / "again")), made[2])


def test_a_predictor_reads_with_the_tokenizer_of_the_adapters_folder(made: tuple[Path, Path, torch.Tensor]) -> None:
    predictor = load_predictor(made[1], labels=["good", "bad"], say=quiet)
    (encoded,) = predictor.encode(["up <two>"])[1]
    assert VOCABULARY + 1 in encoded.prompt_ids and predictor.base.limits.vocabulary == VOCABULARY + 2
    assert torch.allclose(logits(predictor.base.model), made[2], atol=1e-4)
    assert len(predictor.classify(["up <two>", "down <one>"])) == 2


def test_embeddings_without_a_tokenizer_are_told(made: tuple[Path, Path, torch.Tensor], tmp_path: Path) -> None:
    """Its added tokens were cut into unknown pieces by the base's tokenizer, and nothing was said."""
    folder = shutil.copytree(made[1], tmp_path / "bare", ignore=shutil.ignore_patterns("token*"))
    said: list[str] = []
    load_predictor(folder, labels=["up", "down"], say=said.append)
    assert any(f"embeddings of {VOCABULARY + len(ADDED)} tokens and no tokenizer" in line for line in said)


def test_a_merged_folder_has_the_embeddings_and_the_tokenizer(
    made: tuple[Path, Path, torch.Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", str(made[1]), "--output", str(tmp_path / "plain")]) == 0
    merged = ia3.load_base(tmp_path / "plain", say=quiet)
    assert torch.allclose(logits(merged.model), made[2], atol=1e-5)
    assert merged.tokenizer.convert_tokens_to_ids("<two>") == VOCABULARY + 1


def test_a_model_that_is_there_refuses_it_unless_the_embeddings_are_its_own(
    made: tuple[Path, Path, torch.Tensor],
) -> None:
    base = ia3.load_base(made[0], say=quiet)
    told = rf"it brings embeddings of its own \('.*'\), of {VOCABULARY + 2} tokens, and this base has {VOCABULARY}: "
    with pytest.raises(AdapterError, match=told):
        load_predictor(made[1], base=base, labels=["good", "bad"])
    with pytest.raises(AdapterError, match=told):
        PeftModel.from_pretrained(tiny_gemma3(), made[1])
    torch.manual_seed(1)
    same = tiny_gemma3()
    same.resize_token_embeddings(VOCABULARY + 2, mean_resizing=False)
    assert torch.equal(logits(PeftModel.from_pretrained(same, made[1])), made[2])


def test_a_store_refuses_modules_that_it_would_leave_out(made: tuple[Path, Path, torch.Tensor], tmp_path: Path) -> None:
    """A store routed only the heads that it knows of its base: it answered with the base's own output layer."""
    with pytest.raises(AdapterError, match=r"it brings '.*', which is no head that the store knows of its base"):
        create_store(tmp_path / "all.ia3", find_plan(tiny_gemma3()), adapters={"a": load_adapter(made[1])})


def test_two_layers_in_the_file_untie_those_of_the_base(tmp_path: Path) -> None:
    model = tiny_mt5()
    folder = adapter_folder(tmp_path / "adapter", tmp_path, model)
    file, name = folder / "adapter_model.safetensors", "base_model.model.lm_head.weight"
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file(tensors | {name: tensors[name] + 1}, file)
    other = tiny_mt5()
    other.lm_head.weight = other.shared.weight
    take_vocabulary(load_adapter(folder), other)
    assert torch.equal(other.lm_head.weight, tensors[name] + 1) and not other.config.tie_word_embeddings
    assert torch.equal(other.shared.weight, model.shared.weight)


def test_embeddings_that_are_the_bases_own_are_no_head(tmp_path: Path) -> None:
    model = tiny_gemma3()
    folder = save_adapter(adapter_of(attach(model), "default"), tmp_path)
    (folder / "ia3.json").unlink()
    file = folder / "adapter_model.safetensors"
    weight = {"base_model.model.model.embed_tokens.weight": model.model.embed_tokens.weight.detach().clone()}
    safetensors.torch.save_file(safetensors.torch.load_file(file) | weight, file)
    adapter = load_adapter(folder)
    assert adapter.head_modules == ("model.embed_tokens",) and not find_vocabulary(adapter, tiny_gemma3())
    loaded = PeftModel.from_pretrained(tiny_gemma3(), folder)
    assert len(attachment_of(loaded).bank.heads) == 0


def test_single_trained_rows_of_embeddings_are_refused_by_name(made: tuple[Path, Path, torch.Tensor]) -> None:
    config = made[1] / "adapter_config.json"
    text = config.read_text()
    config.write_text(json.dumps(json.loads(text) | {"trainable_token_indices": [1, 2]}))
    try:
        with pytest.raises(AdapterError, match="trainable_token_indices trains single rows of the embeddings"):
            load_adapter(made[1])
    finally:
        config.write_text(text)
