"""Generation: the most probable token again and again, the same for a row alone and in a batch, in every family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from ia3.core.attach import attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.data.encoding import Encoded
from ia3.errors import SettingsError
from ia3.inference.generate import Tokens, generate_tokens
from ia3.inference.shortcuts import shortcuts_of
from tests.families import CASES, TinyBase, make_model, tiny_base

LANGUAGE_MODELS = [name for name, case in CASES.items() if case.kind != "encoder"]
PROMPTS = [(7,), (3, 9, 4, 40, 11), tuple(range(47, 35, -1)), (21, 30)]
END = 1


def generate(model: Any, prompts: Sequence[Tokens] = PROMPTS, most: int = 6, **options: Any) -> list[Tokens]:
    rows = [Encoded(i, prompt, (), -1, truncated=False) for i, prompt in enumerate(prompts)]
    return generate_tokens(tiny_base(model), rows, max_new_tokens=most, end_id=END, **options)


@torch.inference_mode()
def generate_alone(model: Any, prompt: Tokens, most: int = 6, **rows: Any) -> Tokens:
    """The definition: whole passes without a cache."""
    answer: list[int] = []
    for _ in range(most):
        if model.config.is_encoder_decoder:
            decoder = torch.tensor([[model.config.decoder_start_token_id, *answer]])
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder, **rows).logits
        else:
            logits = model(input_ids=torch.tensor([[*prompt, *answer]]), **rows).logits
        token = int(logits[0, -1].argmax())
        if token == END:
            break
        answer.append(token)
    return tuple(answer)


def make_ending(name: str) -> Any:
    """Return the family's model with an end token that is likely enough to come up."""
    model = make_model(name)
    with torch.no_grad():
        model.get_output_embeddings().weight[END] *= 3
    return model


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_batch_answers_as_each_prompt_alone(name: str) -> None:
    model = make_ending(name)

    assert generate(model) == [generate_alone(model, prompt) for prompt in PROMPTS]


def test_answers_of_many_lengths_occur_in_these_tests() -> None:
    lengths = {len(answer) for name in ("gpt2", "t5", "qwen2", "bart") for answer in generate(make_ending(name))}

    assert 0 in lengths and 6 in lengths and len(lengths) > 3


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "opt", "t5", "m2m_100"])
def test_transformers_own_greedy_search_answers_the_same(name: str) -> None:
    model = make_ending(name)
    for prompt, answer in zip(PROMPTS, generate(model), strict=True):
        ids = torch.tensor([prompt])
        theirs = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6, eos_token_id=END
        )[0].tolist()
        theirs = theirs[1:] if model.config.is_encoder_decoder else theirs[len(prompt) :]
        assert tuple(theirs[: theirs.index(END)] if END in theirs else theirs) == answer


@pytest.mark.parametrize("name", ["gpt_neox", "mt5", "gemma2"])
def test_an_adapter_answers_by_its_name(name: str) -> None:
    model = make_ending(name)
    bank = Bank(find_plan(model))
    for seed, adapter in enumerate("ab"):
        vectors = torch.rand(bank.plan.width, generator=torch.Generator().manual_seed(seed)) * 3
        bank.add(adapter, vectors)
    attach_bank(model, bank)

    answers = {row: generate(model, adapter=row) for row in ("a", "b", 0)}

    for row, found in answers.items():
        assert found == [generate_alone(model, prompt, rows=row) for prompt in PROMPTS]
    assert len({str(found) for found in answers.values()}) == 3


@pytest.mark.parametrize("name", ["gpt_neox", "mt5"])
@pytest.mark.parametrize("rows", ["a", ["a", "b", "a"]])
def test_answers_end_with_the_numbers_they_began_with(name: str, rows: Any) -> None:
    """Each token is a pass of its own, and each looked the adapters up anew."""
    model = make_ending(name)
    bank = Bank(find_plan(model))
    for seed, adapter in enumerate("ab"):
        bank.add(adapter, torch.rand(bank.plan.width, generator=torch.Generator().manual_seed(seed)) * 3)
    attach_bank(model, bank)
    prompts = PROMPTS[:3]
    expected = generate(model, prompts, adapter=rows)

    def changed(module: Any, args: Any, output: Any) -> None:
        hook.remove()
        bank.set_vector("a", torch.full((bank.plan.width,), 0.1))
        bank.remove("b")

    hook = (model.get_decoder() if model.config.is_encoder_decoder else model).register_forward_hook(changed)
    assert generate(model, prompts, adapter=rows) == expected
    assert bank.names == ("a",) and generate(model, prompts, adapter="a") != expected


@pytest.mark.parametrize("name", ["gpt_neox", "mt5"])
def test_a_row_that_is_not_a_number_leaves_the_other_answers_alone(name: str) -> None:
    model = make_ending(name)
    bank = Bank(find_plan(model))
    bank.add("a", torch.rand(bank.plan.width, generator=torch.Generator().manual_seed(0)) * 3)
    bank.add("broken", torch.full((bank.plan.width,), torch.nan))
    attach_bank(model, bank)
    found = generate(model, PROMPTS[:3], adapter=["a", "broken", "a"])
    alone = generate(model, PROMPTS[:3], adapter="a")
    assert [found[0], found[2]] == [alone[0], alone[2]]


def test_the_bases_generation_config_has_no_say() -> None:
    model = make_ending("bart")
    before = generate(model)
    model.generation_config.update(
        forced_bos_token_id=9, num_beams=4, min_length=5, no_repeat_ngram_size=1, do_sample=True, suppress_tokens=[5]
    )

    assert generate(model) == before


@pytest.mark.parametrize("budget", [1, 40])
def test_no_token_budget_changes_an_answer(budget: int) -> None:
    model = make_ending("llama")

    assert generate(model, token_budget=budget) == generate(model)


def test_an_answer_ends_at_the_limit() -> None:
    model = make_model("gpt2")

    assert {len(answer) for answer in generate(model, most=1)} == {0, 1}
    assert [answer[:2] for answer in generate(model, most=5)] == generate(model, most=2)


def test_finished_rows_leave_the_batch() -> None:
    model = make_ending("gpt_neo")
    shortcuts_of(tiny_base(model))  # its passes are not of the prompts
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True)

    answers = generate(model)

    running = [sum(len(answer) >= step for answer in answers) for step in range(7)]
    assert sizes == [count for count in running[:6] if count]


def test_progress_and_order_are_those_of_the_prompts() -> None:
    model = make_ending("gpt2")
    told: list[tuple[int, int | None]] = []

    answers = generate(model, token_budget=1, on_progress=lambda done, total: told.append((done, total)))

    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert generate(model, PROMPTS[::-1]) == answers[::-1]
    assert generate(model, []) == []


@pytest.mark.parametrize(
    ("kind", "options", "told"),
    [
        ("encoder", {}, "the base is an encoder, which has no words to answer with. Use classify."),
        ("causal", {"max_new_tokens": 0}, "max_new_tokens is 0, expected at least 1."),
        ("seq2seq", {}, "the base names no decoder_start_token_id, expected one in its config."),
    ],
)
def test_what_cannot_be_generated_is_told(kind: Any, options: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        generate_tokens(TinyBase(None, kind), [], **{"max_new_tokens": 3, "end_id": 1, **options})
    assert str(caught.value) == f"Generating: {told}"
