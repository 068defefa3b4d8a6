"""Evaluation of encoded rows: one scoring pass gives the loss of the right answers, the probabilities and the metrics.

Rows go through the model in batches of like length and come back in their own order. This file knows token ids and
models; it knows nothing of tables, templates or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ia3.core.modes import evaluating
from ia3.core.strengths import Choice
from ia3.core.weights import input_device
from ia3.data.batches import IGNORED, PASS_TOKENS, collate, pass_cost, split_by_tokens
from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.inference.logits import logits_at
from ia3.inference.metrics import LossUnit, Metrics, score_loss, score_predictions
from ia3.inference.ranking import count_own_tokens, count_tokens, rank_scores
from ia3.inference.scoring import score_choices
from ia3.inference.temperature import fit_scaling
from ia3.names import Kind, Ranking

Array = npt.NDArray[np.float64]
Adapters = Choice | Sequence[Choice]  # names or rows: one for all, or one for each of the rows given
Progress = Callable[[int, int | None], object]  # told how many rows are done, and of how many (None: not known)

TOKEN_BUDGET = 2048  # tokens of a batch, padding included
_MOST_ROWS = 64  # of a batch: one set of Gemma 3's logits for each row is 1 MB


def evaluate_encoded(
    model: Any,
    kind: Kind,
    encoded: Sequence[Encoded],
    choice_ids: Sequence[Sequence[int]],
    labels: Sequence[str],
    *,
    pad_id: int,
    decoder_start_id: int | None = None,
    adapter: str | int | None = None,
    ranking: Ranking = "sum",
    temperature: float = 1.0,
    token_budget: int = TOKEN_BUDGET,
    on_progress: Progress | None = None,
) -> Metrics:
    """Return the metrics of rows that carry their right answer.

    Args:
        model: The base, perhaps with a bank; left in the mode it is in.
        kind: Kind of the base.
        encoded: The rows.
        choice_ids: Token ids of each label's answer, end token included; empty for encoders and free text.
        labels: The closed label set; empty for free text.
        pad_id: Token id of padding.
        decoder_start_id: First decoder token; seq2seq only.
        adapter: Name or row of the adapter; None uses the active one.
        ranking: What the choices are compared by; the loss is that of their tokens either way.
        temperature: What that is divided by before it becomes probabilities.
        token_budget: Most tokens of a batch, padding included.
        on_progress: Told the number of rows done, and of all rows.

    Returns:
        Loss in nats per target token (encoders: per example); for a label set also accuracy, F1, confusion and
        calibration from the same pass. Free text has a loss and perplexity alone, since nothing is generated.

    Raises:
        SettingsError: If a row has no answer.
        MetricsError: If there are no rows, or a number is NaN.
    """
    part = HeldOut(encoded, choice_ids, labels, adapter, ranking, temperature)
    options: dict[str, Any] = {"pad_id": pad_id, "decoder_start_id": decoder_start_id}
    return evaluate_together(model, kind, [part], token_budget=token_budget, on_progress=on_progress, **options)[0]


@dataclass(frozen=True)
class HeldOut:
    """Rows of one adapter that carry their right answer."""

    encoded: Sequence[Encoded]
    choice_ids: Sequence[Sequence[int]]  # token ids of each label's answer; empty for encoders and free text
    labels: Sequence[str]  # the closed label set; empty for free text
    adapter: Choice | None  # name or row; None is the active one
    ranking: Ranking = "sum"  # what its choices are compared by
    temperature: float = 1.0  # what that is divided by before it becomes probabilities
    is_fitted: bool = False  # whether a temperature is fitted on these rows
    usual: float | None = None  # the temperature that adapters of the same settings usually need, if it is known


def evaluate_together(
    model: Any,
    kind: Kind,
    parts: Sequence[HeldOut],
    *,
    pad_id: int,
    decoder_start_id: int | None = None,
    token_budget: int = TOKEN_BUDGET,
    on_progress: Progress | None = None,
) -> list[Metrics]:
    """Return the metrics of the rows of several adapters, which meet in the same batches where they can.

    Free text meets free text, classifiers meet whatever their labels, and language models score the same choices.

    Args:
        model: The base, perhaps with a bank; left in the mode it is in.
        kind: Kind of the base.
        parts: The rows of each adapter.
        pad_id: Token id of padding.
        decoder_start_id: First decoder token; seq2seq only.
        token_budget: Most tokens of a batch, padding included.
        on_progress: Told the number of rows done, and of all.

    Returns:
        As `evaluate_encoded`, for each part in order.

    Raises:
        SettingsError: If a row has no answer.
        MetricsError: If a part has no rows, or a number is NaN.
    """
    parts_scored = score_together(
        model,
        kind,
        parts,
        pad_id=pad_id,
        decoder_start_id=decoder_start_id,
        token_budget=token_budget,
        on_progress=on_progress,
    )
    return [metrics_of(kind, [part], [scored]) for part, scored in zip(parts, parts_scored, strict=True)]


def score_together(
    model: Any,
    kind: Kind,
    parts: Sequence[HeldOut],
    *,
    token_budget: int = TOKEN_BUDGET,
    on_progress: Progress | None = None,
    **options: Any,
) -> list[Array]:
    """Return what the metrics of several adapters' rows are taken from; see `evaluate_together`.

    Returns:
        For each part in order the scores of its choices, as `score_encoded` gives them, shape (rows, choices), where
        some of the last may belong to other parts; for free text the losses that `target_losses` gives, shape (rows,).
    """
    groups: dict[Any, list[int]] = {}
    for number, part in enumerate(parts):
        require_answers(part.encoded, is_closed=_mode(part) != "text")
        groups.setdefault((_mode(part), tuple(map(tuple, part.choice_ids))), []).append(number)
    found: dict[int, Array] = {}
    done, total = 0, sum(len(part.encoded) for part in parts)
    for (mode, choice_ids), numbers in groups.items():
        inside = [parts[number] for number in numbers]
        encoded = [e for part in inside for e in part.encoded]
        own: dict[str, Any] = {**options, "token_budget": token_budget, "adapter": _adapters_of(inside)}
        own["on_progress"] = counted_on(on_progress, done, total)
        if mode != "text":
            scored = score_encoded(model, kind, encoded, choice_ids if mode == "labels" else None, **own)
        else:
            scored = target_losses(model, kind, encoded, **own)
        places = accumulate((len(part.encoded) for part in inside), initial=0)
        found |= {number: scored[start:end] for number, (start, end) in zip(numbers, pairwise(places), strict=True)}
        done += len(encoded)
    return [found[number] for number in range(len(parts))]


def counted_on(on_progress: Progress | None, before: int, total: int) -> Progress | None:
    """Return what tells of a part that it is done: behind those before it, and of all."""
    return None if on_progress is None else lambda done, _: on_progress(before + done, total)


def _mode(part: HeldOut) -> Literal["labels", "choices", "text"]:
    """Return what the answers of some rows are: of one label set, of the choices that each row brings, or free text."""
    if part.labels:
        return "labels"
    return "choices" if part.encoded and all(e.choices for e in part.encoded) else "text"


def _adapters_of(parts: Sequence[HeldOut]) -> Adapters | None:
    """Return the adapter of each row of some parts, or the one of all."""
    first = parts[0].adapter
    if first is None or all(part.adapter == first for part in parts):
        return first
    return [part.adapter for part in parts for _ in part.encoded if part.adapter is not None]


def metrics_of(kind: Kind, parts: Sequence[HeldOut], scored: Sequence[Array]) -> Metrics:
    """Return the metrics of rows from the scores of their choices, or for free text the losses of their targets.

    Args:
        kind: Kind of the base.
        parts: The rows, at least one part; what differs between parts is the words of their labels' answers alone.
        scored: Of each part, as `score_together` gives them.
    """
    first, encoded = parts[0], [e for part in parts for e in part.encoded]
    gold, rows = [e.choice for e in encoded], np.arange(len(encoded))
    targets = sum(len(e.target_ids) for e in encoded)
    if _mode(first) == "choices":
        scores = np.concatenate(scored)
        lengths = count_own_tokens(encoded)  # rows that were scored with these may have more choices
        ranks = rank_scores(scores[:, : lengths.shape[1]], lengths, first.ranking)
        return score_own_choices(gold, ranks, float(-scores[rows, gold].sum()) / targets)
    if not first.labels:
        return score_loss(len(gold), float(np.concatenate(scored).sum()) / max(1, targets))
    own = [one[:, : len(first.labels)] for one in scored]
    right = float(-np.concatenate(own)[rows, gold].sum()) if gold else 0.0
    unit: LossUnit = "example" if kind == "encoder" else "token"
    targets = len(gold) if kind == "encoder" else sum(len(p.choice_ids[e.choice]) for p in parts for e in p.encoded)
    ranks = np.concatenate(
        [rank_scores(one, count_tokens(part.choice_ids), part.ranking) for part, one in zip(parts, own, strict=True)]
    )
    return score_ranks(
        first.labels,
        gold,
        ranks,
        right / max(1, targets),
        unit,
        first.temperature,
        is_fitted=first.is_fitted,
        usual=first.usual,
    )


def score_own_choices(gold: Sequence[int], ranks: Array, loss: float, loss_unit: LossUnit = "token") -> Metrics:
    """Return the metrics of rows that bring their own choices: there are no labels to count, and no confusion.

    Args:
        gold: Position of the right choice of each row.
        ranks: What their choices are compared by, shape (rows, choices); −inf where a row has fewer.
        loss: Mean loss in nats.
        loss_unit: What it is the mean over.
    """
    places = [str(number) for number in range(ranks.shape[1])]
    found = score_predictions(places, gold, softmax(ranks), loss, loss_unit=loss_unit)
    return replace(found, macro_f1=None, labels=(), per_label={}, confusion=())


def score_ranks(
    labels: Sequence[str],
    gold: Sequence[int],
    ranks: Array,
    loss: float | None,
    loss_unit: LossUnit,
    temperature: float = 1.0,
    *,
    is_fitted: bool = False,
    usual: float | None = None,
) -> Metrics:
    """Return the metrics of rows from what their choices are compared by; the loss is given and has no temperature.

    Args:
        labels: The closed label set.
        gold: The index of the right label of each row.
        ranks: What the choices are compared by, shape (rows, choices).
        loss: Mean loss in nats.
        loss_unit: What it is the mean over.
        temperature: What the ranks are divided by.
        is_fitted: Whether a temperature is fitted on these rows as well.
        usual: The temperature that adapters of the same settings usually need, which these rows are weighed against.
    """
    plain = score_predictions(labels, gold, softmax(ranks), loss, loss_unit=loss_unit)
    plain = replace(plain, scaling=fit_scaling(ranks, gold, usual) if is_fitted else None)
    if temperature == 1:
        return plain
    scaled = score_predictions(labels, gold, softmax(ranks / temperature), loss, loss_unit=loss_unit)
    return replace(
        scaled,
        temperature=temperature,
        unscaled_error=plain.calibration_error,
        unscaled_bins=plain.calibration_bins,
        scaling=plain.scaling,
    )


def require_answers(encoded: Sequence[Encoded], *, is_closed: bool) -> None:
    """Raise if a row has no right answer: no choice of a closed set, no target tokens for free text.

    Raises:
        SettingsError: The number of such rows, and the first.
    """
    bare = [e.index for e in encoded if (e.choice < 0 if is_closed else not e.target_ids)]
    if bare:
        raise SettingsError(
            f"Evaluating: {len(bare)} of {len(encoded)} rows have no answer to compare with, the first is row "
            f"{bare[0] + 1}. Give a table with a label in every row."
        )


def score_encoded(
    model: Any,
    kind: Kind,
    encoded: Sequence[Encoded],
    choice_ids: Sequence[Sequence[int]] | None,
    *,
    pad_id: int,
    decoder_start_id: int | None = None,
    adapter: Adapters | None = None,
    token_budget: int = TOKEN_BUDGET,
    on_progress: Progress | None = None,
) -> Array:
    """Return the log-probability of every choice for any number of rows; see `score_choices`.

    Returns:
        Shape (rows, choices), float64, in the order of the rows; (0, choices) without rows. Where adapters with heads
        of different widths are given, those with fewer choices have −inf behind theirs.
    """
    if not encoded:
        return np.empty((0, 0 if choice_ids is None else len(choice_ids)))
    found: dict[int, Array] = {}
    pass_tokens = pass_cost(input_device(model), token_budget)
    with evaluating(model):
        for part in length_batches([len(e.prompt_ids) for e in encoded], token_budget, pass_tokens):
            scored = score_choices(
                model,
                kind,
                [encoded[i] for i in part],
                choice_ids,
                pad_id=pad_id,
                decoder_start_id=decoder_start_id,
                rows=rows_of(adapter, part),
            )
            found |= zip(part, scored.double().cpu().numpy(), strict=True)
            if on_progress is not None:
                on_progress(len(found), len(encoded))
    width = max(map(len, found.values()))
    whole = np.full((len(encoded), width), -np.inf)
    for i, scores in found.items():
        whole[i, : len(scores)] = scores
    return whole


def rows_of(adapter: Adapters | None, part: Sequence[int]) -> Adapters | None:
    """Return the rows of some of the examples: their own, or the one of all."""
    if adapter is None or isinstance(adapter, Choice):
        return adapter
    return [adapter[i] for i in part]


def sum_target_losses(
    model: Any, kind: Kind, encoded: Sequence[Encoded], *, adapter: Adapters | None = None, **options: Any
) -> tuple[float, int]:
    """Return the summed loss of the rows' own targets in nats, and the number of target tokens; see `target_losses`."""
    losses = target_losses(model, kind, encoded, adapter=adapter, **options)
    return float(losses.sum()), sum(len(e.target_ids) for e in encoded)


