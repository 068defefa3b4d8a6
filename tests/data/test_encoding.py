"""Encoding: exactly which tokens a base reads and answers, and that only the text is ever cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from ia3.bases.limits import Limits
from ia3.data.encoding import Encoded, Encoding
from ia3.data.examples import Example, Origin
from ia3.data.templates import Template
from ia3.errors import BaseError, SettingsError, TemplateError
from ia3.names import Kind
from tests.models import tiny_tokenizer

TOKENIZERS = {kind: tiny_tokenizer(kind) for kind in ("causal", "seq2seq", "encoder")}
LABELS = ("negative", "neutral", "positive")
PROMPT = Template("Q: {{ text }}\nMood:")


def encoding(kind: Kind = "causal", template: Template = PROMPT, **settings: Any) -> Encoding:
    return Encoding(TOKENIZERS[kind], kind, template, "sentence", **{"labels": LABELS, **settings})


def example(text: str, label: str | None = None, line: int = 2, **fields: str) -> Example:
    return Example(text, label, {"sentence": text, "label": label or "", **fields}, Origin("news.csv", line))


def encode_one(coding: Encoding, text: str, label: str | None = None, **fields: str) -> Encoded:
    return next(coding.encode([example(text, label, **fields)]))


def read(ids: tuple[int, ...], kind: str = "causal") -> str:
    return TOKENIZERS[kind].decode(list(ids))


def dummy_prefix_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of letters that puts a space of its own before every text, as Llama's and T5's do."""
    letters = "▁abcdefghijklmnopqrstuvwxyz:."
    vocab = {token: i for i, token in enumerate(["<unk>", "<eos>", *letters])}
    pieces = [("▁", "▁"), ("▁", "p"), ("▁p", "o"), ("▁", "n"), ("▁n", "o")]
    for left, right in pieces:
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=pieces, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>")


# -- exactly the promised tokens ---------------------------------------------------------------------------------------


def test_a_causal_target_is_a_space_the_label_and_the_end_token() -> None:
    encoded = encode_one(encoding(), "Profit rose.", "positive")

    assert read(encoded.prompt_ids) == "<bos>Q: Profit rose.\nMood:"
    assert read(encoded.target_ids) == " positive<eos>"
    assert (encoded.choice, encoded.index, encoded.truncated) == (2, 0, False)


def test_a_seq2seq_target_is_the_label_and_the_end_token() -> None:
    encoded = encode_one(encoding("seq2seq"), "Profit rose.", "neutral")

    assert read(encoded.prompt_ids, "seq2seq") == "Q: Profit rose.\nMood:<eos>"
    assert read(encoded.target_ids, "seq2seq") == "neutral<eos>"


def test_an_encoder_has_a_choice_and_no_target_tokens() -> None:
    encoded = encode_one(encoding("encoder", Template("{{ text }}")), "Profit rose.", "negative")

    assert read(encoded.prompt_ids, "encoder") == "<bos>Profit rose.<eos>"
    assert (encoded.target_ids, encoded.choice) == ((), 0)
    assert encoding("encoder").choice_ids == ()


def test_the_choices_are_the_targets_of_the_labels() -> None:
    coding = encoding(template=Template("{{ text }}", "it is {{ label }}"))

    assert [read(ids) for ids in coding.choice_ids] == [f" it is {label}<eos>" for label in LABELS]
    assert encode_one(coding, "x", "neutral").target_ids == coding.choice_ids[1]


def test_a_row_without_a_label_has_no_target() -> None:
    encoded = encode_one(encoding(), "Profit rose.")

    assert (encoded.target_ids, encoded.choice) == ((), -1)


def test_free_text_is_encoded_for_each_row_with_its_columns() -> None:
    coding = encoding(template=Template("{{ text }}", "{{ id }}: {{ label }}"), labels=())

    encoded = encode_one(coding, "x", "rose by 3 %", id="A7")

    assert read(encoded.target_ids) == " A7: rose by 3 %<eos>"
    assert (encoded.choice, coding.choice_ids) == (-1, ())


