from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from ia3.cli.main import main
from ia3.inference.loading import load_predictor
from tests.adapters.foreign_folders import write_peft_folder
from tests.models import tiny_bert, tiny_tokenizer

CLASSES = {
    "encoder": transformers.AutoModelForSequenceClassification,
    "causal": transformers.AutoModelForCausalLM,
    "seq2seq": transformers.AutoModelForSeq2SeqLM,
}


@pytest.mark.parametrize("kind", ["encoder", "causal", "seq2seq"])
def test_the_plain_folder_gives_the_adapters_logits(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, plain = request.getfixturevalue(kind), tmp_path / "deep" / "plain"
    capsys.readouterr()
    assert main(["merge", adapter, "--output", str(plain)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{plain}: ") and f" with {adapter} merged in, " in out and "model.safetensors" in out
    merged = CLASSES[kind].from_pretrained(plain).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(plain)
    attached = load_predictor(adapter).base.model
    inputs = tokenizer(["profit rose"], return_tensors="pt")
    inputs.pop("token_type_ids", None)
    if kind == "seq2seq":
        inputs["decoder_input_ids"] = torch.tensor([[0, 7]])
    with torch.no_grad():
        assert torch.allclose(merged(**inputs).logits, attached(**inputs).logits, atol=1e-5)
    assert kind != "encoder" or merged.config.id2label == {0: "down", 1: "up"}
    assert [path.name for path in plain.parent.iterdir()] == ["plain"]


def test_json_tells_what_was_written(causal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    capsys.readouterr()
    assert main(["merge", causal, "--output", str(plain), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["adapter"], found["output"], found["class"]) == (causal, str(plain), "Gemma3ForCausalLM")
    assert found["files"] == {path.name: path.stat().st_size for path in plain.iterdir()}


def test_a_used_folder_is_refused_and_stays(causal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    capsys.readouterr()
    assert main(["merge", causal, "--output", str(tmp_path)]) == 2
    assert "it is not empty (it holds mine.txt), expected a new or empty folder." in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert main(["merge", causal, "--output", str(tmp_path / "mine.txt")]) == 2
    assert "it is a file, expected a new or empty folder." in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_sentence(
    causal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    capsys.readouterr()
    assert main(["merge", causal, "--output", str(tmp_path / "file" / "plain")]) == 2
    assert capsys.readouterr().err.startswith(f"ia3: Writing {tmp_path / 'file' / 'plain'}: it cannot be written (")


WITHOUT_EFFECT = {"do_sample", "temperature"}
SETTINGS: dict[str, dict[str, Any]] = {
    "causal": {"do_sample": False, "temperature": 0.9, "eos_token_id": [1, 44, 45], "suppress_tokens": [50, 51]},
    "seq2seq": {"num_beams": 3, "min_length": 8, "no_repeat_ngram_size": 2, "forced_bos_token_id": 40},
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_plain_model_generates_what_the_adapter_does_and_what_is_left_out_is_said(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base's beams, penalties and further end tokens went into the folder, or stopped it from being saved."""
    base, plain = tmp_path / "base", tmp_path / "plain"
    shutil.copytree(home / kind, base)
    file = base / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | SETTINGS[kind]))
    adapter = request.getfixturevalue(kind)
    capsys.readouterr()
    assert main(["merge", adapter, "--base", str(base), "--output", str(plain)]) == 0
    told = capsys.readouterr().out.splitlines()[2:]
    for name in SETTINGS[kind].keys() - WITHOUT_EFFECT:
        assert f"{name} {SETTINGS[kind][name]}" in told[0]
    predictor = load_predictor(adapter, base=base)
    assert told[1] == f"prompt: {predictor.encoding.template.prompt!r} around each text"
    texts = ["profit rose", "the orders of the week sank"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(plain)
    merged = CLASSES[kind].from_pretrained(plain).eval()
    for text, prompt, answer in zip(texts, predictor.encode(texts)[1], predictor.generate(texts), strict=True):
        ids = merged.generate(torch.tensor([prompt.prompt_ids]))[0]
        new = ids[len(prompt.prompt_ids) :] if kind == "causal" else ids
        found = tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert found.strip() == answer, text
    assert tokenizer.padding_side == ("left" if kind == "causal" else "right")


def test_a_headless_adapter_keeps_the_classifier_of_its_base_and_its_labels(tmp_path: Path) -> None:
    """The merged folder had two outputs drawn at random in the place of the base's three."""
    names = {0: "neg", 1: "neu", 2: "pos"}
    config = transformers.BertConfig(
        **(tiny_bert().config.to_dict() | {"id2label": names, "label2id": {v: k for k, v in names.items()}})
    )
    transformers.BertForSequenceClassification(config).eval().save_pretrained(tmp_path / "base")
    tiny_tokenizer("encoder").save_pretrained(tmp_path / "base")
    ids = torch.tensor([[2, 40, 50, 1]])
    targets: dict[str, Any] = {"target_modules": ["key", "value"], "feedforward_modules": []}
    for task in (None, "SEQ_CLS"):
        model = CLASSES["encoder"].from_pretrained(tmp_path / "base").eval()
        adapter = write_peft_folder(model, tmp_path / str(task), task_type=task, **targets)
        plain = tmp_path / f"plain-{task}"
        assert main(["merge", str(adapter), "--output", str(plain)]) == 0
        merged = CLASSES["encoder"].from_pretrained(plain).eval()
        assert merged.config.id2label == names
        with torch.no_grad():
            assert torch.allclose(merged(ids).logits, model(ids).logits, atol=1e-5)
