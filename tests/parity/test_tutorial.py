"""The notebook everyone knows gives the same numbers with PEFT's import line and with ours."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import MT5Config, MT5ForConditionalGeneration, PreTrainedTokenizerFast

pytestmark = pytest.mark.parity

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "examples" / "peft_tutorial.py"
OUR_LINE = "from ia3.peft import AutoPeftModelForSeq2SeqLM, IA3Config, get_peft_model\n"
THEIR_LINE = "from peft import AutoPeftModelForSeq2SeqLM, IA3Config, get_peft_model\n"
ROWS = 60
# Runs a script as it is and keeps what it measured at full precision; its prints have four digits.
DRIVER = """
import json, runpy, sys
script, measured = sys.argv[1:3]
sys.argv = [script, *sys.argv[3:]]
values = runpy.run_path(script, run_name="__main__")
with open(measured, "w") as file:
    json.dump({"history": values["history"], "accuracy": values["accuracy"], "classes": values["classes"]}, file)
"""


@dataclass(frozen=True)
class Outcome:
    """What one run of the tutorial gave."""

    measured: dict[str, Any]
    said: str
    tensors: dict[str, Tensor]
    config: dict[str, Any]


def _write_table(path: Path) -> list[str]:
    with (ROOT / "src" / "ia3" / "demo" / "business_news.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:ROWS]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["sentence", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return [row["sentence"] for row in rows] + ["negative neutral positive"]


def _write_base(folder: Path, sentences: list[str]) -> None:
    """Save a tiny random mT5 and a tokenizer with one token a word."""
    splitter = pre_tokenizers.Whitespace()
    words = {word for sentence in sentences for word, _ in splitter.pre_tokenize_str(sentence)}
    vocabulary = {token: number for number, token in enumerate(["<pad>", "</s>", "<unk>", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = MT5Config(
        vocab_size=len(vocabulary), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=4,
        dropout_rate=0.1, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    MT5ForConditionalGeneration(config).save_pretrained(folder)


def _run(script: Path, base: Path, table: Path, folder: Path) -> Outcome:
    folder.mkdir()
    driver, measured, output = folder / "driver.py", folder / "measured.json", folder / "adapter"
    driver.write_text(DRIVER, encoding="utf-8")
    told = ["--model", str(base), "--data", str(table), "--epochs", "3", "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    done = subprocess.run(
        [sys.executable, str(driver), str(script), str(measured), *told],
        capture_output=True, text=True, env=environment, cwd=folder, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return Outcome(
        json.loads(measured.read_text(encoding="utf-8")),
        done.stdout,
        load_file(output / "adapter_model.safetensors"),
        json.loads((output / "adapter_config.json").read_text(encoding="utf-8")),
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    folder = tmp_path_factory.mktemp("tutorial")
    base, table = folder / "base", folder / "table.csv"
    _write_base(base, _write_table(table))
    text = TUTORIAL.read_text(encoding="utf-8")
    assert text.count(OUR_LINE) == 1
    theirs = folder / "their_tutorial.py"
    theirs.write_text(text.replace(OUR_LINE, THEIR_LINE), encoding="utf-8")
    return {
        "ours": _run(TUTORIAL, base, table, folder / "ours"),
        "theirs": _run(theirs, base, table, folder / "theirs"),
    }


def test_losses_are_the_same_at_every_epoch(outcomes: dict[str, Outcome]) -> None:
    ours, theirs = (outcomes[name].measured["history"] for name in ("ours", "theirs"))
    assert len(ours) == len(theirs) == 3
    for epoch, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        for loss in ("train_loss", "eval_loss"):
            assert mine[loss] == pytest.approx(other[loss], abs=1e-4), (epoch, loss)
    assert ours[-1]["train_loss"] < ours[0]["train_loss"]
    assert outcomes["ours"].measured["accuracy"] == outcomes["theirs"].measured["accuracy"]


def test_the_saved_tensors_are_the_same(outcomes: dict[str, Outcome]) -> None:
    ours, theirs = outcomes["ours"].tensors, outcomes["theirs"].tensors
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert (tensor != 1).any(), name


def test_the_saved_config_names_the_same_modules(outcomes: dict[str, Outcome]) -> None:
    ours, theirs = ({**outcomes[name].config} for name in ("ours", "theirs"))
    for config in (ours, theirs):
        for field in ("target_modules", "feedforward_modules"):
            config[field] = sorted(config[field])
    assert ours == theirs


def test_everything_that_is_printed_is_the_same_but_for_rounding(outcomes: dict[str, Outcome]) -> None:
    ours, theirs = (outcomes[name].said.splitlines() for name in ("ours", "theirs"))
    assert [line for line in ours if "epoch=" not in line] == [line for line in theirs if "epoch=" not in line]
    assert any(line.startswith("trainable params: ") for line in ours)
