"""What many adapters are asked: the same texts in the same windows of 32, each request for an adapter of its own.

The texts of a window stay the same in every repeat; the adapters are drawn anew. One function answers for every method,
so that the methods differ by their adapters alone. This file knows token ids and models; it knows nothing of banks,
PEFT or clocks other than that of a token.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from benchmarks.bases import SEED, Case
from ia3.data.batches import pad_left, pad_right
from ia3.data.encoding import Encoded

WINDOW = 32  # requests that arrive together
Task = Literal["classification", "generation"]
TASKS: tuple[Task, ...] = ("classification", "generation")


@dataclass(frozen=True)
class Answers:
    """What a model answered to some requests.

    Attributes:
        values: Of classification the scores of the choices, fp32, shape (requests, choices); of generation the new
            token ids, int64, shape (requests, tokens).
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


@torch.inference_mode()
def answer(
    case: Case, task: Task, model: Any, examples: Sequence[Encoded], tokens: int, options: Mapping[str, Any]
) -> Answers:
    """Return what a model answers to requests in one batch, padded to the longest.

    Args:
        case: The base, for its kind and padding.
        task: What is asked.
        model: The base, with or without adapters.
        examples: The requests.
        tokens: New tokens of each answer, for generation: always as many, whatever they are.
        options: What the model is told beside its inputs, such as the rows.
    """
    inputs = _pad(case, examples)
    if task == "generation":
        return _generate(model, inputs, tokens, options)
    if case.kind == "encoder":
        return Answers(model(**inputs, **options).logits, 0.0)
    positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    logits = model(**inputs, position_ids=positions, use_cache=False, logits_to_keep=1, **options).logits[:, -1]
    return Answers(logits[:, first_choice_ids(case)], 0.0)


def first_choice_ids(case: Case) -> list[int]:
    """Return the first tokens of the answers of a language model's rows, each once."""
    return sorted({example.target_ids[0] for example in case.examples})


def _pad(case: Case, examples: Sequence[Encoded]) -> dict[str, Tensor]:
    """Return the prompts' ids and mask, shape (requests, longest); a decoder's end at the same place."""
    pad = pad_left if case.kind == "causal" else pad_right
    prompts = [example.prompt_ids for example in examples]
    ones = [[1] * len(prompt) for prompt in prompts]
    return {"input_ids": pad(prompts, case.pad_id), "attention_mask": pad(ones, 0)}


def _generate(model: Any, inputs: Mapping[str, Tensor], tokens: int, options: Mapping[str, Any]) -> Answers:
    """Generate greedily by the model's own method, no answer ending before it has all its tokens."""
    clock = _TokenClock()
    ids = model.generate(
        **inputs,
        **options,
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    return Answers(ids[:, -tokens:], clock.times[-1] - clock.times[0])


def never_ends(model: Any) -> None:
    """Let a model's generation go on to its limit: no token ends it, nothing of the base's own defaults is left."""
    model.generation_config = type(model.generation_config)(
        pad_token_id=model.generation_config.pad_token_id or 0,
        decoder_start_token_id=model.config.to_dict().get("decoder_start_token_id"),
    )


class _TokenClock(StoppingCriteria):  # type: ignore[misc]
    """Notes when each token is there, and never stops."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
