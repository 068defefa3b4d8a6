"""Adapters of different layouts on one plan: each keeps its function, whatever the order."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from ia3.adapters.adapter import Adapter
from ia3.adapters.common_sites import find_common_plan
from ia3.core.sites import Channels, Plan, Site
from ia3.errors import AdapterError
from tests.adapters.examples import spread, whole


def adapter(*sites: Site, **vectors: Tensor) -> Adapter:
    given = {site.name: vectors.get(site.role, spread(site.width)) for site in sites}
    return Adapter(sites, given)


def part(start: int, role: str) -> Site:
    return Site("qkv", "output", role, Channels.span(start, 4, 12), 12)


GATED = whole("mlp.up", "output", 4, "feedforward", peft=("mlp.down", "input"))
LAST = whole("mlp.down", "input", 4, "feedforward")
K, V = whole("k", "output", 4), whole("v", "output", 3, "value")


def test_the_union_has_every_site_once() -> None:
    plan = find_common_plan({"a": adapter(K), "b": adapter(K, V)})
    assert [site.name for site in plan.sites] == ["k", "v"]


def test_the_same_layout_stays_in_its_order() -> None:
    sites = (V, K, GATED)
    assert find_common_plan({"a": adapter(*sites), "b": adapter(*sites)}).sites == sites


@pytest.mark.parametrize("order", permutations(["ours", "peft"]))
def test_a_linear_branch_and_the_input_of_the_last_projection_are_one_site(order: tuple[str, ...]) -> None:
    adapters = {"ours": adapter(GATED), "peft": adapter(LAST)}
    plan = find_common_plan({name: adapters[name] for name in order})
    assert plan.sites == (GATED,)
    assert torch.equal(adapters["peft"].row(plan), adapters["ours"].row(plan))


@pytest.mark.parametrize("order", permutations(["slices", "whole"]))
def test_slices_are_kept_where_the_rest_of_a_fused_projection_is_ones(order: tuple[str, ...]) -> None:
    fused = Adapter((whole("qkv", "output", 12),), {"qkv": torch.cat([torch.ones(4), spread(8)])})
    adapters = {"slices": adapter(part(4, "key"), part(8, "value")), "whole": fused}
    plan = find_common_plan({name: adapters[name] for name in order})
    assert [site.name for site in plan.sites] == ["qkv[key]", "qkv[value]"]
    assert torch.equal(fused.row(plan), spread(8))


@pytest.mark.parametrize("order", permutations(["slices", "whole"]))
def test_a_scaled_query_makes_the_fused_projection_whole(order: tuple[str, ...]) -> None:
    fused = Adapter((whole("qkv", "output", 12),), {"qkv": spread(12)})
    adapters = {"slices": adapter(part(4, "key"), part(8, "value")), "whole": fused}
    plan = find_common_plan({name: adapters[name] for name in order})
    assert [site.name for site in plan.sites] == ["qkv"]
    assert torch.equal(fused.row(plan), spread(12))
    assert torch.equal(adapters["slices"].row(plan), torch.cat([torch.ones(4), spread(4), spread(4)]))


def test_two_places_of_which_nobody_knows_that_they_are_one_stay_two() -> None:
    up = whole("mlp.up", "output", 4, "other")
    adapters = {"a": adapter(up), "b": adapter(LAST)}
    assert [site.name for site in find_common_plan(adapters).sites] == ["mlp.up", "mlp.down[input]"]


def test_the_plan_of_the_base_says_that_they_are_one() -> None:
    up = whole("mlp.up", "output", 4, "other")
    base = Plan((K, GATED), "toy", "family")
    adapters = {"a": adapter(up), "b": adapter(LAST)}
    plan = find_common_plan(adapters, base)
    assert plan.sites == base.sites
    assert torch.equal(adapters["a"].row(plan), adapters["b"].row(plan))


def test_sites_that_the_plan_of_the_base_has_not_come_behind() -> None:
    plan = find_common_plan({"a": adapter(V, K)}, Plan((K,), "toy", "family"))
    assert plan.sites == (K, V)


def test_a_vector_of_ones_has_a_place_as_well() -> None:
    plan = find_common_plan({"a": adapter(K), "b": Adapter((V,), {"v": torch.ones(3)})})
    assert plan.sites == (K, V)


def test_another_size_is_another_base() -> None:
    with pytest.raises(AdapterError) as caught:
        find_common_plan({"small": adapter(K), "large": adapter(whole("k", "output", 8))})
    assert str(caught.value) == (
        "Combining adapters 'small' and 'large': vector 'k' has 4 channels in the one and 8 in the other, expected "
        "adapters of one base. Leave one of them out."
    )
