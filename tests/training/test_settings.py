"""Settings: defaults by kind, every fault told at once, and the schedule of the learning rate."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_linear_schedule_with_warmup

from ia3.errors import SettingsError
from ia3.training.recipes import find_recipe
from ia3.training.settings import DEFAULTS, SETTINGS, Settings, settings_for, usual_temperature
from tests.training.derived_settings import COMMAND, WRITTEN


def test_each_kind_of_base_has_defaults_without_dropout() -> None:
    assert set(DEFAULTS) == {"causal", "seq2seq", "encoder"}
    assert not any(
        settings.dropout or settings.class_weights or settings.weight_decay for settings in DEFAULTS.values()
    )


def test_every_setting_is_explained_with_its_default_where_python_looks() -> None:
    for field in dataclasses.fields(Settings):
        assert f"{field.name}: {SETTINGS[field.name].help} (default: " in str(Settings.__doc__)


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.name)
def test_what_is_written_from_the_settings_is_as_they_are_declared(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text == WRITTEN[path](text), f"'{COMMAND}' writes it"


def test_what_temperature_is_usual_is_known_of_a_recipe_as_it_is() -> None:
    chosen = settings_for("causal", recipe="t-few-small", has_start=True, is_chosen=True)
    assert usual_temperature(chosen, "causal") == 1.25
    assert usual_temperature(dataclasses.replace(chosen, clip=9.0), "causal") is None
    known = find_recipe("t-few-small").temperatures
    for has_start in (False, True):
        own = settings_for("causal", recipe="t-few-small", has_start=has_start)
        alike = dataclasses.replace(own, seed=7, token_budget=512, compile="off", eval_strategy="epoch", patience=2)
        assert [usual_temperature(one, "causal") for one in (own, alike)] == [known["causal", has_start]] * 2
        for change in ({"max_steps": 30}, {"learning_rate": 1e-3}, {"losses": "lm+ul+ln"}, {"dropout": True}):
            assert usual_temperature(dataclasses.replace(own, **change), "causal") is None
    assert known["causal", False] > known["causal", True] > 1
    assert usual_temperature(settings_for("causal"), "causal") is None
    assert usual_temperature(settings_for("seq2seq", recipe="t-few-small"), "seq2seq") is None


def test_of_an_encoder_it_is_known_of_its_own_rows_alone() -> None:
    own = settings_for("encoder", recipe="t-few-small")
    settled = [dataclasses.replace(own, pooling="mean", losses=losses) for losses in ("auto", "contrast", "lm")]
    assert [usual_temperature(one, "encoder") for one in (own, *settled)] == [None] * 4


def test_overrides_change_the_named_settings_and_none_keeps_the_default() -> None:
    settings = settings_for("encoder", epochs=2, learning_rate=None, dropout=True)
    assert settings == dataclasses.replace(DEFAULTS["encoder"], epochs=2, dropout=True)


def test_patience_looks_after_each_epoch_whatever_a_recipe_says() -> None:
    assert settings_for("causal", recipe="t-few-small").eval_strategy == "end"
    assert settings_for("causal", recipe="t-few-small", patience=2).eval_strategy == "epoch"
    with pytest.raises(SettingsError, match="patience is 2 and eval_strategy 'end', expected 'epoch'"):
        settings_for("causal", patience=2, eval_strategy="end")


def test_an_unknown_setting_is_an_error_with_near_matches() -> None:
    with pytest.raises(SettingsError, match=r"no setting 'learning_rat'\. Did you mean 'learning_rate'"):
        settings_for("causal", learning_rat=1e-3)
    with pytest.raises(SettingsError, match=r"no setting 'epoch', 'batchsize'\. Did you mean 'epochs'.*'batch_size'"):
        settings_for("causal", epoch=1, batchsize=2)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("epochs", 0, "epochs is 0, expected at least 1"),
        ("max_steps", 0, "max_steps is 0, expected at least 1"),
        ("batch_size", -1, "batch_size is -1, expected at least 1"),
        ("token_budget", 0, "token_budget is 0, expected at least 1"),
        ("learning_rate", 0.0, r"learning_rate is 0\.0, expected above 0 and at most 10"),
        ("learning_rate", math.nan, "learning_rate is nan, expected above 0 and at most 10"),
        ("learning_rate", math.inf, "learning_rate is inf, expected above 0 and at most 10"),
        ("feedforward_rate", 0.0, r"feedforward_rate is 0\.0, expected above 0 and at most 100"),
        ("head_learning_rate", 11.0, r"head_learning_rate is 11\.0, expected above 0 and at most 10"),
        ("warmup", 1.0, r"warmup is 1\.0, expected a share in \[0, 1\)"),
        ("warmup", -0.1, r"warmup is -0\.1, expected a share"),
        ("weight_decay", -1.0, r"weight_decay is -1\.0, expected a number of at least 0"),
        ("weight_decay", math.inf, "weight_decay is inf, expected a number of at least 0"),
        ("beta1", 1.0, r"beta1 is 1\.0, expected a number in \[0, 1\)"),
        ("beta2", -0.1, r"beta2 is -0\.1, expected a number in \[0, 1\)"),
        ("clip", -1.0, r"clip is -1\.0, expected a number of at least 0"),
        ("clip", math.nan, "clip is nan, expected a number of at least 0"),
        ("contrast_temperature", 0.0, r"contrast_temperature is 0\.0, expected above 0 and at most 10"),
        ("interpolation", -0.1, r"interpolation is -0\.1, expected a number in \[0, 1\]"),
        ("interpolation", 1.1, r"interpolation is 1\.1, expected a number in \[0, 1\]"),
        ("judge", "yes", "judge is 'yes', expected True or False"),
        ("patience", -1, "patience is -1, expected at least 0"),
        ("seed", -1, r"seed is -1, expected a number in \[0, 2³²\)"),
        ("seed", 2**32, "seed is 4294967296"),
        ("epochs", 2.0, r"epochs is 2\.0, expected a whole number"),
        ("epochs", True, "epochs is True, expected a whole number"),
        ("max_steps", "10", "max_steps is '10', expected a whole number"),
        ("learning_rate", "1e-3", "learning_rate is '1e-3', expected a number"),
        ("warmup", True, "warmup is True, expected a number"),
        ("dropout", 1, "dropout is 1, expected True or False"),
        ("class_weights", "no", "class_weights is 'no', expected True or False"),
        ("losses", "ul", r"losses is 'ul', expected one of lm, lm\+ul\+ln, contrast, lm\+contrast, auto"),
        ("eval_strategy", "steps", "eval_strategy is 'steps', expected one of epoch, end"),
        ("optimizer", "sgd", "optimizer is 'sgd', expected one of adamw, adafactor"),
    ],
)
def test_a_value_outside_its_range_is_an_error_that_names_both(name: str, value: Any, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Settings(**{name: value})


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"epochs is 0.*; batch_size is 0.*; warmup is 2\.0.*; clip is -1\.0"):
        Settings(epochs=0, batch_size=0, warmup=2.0, clip=-1.0)


def test_a_whole_number_is_a_number_and_looks_the_same_in_the_record() -> None:
    given = Settings(learning_rate=1, warmup=0, clip=0)
    assert given == Settings(learning_rate=1.0, warmup=0.0, clip=0.0)
    assert json.dumps(given.to_json()) == json.dumps(Settings(learning_rate=1.0, warmup=0.0, clip=0.0).to_json())


def test_settings_come_back_from_json() -> None:
    settings = Settings(epochs=5, max_steps=7, warmup=0.1, class_weights=True)
    assert Settings(**json.loads(json.dumps(settings.to_json()))) == settings


def test_the_last_batch_counts_as_a_step_and_max_steps_decides_alone() -> None:
    assert Settings(batch_size=8).steps_per_epoch(17) == 3
    assert Settings(batch_size=8).steps_per_epoch(1) == 1
    assert Settings(epochs=2, batch_size=8).total_steps(17) == 6
    assert Settings(epochs=2, batch_size=8, max_steps=4).total_steps(17) == 4
    assert Settings(epochs=2, batch_size=8, max_steps=100).total_steps(17) == 100


def test_the_rate_rises_over_the_warm_up_and_falls_linearly_to_zero() -> None:
    assert [Settings().rate(step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    warm = Settings(warmup=0.25)
    assert [warm.rate(step, 8) for step in range(8)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    )


def test_after_the_warm_up_the_rate_is_that_of_transformers() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = get_linear_schedule_with_warmup(optimizer, 3, 12)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    ours = [Settings(warmup=0.25).rate(step, 12) for step in range(12)]
    assert ours[3:] == pytest.approx(expected[3:])


@given(warmup=st.floats(0, 0.999), total=st.integers(1, 500))
def test_every_step_has_a_rate_above_zero_and_at_most_one(warmup: float, total: int) -> None:
    rates = [Settings(warmup=warmup).rate(step, total) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top]) and rates[top:] == sorted(rates[top:], reverse=True)


def test_compiled_blocks_and_losses_over_choices_exclude_each_other() -> None:
    with pytest.raises(SettingsError, match=r"compile is 'on' and losses 'lm\+ul\+ln'"):
        Settings(losses="lm+ul+ln", compile="on")
