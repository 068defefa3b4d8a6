"""Models that are not in the table: discovered right, or refused with what to write."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.projections import is_fused
from ia3.errors import PlanError
from tests.core.banks import largest, random_row
from tests.core.hand_scaled import Hand
from tests.core.unknown_models import DISCOVERED, REFUSED, vit, wavlm
from tests.families import VOCABULARY, with_large_weights


@pytest.mark.parametrize("name", DISCOVERED)
def test_an_unknown_model_is_discovered_and_equals_hand_scaled_weights(name: str) -> None:
    # in float64: nemotron squares its activations, and its rounding in fp32 depends on the processor
    base, model = with_large_weights(DISCOVERED[name]).double(), with_large_weights(DISCOVERED[name]).double()
    bank = Bank(find_plan(model), dtype=torch.float64)
    assert bank.plan.source == "structure"
    assert Counter(site.role for site in bank.plan.sites) == {"key": 2, "value": 2, "feedforward": 2}
    attach_bank(model, bank)
    bank.add("news", random_row(bank))
    hand = Hand(base, bank.site_vectors("news"))
    for module in base.modules():
        if "Attention" in type(module).__name__:
            names = ("k_lin", "v_lin") if name == "xlm" else ("k_proj", "v_proj")
            hand.keys_and_values(*(getattr(module, n) for n in names))
        for last in ("down_proj", "c_proj", "lin2"):
            if hasattr(module, last):
                hand.last(getattr(module, last))
    assert not hand.left
    inputs = {"input_ids": torch.randint(3, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(1))}
    with torch.no_grad():
        expected = torch.func.functional_call(base, hand.scaled, kwargs=inputs).logits
        found = model(**inputs, rows="news").logits
        mixed = model(**inputs, rows=["news", "__base__", "news"]).logits
        plain = model(**inputs, rows="__base__").logits
    assert largest(expected - plain) > 0.05
    assert largest(found - expected) <= 1e-5
    assert largest(mixed - torch.stack([found[0], plain[1], found[2]])) <= 1e-5


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_whose_structure_does_not_tell_is_refused_with_the_lines_to_write(name: str) -> None:
    make, told = REFUSED[name]
    with torch.device("meta"):
        model = make()
    with pytest.raises(PlanError) as caught:
        find_plan(model)
    message = str(caught.value)
    assert told in message
    assert "Candidates:" in message
    assert f"of a {model.config.model_type!r} model" in message
    targets = re.search(r'target_modules=\[(.*), "<last feed-forward projection>"\]', message)
    assert targets is not None
    advised = re.findall(r'"(\w+)"', targets.group(1))
    assert advised or targets.group(1) == '"<keys>", "<values>"'
    if advised:  # they are there, and taken as they are
        assert {site.role for site in find_plan(model, target_modules=advised).sites} <= {"key", "value", "attention"}
    assert 'feedforward_modules=["<last feed-forward projection>"]' in message
    assert max(len(line) for line in message.splitlines()) < 600


def test_a_model_of_convolutions_is_refused_without_lines_that_nobody_could_write() -> None:
    """SqueezeBERT's candidates were its pooler and its classifier, to choose keys and values among."""
    config = hf.SqueezeBertConfig(
        vocab_size=VOCABULARY, embedding_size=16, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=4,
    )  # fmt: skip
    with torch.device("meta"):
        model = hf.SqueezeBertForSequenceClassification(config)
    with pytest.raises(PlanError, match=r"of a 'squeezebert' model: .* no linear projection .* Use another base\.$"):
        find_plan(model)


def test_a_vision_model_is_discovered_and_equals_merged_weights() -> None:
    torch.manual_seed(0)
    model = vit()
    bank = Bank(find_plan(model))
    attachment = attach_bank(model, bank)
    bank.add("news", random_row(bank))
    from ia3.core.merge import merge

    pixels = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        found = model(pixel_values=pixels, rows="news").last_hidden_state
        assert largest(found - merge(attachment, "news")(pixel_values=pixels).last_hidden_state) <= 1e-5


def test_a_module_that_reads_weights_and_never_calls_its_projections_is_refused() -> None:
    """WavLM hands k_proj.weight to a function: hooks on k_proj are never called, and a vector there did nothing."""
    model = wavlm()
    bank = Bank(find_plan(model))
    attach_bank(model, bank)
    bank.add("news", random_row(bank))
    sound = torch.randn(2, 64)
    with pytest.raises(PlanError, match=r"WavLMAttention has run without calling 'encoder\.layers\.0\.attention\.k_"):
        model(input_values=sound, rows="news")
    model = wavlm()
    bank = Bank(find_plan(model, exclude_modules=["k_proj", "v_proj"]))
    attach_bank(model, bank)
    bank.add("news", random_row(bank))
    with torch.no_grad():
        found = model(input_values=sound, rows="news").last_hidden_state
        assert largest(found - model(input_values=sound, rows="__base__").last_hidden_state) > 1e-4


class _Attention(nn.Module):
    def __init__(self, *names: str, width: int = 8) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(width, width))


class _MLP(nn.Module):
    def __init__(self, **sizes: tuple[int, int]) -> None:
        super().__init__()
        for name, (inputs, outputs) in sizes.items():
            self.add_module(name, nn.Linear(inputs, outputs))


class SwiGluMLP(_MLP):
    pass


class _Model(nn.Module):
    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return x


def _sites(**modules: nn.Module) -> list[str]:
    return [site.name for site in find_plan(_Model(**modules)).sites]


_ATTENTION: dict[str, Any] = {"attn": _Attention("q_proj", "k_proj", "v_proj", "o_proj")}


