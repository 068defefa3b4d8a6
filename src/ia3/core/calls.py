"""Which rows a forward pass uses: captured once when the model is entered, and kept until it is left.

A `Call` is one forward pass: the rows of its batch, already gathered from the bank and cut into one multiplier per
group of sites. It is immutable and belongs to one thread. `ExampleAxis` says whether an activation's first axis is
known to be the examples; where it is not, different rows in a batch are refused. This file knows batches and rows; it
knows nothing of modules and hooks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ia3.core.families import family_of, is_foreign
from ia3.core.sites import Plan, Side
from ia3.core.snapshot import BASE_ROW, Snapshot
from ia3.core.strengths import turn_rows
from ia3.errors import BankError, PlanError
from ia3.kernels.scaling import broadcast, has_small, scale

# Arguments of a forward pass whose first axis is the examples, the most telling first.
_BATCH_ARGUMENTS = (
    "input_ids",
    "inputs_embeds",
    "inputs",
    "decoder_input_ids",
    "decoder_inputs_embeds",
    "labels",
    "attention_mask",
)


def batch_size(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """Return the number of examples of a forward pass or a generation, or None if no argument tells."""
    encoded = kwargs.get("encoder_outputs")
    if encoded is not None and not isinstance(encoded, Tensor):
        encoded = encoded[0]
    found = (args[0] if args else None, *(kwargs.get(name) for name in _BATCH_ARGUMENTS), encoded)
    return next((int(x.shape[0]) for x in found if isinstance(x, Tensor) and x.dim() > 0), None)


@dataclass(frozen=True)
class Group:
    """The sites on one side of one projection, multiplied together.

    Attributes:
        module: Path of the projection.
        side: Side that is multiplied.
        sites: Numbers of the sites in the plan.
        index: For fused projections, where each channel finds its number in (1, vector, vector, …); shape (features,),
            int64. None where one vector covers every channel.
    """

    module: str
    side: Side
    sites: tuple[int, ...]
    index: Tensor | None


@dataclass(frozen=True)
class Multiplier:
    """What the activations of one group are multiplied by.

    Attributes:
        values: Shape (1 or batch, features), or broadcast against an activation; fp32 or float64.
        keeps_input: Whether the backward pass is to keep what is multiplied: a value is too near to zero to divide by
            (see `scaling`), or the model may write over the product (see `overwriting`).
    """

    values: Tensor
    keeps_input: bool


@dataclass(frozen=True)
class Scope:
    """Rows that a user has set for what follows in this thread or asyncio task.

    Attributes:
        rows: One for each example, or a single one for all.
        is_uniform: Whether the single row holds for a batch of any size.
        expands: Whether a batch may be a multiple of the rows, each row repeated (beams, returned sequences).
        snapshot: The bank when the scope was opened.
        strengths: One for each row; None where all are 1.
    """

    rows: tuple[int, ...]
    is_uniform: bool
    expands: bool
    snapshot: Snapshot
    strengths: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Call:
    """One forward pass.

    Attributes:
        rows: Row of each example; a single one if all are the same, at the same strength.
        batch: Number of examples; None if not known and not needed, all rows being the same.
        snapshot: The bank the rows were taken from.
        multipliers: One for each group; None where nothing is to be multiplied.
        strengths: One for each of the rows; None where all are 1.
        kept: Numbers of the groups whose inputs are kept for the backward pass; a block that is computed again must
            keep what it kept at first.
    """

    rows: tuple[int, ...]
    batch: int | None
    snapshot: Snapshot
    multipliers: tuple[Multiplier | None, ...]
    strengths: tuple[float, ...] | None = None
    kept: frozenset[int] = frozenset()


@dataclass
class ExampleAxis:
    """Where the activations of one base hold its examples; learns from the shapes it sees.

    For a family in the table the modeling code was read: examples come first, and OPT's feed-forward sees (batch · seq,
    features). Another model may be sequence-first: where length and batch are equal, a shape does not tell. A module is
    trusted once it was seen with examples first and a second axis that differs from their number.

    Attributes:
        model_type: The base's `config.model_type`, for the error.
        is_known: Whether the modeling code was read.
        is_flattened: Whether two axes mean (batch · seq, features), the examples in order.
        proven: Paths of the modules that were seen with examples first.
    """

    model_type: str
    is_known: bool
    is_flattened: bool
    proven: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, model_type: str) -> ExampleAxis:
        """Return what is known of a model type before anything has run."""
        family = family_of(model_type)
        return cls(model_type, bool(family.rules), family.is_flattened)

    def check(self, x: Tensor, batch: int, module: str) -> None:
        """Raise if the first axis of `x` is not known to be the examples.

        Raises:
            BankError: Naming the module, its shape and what to do.
        """
        if not is_foreign(module):  # images and sounds are counted otherwise than examples
            if self.is_known or module in self.proven:
                return
            if x.dim() > 2 and x.shape[1] != batch:
                self.proven.add(module)
                return
        raise BankError(
            f"Scaling {module!r}: the activation has shape {tuple(x.shape)} in a batch of {batch} examples with "
            f"different rows, and whether {self.model_type!r} models hold the examples first is not known. Run a batch "
            "whose length differs from its size first, or use one adapter for the whole batch."
        )


def group_sites(plan: Plan) -> tuple[Group, ...]:
    """Return the plan's sites grouped by projection and side, in order.

    Raises:
        PlanError: If two sites of a plan made by hand share channels.
    """
    numbers: dict[tuple[str, Side], list[int]] = {}
    for number, site in enumerate(plan.sites):
        numbers.setdefault((site.module, site.side), []).append(number)
    return tuple(
        Group(module, side, tuple(sites), _channel_index(plan, sites)) for (module, side), sites in numbers.items()
    )


def _channel_index(plan: Plan, numbers: Sequence[int]) -> Tensor | None:
    sites = [plan.sites[number] for number in numbers]
    if len(sites) == 1 and sites[0].is_whole:
        return None
    index = torch.zeros(sites[0].features, dtype=torch.long, device="cpu")
    start = 1
    for site in sites:
        channels = list(site.channels.indices())
        if bool(index[channels].any()):
            raise PlanError(
                f"Laying out the plan: two sites on the {site.side} of {site.module!r} share channels, expected one "
                "vector for each channel. Leave one of them out."
            )
        index[channels] = torch.arange(start, start + site.width, device="cpu")
        start += site.width
    return index


def open_call(
    plan: Plan,
    groups: Sequence[Group],
    snapshot: Snapshot,
    rows: Sequence[int],
    batch: int | None,
    strengths: Sequence[float] | None = None,
    frozen: frozenset[int] = frozenset(),
    kept: frozenset[int] = frozenset(),
) -> Call:
    """Gather the rows of a batch once and cut them into the multiplier of every group.

    Args:
        plan: Layout of a row.
        groups: Its groups.
        snapshot: The bank.
        rows: Row of each example, or one row for all.
        batch: Number of examples, if known.
        strengths: One for each of the rows; None where all are 1.
        frozen: Numbers of the sites whose vectors get no gradient.
        kept: Numbers of the groups whose inputs are kept for the backward pass.

    Returns:
        The call. Where every row is the base there is nothing to multiply: its multipliers are None.
    """
    is_one = len(set(rows)) == 1 and (strengths is None or len(set(strengths)) == 1)
    distinct = tuple(rows[:1]) if is_one else tuple(rows)
    dial = None if strengths is None else tuple(strengths[: len(distinct)])
    if set(distinct) == {BASE_ROW}:
        return Call(distinct[:1], batch, snapshot, (None,) * len(groups))
    gathered = snapshot.gather(distinct)
    if dial is not None:
        gathered = turn_rows(gathered, dial)
    pieces = gathered.split(plan.widths, dim=1)
    if frozen:
        pieces = tuple(piece.detach() if number in frozen else piece for number, piece in enumerate(pieces))
    # Asked once for the whole row: an answer for every site would have a GPU wait at every site. Not asked where there
    # is no backward pass to divide in: it takes longer than the gather, for every generated token.
    is_small = torch.is_grad_enabled() and has_small(gathered)
    multipliers = tuple(_multiplier(group, pieces, is_small, number in kept) for number, group in enumerate(groups))
    return Call(distinct, batch, snapshot, multipliers, dial, kept)


def _multiplier(group: Group, pieces: Sequence[Tensor], is_small: bool, is_kept: bool) -> Multiplier:
    parts = [pieces[number] for number in group.sites]
    small = is_kept or (is_small and any(has_small(part) for part in parts))
    if group.index is None:
        return Multiplier(parts[0], small)
    one = parts[0].new_ones(parts[0].shape[0], 1)
    return Multiplier(torch.cat([one, *parts], dim=1).index_select(1, group.index.to(one.device)), small)


def expand_rows(scope: Scope, batch: int | None) -> Scope:
    """Return a scope with the row and the strength of each example of a batch.

    Raises:
        BankError: If the rows do not fit the batch.
    """
    rows, strengths = scope.rows, scope.strengths
    if scope.is_uniform or batch is None or batch == len(rows):
        return scope
    if scope.expands and batch % len(rows) == 0:
        repeats = range(batch // len(rows))
        spread = None if strengths is None else tuple(strength for strength in strengths for _ in repeats)
        return replace(scope, rows=tuple(row for row in rows for _ in repeats), strengths=spread)
    raise BankError(
        f"Reading the rows of a batch: {len(rows)} rows were given for {batch} examples, expected one for each. "
        "Give rows of the batch's own length."
    )


def scale_for_call(x: Tensor, multiplier: Multiplier, module: str, axis: ExampleAxis) -> Tensor:
    """Multiply an activation by its examples' vectors.

    Args:
        x: Shape (batch, …, features), or (batch · seq, features) where a family flattens its tokens.
        multiplier: Its values have shape (1 or batch, features).
        module: Path of the projection, for the error.
        axis: What is known of the base's activations.

    Raises:
        BankError: For any other leading size, or one that may not be the examples, with different rows in the batch.
    """
    batch = multiplier.values.shape[0]
    if x.dim() == 2 and batch > 1 and x.shape[0] != batch and axis.is_flattened and x.shape[0] % batch == 0:
        by_example = x.reshape(batch, -1, x.shape[1])
        return scale_for_call(by_example, multiplier, module, axis).view(x.shape)
    spread = spread_for_call(x, multiplier, module, axis)
    return scale(x, spread.values, keeps_input=spread.keeps_input)


def spread_for_call(x: Tensor, multiplier: Multiplier, module: str, axis: ExampleAxis) -> Multiplier:
    """Return a multiplier whose values broadcast against an activation that has the examples first.

    Where a family flattens its tokens, those of each example get its values: (batch · seq, features).
    """
    values = multiplier.values
    if values.device != x.device:
        values = values.to(x.device)
    batch = values.shape[0]
    if batch > 1 and x.dim() == 2 and axis.is_flattened and x.shape[0] % batch == 0:
        values = values.repeat_interleave(x.shape[0] // batch, dim=0)
    elif batch > 1:
        if x.dim() < 2 or x.shape[0] != batch:
            raise BankError(
                f"Scaling {module!r}: the activation has shape {tuple(x.shape)}, expected {batch} examples first, one "
                "for each row. This module does not keep examples apart; use one adapter for the whole batch."
            )
        axis.check(x, batch, module)
    return Multiplier(broadcast(values, x), multiplier.keeps_input)
