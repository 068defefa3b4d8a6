"""A call: the rows of one batch, gathered once; which layouts of an activation may carry different rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.calls import (
    ExampleAxis,
    Multiplier,
    Scope,
    batch_size,
    expand_rows,
    group_sites,
    open_call,
    scale_for_call,
)
from ia3.core.discovery import find_plan
from ia3.core.sites import Channels, Plan, Site
from ia3.errors import BankError, PlanError
from tests.core.banks import attached_model, example, largest, random_row, tiny_model
from tests.core.unknown_models import DISCOVERED, longformer
from tests.families import VOCABULARY, make_inputs, with_large_weights

KNOWN, FLAT, UNKNOWN = ExampleAxis.of("llama"), ExampleAxis.of("opt"), "nobody's"
WHOLE = Channels.span(0, 4, 4)
KEY, VALUE = Channels(2, 6, 2, 2), Channels(2, 6, 4, 2)  # (2 heads, [query | key | value], size 2)
PLAN = Plan(
    (
        Site("fused", "output", "key", KEY, 12),
        Site("fused", "output", "value", VALUE, 12),
        Site("last", "input", "feedforward", WHOLE, 4),
    ),
    "toy",
    "family",
)


def _bank() -> Bank:
    bank = Bank(PLAN)
    bank.add("a", torch.arange(2.0, 14.0))
    bank.add("b", torch.arange(102.0, 114.0))
    return bank


def test_sites_on_one_side_of_a_projection_are_multiplied_together() -> None:
    fused, last = group_sites(PLAN)
    assert (fused.module, fused.sites, last.module, last.sites) == ("fused", (0, 1), "last", (2,))
    assert last.index is None
    assert fused.index is not None
    assert fused.index.tolist() == [0, 0, 1, 2, 5, 6, 0, 0, 3, 4, 7, 8]


def test_sites_that_share_channels_are_refused() -> None:
    twice = Plan((*PLAN.sites, Site("fused", "output", "attention", Channels.span(0, 12, 12), 12)), "toy", "targets")
    with pytest.raises(PlanError, match="two sites on the output of 'fused' share channels"):
        group_sites(twice)
    same = Plan((PLAN.sites[2], PLAN.sites[2]), "toy", "targets")
    with pytest.raises(PlanError, match="two sites on the input of 'last' share channels"):
        group_sites(same)


def test_a_call_cuts_the_rows_of_the_batch_into_one_multiplier_for_each_group() -> None:
    call = open_call(PLAN, group_sites(PLAN), _bank().snapshot, [1, 0, 2], 3)
    fused, last = call.multipliers
    assert fused is not None and last is not None
    assert fused.values[0].tolist() == [1, 1, 2, 3, 6, 7, 1, 1, 4, 5, 8, 9]
    assert fused.values[1].tolist() == [1] * 12
    assert fused.values[2].tolist() == [1, 1, 102, 103, 106, 107, 1, 1, 104, 105, 108, 109]
    assert last.values.tolist() == [[10, 11, 12, 13], [1, 1, 1, 1], [110, 111, 112, 113]]


def test_whether_a_number_is_too_near_to_zero_is_asked_only_where_a_backward_pass_may_come() -> None:
    bank = Bank(PLAN)
    row = bank.add("silent", torch.zeros(PLAN.width))
    groups = group_sites(PLAN)
    asked = open_call(PLAN, groups, bank.snapshot, [row], 1).multipliers
    with torch.no_grad():
        unasked = open_call(PLAN, groups, bank.snapshot, [row], 1).multipliers
    assert [m.keeps_input for m in asked if m] == [True, True]
    assert [m.keeps_input for m in unasked if m] == [False, False]


def test_a_batch_of_one_adapter_has_a_single_row_and_one_of_the_base_nothing_to_multiply() -> None:
    same = open_call(PLAN, group_sites(PLAN), _bank().snapshot, [2, 2, 2], 3)
    assert same.rows == (2,)
    assert [m.values.shape[0] for m in same.multipliers if m is not None] == [1, 1]
    assert open_call(PLAN, group_sites(PLAN), _bank().snapshot, [0, 0], 2).multipliers == (None, None)


@pytest.mark.parametrize(
    ("rows", "uniform", "expands", "batch", "expected"),
    [
        ((1, 2), False, False, 2, (1, 2)),
        ((1, 2), False, False, None, (1, 2)),
        ((1,), True, False, 7, (1,)),
        ((1, 2), False, True, 6, (1, 1, 1, 2, 2, 2)),
        ((1, 2), False, True, 2, (1, 2)),
    ],
)
def test_rows_are_expanded_over_beams_in_the_order_of_generate(
    rows: tuple[int, ...], uniform: bool, expands: bool, batch: int | None, expected: tuple[int, ...]
) -> None:
    assert expand_rows(Scope(rows, uniform, expands, _bank().snapshot), batch).rows == expected


@pytest.mark.parametrize(("expands", "batch"), [(False, 3), (False, 4), (True, 3), (True, 1), (False, 0)])
def test_rows_that_do_not_fit_the_batch_are_refused(expands: bool, batch: int) -> None:
    with pytest.raises(BankError, match=f"2 rows were given for {batch} examples"):
        expand_rows(Scope((1, 2), False, expands, _bank().snapshot), batch)


def test_the_batch_is_counted_from_the_first_argument_that_has_one() -> None:
    ids = torch.zeros(3, 5, dtype=torch.long)
    assert batch_size((ids,), {}) == 3
    assert batch_size((), {"attention_mask": ids[:2], "input_ids": ids}) == 3
    assert batch_size((None,), {"inputs_embeds": torch.zeros(4, 5, 6)}) == 4
    assert batch_size((), {"encoder_outputs": (torch.zeros(2, 5, 6),)}) == 2
    assert batch_size((), {"encoder_outputs": torch.zeros(2, 5, 6)}) == 2
    assert batch_size((), {"decoder_input_ids": ids, "encoder_outputs": (torch.zeros(9, 5, 6),)}) == 3
    assert batch_size((), {"pixel_values": ids}) is None
    assert batch_size(("text",), {"labels": torch.tensor(1)}) is None


# -- layouts ----------------------------------------------------------------------------------------------------------


def _scaled(x: Tensor, l: Tensor, module: str, axis: ExampleAxis) -> Tensor:
    return scale_for_call(x, Multiplier(l, keeps_input=False), module, axis)


def test_examples_first_are_multiplied_each_by_its_row() -> None:
    x, l = torch.ones(2, 3, 4), torch.tensor([[1.0] * 4, [2.0] * 4])
    assert _scaled(x, l, "m", KNOWN)[:, 0, 0].tolist() == [1, 2]
    assert _scaled(x[:, 0], l, "m", KNOWN)[:, 0].tolist() == [1, 2]
    assert _scaled(x.unsqueeze(1), l, "m", KNOWN)[:, 0, 0, 0].tolist() == [1, 2]


def test_a_single_row_fits_any_layout() -> None:
    l = torch.full((1, 4), 2.0)
    for shape in ((4,), (7, 4), (5, 2, 4), (0, 3, 4), (2, 3, 5, 4)):
        assert torch.equal(_scaled(torch.ones(shape), l, "m", ExampleAxis.of(UNKNOWN)), torch.full(shape, 2.0))


def test_flattened_tokens_follow_their_example_where_the_family_is_known_to_flatten() -> None:
    x, l = torch.ones(6, 4), torch.tensor([[1.0] * 4, [2.0] * 4])
    assert _scaled(x, l, "m", FLAT)[:, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert _scaled(torch.ones(4, 6).T, l, "m", FLAT)[:, 3].tolist() == [1, 1, 1, 2, 2, 2]
    for axis in (KNOWN, ExampleAxis.of(UNKNOWN)):
        with pytest.raises(
            BankError, match=r"Scaling 'm': the activation has shape \(6, 4\), expected 2 examples first"
        ):
            _scaled(x, l, "m", axis)


@pytest.mark.parametrize("shape", [(3, 2, 4), (1, 2, 4), (5, 4), (4, 3, 4), (4,), (0, 3, 4)])
@pytest.mark.parametrize("axis", [KNOWN, FLAT], ids=["known", "flattened"])
def test_any_other_leading_size_is_refused(axis: ExampleAxis, shape: tuple[int, ...]) -> None:
    with pytest.raises(BankError, match="This module does not keep examples apart; use one adapter"):
        _scaled(torch.ones(shape), torch.ones(2, 4), "m", axis)


def test_in_an_unknown_model_a_square_activation_is_refused_until_its_layout_was_seen() -> None:
    axis, l = ExampleAxis.of(UNKNOWN), torch.ones(2, 4)
    with pytest.raises(
        BankError, match=r"shape \(2, 2, 4\) in a batch of 2 examples .* \"nobody's\" models hold the ex"
    ):
        _scaled(torch.ones(2, 2, 4), l, "m", axis)
    _scaled(torch.ones(2, 3, 4), l, "m", axis)
    _scaled(torch.ones(2, 2, 4), l, "m", axis)
    with pytest.raises(BankError, match="Scaling 'other'"):
        _scaled(torch.ones(2, 2, 4), l, "other", axis)
    with pytest.raises(BankError, match="is not known"):
        _scaled(torch.ones(2, 4), l, "pooled", axis)


def test_parts_that_read_images_never_take_different_rows() -> None:
    for axis in (KNOWN, ExampleAxis.of(UNKNOWN)):
        with pytest.raises(BankError, match=r"Scaling 'vision_tower\.k'"):
            _scaled(torch.ones(2, 3, 4), torch.ones(2, 4), "vision_tower.k", axis)


def test_a_sequence_first_model_is_never_silently_wrong() -> None:
    """Longformer projects (seq, batch, features): with four examples of four tokens each token took its own row."""
    model = with_large_weights(longformer)
    bank = Bank(find_plan(model, target_modules=["key", "value"]))
    attach_bank(model, bank)
    bank.add("a", random_row(bank))
    bank.add("b", random_row(bank, seed=1))
    ids = torch.randint(3, VOCABULARY, (4, 4), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert model(ids, rows="a").last_hidden_state.shape == (4, 4, 16)
        for length in (4, 8):
            with pytest.raises(BankError, match=r"Scaling 'encoder\.layer\.0\.attention\.self\.key'"):
                model(ids.repeat(1, length // 4), rows=["a", "b", "a", "b"])


def test_a_discovered_model_mixes_rows_in_square_batches_once_it_has_run_another() -> None:
    model = with_large_weights(DISCOVERED["cohere"])
    bank = Bank(find_plan(model))
    attach_bank(model, bank)
    bank.add("a", random_row(bank))
    ids = torch.randint(3, VOCABULARY, (3, 3), generator=torch.Generator().manual_seed(0))
    rows = ["a", "__base__", "a"]
    with torch.no_grad():
        with pytest.raises(BankError, match="Run a batch whose length differs from its size first"):
            model(ids, rows=rows)
        model(ids[:, :2], rows=rows)
        mixed = model(ids, rows=rows).logits
        for i, row in enumerate(rows):
            assert largest(mixed[i] - model(ids[i : i + 1], rows=row).logits[0]) <= 1e-5


@pytest.mark.parametrize("seq", [1, 2, 3, 6])
@pytest.mark.parametrize("family", ["opt", "bloom", "longt5-global", "deberta-v3", "modernbert"])
def test_known_families_mix_rows_at_every_length(family: str, seq: int) -> None:
    model, _ = attached_model(family, "a", "b")
    inputs, rows = make_inputs(family, seq=seq), ["a", "__base__", "b"]
    with torch.no_grad():
        mixed = model(**inputs, rows=rows).logits
        for i, row in enumerate(rows):
            assert largest(mixed[i] - model(**example(inputs, i), rows=row).logits[0]) <= 1e-5


def test_rows_of_several_choices_for_each_example_are_refused_in_mixed_batches() -> None:
    """A multiple-choice model flattens (batch, choices, seq): rows of examples no longer fit."""
    from transformers import BertForMultipleChoice

    torch.manual_seed(0)
    model = BertForMultipleChoice(tiny_model("bert").config).eval()
    bank = Bank(find_plan(model))
    attach_bank(model, bank)
    bank.add("a", random_row(bank))
    ids = torch.randint(3, VOCABULARY, (3, 2, 5))
    with torch.no_grad():
        assert model(ids, rows="a").logits.shape == (3, 2)
        with pytest.raises(BankError, match=r"has shape \(6, 5, 16\), expected 3 examples first"):
            model(ids, rows=["a", "__base__", "a"])


def test_multipliers_follow_the_activation_to_its_device() -> None:
    x = torch.ones(2, 3, 4, device="meta")
    assert _scaled(x, torch.ones(2, 4), "m", KNOWN).device.type == "meta"


def test_a_scaled_module_may_be_called_with_more_arguments() -> None:
    class Last(nn.Linear):
        def forward(self, x: torch.Tensor, scale: float) -> torch.Tensor:
            return super().forward(x) * scale

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = Last(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> Any:
            return self.last(x, 10.0)

    model = Model()
    bank = Bank(find_plan(model, target_modules=["last"], feedforward_modules=["last"]))
    attach_bank(model, bank)
    bank.add("twice", torch.full((4,), 2.0))
    x = torch.ones(2, 3, 4)
    torch.testing.assert_close(model(x, rows="twice"), 20 * x @ model.last.weight.T)