@torch.inference_mode()
def target_losses(
    model: Any,
    kind: Kind,
    encoded: Sequence[Encoded],
    *,
    pad_id: int,
    decoder_start_id: int | None = None,
    adapter: Adapters | None = None,
    token_budget: int = TOKEN_BUDGET,
    on_progress: Progress | None = None,
) -> Array:
    """Return the loss of each row's own target in nats, summed over its tokens, shape (rows,), float64.

    Args are those of `score_encoded`; the base is a language model.
    """
    device = input_device(model)
    losses, done = np.zeros(len(encoded)), 0
    with evaluating(model):
        for part in length_batches([len(e) for e in encoded], token_budget, pass_cost(device, token_budget)):
            batch = collate([encoded[i] for i in part], kind, pad_id, decoder_start_id).to(device)
            positions = batch.labels != IGNORED
            rows = {} if adapter is None else {"rows": rows_of(adapter, part)}
            logits = logits_at(model, positions, {**batch.inputs, "use_cache": False, **rows})
            wide = logits if logits.dtype == torch.float64 else logits.float()
            by_token = torch.zeros(positions.shape, dtype=torch.float64, device=device)
            by_token[positions] = functional.cross_entropy(wide, batch.labels[positions], reduction="none").double()
            losses[part] = by_token.sum(dim=1).cpu().numpy()
            done += len(part)
            if on_progress is not None:
                on_progress(done, len(encoded))
    return losses


def length_batches(lengths: Sequence[int], token_budget: int, pass_tokens: int = PASS_TOKENS) -> list[list[int]]:
    """Return positions in `lengths` in batches of like length, the longest first; every position once."""
    return split_by_tokens(range(len(lengths)), lengths, token_budget, pass_tokens, _MOST_ROWS)


def softmax(scores: Array) -> Array:
    """Return the probability of each choice, shape (rows, choices), from scores of that shape."""
    with np.errstate(invalid="ignore"):  # an overflow stays NaN, which is told with its row
        powers = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float64)
