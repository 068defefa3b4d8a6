"""`ia3.json`: what is written is what is read, whatever characters and numbers it holds."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ia3.adapters.attached import attach
from ia3.adapters.record import describe_base, make_record, read_record, versions, write_record
from ia3.core.discovery import find_plan
from ia3.core.sites import Channels, Site
from ia3.errors import AdapterError
from tests.families import CASES, make_model

WEIGHTS = {"file": "adapter_model.safetensors", "sha256": "0" * 64}
SITES = (
    Site("h.0.attn.c_attn", "output", "key", Channels(2, 6, 2, 2), 12, "keys"),
    Site(
        "h.0.up", "output", "feedforward", Channels.span(0, 4, 4), 4, peft=("h.0.down", "input"), twin=("x", "output")
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(metrics=st.dictionaries(st.text(), JSON, max_size=4), labels=st.lists(st.text(), max_size=3))
def test_written_then_read_is_the_same(metrics: dict[str, object], labels: list[str]) -> None:
    record = make_record({"name": "…", "fingerprint": "ab"}, metrics=metrics, labels=labels, created="2026-01-01")
    assert read_record(write_record(record, SITES, WEIGHTS), "f") == (record, SITES, WEIGHTS)


def test_lone_surrogates_survive() -> None:
    record = {"labels": ["\ud800", "ok"]}
    assert read_record(write_record(record, (), WEIGHTS), "f")[0] == record


@pytest.mark.parametrize("name", CASES)
def test_the_sites_of_every_family_come_back(name: str) -> None:
    sites = find_plan(make_model(name)).sites
    assert read_record(write_record({}, sites, WEIGHTS), "f")[1] == sites


def test_a_site_takes_one_line() -> None:
    sites = find_plan(make_model("gpt2")).sites
    text = write_record({"labels": ["a"]}, sites, WEIGHTS).decode()
    assert sum('"module"' in line for line in text.splitlines()) == len(sites)
    assert json.loads(text)["plan"]["width"] == sum(site.width for site in sites)


def test_a_number_that_is_not_finite_becomes_null() -> None:
    record = {"metrics": {"perplexity": math.inf, "losses": (1.0, math.nan)}}
    assert read_record(write_record(record, (), WEIGHTS), "f")[0] == {
        "metrics": {"perplexity": None, "losses": [1.0, None]}
    }


def test_what_is_not_json_is_refused() -> None:
    with pytest.raises(AdapterError, match=r"Writing ia3\.json: the record holds something that is not JSON"):
        write_record({"settings": {"path": object()}}, (), WEIGHTS)


def test_a_base_is_described_by_what_can_be_checked() -> None:
    model = make_model("bert")
    model.name_or_path = "owner/base"
    described = describe_base(model, head_modules=("classifier",))
    assert described["name"] == "owner/base" and described["kind"] == "encoder"
    assert described["class"] == "BertForSequenceClassification" and described["head_modules"] == ["classifier"]
    attach(model)
    assert describe_base(model, head_modules=("classifier",)) == described
    assert describe_base(model, name="minilm")["name"] == "minilm"


def test_versions_name_what_the_numbers_depend_on() -> None:
    assert set(versions()) == {"python", "ia3", "torch", "transformers"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format_version": 2}, "its format has version 2, this is ia3 .* which reads up to 1. Upgrade"),
        ({"format_version": "1"}, "format_version is '1'"),
        ({"plan": {}}, "'sites' is missing"),
        ({"weights": {"file": "x"}}, "'sha256' is missing"),
        ({"base": []}, "'base' is list, expected dict or null"),
        ({"base": {"fingerprint": 3}}, "'base.fingerprint' is int, expected text or null"),
        ({"plan": {"sites": [{"side": "left"}]}}, "a site has side 'left'"),
    ],
)
def test_a_record_of_another_form_is_refused(change: dict[str, object], told: str) -> None:
    content = {"format_version": 1, "weights": WEIGHTS, "plan": {"sites": []}} | change
    with pytest.raises(AdapterError, match=told):
        read_record(json.dumps(content), "f")


def test_a_site_with_channels_that_are_not_there_is_refused() -> None:
    site = {
        "module": "k", "side": "output", "role": "key", "channels": [1, 4, 2, 4], "features": 4, "where": "",
        "peft": None, "twin": None,
    }  # fmt: skip
    content = {"format_version": 1, "weights": WEIGHTS, "plan": {"sites": [site]}}
    with pytest.raises(AdapterError, match=r"site 'k' has channels \[1, 4, 2, 4\] of 4"):
        read_record(json.dumps(content), "f")
