"""An attached model in other people's training loops: transformers' own `Trainer`, and plain PyTorch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.utils import logging as talk

from ia3.adapters.attached import attach, load
from ia3.core.attach import attachment_of
from tests.families import CASES, VOCABULARY, make_inputs, make_model

pytestmark = pytest.mark.filterwarnings("ignore")  # accelerate asks torch for a GPU, which warns where there is none

HEADS = {"bert": ("classifier",), "t5": (), "llama": ()}


class Rows(torch.utils.data.Dataset):
    """Sixteen learnable examples: the label is a function of the first token."""

    def __init__(self, name: str, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(3, VOCABULARY, (16, 6), generator=generator)
        self.kind = CASES[name].kind

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self.ids[index]
        labels = {"encoder": ids[0] % 3, "seq2seq": ids[:2] % 5 + 3, "causal": ids % 5 + 3}[self.kind]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "note": ids[0]}


class StopAt(TrainerCallback):
    """Ends a training as an interruption would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def trainer(name: str, model: Any, folder: Path, **settings: Any) -> Trainer:
    chosen = {"num_train_epochs": 3, "save_strategy": "no", "learning_rate": 0.1} | settings
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=4, report_to=[], disable_tqdm=True, use_cpu=True, seed=1,
        logging_strategy="epoch", **chosen,
    )  # fmt: skip
    return Trainer(model, arguments, train_dataset=Rows(name), eval_dataset=Rows(name))


@pytest.mark.parametrize("name", HEADS)
def test_trainer_lowers_the_loss_and_saves_an_adapter_that_loads_with_equal_logits(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    attach(model, head_modules=HEADS[name])
    training = trainer(name, model, tmp_path / "run")
    training.train()
    losses = [entry["loss"] for entry in training.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    training.save_model(str(tmp_path / "saved"))
    fresh, inputs = make_model(name), make_inputs(name)
    load(fresh, tmp_path / "saved")
    model.eval()
    assert torch.equal(fresh(**inputs).logits, model(**inputs).logits)
    assert (tmp_path / "saved" / "model.safetensors").stat().st_size < 20_000  # the bank, not the base


def test_trainer_keeps_the_columns_that_the_model_takes(tmp_path: Path) -> None:
    model = make_model("bert")
    attach(model, head_modules=("classifier",))
    training = trainer("bert", model, tmp_path)
    assert set(next(iter(training.get_train_dataloader()))) == {"input_ids", "attention_mask", "labels"}


@pytest.mark.parametrize("name", ("bert", pytest.param("t5", marks=pytest.mark.slow)))
def test_a_resumed_training_ends_in_the_same_vectors(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_model(name)
    attach(whole, head_modules=HEADS[name])
    trainer(name, whole, tmp_path / "whole", save_strategy="epoch").train()

    stopped = make_model(name)
    attach(stopped, head_modules=HEADS[name])
    first = trainer(name, stopped, tmp_path / "halves", save_strategy="epoch")
    first.add_callback(StopAt(8))
    first.train()

    resumed = make_model(name)
    attach(resumed, head_modules=HEADS[name])
    talk.enable_propagation()
    with caplog.at_level(logging.WARNING):
        trainer(name, resumed, tmp_path / "halves", save_strategy="epoch").train(resume_from_checkpoint=True)
    assert not [record for record in caplog.records if "keys in the checkpoint" in record.message]
    for got, want in zip(attachment_of(resumed).bank.parameters(), attachment_of(whole).bank.parameters(), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("name", (pytest.param("bert", marks=pytest.mark.slow), "t5"))
def test_the_best_checkpoint_is_loaded_at_the_end(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    attach(model, head_modules=HEADS[name])
    # the highest loss counts as the best, so that the best is not what the last step left
    training = trainer(
        name, model, tmp_path, save_strategy="epoch", eval_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="loss", greater_is_better=True,
    )  # fmt: skip
    training.train()
    losses = [entry["eval_loss"] for entry in training.state.log_history if "eval_loss" in entry]
    assert max(losses) > losses[-1]
    assert training.evaluate()["eval_loss"] == pytest.approx(max(losses), rel=1e-6)
    fresh, inputs = make_model(name), make_inputs(name)
    load(fresh, training.state.best_model_checkpoint)
    assert torch.equal(fresh(**inputs).logits, model.eval()(**inputs).logits)


@pytest.mark.parametrize("name", HEADS)
def test_a_plain_loop_trains_the_vectors_and_nothing_else(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    untouched = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    attachment = attach(model, head_modules=HEADS[name])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.0)
    examples = [Rows(name)[index] for index in range(16)]
    batch = {key: torch.stack([e[key] for e in examples]) for key in ("input_ids", "attention_mask", "labels")}
    losses = []
    for _ in range(5):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in untouched.items())
    model.save_pretrained(tmp_path)
    fresh, inputs = make_model(name), make_inputs(name)
    load(fresh, tmp_path)
    assert torch.equal(fresh(**inputs).logits, model(**inputs).logits)
    attachment.detach()
    assert not hasattr(model, "ia3_bank")
