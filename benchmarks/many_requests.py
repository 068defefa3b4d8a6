"""What many adapters are asked: the same texts in the same windows of 32, each request for an adapter of its own.

The texts of a window stay the same in every repeat; the adapters are drawn anew. Every method answers through the
functions that a predictor scores and generates with, so that the methods differ by their adapters alone. This file
knows token ids and models; it knows nothing of banks, PEFT or clocks other than that of a token.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.bases import SEED, Case
from ia3.core.strengths import AdapterRefs
from ia3.data.encoding import Encoded
from ia3.inference.generate import generate_tokens
from ia3.inference.scoring import score_choices

WINDOW = 32  # requests that arrive together
Task = Literal["classification", "generation"]
TASKS: tuple[Task, ...] = ("classification", "generation")
_NEVER = -1  # a token that no answer ends with


@dataclass(frozen=True)
class Answers:
    """What a model answered to some requests.

    Attributes:
        values: Of classification the log-probabilities of the choices, fp32, shape (requests, choices); of generation
            the new token ids, int64, shape (requests, tokens).
        decode_seconds: From the first new token to the last; 0 for classification.
    """

    values: Tensor
    decode_seconds: float


def make_windows(case: Case, windows: int) -> tuple[tuple[Encoded, ...], ...]:
    """Return windows of requests of like length, as a busy queue gives them, spread evenly over a base's lengths.

    Args:
        case: The base with its rows; rows are used again where there are too few.
        windows: How many.
    """
    shuffled = np.random.default_rng(SEED).permutation(len(case.examples))
    ordered = sorted((case.examples[i] for i in shuffled), key=lambda example: len(example.prompt_ids))
    ordered = [example for example in ordered for _ in range(-(-WINDOW // len(ordered)))]
    chosen = []
    for part in range(windows):
        middle = (2 * part + 1) * len(ordered) // (2 * windows)
        start = max(0, min(middle - WINDOW // 2, len(ordered) - WINDOW))
        chosen.append(tuple(ordered[start : start + WINDOW]))
    return tuple(chosen)


def draw_adapters(adapters: int, windows: int, repeat: int, *, is_distinct: bool) -> tuple[tuple[int, ...], ...]:
    """Return the adapter of every request, window by window; the same ones for every method with as many adapters.

    Args:
        adapters: Number of adapters to draw from.
        windows: Number of windows.
        repeat: Each has its own draws.
        is_distinct: Whether no two requests of a window have the same one; there are then at least 32.
    """
    random = np.random.default_rng((SEED, repeat, adapters))
    if is_distinct:
        return tuple(tuple(random.permutation(adapters)[:WINDOW].tolist()) for _ in range(windows))
    return tuple(tuple(random.integers(0, max(1, adapters), WINDOW).tolist()) for _ in range(windows))


def answer(
    case: Case, task: Task, model: Any, examples: Sequence[Encoded], tokens: int, rows: AdapterRefs | None
) -> Answers:
    """Return what a model answers to requests in one batch, padded to the longest.

    Args:
        case: The base, for its kind and padding.
        task: What is asked.
        model: The base, with or without adapters.
        examples: The requests.
        tokens: New tokens of each answer, for generation: always as many, whatever they are.
        rows: Adapter of each request, on a model with a bank.
    """
    base = replace(case, model=model)
    if task == "classification":
        choices = None if case.kind == "encoder" else [[first] for first in first_choice_ids(case)]
        return Answers(score_choices(base, examples, choices, rows), 0.0)
    times: list[float] = []
    handle = model.register_forward_hook(lambda *_: times.append(time.perf_counter()))
    whole = len(examples) * (max(len(example.prompt_ids) for example in examples) + tokens)  # one batch
    try:
        found = generate_tokens(base, examples, max_new_tokens=tokens, end_id=_NEVER, adapter=rows, token_budget=whole)
    finally:
        handle.remove()
    return Answers(torch.tensor(found), times[-1] - times[0])


def first_choice_ids(case: Case) -> list[int]:
    """Return the first tokens of the answers of a language model's rows, each once."""
    return sorted({example.target_ids[0] for example in case.examples})
