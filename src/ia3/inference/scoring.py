"""Scoring: the log-probability of every choice of a closed set, exactly, with gradients or without.

The prompt (or the encoder) is run once for each example; the choices share it, where the base can go on from its cache
(`shortcuts`), and else are read whole with their prompt. A choice's score is the sum of its
tokens' log-probabilities, end token included, so choices of different lengths, and choices that begin with another
choice, stand side by side as what they are: different answers. Encoders score with their head. The few-shot losses are
made of the same numbers, token by token, with their graph. This file knows token ids and models; templates and tables
come before it, what the losses are is `training`'s matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from ia3.core.attach import still
from ia3.core.strengths import AdapterRef, AdapterRefs
from ia3.data.batches import pad_right
from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.fast.acceleration import acceleration_of
from ia3.inference.logits import cache_input, cache_of, class_logits, encoder_output, run_at
from ia3.inference.prompts import TokenModel, causal_prompts, encoder_states, pad_prompts, whole_inputs
from ia3.inference.shortcuts import copied, shortcuts_of
from ia3.kernels.frozen_head import head_logprobs

# Choices are scored in chunks that stay below both: numbers of logits (256 MB in fp32), and numbers of the prompts'
# cached keys and values (or the encoder's output), which every choice of a chunk has a copy of.
MOST_LOGITS = 64 * 2**20
MOST_COPIED = 128 * 2**20

_NONE = -1  # in place of a token where there is none


@dataclass(frozen=True)
class ChoiceLogprobs:
    """The log-probabilities of a batch's choices, token by token."""

    values: Tensor  # (batch, choices, tokens), fp32 or float64; 0 where there is no token
    is_token: Tensor  # (batch, choices, tokens), bool; an example with fewer choices has some without a token


@torch.inference_mode()
def score_choices(
    base: TokenModel,
    encoded: Sequence[Encoded],
    choice_ids: Sequence[Sequence[int]] | None,
    rows: AdapterRefs | None = None,
) -> Tensor:
    """Return the log-probability of every choice for every example.

    Args:
        base: The base, perhaps with a bank.
        encoded: The examples; their own targets are not read.
        choice_ids: Token ids of each choice, end token included; None for those that each example brings. Not used
            for encoders.
        rows: Row or name for each example on a model with a bank, or one for all; None uses the active adapter.

    Returns:
        Shape (batch, choices), fp32 (float64 on a float64 base): summed log-probabilities of the choices' tokens, or
        for encoders the log-softmax of the head. Language models' choices need not sum to one. An example with fewer
        choices than another has −inf behind its own.

    Raises:
        SettingsError: If there are no choices, one is empty, or a seq2seq base has no first decoder token.
        BaseError: If the base's logits depend on what stands behind them.
    """
    if base.kind == "encoder":
        return _score_with_head(base, encoded, rows)
    choices = [example.choices for example in encoded] if choice_ids is None else [choice_ids] * len(encoded)
    if not all(own and all(own) for own in choices):
        raise SettingsError("Scoring choices: the label set is empty or a choice has no tokens, expected some of both.")
    if base.kind == "seq2seq" and base.decoder_start_id is None:
        raise SettingsError("Scoring choices: the base names no decoder_start_token_id, expected one in its config.")
    passes = _Passes(base, encoded, _paired(choices), rows)
    with still(base.model):  # an adapter that is replaced meanwhile scores all choices as it began
        first, sums = passes.run()
    is_choice = (_lengths(choices) > 0).to(sums.device)
    scores = sums.new_full(is_choice.shape, -torch.inf).masked_scatter(is_choice, sums)
    return scores if first is None else first + scores


def choice_logprobs(
    base: TokenModel, encoded: Sequence[Encoded], *, rows: AdapterRefs, token_budget: int
) -> ChoiceLogprobs:
    """Return the log-probability of every token of every example's choices, differentiable in what is trained.

    Choices go through the base in chunks; where there is more than one, a chunk's activations are not kept but computed
    again in the backward pass, so that memory does not grow with the number of choices, and the numbers stay the same.

    Args:
        base: The base with a bank, `causal` or `seq2seq`.
        encoded: The examples; each brings its choices, of any number and length.
        rows: Row of each example, or one for all.
        token_budget: Most tokens of choices, with the prompts that they go on from, that are worked on at once.
    """
    choices = [example.choices for example in encoded]
    passes = _Passes(base, encoded, _paired(choices), rows, token_budget)
    first, flat = passes.run()
    lengths = _lengths(choices)
    is_token = (torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)).to(flat.device)  # batch choices tokens
    if first is None:
        return ChoiceLogprobs(flat.new_zeros(is_token.shape).masked_scatter(is_token, flat), is_token)
    is_later = is_token[:, :, 1:]
    later = flat.new_zeros(is_later.shape).masked_scatter(is_later, flat)
    begin = torch.where(is_token[:, :, 0], first, 0.0)
    return ChoiceLogprobs(torch.cat([begin.unsqueeze(-1), later], dim=-1), is_token)


