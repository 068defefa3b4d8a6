"""The tokenizer of a GGUF file as llama.cpp reads it, where transformers' import leaves something out; or refused.

transformers 5.24 builds the vocabulary and the merges and leaves the rest to the class that it knows the family by: a
file's own `add_space_prefix`, the start token and the whole words of Llama 3's vocabularies, the normalisation of T5's,
and most names of `tokenizer.ggml.pre`. What a text becomes here was compared, setting by setting, with llama.cpp
(2026-11, on files made for it); a setting that was not is refused by its key. docs/bases.md has the table. This file
knows tokenizers and a header's fields; it reads no file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ia3.bases.gguf_header import GGUFHeader
from ia3.errors import BaseError

_KEY = "tokenizer.ggml."
_SPACE = "▁"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Names by which texts begin with the start token where the file does not say, and words of the vocabulary stay whole.
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "lfm2", "midm-2.0", "pixtral", "tekken")
# Names whose way transformers knows, GPT-2's among them, which it takes for every name that it does not know.
_IMPORTED = (
    *_LLAMA3,
    *(
        "gpt-2",
        "a.x-4.0",
        "exaone4",
        "gigachat",
        "granite-docling",
        "jais",
        "mellum",
        "mpt",
        "olmo",
        "phi-2",
        "trillion",
    ),
    *("jina-de", "jina-es", "jina-v2-de", "jina-v2-es", "modern-bert", "roberta-bpe", "dbrx", "smaug-bpe"),
    *("qwen2", "deepseek-r1-qwen", "f2llmv2", "kormo", "megrez", "qwen35"),
    *("gpt-4o", "kanana2", "llama4", "minimax-m2", "talkie"),
)
_DIGITS_ALONE = ("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "mellum2", "minerva-7b")
_AS_QWEN2 = ("stablelm2", "hunyuan", "seed-coder", "bailingmoe", "grok-2", "solar-open", "llada-moe")
_AS_BLOOM = ("bloom", "gpt3-finnish", "poro-chat")
# How a byte vocabulary's texts are cut before the merges, one expression after the other.
_CUTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(_IMPORTED, ()),
    **dict.fromkeys(_DIGITS_ALONE, (r"\p{N}", _GPT2)),
    **dict.fromkeys(_AS_QWEN2, (_QWEN2,)),
    **dict.fromkeys(_AS_BLOOM, (r" ?[^(\s|.,!?…。，、।۔،)]+",)),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]"),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
}
# Ids that llama.cpp takes where the file has none.
_IDS: Mapping[str, Mapping[str, int]] = {
    "llama": {"bos": 1, "eos": 2, "unknown": 0},
    "gpt2": {},
    "t5": {"eos": 1, "unknown": 2, "padding": 0},
}
_NAMES = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "seperator": "sep", "mask": "mask"}


def mend_tokenizer(tokenizer: Any, header: GGUFHeader) -> PreTrainedTokenizerFast:
    """Return the tokenizer that a GGUF file describes.

    Args:
        tokenizer: What transformers made of the file.
        header: The file's header.

    Raises:
        BaseError: If the file says something of its tokenizer that is not known here; the key is named.
    """
    kind = str(header.fields.get(f"{_KEY}model"))
    if kind not in _MENDERS:
        raise _refusal(header, "model", kind)
    backend: Tokenizer = tokenizer.backend_tokenizer
    start, end = _MENDERS[kind](backend, header)
    ids = _special_ids(kind, header)
    names = {name: _token(backend, header, key, ids[key]) for key, name in _NAMES.items() if key in ids}
    backend.post_processor = _ends(header, names, ids, start=start, end=end)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        padding_side=tokenizer.padding_side,
        chat_template=tokenizer.chat_template,
        **{f"{name}_token": token for name, token in names.items()},
    )


def _mend_pieces(backend: Tokenizer, header: GGUFHeader) -> tuple[bool, bool]:
    """SentencePiece: a blank before every text, also behind a special token, unless the file says otherwise."""
    has_space = _flag(header, "add_space_prefix", usual=True)
    before: list[Any] = [normalizers.Prepend(_SPACE)] if has_space else []
    backend.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", _SPACE)])
    backend.pre_tokenizer = None
    after: list[Any] = [decoders.Strip(content=" ", left=1, right=0)] if has_space else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return _flag(header, "add_bos_token", usual=True), _flag(header, "add_eos_token", usual=False)


def _mend_bytes(backend: Tokenizer, header: GGUFHeader) -> tuple[bool, bool]:
    """A vocabulary of bytes: how texts are cut before the merges stands in `tokenizer.ggml.pre`."""
    name = str(header.fields.get(f"{_KEY}pre", "default"))
    if name not in _CUTS:
        raise _refusal(header, "pre", name)
    if _flag(header, "add_sep_token", usual=False):
        raise _refusal(header, "add_sep_token", True)
    if cuts := _CUTS[name]:
        parts: Sequence[Any] = [pre_tokenizers.Split(Regex(cut), behavior="isolated") for cut in cuts]
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([*parts, whole])
    model: Any = backend.model
    model.ignore_merges = name in _LLAMA3
    return _flag(header, "add_bos_token", usual=name in _LLAMA3), _flag(header, "add_eos_token", usual=False)


def _mend_unigram(backend: Tokenizer, header: GGUFHeader) -> tuple[bool, bool]:
    """T5's: characters are mapped as the file says, and blanks are joined; a text whose blanks are begins with one."""
    steps: list[Any] = []
    if charsmap := header.fields.get(f"{_KEY}precompiled_charsmap"):
        steps.append(normalizers.Precompiled(bytes(byte % 256 for byte in charsmap)))
    is_joined = _flag(header, "remove_extra_whitespaces", usual=False)
    if is_joined:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(left=True, right=True)]
    has_space = is_joined or _flag(header, "add_space_prefix", usual=False)
    steps += [normalizers.Prepend(_SPACE)] if has_space else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    backend.pre_tokenizer = None
    backend.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always" if has_space else "never")
    return _flag(header, "add_bos_token", usual=False), _flag(header, "add_eos_token", usual=True)


