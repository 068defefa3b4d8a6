"""What texts become by a GGUF file's tokenizer settings; every expectation is what llama.cpp gave for such a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AddedToken, GPT2Tokenizer, LlamaTokenizer, T5Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ia3.bases.gguf_header import GGUFHeader
from ia3.bases.gguf_tokenizer import mend_tokenizer
from ia3.bases.loading import load_base
from ia3.errors import BaseError
from tests.models import tiny_gguf

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def header(model: str, **settings: Any) -> GGUFHeader:
    fields = {f"tokenizer.ggml.{key}": value for key, value in {"model": model, **settings}.items()}
    return GGUFHeader(Path("tiny.gguf"), fields, (), 0)


def pieces(**settings: Any) -> Any:
    """Return a Llama vocabulary of letters, bytes, and `<|user|>`, which the file marks as the user's own."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS, "▁", "▁▁", "ro", "se"]
    tokenizer = LlamaTokenizer(
        vocab={token: number for number, token in enumerate([*tokens, "rose", "▁rose", "<|user|>"])},
        merges=[("r", "o"), ("s", "e"), ("ro", "se"), ("▁", "rose"), ("▁", "▁")],
    )
    tokenizer.add_tokens([AddedToken("<|user|>", normalized=False)])
    return mend_tokenizer(tokenizer, header("llama", **settings))


def byte_words(pre: str | None, **settings: Any) -> Any:
    alphabet = sorted(bytes_to_unicode().values())
    tokens = ["<|end|>", *alphabet, "Ġr", "os", "ose", "Ġrose", "12", "123", "zqzq"]
    merges = [("Ġ", "r"), ("o", "s"), ("os", "e"), ("Ġr", "ose"), ("1", "2"), ("12", "3")]
    tokenizer = GPT2Tokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=merges)
    given = {} if pre is None else {"pre": pre}
    return mend_tokenizer(tokenizer, header("gpt2", bos_token_id=0, eos_token_id=0, **given, **settings))


def unigrams(**settings: Any) -> Any:
    scores = {"<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, **dict.fromkeys(LETTERS, -10.0), "▁": -9.0}
    words = {"▁the": -3.0, "the": -4.0, "▁rose": -3.5, "rose": -4.5, "▁▁": -7.0}
    return mend_tokenizer(T5Tokenizer(vocab=[*scores.items(), *words.items()]), header("t5", **settings))


def read(tokenizer: Any, text: str) -> list[str]:
    found: list[str] = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    return found


# -- SentencePiece ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({}, "rose", ["<s>", "▁rose"]),
        ({}, " rose", ["<s>", "▁", "▁rose"]),
        ({}, "a<|user|>b", ["<s>", "▁", "a", "<|user|>", "▁", "b"]),
        ({}, "", ["<s>"]),
        ({}, "漢", ["<s>", "▁", "<0xE6>", "<0xBC>", "<0xA2>"]),
        ({"add_space_prefix": True}, "rose", ["<s>", "▁rose"]),
        ({"add_space_prefix": False}, "rose", ["<s>", "rose"]),
        ({"add_space_prefix": False}, " rose", ["<s>", "▁rose"]),
        ({"add_space_prefix": False}, "a<|user|>b", ["<s>", "a", "<|user|>", "b"]),
        ({"add_bos_token": False, "add_eos_token": True}, "rose", ["▁rose", "</s>"]),
        ({"bos_token_id": 2, "eos_token_id": 1}, "rose", ["</s>", "▁rose"]),
        ({"remove_extra_whitespaces": True, "add_sep_token": True}, "rose  rose ", ["<s>", "▁rose", "▁", "▁rose", "▁"]),
    ],
)
def test_a_piece_vocabulary_is_read_as_the_file_says(settings: Any, text: str, expected: list[str]) -> None:
    """A Llama file with `add_space_prefix = false` was read with a blank before every text all the same."""
    assert read(pieces(**settings), text) == expected


@pytest.mark.parametrize("has_space", [False, True])
def test_a_text_is_decoded_to_itself(has_space: bool) -> None:
    tokenizer = pieces(add_space_prefix=has_space)
    assert tokenizer.decode(tokenizer("rose  Ü rose")["input_ids"], skip_special_tokens=True) == "rose  Ü rose"


