from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from ia3.cli.main import main
from ia3.inference.loading import load_predictor

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
