"""Adapters that PEFT has written go into a store and out of it, and PEFT's model answers the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ia3.adapters.folder import load_adapter, save_adapter
from ia3.adapters.store import Store, create_store
from ia3.core.discovery import find_plan
from ia3.core.sites import Plan
from ia3.errors import AdapterError
from tests.adapters.examples import assert_same
from tests.families import CASES, make_inputs, make_model
from tests.parity.peft_side import difference, run_with_peft, save_with_peft

TASKS = {"seq2seq": "SEQ_2_SEQ_LM", "causal": "CAUSAL_LM", "encoder": "SEQ_CLS"}


@pytest.mark.parity
@pytest.mark.parametrize("has_base", [False, True])
@pytest.mark.parametrize("name", ["t5", "mt5", "gpt2", "llama", "bert", "bart"])
def test_pefts_adapter_is_the_same_after_a_store(name: str, has_base: bool, tmp_path: Path) -> None:
    base, inputs = make_model(name), make_inputs(name)
    own: dict[str, Any] = {"bart": {"target_modules": ["k_proj", "v_proj", "fc2"], "feedforward_modules": ["fc2"]}}
    own["bert"] = {"target_modules": ["key", "value"], "feedforward_modules": []}
    config = own.get(name, {})
    want = save_with_peft(base, tmp_path / "in", inputs, task_type=TASKS[CASES[name].kind], **config)
    adapter = load_adapter(tmp_path / "in", base)
    plan = find_plan(base) if has_base else Plan(adapter.sites, "unknown", "adapter")
    if has_base and name == "gpt2":  # PEFT scales the query as well, which this plan has no place for
        with pytest.raises(AdapterError, match=r"no site for vector 'transformer\.h\.\d\.attn\.c_attn' \(16 of"):
            create_store(tmp_path / "s.ia3", plan, adapters={"theirs": adapter})
        return
    create_store(tmp_path / "s.ia3", plan, adapters={"theirs": adapter})
    back = Store.open(tmp_path / "s.ia3").adapter("theirs")
    assert_same(back, adapter)
    save_adapter(back, tmp_path / "out")
    assert_same(load_adapter(tmp_path / "out", base), adapter)
    assert difference(run_with_peft(base, tmp_path / "out", inputs), want) == 0
    assert torch.isfinite(want).all()
