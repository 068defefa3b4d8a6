"""What is known of model types, an entry for each family: where the vectors sit, and what else its code does.

A new family is one entry here and one tiny model in the tests. Read from the modeling code of transformers 5.23. A
rule's pattern is matched against the end of a module's path, the layer numbers included. This file knows names and
configs only; `discovery` walks the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ia3.core.sites import Channels, Side

# Parts of a model that read something else than text, by their path: no vectors of ours, and no axis of examples. BLT's
# patcher reads text and says where a patch ends, through a threshold that no gradient passes.
_FOREIGN = re.compile(r"vision|visual|image|video|audio|speech|multi_modal|patcher")

# (config, features of the projection) → role → channels
Layout = Callable[[Any, int], Mapping[str, Channels]]


@dataclass(frozen=True)
class Rule:
    """One kind of site of a family.

    Attributes:
        pattern: Regular expression for the end of the module path.
        role: Role of the vector; for a fused projection the layout names the roles.
        side: Side of the projection that is multiplied.
        where: Where it sits in the computation, in words.
        layout: For fused projections the slices of each role.
        peft: Name of the sibling projection and side under which PEFT's format holds the vector.
        twin: Another sibling projection and side where the same vector is the same function.
        unless: Name of a sibling projection that carries the vector in this projection's place.
    """

    pattern: str
    role: str
    side: Side
    where: str
    layout: Layout | None = None
    peft: tuple[str, Side] | None = None
    twin: tuple[str, Side] | None = None
    unless: str | None = None


@dataclass(frozen=True)
class LastBlock:
    """What of a family's last block is needed at the wanted positions only; names inside the block.

    Attributes:
        layers: Path of the list of blocks inside the model's body.
        alone: Modules that see one activation: taken before, put back after.
        opens: Module before which an activation is taken and not put back.
        closes: Module behind it: its further arguments are taken, its output is put back.
        reads_first: Whether a classifier on this family reads the first position and no other.
    """

    layers: str
    alone: tuple[str, ...]
    opens: str | None = None
    closes: str | None = None
    reads_first: bool = False


@dataclass(frozen=True)
class HubHead:
    """The flexible head of the `adapters` library that computes what transformers' own classifier does.

    Attributes:
        layers: How many it has.
        activation: Between two layers.
        has_pooler: Whether it reads the body's pooler.
        names: transformers' names of its layers, by their number.
    """

    layers: int
    activation: str | None
    has_pooler: bool
    names: Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """Model types that share what is known of them.

    Attributes:
        model_types: Values of `config.model_type`.
        rules: Tried in order for each projection; the first that matches is taken. Without any, a plan is found from
            structure.
        refusal: Given the config, a reason why a model of this family cannot be served, or None.
        is_flattened: Whether some projections see (batch · seq, features), the examples in order.
        last_block: What of the last block may be computed where it is read alone; None if that was not looked at.
        may_own_head: Whether a checkpoint may have an output matrix of its own though the config ties it to the
            embeddings: transformers 5.23 then goes by the config where there is no checkpoint.
        always_decodes: Whether nothing reads the config's `is_decoder`.
        hangs_on_padding: Whether the classifier of an encoder-decoder reads the place behind the last token, which is
            there only where padding follows (transformers 5.24).
        built_length: Setting that says for how many positions the model is built, where no table of positions does.
        peft_inputs: PEFT 0.21.2's default of `feedforward_modules` by model type, for those that have one
            (TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING).
        hub_head: What a flexible head of the `adapters` library must be.
    """

    model_types: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    refusal: Callable[[Any], str | None] | None = None
    is_flattened: bool = False
    last_block: LastBlock | None = None
    may_own_head: bool = False
    always_decodes: bool = False
    hangs_on_padding: bool = False
    built_length: str | None = None
    peft_inputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hub_head: HubHead | None = None


def key_value_query_thirds(config: Any, features: int) -> Mapping[str, Channels]:
    """[query | key | value], each a third: GPT-2's `c_attn`, ModernBERT's `Wqkv`."""
    third = features // 3
    return _spans(features, query=third, key=third, value=third)


def key_value_halves(config: Any, features: int) -> Mapping[str, Channels]:
    """[key | value]: GPT-2's cross-attention."""
    return _spans(features, key=features // 2, value=features // 2)


def interleaved_per_head(config: Any, features: int) -> Mapping[str, Channels]:
    """(heads, [query | key | value]): GPT-NeoX, BLOOM, DeBERTa v1."""
    heads = int(config.num_attention_heads)
    size = features // (3 * heads)
    return {
        role: Channels(groups=heads, stride=3 * size, start=i * size, length=size)
        for i, role in enumerate(("query", "key", "value"))
    }


def falcon_layout(config: Any, features: int) -> Mapping[str, Channels]:
    """Falcon's three generations: grouped [queries | key | value], multi-query, and interleaved per head."""
    size = int(config.hidden_size) // int(config.num_attention_heads)
    if config.new_decoder_architecture:
        stride = features // int(config.num_kv_heads)
        groups = int(config.num_kv_heads)
    elif config.multi_query:
        stride, groups = features, 1
    else:
        return interleaved_per_head(config, features)
    return {
        "query": Channels(groups, stride, 0, stride - 2 * size),
        "key": Channels(groups, stride, stride - 2 * size, size),
        "value": Channels(groups, stride, stride - size, size),
    }


def grouped_query_spans(config: Any, features: int) -> Mapping[str, Channels]:
    """[queries | keys | values] with fewer key heads: Phi-3's `qkv_proj`."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    narrow = int(config.num_key_value_heads * head_dim)
    return _spans(features, query=features - 2 * narrow, key=narrow, value=narrow)


def gate_then_linear(config: Any, features: int) -> Mapping[str, Channels]:
    """[gate | linear branch]: Phi-3's `gate_up_proj`, ModernBERT's `Wi`; the vector is on the linear branch."""
    return _spans(features, gate=features // 2, feedforward=features // 2)


def _spans(total: int, **widths: int) -> Mapping[str, Channels]:
    """Lay named contiguous slices one after another."""
    spans, start = {}, 0
    for role, width in widths.items():
        spans[role] = Channels.span(start, width, total)
        start += width
    return spans


_KEY = "keys of the attention"
_VALUE = "values of the attention"
_LINEAR = "linear branch of the gated feed-forward"
_LAST = "input of the last feed-forward projection"
_FUSED = "keys and values of the attention, in the fused projection"


def _separate(key: str, value: str) -> tuple[Rule, Rule]:
    return Rule(key, "key", "output", _KEY), Rule(value, "value", "output", _VALUE)


def _fused(pattern: str, layout: Layout) -> Rule:
    return Rule(pattern, "attention", "output", _FUSED, layout=layout)


def _last(pattern: str, unless: str | None = None) -> Rule:
    return Rule(pattern, "feedforward", "input", _LAST, unless=unless)


_T5_ATTENTION = r"(?:Local|TransientGlobal)?(?:SelfAttention|EncDecAttention)"
_T5_KEYS_VALUES = _separate(rf"{_T5_ATTENTION}\.k", rf"{_T5_ATTENTION}\.v")
_DECODER = LastBlock("layers", ("self_attn.q_proj", "self_attn.o_proj", "mlp"))
_BERT = LastBlock(
    "encoder.layer", ("attention.self.query", "attention.output.dense"), "intermediate", "output", reads_first=True
)
_ON_POOLER = HubHead(1, None, True, {"1": "classifier"})
_BERT_RULES = (
    *_separate(r"(?:cross)?attention\.self\.key", r"(?:cross)?attention\.self\.value"),
    # never attention.output.dense, which would be the value vector a second time
    _last(r"layer\.\d+\.output\.dense"),
)


def _bloom_refusal(config: Any) -> str | None:
    if getattr(config, "pretraining_tp", 1) > 1 and getattr(config, "slow_but_exact", False):
        return "with slow_but_exact it multiplies slices of the weights and goes past the projections"
    return None


FAMILIES: tuple[Family, ...] = (
    Family(
        ("t5",),
        (
            *_T5_KEYS_VALUES,
            Rule(r"DenseReluDense\.wi_1", "feedforward", "output", _LINEAR, peft=("wo", "input")),
            _last(r"DenseReluDense\.wo", unless="wi_1"),
        ),
        may_own_head=True,
        peft_inputs={"t5": ("wo",)},
    ),
    Family(
        # PEFT's default for mt5 is the output of wi_1; umt5 and longt5 have no default there
        ("mt5", "umt5", "longt5"),
        (
            *_T5_KEYS_VALUES,
            Rule(r"DenseReluDense\.wi_1", "feedforward", "output", _LINEAR, twin=("wo", "input")),
            _last(r"DenseReluDense\.wo", unless="wi_1"),
        ),
        may_own_head=True,
        peft_inputs={"mt5": ()},
    ),
    Family(
        ("bart", "mbart", "marian", "pegasus", "m2m_100"),
        (
            *_separate(r"(?:self_attn|encoder_attn)\.k_proj", r"(?:self_attn|encoder_attn)\.v_proj"),
            _last(r"layers\.\d+\.fc2"),
        ),
        peft_inputs={"bart": ("fc2",)},
    ),
    Family(
        ("gpt2",),
        (
            _fused(r"\d+\.attn\.c_attn", key_value_query_thirds),
            _fused(r"\d+\.crossattention\.c_attn", key_value_halves),
            _last(r"mlp\.c_proj"),
        ),
        peft_inputs={"gpt2": ("mlp.c_proj",)},
    ),
    Family(
        ("gptj",),
        (*_separate(r"attn\.k_proj", r"attn\.v_proj"), _last(r"mlp\.fc_out")),
        peft_inputs={"gptj": ("fc_out",)},
    ),
    Family(
        ("gpt_neo",),
        (*_separate(r"attention\.k_proj", r"attention\.v_proj"), _last(r"mlp\.c_proj")),
        peft_inputs={"gpt_neo": ("c_proj",)},
    ),
    Family(
        ("gpt_neox",),
        (_fused(r"attention\.query_key_value", interleaved_per_head), _last(r"mlp\.dense_4h_to_h")),
        always_decodes=True,
        peft_inputs={"gpt_neox": ("dense_4h_to_h",)},
    ),
    Family(
        ("bloom",),
        (_fused(r"self_attention\.query_key_value", interleaved_per_head), _last(r"mlp\.dense_4h_to_h")),
        refusal=_bloom_refusal,
        peft_inputs={"bloom": ("mlp.dense_4h_to_h",)},
    ),
    Family(
        ("falcon",),
        (_fused(r"self_attention\.query_key_value", falcon_layout), _last(r"mlp\.dense_4h_to_h")),
        peft_inputs={"falcon": ("dense_4h_to_h",)},
    ),
    Family(
        ("opt",),
        (*_separate(r"self_attn\.k_proj", r"self_attn\.v_proj"), _last(r"layers\.\d+\.fc2")),
        is_flattened=True,
        peft_inputs={"opt": ("fc2",)},
    ),
    Family(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "gemma3"),
        (
            *_separate(r"layers\.\d+\.self_attn\.k_proj", r"layers\.\d+\.self_attn\.v_proj"),
            Rule(r"layers\.\d+\.mlp\.up_proj", "feedforward", "output", _LINEAR, peft=("down_proj", "input")),
        ),
        last_block=_DECODER,
        peft_inputs=dict.fromkeys(
            ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), ("down_proj",)
        ),
    ),
    Family(
        ("phi",),
        (*_separate(r"self_attn\.k_proj", r"self_attn\.v_proj"), _last(r"mlp\.fc2")),
        peft_inputs={"phi": ("fc2",)},
    ),
    Family(
        ("phi3",),
        (
            _fused(r"self_attn\.qkv_proj", grouped_query_spans),
            Rule(
                r"mlp\.gate_up_proj",
                "feedforward",
                "output",
                _LINEAR,
                layout=gate_then_linear,
                peft=("down_proj", "input"),
            ),
        ),
    ),
    Family(("bert",), _BERT_RULES, last_block=_BERT, peft_inputs={"bert": ("output.dense",)}, hub_head=_ON_POOLER),
    Family(
        ("roberta", "xlm-roberta"),
        _BERT_RULES,
        last_block=_BERT,
        peft_inputs={"roberta": ("output.dense",)},
        hub_head=HubHead(2, "tanh", False, {"1": "classifier.dense", "4": "classifier.out_proj"}),
    ),
    Family(("camembert", "electra"), _BERT_RULES, last_block=_BERT),
    Family(
        ("distilbert",),
        (*_separate(r"attention\.k_lin", r"attention\.v_lin"), _last(r"ffn\.lin2")),
        hub_head=HubHead(2, "relu", False, {"1": "pre_classifier", "4": "classifier"}),
    ),
    Family(
        ("mpnet",),
        (*_separate(r"attention\.attn\.k", r"attention\.attn\.v"), _last(r"layer\.\d+\.output\.dense")),
    ),
    Family(
        ("albert",),
        (*_separate(r"attention\.key", r"attention\.value"), _last(r"ffn_output")),
        hub_head=_ON_POOLER,
    ),
    Family(
        ("deberta",),
        (_fused(r"attention\.self\.in_proj", interleaved_per_head), _last(r"layer\.\d+\.output\.dense")),
        peft_inputs={"deberta": ("output.dense",)},
    ),
    Family(
        ("deberta-v2",),
        (
            *_separate(r"attention\.self\.key_proj", r"attention\.self\.value_proj"),
            _last(r"layer\.\d+\.output\.dense"),
        ),
        peft_inputs={"deberta-v2": ("output.dense",)},
    ),
    Family(
        ("modernbert",),
        (
            _fused(r"attn\.Wqkv", key_value_query_thirds),
            Rule(
                r"mlp\.Wi",
                "feedforward",
                "output",
                _LINEAR,
                layout=gate_then_linear,
                peft=("Wo", "input"),
            ),
        ),
    ),
    Family(("gpt_neox_japanese",), always_decodes=True),
    Family(("t5gemma", "t5gemma2"), hangs_on_padding=True),
    Family(("mpt",), built_length="max_seq_len"),  # its ALiBi is built once, in that length
    Family(("gpt_bigcode",), peft_inputs={"gpt_bigcode": ("mlp.c_proj",)}),
    Family(("llama4",), peft_inputs={"llama4": ("down_proj",)}),
    Family(("mixtral",), peft_inputs={"mixtral": ("w2",)}),
    Family(
        ("RefinedWeb", "RefinedWebModel"),
        peft_inputs=dict.fromkeys(("RefinedWeb", "RefinedWebModel"), ("dense_4h_to_h",)),
    ),
)
_BY_TYPE = {model_type: family for family in FAMILIES for model_type in family.model_types}
_UNKNOWN = Family(())


def family_of(model_type: str) -> Family:
    """Return what is known of a model type; of one that is not in the table nothing."""
    return _BY_TYPE.get(model_type, _UNKNOWN)


def is_foreign(path: str) -> bool:
    """Whether a module belongs to another model inside this one, such as a vision tower."""
    return _FOREIGN.search(path) is not None
