"""Scoring: the log-probability of every choice of a closed set, exactly.

The prompt (or the encoder) is run once for each example; the choices share it, where the base can go on from its cache
(`shortcuts`), and else are read whole with their prompt. A choice's score is the sum of its
tokens' log-probabilities, end token included, so choices of different lengths, and choices that begin with another
choice, stand side by side as what they are: different answers. Encoders score with their head. This file knows token
ids and models; templates and tables come before it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ia3.core.attach import still
from ia3.core.strengths import Choice
from ia3.core.weights import input_device
from ia3.data.batches import pad_left, pad_right
from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.inference.logits import cache_input, cache_of, class_logits, encoder_output, known_inputs, run_at
from ia3.inference.shortcuts import selected, shortcuts_of
from ia3.names import Kind

# Choices are scored in chunks that stay below both: numbers of logits (256 MB in fp32), and numbers of the prompts'
# cached keys and values (or the encoder's output), which every choice of a chunk has a copy of.
MOST_LOGITS = 64 * 2**20
MOST_COPIED = 128 * 2**20

Rows = Choice | Sequence[Choice]


@dataclass(frozen=True)
class _Pair:
    """One choice of one example."""

    owner: int  # position of the example in the batch
    ids: tuple[int, ...]


@torch.inference_mode()
def score_choices(
    model: Any,
    kind: Kind,
    encoded: Sequence[Encoded],
    choice_ids: Sequence[Sequence[int]] | None,
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
        choice_ids: Token ids of each choice, end token included; None for those that each example brings. Not used
            for encoders.
        pad_id: Token id of padding.
        decoder_start_id: First decoder token; seq2seq only.
        rows: Row or name for each example on a model with a bank, or one for all; None uses the active adapter.

    Returns:
        Shape (batch, choices), fp32 (float64 on a float64 base): summed log-probabilities of the choices' tokens, or
        for encoders the log-softmax of the head. Language models' choices need not sum to one. An example with fewer
        choices than another has −inf behind its own.

    Raises:
        SettingsError: If there are no choices, one is empty, or a seq2seq base has no first decoder token.
        BaseError: If the base's logits depend on what stands behind them.
    """
    if kind == "encoder":
        return _score_with_head(model, encoded, pad_id, rows)
    choices = [example.choices for example in encoded] if choice_ids is None else [choice_ids] * len(encoded)
    if not all(own and all(own) for own in choices):
        raise SettingsError("Scoring choices: the label set is empty or a choice has no tokens, expected some of both.")
    pairs = [_Pair(owner, tuple(ids)) for owner, own in enumerate(choices) for ids in own]
    with still(model):  # an adapter that is replaced meanwhile scores all choices as it began
        if kind == "causal":
            shortcuts = shortcuts_of(model, kind, pad_id=pad_id)
            is_cached = shortcuts.pads and (shortcuts.continues or max(len(pair.ids) for pair in pairs) == 1)
            if is_cached:
                scores = _score_causal(model, encoded, pairs, pad_id, rows, shortcuts.has_positions)
            else:
                scores = _score_whole(model, encoded, pairs, pad_id, rows)
        elif decoder_start_id is None:
            raise SettingsError(
                "Scoring choices: the base names no decoder_start_token_id, expected one in its config."
            )
        else:
            shortcuts_of(model, kind, pad_id=pad_id, decoder_start_id=decoder_start_id)  # or it is refused
            scores = _score_seq2seq(model, encoded, pairs, pad_id, decoder_start_id, rows)
    return _in_place(scores, list(map(len, choices)))


def _score_with_head(model: Any, encoded: Sequence[Encoded], pad_id: int, rows: Rows | None) -> Tensor:
    ids, mask = pad_prompts(model, encoded, pad_id, pad_right)
    own = _rows(rows, range(len(encoded)))
    logits = class_logits(model, {"input_ids": ids, "attention_mask": mask, **own})
    return _wide(logits).log_softmax(dim=-1)


