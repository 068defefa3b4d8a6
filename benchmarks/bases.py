"""The bases of the benchmark: two with real weights on a real table, four of published shapes with random weights.

Random bases get random token ids whose lengths follow those of the real table, and answers of two or three tokens. This
file knows tables, tokenizers and configs; it knows nothing of methods and clocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf

from ia3.bases.folders import load_tokenizer
from ia3.bases.loading import load_base
from ia3.bases.locating import locate
from ia3.data.encoding import Encoded, Encoding
from ia3.data.templates import default_template
from ia3.errors import SettingsError, TableError, near_matches
from ia3.names import Kind
from ia3.runs.dataset import SplitTable, encode_rows, read_rows

ROOT = Path(__file__).parents[1]
TABLE = Path("financial_phrasebank", "train.csv")
SEED = 0
_FIRST_ID = 10  # random ids begin here, behind the special tokens
_ANSWER_LENGTHS = (2, 3, 2)  # tokens of the three answers of a random base


@dataclass(frozen=True)
class Case:
    """One base with the rows it is trained on.

    Attributes:
        name: Name of the base.
        kind: Its kind.
        model: In eval mode, fp32, on the CPU, no parameter requiring a gradient.
        pad_id: Token id of padding.
        decoder_start_id: First decoder token; seq2seq only.
        head_modules: Modules that an adapter trains beside its vectors.
        examples: The rows as token ids.
        is_real: Whether weights and rows are real.
    """

    name: str
    kind: Kind
    model: Any
    pad_id: int
    decoder_start_id: int | None
    head_modules: tuple[str, ...]
    examples: tuple[Encoded, ...]
    is_real: bool


@dataclass(frozen=True)
class Shape:
    """A base with random weights.

    Attributes:
        kind: Its kind.
        model: Class of the model.
        config: Makes its config.
        has_own_head: Whether the output matrix is not the embeddings, as in every checkpoint of T5 1.1 and mT5;
            transformers ties them in a model made from its config.
        is_tiny: Whether it is for tests: not in the list of bases, and needs no table.
    """

    kind: Kind
    model: Any
    config: Callable[[], Any]
    has_own_head: bool = False
    is_tiny: bool = False


def _t5(config: Any, **numbers: Any) -> Any:
    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return config(feed_forward_proj="gated-gelu", tie_word_embeddings=False, **ids, **numbers)


def _mt5_small() -> Any:
    return _t5(
        hf.MT5Config, vocab_size=250112, d_model=512, d_kv=64, num_heads=6, d_ff=1024, num_layers=8,
        num_decoder_layers=8,
    )  # fmt: skip


def _flan_t5_base() -> Any:
    return _t5(
        hf.T5Config, vocab_size=32128, d_model=768, d_kv=64, num_heads=12, d_ff=2048, num_layers=12,
        num_decoder_layers=12,
    )  # fmt: skip


def _bert_base() -> Any:
    return hf.BertConfig(vocab_size=30522, pad_token_id=0, num_labels=3)


def _qwen3() -> Any:
    return hf.Qwen3Config(
        vocab_size=151936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0}, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip


def _tiny_gemma3() -> Any:
    return hf.Gemma3TextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, query_pre_attn_scalar=4, max_position_embeddings=256, sliding_window=16,
        layer_types=["sliding_attention", "full_attention"], pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip


def _tiny_mt5() -> Any:
    return _t5(
        hf.MT5Config, vocab_size=64, d_model=16, d_kv=4, num_heads=4, d_ff=24, num_layers=2, num_decoder_layers=2
    )


def _tiny_bert() -> Any:
    return hf.BertConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=160, pad_token_id=0, num_labels=3,
    )  # fmt: skip


REAL = ("gemma-3-270m", "minilm")
SHAPES: Mapping[str, Shape] = {
    "mt5-small": Shape("seq2seq", hf.MT5ForConditionalGeneration, _mt5_small, has_own_head=True),
    "flan-t5-base": Shape("seq2seq", hf.T5ForConditionalGeneration, _flan_t5_base, has_own_head=True),
    "bert-base": Shape("encoder", hf.BertForSequenceClassification, _bert_base),
    "qwen3-0.6b": Shape("causal", hf.Qwen3ForCausalLM, _qwen3),
    "tiny": Shape("causal", hf.Gemma3ForCausalLM, _tiny_gemma3, is_tiny=True),
    "tiny-mt5": Shape("seq2seq", hf.MT5ForConditionalGeneration, _tiny_mt5, has_own_head=True, is_tiny=True),
    "tiny-bert": Shape("encoder", hf.BertForSequenceClassification, _tiny_bert, is_tiny=True),
}
NAMES = (*REAL, *(name for name, shape in SHAPES.items() if not shape.is_tiny))
_KINDS: Mapping[str, Kind] = {"gemma-3-270m": "causal", "minilm": "encoder"}


def check_base(name: str) -> None:
    """Raise a SettingsError if the benchmark has no such base."""
    if name not in REAL and name not in SHAPES:
        raise SettingsError(f"Choosing the bases: the benchmark has no base {name!r}.{near_matches(name, NAMES)}")


def find_table(given: str | None) -> Path:
    """Return the table of sentences: in the given folder, that of IA3_DATA, or one beside the checkout.

    Raises:
        TableError: If it is not there.
    """
    folder = Path(given or os.environ.get("IA3_DATA") or ROOT.parent / "shared" / "data").expanduser()
    path = folder / TABLE
    if not path.is_file():
        raise TableError(
            f"Looking for the benchmark's table: there is no {TABLE} in {folder}. Give the folder that holds it: "
            "--data DIR, or set IA3_DATA."
        )
    return path.resolve()


def needs_table(name: str) -> bool:
    """Whether a base is measured on the real table, or on lengths taken from it."""
    return name in REAL or not SHAPES[name].is_tiny


def load_case(name: str, table: Path | None) -> Case:
    """Return a base with its rows; the same numbers in every process.

    Args:
        name: Name of the base.
        table: The table of sentences; None for a tiny base.

    Raises:
        IA3Error: If the base or the table cannot be read.
    """
    check_base(name)
    if name in REAL:
        return _load_real(name, _rows(table, _KINDS[name]))
    shape = SHAPES[name]
    lengths = _tiny_lengths() if shape.is_tiny else _real_lengths(_rows(table, "encoder"))
    config = shape.config()
    examples = random_examples(shape.kind, lengths, config.vocab_size)
    start = config.decoder_start_token_id if shape.kind == "seq2seq" else None
    heads = ("classifier",) if shape.kind == "encoder" else ()
    return Case(name, shape.kind, _random_model(shape, config), config.pad_token_id, start, heads, examples, False)


def _rows(table: Path | None, kind: Kind) -> SplitTable:
    assert table is not None
    return read_rows(table, eval_fraction=0, kind=kind)


def _load_real(name: str, rows: SplitTable) -> Case:
    kind = _KINDS[name]
    labels = rows.labels if kind == "encoder" else None
    base = load_base(name, kind=kind, labels=labels, dtype="float32", device="cpu", seed=SEED)
    examples = encode_rows(rows, base.tokenizer, base.limits, kind).train
    return Case(name, kind, base.model, base.pad_id, base.decoder_start_id, base.head_modules, examples, True)


def _real_lengths(rows: SplitTable) -> list[int]:
    """Return the number of tokens of every sentence, by MiniLM's tokenizer."""
    tokenizer = load_tokenizer(locate("minilm").folder, "minilm")
    encoding = Encoding(tokenizer, "encoder", default_template("encoder", None), rows.train.text_column)
    examples = [replace(example, label=None) for example in rows.train.examples]
    return [len(encoded) for encoded in encoding.encode(examples)]


