"""Model card: what the hub, PyYAML and a Markdown reader see is what the facts say, whatever characters they hold."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from ia3.errors import AdapterError
from ia3.inference.measures import score_predictions, score_texts
from ia3.report.card import CardFacts, write_card
from ia3.spelling import printable

MARKDOWN = MarkdownIt("commonmark").enable("table")
NASTY = (
    'say "yes"',
    "a: b",
    "two\nlines\r\nand a\ttab",
    "pipe | and \\| and \\\\|",
    "`code` ``more``",
    "---",
    "<b>&amp;</b>",
    "*_~$x$#![](http://x)",
    " edges ",
    "利益 🙂 Überschuss",
    "\ud800\x00\x7f\x85\u2028\ufeff\ufffe",
    "{{ jinja }}",
    "'single' # no comment",
    "- item",
    "null",
    "",
)


def metrics_of(labels: tuple[str, ...]) -> dict[str, Any]:
    """Metrics with three rows a label, one of all rows wrong."""
    gold = [i for i in range(len(labels)) for _ in range(3)]
    table = np.full((len(gold), len(labels)), 0.2 / max(len(labels) - 1, 1))
    table[np.arange(len(gold)), [*gold[:-1], 0]] = 0.8 if len(labels) > 1 else 1.0
    return score_predictions(labels, gold, table, 0.05).to_json()


LABELS = ("negative", "neutral", "positive")
FACTS = CardFacts(
    name="news-sentiment",
    base_name="google/gemma-3-270m",
    base_hub_id="google/gemma-3-270m",
    kind="causal",
    labels=LABELS,
    prompt="{{ sentence }}\nSentiment:",
    target="{{ label }}",
    data_name="train.csv",
    rows=2037,
    fingerprint="0123abcd" * 8,
    trainable=64512,
    settings={"epochs": 3, "learning_rate": 8e-3, "max_length": 128, "class_weights": False, "seed": None},
    versions={"ia3": "0.1.0", "torch": "2.13.0"},
    metrics=metrics_of(LABELS),
)


def front_of(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    front: dict[str, Any] = yaml.safe_load(card.split("\n---\n")[0])
    return front


def tables_of(card: str) -> list[list[list[str]]]:
    """The cells of every table as a reader sees them, head first."""
    tables: list[list[list[str]]] = []
    is_inside = False
    for token in MARKDOWN.parse(ModelCard(card).text):
        if token.type in ("table_open", "table_close"):
            is_inside = token.type == "table_open"
            tables += [[]] if is_inside else []
        elif is_inside and token.type == "tr_open":
            tables[-1].append([])
        elif is_inside and token.type == "inline":
            tables[-1][-1].append(seen(token))
    return tables


def seen(token: Any) -> str:
    """The text of an inline token without its marks."""
    return "".join(child.content for child in token.children if child.type != "html_inline")


def code_of(card: str, language: str) -> list[str]:
    return [t.content for t in MARKDOWN.parse(card) if t.type == "fence" and t.info == language]


def headings_of(card: str) -> list[str]:
    tokens = MARKDOWN.parse(ModelCard(card).text)
    return [seen(after) for token, after in itertools.pairwise(tokens) if token.type == "heading_open"]


def test_the_front_matter_says_what_the_hub_needs() -> None:
    front = front_of(write_card(FACTS))
    assert list(front) == ["base_model", "library_name", "pipeline_tag", "tags", "metrics", "model-index"]
    assert front["base_model"] == "google/gemma-3-270m"
    assert front["library_name"] == "peft"
    assert front["tags"] == ["ia3", "peft", "base_model:adapter:google/gemma-3-270m"]
    assert front["metrics"] == ["accuracy", "f1"]


def test_the_hub_client_reads_the_same_metadata_and_results() -> None:
    card = write_card(FACTS)
    data = ModelCard(card).data
    assert isinstance(data, ModelCardData)
    assert data.to_dict()["model-index"][0]["name"] == "news-sentiment"
    found = {result.metric_type: result for result in data.eval_results}
    assert found["accuracy"].metric_value == round(8 / 9, 4)
    assert found["f1"].metric_value == round(FACTS.metrics["macro_f1"], 4)
    assert found["f1"].metric_name == "Macro F1"
    assert {result.task_type for result in found.values()} == {"text-classification"}
    assert {result.dataset_name for result in found.values()} == {"train.csv"}
    assert {result.dataset_type for result in found.values()} == {"custom"}
    assert yaml.safe_load(data.to_yaml()).keys() == front_of(card).keys()


@pytest.mark.parametrize(
    ("kind", "tag"), [("causal", "text-generation"), ("seq2seq", "text-generation"), ("encoder", "text-classification")]
)
def test_the_pipeline_tag_follows_the_kind(kind: Any, tag: str) -> None:
    assert front_of(write_card(replace(FACTS, kind=kind)))["pipeline_tag"] == tag


def test_a_data_set_is_named_only_if_known_and_a_licence_never() -> None:
    front = front_of(write_card(replace(FACTS, data_hub_id="takala/financial_phrasebank")))
    assert front["datasets"] == ["takala/financial_phrasebank"]
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == "takala/financial_phrasebank"
    assert not {"license", "datasets", "language"} & front_of(write_card(FACTS)).keys()


def test_without_metrics_there_is_no_result_to_read() -> None:
    card = write_card(replace(FACTS, metrics=None))
    assert not {"metrics", "model-index"} & front_of(card).keys()
    assert "## Results\n\nNot evaluated.\n" in card
    assert ModelCard(card).data.eval_results is None


def test_free_text_has_exact_match_and_no_labels() -> None:
    facts = replace(FACTS, labels=(), metrics=score_texts(["a", "b"], ["a", "c"], 0.5).to_json())
    card = write_card(facts)
    assert front_of(card)["metrics"] == ["exact_match"]
    assert front_of(card)["model-index"][0]["results"][0]["task"]["type"] == "text-generation"
    assert "Labels" not in headings_of(card)
    assert "ia3 predict" not in card
    assert ["Exact match", "0.5000"] in tables_of(card)[-2]
    assert ["Perplexity", "1.6487"] in tables_of(card)[-2]


def test_the_sections_stand_in_order() -> None:
    assert headings_of(write_card(FACTS)) == [
        "news-sentiment",
        "How to use it",
        "Labels",
        "Trained on",
        "Prompt template",
        "Settings",
        "Results",
        "Limits",
        "Versions",
    ]


def test_the_tables_hold_data_settings_results_labels_and_versions() -> None:
    data, chosen, totals, labels, versions = tables_of(write_card(FACTS))
    assert data[1:3] == [["table", "train.csv"], ["rows", "2,037"]]
    assert data[3][1] == FACTS.fingerprint
    assert chosen[1:] == [
        ["epochs", "3"],
        ["learning_rate", "0.008"],
        ["max_length", "128"],
        ["class_weights", "False"],
        ["seed", "None"],
    ]
    assert totals[1:3] == [["Accuracy", "0.8889"], ["Accuracy, 95 % interval", "0.5650 to 0.9801"]]
    assert [row[0] for row in totals[3:]] == [
        "Macro F1",
        "Loss, nats per target token",
        "Perplexity",
        "Expected calibration error",
    ]
    assert labels[1] == ["negative", "0.750", "1.000", "0.857", "3"]
    assert [row[0] for row in labels] == ["label", *LABELS]
    assert versions[1:] == [["ia3", "0.1.0"], ["torch", "2.13.0"]]


@pytest.mark.parametrize(
    ("kind", "name"), [("causal", "CausalLM"), ("seq2seq", "Seq2SeqLM"), ("encoder", "SequenceClassification")]
)
@pytest.mark.parametrize("hub", ["org/base", None])
def test_the_python_lines_are_python_and_load_the_kind_of_base(kind: Any, name: str, hub: str | None) -> None:
    (code,) = code_of(write_card(replace(FACTS, kind=kind, base_hub_id=hub)), "python")
    ast.parse(code)
    first = f"AutoPeftModelFor{name}" if hub else "PeftModel"
    assert code.startswith(f"from ia3.peft import {first}  # or: from peft import {first}\n")
    assert (f"AutoModelFor{name}.from_pretrained" in code) == (hub is None)
    assert ("num_labels=3" in code) == (kind == "encoder")
    assert r'tokenizer("<sentence>\nSentiment:", return_tensors="pt")' in code
    assert ('AutoTokenizer.from_pretrained("org/base")' in code) == (hub is not None)


def test_a_revision_of_the_base_stands_in_words_and_in_the_python_lines() -> None:
    card = write_card(replace(FACTS, base_hub_id="org/base", base_revision="refs/pr/1"))
    assert front_of(card)["base_model"] == "org/base"
    assert "[org/base](https://huggingface.co/org/base) at revision `refs/pr/1`" in card
    assert 'AutoTokenizer.from_pretrained("org/base", revision="refs/pr/1")' in code_of(card, "python")[0]


def test_an_encoder_is_not_asked_to_generate() -> None:
    assert "ia3 generate" in write_card(FACTS)
    assert "generate" not in write_card(replace(FACTS, kind="encoder"))


def test_a_base_without_a_hub_id_is_asked_for_and_not_in_the_metadata() -> None:
    card = write_card(replace(FACTS, base_hub_id=None, base_name="/home/alice/models/my-t5"))
    assert "base_model" not in front_of(card)
    assert front_of(card)["tags"] == ["ia3", "peft"]
    assert "--base path/to/base" in card
    assert "An (IA)³ adapter for `my-t5`" in card


def test_no_path_of_a_machine_is_in_the_card() -> None:
    card = write_card(
        replace(
            FACTS,
            name="/home/alice/runs/seven",
            base_hub_id=None,
            base_name="C:\\Users\\alice\\base.gguf",
            data_name="/home/alice/data/train.csv",
            eval_name="../alice/eval.csv",
            settings={"output": "/home/alice/runs/7", "template": "~/alice/prompt.txt", "files": ["./alice/a", "b/c"]},
        )
    )
    assert "alice" not in card
    assert "Users" not in card
    assert "# seven\n" in card
    assert "On the rows of `eval.csv` (9 rows):" in card
    assert tables_of(card)[1][1:] == [["output", "7"], ["template", "prompt.txt"], ["files", "a, b/c"]]


@pytest.mark.parametrize("key", ["base_hub_id", "data_hub_id"])
def test_a_path_in_place_of_a_hub_id_is_refused(key: str) -> None:
    with pytest.raises(AdapterError) as caught:
        replace(FACTS, **{key: "/home/alice/base"})
    assert str(caught.value) == (
        f"Writing the model card: {key} is no hub id, got '/home/alice/base', expected 'name' or 'owner/name'. "
        f"Pass None, and the path as {key[: -len('hub_id')]}name."
    )


def test_nasty_labels_break_neither_the_metadata_nor_a_table() -> None:
    card = write_card(replace(FACTS, labels=NASTY, metrics=metrics_of(NASTY)))
    card.encode("utf-8")
    assert ModelCard(card).data.to_dict()["tags"] == front_of(write_card(FACTS))["tags"]
    labels = tables_of(card)[3]
    assert all(len(row) == 5 for row in labels)
    assert [row[0] for row in labels[1:]] == [printable(label) for label in NASTY]
    assert headings_of(card) == headings_of(write_card(FACTS))


@settings(max_examples=40)
@given(st.text(max_size=30), st.lists(st.text(max_size=12), min_size=2, max_size=4, unique=True))
def test_any_name_and_labels_survive_in_metadata_and_tables(name: str, names: list[str]) -> None:
    labels = tuple(names)
    facts = replace(FACTS, name=f"x{name}", labels=labels, kind="encoder", metrics=metrics_of(labels))
    card = write_card(facts)
    expected = re.sub("[\ud800-\udfff]", "\ufffd", f"x{name}")
    assert front_of(card)["model-index"][0]["name"] == expected
    assert ModelCard(card).data.model_name == expected
    shown_labels = [row[0] for row in tables_of(card)[3][1:]]
    assert shown_labels == [printable(label) for label in labels]
    (code,) = code_of(card, "python")
    listed = ast.literal_eval(re.search(r"^labels = (.*)$", code, re.MULTILINE)[1])
    assert listed == [re.sub("[\ud800-\udfff]", "\ufffd", label) for label in labels]


def test_all_templates_are_there_and_the_scores_of_those_that_were_tried() -> None:
    others = (("News: {{ sentence }}", "{{ label }} news"), ("{{ sentence }} (", "{{ label }}"))
    tried = [{"prompt": "{{ sentence }}\n|:", "target": "{{ label }}", "score": -0.51234, "accuracy": 0.75}]
    card = write_card(replace(FACTS, others=others, searched={"rows": 32, "candidates": tried}))
    assert code_of(card, "jinja") == [
        f"{part}\n"
        for part in ("{{ sentence }}\nSentiment:", "{{ label }}", *(part for pair in others for part in pair))
    ]
    assert "One of 3 was drawn for each row in each epoch." in card and "`--ensemble` averages over all" in card
    assert ["{{ sentence }}\\n|:", "{{ label }}", "-0.512", "0.750"] in [row for t in tables_of(card) for row in t]
    assert "`--ensemble`" not in write_card(replace(FACTS, others=others, labels=(), metrics=None))
    encoder = write_card(replace(FACTS, kind="encoder", others=others))
    assert code_of(encoder, "jinja") == [f"{one}\n" for one in (FACTS.prompt, *(prompt for prompt, _ in others))]


def test_a_prompt_with_a_fence_in_it_stays_whole() -> None:
    prompt = "```\n{{ text }}\n````\n---\n| a | b |"
    card = write_card(replace(FACTS, prompt=prompt, target="~~~ {{ label }}"))
    assert code_of(card, "jinja") == [f"{prompt}\n", "~~~ {{ label }}\n"]
    assert headings_of(card) == headings_of(write_card(FACTS))


def test_limits_name_few_rows_the_cut_and_the_base() -> None:
    card = write_card(FACTS)
    assert "- It has seen 2,037 rows of one table;" in card
    assert "- Texts are cut so that a prompt has at most 128 tokens.\n" in card
    assert "- 3 of 3 labels have fewer than 30 evaluated rows: take their numbers as rough.\n" in card
    assert "Texts are cut" not in write_card(replace(FACTS, settings={"epochs": 1}))


def test_the_same_facts_give_the_same_card() -> None:
    assert write_card(FACTS) == write_card(replace(FACTS))
    assert write_card(FACTS).endswith("|\n")


def test_writing_a_card_imports_neither_torch_nor_matplotlib() -> None:
    code = "import sys, ia3.report.card; print({'torch', 'transformers', 'matplotlib', 'yaml'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_an_encoder_whose_head_reads_the_mean_is_for_ia3_alone() -> None:
    facts = replace(FACTS, kind="encoder", pooling="mean")
    card = write_card(facts)
    front = front_of(card)
    assert (front["library_name"], "peft" in front["tags"]) == ("ia3", False)
    assert "In Python; PEFT has no class for a head on the mean of all tokens:" in card
    code = card.split("```python\n")[1].split("```")[0]
    assert "peft" not in code and 'ia3.load("path/to/this/folder")' in code
    assert 'base="path/to/base"' in write_card(replace(facts, base_hub_id=None))