def test_a_converted_file_keeps_the_settings_when_it_is_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IA3_CACHE", str(tmp_path / "cache"))
    for has_space in (True, False):
        tiny_gguf(tmp_path / "tiny.gguf", has_space=has_space)
        for _ in range(2):
            tokenizer = load_base(tmp_path / "tiny.gguf", say=lambda line: None).tokenizer
            assert read(tokenizer, "x") == ["<bos>", *["▁"] * has_space, "<0x78>"]
            assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 3)


# -- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pre", "expected"),
    [
        ("gpt-2", ["123", "4", "Ġrose", "z", "q", "z", "q"]),
        (None, ["123", "4", "Ġrose", "z", "q", "z", "q"]),
        ("starcoder", ["1", "2", "3", "4", "Ġrose", "z", "q", "z", "q"]),
        ("stablelm2", ["1", "2", "3", "4", "Ġrose", "z", "q", "z", "q"]),
        ("bloom", ["123", "4", "Ġrose", "z", "q", "z", "q"]),
        ("falcon", ["123", "4", "Ġrose", "z", "q", "z", "q"]),
    ],
)
def test_a_byte_vocabulary_is_cut_as_its_pre_tokenizer_is_named(pre: str | None, expected: list[str]) -> None:
    tokenizer = byte_words(pre)
    assert [*read(tokenizer, "1234 rose"), *read(tokenizer, "zqzq")] == expected


def test_digits_stand_alone_where_the_file_says_so() -> None:
    """SmolLM2's file names 'smollm'; imported as GPT-2's, spaces and line ends before a digit were other tokens."""
    found = read(byte_words("smollm"), "a  12\n\n1")
    assert found == ["a", "Ġ", "Ġ", "1", "2", "Ċ", "Ċ", "1"] and found == read(byte_words("command-r"), "a  12\n\n1")


def test_llama_3_begins_every_text_and_takes_a_word_that_it_has_whole() -> None:
    """A Llama 3 file that does not say `add_bos_token` was read without its start token."""
    assert read(byte_words("llama-bpe"), "zqzq") == ["<|end|>", "zqzq"]


def test_start_and_end_tokens_of_bytes_are_as_the_file_says() -> None:
    assert read(byte_words("gpt-2", add_bos_token=True), "a") == ["<|end|>", "a"]
    assert read(byte_words("gpt-2", add_eos_token=True), "a") == ["a", "<|end|>"]
    assert read(byte_words("llama-bpe", add_bos_token=False), "a") == ["a"]


# -- T5 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({}, "rose", ["rose", "</s>"]),
        ({}, "  the", ["▁▁", "the", "</s>"]),
        ({"add_space_prefix": True}, " rose", ["▁▁", "rose", "</s>"]),
        ({"add_space_prefix": True, "remove_extra_whitespaces": True}, "  the   rose ", ["▁the", "▁rose", "</s>"]),
        ({"add_space_prefix": False, "remove_extra_whitespaces": True}, "rose", ["▁rose", "</s>"]),
        ({"add_eos_token": False}, "rose", ["rose"]),
        ({"add_bos_token": True, "bos_token_id": 0}, "rose", ["<pad>", "rose", "</s>"]),
    ],
)
def test_a_unigram_vocabulary_is_read_as_the_file_says(settings: Any, text: str, expected: list[str]) -> None:
    assert read(unigrams(**settings), text) == expected


# -- what is not known ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: byte_words("viking"), r"tokenizer\.ggml\.pre is 'viking'"),
        (lambda: byte_words("deepseek-llm"), r"tiny\.gguf: tokenizer\.ggml\.pre is 'deepseek-llm'"),
        (lambda: byte_words("gpt-2", add_sep_token=True), r"tokenizer\.ggml\.add_sep_token is True"),
        (lambda: mend_tokenizer(None, header("rwkv")), r"tokenizer\.ggml\.model is 'rwkv'"),
        (lambda: pieces(bos_token_id=400), r"bos_token_id is 400, and its vocabulary has 292 tokens"),
        (lambda: unigrams(add_bos_token=True), r"a bos token is put at every text, and .*bos_token_id is not there"),
    ],
)
def test_what_is_not_known_is_refused_by_its_key(make: Any, told: str) -> None:
    with pytest.raises(BaseError, match=told):
        make()
