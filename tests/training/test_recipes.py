"""Recipes: the paper's numbers, what a user's own settings change, and where a run differs from the paper."""

from __future__ import annotations

import pytest

from ia3.errors import SettingsError
from ia3.training.recipes import (
    PLAIN_HEAD,
    RECIPES,
    differences_from_paper,
    leaves_open,
    recipe_note,
    suggest_recipe,
)
from ia3.training.settings import DEFAULTS, settings_for


def test_t_few_is_the_papers() -> None:
    settings = settings_for("seq2seq", recipe="t-few")
    assert (settings.losses, settings.optimizer, settings.learning_rate) == ("lm+ul+ln", "adafactor", 3e-3)
    assert (settings.total_steps(examples=32), settings.batch_size, settings.dropout) == (1000, 8, False)
    rates = [settings.rate(step, 1000) for step in range(1000)]
    assert rates.index(max(rates)) == 60 and max(rates) == 1.0
    assert settings.recipe == "t-few"


def test_t_few_small_has_at_most_about_a_hundred_steps_and_its_own_rates_for_each_kind() -> None:
    for kind, default in DEFAULTS.items():
        settings = settings_for(kind, recipe="t-few-small")
        assert settings.total_steps(examples=40) <= 120
        assert settings.learning_rate == {"causal": 2e-2, "encoder": 2e-2}.get(kind, default.learning_rate)
        is_encoder = kind == "encoder"
        assert (settings.fit_head, settings.pooling) == (is_encoder, "auto" if is_encoder else "own")
        assert (settings.label_texts, settings.judge) == (is_encoder, is_encoder)
        assert settings.losses == {"causal": "lm", "encoder": "auto"}.get(kind, "lm+ul+ln")
    encoder = settings_for("encoder", recipe="t-few-small")
    assert (encoder.max_steps, encoder.batch_size, encoder.head_learning_rate) == (40, 64, 5e-4)


def test_a_run_from_a_start_has_the_recipes_rate_for_that_and_the_record_says_why() -> None:
    started = settings_for("causal", has_start=True, recipe="t-few-small")
    assert (started.learning_rate, started.feedforward_rate, started.max_steps) == (8e-3, 3.0, 60)
    encoders = [settings_for("encoder", has_start=has_start, recipe="t-few-small") for has_start in (False, True)]
    assert encoders[0] == encoders[1]
    given = settings_for("causal", has_start=True, recipe="t-few-small", learning_rate=0.05)
    assert given.learning_rate == 0.05 and settings_for("causal", has_start=True) == DEFAULTS["causal"]
    why = {rate: differences_from_paper(one.to_json(), "causal")[2]["why"] for rate, one in ((1, started), (2, given))}
    assert why == {1: RECIPES["t-few-small"].reasons["learning_rate"], 2: None}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_the_default_recipe_changes_nothing(kind: str) -> None:
    assert settings_for(kind, recipe="default") == settings_for(kind) == DEFAULTS[kind]  # type: ignore[arg-type]


def test_what_the_user_gives_changes_the_recipe() -> None:
    settings = settings_for("causal", recipe="t-few", learning_rate=0.01, batch_size=None, clip=0)
    assert (settings.learning_rate, settings.batch_size, settings.clip, settings.max_steps) == (0.01, 8, 0.0, 1000)


def test_epochs_given_with_a_recipe_of_steps_decide() -> None:
    """They were once taken and had no effect, since the recipe's number of steps stood beside them."""
    assert settings_for("causal", recipe="t-few", epochs=2).total_steps(16) == 4
    assert settings_for("causal", recipe="t-few", epochs=2, max_steps=3).total_steps(16) == 3


def test_an_unknown_recipe_is_an_error_with_near_matches() -> None:
    with pytest.raises(SettingsError, match=r"no recipe 'tfew'\. Did you mean 't-few'.*'ia3 recipes' lists them"):
        settings_for("causal", recipe="tfew")


