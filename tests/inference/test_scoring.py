"""Scoring: every choice gets exactly what a full pass over prompt and choice alone gives it, in every family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.inference import scoring
from ia3.inference.scoring import score_choices
from ia3.inference.shortcuts import shortcuts_of
from tests.families import CASES, make_model, tiny_base

LANGUAGE_MODELS = [name for name, case in CASES.items() if case.kind != "encoder"]
CAUSAL = [name for name, case in CASES.items() if case.kind == "causal"]
ENCODERS = [name for name, case in CASES.items() if case.kind == "encoder"]
# transformers' eager attention turns its masked softmax to fp32 in these, whatever the model's dtype
ONLY_FP32 = ("bloom", "gemma2")
# the fp32 of softmaxes, position tables or biases inside a float64 model
NOT_QUITE_DOUBLE = ("longt5-global", "gptj", "gpt_neo")
PROMPTS = [(7,), (3, 9, 4, 40, 11), tuple(range(47, 35, -1))]
# of different lengths; the first three begin with one another; one is a single token
CHOICES = [(5, 1), (5, 6, 1), (5, 6, 7, 8, 1), (1,)]


def as_prompts(prompts: Sequence[Sequence[int]]) -> list[Encoded]:
    return [Encoded(i, tuple(ids), (), -1, truncated=False) for i, ids in enumerate(prompts)]


def score(
    model: Any,
    kind: str,
    prompts: Sequence[Sequence[int]] = PROMPTS,
    choices: Any = CHOICES,
    rows: Any = None,
    **own: Any,
) -> Tensor:
    return score_choices(tiny_base(model, kind=kind, **own), as_prompts(prompts), choices, rows)


@torch.inference_mode()
def score_one_alone(model: Any, prompt: Sequence[int], choice: Sequence[int], **rows: Any) -> Tensor:
    """The definition: one pass over the whole prompt and the whole choice, no padding, no cache."""
    if model.config.is_encoder_decoder:
        decoder = torch.tensor([[model.config.decoder_start_token_id, *choice[:-1]]])
        logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder, **rows).logits[0]
    else:
        logits = model(input_ids=torch.tensor([[*prompt, *choice]]), **rows).logits[0, len(prompt) - 1 : -1]
    picked: Tensor = logits.log_softmax(dim=-1)[range(len(choice)), list(choice)]
    return picked.sum()


def score_alone(model: Any, prompts: Sequence[Sequence[int]] = PROMPTS, **rows: Any) -> Tensor:
    return torch.stack([torch.stack([score_one_alone(model, p, c, **rows) for c in CHOICES]) for p in prompts])


def make(name: str) -> tuple[Any, float]:
    """Return the family's model in float64 where it computes in float64, and the tolerance of its numbers."""
    if name in ONLY_FP32:
        return make_model(name), 1e-5
    return make_model(name, torch.float64), 1e-6 if name in NOT_QUITE_DOUBLE else 1e-12


def with_bank(model: Any) -> Any:
    """Attach a bank with two random adapters, `a` and `b`."""
    dtype = torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32
    bank = Bank(find_plan(model), dtype=dtype)
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        bank.add(name, torch.rand(bank.plan.width, generator=generator, dtype=dtype) * 2)
    return attach_bank(model, bank)


