"""transformers' own Trainer trains, saves, resumes and reloads what get_peft_model returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ia3.peft import IA3Config, PeftModel, get_peft_model
from tests.families import VOCABULARY, make_inputs, make_model

pytest.importorskip("accelerate")
datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")

TASKS = {"bert": "SEQ_CLS", "t5": "SEQ_2_SEQ_LM", "gemma3": "CAUSAL_LM"}
ROWS, SEQ = 16, 6


def table(family: str) -> Any:
    """Return rows with a column that no model takes."""
    generator = torch.Generator().manual_seed(0)

    def ids(length: int) -> list[list[int]]:
        return torch.randint(3, VOCABULARY, (ROWS, length), generator=generator).tolist()

    labels = [i % 3 for i in range(ROWS)] if family == "bert" else ids(SEQ if family == "gemma3" else 3)
    columns = {"input_ids": ids(SEQ), "attention_mask": [[1] * SEQ] * ROWS, "labels": labels, "text": ["a"] * ROWS}
    return datasets.Dataset.from_dict(columns)


def build(family: str) -> Any:
    return get_peft_model(make_model(family), IA3Config(task_type=TASKS[family]))


def trainer(model: Any, family: str, folder: Path) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=2, per_device_train_batch_size=8, learning_rate=0.05, seed=1,
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, report_to=[], disable_tqdm=True,
        use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    rows = table(family)
    return transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)


def logits(model: Any, family: str) -> Tensor:
    with torch.no_grad():
        return model.eval()(**make_inputs(family)).logits


@pytest.mark.parametrize("family", list(TASKS))
def test_trainer_trains_saves_the_adapter_alone_and_reloads_it(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build(family)
    before = logits(model, family)
    run = trainer(model, family, tmp_path)
    run.train()
    assert [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry] == sorted(
        (entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry), reverse=True
    )
    checkpoint = tmp_path / "checkpoint-4"
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {path.name for path in checkpoint.iterdir()}
    assert (checkpoint / "model.safetensors").stat().st_size < 40_000  # the bank, not the base
    assert not (checkpoint / "config.json").exists()
    run.save_model(str(tmp_path / "final"))
    after = logits(model, family)
    assert not torch.allclose(after, before)
    for folder in (checkpoint, tmp_path / "final"):
        assert torch.equal(logits(PeftModel.from_pretrained(make_model(family), folder), family), after)


@pytest.mark.parametrize("family", ["t5", pytest.param("bert", marks=pytest.mark.slow)])
def test_trainer_resumes_from_a_checkpoint_and_ends_in_the_same_bits(family: str, tmp_path: Path) -> None:
    whole, resumed = build(family), build(family)
    trainer(whole, family, tmp_path / "whole").train()
    trainer(resumed, family, tmp_path / "resumed").train(
        resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2")
    )
    assert torch.equal(logits(resumed, family), logits(whole, family))


def test_trainer_keeps_the_best_adapter(tmp_path: Path) -> None:
    model = build("bert")
    run = trainer(model, "bert", tmp_path)
    run.train()
    best = PeftModel.from_pretrained(make_model("bert"), Path(run.state.best_model_checkpoint))
    assert torch.equal(logits(model, "bert"), logits(best, "bert"))
