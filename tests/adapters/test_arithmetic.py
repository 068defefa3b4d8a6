"""Arithmetic on adapters: pure, around one, across layouts, with their heads, labels and records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ia3.adapters.adapter import Adapter
from ia3.adapters.arithmetic import (
    add,
    average,
    compare,
    dare,
    dare_ties,
    multiply,
    negate,
    size_of,
    ties,
    with_strength,
)
from ia3.adapters.attached import adapter_of, attach, put_on
from ia3.adapters.config import AdapterConfig
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.adapters.task_vectors import average_rows, scale_row
from ia3.core.discovery import find_plan
from ia3.errors import AdapterError, SettingsError
from tests.adapters.examples import adapter_for, assert_same, spread, whole
from tests.core.hand_scaled import scaled_parameters
from tests.families import make_inputs, make_model

K, V = whole("k", "output", 3), whole("v", "output", 2, "value")
GATED = whole("mlp.up", "output", 4, "feedforward", peft=("mlp.down", "input"))
LAST = whole("mlp.down", "input", 4, "feedforward")


def made(seed: int = 0, *, record: dict[str, Any] | None = None, **more: Any) -> Adapter:
    return Adapter((K, V), {"k": spread(3, seed), "v": spread(2, seed + 1)}, record=record or {}, **more)


def classifier(labels: list[str] | None = None, *, seed: int = 0, outputs: int = 2) -> Adapter:
    head = {"classifier.weight": spread((outputs, 4), seed + 5), "classifier.bias": spread(outputs, seed + 6)}
    return made(
        seed,
        record={"labels": labels, "base": {"fingerprint": "f", "name": "tiny"}},
        head=head,
        head_modules=("classifier",),
        config=AdapterConfig(modules_to_save=("classifier",), task_type="SEQ_CLS"),
    )


def _named(rows: list[list[float]]) -> dict[str, Adapter]:
    return {
        f"a{i}": Adapter((K, V), {"k": torch.tensor(row[:3]), "v": torch.tensor(row[3:])}) for i, row in enumerate(rows)
    }


a_row = st.lists(st.floats(-100, 100, width=32), min_size=5, max_size=5)
adapters_of_one_layout = st.lists(a_row, min_size=1, max_size=4).map(_named)


@settings(max_examples=50)
@given(adapters_of_one_layout)
def test_the_average_of_copies_is_the_adapter_and_nothing_is_changed(adapters: dict[str, Adapter]) -> None:
    first = adapters["a0"]
    before = {name: vector.clone() for name, vector in first.vectors.items()}
    result = average({"one": first, "two": first, "three": first}, [0.2, 0.3, 0.5])
    assert_same(replace(result, record={}), replace(first, record={}))
    for vector in result.vectors.values():
        vector.zero_()
    assert all(torch.equal(first.vectors[name], vector) for name, vector in before.items())


@settings(max_examples=50)
@given(adapters_of_one_layout)
def test_the_order_of_the_adapters_changes_no_number(adapters: dict[str, Adapter]) -> None:
    back = dict(reversed(adapters.items()))
    for method in (average, add, ties, multiply):
        there, again = method(adapters), method(back)
        assert all(torch.equal(there.vectors[name], again.vectors[name]) for name in there.vectors)


@settings(max_examples=25)
@given(adapters_of_one_layout)
def test_methods_that_do_nothing_give_the_adapter_back(adapters: dict[str, Adapter]) -> None:
    first = adapters["a0"]
    alone = {"one": first}
    for result in (
        average(alone),
        add(alone),
        multiply(alone),
        ties(alone, density=1.0),
        dare(alone, drop=0.0),
        dare_ties(alone, density=1.0, drop=0.0),
        with_strength(first, 1.0),
    ):
        assert_same(replace(result, record={}), replace(first, record={}))
    assert all(bool((vector == 1).all()) for vector in with_strength(first, 0.0).vectors.values())


def test_a_site_that_an_adapter_has_not_counts_as_one() -> None:
    """The story of a fault elsewhere: PEFT's add_weighted_adapter fills a layer that an adapter does not target with 0.

    Half of an adapter without values and half of one with them then has values of a half, as if the first adapter
    had switched half of every value off; and two adapters that change nothing sum, with weights of one, to 2.
    """
    keys = Adapter((K,), {"k": torch.full((3,), 1.5)})
    values = Adapter((V,), {"v": torch.full((2,), 3.0)})
    half = average({"keys": keys, "values": values})
    assert torch.equal(half.vectors["k"], torch.full((3,), 1.25))
    assert torch.equal(half.vectors["v"], torch.full((2,), 2.0))
    both = add({"keys": keys, "values": values})
    assert torch.equal(both.vectors["k"], keys.vectors["k"]) and torch.equal(both.vectors["v"], values.vectors["v"])
    idle = {name: with_strength(keys, 0.0) for name in ("one", "two")}
    assert torch.equal(add(idle, [1.0, 1.0]).vectors["k"], torch.ones(3))


def test_layouts_of_the_same_function_are_brought_together() -> None:
    ours = Adapter((GATED,), {"mlp.up": torch.tensor([2.0, 3.0, 4.0, 1.0])})
    theirs = Adapter((LAST,), {"mlp.down[input]": torch.tensor([4.0, 1.0, 0.0, 1.0])})
    for adapters in ({"ours": ours, "theirs": theirs}, {"theirs": theirs, "ours": ours}):
        result = average(adapters)
        assert result.sites == (GATED,)
        assert torch.equal(result.vectors["mlp.up"], torch.tensor([3.0, 2.0, 2.0, 1.0]))


def test_negation_turns_what_was_learned_round() -> None:
    adapter = made()
    result = negate(adapter, 0.5)
    for name, vector in adapter.vectors.items():
        assert torch.allclose(result.vectors[name], 1.5 - 0.5 * vector)
    assert torch.equal(negate(adapter).vectors["k"], with_strength(adapter, -1.0).vectors["k"])


@pytest.mark.parametrize("family", ["t5-gated", "gpt2", "gemma3", "bert"])
def test_an_average_in_a_bank_is_the_average_of_files_and_what_weights_scaled_by_hand_give(
    family: str, tmp_path: Path
) -> None:
    _, one = adapter_for(family, seed=1)
    _, other = adapter_for(family, seed=2)
    for name, adapter in (("one", one), ("other", other)):
        save_adapter(adapter, tmp_path / name)
    result = average({name: load_adapter(tmp_path / name) for name in ("one", "other")}, [0.7, 0.3])
    save_adapter(result, tmp_path / "both")

    plain = make_model(family)
    attachment = attach(plain, name="one")
    attachment.bank.set_vector("one", one.row(attachment.bank.plan))
    attachment.bank.add("other", other.row(attachment.bank.plan))
    rows = torch.stack([attachment.bank.vector(name) for name in ("one", "other")])
    mean = average_rows(rows, [0.7, 0.3])
    assert torch.equal(mean, load_adapter(tmp_path / "both", plain).row(attachment.bank.plan))

    attachment.bank.add("both", mean)
    with torch.no_grad():
        got = plain(**make_inputs(family), rows="both").logits
        attachment.detach()
        base = make_model(family)
        by_hand = {
            site.name: 0.7 * one.vectors[site.name] + 0.3 * other.vectors[site.name] for site in find_plan(base).sites
        }
        scaled = scaled_parameters(family, base, by_hand)
        want = torch.func.functional_call(base, scaled, kwargs=make_inputs(family)).logits
    assert (got - want).abs().max() <= 1e-5 * max(1.0, float(want.abs().max()))


def test_a_strength_at_load_is_the_strength_of_a_row() -> None:
    _, adapter = adapter_for("gpt2", seed=3)
    plan = find_plan(make_model("gpt2"))
    assert torch.equal(with_strength(adapter, 0.3).row(plan), scale_row(adapter.row(plan), 0.3))


def test_heads_of_one_label_set_are_averaged_with_the_weights() -> None:
    one, other = classifier(["no", "yes"], seed=1), classifier(["no", "yes"], seed=9)
    result = average({"one": one, "other": other}, [3.0, 1.0])
    for key, tensor in result.head.items():
        assert torch.allclose(tensor, 0.75 * one.head[key] + 0.25 * other.head[key])
    assert result.head_modules == ("classifier",) and result.config.modules_to_save == ("classifier",)
    assert result.record["labels"] == ["no", "yes"]
    assert result.record["combined"][0]["head"] == "average"
    summed = add({"one": one, "other": other}, [3.0, 1.0])
    assert torch.equal(summed.head["classifier.bias"], result.head["classifier.bias"])


@pytest.mark.parametrize("method", [average, add, ties, dare, dare_ties, multiply])
def test_equal_heads_are_kept_and_a_named_one_is_taken(method: Callable[..., Adapter]) -> None:
    one, other = classifier(["no", "yes"], seed=1), classifier(["a", "b"], seed=9)
    same = replace(other, head=one.head, record=one.record)
    assert torch.equal(method({"one": one, "same": same}).head["classifier.bias"], one.head["classifier.bias"])
    result = method({"one": one, "other": other}, head_from="other")
    assert torch.equal(result.head["classifier.bias"], other.head["classifier.bias"])
    assert result.record["labels"] == ["a", "b"] and result.record["combined"][0]["head"] == "other"


SAY = "Say whose head the result has: head_from='one' (--head-from)."


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (made(3), "the head of 'other' is not that of 'one': it has none"),
        (classifier(["b", "a"], seed=3), "the labels of 'other' are ['b', 'a'], those of 'one' ['a', 'b']"),
        (classifier(seed=3), "the record of 'other' does not say what the outputs of its head mean"),
        (
            classifier(["a", "b", "c"], outputs=3),
            "the head of 'other' is not that of 'one': 'classifier.weight' is (3, 4) torch.float32, there (2, 4) "
            "torch.float32",
        ),
    ],
)
def test_heads_that_cannot_be_averaged_are_refused_by_name(other: Adapter, told: str) -> None:
    with pytest.raises(AdapterError) as caught:
        average({"one": classifier(["a", "b"], seed=1), "other": other})
    assert str(caught.value) == f"Combining adapters with heads: {told}. {SAY}"


def test_other_methods_do_not_average_heads() -> None:
    adapters = {"one": classifier(["a", "b"], seed=1), "other": classifier(["a", "b"], seed=2)}
    for method in (ties, dare, dare_ties, multiply):
        with pytest.raises(AdapterError) as caught:
            method(adapters)
        assert str(caught.value) == (
            "Combining adapters with heads: their heads have other numbers, and this method is for vectors alone. "
            f"{SAY}"
        )
    with pytest.raises(AdapterError, match="cannot be averaged with weights whose sum is 0"):
        add(adapters, [1.0, -1.0])
    with pytest.raises(SettingsError, match=r"head_from is 'othr', which is none of them\. Did you mean 'other'"):
        average(adapters, head_from="othr")


def test_the_strength_dial_leaves_the_head_alone() -> None:
    one = classifier(["a", "b"])
    for result in (with_strength(one, 0.5), negate(one)):
        assert result.head is one.head and result.head_modules == one.head_modules
        assert result.record["labels"] == ["a", "b"]


def test_the_record_says_how_the_adapter_came_about() -> None:
    words = {"template": {"prompt": "{{ text }}", "target": "{{ label }}"}, "max_length": 64}
    base = {"fingerprint": "f", "name": "tiny"}
    one = made(1, record={"base": base, "labels": ["a", "b"], "metrics": {"accuracy": 1}, "data": {"rows": 9}, **words})
    other = made(2, record={"base": base, "labels": ["b", "a"], **words})
    result = dare_ties({"one": one, "other": with_strength(other, 2.0)}, [1, 2], density=0.5, drop=0.25, seed=4)
    record = dict(result.record)
    assert set(record.pop("versions")) >= {"ia3", "torch"}
    assert record == {
        "base": base,
        **words,
        "combined": [
            {
                "method": "dare-ties",
                "weights": [1.0, 2.0],
                "density": 0.5,
                "drop": 0.25,
                "seed": 4,
                "adapters": [
                    {"name": "one"},
                    {"name": "other", "combined": [{"method": "strength", "strength": 2.0}]},
                ],
            }
        ],
    }
    again = negate(with_strength(one, 0.5))
    assert [step["method"] for step in again.record["combined"]] == ["strength", "negate"]
    assert "metrics" not in again.record and again.record["labels"] == ["a", "b"]


def test_a_combined_adapter_is_saved_as_peft_has_it_and_loads_on_its_base(tmp_path: Path) -> None:
    """Keys and values of one, feed-forward of the other; PEFT's names select exactly the union."""
    model, adapter = adapter_for("t5-gated")

    def only(is_feedforward: bool) -> Adapter:
        sites = tuple(site for site in adapter.sites if (site.role == "feedforward") == is_feedforward)
        return replace(adapter, sites=sites, vectors={site.name: adapter.vectors[site.name] for site in sites})

    result = add({"attention": only(False), "feedforward": only(True)})
    save_adapter(result, tmp_path / "sum")
    back = load_adapter(tmp_path / "sum", model)
    assert torch.equal(back.row(find_plan(model)), adapter.row(find_plan(model)))
    assert back.record["combined"] == result.record["combined"]


