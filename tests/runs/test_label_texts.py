"""A label's own words as a row: which labels have words, and what becomes of them in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ia3.data.encoding import Encoding
from ia3.data.templates import default_template
from ia3.runs.label_texts import label_rows, words_of
from tests.models import tiny_tokenizer
from tests.runs.trials import run


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("card_arrival", "GetWeather", "not-  showing.up"), ("card arrival", "Get Weather", "not showing up")),
        (("Sci/Tech", "HTML"), ("Sci Tech", "HTML")),
        (("top 10 news", "sport"), ("top 10 news", "sport")),
        (("Überraschung", "苹果公司"), ("Überraschung", "苹果公司")),
        (("class 1", "class 2"), ()),  # the same but for digits
        (("0", "1"), ()),
        (("up", "no"), ()),  # too short to be words
        (("sport", "B7"), ()),  # one of them has none
        (("news", "NEWS "), ("news", "NEWS")),
        (("news", "news_"), ()),
        ((), ()),
    ],
)  # fmt: skip
def test_labels_have_words_where_all_of_them_say_something_of_their_own(
    labels: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert words_of(labels) == words


def _encoding(*labels: str) -> Encoding:
    return Encoding(tiny_tokenizer("encoder"), "encoder", default_template("encoder", "label"), "text", labels)


def test_each_label_has_a_row_of_its_words_behind_those_of_the_table() -> None:
    rows = label_rows(_encoding("card_arrival", "lostCard"), first=7)
    decoded = [tiny_tokenizer("encoder").decode(row.prompt_ids, skip_special_tokens=True) for row in rows]
    assert decoded == ["card arrival", "lost Card"]
    assert [row.prompt_ids[0] for row in rows] == [2, 2] and [row.prompt_ids[-1] for row in rows] == [1, 1]
    assert [(row.index, row.choice, row.target_ids) for row in rows] == [(7, 0, ()), (8, 1, ())]


def test_labels_without_words_have_no_rows() -> None:
    assert label_rows(_encoding("0", "1"), first=7) == ()


NAMED = [(f"word {'good' if i % 2 else 'bad'} {i}", "good" if i % 2 else "bad") for i in range(12)]
SHORT: dict[str, Any] = {"pooling": "mean", "fit_head": True, "max_steps": 1, "eval_fraction": 0.0}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("label_texts", "rows"), [(True, 14), (False, 12)])
def test_a_run_learns_from_them_and_counts_the_rows_of_the_table_alone(
    label_texts: bool, rows: int, sentences: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    run(sentences, tmp_path / "o", source=NAMED, label_texts=label_texts, say=told.append, **SHORT)
    assert f"The head begins with a logistic regression on {rows} rows." in told
    assert json.loads((tmp_path / "o" / "ia3.json").read_text())["data"]["rows"] == 12