def _score_causal(
    model: Any, encoded: Sequence[Encoded], pairs: Sequence[_Pair], pad_id: int, rows: Rows | None, has_positions: bool
) -> Tensor:
    """Return the score of every choice of every example, in order, shape (pairs,); prompts are run once."""
    ids, mask = pad_prompts(model, encoded, pad_id, pad_left)
    last = torch.zeros_like(mask, dtype=torch.bool)
    last[:, -1] = True
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": True, **_rows(rows, range(len(encoded)))}
    inputs |= known_inputs(model, position_ids=positions) if has_positions else {}
    first, output = run_at(model, last, inputs)  # (batch, vocabulary): every choice's first token
    first = _wide(first).log_softmax(dim=-1)
    scores = first[[pair.owner for pair in pairs], [pair.ids[0] for pair in pairs]]  # pairs
    if max(len(pair.ids) for pair in pairs) == 1:
        return scores
    cache = cache_of(output)
    chunks = _chunks(pairs, first.shape[-1], _count_numbers(cache) // len(encoded))
    rest = []
    for number, chunk in enumerate(chunks, start=1):
        copies = _copied_cache(cache, _owners(chunk, ids.device), is_last=number == len(chunks))
        ends = positions[:, -1:] if has_positions else None
        rest.append(_score_continuations(model, mask, ends, copies, chunk, pad_id, rows))
    return scores + torch.cat(rest)


def _score_whole(
    model: Any, encoded: Sequence[Encoded], pairs: Sequence[_Pair], pad_id: int, rows: Rows | None
) -> Tensor:
    """Return the score of every choice of every example, in order, shape (pairs,); each is read with its prompt."""
    vocabulary = model.get_output_embeddings().weight.shape[0]
    scores = []
    for chunk in _chunks(pairs, vocabulary, MOST_COPIED // len(encoded)):  # as many in a pass as there are prompts
        inputs, wanted = whole_inputs(model, encoded, [(pair.owner, pair.ids) for pair in chunk], pad_id)
        own = _rows(rows, [pair.owner for pair in chunk])
        logits, _ = run_at(model, wanted >= 0, {**inputs, "use_cache": False, **own})
        scores.append(_sum_tokens(logits, wanted, wanted >= 0))
    return torch.cat(scores)


def whole_inputs(
    model: Any, encoded: Sequence[Encoded], answers: Sequence[tuple[int, Sequence[int]]], pad_id: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the ids and mask of prompts with an answer behind each, padded at the end, and the answers' tokens.

    Args:
        model: The model.
        encoded: The examples.
        answers: Position of an example, and the token ids of an answer to it.
        pad_id: Token id of padding.

    Returns:
        The model's inputs, and where a position predicts an answer's token that token, else −1; (answers, seq).
    """
    device = input_device(model)
    prompts = [encoded[owner].prompt_ids for owner, _ in answers]
    read = [(*prompt, *ids[:-1]) for prompt, (_, ids) in zip(prompts, answers, strict=True)]
    wanted = [(-1,) * (len(prompt) - 1) + tuple(ids) for prompt, (_, ids) in zip(prompts, answers, strict=True)]
    inputs = {"input_ids": pad_right(read, pad_id), "attention_mask": pad_right([(1,) * len(row) for row in read], 0)}
    return {name: value.to(device) for name, value in inputs.items()}, pad_right(wanted, -1).to(device)


def _score_continuations(
    model: Any,
    mask: Tensor,
    ends: Tensor | None,
    cache: Any,
    pairs: Sequence[_Pair],
    pad_id: int,
    rows: Rows | None,
) -> Tensor:
    """Return the log-probability of each choice's tokens after the first, shape (pairs,).

    `ends` are the positions of the prompts' last tokens, (batch, 1), where the base is given positions.
    """
    owners = _owners(pairs, mask.device)
    given = pad_right([pair.ids[:-1] for pair in pairs], pad_id).to(mask.device)  # pairs steps
    wanted = pad_right([pair.ids[1:] for pair in pairs], -1).to(mask.device)
    steps = given.shape[1]
    if steps == 0:  # a chunk of choices of one token each
        return torch.zeros(len(pairs), device=mask.device)
    is_token = wanted >= 0
    inputs = {
        "input_ids": given,
        "attention_mask": torch.cat([mask[owners], is_token.to(mask.dtype)], dim=1),
        "use_cache": True,
        **cache_input(model, cache),
        **_rows(rows, owners.tolist()),
    }
    if ends is not None:
        inputs |= known_inputs(model, position_ids=ends[owners] + torch.arange(1, steps + 1, device=mask.device))
    logits, _ = run_at(model, is_token, inputs)
    return _sum_tokens(logits, wanted, is_token)


def _score_seq2seq(
    model: Any,
    encoded: Sequence[Encoded],
    pairs: Sequence[_Pair],
    pad_id: int,
    start_id: int,
    rows: Rows | None,
) -> Tensor:
    """Return the score of every choice of every example, in order, shape (pairs,)."""
    ids, mask = pad_prompts(model, encoded, pad_id, pad_right)
    own = _rows(rows, range(len(encoded)))
    hidden = model.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True, **own).last_hidden_state
    scores = []
    vocabulary = model.get_output_embeddings().weight.shape[0]
    for chunk in _chunks(pairs, vocabulary, hidden.numel() // len(encoded)):
        owners = _owners(chunk, ids.device)
        wanted = pad_right([pair.ids for pair in chunk], -1).to(ids.device)  # pairs steps
        inputs = {
            "encoder_outputs": encoder_output(hidden[owners]),
            "attention_mask": mask[owners],
            "decoder_input_ids": pad_right([(start_id, *pair.ids[:-1]) for pair in chunk], pad_id).to(ids.device),
            "use_cache": False,
            **_rows(rows, owners.tolist()),
        }
        logits, _ = run_at(model, wanted >= 0, inputs)
        scores.append(_sum_tokens(logits, wanted, wanted >= 0))
    return torch.cat(scores)


def _in_place(scores: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the scores of all choices, in order, as (batch, choices) with −inf where an example has fewer."""
    is_choice = torch.arange(max(counts))[None, :] < torch.tensor(counts)[:, None]  # batch choices
    whole = scores.new_full(is_choice.shape, -torch.inf)
    return whole.masked_scatter(is_choice.to(scores.device), scores)


def _owners(pairs: Sequence[_Pair], device: Any) -> Tensor:
    return torch.tensor([pair.owner for pair in pairs], device=device)


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
    device = input_device(model)
    ids = pad([e.prompt_ids for e in encoded], pad_id)
    mask = pad([(1,) * len(e.prompt_ids) for e in encoded], 0)
    return ids.to(device), mask.to(device)


def _rows(rows: Rows | None, owners: Sequence[int]) -> dict[str, Any]:
    """Return the rows of the examples that own some choices, as the model's input."""
    if rows is None:
        return {}
    return {"rows": rows if isinstance(rows, Choice) else [rows[owner] for owner in owners]}


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _copied_cache(cache: Any, owners: Tensor, *, is_last: bool) -> Any:
    """Return the prompts' cache once for each choice; the last chunk may take the cache itself."""
    if not is_last:
        cache = copy.deepcopy(cache)
    return selected(cache, owners)


def _count_numbers(cache: Any) -> int:
    """Return how many numbers a cache holds, in whatever states its layers have."""
    states = [value for layer in cache.layers for value in vars(layer).values()]
    states += [value for state in states if isinstance(state, dict) for value in state.values()]
    return sum(state.numel() for state in states if isinstance(state, Tensor))


def _chunks(pairs: Sequence[_Pair], vocabulary: int, copied: int) -> list[Sequence[_Pair]]:
    """Cut the choices so that the logits of one chunk, and what is copied for each of its choices, stay within bounds.

    Args:
        pairs: Every choice of every example.
        vocabulary: Number of logits at each position.
        copied: Numbers that are copied for each of them.
    """
    longest = max(len(pair.ids) for pair in pairs)
    size = max(1, min(MOST_LOGITS // (longest * vocabulary), MOST_COPIED // max(1, copied)))
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]
