"""Sites and plans are plain values that fix where each number lies in a row."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ia3.core.sites import Channels, LeftOut, Plan, Site


def _site(module: str, width: int, *, side: str = "output", role: str = "key") -> Site:
    return Site(module, side, role, Channels.span(0, width, width), width)  # type: ignore[arg-type]


def test_channels_of_one_group_are_a_slice() -> None:
    assert Channels.span(2, 3, 8).indices() == (2, 3, 4)


def test_channels_of_several_groups_take_the_same_slice_of_each() -> None:
    channels = Channels(groups=2, stride=6, start=4, length=2)
    assert channels.indices() == (4, 5, 10, 11)
    assert channels.width == 4


@given(st.integers(0, 5), st.integers(1, 7), st.integers(0, 6), st.integers(0, 6))
def test_channel_numbers_ascend_and_their_count_is_the_width(groups: int, stride: int, start: int, length: int) -> None:
    start = min(start, stride)
    channels = Channels(groups, stride, start, min(length, stride - start))
    found = channels.indices()
    assert list(found) == sorted(set(found))
    assert len(found) == channels.width


def test_a_site_is_named_by_its_module_side_and_role() -> None:
    assert _site("a.k", 4).name == "a.k"
    assert _site("a.wo", 4, side="input").name == "a.wo[input]"
    assert Site("a.qkv", "output", "value", Channels.span(8, 4, 12), 12).name == "a.qkv[value]"


def test_a_plan_lays_its_sites_one_after_another() -> None:
    plan = Plan((_site("a", 4), _site("b", 2), _site("c", 3, side="input")), "toy", "targets")
    assert (plan.width, plan.widths, plan.offsets) == (9, (4, 2, 3), (0, 4, 6))
    assert [(site.module, span) for site, span in plan.spans()] == [
        ("a", slice(0, 4)),
        ("b", slice(4, 6)),
        ("c", slice(6, 9)),
    ]
    assert plan.positions[plan.sites[2].place] == 2


def test_an_empty_plan_has_no_width() -> None:
    plan = Plan((), "toy", "targets")
    assert (plan.width, plan.offsets, list(plan.spans())) == (0, (), [])


@given(st.lists(st.integers(1, 9), max_size=8))
def test_spans_cover_a_row_without_gaps(widths: list[int]) -> None:
    plan = Plan(tuple(_site(f"m{i}", width) for i, width in enumerate(widths)), "toy", "targets")
    covered = [number for _, span in plan.spans() for number in range(plan.width)[span]]
    assert covered == list(range(plan.width))


def test_what_was_left_out_does_not_make_a_plan_another_one() -> None:
    plan = Plan((_site("a", 4),), "toy", "family")
    explained = Plan((_site("a", 4),), "toy", "family", (LeftOut("q", 1, "queries are not scaled"),))
    assert plan == explained
    assert hash(plan) == hash(explained)


def test_sites_and_plans_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        _site("a", 4).module = "b"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        Plan((), "toy", "targets").model_type = "other"  # type: ignore[misc]


def test_a_plan_becomes_plain_json() -> None:
    plan = Plan((_site("a", 4),), "toy", "family", (LeftOut("q", 2, "queries are not scaled"),))
    written = json.loads(json.dumps(plan.to_json()))
    assert written["width"] == 4
    assert written["sites"][0]["channels"] == {"groups": 1, "stride": 4, "start": 0, "length": 4}
    assert written["left_out"] == [{"pattern": "q", "count": 2, "reason": "queries are not scaled"}]


@pytest.mark.parametrize(
    ("share", "numbers"),
    [(0.0, ()), (0.2, ()), (0.25, (1, 2)), (0.5, (1, 2, 3)), (0.99, (1, 2, 3, 4)), (1.0, (1, 2, 3, 4, 6))],
)
def test_the_first_blocks_are_told_by_the_first_number_of_a_path(share: float, numbers: tuple[int, ...]) -> None:
    paths = ("before", "enc.h.0.a.0.k", "enc.h.0.a.1.v", "enc.h.10.k", "dec.h.0.k", "after.last", "dec.h.1.k")
    plan = Plan(tuple(_site(path, 2) for path in paths), "toy", "targets")
    assert plan.sites_of_first_blocks(share) == frozenset(numbers)


def test_a_share_that_is_a_number_of_blocks_is_that_number() -> None:
    plan = Plan(tuple(_site(f"h.{number}.k", 1) for number in range(100)), "toy", "targets")
    assert [len(plan.sites_of_first_blocks(number / 100)) for number in range(101)] == [*range(101)]
