"""The log-probability of every token of every choice, with gradients: what the few-shot losses are made of.

The prompt (or the encoder) is run once for each example and its choices share it: a causal base's choices go on from
the prompt's cached keys and values, which keep their graph (where they cannot, the prompt is read again before each);
a seq2seq base's decoder reads the one encoder output. Choices go through the base in chunks; where there is more than
one, a chunk's activations are not kept but computed again in the backward pass, so that memory does not grow with the
number of choices, and the numbers stay the same. This file knows token ids and models; what the losses are is `t_few`'s
matter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop
from transformers import DynamicCache

from ia3.core.fast.acceleration import acceleration_of
from ia3.core.fast.frozen_head import head_logprobs
from ia3.core.strengths import Choice
from ia3.data.batches import pad_left, pad_right
from ia3.data.encoding import Encoded
from ia3.inference.logits import cache_input, encoder_output, known_inputs, logits_at
from ia3.inference.scoring import Rows, pad_prompts, whole_inputs
from ia3.inference.shortcuts import selected, shortcuts_of
from ia3.names import Kind

_NONE = -1  # in place of a token where there is none


@dataclass(frozen=True)
class ChoiceLogprobs:
    """The log-probabilities of a batch's choices, token by token."""

    values: Tensor  # (batch, choices, tokens), fp32 or float64; 0 where there is no token
    is_token: Tensor  # (batch, choices, tokens), bool; an example with fewer choices has some without a token


@dataclass(frozen=True)
class _Pair:
    """One choice of one example."""

    owner: int  # position of the example in the batch
    ids: tuple[int, ...]


def choice_logprobs(
    model: Any,
    kind: Kind,
    encoded: Sequence[Encoded],
    *,
    pad_id: int,
    decoder_start_id: int | None,
    rows: Rows,
    token_budget: int,
) -> ChoiceLogprobs:
    """Return the log-probability of every token of every example's choices, differentiable in what is trained.

    Args:
        model: The base with a bank.
        kind: `causal` or `seq2seq`.
        encoded: The examples; each brings its choices, of any number and length.
        pad_id: Token id of padding.
        decoder_start_id: First decoder token; seq2seq only.
        rows: Row of each example, or one for all.
        token_budget: Most tokens of choices, with the prompts that they go on from, that are worked on at once.
    """
    pairs = [_Pair(owner, ids) for owner, example in enumerate(encoded) for ids in example.choices]
    if kind == "seq2seq":
        assert decoder_start_id is not None  # without one no batch could have been made
        flat = _seq2seq(model, encoded, pairs, pad_id, decoder_start_id, rows, token_budget)
        return _in_place(encoded, flat, None)
    shortcuts = shortcuts_of(model, kind, pad_id=pad_id)
    if not (shortcuts.pads and shortcuts.continues and shortcuts.keeps_graph):
        return _in_place(encoded, _whole(model, encoded, pairs, pad_id, rows, token_budget), None)
    first, flat = _causal(model, encoded, pairs, pad_id, rows, token_budget, shortcuts.has_positions)
    return _in_place(encoded, flat, first)


def _in_place(encoded: Sequence[Encoded], flat: Tensor, first: Tensor | None) -> ChoiceLogprobs:
    """Put the values of all tokens, in order, at their places; `first` are those of the first tokens, if apart."""
    choices, tokens = (max(numbers) for numbers in zip(*map(_size, encoded), strict=True))
    is_token = torch.zeros(len(encoded), choices, tokens, dtype=torch.bool)
    for place, example in enumerate(encoded):
        for number, ids in enumerate(example.choices):
            is_token[place, number, : len(ids)] = True
    is_token = is_token.to(flat.device)
    if first is None:
        return ChoiceLogprobs(flat.new_zeros(is_token.shape).masked_scatter(is_token, flat), is_token)
    is_later = is_token[:, :, 1:]
    later = flat.new_zeros(is_later.shape).masked_scatter(is_later, flat)
    begin = torch.where(is_token[:, :, 0], first, 0.0)
    return ChoiceLogprobs(torch.cat([begin.unsqueeze(-1), later], dim=-1), is_token)


def _size(example: Encoded) -> tuple[int, int]:
    return len(example.choices), max(map(len, example.choices))


def _whole(
    model: Any, encoded: Sequence[Encoded], pairs: Sequence[_Pair], pad_id: int, rows: Rows, token_budget: int
) -> Tensor:
    """Return the values of all tokens in order; every choice is read with its prompt."""
    longest = max(len(encoded[pair.owner].prompt_ids) + len(pair.ids) for pair in pairs)

    def run(chunk: Sequence[_Pair]) -> Tensor:
        inputs, wanted = whole_inputs(model, encoded, [(pair.owner, pair.ids) for pair in chunk], pad_id)
        passed = {**inputs, "use_cache": False, "rows": _rows_of(rows, chunk)}
        return _token_logprobs(model, wanted >= 0, passed, wanted[wanted >= 0].unsqueeze(1)).squeeze(1)

    return _in_chunks(run, pairs, longest, token_budget)