# -- exactness ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_scores_are_those_of_prompt_and_choice_run_alone(name: str) -> None:
    model, tolerance = make(name)

    found = score(model, CASES[name].kind)

    assert found.shape == (len(PROMPTS), len(CHOICES)) and found.dtype == next(model.parameters()).dtype
    torch.testing.assert_close(found, score_alone(model), atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_choices_in_chunks_score_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tolerance = make(name)
    whole = score(model, CASES[name].kind)

    monkeypatch.setattr(scoring, "MOST_LOGITS", 3 * 5 * 48 * 3)  # three choices and then the one of a single token
    torch.testing.assert_close(score(model, CASES[name].kind), whole, atol=tolerance, rtol=0)
    monkeypatch.setattr(scoring, "MOST_COPIED", 1)
    torch.testing.assert_close(score(model, CASES[name].kind), whole, atol=tolerance, rtol=0)


def test_chunks_are_as_large_as_the_bounds_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [scoring._Pair(0, (5, 1))] * 7
    passes = scoring._Passes(tiny_base(make_model("gpt2")), as_prompts([(7,)]), pairs, None)  # 48 tokens

    def size(logits: int, copied: int) -> int:
        monkeypatch.setattr(scoring, "MOST_LOGITS", logits)
        monkeypatch.setattr(scoring, "MOST_COPIED", copied)
        return passes._chunk_size(3, 100)

    assert size(10**9, 10**9) > 7
    assert size(2 * 48 * 4, 10**9) == 4
    assert size(10**9, 350) == 3
    assert size(1, 1) == 1
    assert replace(passes, token_budget=7)._chunk_size(3, 100) == 2
    assert replace(passes, token_budget=2)._chunk_size(3, 100) == 1


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "mt5"])
@pytest.mark.parametrize("most", [10**9, 2 * 5 * 48])
def test_every_example_may_bring_its_own_choices(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "MOST_LOGITS", most)
    model, tolerance = make(name)
    own = [CHOICES, ((9, 1),), ((4, 4, 1), (6, 1))]
    encoded = [replace(e, choices=tuple(c)) for e, c in zip(as_prompts(PROMPTS), own, strict=True)]

    found = score_choices(tiny_base(model), encoded, None)

    assert found.shape == (3, 4)
    for scores, prompt, choices in zip(found, PROMPTS, own, strict=True):
        alone = torch.stack([score_one_alone(model, prompt, choice) for choice in choices])
        torch.testing.assert_close(scores[: len(choices)], alone, atol=tolerance, rtol=0)
        assert scores[len(choices) :].isneginf().all()


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_choices_of_one_token_need_no_second_pass(name: str) -> None:
    model, tolerance = make(name)
    calls = count_calls(model)

    found = score(model, CASES[name].kind, choices=[(4,), (9,), (1,)])

    expected = torch.stack([torch.stack([score_one_alone(model, p, (t,)) for t in (4, 9, 1)]) for p in PROMPTS])
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    assert len(calls) - 3 * len(PROMPTS) == 1


@pytest.mark.parametrize("name", ["gpt2", "mt5"])
def test_choices_of_all_first_tokens_are_a_distribution(name: str) -> None:
    model, _ = make(name)

    found = score(model, CASES[name].kind, choices=[(token,) for token in range(48)])

    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(len(PROMPTS), dtype=torch.float64))


def test_a_choice_that_begins_with_another_is_not_its_better() -> None:
    model, _ = make("llama")
    short, longer = score(model, "causal", choices=[(5, 1), (5, 6, 1)]).unbind(dim=1)
    first, second = score(model, "causal", choices=[(5,), (5, 6)]).unbind(dim=1)

    assert bool((second <= first).all()), "without its end token a longer choice can only lose"
    assert bool((short < first).all()) and bool((longer < second).all())


# -- the prompt is run once --------------------------------------------------------------------------------------------


def count_calls(model: Any) -> list[tuple[int, int]]:
    """Collect the shape of the token ids of every pass through the model or its encoder, but of those that try it."""
    shapes: list[tuple[int, int]] = []
    if model.get_output_embeddings() is not None:
        shortcuts_of(tiny_base(model))

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids")
        ids = kwargs.get("decoder_input_ids") if ids is None else ids
        shapes.append(tuple(ids.shape))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return shapes


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_prompt_goes_through_the_model_once(name: str) -> None:
    model, _ = make(name)
    calls = count_calls(model)

    score(model, "causal")

    assert calls == [(3, 12), (3 * len(CHOICES), 4)]


def test_a_seq2seq_prompt_goes_through_the_encoder_once() -> None:
    model, _ = make("t5")
    decoder_calls, encoder_calls = count_calls(model), count_calls(model.get_encoder())

    score(model, "seq2seq")

    assert encoder_calls == [(3, 12)]
    assert decoder_calls == [(3 * len(CHOICES), 5)]


