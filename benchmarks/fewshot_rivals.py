"""The rivals with few rows: PEFT's (IA)³ with its defaults, LoRA, SetFit's way, logistic regression on the frozen base.

They get the rows, the words, the number of steps and the batch size of ours; their learning rates are found as ours
are. PEFT, sentence-transformers and scikit-learn are imported when they are needed. This file knows one cell at a time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.fewshot_data import RECIPE, TEMPLATE
from benchmarks.methods import CLIP, NotAvailable, label_loss, shared_copy
from benchmarks.rivals import LORA_RATE, wrap
from benchmarks.workload import Work
from ia3.adapters.config import TASK_TYPES
from ia3.bases.loading import Base
from ia3.bases.locating import locate
from ia3.data.batches import collate, epoch_batches
from ia3.data.encoding import Encoded
from ia3.data.examples import Table
from ia3.inference.evaluate import HeldOut, evaluate_together
from ia3.inference.measures import score_predictions
from ia3.inference.metrics import Metrics
from ia3.runs.dataset import Dataset, SplitTable, encode_rows
from ia3.training.settings import settings_for

# What `--tune` tries, by kind of base. The middle one is the default: PEFT's notebooks use 8e-3, SetFit 2e-5.
RATES: Mapping[str, Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        "peft-ia3": dict.fromkeys(("causal", "encoder"), (4e-3, 8e-3, 1.6e-2)),
        "peft-lora": dict.fromkeys(("causal", "encoder"), (2.5e-4, LORA_RATE, 1e-3)),
        "setfit": {"encoder": (1e-5, 2e-5, 4e-5)},
        "logistic": dict.fromkeys(("causal", "encoder"), (1.0, 10.0, 100.0)),  # scikit-learn's C, which is no rate
    }
)
_EMBED_ROWS = 32
_SETFIT_PAIRS = 20  # for each row, of the same label and of another: SetFit's num_iterations
_SETFIT_BATCH, _SETFIT_STEPS = 16, 150


@dataclass(frozen=True)
class Trial:
    """One cell with its rows read.

    Attributes:
        base: The base, loaded; as it was when a method returns.
        train: Rows to learn from.
        test: Rows to measure on.
        labels: The label set.
        seed: Decides order, pairs and LoRA's first numbers.
        rate: Learning rate; None for the method's own.
        make_start: Gives the folder of a start by its name, one that has not seen the table; None without one.
    """

    base: Base
    train: Table
    test: Table
    labels: tuple[str, ...]
    seed: int
    rate: float | None = None
    make_start: Callable[[str], Path] | None = None


def run_peft_ia3(trial: Trial) -> Metrics:
    """Return the metrics of PEFT's (IA)³ with its default targets."""
    config = import_module("peft").IA3Config(task_type=TASK_TYPES[trial.base.kind], modules_to_save=_heads(trial))
    return _run_peft(trial, config, "peft-ia3")


def run_lora(trial: Trial) -> Metrics:
    """Return the metrics of PEFT's LoRA of rank 16 on every linear but the head."""
    config = import_module("peft").LoraConfig(
        r=16, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", modules_to_save=_heads(trial),
        task_type=TASK_TYPES[trial.base.kind],
    )  # fmt: skip
    return _run_peft(trial, config, "peft-lora")


def run_setfit(trial: Trial) -> Metrics:
    """Return the metrics of SetFit's way: the encoder learns from pairs, a logistic regression from its sentences."""
    if trial.base.kind != "encoder":
        raise NotAvailable("SetFit is for sentence encoders")
    try:
        losses = import_module("sentence_transformers.losses")
        models = import_module("sentence_transformers")
    except ImportError as error:
        raise NotAvailable(f"sentence-transformers cannot be imported: {error}") from error
    model = models.SentenceTransformer(str(locate(trial.base.name).folder), device="cpu")
    _learn_pairs(model, losses.CosineSimilarityLoss(model), trial)

    def embed(table: Table) -> np.ndarray[Any, Any]:
        return np.asarray(model.encode([e.text for e in table.examples], normalize_embeddings=True))

    return _classify(embed(trial.train), embed(trial.test), trial, 1.0)


def run_logistic(trial: Trial) -> Metrics:
    """Return the metrics of a logistic regression on the frozen base's mean last hidden states, of length one."""
    data = _encode(trial)
    strength = trial.rate or RATES["logistic"][trial.base.kind][1]
    return _classify(_embed(trial, data.train), _embed(trial, data.held_out), trial, strength)


# -- PEFT -------------------------------------------------------------------------------------------------------------


def _heads(trial: Trial) -> list[str] | None:
    return list(trial.base.head_modules) or None