def test_a_combined_classifier_serves_its_base_with_the_averaged_head(tmp_path: Path) -> None:
    pair = {}
    for name, seed in (("one", 1), ("other", 2)):
        _, adapter = adapter_for("bert", seed, ("classifier",))
        pair[name] = replace(adapter, record={**adapter.record, "labels": ["a", "b", "c"]})
    save_adapter(average(pair), tmp_path / "both")
    fresh = make_model("bert")
    attachment = put_on(fresh, load_adapter(tmp_path / "both", fresh), "both")
    head = adapter_of(attachment, "both").head
    assert torch.allclose(
        head["classifier.bias"], (pair["one"].head["classifier.bias"] + pair["other"].head["classifier.bias"]) / 2
    )


def test_adapters_of_different_bases_are_refused_by_name() -> None:
    one = made(1, record={"base": {"fingerprint": "a" * 64, "name": "t5-small"}})
    other = made(2, record={"base": {"fingerprint": "b" * 64, "name": "t5-base"}})
    unknown = made(3)
    with pytest.raises(AdapterError) as caught:
        average({"news": one, "plain": unknown, "mail": other})
    assert str(caught.value) == (
        "Combining adapters 'news' and 'mail': they were trained on different bases, 'news' on 't5-small' (fingerprint "
        "aaaaaaaaaaaa), 'mail' on 't5-base' (fingerprint bbbbbbbbbbbb). Leave one of them out."
    )
    assert average({"plain": unknown, "mail": other}).record["base"]["name"] == "t5-base"


