"""T-Few's checkpoints, written here as its code writes them, against weights scaled by hand.

The layout is read from r-three/t-few: `configs/ia3.json`, `src/models/lora.py` and `src/models/EncoderDecoder.py`.
"""

from __future__ import annotations

import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ia3.adapters.attached import put_on
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.adapters.importing import import_adapter
from ia3.adapters.t_few import read_t_few
from ia3.bases.kinds import empty_model
from ia3.core.discovery import find_plan
from ia3.errors import AdapterError
from tests.adapters.examples import spread
from tests.core.hand_scaled import scaled_parameters
from tests.families import make_inputs, make_model

_MODULES = ".*SelfAttention|.*EncDecAttention|.*DenseReluDense"  # configs/ia3.json
_LAYERS = "k|v|wi_1.*"


def state_of_t_few(model: nn.Module) -> OrderedDict[str, Tensor]:
    """Return the state dict that T-Few saves for a T5 after training with configs/ia3.json."""
    state: OrderedDict[str, Tensor] = OrderedDict()
    for path, module in model.named_modules():
        if re.fullmatch(_MODULES, path):
            for name, layer in module.named_children():
                if re.fullmatch(_LAYERS, name):
                    state[f"{path}.{name}.multi_lora_b"] = spread((layer.out_features, 1), len(state))  # type: ignore[arg-type]
    return state


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.fixture
def model() -> Any:
    return make_model("t5-gated")


def test_a_checkpoint_gives_the_logits_of_weights_scaled_by_hand(model: Any, tmp_path: Path) -> None:
    state = state_of_t_few(model)
    assert len(state) == 16 and "decoder.block.1.layer.1.EncDecAttention.v.multi_lora_b" in state
    adapter = import_adapter(saved(tmp_path / "finish.pt", state), model, base_name="t0")
    vectors = {key.removesuffix(".multi_lora_b"): vector.flatten() for key, vector in state.items()}
    scaled = scaled_parameters("t5-gated", model, vectors)
    with torch.no_grad():
        want = torch.func.functional_call(model, scaled, kwargs=make_inputs("t5-gated")).logits
        put_on(model, adapter, "t-few")
        got = model(**make_inputs("t5-gated")).logits
    assert (got - want).abs().max() <= 1e-5 * max(1.0, float(want.abs().max()))


def test_it_is_saved_as_an_ordinary_adapter_of_its_base(model: Any, tmp_path: Path) -> None:
    adapter = import_adapter(saved(tmp_path / "finish.pt", state_of_t_few(model)), model, base_name="t0")
    assert adapter.sites == find_plan(model).sites
    save_adapter(adapter, tmp_path / "ours")
    back = load_adapter(tmp_path / "ours", model)
    assert back.config.task_type == "SEQ_2_SEQ_LM" and back.config.target_modules == ("k", "v", "wo")
    assert back.base_name == "t0" and back.record["imported"] == {"library": "t-few", "file": "finish.pt"}
    with pytest.raises(AdapterError, match="it was trained on base 't0'"):
        load_adapter(tmp_path / "ours", make_model("t5-gated", seed=1))


def test_a_base_without_weights_is_enough_to_check_every_size(model: Any, tmp_path: Path) -> None:
    empty = empty_model(model.config, "seq2seq")
    path = saved(tmp_path / "finish.pt", state_of_t_few(model))
    adapter, full = import_adapter(path, empty), import_adapter(path, model)
    assert "fingerprint" not in adapter.record["base"]
    assert all(torch.equal(vector, full.vectors[name]) for name, vector in adapter.vectors.items())


def test_half_precision_is_read_and_an_untrained_input_side_is_left_out(model: Any, tmp_path: Path) -> None:
    state = state_of_t_few(model)
    key = next(iter(state))
    halved = {name: tensor.bfloat16() for name, tensor in state.items()}
    untrained = {key.replace("_b", "_a"): torch.ones(1, 16, dtype=torch.bfloat16)}
    adapter = import_adapter(saved(tmp_path / "a.pt", halved | untrained), model)
    assert torch.equal(adapter.vectors[key.removesuffix(".multi_lora_b")], state[key].bfloat16().float().flatten())
    assert all(vector.dtype == torch.float32 for vector in adapter.vectors.values())