def test_a_target_may_name_the_label_by_its_column() -> None:
    coding = encoding(template=Template("{{ text }}", "{{ mood }}!"), label_column="mood")

    assert read(coding.choice_ids[0]) == " negative!<eos>"


def test_an_end_token_that_the_tokenizer_adds_is_taken_off_a_causal_prompt() -> None:
    coding = Encoding(TOKENIZERS["seq2seq"], "causal", PROMPT, "sentence", LABELS)

    assert read(encode_one(coding, "x").prompt_ids) == "Q: x\nMood:"


def test_rows_keep_their_places_over_several_chunks() -> None:
    encoded = list(encoding().encode([example(f"row {i}", "neutral") for i in range(1100)], start=7))

    assert [e.index for e in encoded] == list(range(7, 1107))
    assert [read(e.prompt_ids) for e in encoded] == [f"<bos>Q: row {i}\nMood:" for i in range(1100)]


def test_prompts_that_were_seen_before_are_not_tokenized_again_and_have_the_same_tokens() -> None:
    seen: dict[str, tuple[int, ...]] = {}
    rows = [example("profit rose", "negative"), example("sales fell", "neutral"), example("profit rose", "neutral")]
    first = list(encoding().encode(rows, seen=seen))
    assert [e.prompt_ids for e in first] == [e.prompt_ids for e in encoding().encode(rows)]
    assert list(seen) == ["Q: profit rose\nMood:", "Q: sales fell\nMood:"]
    without = replace(encoding(), tokenizer=_Refusing(TOKENIZERS["causal"]))
    assert [e.prompt_ids for e in without.encode(rows[:1], seen=seen)] == [first[0].prompt_ids]


def test_a_text_that_is_cut_leaves_no_probes_behind() -> None:
    seen: dict[str, tuple[int, ...]] = {}
    [found] = replace(encoding(), max_length=40).encode([example("profit rose " * 50, "negative")], seen=seen)
    assert found.truncated and len(seen) == 1