def _tiny_lengths() -> list[int]:
    return np.random.default_rng(SEED).integers(4, 24, 64).tolist()


def random_examples(kind: Kind, lengths: Sequence[int], vocabulary: int) -> tuple[Encoded, ...]:
    """Return an example of random token ids for each length, answered by one of three fixed random answers.

    Args:
        kind: Of the base; an encoder's answer is the choice alone.
        lengths: Tokens of each prompt.
        vocabulary: Size of the vocabulary.
    """
    random = np.random.default_rng(SEED)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(random.integers(_FIRST_ID, vocabulary, count).tolist())

    answers = [() if kind == "encoder" else draw(length) for length in _ANSWER_LENGTHS]
    choices = random.integers(0, len(answers), len(lengths)).tolist()
    return tuple(
        Encoded(index, draw(length), answers[choice], choice, truncated=False)
        for index, (length, choice) in enumerate(zip(lengths, choices, strict=True))
    )


def _random_model(shape: Shape, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = shape.model(config)
        if shape.has_own_head:
            # of a width that gives logits near one: a loss of hundreds would hide every difference
            own = torch.randn(config.vocab_size, config.d_model) * config.d_model**-0.5
            model.lm_head.weight = torch.nn.Parameter(own)
            model.config.tie_word_embeddings = False
    return model.eval().requires_grad_(False)
