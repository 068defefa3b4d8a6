"""Bases whose passes cannot be cut as most can are scored, continued and trained as whole passes say, or refused."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import ia3
from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.sites import Channels, Plan, Site
from ia3.data.encoding import Encoded
from ia3.errors import BaseError
from ia3.inference import shortcuts
from ia3.inference.generate import generate_tokens
from ia3.inference.logits import logits_at
from ia3.inference.scoring import choice_logprobs
from ia3.inference.shortcuts import Shortcuts, shortcuts_of
from tests.families import make_model, tiny_base
from tests.inference.test_scoring import CHOICES, PROMPTS, as_prompts, score, score_alone
from tests.models import VOCABULARY, tiny_tokenizer

SIZES = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "initializer_range": 0.3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
TOKENS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
MAMBA = {"use_mamba_kernels": False, "num_experts": 2}


def build(name: str, **more: Any) -> Any:
    """Return a tiny model with weights that are not small: a wrong state then changes its logits."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES, **HEADS, **TOKENS, **more)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and parameter.std() < 0.1:
                parameter.normal_(0, 0.3)
    return model


def lfm2() -> Any:
    return build("Lfm2", layer_types=["conv", "full_attention"])


def jamba() -> Any:
    layers = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 10, "expert_layer_offset": 9}
    return build("Jamba", **layers, **MAMBA, mamba_d_state=8, mamba_dt_rank=4)


def nemotron() -> Any:
    sizes = {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 8, "chunk_size": 8}
    layers = ["mamba", "attention", "mlp"]
    return build("NemotronH", layers_block_type=layers, head_dim=8, **sizes, **MAMBA)


def recurrent_gemma() -> Any:
    return build("RecurrentGemma", lru_width=32, attention_window_size=16, block_types=["recurrent", "attention"])


def roberta() -> Any:
    return build("Roberta", is_decoder=True)


MADE: dict[str, Callable[[], Any]] = {
    "lfm2": lfm2,
    "jamba": jamba,
    "nemotron": nemotron,
    "recurrent_gemma": recurrent_gemma,
    "roberta": roberta,
}


def trained(model: Any) -> Bank:
    """Attach a bank with a random adapter on the last layers that have keys, as an adapter of PEFT's may be."""
    sites = []
    for path, module in model.named_modules():
        if path.endswith(("k_proj", "v_proj", "self.key", "self.value")) and isinstance(module, nn.Linear):
            features = module.out_features
            sites.append(Site(path, "output", "key", Channels.span(0, features, features), features))
    bank = Bank(Plan(tuple(sites), model.config.model_type, "adapter"))
    bank.add("a", torch.rand(bank.plan.width, generator=torch.Generator().manual_seed(1)) + 0.5, trainable=True)
    attach_bank(model, bank)
    return bank


@pytest.mark.parametrize("name", MADE)
def test_choices_score_what_whole_passes_give_them(name: str) -> None:
    """LFM2's cache has layers without keys, Jamba does not go on from its cache with several tokens at once,
    RecurrentGemma gives none, and a RoBERTa counts its positions from two: they crashed, or were wrong in silence.
    """
    model = MADE[name]()
    trained(model)
    torch.testing.assert_close(score(model, "causal", rows="a"), score_alone(model, rows="a"), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MADE)
def test_answers_are_those_of_whole_passes(name: str) -> None:
    model = MADE[name]()
    trained(model)
    found = generate_tokens(
        tiny_base(model), as_prompts(PROMPTS), max_new_tokens=5, end_id=1, adapter=["a", "__base__", "a"]
    )
    for prompt, answer, row in zip(PROMPTS, found, ("a", "__base__", "a"), strict=True):
        assert answer == _greedily(model, prompt, row, 5), name


@torch.no_grad()
def _greedily(model: Any, prompt: tuple[int, ...], row: str, most: int) -> tuple[int, ...]:
    answer: list[int] = []
    for _ in range(most):
        token = int(model(input_ids=torch.tensor([[*prompt, *answer]]), rows=row).logits[0, -1].argmax())
        if token == 1:
            break
        answer.append(token)
    return tuple(answer)


@pytest.mark.parametrize("budget", [4096, 20], ids=["at once", "in chunks"])
@pytest.mark.parametrize("name", MADE)
def test_choices_are_trained_on_as_whole_passes_give_them(name: str, budget: int) -> None:
    """States that a cache has beside keys are written over, and the choices of a prompt could not share their graph."""
    model = MADE[name]()
    bank = trained(model)
    encoded = [replace(example, choices=tuple(CHOICES)) for example in as_prompts(PROMPTS)]

    found = choice_logprobs(tiny_base(model), encoded, rows="a", token_budget=budget).values.sum()
    wanted = torch.stack([_sum_alone(model, one) for one in encoded]).sum()

    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    gradients = [torch.autograd.grad(value, list(_trainable(bank)))[0] for value in (found, wanted)]
    largest = float(gradients[1].abs().max())
    torch.testing.assert_close(*gradients, atol=1e-4 * largest, rtol=1e-3)


