"""Plans from a user's own targets, what is refused, and what a plan says of the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.projections import find_projections, match_modules, projection_sizes, whole_site
from ia3.errors import PlanError
from tests.core.banks import attached_model, largest, random_row, tiny_model
from tests.core.unknown_models import EXPERTS, REFUSED
from tests.families import CASES, VOCABULARY, make_inputs, with_large_weights


@pytest.fixture(scope="module")
def bert() -> Any:
    return tiny_model("bert")


@pytest.fixture(scope="module")
def llama() -> Any:
    return tiny_model("llama")


def _names(model: Any, **targets: Any) -> list[str]:
    return [site.name for site in find_plan(model, **targets).sites]


def test_targets_are_whole_projections_with_the_roles_of_their_names(llama: Any) -> None:
    plan = find_plan(llama, target_modules=["q_proj", "v_proj", "o_proj"])
    assert plan.source == "targets"
    assert [(s.module.split(".", 3)[3], s.side, s.role, s.width) for s in plan.sites[:3]] == [
        ("self_attn.q_proj", "output", "query", 16),
        ("self_attn.v_proj", "output", "value", 8),
        ("self_attn.o_proj", "output", "other", 16),
    ]
    assert len(plan.sites) == 6


def test_a_name_matches_in_full_or_after_a_dot(bert: Any) -> None:
    both = _names(bert, target_modules=["output.dense"], feedforward_modules=[])
    assert both == [
        "bert.encoder.layer.0.attention.output.dense", "bert.encoder.layer.0.output.dense",
        "bert.encoder.layer.1.attention.output.dense", "bert.encoder.layer.1.output.dense",
    ]  # fmt: skip
    assert _names(bert, target_modules=["classifier"]) == ["classifier"]
    with pytest.raises(PlanError, match=r"'put\.dense' of target_modules matches no linear module"):
        find_plan(bert, target_modules=["put.dense"])


def test_an_expression_matches_in_full(bert: Any) -> None:
    assert _names(bert, target_modules=r".*layer\.\d+\.output\.dense") == [
        "bert.encoder.layer.0.output.dense[input]", "bert.encoder.layer.1.output.dense[input]",
    ]  # fmt: skip
    with pytest.raises(PlanError, match=r"the expression 'key' of target_modules matches no linear module"):
        find_plan(bert, target_modules="key")
    with pytest.raises(PlanError, match="target_modules is no regular expression"):
        find_plan(bert, target_modules="(key")


def test_feedforward_modules_are_multiplied_at_their_input(llama: Any) -> None:
    plan = find_plan(llama, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    assert [(site.module.rsplit(".", 1)[1], site.side, site.width) for site in plan.sites[:2]] == [
        ("k_proj", "output", 8), ("down_proj", "input", 24),
    ]  # fmt: skip


def test_without_feedforward_modules_a_known_family_knows_its_own(llama: Any) -> None:
    assert _names(llama, target_modules=["down_proj"])[0].endswith("down_proj[input]")
    assert not _names(llama, target_modules=["down_proj"], feedforward_modules=[])[0].endswith("[input]")


def test_a_name_that_matches_nothing_is_an_error_even_when_another_one_matches(llama: Any) -> None:
    with pytest.raises(PlanError, match=r"'w2', 'kproj' of target_modules match no linear module.*'k_proj'"):
        find_plan(llama, target_modules=["v_proj", "w2", "kproj"])
    with pytest.raises(PlanError, match="'wo' of feedforward_modules matches no linear module"):
        find_plan(llama, target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj", "wo"])
    with pytest.raises(PlanError, match=r"'v_prj' of exclude_modules matches no linear module\. Did you mean 'v_proj'"):
        find_plan(llama, exclude_modules=["v_prj"])


def test_feedforward_modules_outside_the_targets_are_refused(llama: Any) -> None:
    with pytest.raises(PlanError, match="has no module in common with target_modules"):
        find_plan(llama, target_modules=["k_proj"], feedforward_modules=["down_proj"])
    with pytest.raises(PlanError, match="feedforward_modules is given without target_modules"):
        find_plan(llama, feedforward_modules=["down_proj"])


def test_excluded_modules_carry_no_vector(llama: Any) -> None:
    assert not any("v_proj" in name for name in _names(llama, exclude_modules=["v_proj"]))
    first = _names(llama, exclude_modules=r"model\.layers\.1\..*")
    assert {name.split(".")[2] for name in first} == {"0"}
    assert _names(llama, target_modules=["k_proj"], exclude_modules=r".*\.0\..*") == ["model.layers.1.self_attn.k_proj"]
    for targets in ({"target_modules": ["k_proj"], "exclude_modules": ["k_proj"]}, {"target_modules": []}):
        with pytest.raises(PlanError, match=r"no site is left\. Give more target_modules, or fewer exclude_modules"):
            find_plan(llama, **targets)


def test_all_linear_is_every_projection_but_the_head() -> None:
    for name, head in (("llama", "lm_head"), ("bert", "classifier"), ("distilbert", "classifier")):
        model = tiny_model(name)
        linears = {path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
        assert set(_names(model, target_modules="all-linear")) == linears - {head}


def test_the_reasons_of_what_is_left_out_follow_the_targets(llama: Any) -> None:
    plan = find_plan(llama, target_modules=["k_proj"], exclude_modules=r".*\.1\.self_attn\.k_proj")
    reasons = {entry.reason: entry.count for entry in plan.left_out}
    assert reasons["named by exclude_modules"] == 1
    assert {e.reason for e in plan.left_out if "up_proj" in e.pattern} == {"not named by target_modules"}


def test_a_reason_that_speaks_of_a_vector_is_given_only_where_there_is_one(llama: Any) -> None:
    """`fc1` had "the vector is on the activation behind it" in layers where that vector was left out."""
    layer = r"model\.layers\.1\."
    plan = find_plan(llama, exclude_modules=rf"{layer}(mlp\.up_proj|self_attn\.v_proj)")
    reasons: dict[str, set[str]] = {}
    for entry in plan.left_out:
        reasons.setdefault(entry.pattern.rpartition(".")[2], set()).add(entry.reason)
    plain = "not a key, value or feed-forward activation"
    assert reasons["gate_proj"] == {"gate of the feed-forward; the vector is on what it gates", plain}
    assert reasons["o_proj"] == {
        "output of the attention; a vector there would be the value vector a second time",
        plain,
    }
    assert len(reasons["q_proj"]) == 1


@pytest.mark.parametrize("name", EXPERTS)
def test_a_mixture_of_experts_is_refused_and_its_keys_and_values_can_be_named(name: str) -> None:
    with torch.device("meta"):
        model = EXPERTS[name]()
    for targets in ({}, {"target_modules": "all-linear"}):
        with pytest.raises(PlanError, match="is a mixture of experts, and vectors for each expert are not built yet"):
            find_plan(model, **targets)
    keys = ["k", "v"] if name.startswith("switch") else ["k_proj", "v_proj"]
    plan = find_plan(model, target_modules=keys)
    assert {site.role for site in plan.sites} == {"key", "value"}


def test_targets_inside_the_experts_are_refused() -> None:
    with torch.device("meta"):
        model = EXPERTS["qwen2_moe"]()
    told = (
        r"target 'model\.layers\.0\.mlp\.shared_expert\.up_proj' belongs to a mixture of experts, and the routed ones"
    )
    with pytest.raises(PlanError, match=told):
        find_plan(model, target_modules=["k_proj", "up_proj"], feedforward_modules=[])


def test_a_target_whose_side_is_not_known_in_an_unknown_model_type_is_refused() -> None:
    with torch.device("meta"):
        model = EXPERTS["qwen2_moe"]()
    with pytest.raises(PlanError, match="o_proj' is a target in a model type that is not in the table") as told:
        find_plan(model, target_modules=["k_proj", "o_proj"])
    assert "Give feedforward_modules, the targets whose input is scaled, or [] for none." in str(told.value)
    sides = {
        s.side for s in find_plan(model, target_modules=["k_proj", "o_proj"], feedforward_modules=["o_proj"]).sites
    }
    assert sides == {"output", "input"}


def test_the_keys_and_values_of_experts_equal_merged_weights() -> None:
    from ia3.core.merge import merge

    model = with_large_weights(EXPERTS["mixtral"])
    bank = Bank(find_plan(model, target_modules=["k_proj", "v_proj"]))
    attachment = attach_bank(model, bank)
    bank.add("news", random_row(bank))
    ids = torch.randint(3, VOCABULARY, (2, 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = model(ids, rows="news").logits
        assert largest(found - merge(attachment, "news")(ids).logits) <= 1e-5


def test_an_unknown_model_takes_the_lines_its_refusal_shows() -> None:
    model = with_large_weights(REFUSED["blenderbot"][0])
    plan = find_plan(model, target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"])
    assert [site.role for site in plan.sites].count("feedforward") == 2


def test_the_projection_that_multihead_attention_never_calls_is_no_target() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)
            self.lin2 = nn.Linear(8, 8)

    with pytest.raises(PlanError, match="'out_proj' of target_modules matches no linear module"):
        find_plan(Model(), target_modules=["out_proj", "lin2"])


def test_a_bank_on_the_model_is_no_part_of_the_base() -> None:
    model, attachment = attached_model("bert", "news")
    before = attachment.bank.plan
    attachment.route_heads(["classifier"])
    attachment.add("wire")
    assert find_plan(model) == before
    assert find_plan(model).left_out == before.left_out
    assert all(not path.startswith("ia3_bank") for path in (p.path for p in find_projections(model)))


def test_sizes_are_those_of_inputs_and_outputs() -> None:
    conv1d = tiny_model("gpt2").transformer.h[0].mlp.c_fc
    assert projection_sizes(conv1d) == (16, 24)
    assert projection_sizes(nn.Linear(2, 3)) == (2, 3)
    assert projection_sizes(nn.Embedding(2, 3)) is None
    assert projection_sizes(nn.Conv2d(1, 2, 3)) is None


def test_a_subclass_of_linear_is_a_projection() -> None:
    class QuantisedLinear(nn.Module):
        in_features, out_features = 8, 4

    class DroppingLinear(nn.Linear):
        pass

    model = nn.ModuleDict({"k": QuantisedLinear(), "v": DroppingLinear(8, 4)})
    assert [(p.path, p.inputs, p.outputs) for p in find_projections(model)] == [("k", 8, 4), ("v", 8, 4)]
    (projection,) = match_modules(find_projections(model), ["v"], "target_modules")
    assert whole_site(projection, "input").width == 8
    assert whole_site(projection, "output").role == "value"


@pytest.mark.parametrize("family", ["t5-gated", "llama", "gpt2", "bert"])
def test_targets_equal_merged_weights(family: str) -> None:
    """A user's own targets, at either side and on fused projections whole, are the function that merging writes."""
    from ia3.core.merge import merge

    targets = {
        "t5-gated": (["q", "o", "wi_0", "wo"], ["wo", "o"]),
        "llama": (["q_proj", "gate_proj", "down_proj"], []),
        "gpt2": (["c_attn", "c_fc", "c_proj"], ["c_proj"]),
        "bert": (["query", "output.dense"], ["output.dense"]),
    }[family]
    model = tiny_model(family)
    bank = Bank(find_plan(model, target_modules=targets[0], feedforward_modules=targets[1]))
    attachment = attach_bank(model, bank)
    bank.add("news", random_row(bank))
    with torch.no_grad():
        found = model(**make_inputs(family), rows="news").logits
        assert largest(found - merge(attachment, "news")(**make_inputs(family)).logits) <= 1e-5
        assert largest(found - model(**make_inputs(family), rows="__base__").logits) > 0.01


def test_every_family_finds_its_default_sites_among_all_linear_ones() -> None:
    for name in CASES:
        model = tiny_model(name)
        everything = {p.path for p in find_projections(model)}
        assert {site.module for site in find_plan(model).sites} <= everything