def test_a_few_shot_table_has_a_few_shot_recipe_by_the_size_of_its_base() -> None:
    assert suggest_recipe("causal", 40, 3, 270_000_000, steps=15) == "t-few-small"
    assert suggest_recipe("seq2seq", 40, 3, 3_000_000_000, steps=15) == "t-few"
    assert suggest_recipe("causal", 40, 0, 270_000_000, steps=15) == "default"  # free text
    assert suggest_recipe("causal", 2000, 3, 270_000_000, steps=750) == "default"
    assert suggest_recipe("encoder", 40, 3, 22_000_000, steps=20) == "t-few-small"


def test_of_many_labels_few_rows_are_more_than_its_steps_can_see() -> None:
    found = [
        suggest_recipe("causal", 30 * labels, labels, 270_000_000, steps) for labels, steps in ((8, 100), (9, 101))
    ]
    assert found == ["t-few-small", "default"]
    assert suggest_recipe("causal", 2310, 77, 3_000_000_000, steps=867) == "t-few"
    assert recipe_note("causal", 2310, 77, 270_000_000, steps=867) == ""
    assert suggest_recipe("encoder", 2310, 77, 22_000_000, steps=1156) == "t-few-small"  # its head sees all of them


def test_what_a_recipe_for_few_rows_decides_does_not_leave_it_open() -> None:
    for kind, settings in (("causal", "beta1"), ("encoder", "fit_head"), ("seq2seq", "losses")):
        assert leaves_open({"seed": 1, "token_budget": 99, "compile": "off", settings: None}, kind)  # type: ignore[arg-type]
        assert not leaves_open({settings: getattr(settings_for(kind), settings)}, kind)  # type: ignore[arg-type]
    assert not any(leaves_open({name: 1}, "causal") for name in ("recipe", "epochs", "max_steps", "batch_size"))


def test_few_rows_are_told_of_the_recipe_and_many_are_not() -> None:
    told = recipe_note("causal", 40, 3, 270_000_000, steps=15)
    assert (
        told == "40 rows of 3 labels are few for the defaults (15 steps): --recipe t-few-small is made for so few rows."
    )
    assert recipe_note("causal", 2000, 3, 270_000_000, steps=750) == ""


def test_the_record_says_where_a_run_differs_from_the_paper_and_why() -> None:
    assert differences_from_paper(settings_for("causal").to_json(), "causal") == []
    papers = differences_from_paper(settings_for("seq2seq", recipe="t-few").to_json(), "seq2seq")
    assert [one["setting"] for one in papers] == ["templates", "start"]
    changed = settings_for("causal", recipe="t-few-small", batch_size=4)
    found = {one["setting"]: one for one in differences_from_paper(changed.to_json(), "causal")}
    assert set(found) >= {"optimizer", "learning_rate", "warmup", "max_steps", "batch_size", "base"}
    assert (found["batch_size"]["paper"], found["batch_size"]["here"], found["batch_size"]["why"]) == (8, 4, None)
    assert all(one["why"] for name, one in found.items() if name != "batch_size")
    head = differences_from_paper(settings_for("encoder", recipe="t-few").to_json(), "encoder")
    assert "LM and UL have no counterpart" in head[-1]["why"]
    small = differences_from_paper(
        settings_for("encoder", recipe="t-few-small", losses="lm", fit_head=False).to_json(), "encoder"
    )
    own = {one["setting"]: (one["paper"], one["here"]) for one in small if one["paper"] == "no head"}
    assert own == {"head_learning_rate": ("no head", 5e-4), "pooling": ("no head", "auto")}
    settled = {**settings_for("encoder", recipe="t-few-small").to_json(), "pooling": "mean"}  # as records have it
    assert all(one["why"] for one in differences_from_paper(settled, "encoder"))
    assert {name: getattr(DEFAULTS["encoder"], name) for name in PLAIN_HEAD} == PLAIN_HEAD
    assert not {one["setting"] for one in head} & {"head_learning_rate", "pooling", "fit_head"}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_for_every_kind_and_gives_a_reason_for_each_change(name: str) -> None:
    for kind in DEFAULTS:
        settings = settings_for(kind, recipe=name)
        assert all(one["why"] for one in differences_from_paper(settings.to_json(), kind))
