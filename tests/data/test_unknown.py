"""Texts that a base cannot read and answers that it cannot write are told; a byte vocabulary has no unknowns."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ia3.data.encoding import Encoding
from ia3.data.examples import Example, Origin
from ia3.data.templates import Template
from ia3.data.unknown import describe_unknown_answers, describe_unknown_texts, is_unknown, unknown_id
from ia3.errors import TemplateError
from tests.models import tiny_tokenizer

WORDS = ["profit", "rose", "fell", "up", "down", "good", "bad", "1", "2"]
SPECIAL = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "<pad>"}


def words() -> PreTrainedTokenizerFast:
    vocab = {word: number for number, word in enumerate([*SPECIAL.values(), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def pieces() -> PreTrainedTokenizerFast:
    """A SentencePiece vocabulary as T5 has: a run of letters that it lacks becomes one unknown token."""
    known = [
        ("<unk>", 0.0),
        ("</s>", 0.0),
        ("<pad>", 0.0),
        *((c, -2.0) for c in "▁abcdefghijklmnopqrstuvwxyz0123456789"),
    ]
    tokenizer = Tokenizer(models.Unigram(known, unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def examples(*texts: str, label: str | None = None) -> list[Example]:
    return [Example(text, label, {"text": text}, Origin("t.csv", line)) for line, text in enumerate(texts, start=2)]


def told(tokenizer: Any, *texts: str) -> tuple[str, ...]:
    rows = examples(*texts)
    return describe_unknown_texts(tokenizer, rows, [tokenizer(row.text)["input_ids"] for row in rows])


@pytest.mark.parametrize(("make", "share"), [(words, 67), (pieces, 67)])
def test_texts_in_letters_that_the_base_lacks_are_counted(make: Any, share: int) -> None:
    """A table in Chinese was trained on with a T5 that has no Chinese: every word was `<unk>`, and nothing was said."""
    assert told(make(), "profit rose", "利润 上升 1", "利润 下降 2") == (
        f"2 of 3 texts are mostly unknown to the base: {share} % of their tokens are <unk>, first t.csv:3 "
        "('利润 上升 1'). The base reads nothing there; take one that knows their letters.",
    )


def test_a_run_of_letters_counts_as_what_it_is_and_not_as_the_one_token_it_becomes() -> None:
    (note,) = told(pieces(), "2019年公司的利润上升了很多")
    assert note.startswith("1 of 1 texts is mostly unknown")


def test_a_few_unknown_words_in_each_text_are_told_where_they_are_many_in_all() -> None:
    (note,) = told(words(), "profit rose sharply", "profit fell 1 2 up", "profit rose slowly up")
    assert note.startswith("2 of 3 texts are partly unknown to the base: 29 % of their tokens are <unk>, first t.csv:2")
    assert told(words(), *["profit rose fell 1 2"] * 9, "profit rose slowly 1") == ()


def test_a_template_in_other_letters_is_no_text() -> None:
    rows = examples("profit rose")
    assert describe_unknown_texts(words(), rows, [words()("文本 profit rose")["input_ids"]]) == ()


def test_a_byte_vocabulary_has_no_unknowns() -> None:
    assert told(tiny_tokenizer(), "利润 上升", "profit") == ()


def test_an_unknown_token_that_is_another_name_of_the_end_token_means_nothing() -> None:
    """GPT-2 calls its end token its unknown token too; its vocabulary of bytes never gives it for a text."""
    tokenizer = tiny_tokenizer()
    tokenizer.unk_token = tokenizer.eos_token
    assert unknown_id(tokenizer) is None
    assert describe_unknown_texts(tokenizer, examples("a"), [[1, 5, 1]]) == ()


def test_a_label_that_is_nothing_but_unknown_tokens_is_an_error() -> None:
    """`坏` was trained as the answer `<unk>`, which every other word that the base lacks is too."""
    assert is_unknown(pieces(), pieces()("坏")["input_ids"]) and not is_unknown(pieces(), pieces()("{up}")["input_ids"])
    with pytest.raises(TemplateError, match="the answer '坏' is nothing but unknown tokens \\(<unk>\\) to the base"):
        Encoding(pieces(), "seq2seq", Template("{{ text }}"), "text", ("good", "坏"))
    with pytest.raises(TemplateError, match="'\\}' and '\\{' have the same answer tokens \\(some are unknown"):
        Encoding(pieces(), "seq2seq", Template("{{ text }}"), "text", ("{", "}"))
    coding = Encoding(pieces(), "seq2seq", Template("{{ text }}"), "text", choices_column="options")
    (row,) = examples("profit")
    with pytest.raises(TemplateError, match=r"Encoding t\.csv:2: the choice '坏' is nothing but unknown"):
        next(coding.encode([Example(row.text, None, row.fields, row.origin, choices=("good", "坏"))]))


def test_an_encoders_labels_are_no_tokens() -> None:
    assert Encoding(words(), "encoder", Template("{{ text }}"), "text", ("好", "坏")).choice_ids == ()


def test_answers_of_free_text_that_can_never_be_written_are_told() -> None:
    tokenizer = words()
    rows = [*examples("profit", label="up 1"), *examples("profit", label="好 up")]
    (note,) = describe_unknown_answers(tokenizer, rows, [tokenizer(row.label)["input_ids"] for row in rows])
    assert note.startswith("1 of 2 answers has tokens unknown to the base (<unk>), first t.csv:2 ('好 up').")
