"""The rivals: PEFT's (IA)³, LoRA and RoAd, all weights, and logistic regression on the frozen base.

They get the rows and the words of ours, and the steps and the batch size of the recipe for few rows, or four passes
over the rows where these are more; their learning rates are found as ours are. PEFT and scikit-learn are imported when
they are needed. A method trains and returns what measures it. This file knows one cell at a time.
"""

from __future__ import annotations

import copy
import math
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
from ia3.data.batches import collate, epoch_batches
from ia3.data.encoding import Encoded
from ia3.data.examples import Table
from ia3.inference.evaluate import HeldOut, evaluate_together
from ia3.inference.measures import score_predictions
from ia3.inference.metrics import Metrics
from ia3.names import Kind
from ia3.runs.dataset import Dataset, SplitTable, encode_rows
from ia3.training.settings import settings_for

Measure = Callable[[], Metrics]

# What `--tune` tries, by kind of base. The middle one is the default: PEFT's notebooks use 8e-3, SetFit 2e-5.
RATES: Mapping[str, Mapping[str, tuple[float, ...]]] = MappingProxyType(
    {
        "peft-ia3": dict.fromkeys(("causal", "encoder"), (4e-3, 8e-3, 1.6e-2)),
        "peft-lora": dict.fromkeys(("causal", "encoder"), (2.5e-4, LORA_RATE, 1e-3)),
        "peft-road": dict.fromkeys(("causal", "encoder"), (1e-3, 3e-3, 1e-2)),
        "full": dict.fromkeys(("causal", "encoder"), (2e-5, 5e-5, 1e-4)),
        "setfit": {"encoder": (1e-5, 2e-5, 4e-5)},
        "logistic": dict.fromkeys(("causal", "encoder"), (1.0, 10.0, 100.0)),  # scikit-learn's C, which is no rate
    }
)
_EMBED_ROWS = 32
_ROAD_GROUP = 64  # PEFT's default
_PASSES, _BATCH = 4, 16  # of many rows


@dataclass(frozen=True)
class Trial:
    """One cell with its rows read.

    Attributes:
        base: The base, loaded; as it was when a method returns.
        train: Rows to learn from.
        test: Rows to measure on.
        labels: The label set.
        seed: Decides the order of the rows, and SetFit's pairs.
        rate: Learning rate; None for the method's own.
        make_start: Gives the folder of a start by its name, one that has not seen the table; None without one.
        template: Words of a language model that is given them.
        setfit: Environment of SetFit.
        is_seen: Whether the starts that come with ia3 have learned rows of the table, so that none may be chosen.
    """

    base: Base
    train: Table
    test: Table
    labels: tuple[str, ...]
    seed: int
    rate: float | None = None
    make_start: Callable[[str], Path] | None = None
    template: str = TEMPLATE
    setfit: Path = Path()
    is_seen: bool = False


def run_peft_ia3(trial: Trial) -> Measure:
    """Train PEFT's (IA)³ with its default targets."""
    config = import_module("peft").IA3Config(task_type=TASK_TYPES[trial.base.kind], modules_to_save=_heads(trial))
    return _run_peft(trial, config, "peft-ia3")


def run_lora(trial: Trial) -> Measure:
    """Train PEFT's LoRA of rank 16 on every linear but the head."""
    config = import_module("peft").LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, **_on_every_linear(trial))
    return _run_peft(trial, config, "peft-lora")


def run_road(trial: Trial) -> Measure:
    """Train PEFT's RoAd (its first variant) on every linear but the head."""
    model = trial.base.model
    heads = [
        model.get_output_embeddings(),
        *(m for name in _heads(trial) or () for m in model.get_submodule(name).modules()),
    ]
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and not any(m is head for head in heads)]
    group = math.gcd(_ROAD_GROUP, *(linear.out_features for linear in linears))
    config = import_module("peft").RoadConfig(group_size=group, **_on_every_linear(trial))
    return _run_peft(trial, config, "peft-road")


def run_full(trial: Trial) -> Measure:
    """Train all weights of a copy, with the head as transformers draws it."""
    return _run_steps(trial, copy.deepcopy(trial.base.model).requires_grad_(True).eval(), "full")


def run_logistic(trial: Trial) -> Measure:
    """Fit a logistic regression to the frozen base's mean last hidden states, of length one."""
    try:
        linear = import_module("sklearn.linear_model")
    except ImportError as error:
        raise NotAvailable(f"scikit-learn cannot be imported: {error}") from error
    data, places = _encode(trial), {label: place for place, label in enumerate(trial.labels)}
    model = linear.LogisticRegression(C=trial.rate or RATES["logistic"][trial.base.kind][1], max_iter=2000)
    model.fit(_embed(trial, data.train), [places[str(example.label)] for example in trial.train.examples])
    gold = [places[str(example.label)] for example in trial.test.examples]

    def measure() -> Metrics:
        probabilities = np.zeros((len(gold), len(places)))
        probabilities[:, model.classes_] = model.predict_proba(_embed(trial, data.held_out))
        return score_predictions(trial.labels, gold, probabilities, None)

    return measure


def _heads(trial: Trial) -> list[str] | None:
    return list(trial.base.head_modules) or None


def _on_every_linear(trial: Trial) -> dict[str, Any]:
    task = TASK_TYPES[trial.base.kind]
    return {"task_type": task, "target_modules": "all-linear", "modules_to_save": _heads(trial)}


def _run_peft(trial: Trial, config: Any, name: str) -> Measure:
    return _run_steps(trial, wrap(shared_copy(trial.base.model), config).get_base_model().eval(), name)


def _run_steps(trial: Trial, model: Any, name: str) -> Measure:
    """Train a model with AdamW as ours is trained; it is measured as ours is, choices ranked by sums."""
    base, data = trial.base, _encode(trial)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings = settings_for(base.kind, recipe=RECIPE)
    rate = trial.rate or RATES[name][base.kind][1]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0, fused=True)
    size, steps = pace(base.kind, len(data.train))
    for step, examples in enumerate(_batches(data.train, size, steps, trial.seed)):
        batch = collate(examples, base.kind, base.pad_id, base.decoder_start_id)
        label_loss(model, base.kind, Work(step, batch, batch, len(examples), 0)).backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        for group in optimizer.param_groups:
            group["lr"] = rate * settings.rate(step, steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    part = HeldOut(data.held_out, data.encoding.choice_ids, trial.labels, None)
    return lambda: evaluate_together(replace(base, model=model), [part])[0]


def pace(kind: Kind, rows: int) -> tuple[int, int]:
    """Return the batch size and the steps for a number of rows: the recipe's, or four passes where these are more."""
    settings = settings_for(kind, recipe=RECIPE)
    steps = settings.total_steps(rows)
    if _PASSES * rows <= steps * settings.batch_size:
        return settings.batch_size, steps
    return _BATCH, _PASSES * math.ceil(rows / _BATCH)


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
    template = None if base.kind == "encoder" else trial.template
    return encode_rows(rows, base.tokenizer, base.limits, base.kind, template=template)


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
