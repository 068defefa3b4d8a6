"""What a language model's passes may leave out, tried once beside whole passes.

Scoring and generating pad prompts at their beginning, let the choices of a prompt go on from its cache, and add one
token after another. Most bases compute the same then. Some count positions otherwise (RoBERTa), cannot go on from
their cache (RecurrentGemma), or have states in it that are written over (LFM2, in training). So every shortcut is tried
on a few tokens, and not taken where it changes the numbers. Where even a batch that is padded at its end changes them,
or what stands behind a token does, there is no right number, and the base is refused. This file knows models and their
caches; it knows nothing of texts and choices.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ia3.bases.int8 import Int8Linear
from ia3.core.attach import attachment_of
from ia3.core.modes import evaluating
from ia3.core.weights import input_device
from ia3.data.batches import pad_left, pad_right
from ia3.errors import BankError, BaseError
from ia3.fast.trial import EXACT
from ia3.inference.logits import cache_input, cache_of, known_inputs
from ia3.inference.prompts import TokenModel

# Of a shortcut's logits, and of those that a base is refused for, relative to the largest: in fp32 and float64, and in
# half precision and int8, where a batch differs from each alone.
_TOLERANCE = (1e-4, 5e-2)
_REFUSED = (1e-3, 0.2)
# Tokens that are tried: of a prompt, of what follows it, and of a longer prompt beside it.
_PROMPT, _ANSWER, _LONGER = 3, 3, 6


@dataclass(frozen=True)
class Shortcuts:
    """What the passes of one causal base may do.

    Attributes:
        pads: Whether prompts of different lengths may be padded at their beginning.
        has_positions: Whether the positions are then given; else the base reads them from the mask.
        continues: Whether several tokens may follow a cache at once.
        steps: Whether tokens may follow it one at a time.
        keeps_graph: Whether the cache has keys and values alone, whose graph stays when a choice goes on from them.
    """

    pads: bool = False
    has_positions: bool = False
    continues: bool = False
    steps: bool = False
    keeps_graph: bool = False


_FOUND: WeakKeyDictionary[Any, Shortcuts] = WeakKeyDictionary()


def shortcuts_of(base: TokenModel) -> Shortcuts:
    """Return what the passes of a language model may leave out; of one that is not causal nothing.

    Raises:
        BaseError: If its logits depend on what stands behind them.
    """
    model = base.model
    if model not in _FOUND:
        with _base_alone(model):
            trial = _Trial(base)
            is_forward = trial.reads_forward_alone() if base.kind == "causal" else trial.decodes_forward_alone()
            if not is_forward:
                raise BaseError(
                    f"Reading with {_name(model)}: its logits for a token change with what stands behind it, or with "
                    "padding there, so no answer has one probability. Use a base that reads from left to right."
                )
            _FOUND[model] = trial.shortcuts() if base.kind == "causal" else Shortcuts()
    return _FOUND[model]


def _name(model: Any) -> str:
    place = getattr(model.config, "_name_or_path", "")
    return f"{place!r} ({type(model).__name__})" if place else type(model).__name__


@contextmanager
def _base_alone(model: Any) -> Iterator[None]:
    """Have passes inside be those of the base, in evaluation and without gradients."""
    with evaluating(model), torch.no_grad():
        try:
            attachment = attachment_of(model)
        except BankError:
            yield
            return
        with attachment.disabled():
            yield


class _Trial:
    """A prompt and an answer, read in every way that is asked for, and their logits from a pass of their own."""

    def __init__(self, base: TokenModel) -> None:
        self.model, self.pad_id, self.start = base.model, base.pad_id, base.decoder_start_id
        self.device = input_device(self.model)
        tokens = _tokens(self.model, self.pad_id)
        self.prompt, self.answer = tokens[:_PROMPT], tokens[_PROMPT : _PROMPT + _ANSWER]
        self.longer = tokens[::-1][:_LONGER]
        self.is_exact = all(p.dtype in EXACT for p in self.model.parameters()) and not any(
            isinstance(module, Int8Linear) for module in self.model.modules()
        )
        self.whole = torch.empty(0)

    # -- bases that are refused ---------------------------------------------------------------------------------------

    def reads_forward_alone(self) -> bool:
        """Whether a causal base gives a token what it gives it without anything behind it."""
        self.whole = self._logits(input_ids=[[*self.prompt, *self.answer]])[0, _PROMPT - 1 :]
        before = self._logits(input_ids=[self.prompt])[0, -1:]
        beside = self._logits(input_ids=[[*self.longer, *self.answer], [*self.prompt, *self.answer]])
        behind = beside[1, _PROMPT - 1 : _PROMPT + _ANSWER]
        return self._is_same(before, self.whole[:1], _REFUSED) and self._is_same(behind, self.whole, _REFUSED)

    def decodes_forward_alone(self) -> bool:
        """Whether the decoder of a seq2seq base does, behind an encoder that reads a padded batch."""
        start = [] if self.start is None else [self.start]
        short, long = [*start, *self.answer], [*start, *self.longer]
        self.whole = self._logits(input_ids=[self.prompt], decoder_input_ids=[short])[0]
        beside = self._logits(input_ids=[self.longer, self.prompt], decoder_input_ids=[long, short])
        return self._is_same(beside[1, : len(short)], self.whole, _REFUSED)

    # -- shortcuts ----------------------------------------------------------------------------------------------------

    def shortcuts(self) -> Shortcuts:
        """Return what gives the logits of the whole pass; the positions are rather given than not."""
        for has_positions in (True, False):
            cache = self._try(partial(self._read_padded, has_positions))
            if cache is None:
                continue
            return Shortcuts(
                pads=True,
                has_positions=has_positions,
                continues=bool(self._try(partial(self._continues, cache, has_positions))),
                steps=bool(self._try(partial(self._steps, cache, has_positions))),
                keeps_graph=_has_keys_alone(cache),
            )
        return Shortcuts()

    def _try(self, attempt: Callable[[], Any]) -> Any:
        """Return what an attempt gives, or None where the model cannot do it."""
        try:
            return attempt()
        except Exception:  # whatever the code of a model raises that was not made for it
            return None

    def _read_padded(self, has_positions: bool) -> Any:
        """Return the cache of both prompts, padded at their beginning; None where the shorter one's logits differ."""
        mask = pad_left([[1] * len(self.longer), [1] * len(self.prompt)], 0).to(self.device)
        inputs = {"input_ids": pad_left([self.longer, self.prompt], self.pad_id).to(self.device)}
        output = self._pass(inputs, mask, (mask.cumsum(dim=1) - 1).clamp(min=0) if has_positions else None)
        if not self._is_same(output.logits[1, -1:], self.whole[:1]):
            return None
        cache = cache_of(output)
        return () if cache is None else cache  # with nothing to go on from

    def _continues(self, cache: Any, has_positions: bool) -> bool:
        """Whether the answer may follow twice at once, beside another."""
        owners = [1, 0, 1]
        cache = copied(cache, torch.tensor(owners, device=self.device))
        given = [self.answer, self.longer[:_ANSWER], self.answer]
        logits = self._following(cache, given, owners, _ANSWER, has_positions).logits
        return self._is_same(logits[0], self.whole[1:]) and self._is_same(logits[2], self.whole[1:])

    def _steps(self, cache: Any, has_positions: bool) -> bool:
        """Whether its first two tokens may follow one after the other."""
        cache = copied(cache, torch.tensor([1], device=self.device))
        for number, token in enumerate(self.answer[:2], start=1):
            output = self._following(cache, [[token]], [1], number, has_positions)
            if not self._is_same(output.logits[0], self.whole[number : number + 1]):
                return False
            cache = cache_of(output)
        return True

    def _following(
        self, cache: Any, given: Sequence[Sequence[int]], owners: Sequence[int], behind: int, has_positions: bool
    ) -> Any:
        """Run tokens behind a cache of the prompts of some owners; with them so many tokens stand behind the prompt."""
        lengths = [(_LONGER, _PROMPT)[owner] for owner in owners]
        mask = pad_left([[1] * (length + behind) for length in (*lengths, _LONGER)], 0)[:-1].to(self.device)
        ids = torch.tensor(given, device=self.device)
        positions = (mask.cumsum(dim=1) - 1)[:, -ids.shape[1] :] if has_positions else None
        return self._pass({"input_ids": ids, **cache_input(self.model, cache)}, mask, positions)

    # -- passes -------------------------------------------------------------------------------------------------------

    def _logits(self, **ids: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits of a pass without a cache, padded at the end."""
        inputs = {name: pad_right(rows, self.pad_id).to(self.device) for name, rows in ids.items()}
        mask = pad_right([[1] * len(row) for row in ids["input_ids"]], 0).to(self.device)
        known = known_inputs(self.model, use_cache=False)
        logits: Tensor = self.model(**inputs, **known, attention_mask=mask).logits
        return logits

    def _pass(self, inputs: dict[str, Any], mask: Tensor, positions: Tensor | None) -> Any:
        known = {} if positions is None else known_inputs(self.model, position_ids=positions)
        return self.model(**inputs, **known, attention_mask=mask, use_cache=True)

    def _is_same(self, found: Tensor, wanted: Tensor, tolerances: tuple[float, float] = _TOLERANCE) -> bool:
        if found.shape != wanted.shape:
            return False
        if tolerances == _REFUSED and not wanted.isfinite().all():  # a base that overflows is told by its scores
            return True
        difference = (found - wanted).abs().amax()
        return bool(difference <= tolerances[0 if self.is_exact else 1] * wanted.abs().amax())


def selected(cache: Any, owners: Tensor) -> Any:
    """Return a prompts' cache with the entries of some of them, in order; the cache itself is changed.

    States that a cache has beside keys and values can be put in another order, not selected (transformers 5.24): the
    same thing.
    """
    cache.reorder_cache(owners)
    return cache


def copied(cache: Any, owners: Tensor) -> Any:
    """Return a prompts' cache with the entries of some of them, in order; the cache itself stays as it is."""
    if not _has_keys_alone(cache):
        return selected(copy.deepcopy(cache), owners)
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]  # whose tensors are put in place of, not written over
    return selected(chosen, owners)


def _has_keys_alone(cache: Any) -> bool:
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in getattr(cache, "layers", [cache]))


def _tokens(model: Any, pad_id: int) -> list[int]:
    """Return tokens to try a base on: different ones and none of the special ones, if it has as many."""
    text = model.config.get_text_config()
    special: set[Any] = {pad_id, getattr(model.get_input_embeddings(), "padding_idx", None)}
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
        value = getattr(text, name, None)
        special |= set(value) if isinstance(value, list | tuple) else {value}
    count, middle = max(_PROMPT + _ANSWER, _LONGER), text.vocab_size // 2  # special ones mostly stand first
    usual = [token for token in range(middle, min(text.vocab_size, middle + count + 16)) if token not in special]
    return [(usual or [0])[i % max(1, len(usual))] for i in range(count)]
