"""How a byte-level tokenizer in a GGUF file cuts a text before its merges: put back, or refused.

The file has a name for it (`tokenizer.ggml.pre`). transformers (5.24, `integrations/gguf/gguf_tokenizer_mapping.py`)
knows some of the names and takes GPT-2's way for all others without a word: other tokens than the model was trained
with. What each name means is written in llama.cpp, `src/llama-vocab.cpp`. This file knows tokenizers; it reads no file.
"""

from __future__ import annotations

from typing import Any

from tokenizers import pre_tokenizers

from ia3.bases.gguf_header import GGUFHeader
from ia3.errors import BaseError

# As GPT-2 does, which is what transformers makes of a name that it does not know.
_AS_GPT2 = (
    "a.x-4.0", "exaone4", "gigachat", "gpt-2", "granite-docling", "jais", "jina-de", "jina-es", "jina-v2-de",
    "jina-v2-es", "mellum", "modern-bert", "mpt", "olmo", "phi-2", "roberta-bpe", "trillion",
)  # fmt: skip
# As GPT-2 does, every digit alone.
_DIGITS_ALONE = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")


def mend_splitting(tokenizer: Any, header: GGUFHeader) -> None:
    """Let a tokenizer cut texts as its GGUF file says.

    Args:
        tokenizer: What transformers made from the file; changed in place.
        header: The file's header.

    Raises:
        BaseError: If the file names a way that is not known here; a file that names none is left as it is.
    """
    name = header.fields.get("tokenizer.ggml.pre")
    if header.fields.get("tokenizer.ggml.model") != "gpt2" or name is None:
        return
    is_as_gpt2 = isinstance(tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel)  # not told better
    if name in _DIGITS_ALONE:
        digits = pre_tokenizers.Digits(individual_digits=True)
        plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, plain])
    elif is_as_gpt2 and name not in _AS_GPT2:
        raise BaseError(
            f"Converting the GGUF file {header.path}: its tokenizer cuts texts in the way {name!r} "
            f"(tokenizer.ggml.pre), which is not known here, so the base would read other tokens than it was trained "
            f"with. Use the model's own folder or hub id in place of the GGUF file."
        )
