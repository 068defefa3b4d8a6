"""PEFT's add_weighted_adapter beside the weighted average: equal where every layer is targeted, wrong elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import IA3Config, get_peft_model

from ia3.adapters.arithmetic import average
from ia3.adapters.folder import load_adapter
from tests.families import make_model
from tests.parity.peft_side import listening, random_vector


@pytest.mark.parity
def test_peft_takes_zero_for_a_layer_that_an_adapter_does_not_target_where_ones_are_what_it_does(
    tmp_path: Path,
) -> None:
    some = IA3Config(target_modules=["c_attn"], feedforward_modules=[], fan_in_fan_out=True)
    every = IA3Config(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"], fan_in_fan_out=True)
    with listening():
        model = get_peft_model(make_model("gpt2"), some, "some")
        model.add_adapter("every", every)
        for number, (name, parameter) in enumerate(model.named_parameters()):
            if ".ia3_l." in name:
                parameter.data = random_vector(parameter.shape, number)
        model.base_model.add_weighted_adapter(["some", "every"], [0.5, 0.5], "mixed")
        model.save_pretrained(str(tmp_path))
    adapters = {name: load_adapter(tmp_path / name) for name in ("some", "every")}
    theirs = load_adapter(tmp_path / "mixed").vectors
    ours = average(adapters).vectors
    assert len(ours) == len(theirs) == 4
    for name, vector in ours.items():
        if name in adapters["some"].vectors:
            assert torch.allclose(vector, theirs[name])
        else:
            assert torch.allclose(theirs[name], 0.5 * adapters["every"].vectors[name])
            assert torch.allclose(vector, 0.5 * (1 + adapters["every"].vectors[name]))
