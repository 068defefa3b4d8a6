"""Every family's weights scaled by hand, as its modeling code lays them out; independent of plans, channels and merge.

`scaled_parameters` returns new weights (differentiable in the vectors) for `torch.func.functional_call`. Keys and
values are the rows of their projection, feed-forward vectors always the columns of the last projection: the activation
that enters it, which is the paper's definition, wherever the site itself sits. Every vector must be used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def scaled_parameters(family: str, model: Any, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights and biases that hold the vectors, by name.

    Args:
        family: Key of `tests.families.CASES`.
        model: The family's model, without a bank.
        vectors: By the name of the site.
    """
    hand = Hand(model, vectors)
    FAMILIES[family](model, hand)
    assert not hand.left, f"no such site: {sorted(hand.left)}"
    return hand.scaled


class Hand:
    """Takes vectors by the site's name and multiplies weights by them."""

    def __init__(self, model: Any, vectors: Mapping[str, Tensor]) -> None:
        self.left = dict(vectors)
        self.scaled: dict[str, Tensor] = {}
        self._paths = {id(module): path for path, module in model.named_modules()}

    def take(self, module: nn.Module, suffix: str = "") -> Tensor:
        return self.left.pop(self._paths[id(module)] + suffix)

    def rows(self, linear: Any, factor: Tensor) -> None:
        """Scale what a Linear returns."""
        path = self._paths[id(linear)]
        self.scaled[f"{path}.weight"] = linear.weight * factor.reshape(-1, 1)
        if linear.bias is not None:
            self.scaled[f"{path}.bias"] = linear.bias * factor.reshape(-1)

    def columns(self, linear: Any, factor: Tensor) -> None:
        """Scale what a Linear receives."""
        self.scaled[f"{self._paths[id(linear)]}.weight"] = linear.weight * factor.reshape(1, -1)

    def keys_and_values(self, key: Any, value: Any) -> None:
        self.rows(key, self.take(key))
        self.rows(value, self.take(value))

    def last(self, linear: Any) -> None:
        self.columns(linear, self.take(linear, "[input]"))

    def interleaved(self, fused: Any, heads: int) -> None:
        """(heads, 3, size): GPT-NeoX, BLOOM, DeBERTa, the first Falcon."""
        key, value = self.take(fused, "[key]").view(heads, -1), self.take(fused, "[value]").view(heads, -1)
        self.rows(fused, torch.stack([torch.ones_like(key), key, value], dim=1))

    def thirds(self, fused: Any) -> Tensor:
        key, value = self.take(fused, "[key]"), self.take(fused, "[value]")
        return torch.cat([torch.ones_like(key), key, value])


def _t5(model: Any, hand: Hand) -> None:
    for stack in (model.encoder, model.decoder):
        for block in stack.block:
            for layer in block.layer[:-1]:
                attention = next(m for name, m in layer.named_children() if name.endswith("Attention"))
                hand.keys_and_values(attention.k, attention.v)
            feedforward = block.layer[-1].DenseReluDense
            if hasattr(feedforward, "wi_1"):
                hand.columns(feedforward.wo, hand.take(feedforward.wi_1))
            else:
                hand.last(feedforward.wo)


def _bart(model: Any, hand: Hand) -> None:
    for layer in (*model.model.encoder.layers, *model.model.decoder.layers):
        hand.keys_and_values(layer.self_attn.k_proj, layer.self_attn.v_proj)
        if hasattr(layer, "encoder_attn"):
            hand.keys_and_values(layer.encoder_attn.k_proj, layer.encoder_attn.v_proj)
        hand.last(layer.fc2)


def _gpt2(model: Any, hand: Hand) -> None:
    for index, block in enumerate(model.transformer.h):
        path = f"transformer.h.{index}"  # Conv1D holds (inputs, outputs)
        factor = hand.thirds(block.attn.c_attn)
        hand.scaled[f"{path}.attn.c_attn.weight"] = block.attn.c_attn.weight * factor.view(1, -1)
        hand.scaled[f"{path}.attn.c_attn.bias"] = block.attn.c_attn.bias * factor
        entering = hand.take(block.mlp.c_proj, "[input]")
        hand.scaled[f"{path}.mlp.c_proj.weight"] = block.mlp.c_proj.weight * entering.view(-1, 1)


def _gptj(model: Any, hand: Hand) -> None:
    for block in model.transformer.h:
        hand.keys_and_values(block.attn.k_proj, block.attn.v_proj)
        hand.last(block.mlp.fc_out)


def _gpt_neo(model: Any, hand: Hand) -> None:
    for block in model.transformer.h:
        hand.keys_and_values(block.attn.attention.k_proj, block.attn.attention.v_proj)
        hand.last(block.mlp.c_proj)


def _gpt_neox(model: Any, hand: Hand) -> None:
    for layer in model.gpt_neox.layers:
        hand.interleaved(layer.attention.query_key_value, heads=4)
        hand.last(layer.mlp.dense_4h_to_h)


