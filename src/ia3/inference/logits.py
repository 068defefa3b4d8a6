"""Logits only where they are wanted.

The output head of a small language model can cost more than all its blocks. A hook on the head hands it the wanted
positions alone; whatever the model does to its logits afterwards (a soft cap, a bias) it does to those. A head that is
given anything else than one activation for each token computes them all. This file knows models and positions; it knows
nothing of prompts, choices or losses.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import MoEModelOutput

from ia3.errors import BaseError
from ia3.fast.last_block import only_at


def logits_at(model: Any, positions: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """Run the model and return its logits at some positions.

    Args:
        model: A causal or seq2seq language model.
        positions: Where logits are wanted, bool, shape (batch, seq) of the decoder's side.
        inputs: What the model is called with; no labels.

    Returns:
        Shape (wanted, vocabulary), in the order of `positions` read row by row; the model's dtype.
    """
    return run_at(model, positions, inputs)[0]


def run_at(model: Any, positions: Tensor, inputs: Mapping[str, Any]) -> tuple[Tensor, Any]:
    """Run the model and return its logits at some positions, and its whole output (for the cache).

    Raises:
        BaseError: If the model has no output head, or gives something else than a row of the vocabulary for a token.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise BaseError(f"Computing logits: {type(model).__name__} has no output head, expected a language model.")

    unknown = {"use_cache"} - known_inputs(model, use_cache=None).keys()  # a model that has no cache
    thread = threading.get_ident()
    picked: list[int] = []

    def pick(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if threading.get_ident() != thread:  # another thread's pass through the same head has its own positions
            return None
        if not args or args[0].shape[:-1] != positions.shape:  # ProphetNet's head sees several streams
            return None
        picked.append(1)
        return (args[0][positions].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(pick)
    try:
        with only_at(positions):
            output = model(**{name: value for name, value in inputs.items() if name not in unknown})
    finally:
        handle.remove()
    return _at(model, output.logits, positions, is_picked=bool(picked)), output


def _at(model: Any, logits: Tensor, positions: Tensor, *, is_picked: bool) -> Tensor:
    """Return the logits of the wanted positions, whether the head has seen those alone or every one."""
    count = int(positions.sum())
    if is_picked and logits.shape[:-1] == (1, count):
        return logits[0]
    if not is_picked and logits.shape[:-1] == positions.shape:
        return logits[positions]
    raise BaseError(
        f"Computing logits: those of {type(model).__name__} have shape {tuple(logits.shape)} for {count} of "
        f"{tuple(positions.shape)} tokens, expected a row of the vocabulary for each token."
    )


def class_logits(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Run a classifier and return its logits, shape (batch, choices), in the model's dtype.

    Args:
        model: An encoder with a head; one whose last block is accelerated reads its first position alone.
        inputs: What the model is called with.
    """
    first = torch.zeros(inputs["input_ids"].shape[:2], dtype=torch.bool, device=inputs["input_ids"].device)
    first[:, 0] = True
    with only_at(first):
        return model(**inputs).logits


def encoder_output(hidden: Tensor) -> MoEModelOutput:
    """Return an encoder's output for a decoder, from its last hidden state, shape (batch, seq, width).

    A decoder of a mixture of experts asks for the routers' logits as well, also where nobody reads them (transformers
    5.24); other decoders do not look at more than the state.
    """
    return MoEModelOutput(last_hidden_state=hidden)


def known_inputs(model: Any, **inputs: Any) -> dict[str, Any]:
    """Keep the inputs that the model's forward has; the others (BLOOM's positions) it reads from the mask."""
    known = inspect.signature(model.forward).parameters
    return {name: value for name, value in inputs.items() if name in known}


def cache_input(model: Any, cache: Any) -> dict[str, Any]:
    """Name a cache as the model's forward does: `cache` since transformers 5.24, `past_key_values` before."""
    known = inspect.signature(model.forward).parameters
    return {"cache" if "cache" in known else "past_key_values": cache}


def cache_of(output: Any) -> Any:
    """Return a model output's cache (None without one) under whichever of its two names this transformers has."""
    return output.get("cache", output.get("past_key_values"))