def test_a_trained_input_side_is_a_vector_of_its_own(tmp_path: Path) -> None:
    state = {"a.k.multi_lora_b": torch.ones(4, 1), "a.k.multi_lora_a": torch.full((1, 3), 2.0)}
    found = read_t_few(saved(tmp_path / "a.pt", state))
    assert set(found.vectors) == {("a.k", "output"), ("a.k", "input")}


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path = saved(tmp_path / "evil.pt", {"x.k.multi_lora_b": _Bomb(tmp_path / "ran")})
    with pytest.raises(AdapterError) as caught:
        read_t_few(path)
    assert str(caught.value) == (
        f"Importing {path}: it holds Python objects beside tensors, which are not loaded since that could run any code "
        f"({os.mkdir.__module__}.mkdir). Save the tensors alone: torch.save(model.state_dict(), …)."
    )
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"x": _Bomb(tmp_path / "ran")}))
    with pytest.raises(AdapterError, match="which are not loaded since that could run any code"):
        read_t_few(tmp_path / "old.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(AdapterError, match=r"a\.pt: it is no file of tensors, or is cut off \(.*\)\. Copy it again\."):
        read_t_few(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([torch.ones(2)], "it holds a list, expected tensors by name."),
        ({"model": {"a": torch.ones(1)}}, "it holds a dict under 'model', expected tensors by name."),
        ({}, "got 'no tensors', expected names that end in '.multi_lora_b' alone."),
        ({"k.lora_b": torch.ones(4, 2)}, "'k.lora_b' belongs to LoRA, whose matrices are no vectors."),
        ({"shared.weight": torch.ones(4, 2)}, "got 'shared.weight', expected names that end in '.multi_lora_b' alone."),
        ({"k.multi_lora_b": torch.ones(4, 2)}, "'k.multi_lora_b' has shape (4, 2) and torch.float32, expected (chan"),
        ({"k.multi_lora_b": torch.ones(4, 1, dtype=torch.int64)}, "has shape (4, 1) and torch.int64, expected (chan"),
        ({"k.multi_lora_b": torch.full((4, 1), torch.nan)}, "'k.multi_lora_b' holds numbers that are not finite."),
    ],
)
def test_what_is_no_ia3_checkpoint_is_refused(content: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=re.escape(told)):
        read_t_few(saved(tmp_path / "a.pt", content))


def test_a_checkpoint_of_another_base_is_refused_with_what_differs(model: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"encoder.block.0.layer.0.SelfAttention.k.multi_lora_b": torch.ones(512, 1)})
    with pytest.raises(AdapterError) as caught:
        import_adapter(path, model)
    assert str(caught.value) == (
        f"Importing {path}: vector 'encoder.block.0.layer.0.SelfAttention.k' has width 512, this base needs 16. It was "
        "trained on another base; give that one."
    )
    path = saved(tmp_path / "b.pt", {"encoder.block.9.layer.0.SelfAttention.k.multi_lora_b": torch.ones(16, 1)})
    with pytest.raises(AdapterError, match=r"has no linear module here\. Did you mean 'encoder\.block"):
        import_adapter(path, model)


def test_a_base_with_more_layers_than_the_checkpoint_is_refused(model: Any, tmp_path: Path) -> None:
    state = {key: vector for key, vector in state_of_t_few(model).items() if ".block.1." not in key}
    with pytest.raises(AdapterError) as caught:
        import_adapter(saved(tmp_path / "a.pt", state), model)
    assert str(caught.value) == (
        f"Importing {tmp_path / 'a.pt'}: it has no vector for 'encoder.block.1.layer.0.SelfAttention.k' and 7 more "
        "modules that are like those it has one for, expected one in every layer. It was trained on a smaller base; "
        "give that one."
    )


def test_an_ungated_base_has_no_place_for_the_linear_branch(model: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", state_of_t_few(model))
    with pytest.raises(AdapterError, match=r"DenseReluDense\.wi_1' has no linear module here"):
        import_adapter(path, make_model("t5"))
