"""Scoring: the log-probability of every choice of a closed set, exactly.

The prompt (or the encoder) is run once for each example; the choices share it. A choice's score is the sum of its
tokens' log-probabilities, end token included, so choices of different lengths, and choices that begin with another
choice, stand side by side as what they are: different answers. Encoders score with their head. This file knows token
ids and models; templates and tables come before it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from ia3.bases.kinds import Kind
from ia3.data.batches import pad_left, pad_right
from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.inference.logits import cache_input, cache_of, class_logits, known_inputs, run_at

# Choices are scored in chunks that stay below both: numbers of logits (256 MB in fp32), and numbers of the prompts'
# cached keys and values (or the encoder's output), which every choice of a chunk has a copy of.
MOST_LOGITS = 64 * 2**20
MOST_COPIED = 128 * 2**20

Rows = str | int | Sequence[str | int]


@torch.inference_mode()
def score_choices(
    model: Any,
    kind: Kind,
    encoded: Sequence[Encoded],
    choice_ids: Sequence[Sequence[int]],
    *,
    pad_id: int,
    decoder_start_id: int | None = None,
    rows: Rows | None = None,
) -> Tensor:
    """Return the log-probability of every choice for every example.

    Args:
        model: The base, perhaps with a bank.
        kind: Kind of the base.
        encoded: The examples; their own targets are not read.
        choice_ids: Token ids of each choice, end token included; not used for encoders.
        pad_id: Token id of padding.
        decoder_start_id: First decoder token; seq2seq only.
        rows: Row or name for each example on a model with a bank, or one for all; None uses the active adapter.

    Returns:
        Shape (batch, choices), fp32 (float64 on a float64 base): summed log-probabilities of the choices' tokens, or
        for encoders the log-softmax of the head. Language models' choices need not sum to one.

    Raises:
        SettingsError: If there are no choices, one is empty, or a seq2seq base has no first decoder token.
    """
    if kind == "encoder":
        return _score_with_head(model, encoded, pad_id, rows)
    if not choice_ids or not all(choice_ids):
        raise SettingsError("Scoring choices: the label set is empty or a choice has no tokens, expected some of both.")
    if kind == "causal":
        return _score_causal(model, encoded, choice_ids, pad_id, rows)
    if decoder_start_id is None:
        raise SettingsError("Scoring choices: the base names no decoder_start_token_id, expected one in its config.")
    return _score_seq2seq(model, encoded, choice_ids, pad_id, decoder_start_id, rows)


def _score_with_head(model: Any, encoded: Sequence[Encoded], pad_id: int, rows: Rows | None) -> Tensor:
    ids, mask = pad_prompts(model, encoded, pad_id, pad_right)
    logits = class_logits(model, {"input_ids": ids, "attention_mask": mask, **_rows(rows)})
    return _wide(logits).log_softmax(dim=-1)


def _score_causal(
    model: Any,
    encoded: Sequence[Encoded],
    choice_ids: Sequence[Sequence[int]],
    pad_id: int,
    rows: Rows | None,
) -> Tensor:
    ids, mask = pad_prompts(model, encoded, pad_id, pad_left)
    last = torch.zeros_like(mask, dtype=torch.bool)
    last[:, -1] = True
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": True, **_rows(rows)}
    inputs |= known_inputs(model, position_ids=positions)
    first, output = run_at(model, last, inputs)  # (batch, vocabulary): every choice's first token
    first = _wide(first).log_softmax(dim=-1)
    scores = first[:, [choice[0] for choice in choice_ids]]  # batch choices
    if max(map(len, choice_ids)) == 1:
        return scores
    cache = cache_of(output)
    chunks = _chunks(choice_ids, len(encoded), first.shape[-1], _count_numbers(cache))
    rest = []
    for number, chunk in enumerate(chunks, start=1):
        copies = _copied_cache(cache, len(chunk), is_last=number == len(chunks))
        rest.append(_score_continuations(model, mask, positions, copies, chunk, pad_id, rows))
    return scores + torch.cat(rest, dim=1)


def _score_continuations(
    model: Any,
    mask: Tensor,
    positions: Tensor,
    cache: Any,
    choices: Sequence[Sequence[int]],
    pad_id: int,
    rows: Rows | None,
) -> Tensor:
    """Return the log-probability of each choice's tokens after the first, shape (batch, choices)."""
    batch, count = mask.shape[0], len(choices)
    given = pad_right([choice[:-1] for choice in choices], pad_id).to(mask.device)  # choices steps
    wanted = pad_right([choice[1:] for choice in choices], -1).to(mask.device)
    steps = given.shape[1]
    if steps == 0:  # a chunk of choices of one token each
        return torch.zeros(batch, count, device=mask.device)
    is_token = (wanted >= 0).repeat(batch, 1)  # batch·choices steps
    ahead = torch.arange(1, steps + 1, device=mask.device)
    inputs = {
        "input_ids": given.repeat(batch, 1),
        "attention_mask": torch.cat([mask.repeat_interleave(count, dim=0), is_token.to(mask.dtype)], dim=1),
        "use_cache": True,
        **cache_input(model, cache),
        **_rows(rows, count),
        **known_inputs(model, position_ids=positions[:, -1:].repeat_interleave(count, dim=0) + ahead),
    }
    logits, _ = run_at(model, is_token, inputs)
    return _sum_tokens(logits, wanted.repeat(batch, 1), is_token).view(batch, count)