def _bloom(model: Any, hand: Hand) -> None:
    for block in model.transformer.h:
        hand.interleaved(block.self_attention.query_key_value, heads=4)
        hand.last(block.mlp.dense_4h_to_h)


def _falcon_multi_query(model: Any, hand: Hand) -> None:
    for block in model.transformer.h:  # (4 query heads, key, value) of size 4
        fused = block.self_attention.query_key_value
        key, value = hand.take(fused, "[key]"), hand.take(fused, "[value]")
        hand.rows(fused, torch.cat([key.new_ones(16), key, value]))
        hand.last(block.mlp.dense_4h_to_h)


def _falcon_grouped(model: Any, hand: Hand) -> None:
    for block in model.transformer.h:  # 2 groups of (2 query heads, key, value) of size 4
        fused = block.self_attention.query_key_value
        key, value = hand.take(fused, "[key]").view(2, 4), hand.take(fused, "[value]").view(2, 4)
        hand.rows(fused, torch.cat([key.new_ones(2, 8), key, value], dim=1))
        hand.last(block.mlp.dense_4h_to_h)


def _opt(model: Any, hand: Hand) -> None:
    for layer in model.model.decoder.layers:
        hand.keys_and_values(layer.self_attn.k_proj, layer.self_attn.v_proj)
        hand.last(layer.fc2)


def _llama(model: Any, hand: Hand) -> None:
    for layer in model.model.layers:
        hand.keys_and_values(layer.self_attn.k_proj, layer.self_attn.v_proj)
        hand.columns(layer.mlp.down_proj, hand.take(layer.mlp.up_proj))


def _phi(model: Any, hand: Hand) -> None:
    for layer in model.model.layers:
        hand.keys_and_values(layer.self_attn.k_proj, layer.self_attn.v_proj)
        hand.last(layer.mlp.fc2)


def _phi3(model: Any, hand: Hand) -> None:
    for layer in model.model.layers:  # 4 query heads, 2 key heads, 2 value heads of size 4
        fused = layer.self_attn.qkv_proj
        key, value = hand.take(fused, "[key]"), hand.take(fused, "[value]")
        hand.rows(fused, torch.cat([key.new_ones(16), key, value]))
        hand.columns(layer.mlp.down_proj, hand.take(layer.mlp.gate_up_proj, "[feedforward]"))


def _bert(model: Any, hand: Hand) -> None:
    for layer in model.base_model.encoder.layer:
        hand.keys_and_values(layer.attention.self.key, layer.attention.self.value)
        hand.last(layer.output.dense)


def _distilbert(model: Any, hand: Hand) -> None:
    for layer in model.distilbert.transformer.layer:
        hand.keys_and_values(layer.attention.k_lin, layer.attention.v_lin)
        hand.last(layer.ffn.lin2)


def _mpnet(model: Any, hand: Hand) -> None:
    for layer in model.mpnet.encoder.layer:
        hand.keys_and_values(layer.attention.attn.k, layer.attention.attn.v)
        hand.last(layer.output.dense)


def _albert(model: Any, hand: Hand) -> None:
    layer = model.albert.encoder.albert_layer_groups[0].albert_layers[0]  # the one layer, run twice
    hand.keys_and_values(layer.attention.key, layer.attention.value)
    hand.last(layer.ffn_output)


def _deberta(model: Any, hand: Hand) -> None:
    for layer in model.deberta.encoder.layer:
        hand.interleaved(layer.attention.self.in_proj, heads=4)
        hand.last(layer.output.dense)


def _deberta_v2(model: Any, hand: Hand) -> None:
    for layer in model.deberta.encoder.layer:
        hand.keys_and_values(layer.attention.self.key_proj, layer.attention.self.value_proj)
        hand.last(layer.output.dense)


def _modernbert(model: Any, hand: Hand) -> None:
    for layer in model.model.layers:
        hand.rows(layer.attn.Wqkv, hand.thirds(layer.attn.Wqkv))
        hand.columns(layer.mlp.Wo, hand.take(layer.mlp.Wi, "[feedforward]"))


FAMILIES: dict[str, Callable[[Any, Hand], None]] = {
    **dict.fromkeys(("t5", "t5-gated", "mt5", "umt5", "longt5", "longt5-global"), _t5),
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus", "m2m_100"), _bart),
    "gpt2": _gpt2,
    "gptj": _gptj,
    "gpt_neo": _gpt_neo,
    "gpt_neox": _gpt_neox,
    "bloom": _bloom,
    "opt": _opt,
    "falcon": _falcon_multi_query,
    "falcon-new": _falcon_grouped,
    "falcon-rw": _bloom,
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"), _llama),
    "phi": _phi,
    "phi3": _phi3,
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert", "electra"), _bert),
    "distilbert": _distilbert,
    "mpnet": _mpnet,
    "albert": _albert,
    "deberta": _deberta,
    "deberta-v2": _deberta_v2,
    "deberta-v3": _deberta_v2,
    "modernbert": _modernbert,
}
