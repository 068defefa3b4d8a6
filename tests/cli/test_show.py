from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ia3.cli.main import main


def _peft_folder(folder: Path) -> str:
    """Write what PEFT writes for a GPT-2 with its default targets, two layers."""
    config = {
        "peft_type": "IA3", "base_model_name_or_path": "openai-community/gpt2", "task_type": "CAUSAL_LM",
        "target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"], "modules_to_save": None,
        "inference_mode": True, "fan_in_fan_out": True, "peft_version": "0.21.2",
    }  # fmt: skip
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for layer in range(2):
        path = f"base_model.model.transformer.h.{layer}"
        tensors[f"{path}.attn.c_attn.ia3_l"] = torch.ones(12, 1)
        tensors[f"{path}.mlp.c_proj.ia3_l"] = torch.tensor([[1.0, 1.004, 0.5, 2.0]])
    save_file(tensors, folder / "adapter_model.safetensors")
    return str(folder)


def test_our_folder_tells_all_that_is_recorded(
    encoder: str, home: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", encoder]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    told = {line[:14].strip(): line[14:] for line in out.split("\n\n")[0].splitlines()}
    assert told["base"].startswith(f"{home / 'encoder'}, encoder, fingerprint ")
    assert told["labels"] == "'down', 'up'"
    assert told["prompt"] == "'{{ text }}'"
    assert told["columns"] == "text 'text', label 'label'"
    assert told["trained on"].startswith("table.csv, 18 rows, fingerprint ")
    assert told["evaluated on"] == "rows that were held out, 2 rows"
    assert "epochs 1" in told["settings"] and "batch_size 8" in told["settings"]
    assert told["steps"] == "3"
    assert "accuracy" in told["metrics"]
    assert told["parameters"] == "224 in the vectors, and 66 of the head (classifier)"
    assert [line.split()[:3] for line in out.split("\n\n")[1].splitlines()[1:]] == [
        ["key", "2", "64"],
        ["value", "2", "64"],
        ["feedforward", "2", "96"],
    ]
    assert "adapter_model.safetensors" in out.split("\n\n")[2]


def test_all_templates_are_told_and_those_that_were_tried(
    causal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(causal, tmp_path / "o")
    record = json.loads((tmp_path / "o" / "ia3.json").read_text())
    words = {"prompt": "{{ text }}", "target": "{{ label }}", "choices_column": "options"}
    record["template"] = {**words, "others": [{"prompt": "On {{ text }}", "target": "it is {{ label }}"}]}
    tried = [{**words, "score": -0.5, "accuracy": 0.75}, {"prompt": "x", "target": "y", "score": -2, "accuracy": 0.5}]
    record["template_search"] = {"rows": 32, "cross_validated_accuracy": 0.7, "candidates": tried}
    (tmp_path / "o" / "ia3.json").write_text(json.dumps(record))
    assert main(["show", str(tmp_path / "o")]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    start = lines.index("prompt '{{ text }}'")
    assert lines[start + 1 : start + 8] == [
        "target '{{ label }}'",
        "prompt 2 'On {{ text }}'",
        "target 2 'it is {{ label }}'",
        "ensemble --ensemble averages over all 2 templates, else the first is used",
        "searched 2 templates, on 32 rows without training",
        "tried -0.500 nats, 75.0 % right: '{{ text }}' ||| '{{ label }}'",
        "tried -2.000 nats, 50.0 % right: 'x' ||| 'y'",
    ]
    assert "choices 'options'" in lines[start + 8]


def test_a_folder_of_pefts_is_shown_without_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", _peft_folder(tmp_path / "gpt2")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "base        openai-community/gpt2, causal\n" in out
    assert "targets     c_attn, mlp.c_proj (input)\n" in out
    assert "parameters  32 in the vectors\n" in out
    rows = {line.split()[0]: line.split() for line in out.split("\n\n")[1].splitlines()[1:]}
    # min, mean, max, norm of l - 1 and the numbers that moved: 0.5 and 2.0 of four, in each of two layers
    assert rows["feedforward"][1:] == ["2", "8", "0.5000", "1.1260", "2.0000", "1.5811", "4", "(50.0", "%)"]
    assert rows["attention"][1:] == ["2", "24", "1.0000", "1.0000", "1.0000", "0.0000", "0", "(0.0", "%)"]


def test_json_holds_what_is_not_known_as_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", _peft_folder(tmp_path / "gpt2"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["labels"], found["data"], found["settings"], found["metrics"]) == (None, None, None, None)
    assert found["base"] == {"name": "openai-community/gpt2", "kind": "causal"}
    assert found["vectors"]["feedforward"]["moved"] == 4
    assert set(found["files"]) == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_linear_branch_in_a_folder_of_pefts_is_a_feedforward(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(_peft_folder(tmp_path / "mt5"))
    path = "base_model.model.encoder.block.0.layer.1.DenseReluDense.wi_1.ia3_l"
    save_file({path: torch.ones(3, 1)}, folder / "adapter_model.safetensors")
    assert main(["show", str(folder), "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["vectors"]) == ["feedforward"]


def test_json_of_our_folder_holds_the_whole_record(encoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", encoder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["labels"] == ["down", "up"]
    assert (found["text_column"], found["label_column"]) == ("text", "label")
    assert found["parameters"] == {"vectors": 224, "head": 66, "head_modules": ["classifier"]}
    assert found["metrics"]["confusion"] and found["versions"]["torch"]


def test_an_adapter_is_shown_after_its_base_is_gone(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(encoder, copy)
    record = json.loads((copy / "ia3.json").read_text())
    record["base"]["name"] = "/nowhere/base"
    (copy / "ia3.json").write_text(json.dumps(record))
    assert main(["show", str(copy)]) == 0
    assert "/nowhere/base, encoder" in capsys.readouterr().out


def test_arithmetic_and_import_are_told_step_by_step(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, output = shutil.copytree(encoder, tmp_path / "other"), tmp_path / "both"
    words = ["--method", "average", "--weights", "3,1", "--strength", "0.5", "--output", str(output)]
    assert main(["adapters", "combine", encoder, str(other), *words]) == 0
    capsys.readouterr()
    assert main(["show", str(output)]) == 0
    told = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert [" ".join(line.split()) for line in told if line.startswith("combined")] == [
        "combined average of adapter-encoder (3), other (1)",
        "combined strength, strength 0.5",
    ]
    record = json.loads((other / "ia3.json").read_text())
    (other / "ia3.json").write_text(json.dumps({**record, "imported": {"library": "t-few", "file": "finish.pt"}}))
    assert main(["show", str(other)]) == 0
    assert "imported from  t-few, file 'finish.pt'" in capsys.readouterr().out
    assert main(["show", str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["imported"] == {"library": "t-few", "file": "finish.pt"} and found["combined"] is None


def test_an_adapter_of_a_store_is_shown_like_its_folder(
    encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "s.ia3")
    assert main(["adapters", "pack", store, encoder]) == 0
    assert main(["show", encoder, "--json"]) == 0
    folder = json.loads(capsys.readouterr().out.partition("\n")[2])
    address = f"{store}:adapter-encoder"
    assert main(["show", address, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stored = {"store": store, "name": "adapter-encoder", "as": "float32", "error": 0.0}
    assert found == {**folder, "folder": address, "stored": stored, "files": {}}
    assert main(["show", store]) == 0  # the only one
    out = capsys.readouterr().out
    assert address in out and "stored as     float32" in out and "\nfiles" not in out
    assert main(["show", f"{store}:adapter-encodr"]) == 2
    assert "has no such name. Did you mean 'adapter-encoder'" in capsys.readouterr().err