def _score_seq2seq(
    model: Any,
    encoded: Sequence[Encoded],
    choice_ids: Sequence[Sequence[int]],
    pad_id: int,
    start_id: int,
    rows: Rows | None,
) -> Tensor:
    ids, mask = pad_prompts(model, encoded, pad_id, pad_right)
    hidden = model.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True, **_rows(rows)).last_hidden_state
    scores = []
    vocabulary = model.get_output_embeddings().weight.shape[0]
    for chunk in _chunks(choice_ids, len(encoded), vocabulary, hidden.numel()):
        count = len(chunk)
        given = pad_right([(start_id, *choice[:-1]) for choice in chunk], pad_id).to(ids.device)
        wanted = pad_right(chunk, -1).to(ids.device).repeat(len(encoded), 1)  # batch·choices steps
        inputs = {
            "encoder_outputs": BaseModelOutput(last_hidden_state=hidden.repeat_interleave(count, dim=0)),
            "attention_mask": mask.repeat_interleave(count, dim=0),
            "decoder_input_ids": given.repeat(len(encoded), 1),
            "use_cache": False,
            **_rows(rows, count),
        }
        logits, _ = run_at(model, wanted >= 0, inputs)
        scores.append(_sum_tokens(logits, wanted, wanted >= 0).view(len(encoded), count))
    return torch.cat(scores, dim=1)


def _sum_tokens(logits: Tensor, wanted: Tensor, is_token: Tensor) -> Tensor:
    """Sum the wanted tokens' log-probabilities of each sequence; logits are those of `is_token`, row by row."""
    wide = _wide(logits)
    picked = wide.gather(1, wanted[is_token].unsqueeze(1)).squeeze(1) - wide.logsumexp(dim=-1)
    sums = picked.new_zeros(wanted.shape)
    sums[is_token] = picked
    return sums.sum(dim=1)


def pad_prompts(model: Any, encoded: Sequence[Encoded], pad_id: int, pad: Any) -> tuple[Tensor, Tensor]:
    """Return the prompts' ids and mask on the model's device, both of shape (batch, seq).

    Args:
        model: The model.
        encoded: The examples.
        pad_id: Token id of padding.
        pad: `pad_left` or `pad_right`.
    """
    device = next(model.parameters()).device
    ids = pad([e.prompt_ids for e in encoded], pad_id)
    mask = pad([(1,) * len(e.prompt_ids) for e in encoded], 0)
    return ids.to(device), mask.to(device)


def _rows(rows: Rows | None, repeats: int = 1) -> dict[str, Any]:
    if rows is None:
        return {}
    return {"rows": rows if isinstance(rows, str | int) else [row for row in rows for _ in range(repeats)]}


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _copied_cache(cache: Any, repeats: int, *, is_last: bool) -> Any:
    """Repeat the prompt's cache for each choice; the last chunk may take the cache itself."""
    if not is_last:
        cache = copy.deepcopy(cache)
    cache.batch_repeat_interleave(repeats)
    return cache


def _count_numbers(cache: Any) -> int:
    """Return how many numbers a cache holds."""
    return sum(int(layer.keys.numel() + layer.values.numel()) for layer in cache.layers)


def _chunks(
    choices: Sequence[Sequence[int]], batch: int, vocabulary: int, copied: int
) -> list[Sequence[Sequence[int]]]:
    """Cut the choices so that the logits of one chunk, and what is copied for each of its choices, stay within bounds.

    Args:
        choices: Token ids of each choice.
        batch: Number of examples.
        vocabulary: Number of logits at each position.
        copied: Numbers that are copied for each choice.
    """
    longest = max(map(len, choices))
    size = max(1, min(MOST_LOGITS // (batch * longest * vocabulary), MOST_COPIED // max(1, copied)))
    return [choices[start : start + size] for start in range(0, len(choices), size)]