# -- batches and rows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_mixed_rows_score_as_each_alone(name: str) -> None:
    model, tolerance = make(name)
    with_bank(model)
    rows: list[str | int] = ["b", 0, "a"]

    mixed = score(model, CASES[name].kind, rows=rows)

    alone = torch.cat([score_alone(model, [p], rows=[row]) for p, row in zip(PROMPTS, rows, strict=True)])
    torch.testing.assert_close(mixed, alone, atol=tolerance, rtol=0)
    assert not torch.allclose(mixed, score(model, CASES[name].kind, rows=0), atol=1e-3)


@pytest.mark.parametrize("name", ["gpt2", "mt5"])
@pytest.mark.parametrize("change", ["replace", "remove"])
def test_a_scoring_ends_with_the_numbers_it_began_with(name: str, change: str) -> None:
    """Prompt and choices are passes of their own, and each looked the adapter up anew."""
    model, tolerance = make(name)
    attachment = with_bank(model)
    bank = attachment.bank
    expected = score(model, CASES[name].kind, rows="b")
    other = torch.full((bank.plan.width,), 0.1)

    def changed(module: Any, args: Any, output: Any) -> None:
        hook.remove()
        bank.remove("b") if change == "remove" else bank.set_vector("b", other)

    part = model.get_encoder() if model.config.is_encoder_decoder else model
    hook = part.register_forward_hook(changed)
    torch.testing.assert_close(score(model, CASES[name].kind, rows="b"), expected, atol=tolerance, rtol=0)
    assert ("b" in bank.names) == (change == "replace")


@pytest.mark.parametrize("name", ["gpt_neox", "t5-gated"])
def test_one_name_stands_for_all_rows(name: str) -> None:
    model, _ = make(name)
    attachment = with_bank(model)

    named = score(model, CASES[name].kind, rows="b")

    assert torch.equal(named, score(model, CASES[name].kind, rows=["b"] * 3))
    with attachment.use("b"):
        assert torch.equal(named, score(model, CASES[name].kind))


@pytest.mark.parametrize("name", ["gpt2", "bloom", "falcon-rw", "gemma3", "t5", "bart", "longt5"])
def test_the_company_of_a_prompt_does_not_matter(name: str) -> None:
    model, tolerance = make(name)
    whole = score(model, CASES[name].kind)

    for i, prompt in enumerate(PROMPTS):
        alone = score(model, CASES[name].kind, [prompt])
        torch.testing.assert_close(alone[0], whole[i], atol=tolerance, rtol=0)


# -- heads -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_scores_with_its_head(name: str) -> None:
    model = make_model(name, torch.float64)

    found = score(model, "encoder", choices=())

    with torch.inference_mode():
        alone = torch.cat([model(input_ids=torch.tensor([p])).logits.log_softmax(dim=-1) for p in PROMPTS])
    torch.testing.assert_close(found, alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(len(PROMPTS), dtype=torch.float64))


# -- precision and refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "mt5"])
def test_scores_of_a_bf16_base_are_summed_in_fp32(name: str) -> None:
    model = make_model(name, torch.bfloat16)

    found = score(model, CASES[name].kind)

    assert found.dtype == torch.float32
    assert len({round(float(x), 4) for x in found.flatten()}) == found.numel()


@pytest.mark.parametrize("choices", [[], [(5, 1), ()]])
def test_no_choices_or_an_empty_one_are_refused(choices: list[tuple[int, ...]]) -> None:
    with pytest.raises(SettingsError, match="the label set is empty or a choice has no tokens"):
        score(make_model("gpt2"), "causal", choices=choices)


def test_a_seq2seq_base_without_a_start_token_is_refused() -> None:
    with pytest.raises(SettingsError, match="the base names no decoder_start_token_id"):
        score(make_model("t5"), "seq2seq", decoder_start_id=None)


def test_nothing_of_a_scoring_is_left_behind_on_the_model() -> None:
    model = make_model("gpt2")
    before = {name: p.clone() for name, p in model.named_parameters()}

    score(model, "causal")

    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not model.get_output_embeddings()._forward_pre_hooks