def _run_peft(trial: Trial, config: Any, name: str) -> Metrics:
    """Train a PEFT model with AdamW as ours is trained, and score the choices as ours are scored by sums."""
    base, data = trial.base, _encode(trial)
    model = wrap(shared_copy(base.model), config).get_base_model().eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings = settings_for(base.kind, recipe=RECIPE)
    rate = trial.rate or RATES[name][base.kind][1]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0, fused=True)
    steps = settings.total_steps(len(data.train))
    for step, examples in enumerate(_batches(data.train, settings.batch_size, steps, trial.seed)):
        batch = collate(examples, base.kind, base.pad_id, base.decoder_start_id)
        label_loss(model, base.kind, Work(step, batch, batch, len(examples), 0)).backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        for group in optimizer.param_groups:
            group["lr"] = rate * settings.rate(step, steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    part = HeldOut(data.held_out, data.encoding.choice_ids, trial.labels, None)
    return evaluate_together(replace(base, model=model), [part])[0]


def _batches(examples: Sequence[Encoded], size: int, steps: int, seed: int) -> list[list[Encoded]]:
    """Return the examples of each step: the batches that ours have."""
    lengths = [len(example) for example in examples]
    found: list[list[Encoded]] = []
    epoch = 0
    while len(found) < steps:
        found += [[examples[i] for i in batch] for batch in epoch_batches(lengths, size, seed, epoch)]
        epoch += 1
    return found[:steps]


def _encode(trial: Trial) -> Dataset:
    base = trial.base
    rows = SplitTable(trial.train, trial.test, trial.labels, ())
    template = None if base.kind == "encoder" else TEMPLATE
    return encode_rows(rows, base.tokenizer, base.limits, base.kind, template=template)


# -- sentences --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _embed(trial: Trial, examples: Sequence[Encoded]) -> np.ndarray[Any, Any]:
    """Return the mean last hidden state of each prompt, of length one, shape (rows, width)."""
    model: Any = trial.base.model.base_model
    found: list[Tensor] = []
    for start in range(0, len(examples), _EMBED_ROWS):
        batch = collate(examples[start : start + _EMBED_ROWS], "encoder", trial.base.pad_id)
        hidden = model(**batch.inputs).last_hidden_state
        mask = batch.attention_mask.unsqueeze(-1).to(hidden.dtype)
        found.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(found).numpy()


def _classify(train: np.ndarray[Any, Any], test: np.ndarray[Any, Any], trial: Trial, strength: float) -> Metrics:
    """Return the metrics of scikit-learn's logistic regression."""
    try:
        linear = import_module("sklearn.linear_model")
    except ImportError as error:
        raise NotAvailable(f"scikit-learn cannot be imported: {error}") from error
    places = {label: place for place, label in enumerate(trial.labels)}
    model = linear.LogisticRegression(C=strength, max_iter=2000)
    model.fit(train, [places[str(example.label)] for example in trial.train.examples])
    gold = [places[str(example.label)] for example in trial.test.examples]
    return score_predictions(trial.labels, gold, model.predict_proba(test), None)


def _learn_pairs(model: Any, loss: Any, trial: Trial) -> None:
    """Train the encoder on pairs of rows: similarity one within a label and zero across, AdamW with a linear decay."""
    pairs = draw_pairs([str(example.label) for example in trial.train.examples], trial.seed)
    texts = [example.text for example in trial.train.examples]
    rate = trial.rate or RATES["setfit"]["encoder"][1]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    chunks = [pairs[start : start + _SETFIT_BATCH] for start in range(0, len(pairs), _SETFIT_BATCH)][:_SETFIT_STEPS]
    tokenize = getattr(model, "preprocess", None) or model.tokenize
    torch.manual_seed(trial.seed)
    model.train()
    for step, chunk in enumerate(chunks):
        sides = [tokenize([texts[pair[side]] for pair in chunk]) for side in (0, 1)]
        loss(sides, torch.tensor([pair[2] for pair in chunk])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / len(chunks))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.eval()


def draw_pairs(labels: Sequence[str], seed: int) -> list[tuple[int, int, float]]:
    """Return pairs of positions with their similarity, shuffled: for each row as many of its label as of others.

    Args:
        labels: Label of each row; two at least, with two rows each.
        seed: Decides everything.
    """
    draw = random.Random(seed)
    found: list[tuple[int, int, float]] = []
    for place, label in enumerate(labels):
        same = [i for i, other in enumerate(labels) if other == label and i != place]
        others = [i for i, other in enumerate(labels) if other != label]
        for _ in range(_SETFIT_PAIRS):
            found += [(place, draw.choice(same), 1.0), (place, draw.choice(others), 0.0)]
    draw.shuffle(found)
    return found
