"""Fewer steps: what reaches a quality with less training, tried on three real tasks with MiniLM.

    python -m benchmarks.fewer_steps --data DIR --steps 60 --seeds 0 1 2

Rivals of plain AdamW: faster averages of the moments, the mean of the last iterates, other rates for the feed-forward
vectors, and a Gauss-Newton step in the space of the examples: a bank with one row for each example gives each example's
own gradient of every logit in as many backward passes as there are labels; the step is the ridge regression of what the
logits lack on those gradients, and its ridge is the one with the least leave-one-out error, in closed form.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import ia3
from benchmarks.bases import find_table
from ia3.bases.loading import Base
from ia3.core.attach import Attachment, attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.data.batches import collate, epoch_batches
from ia3.data.encoding import Encoded
from ia3.fast.acceleration import accelerate
from ia3.inference.asking import score_encoded
from ia3.inference.logits import class_logits
from ia3.runs.dataset import encode_rows, read_rows

TASKS = {
    "phrasebank": "financial_phrasebank/train.csv",
    "reviews": "vader/reviews.csv",
    "tweets": "vader/tweets.csv",
}
BATCH = 8
_ROWS = 16  # examples whose gradients are taken at once
_RIDGES = tuple(10.0**power for power in range(-4, 5))


@dataclass(frozen=True)
class Way:
    """One way to train."""

    betas: tuple[float, float] = (0.9, 0.999)
    averaged: float = 0.0  # share of the steps, at the end, whose iterates are averaged
    feedforward: float = 1.0  # rate of the feed-forward vectors over that of keys and values
    adamw: float = 1.0  # share of the steps that AdamW takes; Gauss-Newton has the examples of the rest
    rounds: int = 0  # Gauss-Newton steps over those examples


WAYS = {
    "adamw": Way(),
    "adamw, betas 0.8 and 0.95": Way(betas=(0.8, 0.95)),
    "mean of the last quarter": Way(averaged=0.25),
    "feed-forward rate x 0.3": Way(feedforward=0.3),
    "feed-forward rate x 3": Way(feedforward=3.0),
    "gauss-newton alone": Way(adamw=0.0, rounds=1),
    "gauss-newton after half": Way(adamw=0.5, rounds=1),
    "gauss-newton after half, twice": Way(adamw=0.5, rounds=2),
}


@dataclass
class Pupil:
    """A MiniLM with a bank and the task it learns."""

    base: Base
    attachment: Attachment
    train: tuple[Encoded, ...]
    held_out: tuple[Encoded, ...]
    head: nn.Linear
    row: nn.Parameter = field(init=False)

    def __post_init__(self) -> None:
        self.attachment.bank.add("pupil", trainable=True)
        self.row = self.attachment.bank.snapshot.vector(1)
        self.head.requires_grad_(True)

    def logits(self, examples: Sequence[Encoded], rows: Any = "pupil") -> tuple[Tensor, Tensor]:
        """Return logits and right choices, shapes (batch, labels) and (batch,)."""
        batch = collate(examples, "encoder", self.base.pad_id)
        return class_logits(self.base.model, {**batch.inputs, "rows": rows}), batch.choices

    def accuracy(self) -> float:
        """Return the share of held-out rows that are answered rightly."""
        scores = score_encoded(self.base, self.held_out, None, "pupil")
        return float((scores.argmax(axis=1) == [example.choice for example in self.held_out]).mean())


def train(pupil: Pupil, way: Way, steps: int, seed: int) -> None:
    """Train on the examples of a number of steps."""
    lengths = [len(e) for e in pupil.train]
    per_epoch = -(-len(lengths) // BATCH)
    order = [b for e in range(-(-steps // per_epoch)) for b in epoch_batches(lengths, BATCH, seed, e)][:steps]
    first = round(steps * way.adamw)
    _adamw(pupil, way, [[pupil.train[i] for i in batch] for batch in order[:first]])
    rest = [pupil.train[i] for batch in order[first:] for i in batch]
    for _ in range(way.rounds):
        gauss_newton(pupil, rest)


def _adamw(pupil: Pupil, way: Way, batches: Sequence[Sequence[Encoded]]) -> None:
    if not batches:
        return
    groups = [{"params": [pupil.row], "lr": 2e-2}, {"params": list(pupil.head.parameters()), "lr": 5e-3}]
    optimizer = torch.optim.AdamW(groups, betas=way.betas, weight_decay=0.0, fused=True)
    highest, factors = [group["lr"] for group in optimizer.param_groups], _factors(pupil, way.feedforward)
    mean, count = torch.zeros_like(pupil.row), 0
    for step, batch in enumerate(batches):
        logits, choices = pupil.logits(batch)
        functional.cross_entropy(logits, choices).backward()
        nn.utils.clip_grad_norm_([pupil.row, *pupil.head.parameters()], 1.0)
        for group, rate in zip(optimizer.param_groups, highest, strict=True):
            group["lr"] = rate * (1 - step / len(batches))
        before = pupil.row.detach().clone()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            pupil.row.copy_(before + (pupil.row - before) * factors)
            if step >= len(batches) * (1 - way.averaged):
                mean, count = mean + pupil.row, count + 1
    if count:
        with torch.no_grad():
            pupil.row.copy_(mean / count)


def _factors(pupil: Pupil, feedforward: float) -> Tensor:
    factors = torch.ones_like(pupil.row)
    for site, span in pupil.attachment.bank.plan.spans():
        if site.role == "feedforward":
            factors[span] = feedforward
    return factors


def gauss_newton(pupil: Pupil, examples: Sequence[Encoded]) -> None:
    """Move the vectors and the head by the ridge regression of what the logits lack on every example's gradients."""
    found = [_jacobian(pupil, examples[start : start + _ROWS]) for start in range(0, len(examples), _ROWS)]
    jacobian = torch.cat([j for j, _ in found]).flatten(0, 1)  # examples·labels numbers
    lacking = torch.cat([r for _, r in found]).flatten()
    kernel = jacobian @ jacobian.T
    values, vectors = torch.linalg.eigh(kernel.double())
    inside = vectors.T @ lacking.double()
    best = min((values.mean() * ridge for ridge in _RIDGES), key=lambda r: _left_out_error(values, vectors, inside, r))
    step = (vectors @ (inside / (values + best))).float() @ jacobian
    with torch.no_grad():
        width = pupil.row.numel()
        pupil.row.add_(step[:width])
        pupil.head.weight.add_(step[width : width + pupil.head.weight.numel()].view_as(pupil.head.weight))
        pupil.head.bias.add_(step[-pupil.head.bias.numel() :])