def _causal(
    model: Any,
    encoded: Sequence[Encoded],
    pairs: Sequence[_Pair],
    pad_id: int,
    rows: Rows,
    token_budget: int,
    has_positions: bool,
) -> tuple[Tensor, Tensor]:
    """Return the first tokens' values, shape (batch, choices), and those of all later tokens in order."""
    ids, mask = pad_prompts(model, encoded, pad_id, pad_left)
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)
    last = torch.zeros_like(mask, dtype=torch.bool)
    last[:, -1] = True
    cache = DynamicCache(config=model.config)
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": True, "rows": rows}
    inputs |= cache_input(model, cache) | (known_inputs(model, position_ids=places) if has_positions else {})
    firsts = pad_right([[choice[0] for choice in example.choices] for example in encoded], 0).to(ids.device)
    first = _token_logprobs(model, last, inputs, firsts)
    longest = max(len(pair.ids) for pair in pairs)
    if longest == 1:
        return first, first.new_zeros(0)
    run = partial(_continue, model, cache, mask, places[:, -1] if has_positions else None, pad_id, rows)
    return first, _in_chunks(run, pairs, ids.shape[1] + longest, token_budget)


def _continue(
    model: Any, cache: Any, mask: Tensor, ends: Tensor | None, pad_id: int, rows: Rows, pairs: Sequence[_Pair]
) -> Tensor:
    """Return the values of the tokens of some choices after the first, from their prompts' cache.

    `ends` are the positions of the prompts' last tokens, (batch,), where the base is given positions.
    """
    device = mask.device
    given = pad_right([pair.ids[:-1] for pair in pairs], pad_id).to(device)  # pairs steps
    wanted = pad_right([pair.ids[1:] for pair in pairs], _NONE).to(device)
    if not given.shape[1]:  # choices of one token each
        return torch.zeros(0, device=device)
    owners = torch.tensor([pair.owner for pair in pairs], device=device)
    is_token = wanted >= 0
    inputs = {
        "input_ids": given,
        "attention_mask": torch.cat([mask[owners], is_token.to(mask.dtype)], dim=1),
        **cache_input(model, _chosen_cache(cache, owners)),
        "use_cache": True,
        "rows": _rows_of(rows, pairs),
    }
    if ends is not None:
        behind = torch.arange(1, given.shape[1] + 1, device=device)
        inputs |= known_inputs(model, position_ids=ends[owners].unsqueeze(1) + behind)
    return _token_logprobs(model, is_token, inputs, wanted[is_token].unsqueeze(1)).squeeze(1)


def _seq2seq(
    model: Any,
    encoded: Sequence[Encoded],
    pairs: Sequence[_Pair],
    pad_id: int,
    start_id: int,
    rows: Rows,
    token_budget: int,
) -> Tensor:
    """Return the values of all tokens in order."""
    ids, mask = pad_prompts(model, encoded, pad_id, pad_right)
    hidden = model.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True, rows=rows).last_hidden_state
    run = partial(_decode, model, hidden, mask, pad_id, start_id, rows)
    return _in_chunks(run, pairs, ids.shape[1] + max(len(pair.ids) for pair in pairs), token_budget)


def _decode(
    model: Any, hidden: Tensor, mask: Tensor, pad_id: int, start_id: int, rows: Rows, pairs: Sequence[_Pair]
) -> Tensor:
    """Return the values of the tokens of some choices, from their examples' encoder output."""
    owners = torch.tensor([pair.owner for pair in pairs], device=mask.device)
    wanted = pad_right([pair.ids for pair in pairs], _NONE).to(mask.device)
    inputs = {
        "encoder_outputs": encoder_output(hidden.index_select(0, owners)),
        "attention_mask": mask[owners],
        "decoder_input_ids": pad_right([(start_id, *pair.ids[:-1]) for pair in pairs], pad_id).to(mask.device),
        "use_cache": False,
        "rows": _rows_of(rows, pairs),
    }
    return _token_logprobs(model, wanted >= 0, inputs, wanted[wanted >= 0].unsqueeze(1)).squeeze(1)


def _in_chunks(
    run: Callable[[Sequence[_Pair]], Tensor], pairs: Sequence[_Pair], tokens: int, token_budget: int
) -> Tensor:
    """Run the choices in chunks within the budget and return their values in order.

    Args:
        run: Gives the values of some choices.
        pairs: All choices.
        tokens: Most tokens that a choice and what it goes on from have.
        token_budget: Most tokens of a chunk; a chunk has at least one choice.
    """
    size = max(1, token_budget // tokens)
    if len(pairs) <= size:
        return run(pairs)
    found = []
    for start in range(0, len(pairs), size):
        # stopping early would leave the model's forward by an exception in the middle
        with set_checkpoint_early_stop(False):
            found.append(checkpoint(run, pairs[start : start + size], use_reentrant=False))
    return torch.cat(found)


def _token_logprobs(model: Any, positions: Tensor, inputs: dict[str, Any], targets: Tensor) -> Tensor:
    """Return the log-probabilities of some tokens at each wanted position, shape of `targets`."""
    acceleration = acceleration_of(model)
    if acceleration is not None and acceleration.has_head:
        head = model.get_output_embeddings()
        return head_logprobs(acceleration.hidden_at(positions, inputs), head.weight, head.bias, targets)
    logits = logits_at(model, positions, inputs)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.gather(1, targets) - wide.logsumexp(dim=1, keepdim=True)


def _chosen_cache(cache: Any, owners: Tensor) -> Any:
    """Return the prompts' cache with a copy for each choice; the given one stays, its tensors keep their graph."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    return selected(chosen, owners)


def _rows_of(rows: Rows, pairs: Sequence[_Pair]) -> Rows:
    return rows if isinstance(rows, Choice) else [rows[pair.owner] for pair in pairs]
