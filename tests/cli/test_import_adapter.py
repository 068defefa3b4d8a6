from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ia3.adapters.folder import load_adapter
from ia3.cli.import_adapter import VERB
from ia3.cli.parsing import read_arguments
from ia3.errors import IA3Error
from ia3.inference.loading import load_predictor
from tests.adapters.test_adapter_hub import BERT, LABELS, vectors_of, write_folder, write_head
from tests.adapters.test_t_few import saved, state_of_t_few
from tests.models import tiny_bert, tiny_mt5


def run_import(*arguments: str) -> int:
    return VERB.run(read_arguments(VERB, arguments))


def test_a_checkpoint_of_t_few_becomes_a_folder_that_generates(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / "finish.pt", state_of_t_few(tiny_mt5()))
    output = tmp_path / "ours"
    capsys.readouterr()
    assert run_import(str(path), "--base", str(home / "seq2seq"), "--output", str(output)) == 0
    assert capsys.readouterr().out == f"{output}: t-few adapter of {home / 'seq2seq'}, 16 vectors\n"
    assert load_adapter(output).record["imported"] == {"library": "t-few", "file": "finish.pt"}
    predictor = load_predictor(output, labels=["up", "down"])
    assert predictor.classify(["profit rose"])[0].prediction in ("up", "down")


def test_an_encoder_of_adapter_hub_comes_with_its_head_and_labels(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = tiny_bert()
    vectors = {f"bert.{path}": vector for path, vector in vectors_of(body, BERT).items()}
    folder = write_folder(tmp_path / "hub", vectors, "bert")
    head = {"classifier.weight": torch.randn(3, 32), "classifier.bias": torch.randn(3)}
    write_head(folder, head, None, model_class="BertForSequenceClassification", **LABELS)
    capsys.readouterr()
    arguments = [str(folder), "--base", str(home / "encoder"), "--output", str(tmp_path / "ours")]
    assert run_import(*arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == "adapter-hub" and found["labels"] == ["down", "flat", "up"]
    assert found["vectors"] == 6 and found["head_modules"] == ["classifier"]
    predictor = load_predictor(tmp_path / "ours")
    assert set(predictor.classify(["profit rose"])[0].probabilities) == {"down", "flat", "up"}
    with pytest.raises(IA3Error, match="Give --overwrite to replace it"):
        run_import(*arguments)
    assert run_import(*arguments, "--without-head", "--overwrite") == 0
    assert load_adapter(tmp_path / "ours").head == {}


def test_labels_that_the_file_does_not_say_can_be_given(home: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "finish.pt", state_of_t_few(tiny_mt5()))
    base = ["--base", str(home / "seq2seq"), "--output", str(tmp_path / "ours")]
    assert run_import(str(path), *base, "--labels", "no", "yes") == 0
    assert load_adapter(tmp_path / "ours").record["labels"] == ["no", "yes"]


def test_what_cannot_be_imported_is_one_sentence_and_nothing_is_written(home: Path, tmp_path: Path) -> None:
    path = saved(tmp_path / "finish.pt", {"shared.weight": torch.ones(2, 2)})
    with pytest.raises(IA3Error, match=r"got 'shared\.weight', expected names that end in '\.multi_lora_b' alone"):
        run_import(str(path), "--base", str(home / "seq2seq"), "--output", str(tmp_path / "ours"))
    path = saved(tmp_path / "finish.pt", state_of_t_few(tiny_mt5()))
    with pytest.raises(IA3Error, match="It was trained on another base; give that one"):
        run_import(str(path), "--base", str(home / "causal"), "--output", str(tmp_path / "ours"))
    assert not (tmp_path / "ours").exists()
