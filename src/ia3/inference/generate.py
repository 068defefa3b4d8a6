"""Greedy generation: the most probable next token, until the end token or a limit.

Transformers' own `generate` mixes in whatever the base's generation config says (BART's forced first token, beams,
penalties), which an adapter was not trained with; this loop does nothing but take the largest logit. Finished rows
leave the batch. A base that cannot go on from its cache reads everything again for each token. This file knows token
ids and models; it knows nothing of templates or tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ia3.core.attach import attachment_of, still
from ia3.core.modes import evaluating
from ia3.core.strengths import AdapterRef, AdapterRefs, at_strength, split_strengths
from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.inference.asking import TOKEN_BUDGET, Progress, batches_of
from ia3.inference.logits import cache_input, cache_of, encoder_output, run_at
from ia3.inference.prompts import TokenModel, causal_prompts, encoder_states, whole_inputs
from ia3.inference.scoring import rows_of
from ia3.inference.shortcuts import selected, shortcuts_of

Tokens = tuple[int, ...]


@torch.inference_mode()
def generate_tokens(
    base: TokenModel,
    encoded: Sequence[Encoded],
    *,
    max_new_tokens: int,
    end_id: int,
    adapter: AdapterRefs | None = None,
    token_budget: int = TOKEN_BUDGET,
    on_progress: Progress | None = None,
) -> list[Tokens]:
    """Return what the base answers to each prompt.

    Args:
        base: A causal or seq2seq base, perhaps with a bank.
        encoded: The prompts; targets are not read.
        max_new_tokens: Most tokens of an answer, the end token included.
        end_id: Token that ends an answer.
        adapter: Name or row of the adapter, or one for each prompt; None uses the active one.
        token_budget: Most tokens of a batch, padding and answers included.
        on_progress: Told the number of rows done, and of all rows.

    Returns:
        Token ids of each answer in the order of the prompts, without the end token.

    Raises:
        SettingsError: For an encoder, a limit below one, or a seq2seq base without a first decoder token.
        BaseError: If the base's logits depend on what stands behind them.
    """
    model, start_id = base.model, base.decoder_start_id
    if base.kind == "encoder":
        raise SettingsError("Generating: the base is an encoder, which has no words to answer with. Use classify.")
    if max_new_tokens < 1:
        raise SettingsError(f"Generating: max_new_tokens is {max_new_tokens}, expected at least 1.")
    if base.kind == "seq2seq" and start_id is None:
        raise SettingsError("Generating: the base names no decoder_start_token_id, expected one in its config.")
    shortcuts = shortcuts_of(base)
    answers: dict[int, Tokens] = {}
    with evaluating(model):
        lengths = [len(e.prompt_ids) + max_new_tokens for e in encoded]
        # each new token is a pass of its own: as few batches as the budget allows
        for part in batches_of(model, lengths, token_budget, on_progress, token_budget):
            with still(model):  # an adapter that is replaced meanwhile answers to the end as it began
                rows = {} if adapter is None else {"rows": _rows_of(model, adapter, part)}
                batch = [encoded[i] for i in part]
                if base.kind == "seq2seq":
                    assert start_id is not None
                    hidden, mask = encoder_states(base, batch, rows)
                    start = torch.full((len(batch), 1), start_id, device=mask.device)
                    inputs = {"encoder_outputs": hidden, "attention_mask": mask, "decoder_input_ids": start}
                elif shortcuts.pads and shortcuts.steps:
                    inputs = causal_prompts(base, batch, shortcuts.has_positions)
                else:
                    inputs = {}
                if inputs:
                    found = _run_greedily(model, inputs | rows, max_new_tokens, end_id)
                else:
                    found = _run_whole(base, batch, rows, max_new_tokens, end_id)
                answers |= zip(part, found, strict=True)
    return [answers[i] for i in range(len(encoded))]


def _rows_of(model: Any, adapter: AdapterRefs, part: Sequence[int]) -> Any:
    """Return the row of all prompts of a batch, or a list of one for each, which is cut as prompts are finished."""
    own = rows_of(adapter, part)
    if isinstance(own, AdapterRef):
        return own
    bank = attachment_of(model).bank
    adapters, strengths = split_strengths(own)
    rows: list[AdapterRef] = [bank.row(name) for name in adapters]
    return rows if strengths is None else list(map(at_strength, rows, strengths))


def _run_greedily(model: Any, inputs: dict[str, Any], max_new_tokens: int, end_id: int) -> list[Tokens]:
    """Return the answers of one batch, without the end token."""
    tokens_in = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
    answers: list[list[int]] = [[] for _ in range(inputs[tokens_in].shape[0])]
    alive = list(range(len(answers)))
    for _ in range(max_new_tokens):
        last = torch.zeros_like(inputs[tokens_in], dtype=torch.bool)
        last[:, -1] = True
        logits, output = run_at(model, last, _as_model_inputs(inputs))
        chosen = logits.argmax(dim=-1)  # (alive,)
        goes_on = (chosen != end_id).nonzero().squeeze(1)
        for row, token in zip(alive, chosen.tolist(), strict=True):
            if token != end_id:
                answers[row].append(token)
        if goes_on.numel() == 0:
            break
        alive = [alive[i] for i in goes_on.tolist()]
        inputs = _next_inputs(model, inputs, cache_of(output), chosen, goes_on, tokens_in)
    return [tuple(answer) for answer in answers]


def _run_whole(
    base: TokenModel, encoded: Sequence[Encoded], rows: dict[str, Any], max_new_tokens: int, end_id: int
) -> list[Tokens]:
    """Return the answers of one batch, without the end token; every token has a pass of its own over all before it."""
    answers: list[list[int]] = [[] for _ in encoded]
    alive = list(range(len(encoded)))
    for _ in range(max_new_tokens):
        # whatever stands in the answer's last place is not read, but predicted
        inputs, wanted = whole_inputs(base, encoded, [(row, (*answers[row], 0)) for row in alive])
        last = (wanted >= 0).cumsum(dim=1) == (wanted >= 0).sum(dim=1, keepdim=True)
        own = {name: _cut(value, torch.tensor(alive), alive) for name, value in rows.items()}
        logits, _ = run_at(base.model, last & (wanted >= 0), {**inputs, "use_cache": False, **own})
        chosen = logits.argmax(dim=-1).tolist()
        for row, token in zip(alive, chosen, strict=True):
            if token != end_id:
                answers[row].append(token)
        alive = [row for row, token in zip(alive, chosen, strict=True) if token != end_id]
        if not alive:
            break
    return [tuple(answer) for answer in answers]


def _cut(value: Any, goes_on: Tensor, kept: Sequence[int]) -> Any:
    """Return what belongs to the rows that go on."""
    if isinstance(value, list):
        return [value[place] for place in kept]
    return value[goes_on] if isinstance(value, Tensor) else value


def _as_model_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    named = {**inputs, "use_cache": True}
    if "encoder_outputs" in named:
        named["encoder_outputs"] = encoder_output(named["encoder_outputs"])
    return named


def _next_inputs(
    model: Any, inputs: dict[str, Any], cache: Any, chosen: Tensor, goes_on: Tensor, tokens_in: str
) -> dict[str, Any]:
    """Return the inputs of the next step, of the rows that go on; `chosen` has shape (alive,)."""
    if goes_on.numel() < chosen.numel():
        selected(cache, goes_on)
        kept = goes_on.tolist()
        inputs = {name: _cut(value, goes_on, kept) for name, value in inputs.items()}
    step = {**inputs, **cache_input(model, cache), tokens_in: chosen[goes_on].unsqueeze(1)}
    if tokens_in == "input_ids":
        mask = inputs["attention_mask"]
        step["attention_mask"] = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
    if "position_ids" in inputs:
        step["position_ids"] = inputs["position_ids"][:, -1:] + 1
    return step