def _score_with_head(base: TokenModel, encoded: Sequence[Encoded], rows: AdapterRefs | None) -> Tensor:
    ids, mask = pad_prompts(base, encoded, pad_right)
    own = rows_input(rows, range(len(encoded)))
    logits = class_logits(base.model, {"input_ids": ids, "attention_mask": mask, **own})
    return _wide(logits).log_softmax(dim=-1)


@dataclass(frozen=True)
class _Pair:
    """One choice of one example."""

    owner: int  # position of the example in the batch
    ids: tuple[int, ...]


def _paired(choices: Sequence[Sequence[Sequence[int]]]) -> list[_Pair]:
    return [_Pair(owner, tuple(ids)) for owner, own in enumerate(choices) for ids in own]


def _lengths(choices: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Return the tokens of each choice, shape (batch, choices); 0 where an example has fewer."""
    return pad_right([[len(ids) for ids in own] for own in choices], 0)


@dataclass(frozen=True)
class _Passes:
    """The passes in which the choices of some examples are read.

    Attributes:
        token_budget: Most tokens of a chunk. Where it is given, what is found has a graph, and is of single tokens;
            without it there is one sum for each choice.
    """

    base: TokenModel
    encoded: Sequence[Encoded]
    pairs: Sequence[_Pair]
    rows: AdapterRefs | None
    token_budget: int | None = None

    @property
    def _has_graph(self) -> bool:
        return self.token_budget is not None

    @property
    def _longest(self) -> int:
        return max(len(pair.ids) for pair in self.pairs)

    def run(self) -> tuple[Tensor | None, Tensor]:
        """Return the first tokens' values, (batch, choices), where they are apart, and those of the others in order."""
        shortcuts = shortcuts_of(self.base)
        if self.base.kind == "seq2seq":
            return None, self._seq2seq()
        is_shared = shortcuts.continues or self._longest == 1
        if shortcuts.pads and is_shared and (shortcuts.keeps_graph or not self._has_graph):
            return self._causal(shortcuts.has_positions)
        return None, self._whole()

    # -- a causal base ------------------------------------------------------------------------------------------------

    def _causal(self, has_positions: bool) -> tuple[Tensor, Tensor]:
        """Return the first tokens' values and those of all later ones; prompts are run once."""
        inputs = causal_prompts(self.base, self.encoded, has_positions)
        mask, places = inputs["attention_mask"], inputs.get("position_ids")
        last = torch.zeros_like(mask, dtype=torch.bool)
        last[:, -1] = True
        firsts: list[list[int]] = [[] for _ in self.encoded]
        for pair in self.pairs:
            firsts[pair.owner].append(pair.ids[0])
        own = {"use_cache": True, **rows_input(self.rows, range(len(mask)))}
        first, output = self._logprobs(last, inputs | own, pad_right(firsts, 0).to(mask.device), is_first=True)
        if self._longest == 1:
            return first, self._found(first.new_zeros(0), torch.zeros(len(self.pairs), 0, dtype=torch.bool))
        cache = cache_of(output)
        run = partial(self._continue, cache, mask, None if places is None else places[:, -1:])
        tokens = mask.shape[1] + self._longest
        return first, self._in_chunks(run, tokens, _count_numbers(cache) // len(self.encoded))

    def _continue(self, cache: Any, mask: Tensor, ends: Tensor | None, pairs: Sequence[_Pair]) -> Tensor:
        """Return what is found of the tokens of some choices after the first, from their prompts' cache.

        `ends` are the positions of the prompts' last tokens, (batch, 1), where the base is given positions.
        """
        owners = _owners(pairs, mask.device)
        given = pad_right([pair.ids[:-1] for pair in pairs], self.base.pad_id).to(mask.device)  # pairs steps
        wanted = pad_right([pair.ids[1:] for pair in pairs], _NONE).to(mask.device)
        steps = given.shape[1]
        if steps == 0:  # a chunk of choices of one token each
            return self._found(torch.zeros(0, device=mask.device), wanted >= 0)
        inputs = {
            "input_ids": given,
            "attention_mask": torch.cat([mask[owners], (wanted >= 0).to(mask.dtype)], dim=1),
            "use_cache": True,
            **cache_input(self.base.model, copied(cache, owners)),
        }
        if ends is not None:
            behind = torch.arange(1, steps + 1, device=mask.device)
            inputs["position_ids"] = ends[owners] + behind
        return self._read(wanted, inputs, pairs)

    def _whole(self) -> Tensor:
        """Return what is found of all choices; each is read with its prompt, as many in a pass as there are prompts."""
        tokens = max(len(self.encoded[pair.owner].prompt_ids) + len(pair.ids) for pair in self.pairs)

        def run(pairs: Sequence[_Pair]) -> Tensor:
            answers = [(pair.owner, pair.ids) for pair in pairs]
            inputs, wanted = whole_inputs(self.base, self.encoded, answers)
            return self._read(wanted, {**inputs, "use_cache": False}, pairs)

        return self._in_chunks(run, tokens, MOST_COPIED // len(self.encoded))

    # -- a seq2seq base -----------------------------------------------------------------------------------------------

    def _seq2seq(self) -> Tensor:
        """Return what is found of all choices; the encoder is run once."""
        own = rows_input(self.rows, range(len(self.encoded)))
        hidden, mask = encoder_states(self.base, self.encoded, own)
        run = partial(self._decode, hidden, mask)
        return self._in_chunks(run, mask.shape[1] + self._longest, hidden.numel() // len(self.encoded))

    def _decode(self, hidden: Tensor, mask: Tensor, pairs: Sequence[_Pair]) -> Tensor:
        """Return what is found of the tokens of some choices, from their examples' encoder output."""
        owners = _owners(pairs, mask.device)
        wanted = pad_right([pair.ids for pair in pairs], _NONE).to(mask.device)  # pairs steps
        start: Any = self.base.decoder_start_id
        given = pad_right([(start, *pair.ids[:-1]) for pair in pairs], self.base.pad_id)
        inputs = {
            "encoder_outputs": encoder_output(hidden.index_select(0, owners)),
            "attention_mask": mask[owners],
            "decoder_input_ids": given.to(mask.device),
            "use_cache": False,
        }
        return self._read(wanted, inputs, pairs)

    # -- any base -----------------------------------------------------------------------------------------------------

    def _in_chunks(self, run: Callable[[Sequence[_Pair]], Tensor], tokens: int, numbers: int) -> Tensor:
        """Run the choices in chunks and return what is found, in order.

        Args:
            run: Gives what is found of some choices.
            tokens: Most tokens that a choice and what it goes on from have.
            numbers: That are copied for each choice.
        """
        size = self._chunk_size(tokens, numbers)
        chunks = [self.pairs[start : start + size] for start in range(0, len(self.pairs), size)]
        if self._has_graph and len(chunks) > 1:
            run = partial(checkpoint, run, use_reentrant=False)
        with set_checkpoint_early_stop(False):  # it would leave the model's forward by an exception in the middle
            return torch.cat([run(chunk) for chunk in chunks])

    def _chunk_size(self, tokens: int, numbers: int) -> int:
        """Return the most choices of a chunk, at least one: with a graph its activations count, else its logits."""
        if self.token_budget is not None:
            return max(1, self.token_budget // tokens)
        vocabulary = self.base.model.get_output_embeddings().weight.shape[0]
        return max(1, min(MOST_LOGITS // (self._longest * vocabulary), MOST_COPIED // max(1, numbers)))

    def _read(self, wanted: Tensor, inputs: dict[str, Any], pairs: Sequence[_Pair]) -> Tensor:
        """Run some choices; `wanted` has the token that a position predicts, or −1, shape (pairs, steps)."""
        is_token = wanted >= 0
        inputs = {**inputs, **rows_input(self.rows, [pair.owner for pair in pairs])}
        values, _ = self._logprobs(is_token, inputs, wanted[is_token].unsqueeze(1))
        return self._found(values.squeeze(1), is_token)

    def _found(self, values: Tensor, is_token: Tensor) -> Tensor:
        """Return the values of the tokens, in order, or with no graph their sum for each choice."""
        if self._has_graph:
            return values
        sums = values.new_zeros(is_token.shape)
        sums[is_token] = values
        return sums.sum(dim=1)

    def _logprobs(
        self, positions: Tensor, inputs: dict[str, Any], tokens: Tensor, *, is_first: bool = False
    ) -> tuple[Tensor, Any]:
        """Return the log-probabilities of tokens at each position, shape of `tokens`, and the model's output."""
        acceleration = acceleration_of(self.base.model)
        if self._has_graph and acceleration is not None and acceleration.has_head:
            head = self.base.model.get_output_embeddings()
            hidden, output = acceleration.hidden_at(positions, inputs)
            return head_logprobs(hidden, head.weight, head.bias, tokens), output
        logits, output = run_at(self.base.model, positions, inputs)
        wide = _wide(logits)
        if is_first and not self._has_graph:  # apart in the last bit; both keep what they have always given
            return wide.log_softmax(dim=1).gather(1, tokens), output
        return wide.gather(1, tokens) - wide.logsumexp(dim=1, keepdim=True), output


def rows_input(rows: AdapterRefs | None, places: Sequence[int]) -> dict[str, Any]:
    """Return the rows of some of the examples as the model's input: their own, or the one of all; None gives none."""
    return {} if rows is None else {"rows": rows_of(rows, places)}


def rows_of(rows: AdapterRefs, places: Sequence[int]) -> AdapterRefs:
    """Return the rows of some of the examples: their own, or the one of all."""
    return rows if isinstance(rows, AdapterRef) else [rows[place] for place in places]


def _owners(pairs: Sequence[_Pair], device: Any) -> Tensor:
    return torch.tensor([pair.owner for pair in pairs], device=device)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _count_numbers(cache: Any) -> int:
    """Return how many numbers a cache holds, in whatever states its layers have."""
    states = [value for layer in cache.layers for value in vars(layer).values()]
    states += [value for state in states if isinstance(state, dict) for value in state.values()]
    return sum(state.numel() for state in states if isinstance(state, Tensor))