def test_no_adapter_and_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(SettingsError, match="Combining adapters: got none, expected at least one"):
        average({})
    odd = Adapter((K,), {"k": torch.tensor([1.0, float("nan"), 1.0])})
    with pytest.raises(AdapterError, match="vector 'k' of 'odd' holds numbers that are not finite"):
        average({"odd": odd, "one": made()})


def test_comparing_gives_distance_and_cosine_of_all_and_by_role() -> None:
    def pointing(k: float, v: float) -> Adapter:
        return Adapter((K, V), {"k": torch.full((3,), 1.0 + k), "v": torch.full((2,), 1.0 + v)})

    near, far, base = pointing(1, 0), pointing(-1, 0), pointing(0, 0)
    pairs = compare({"near": near, "far": far, "base": base})
    assert [(pair.first, pair.second) for pair in pairs] == [("near", "far"), ("near", "base"), ("far", "base")]
    assert pairs[0].cosine == {"all": pytest.approx(-1), "key": pytest.approx(-1), "value": None}
    assert pairs[0].distance["all"] == pytest.approx(12**0.5) and pairs[0].distance["value"] == 0
    assert pairs[1].cosine["all"] is None and pairs[1].distance["key"] == pytest.approx(3**0.5)
    assert size_of(near) == pytest.approx(3**0.5)


def test_comparing_sees_through_the_layout() -> None:
    ours = Adapter((GATED,), {"mlp.up": spread(4)})
    theirs = Adapter((LAST,), {"mlp.down[input]": spread(4)})
    (pair,) = compare({"ours": ours, "theirs": theirs})
    assert pair.distance["all"] == 0 and pair.cosine["feedforward"] == pytest.approx(1)
