"""Prompts as a model reads them: padded at their beginning, encoded, or whole with an answer behind each.

This file knows token ids and models; what is read behind the prompts is the matter of `scoring` and `generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ia3.core.weights import input_device
from ia3.data.batches import pad_left, pad_right
from ia3.data.encoding import Encoded
from ia3.inference.logits import known_inputs


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


def causal_prompts(model: Any, encoded: Sequence[Encoded], pad_id: int, has_positions: bool) -> dict[str, Tensor]:
    """Return the inputs of a causal model for prompts padded at their beginning, so that tokens may follow all of them.

    Args:
        model: The model.
        encoded: The examples.
        pad_id: Token id of padding.
        has_positions: Whether positions are given, to a model that takes them.
    """
    ids, mask = pad_prompts(model, encoded, pad_id, pad_left)
    inputs = {"input_ids": ids, "attention_mask": mask}
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return inputs | (known_inputs(model, position_ids=positions) if has_positions else {})


def encoder_states(model: Any, encoded: Sequence[Encoded], pad_id: int, rows: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the encoder's output for prompts, shape (batch, seq, width), and their mask, shape (batch, seq)."""
    ids, mask = pad_prompts(model, encoded, pad_id, pad_right)
    output = model.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True, **rows)
    return output.last_hidden_state, mask


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
