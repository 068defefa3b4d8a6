"""Prompts as a model reads them: padded at their beginning, encoded, or whole with an answer behind each.

This file knows token ids and models; what is read behind the prompts is the matter of `scoring` and `generate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from ia3.core.weights import input_device
from ia3.data.batches import pad_left, pad_right
from ia3.data.encoding import Encoded
from ia3.inference.logits import known_inputs
from ia3.names import Kind


class TokenModel(Protocol):
    """A model and what its batches are made with: a base, or the task of a run."""

    @property
    def model(self) -> Any:
        """The model, perhaps with a bank."""

    @property
    def kind(self) -> Kind:
        """What it is used as."""

    @property
    def pad_id(self) -> int:
        """Token id of padding."""

    @property
    def decoder_start_id(self) -> int | None:
        """First decoder token; None for bases without one."""


def pad_prompts(base: TokenModel, encoded: Sequence[Encoded], pad: Any) -> tuple[Tensor, Tensor]:
    """Return the prompts' ids and mask on the model's device, both of shape (batch, seq).

    Args:
        base: The model.
        encoded: The examples.
        pad: `pad_left` or `pad_right`.
    """
    device = input_device(base.model)
    ids = pad([e.prompt_ids for e in encoded], base.pad_id)
    mask = pad([(1,) * len(e.prompt_ids) for e in encoded], 0)
    return ids.to(device), mask.to(device)


def causal_prompts(base: TokenModel, encoded: Sequence[Encoded], has_positions: bool) -> dict[str, Tensor]:
    """Return the inputs of a causal model for prompts padded at their beginning, so that tokens may follow all of them.

    Args:
        base: The model.
        encoded: The examples.
        has_positions: Whether positions are given, to a model that takes them.
    """
    ids, mask = pad_prompts(base, encoded, pad_left)
    inputs = {"input_ids": ids, "attention_mask": mask}
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return inputs | (known_inputs(base.model, position_ids=positions) if has_positions else {})


def encoder_states(base: TokenModel, encoded: Sequence[Encoded], rows: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the encoder's output for prompts, shape (batch, seq, width), and their mask, shape (batch, seq)."""
    ids, mask = pad_prompts(base, encoded, pad_right)
    output = base.model.get_encoder()(input_ids=ids, attention_mask=mask, return_dict=True, **rows)
    return output.last_hidden_state, mask


def whole_inputs(
    base: TokenModel, encoded: Sequence[Encoded], answers: Sequence[tuple[int, Sequence[int]]]
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the ids and mask of prompts with an answer behind each, padded at the end, and the answers' tokens.

    Args:
        base: The model.
        encoded: The examples.
        answers: Position of an example, and the token ids of an answer to it.

    Returns:
        The model's inputs, and where a position predicts an answer's token that token, else −1; (answers, seq).
    """
    device = input_device(base.model)
    prompts = [encoded[owner].prompt_ids for owner, _ in answers]
    read = [(*prompt, *ids[:-1]) for prompt, (_, ids) in zip(prompts, answers, strict=True)]
    wanted = [(-1,) * (len(prompt) - 1) + tuple(ids) for prompt, (_, ids) in zip(prompts, answers, strict=True)]
    inputs = {
        "input_ids": pad_right(read, base.pad_id),
        "attention_mask": pad_right([(1,) * len(row) for row in read], 0),
    }
    return {name: value.to(device) for name, value in inputs.items()}, pad_right(wanted, -1).to(device)