def _sum_alone(model: Any, example: Encoded) -> Tensor:
    sums = []
    for choice in example.choices:
        ids = torch.tensor([[*example.prompt_ids, *choice]])
        logits = model(input_ids=ids, rows="a", use_cache=False).logits[0, len(example.prompt_ids) - 1 : -1]
        sums.append(logits.log_softmax(dim=-1)[range(len(choice)), list(choice)].sum())
    return torch.stack(sums).sum()


def _trainable(bank: Bank) -> list[Tensor]:
    return [parameter for parameter in bank.parameters() if parameter.requires_grad]


def test_what_a_base_can_do_is_found_by_trying() -> None:
    """Most take every shortcut, with their cache's graph kept."""
    assert shortcuts_of(tiny_base(make_model("llama"))) == Shortcuts(True, True, True, True, True)
    assert shortcuts_of(tiny_base(make_model("bloom"))).continues
    found = shortcuts_of(tiny_base(lfm2()))
    assert found.continues and not found.keeps_graph
    assert not shortcuts_of(tiny_base(jamba())).continues
    found = shortcuts_of(tiny_base(recurrent_gemma()))
    assert not found.continues and not found.steps
    assert not shortcuts_of(tiny_base(roberta(), pad_id=1)).pads


def test_a_base_is_tried_once_and_forgotten_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, passes = make_model("gpt2"), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    first = shortcuts_of(tiny_base(model))
    count = len(passes)
    assert 0 < count <= 8
    assert shortcuts_of(tiny_base(model)) is first and len(passes) == count
    assert not model.training
    known = len(shortcuts._FOUND)
    del model
    gc.collect()
    assert len(shortcuts._FOUND) < known


class _Backwards(nn.Module):
    """A head that lets every token see the one behind it."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__()
        self.head = head
        self.weight = head.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + x.roll(-1, dims=1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_base_that_sees_what_stands_behind_a_token_is_refused(family: str) -> None:
    model = make_model(family)
    model.set_output_embeddings(_Backwards(model.get_output_embeddings()))
    kind = "seq2seq" if family == "t5" else "causal"
    with pytest.raises(BaseError, match=r"^Reading with \w+: its logits for a token change with what stands behind it"):
        score(model, kind)
    with pytest.raises(BaseError, match="reads from left to right"):
        generate_tokens(tiny_base(model), as_prompts(PROMPTS), max_new_tokens=2, end_id=1)


def prophetnet() -> Any:
    torch.manual_seed(0)
    config = transformers.ProphetNetConfig(
        vocab_size=VOCABULARY, hidden_size=16, encoder_ffn_dim=32, decoder_ffn_dim=32, num_encoder_layers=1,
        num_decoder_layers=1, num_encoder_attention_heads=2, num_decoder_attention_heads=2, max_position_embeddings=64,
        ngram=2, num_buckets=8, relative_max_distance=16, init_std=0.3, decoder_start_token_id=0, **TOKENS,
    )  # fmt: skip
    return transformers.ProphetNetForConditionalGeneration(config).eval()


def test_a_head_that_is_given_several_streams_computes_every_position() -> None:
    """ProphetNet's head sees (batch, streams, tokens, width), and the wanted positions were taken from its streams."""
    model = prophetnet()
    inputs = {"input_ids": torch.tensor([[3, 4, 5], [6, 7, 8]]), "decoder_input_ids": torch.tensor([[0, 9], [0, 10]])}
    positions = torch.tensor([[True, False], [True, True]])
    with torch.no_grad():
        found, wanted = logits_at(model, positions, inputs), model(**inputs).logits[positions]
    torch.testing.assert_close(found, wanted)


def test_prophetnet_whose_logits_change_with_padding_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    prophetnet().save_pretrained(tmp_path / "base")
    tiny_tokenizer("seq2seq").save_pretrained(tmp_path / "base")
    base = ia3.load_base(tmp_path / "base")
    with pytest.raises(BaseError, match=r"ProphetNetForConditionalGeneration.*padding there"):
        ia3.train([("up", "good"), ("down", "bad")], base, tmp_path / "run", max_steps=2, eval_fraction=0)
    assert not (tmp_path / "run").exists()
    assert find_plan(base.model).sites  # a plan of it can be made all the same


def test_a_decoder_that_asks_for_its_encoders_routers_is_scored_and_generates() -> None:
    """Switch's decoder reads the routers' logits of an encoder's output that was made for scoring, which had none."""
    torch.manual_seed(0)
    config = transformers.SwitchTransformersConfig(
        vocab_size=48, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_sparse_encoder_layers=1, num_decoder_layers=2,
        num_sparse_decoder_layers=1, num_heads=4, num_experts=2, dropout_rate=0.0, decoder_start_token_id=0,
    )  # fmt: skip
    model = transformers.SwitchTransformersForConditionalGeneration(config).eval()
    torch.testing.assert_close(score(model, "seq2seq"), score_alone(model), atol=1e-5, rtol=0)
    assert len(generate_tokens(tiny_base(model), as_prompts(PROMPTS), max_new_tokens=2, end_id=1)) == len(PROMPTS)