class _Refusing:
    """A tokenizer that takes answers and no prompts."""

    def __init__(self, tokenizer: Any) -> None:
        self.plain = tokenizer

    def __call__(self, text: Any, **options: Any) -> Any:
        assert isinstance(text, str), "a prompt is tokenized"
        return self.plain(text, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


@pytest.mark.parametrize("prompt", ["a mood:", "a mood"])
def test_a_tokenizer_that_puts_a_space_before_every_text_does_not_double_the_answers_space(prompt: str) -> None:
    tokenizer = dummy_prefix_tokenizer()
    coding = Encoding(tokenizer, "causal", Template(prompt + "{{ text[1:] }}"), "text", ("positive", "no"))

    for label, ids in zip(coding.labels, coding.choice_ids, strict=True):
        joint = tokenizer(f"{prompt} {label}", add_special_tokens=False)["input_ids"]
        assert [*coding.prompt_ids([prompt])[0], *ids[:-1]] == joint
    doubled = tokenizer(" positive", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(doubled[:1]) == ["▁▁"]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_labels_with_the_same_answer_are_refused() -> None:
    with pytest.raises(TemplateError) as caught:
        encoding(template=Template("{{ text }}", "{{ label[0] }}"))

    assert str(caught.value) == (
        "Encoding the labels: 'neutral' and 'negative' have the same answer tokens, expected a different answer for "
        "each. Mend the template's target."
    )


def test_an_unknown_label_is_named_with_file_line_and_near_match() -> None:
    with pytest.raises(SettingsError) as caught:
        list(encoding().encode([example("a", "neutral"), example("b", "neutrall", line=9)]))

    assert str(caught.value) == (
        "Encoding news.csv:9: label 'neutrall' is not in the label set. Did you mean 'neutral'?"
    )


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None

    with pytest.raises(SettingsError, match="the tokenizer has no end token, expected eos_token to be set"):
        Encoding(tokenizer, "causal", PROMPT, "text", LABELS)


def test_a_prompt_without_a_single_token_is_refused() -> None:
    coding = Encoding(dummy_prefix_tokenizer(), "causal", Template("{{ text[3:] }}"), "text", LABELS)

    with pytest.raises(TemplateError, match=r"Encoding news.csv:2: its prompt 'abc' has no tokens"):
        encode_one(coding, "abc")


def test_a_template_longer_than_the_limit_is_refused_with_the_row() -> None:
    with pytest.raises(TemplateError) as caught:
        encode_one(encoding(max_length=15), "Profit rose by 3 %.")

    assert str(caught.value) == (
        "Encoding news.csv:2: the prompt has 10 tokens without its text and at most 5 are allowed, expected room for "
        "some of the text. Shorten the template or the other columns, or raise --max-length."
    )


def test_a_limit_that_leaves_no_room_for_the_text_is_refused() -> None:
    with pytest.raises(TemplateError, match="10 tokens without its text and at most 10 are allowed"):
        encode_one(encoding(max_length=20), "Profit rose by 3 %.")
    assert read(encode_one(encoding(max_length=21), "Profit rose").prompt_ids) == "<bos>Q: P\nMood:"


# -- cutting -----------------------------------------------------------------------------------------------------------

WORDS = st.text(alphabet="abcäß漢 \n\t", min_size=1, max_size=60).filter(str.strip)


@settings(deadline=None)
@given(
    text=WORDS, label=st.sampled_from(LABELS), max_length=st.integers(24, 70), kind=st.sampled_from(list(TOKENIZERS))
)
def test_cutting_keeps_the_limit_the_label_and_the_other_words(
    text: str, label: str, max_length: int, kind: Kind
) -> None:
    whole = encode_one(encoding(kind), text, label)
    cut = encode_one(encoding(kind, max_length=max_length), text, label)
    room = max(map(len, encoding().choice_ids)) if kind == "causal" else 0
    shown = read(cut.prompt_ids, kind).removeprefix("<bos>").removesuffix("<eos>")

    assert len(cut.prompt_ids) + room <= max_length or not cut.truncated
    assert cut.truncated == (len(whole.prompt_ids) + room > max_length)
    assert cut.target_ids == whole.target_ids and cut.choice == whole.choice
    assert shown.startswith("Q: ") and shown.endswith("\nMood:")
    kept = shown.removeprefix("Q: ").removesuffix("\nMood:")
    assert text.strip().startswith(kept.strip()) and kept.strip()
    if not cut.truncated:
        assert cut.prompt_ids == whole.prompt_ids


@settings(deadline=None)
@given(text=WORDS, max_length=st.integers(24, 70))
def test_no_longer_beginning_of_whole_words_would_fit(text: str, max_length: int) -> None:
    coding = encoding("seq2seq", max_length=max_length)
    cut = encode_one(coding, text)
    kept = read(cut.prompt_ids, "seq2seq").removeprefix("Q: ").removesuffix("\nMood:<eos>")
    text = text.strip()
    ends = [i for i in range(len(kept) + 1, len(text) + 1) if i == len(text) or text[i].isspace()]

    for end in ends if cut.truncated else []:
        longer = coding.prompt_ids([PROMPT.render_prompt({}, text=text[:end].rstrip(), text_column="text")])[0]
        assert len(longer) > max_length or text[:end].rstrip() == kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Profit rose by three", "Profit rose"),
        ("Profitrosebythree", "Profitroseb"),  # a first word is cut inside
        ("a " + "漢" * 40, "a " + "漢" * 3),  # and so is a run without blanks, which is no word
        ("Profit rose    ", "Profit rose"),
        ("      Profit rose", "Profit rose"),
    ],
)
def test_a_cut_falls_between_words_where_there_are_words(text: str, kept: str) -> None:
    encoded = encode_one(encoding("seq2seq", max_length=11 + len("Q: \nMood:") + 1), text)

    assert read(encoded.prompt_ids, "seq2seq") == f"Q: {kept}\nMood:<eos>"
    assert encoded.truncated


