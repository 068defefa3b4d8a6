"""What the vectors of an encoder are worth: rows that they have not learned are read with them and without.

The frozen base with a head in closed form is what everybody has before a step is taken. Cross-validation on the
training rows says how good it is, and decides what the vectors learn from: sentences of one label are drawn together,
and where the base knows the labels its head's cross-entropy is added. A row of the bank learns from four fifths of the
rows in half of the steps (from either half in a quarter, where a label has fewer than eight), and is judged on the
others, 200 at most. Vectors that are no better there are not kept. The same rows say at which temperature
probabilities come true. This file knows tasks and banks; it writes nothing.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ia3.data.encoding import Encoded
from ia3.inference.temperature import fit_temperature, scale
from ia3.runs.fitted_head import fit_linear, read_inputs
from ia3.training.loop import train_together
from ia3.training.settings import Settings
from ia3.training.tasks import Callbacks, Task

FEW = 8  # rows a label, below which both halves are judged
_MOST = 200  # rows that are judged where there are enough
_FOLDS = 5
_KNOWN = 0.7  # share of rows that the frozen base is right on where it knows the labels; benchmarks/LOG.md
_MORE_SURE = 1.35  # temperature of trained sentences over that of frozen ones, usually
_JUDGED = "judged "  # begins the names of rows that are taken out again


@dataclass(frozen=True)
class Score:
    """How good scores are, at the temperature that they want."""

    accuracy: float  # share of rows
    loss: float  # nats a row
    temperature: float

    def to_json(self) -> dict[str, float]:
        """Return it as plain values."""
        return {"accuracy": self.accuracy, "loss": self.loss}


@dataclass(frozen=True)
class Worth:
    """What the frozen base knew, and what the vectors were worth on rows that they had not learned.

    Attributes:
        frozen: Of the base with a fitted head, cross-validated on all training rows.
        rows: How many the vectors were judged on; 0 where they were not.
        without: The fitted head alone on these.
        trained: With the vectors.
        temperature: What scores are divided by so that probabilities come true.
    """

    frozen: Score
    rows: int = 0
    without: Score | None = None
    trained: Score | None = None
    temperature: float | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the vectors are no worse than the head alone, or were not judged."""
        return self.trained is None or self.without is None or self.trained.loss <= self.without.loss

    def lines(self) -> list[str]:
        """Return it in words, a sentence each."""
        told = [
            f"The frozen base with a fitted head is right on {100 * self.frozen.accuracy:.1f} % of the training rows "
            f"that it was not fitted on (log loss {self.frozen.loss:.3f})."
        ]
        if self.trained is None or self.without is None:
            return told
        end = (
            "They are kept."
            if self.is_kept
            else "They are not kept: the adapter is the fitted head on what it began with."
        )
        return [
            *told,
            f"On {self.rows} rows that the vectors had not learned, {100 * self.trained.accuracy:.1f} % are right with "
            f"them and {100 * self.without.accuracy:.1f} % without (log loss {self.trained.loss:.3f} and "
            f"{self.without.loss:.3f}). {end}",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values for the record."""
        return {
            "frozen": self.frozen.to_json(),
            "rows": self.rows,
            "without_vectors": None if self.without is None else self.without.to_json(),
            "with_vectors": None if self.trained is None else self.trained.to_json(),
            "is_kept": self.is_kept,
        }


@dataclass(frozen=True)
class Known:
    """The rows of one task and what the frozen base makes of them.

    Attributes:
        examples: The training rows, behind them the labels' own words.
        inputs: What the head reads of each, shape (examples, width).
        labels: How many there are.
        rows: How many of the examples are rows of the table.
        seed: Decides the folds.
    """

    examples: tuple[Encoded, ...]
    inputs: Tensor
    labels: int
    rows: int
    seed: int

    @property
    def gold(self) -> Tensor:
        """The right label of each example, int64."""
        return torch.tensor([example.choice for example in self.examples])

    def without_texts(self) -> Known:
        """Return the rows of the table alone."""
        return replace(self, examples=self.examples[: self.rows], inputs=self.inputs[: self.rows])

    def folds(self, count: int) -> list[list[int]]:
        """Return positions of rows in so many parts: each label is spread over them, the same ids stay together."""
        draw = np.random.Generator(np.random.PCG64([self.seed, count]))
        by_text: dict[tuple[int, ...], list[int]] = {}
        for place, example in enumerate(self.examples[: self.rows]):
            by_text.setdefault(example.prompt_ids, []).append(place)
        texts = [list(by_text.values())[i] for i in draw.permutation(len(by_text))]
        texts.sort(key=lambda places: self.examples[places[0]].choice)  # stable: one label after another
        return [sorted(place for text in texts[part::count] for place in text) for part in range(count)]

    def scores(self, held: Sequence[int], inputs: Tensor | None = None) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the scores of some rows by a head that is fitted to all other examples, shape (held, labels).

        Args:
            held: Positions of the rows.
            inputs: What the head reads in place of what the frozen base gives.
        """
        read = self.inputs if inputs is None else inputs
        learned = self.others(held)
        weight, bias = fit_linear(read[learned], self.gold[learned], self.labels)
        return functional.linear(read[list(held)], weight, bias).log_softmax(dim=1).numpy()

    def others(self, held: Sequence[int]) -> list[int]:
        """Return the positions of all examples but some."""
        apart = set(held)
        return [place for place in range(len(self.examples)) if place not in apart]

    def validated(self) -> Score:
        """Return how good the frozen base is by cross-validation."""
        parts = [part for part in self.folds(_FOLDS) if part]
        return self.score(parts, [self.scores(part) for part in parts], usual=1.0)

    def score(
        self, parts: Sequence[Sequence[int]], scored: Sequence[np.ndarray[Any, Any]], usual: float | None = None
    ) -> Score:
        """Return how good the scores of some parts are."""
        scores, gold = np.concatenate(scored), self.gold.numpy()[[place for part in parts for place in part]]
        temperature = fit_temperature(scores, gold, usual)
        shares = scale(scores, temperature)[np.arange(len(gold)), gold]
        accuracy = float((scores.argmax(axis=1) == gold).mean())
        return Score(accuracy, float(-np.log(np.maximum(shares, 1e-300)).mean()), temperature)


def know(task: Task, rows: int, seed: int) -> tuple[Known, Score] | None:
    """Return a task's rows and how well the frozen base knows them, with the labels' words where these help.

    Args:
        task: With a row that holds what it begins with.
        rows: How many of its examples are rows of the table; behind them are the labels' own words.
        seed: Decides the folds.

    Returns:
        None where the head does not end in one linear layer for a text, and where all rows have one text.
    """
    if len({example.prompt_ids for example in task.train[:rows]}) < 2:
        return None
    read = read_inputs(task.attachment, task.adapter, task.train, task.pad_id)
    if read is None:
        return None
    whole = Known(task.train, read, task.choices, rows, seed)
    score = whole.validated()
    if len(whole.examples) > rows:
        bare = whole.without_texts()
        alone = bare.validated()
        if alone.loss < score.loss:
            return bare, alone
    return whole, score


def losses_for(frozen: Score) -> dict[str, Any]:
    """Return the settings of what the vectors of an encoder learn from.

    The less the frozen base knows of the labels, the softer the contrast, and the less is its head worth keeping to.
    """
    if frozen.accuracy >= _KNOWN:
        return {"losses": "lm+contrast", "contrast_temperature": 0.1}
    return {"losses": "contrast", "contrast_temperature": 0.2}


def judge(
    tasks: Sequence[tuple[Task, Settings]],
    known: Sequence[Known],
    frozen: Sequence[Score],
    callbacks: Callbacks,
    *,
    begun: Sequence[bool],
    is_mixed: bool,
) -> list[Worth]:
    """Return what the vectors of tasks are worth; their rows and heads stay as they are.

    Args:
        tasks: What is trained on what, with rows that hold what they begin with.
        known: Their rows.
        frozen: How well the frozen base knows these.
        callbacks: What may stop it.
        begun: Which of them begin with an adapter: its sentences are about as sure as those behind the training.
        is_mixed: Whether examples of different tasks meet in a batch.
    """
    parts = [judged_parts(one) for one in known]
    rows: list[tuple[Task, Settings]] = []
    attachment = tasks[0][0].attachment
    for (task, settings), own, held in zip(tasks, known, parts, strict=True):
        steps = max(1, settings.total_steps(len(task.train)) // (2 * len(held)))
        short = replace(settings, max_steps=steps, eval_strategy="end", patience=0)
        rows += [(_twin(task, own, part, number), short) for number, part in enumerate(held)]
    try:
        train_together(rows, callbacks, run="judged", is_mixed=is_mixed)
        found = []
        twins = iter(rows)
        for own, held, score, has_start in zip(known, parts, frozen, begun, strict=True):
            read = [_read(next(twins)[0], own) for _ in held]
            usual = score.temperature * (1.0 if has_start else _MORE_SURE)
            trained = own.score(held, [own.scores(part, one) for part, one in zip(held, read, strict=True)], usual)
            without = own.score(held, [own.scores(part) for part in held], score.temperature)
            worth = Worth(score, sum(map(len, held)), without, trained)
            found.append(replace(worth, temperature=trained.temperature if worth.is_kept else score.temperature))
        return found
    finally:
        for task, _ in rows:
            attachment.bank.remove(task.adapter)


def judged_parts(known: Known) -> list[list[int]]:
    """Return the rows that are judged: of both halves where they are few, else a fifth."""
    counts = Counter(example.choice for example in known.examples[: known.rows])
    if known.rows < FEW * len(counts):
        return [part for part in known.folds(2) if part]
    return [known.folds(max(_FOLDS, -(-known.rows // _MOST)))[0]]


def _twin(task: Task, known: Known, held: Sequence[int], number: int) -> Task:
    """Return a task on the other rows, with a row of its own that begins as the task's does."""
    bank, name = task.attachment.bank, f"{_JUDGED}{number} {task.adapter}"
    head = bank.snapshot.head(bank.row(task.adapter))
    bank.add(name, bank.vector(task.adapter).detach().clone(), trainable=True, head=copy.deepcopy(head))
    learned = tuple(known.examples[place] for place in known.others(held))
    return replace(task, adapter=name, name=name, train=learned, variants=())


def _read(task: Task, known: Known) -> Tensor:
    read = read_inputs(task.attachment, task.adapter, known.examples, task.pad_id)
    assert read is not None, "the frozen base's was read before"
    return read
