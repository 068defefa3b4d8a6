"""From a config to sites and heads, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from ia3.core.discovery import find_plan
from ia3.core.sites import Plan
from ia3.errors import PlanError, SettingsError
from ia3.peft import IA3Config, PeftConfig
from ia3.peft.targets import covers, select
from tests.families import make_model


def sides(plan: Plan) -> dict[str, str]:
    return {site.module: site.side for site in plan.sites}


def refusal(family: str, **arguments: Any) -> str:
    with pytest.raises(PlanError) as caught:
        select(make_model(family), IA3Config(**arguments))
    return str(caught.value)


@pytest.mark.parametrize("family", ["t5", "mt5", "gpt2", "gemma3", "bert", "umt5"])
def test_targets_left_out_mean_the_plan_of_the_model(family: str) -> None:
    model = make_model(family)
    assert select(model, IA3Config()).plan == find_plan(model)


def test_names_match_whole_parts_of_a_path_and_feedforward_names_any_end() -> None:
    config = IA3Config(target_modules=["k", "layer.1.DenseReluDense.wo"], feedforward_modules=None)
    found = sides(select(make_model("t5"), config).plan)
    # the decoder's feed-forward is its layer.2
    assert {path for path, side in found.items() if side == "input"} == {
        f"encoder.block.{block}.layer.1.DenseReluDense.wo" for block in (0, 1)
    }
    assert {path.rpartition(".")[2] for path, side in found.items() if side == "output"} == {"k"}


def test_an_expression_must_match_the_whole_path() -> None:
    found = sides(select(make_model("mt5"), IA3Config(target_modules=r"decoder.*SelfAttention\.(k|v)")).plan)
    assert len(found) == 4
    assert all(path.startswith("decoder") for path in found)
    assert "matches no module. An expression must match a whole path" in refusal(
        "mt5", target_modules="SelfAttention.k"
    )


def test_feedforward_modules_left_out_are_peft_s_default_of_the_model_type() -> None:
    chosen = select(make_model("llama"), IA3Config(target_modules=["k_proj", "down_proj"]))
    assert chosen.config.feedforward_modules == {"down_proj"}
    assert {side for path, side in sides(chosen.plan).items() if path.endswith("down_proj")} == {"input"}
    none = select(make_model("llama"), IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=[]))
    assert set(sides(none.plan).values()) == {"output"}


def test_a_model_type_without_default_asks_for_feedforward_modules() -> None:
    assert "Please specify feedforward_modules, there is no default for model type 'umt5'" in refusal(
        "umt5", target_modules=["k", "v"]
    )
    assert select(make_model("umt5"), IA3Config(target_modules=["k"], feedforward_modules=[])).plan.width > 0


def test_all_linear_leaves_out_the_output_layer_and_a_classifier() -> None:
    t5 = sides(select(make_model("t5"), IA3Config(target_modules="ALL-linear")).plan)
    assert "lm_head" not in t5
    assert t5["encoder.block.0.layer.0.SelfAttention.o"] == "output"
    assert t5["encoder.block.0.layer.1.DenseReluDense.wo"] == "input"
    bert = make_model("bert")
    assert "classifier" in sides(select(bert, IA3Config(target_modules="all-linear")).plan)
    assert "classifier" not in sides(select(bert, IA3Config(target_modules="all-linear", task_type="SEQ_CLS")).plan)


def test_excluded_modules_are_left_out_of_targets_and_of_the_plan() -> None:
    for config in (IA3Config(target_modules=["k", "v"], exclude_modules=["v"]), IA3Config(exclude_modules=["v"])):
        found = sides(select(make_model("mt5"), config).plan)
        assert found
        assert not any(path.endswith(".v") for path in found)


def test_a_name_that_matches_nothing_is_an_error_even_beside_one_that_matches() -> None:
    assert "'w0' of target_modules matches no module. Known: " in refusal("t5", target_modules=["k", "w0"])
    assert "'keys' of target_modules matches no module. Did you mean 'key'" in refusal("bert", target_modules=["keys"])
    assert "'keys', 'vals' of target_modules match no module." in refusal("t5", target_modules=["k", "keys", "vals"])
    assert "'q_proj' of exclude_modules matches no module." in refusal(
        "t5", target_modules=["k"], exclude_modules=["q_proj"]
    )
    assert "'classifer' of modules_to_save matches no module. Did you mean 'classifier'" in refusal(
        "bert", modules_to_save=["classifer"]
    )
    assert "the expression '.*wo' of feedforward_modules matches no target" in refusal(
        "t5", target_modules=["k"], feedforward_modules=".*wo"
    )


def test_what_is_no_expression_is_told_so() -> None:
    assert "target_modules is no regular expression, got '(k'" in refusal("t5", target_modules="(k")


def test_a_target_must_be_a_linear_module() -> None:
    told = refusal("bert", target_modules=["attention", "key"])
    assert "'bert.encoder.layer.0.attention' (BertAttention)" in told
    assert "expected linear modules" in told
    assert "'shared' (Embedding)" in refusal("t5", target_modules=["shared"])


def test_targets_that_are_all_left_out_again_are_an_error() -> None:
    assert "are left out by exclude_modules ('k',)" in refusal("t5", target_modules=["k"], exclude_modules=["k"])
    assert "every site lies in modules_to_save ['encoder', 'decoder']" in refusal(
        "t5", modules_to_save=["encoder", "decoder"]
    )


def test_feedforward_modules_without_targets_are_an_error() -> None:
    assert "feedforward_modules is given without target_modules" in refusal("t5", feedforward_modules=["wo"])


def test_a_vector_inside_a_module_that_is_trained_whole_is_an_error() -> None:
    # 'ifier' is an end of the path, so the module is saved, but no part of it, so it stays a target
    told = refusal("bert", target_modules=["classifier"], modules_to_save=["ifier"])
    assert "'classifier' lies in a module that is trained whole" in told


@pytest.mark.parametrize(
    ("family", "heads"),
    [("bert", ("classifier",)), ("distilbert", ("pre_classifier", "classifier")), ("modernbert", ("classifier",))],
)
def test_a_classifier_trains_its_head(family: str, heads: tuple[str, ...]) -> None:
    chosen = select(make_model(family), IA3Config(task_type="SEQ_CLS"))
    assert chosen.heads == heads
    assert chosen.config.modules_to_save == ["classifier", "score"]
    assert select(make_model(family), IA3Config()).heads == ()


def test_a_config_that_was_filled_in_can_be_used_again() -> None:
    model = make_model("bert")
    first = select(model, IA3Config(task_type="SEQ_CLS", modules_to_save=["bert.pooler"]))
    assert first.heads == ("bert.pooler", "classifier")
    assert select(model, first.config).heads == first.heads


def test_the_given_config_is_not_changed() -> None:
    config = IA3Config(task_type="SEQ_CLS", target_modules=["key"])
    before = config.to_dict()
    select(make_model("bert"), config)
    assert config.to_dict() == before


def test_the_way_weights_are_held_is_read_from_the_model() -> None:
    assert select(make_model("gpt2"), IA3Config()).config.fan_in_fan_out is True
    assert select(make_model("bert"), IA3Config(fan_in_fan_out=True)).config.fan_in_fan_out is False


def test_a_plain_module_can_be_targeted_by_name() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert sides(select(model, IA3Config(target_modules=["0"], feedforward_modules=[])).plan) == {"0": "output"}


def test_a_config_of_another_library_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"the config is a builtins\.dict, expected ia3\.peft\.IA3Config"):
        select(make_model("mt5"), {"task_type": "SEQ_CLS"})
    with pytest.raises(SettingsError, match=r"ia3\.peft\.config\.PeftConfig, expected"):
        select(make_model("mt5"), PeftConfig())


def test_the_same_function_in_another_place_covers_the_plan() -> None:
    model = make_model("llama")
    own = find_plan(model)
    as_peft = select(model, IA3Config(target_modules=["k_proj", "v_proj", "down_proj"])).plan
    assert covers(as_peft.sites, own)
    assert covers(own.sites, as_peft)
    less = select(model, IA3Config(target_modules=["k_proj", "v_proj"])).plan
    assert not covers(less.sites, own)
    assert not covers(own.sites, less)