@pytest.mark.parametrize(
    ("sizes", "last"),
    [
        ({"fc1": (8, 12), "fc2": (12, 8)}, "fc2"),
        ({"gate": (8, 12), "up": (8, 12), "down": (12, 8)}, "down"),
        ({"gate_up": (8, 24), "down": (12, 8)}, "down"),
        ({"w1": (8, 12), "w2": (12, 8), "w3": (8, 12)}, "w2"),
        ({"down": (12, 8), "up": (8, 12)}, "down"),
        ({"c_fc": (8, 8), "c_proj": (8, 8)}, "c_proj"),
        ({"w1": (8, 8), "w2": (8, 8), "w3": (8, 8)}, "w2"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_the_last_projection_is_told_by_sizes_and_where_they_are_equal_by_its_name(
    sizes: dict[str, tuple[int, int]], last: str
) -> None:
    """With all sizes equal the last in order was taken: w3, which the activation never enters."""
    assert _sites(**_ATTENTION, mlp=SwiGluMLP(**sizes)) == ["attn.k_proj", "attn.v_proj", f"mlp.{last}[input]"]


@pytest.mark.parametrize(
    ("modules", "told"),
    [
        ({"mlp": _MLP(a=(8, 8), b=(8, 8))}, "the last projection of 'mlp'"),
        ({"mlp": _MLP(a=(8, 12), b=(12, 12), c=(12, 8))}, "the last projection of 'mlp'"),
        (
            {"mlp": _MLP(a=(8, 12), b=(12, 8)), "mlp2": _MLP(a=(8, 12), b=(12, 5))},
            "tell: the last projection of 'mlp2'",
        ),
        (
            {"mlp": _MLP(a=(8, 12), b=(12, 8)), "more": _Attention("query", "shared")},
            "tell: the keys and values of 'more'",
        ),
        (
            {"mlp": _MLP(a=(8, 12), b=(12, 8)), "x": _Attention("in_proj_qkv")},
            "tell: 'x.in_proj_qkv' is a fused projection",
        ),
        ({"mlp": _MLP(a=(8, 12), b=(12, 8)), "x": _Attention("q_proj", "kv_proj")}, "tell: 'x.kv_proj' is a fused"),
    ],
    ids=["equal sizes", "three in a row", "a second block", "another attention", "linear attention", "fused keys"],
)
def test_one_block_that_is_not_understood_refuses_the_model(modules: dict[str, nn.Module], told: str) -> None:
    with pytest.raises(PlanError, match="its structure does not tell") as caught:
        find_plan(_Model(**_ATTENTION, **modules))
    assert told in str(caught.value)


def test_keys_and_values_without_queries_are_no_attention() -> None:
    with pytest.raises(PlanError, match="the keys and values of 'attn'"):
        find_plan(_Model(attn=_Attention("key", "value", "receptance"), mlp=_MLP(a=(8, 12), b=(12, 8))))


def test_parts_that_read_images_or_sounds_carry_no_vectors() -> None:
    vision, text = (
        _Model(attn=_Attention("q_proj", "k_proj", "v_proj"), mlp=_MLP(a=(8, 12), b=(12, 8))) for _ in range(2)
    )
    model = _Model(vision_tower=vision, audio_tower=_Model(qkv=nn.Linear(4, 12)), text_model=text)
    plan = find_plan(model)
    assert {site.module.split(".")[0] for site in plan.sites} == {"text_model"}
    assert {e.reason for e in plan.left_out if "tower" in e.pattern} == {"not part of the language model"}


def test_fused_projections_are_told_by_their_names() -> None:
    fused = ("c_attn", "query_key_value", "qkv_proj", "Wqkv", "in_proj", "in_proj_qkvz", "kv_a_proj_with_mqa", "W_pack")
    assert all(map(is_fused, fused))
    assert not any(map(is_fused, ("k_proj", "q_proj", "out_proj", "key", "dense", "fc1", "up_proj", "proj_in")))


@pytest.mark.slow
def test_every_model_type_of_transformers_is_discovered_or_refused_in_words() -> None:
    """Over 500 model types, in their default sizes on the meta device; some need other packages and are left out."""
    found: Counter[str] = Counter()
    for model_type in MODEL_MAPPING_NAMES:
        try:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = AutoModel.from_config(CONFIG_MAPPING[model_type]())
        except Exception:
            found["not made"] += 1
            continue
        try:
            plan = find_plan(model)
        except PlanError as error:
            assert "Finding the plan of a" in str(error), model_type
            found["refused"] += 1
            continue
        counts = Counter(site.role for site in plan.sites)
        assert counts["key"] == counts["value"] > 0 and counts["feedforward"] > 0, model_type
        assert not any(is_fused(site.module) for site in plan.sites if plan.source == "structure"), model_type
        found[plan.source] += 1
    assert found["family"] >= 30
    assert found["structure"] >= 150
    assert found["not made"] <= 120


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True], ids=["blocks", "whole"])
def test_a_compiled_model_follows_the_rows_of_each_call(whole: bool) -> None:
    model = with_large_weights(DISCOVERED["olmo2"])
    bank = Bank(find_plan(model))
    attach_bank(model, bank)
    for place, name in enumerate("ab"):
        bank.add(name, random_row(bank, seed=place))
    ids = torch.randint(3, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(1))
    batches: list[Any] = [["a", "b", "__base__"], ["b", "a", "b"], "a", "b", "__base__", "a"]
    with torch.no_grad():
        expected = [model(ids, rows=rows).logits for rows in batches]
        compiled: Any = torch.compile(model, backend="eager") if whole else model
        for layer in () if whole else model.model.layers:
            layer.compile(backend="eager")
        for rows, logits in zip(batches, expected, strict=True):
            assert largest(compiled(ids, rows=rows).logits - logits) <= 1e-6
    torch.compiler.reset()
