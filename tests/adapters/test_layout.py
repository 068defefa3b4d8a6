"""Vectors laid out for another plan: the same function, or an error that names what has no place."""

from __future__ import annotations

import pytest
import torch

from ia3.adapters.adapter import Adapter
from ia3.core.discovery import find_plan
from ia3.core.sites import Channels, Plan, Site
from ia3.errors import AdapterError
from tests.adapters.examples import adapter_for, spread, whole
from tests.families import make_model


def plan(*sites: Site) -> Plan:
    return Plan(sites, "toy", "targets")


def part(start: int, role: str, module: str = "qkv") -> Site:
    return Site(module, "output", role, Channels.span(start, 4, 12), 12)


def test_the_same_sites_are_copied_in_the_plans_order() -> None:
    _, adapter = adapter_for("phi3")
    sites = adapter.sites[::-1]
    row = adapter.row(plan(*sites))
    assert torch.equal(row, torch.cat([adapter.vectors[site.name] for site in sites]))


def test_a_whole_fused_vector_fits_slices_if_the_rest_is_ones() -> None:
    fused = torch.cat([torch.ones(4), spread(8)])
    adapter = Adapter((whole("qkv", "output", 12),), {"qkv": fused})
    assert torch.equal(adapter.row(plan(part(4, "key"), part(8, "value"))), fused[4:])


def test_a_whole_fused_vector_with_a_scaled_query_does_not_fit_slices() -> None:
    adapter = Adapter((whole("qkv", "output", 12),), {"qkv": torch.cat([torch.tensor([1.0, 1, 0.5, 1]), spread(8)])})
    with pytest.raises(AdapterError) as caught:
        adapter.row(plan(part(4, "key"), part(8, "value")))
    assert str(caught.value) == (
        "Laying out an adapter: the plan has no site for vector 'qkv' (1 of its 12 numbers), and they are not ones. "
        "Load the adapter on a fresh model, which gets the adapter's own plan."
    )


def test_slices_fit_a_whole_fused_site() -> None:
    key, value = spread(4, 1), spread(4, 2)
    adapter = Adapter((part(8, "value"), part(4, "key")), {"qkv[key]": key, "qkv[value]": value})
    assert torch.equal(adapter.row(plan(whole("qkv", "output", 12))), torch.cat([torch.ones(4), key, value]))


GATED = whole("mlp.up", "output", 4, "feedforward", peft=("mlp.down", "input"))
LAST = whole("mlp.down", "input", 4, "feedforward")


@pytest.mark.parametrize(("mine", "plans"), [(LAST, GATED), (GATED, LAST), (GATED, GATED)])
def test_the_linear_branch_and_the_last_projection_hold_the_same_vector(mine: Site, plans: Site) -> None:
    adapter = Adapter((mine,), {mine.name: spread(4)})
    assert torch.equal(adapter.row(plan(plans)), spread(4))


def test_a_slice_of_a_fused_gate_is_the_last_projections_vector() -> None:
    gate = Site("mlp.gate_up", "output", "feedforward", Channels.span(4, 4, 8), 8, peft=("mlp.down", "input"))
    assert torch.equal(Adapter((gate,), {gate.name: spread(4)}).row(plan(LAST)), spread(4))
    assert torch.equal(Adapter((LAST,), {LAST.name: spread(4)}).row(plan(gate)), spread(4))


def test_vectors_on_the_linear_branch_and_the_last_projection_multiply() -> None:
    adapter = Adapter((whole("mlp.up", "output", 4), LAST), {"mlp.up": spread(4, 1), "mlp.down[input]": spread(4, 2)})
    assert torch.equal(adapter.row(plan(GATED)), spread(4, 1) * spread(4, 2))
    both = plan(GATED, LAST)
    assert torch.equal(adapter.row(both), torch.cat([spread(4, 1), spread(4, 2)]))


def test_mt5_reads_wo_as_well_as_wi_1() -> None:
    own = find_plan(make_model("mt5"))
    sites = tuple(whole(*s.twin, s.width, s.role) if s.twin else s for s in own.sites)
    vectors = {site.name: spread(site.width, number) for number, site in enumerate(sites)}
    assert any(site.name.endswith(".wo[input]") for site in sites)
    assert torch.equal(Adapter(sites, vectors).row(own), torch.cat([vectors[site.name] for site in sites]))


def test_what_the_adapter_has_not_is_one() -> None:
    adapter = Adapter((whole("k", "output", 4),), {"k": spread(4)})
    assert torch.equal(adapter.row(plan(whole("v", "output", 3), whole("k", "output", 4)))[:3], torch.ones(3))


def test_ones_need_no_place_and_other_numbers_do() -> None:
    sites = (whole("k", "output", 4), whole("q", "output", 4))
    assert Adapter(sites, {"k": spread(4), "q": torch.ones(4)}).row(plan(sites[0])).shape == (4,)
    with pytest.raises(AdapterError, match=r"no site for vector 'q' \(4 of its 4 numbers\)"):
        Adapter(sites, {"k": spread(4), "q": torch.zeros(4)}).row(plan(sites[0]))


def test_the_other_side_of_a_square_module_is_another_place() -> None:
    adapter = Adapter((whole("k", "input", 4),), {"k[input]": spread(4)})
    with pytest.raises(AdapterError, match=r"no site for vector 'k\[input\]'"):
        adapter.row(plan(whole("k", "output", 4)))


def test_no_bit_changes_where_a_vector_moves() -> None:
    odd = torch.tensor([0.0, -0.0, 1e-45, -3e38])
    moved = Adapter((LAST,), {LAST.name: odd}).row(plan(GATED))
    assert moved.view(torch.int32).equal(odd.view(torch.int32))


def test_an_adapter_is_checked_when_it_is_made() -> None:
    site = whole("k", "output", 4)
    for vectors, told in (
        ({}, r"a difference at \['k'\]"),
        ({"k": spread(3)}, r"has shape \(3,\) and torch.float32, expected \(4,\)"),
        ({"k": spread(4).double()}, r"torch.float64, expected \(4,\) and torch.float32"),
    ):
        with pytest.raises(AdapterError, match=told):
            Adapter((site,), vectors)
    with pytest.raises(AdapterError, match=r"a difference at \['k'\]"):
        Adapter((site, site), {"k": spread(4)})