def test_other_columns_are_not_cut() -> None:
    coding = encoding(template=Template("{{ title }}: {{ text }}."), max_length=60)

    encoded = encode_one(coding, "word " * 50, title="A long title that stays")

    assert read(encoded.prompt_ids).startswith("<bos>A long title that stays: word word")
    assert read(encoded.prompt_ids).endswith("word.")


def test_all_choices_of_a_row_read_the_same_prompt() -> None:
    coding = encoding(max_length=40)

    prompts = {encode_one(coding, "word " * 50, label).prompt_ids for label in (*LABELS, None)}

    assert len(prompts) == 1


def test_a_field_of_a_hundred_thousand_characters_is_cut_too() -> None:
    encoded = encode_one(encoding(max_length=128), "word " * 20_000, "neutral")

    assert len(encoded.prompt_ids) <= 128 - len(" positive") - 1
    assert len(encoded.prompt_ids) > 128 - len(" positive") - 1 - len(" word")


# -- what the base has room for ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "encoder"])
def test_a_token_that_the_embeddings_have_no_row_for_is_named_with_its_row(kind: Kind) -> None:
    """Tokens were added to a tokenizer and the embeddings never resized: training ended in an IndexError of torch."""
    tokenizer = tiny_tokenizer(kind)
    tokenizer.add_tokens(["[ORG]"])
    coding = Encoding(tokenizer, kind, PROMPT, "sentence", LABELS, limits=Limits(vocabulary=260))

    assert encode_one(coding, "Profit rose.")
    with pytest.raises(BaseError) as caught:
        encode_one(coding, "[ORG] rose.")

    assert str(caught.value).startswith(
        "Encoding news.csv:2: the token '[ORG]' has the id 260, and the base's embeddings have 260 rows, for the ids 0 "
        "to 259. It was added to the tokenizer, and the embeddings were never resized"
    )


def test_labels_and_own_choices_with_such_a_token_are_errors_too() -> None:
    tokenizer = tiny_tokenizer("seq2seq")
    tokenizer.add_tokens(["[ORG]"])
    options: Any = {"limits": Limits(vocabulary=260)}
    with pytest.raises(BaseError, match=r"Encoding the labels: the answer 'an \[ORG\]': the token '\[ORG\]'"):
        Encoding(tokenizer, "seq2seq", PROMPT, "sentence", ("an [ORG]", "none"), **options)
    coding = Encoding(tokenizer, "seq2seq", PROMPT, "sentence", choices_column="options", **options)
    with pytest.raises(BaseError, match=r"Encoding news\.csv:2: the choice .\[ORG\].: the token '\[ORG\]'"):
        next(coding.encode([replace(example("x"), choices=("[ORG]", "none"))]))


def test_an_answer_longer_than_the_decoder_is_an_error() -> None:
    limits = Limits(reads=64, writes=9)
    assert encoding("seq2seq", limits=limits, labels=("negative", "no")).choice_ids
    with pytest.raises(TemplateError, match=r"the answer 'surprising' has 11 tokens, .* has positions for 9"):
        encoding("seq2seq", limits=limits, labels=("surprising", "no"))
    with pytest.raises(TemplateError, match=r"Encoding news\.csv:2: the answer has 11 tokens"):
        encode_one(encoding("seq2seq", limits=limits, labels=()), "Profit rose.", "surprising")


def test_an_answer_that_leaves_no_room_for_a_prompt_is_an_error_that_counts_its_tokens() -> None:
    with pytest.raises(TemplateError, match=r"its longest answer has 10 tokens, .* may have 10 together"):
        encode_one(encoding(max_length=10), "Profit rose.")