def _left_out_error(values: Tensor, vectors: Tensor, inside: Tensor, ridge: Tensor) -> float:
    """Return the mean square error of each number predicted from all others (Allen's PRESS), for K (K + ridge)⁻¹."""
    kept = ridge / (values + ridge)
    residual = vectors @ (kept * inside)
    leverage_left = (vectors.square() * kept).sum(dim=1)
    return float((residual / leverage_left).square().mean())


def _jacobian(pupil: Pupil, examples: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Return the gradient of every logit of every example, and what the logits lack.

    Shapes (batch, labels, row + head), (batch, labels). Targets are logits of +2 for the right label and -1 for others.
    """
    bank, names = pupil.attachment.bank, [f"example {i}" for i in range(len(examples))]
    for name in names:
        bank.add(name, pupil.row.detach(), trainable=True)
    rows = [bank.snapshot.vector(bank.row(name)) for name in names]
    caught: list[Tensor] = []
    handle = pupil.head.register_forward_pre_hook(lambda module, args: caught.append(args[0].detach()))
    logits, choices = pupil.logits(examples, names)
    handle.remove()
    labels = logits.shape[1]
    gradients = [
        torch.stack(torch.autograd.grad(logits[:, label].sum(), rows, retain_graph=True)) for label in range(labels)
    ]
    for name in names:
        bank.remove(name)
    one = torch.eye(labels).expand(len(examples), -1, -1)  # batch labels labels
    head = torch.einsum("blk,bd->blkd", one, caught[0]).flatten(2)
    lacking = functional.one_hot(choices, labels) * 3.0 - 1.0 - logits.detach()
    return torch.cat([torch.stack(gradients, dim=1), head, one], dim=2), lacking


def make_pupil(path: Path, seed: int) -> Pupil:
    """Return a fresh MiniLM on a task's table, a tenth of it held out by the seed."""
    rows = read_rows(
        path, eval_source=None, eval_fraction=0.1, text=None, label="label", answers="labels", kind="encoder",
        skip_bad_rows=False, seed=seed,
    )  # fmt: skip
    base = ia3.load_base("minilm", labels=list(rows.labels), seed=seed)
    data = encode_rows(rows, base.tokenizer, base.limits, "encoder", template=None, max_length=128)
    attachment = attach_bank(base.model, Bank(find_plan(base.model)))
    pupil = Pupil(base, attachment, data.train, data.held_out, base.model.classifier)
    accelerate(attachment)
    return pupil


def measure(
    task: str, path: Path, steps: int, seeds: Sequence[int], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return a row for each way."""
    rows = []
    for name, way in WAYS.items():
        scores, seconds = [], []
        for seed in seeds:
            pupil = make_pupil(path, seed)
            began = time.perf_counter()
            train(pupil, way, steps, seed)
            seconds.append(time.perf_counter() - began)
            scores.append(pupil.accuracy())
        row = {"task": task, "way": name, "steps": steps, "accuracy": statistics.median(scores), "accuracies": scores}
        rows.append(row | {"seconds": statistics.median(seconds)})
        shown = ", ".join(f"{100 * score:.1f}" for score in scores)
        say(f"{task:<11} {name:<31} {100 * row['accuracy']:5.1f} % ({shown})  {rows[-1]['seconds']:.1f} s")
    return rows


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with financial_phrasebank/ and vader/ (or IA3_DATA)")
    parser.add_argument("--steps", type=int, default=60, help="steps of 8 examples that every way has (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = find_table(options.data).parent.parent
    rows = [
        row
        for task, path in TASKS.items()
        for row in measure(task, folder / path, options.steps, options.seeds, lambda line: print(line, flush=True))
    ]
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
