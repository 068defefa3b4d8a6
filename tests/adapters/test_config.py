"""`adapter_config.json`: PEFT's fields, and what is wrong with a file."""

from __future__ import annotations

import json

import pytest

from ia3.adapters.config import AdapterConfig, kind_of_model, kind_of_task, read_config
from ia3.errors import AdapterError
from tests.families import CASES, make_model

FULL = AdapterConfig(
    auto_mapping={"base_model_class": "BertModel"}, base_model_name_or_path="owner/base", exclude_modules=r".*0\.k",
    fan_in_fan_out=True, feedforward_modules=("wo",), inference_mode=False, init_ia3_weights=False,
    modules_to_save=("classifier",), peft_version="0.11.0", revision="main", target_modules=("k", "wo"),
    task_type="SEQ_CLS",
)  # fmt: skip


@pytest.mark.parametrize("config", [FULL, AdapterConfig()])
def test_written_then_read_is_the_same(config: AdapterConfig) -> None:
    assert read_config(config.to_json(), "f") == config


def test_fields_stand_in_pefts_order_and_nothing_else_does() -> None:
    text = AdapterConfig(extra={"new_field": 1}).to_json()
    assert list(json.loads(text)) == [
        "auto_mapping", "base_model_name_or_path", "exclude_modules", "fan_in_fan_out", "feedforward_modules",
        "inference_mode", "init_ia3_weights", "modules_to_save", "peft_type", "peft_version", "revision",
        "target_modules", "task_type",
    ]  # fmt: skip


def test_fields_of_a_later_peft_are_kept_aside() -> None:
    assert read_config('{"peft_type": "IA3", "new_field": [1]}', "f") == AdapterConfig(
        peft_version=None, extra={"new_field": [1]}
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"peft_type": "IA3",\n "revision": }', "Reading f: line 2, column 14 is not JSON"),
        ("", "line 1, column 1 is not JSON"),
        (b"\xff\xfe\xfa", "it is not JSON text"),
        ('"IA3"', "it holds str, expected one JSON object"),
        ('{"peft_type": "LORA"}', "the adapter is of type 'LORA', expected 'IA3'. Load it with the library it is of."),
        ("{}", "the adapter names no peft_type, expected 'IA3'"),
        (
            '{"peft_type": "IA3", "target_modules": [1], "fan_in_fan_out": 0, "revision": null}',
            "'target_modules' must be a list of names, one regular expression, or null, got [1]; 'fan_in_fan_out' "
            "must be true or false, got 0. Correct the file",
        ),
        ('{"peft_type": "IA3", "exclude_modules": "a("}', "'exclude_modules' must be a list of names, one regular"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(text: str | bytes, told: str) -> None:
    with pytest.raises(AdapterError) as caught:
        read_config(text, "f")
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["t5", "llama", "bert"])
def test_the_kind_of_a_model_is_known_by_its_class(name: str) -> None:
    model = make_model(name)
    assert kind_of_model(model) == CASES[name].kind
    if name == "bert":
        assert kind_of_model(model.bert) is None


def test_the_kind_of_a_task() -> None:
    assert [kind_of_task(task) for task in ("SEQ_CLS", "CAUSAL_LM", "SEQ_2_SEQ_LM", "TOKEN_CLS", None)] == [
        "encoder", "causal", "seq2seq", None, None,
    ]  # fmt: skip
