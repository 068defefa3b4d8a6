"""Heads for several tasks: as wide as each label set, with the numbers that loading the base for it would draw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ia3.bases.loading import load_base
from ia3.core.heads import copy_head
from ia3.runs.drawn_heads import make_heads


def test_each_head_has_the_numbers_that_the_base_draws_for_its_labels_and_seed(base: Callable[..., Path]) -> None:
    loaded = load_base(base("encoder"), num_labels=2, device="cpu", say=lambda line: None)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    state = torch.get_rng_state()
    wanted = [(2, 0), (5, 0), (2, 7), (5, 0)]
    heads = make_heads(loaded, wanted)
    assert torch.equal(torch.get_rng_state(), state)
    for (labels, seed), head in zip(wanted, heads, strict=True):
        alone = load_base(base("encoder"), num_labels=labels, seed=seed, device="cpu", say=lambda line: None)
        expected = copy_head(alone.model, alone.head_modules).tensors()
        assert head is not None and head.tensors().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in head.tensors().items())
        assert all(p.requires_grad for p in head.parameters())
    assert heads[1] is not heads[3]
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())


def test_a_language_model_has_none(base: Callable[..., Path]) -> None:
    loaded = load_base(base("causal"), device="cpu", say=lambda line: None)
    assert make_heads(loaded, [(3, 0), (0, 1)]) == [None, None]