_MENDERS: Mapping[str, Callable[[Tokenizer, GGUFHeader], tuple[bool, bool]]] = {
    "llama": _mend_pieces,
    "gpt2": _mend_bytes,
    "t5": _mend_unigram,
}


def _special_ids(kind: str, header: GGUFHeader) -> dict[str, int]:
    """Return the ids of special tokens by the file's names, those that llama.cpp takes where it has none included."""
    given = {key: header.fields.get(f"{_KEY}{key}_token_id") for key in _NAMES}
    return {**_IDS[kind], **{key: int(value) for key, value in given.items() if value is not None}}


def _token(backend: Tokenizer, header: GGUFHeader, key: str, number: int) -> str:
    token: str | None = backend.id_to_token(number)
    if token is None:
        raise BaseError(
            f"Converting the GGUF file {header.path}: {_KEY}{key}_token_id is {number}, and its vocabulary has "
            f"{backend.get_vocab_size()} tokens, expected an id below. The file is damaged; fetch it again."
        )
    return token


def _ends(
    header: GGUFHeader, names: Mapping[str, str], ids: Mapping[str, int], *, start: bool, end: bool
) -> processors.TemplateProcessing:
    """Return what puts the start and the end token around every text."""
    for key, is_put in (("bos", start), ("eos", end)):
        if is_put and key not in ids:
            raise BaseError(
                f"Converting the GGUF file {header.path}: a {key} token is put at every text, and {_KEY}{key}_token_id "
                "is not there, expected its id. Use the model's own folder or hub id in place of the GGUF file."
            )
    around = ([names["bos"]] if start else []), ([names["eos"]] if end else [])
    single = [*around[0], "$A", *around[1]]
    pair = [*single, *around[0], "$B:1", *around[1]]
    special = [(names[key], ids[key]) for key, is_put in (("bos", start), ("eos", end)) if is_put]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)


def _flag(header: GGUFHeader, key: str, *, usual: bool) -> bool:
    return bool(header.fields.get(f"{_KEY}{key}", usual))


def _refusal(header: GGUFHeader, key: str, value: Any) -> BaseError:
    return BaseError(
        f"Converting the GGUF file {header.path}: {_KEY}{key} is {value!r}, and what texts become by it is not known "
        "here, so the model would read something else. Use the model's own folder or hub id in place of the GGUF file."
    )
