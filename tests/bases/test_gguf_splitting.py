"""Before its merges a byte-level tokenizer cuts a text in the way that its GGUF file names, or the file is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ia3.bases.gguf_header import GGUFHeader
from ia3.bases.gguf_splitting import mend_splitting
from ia3.errors import BaseError


def imported() -> Any:
    """What transformers makes of a name that it does not know: a tokenizer that cuts as GPT-2's does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, "ĠĠ", "ĊĊ", "12"])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "Ġ"), ("Ċ", "Ċ"), ("1", "2")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def header(**fields: Any) -> GGUFHeader:
    said = {f"tokenizer.ggml.{key}": value for key, value in fields.items()}
    return GGUFHeader(Path("x.gguf"), {"general.architecture": "llama", **said}, (), 0)


def cut(**fields: Any) -> list[str]:
    tokenizer = imported()
    mend_splitting(tokenizer, header(**fields))
    return tokenizer.convert_ids_to_tokens(tokenizer("a  12\n\n1").input_ids)


AS_GPT2 = ["a", "Ġ", "Ġ", "12", "Ċ", "Ċ", "1"]


def test_digits_stand_alone_where_the_file_says_so() -> None:
    """SmolLM2's file names 'smollm'; imported as GPT-2's, spaces and line ends before a digit were other tokens."""
    assert cut(model="gpt2", pre="smollm") == ["a", "ĠĠ", "1", "2", "ĊĊ", "1"]
    assert cut(model="gpt2", pre="command-r") == cut(model="gpt2", pre="smollm")


@pytest.mark.parametrize(
    "fields", [{"model": "gpt2", "pre": "gpt-2"}, {"model": "gpt2"}, {"model": "llama", "pre": "x"}]
)
def test_what_is_right_or_not_said_stays_as_it_is(fields: dict[str, str]) -> None:
    assert cut(**fields) == AS_GPT2


def test_a_way_that_is_not_known_is_refused() -> None:
    message = (
        r"GGUF file x\.gguf: its tokenizer cuts texts in the way 'deepseek-llm' \(tokenizer\.ggml\.pre\), which is no"
    )
    with pytest.raises(BaseError, match=message):
        cut(model="gpt2", pre="deepseek-llm")


def test_what_transformers_knows_stays_as_it_made_it() -> None:
    tokenizer = imported()
    own = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(use_regex=False)])
    tokenizer.backend_tokenizer.pre_tokenizer = own
    mend_splitting(tokenizer, header(model="gpt2", pre="tekken"))
    assert isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.Sequence)
