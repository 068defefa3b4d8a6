"""Folders of AdapterHub's library, written here as its code writes them, against weights scaled by hand.

The layout is read from adapter-hub/adapters, `src/adapters/`: `loading.py`, `configuration/adapter_config.py`,
`configuration/model_adapters_config.py`, `methods/lora.py`, `models/t5/mixin_t5.py`, `models/bert/mixin_bert.py`,
`models/gpt2/mixin_gpt2.py`, `heads/base.py` and `head_utils.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ia3.adapters.adapter_hub import read_adapter_hub
from ia3.adapters.attached import put_on
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.adapters.importing import import_adapter
from ia3.core.discovery import find_plan
from ia3.errors import AdapterError
from tests.adapters.examples import spread
from tests.core.hand_scaled import scaled_parameters
from tests.families import make_inputs, make_model

IA3 = {  # IA3Config.to_dict()
    "architecture": "lora", "selfattn_lora": True, "intermediate_lora": True, "output_lora": False, "leave_out": [],
    "r": 1, "alpha": 1, "dropout": 0.0, "attn_matrices": ["k", "v"], "composition_mode": "scale", "init_weights": "ia3",
    "use_gating": False,
}  # fmt: skip


def write_folder(
    folder: Path,
    vectors: Mapping[str, Tensor],
    model_type: str,
    *,
    config: Mapping[str, Any] | None = None,
    safe: bool = False,
    **full: Any,
) -> Path:
    """Write what `model.save_adapter(folder, "news")` writes: vectors by their module, (out,) each."""
    folder.mkdir()
    content = {
        "config": {**IA3, **(config or {})}, "hidden_size": 16, "model_class": "AdapterModel", "model_name": "tiny",
        "model_type": model_type, "name": "news", "version": "adapters.1.2.0", **full,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(content, indent=2, sort_keys=True))
    tensors = {f"{path}.loras.news.lora_B": vector.reshape(-1, 1) for path, vector in vectors.items()}
    if safe:
        save_file(tensors, folder / "adapter.safetensors")
    else:
        torch.save(tensors, folder / "pytorch_adapter.bin")
    return folder


def write_head(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None, **full: Any) -> None:
    """Write the head that the library saves beside the adapter."""
    (folder / "head_config.json").write_text(json.dumps({"config": config, "name": "news", **full}))
    torch.save(dict(tensors), folder / "pytorch_model_head.bin")


def vectors_of(model: Any, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Return a vector for every linear module whose path ends so, as wide as its output."""
    found = [(path, module) for path, module in model.named_modules() if path.endswith(names)]
    return {path: spread(getattr(m, "out_features", None) or m.nf, i) for i, (path, m) in enumerate(found)}


def check_logits(family: str, model: Any, adapter: Any, scaled: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        want = torch.func.functional_call(model, dict(scaled), kwargs=make_inputs(family)).logits
        put_on(model, adapter, "news")
        got = model(**make_inputs(family)).logits
    assert (got - want).abs().max() <= 1e-5 * max(1.0, float(want.abs().max()))


def output_scaled(model: Any, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with the outputs of modules scaled, as `lora_B` does."""
    scaled = {}
    for path, vector in vectors.items():
        module = model.get_submodule(path)
        is_conv1d = type(module).__name__ == "Conv1D"
        scaled[f"{path}.weight"] = module.weight * (vector if is_conv1d else vector.unsqueeze(1))
        if module.bias is not None:
            scaled[f"{path}.bias"] = module.bias * vector
    return scaled


T5 = ("Attention.k", "Attention.v", "wi_1")


@pytest.mark.parametrize("safe", [False, True])
@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_a_gated_t5_is_the_papers_adapter(prefix: str, safe: bool, tmp_path: Path) -> None:
    """T5AdapterModel holds the transformer under `transformer.`, T5ForConditionalGeneration at the top."""
    model = make_model("t5-gated")
    vectors = vectors_of(model, T5)
    folder = write_folder(tmp_path / "a", {prefix + p: v for p, v in vectors.items()}, "t5", safe=safe)
    adapter = import_adapter(folder, model)
    assert adapter.sites == find_plan(model).sites and adapter.base_name == "tiny"
    check_logits("t5-gated", model, adapter, scaled_parameters("t5-gated", model, vectors))


BERT = ("self.key", "self.value", "intermediate.dense")


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_a_bert_scales_before_the_activation_which_is_kept(prefix: str, tmp_path: Path) -> None:
    model = make_model("bert")
    vectors = vectors_of(model, BERT)
    given = {prefix + path.removeprefix("bert."): vector for path, vector in vectors.items()}
    adapter = import_adapter(write_folder(tmp_path / "a", given, "bert"), model)
    assert {site.module for site in adapter.sites} == set(vectors)
    save_adapter(adapter, tmp_path / "ours")
    back = load_adapter(tmp_path / "ours", model)
    assert back.config.target_modules == ("key", "value", "intermediate.dense")
    check_logits("bert", model, back, output_scaled(model, vectors))


def test_a_fused_projection_has_the_thirds_of_its_matrices(tmp_path: Path) -> None:
    model = make_model("gpt2")
    whole = vectors_of(model, ("attn.c_attn", "mlp.c_fc"))
    for path, vector in whole.items():
        if path.endswith("c_attn"):
            vector[:16] = 1.0  # no query
    given = {path: vector[16:] if path.endswith("c_attn") else vector for path, vector in whole.items()}
    adapter = import_adapter(write_folder(tmp_path / "a", given, "gpt2"), model)
    check_logits("gpt2", model, adapter, output_scaled(model, whole))


def test_a_fused_projection_alone_lies_on_the_slices_of_the_plan(tmp_path: Path) -> None:
    model = make_model("gpt2")
    given = {path: vector[:32] for path, vector in vectors_of(model, ("attn.c_attn",)).items()}
    adapter = import_adapter(write_folder(tmp_path / "a", given, "gpt2"), model)
    assert adapter.sites == find_plan(model).sites
    path = "transformer.h.1.attn.c_attn"
    assert torch.equal(adapter.vectors[f"{path}[key]"], given[path][:16])
    assert torch.equal(adapter.vectors[f"{path}[value]"], given[path][16:])


def test_a_shorter_vector_is_no_third_of_a_projection_that_is_not_fused(tmp_path: Path) -> None:
    """512 is two thirds of 768: a key of t5-small would have passed for two thirds of one of t5-base."""
    model = make_model("falcon-rw")  # widths of 48 in the fused projection, 24 in the feed-forward
    path = "transformer.h.0.mlp.dense_h_to_4h"
    folder = write_folder(tmp_path / "a", {path: spread(16)}, "falcon", config={"leave_out": [1]})
    with pytest.raises(AdapterError, match=rf"vector '{path}' has width 16, this base needs 24"):
        import_adapter(folder, model)


@pytest.mark.parametrize(
    ("version", "factor"), [("adapters.1.0.1", 1.0), ("adapters.1.1.0", 2.0), ("3.2.1", 2.0), ("adapters.1.10.0", 2.0)]
)
def test_alpha_multiplies_as_in_the_version_that_trained_it(version: str, factor: float, tmp_path: Path) -> None:
    given = {"a.k": spread(4)}
    found = read_adapter_hub(write_folder(tmp_path / "a", given, "t5", config={"alpha": 2}, version=version))
    assert torch.equal(found.vectors["a.k", "output"], factor * given["a.k"])


def test_layers_may_have_been_left_out_on_purpose_only(tmp_path: Path) -> None:
    model = make_model("t5-gated")
    some = {path: vector for path, vector in vectors_of(model, T5).items() if not path.startswith("encoder.block.0.")}
    with pytest.raises(AdapterError, match=r"no vector for 'encoder\.block\.0\.layer\.0\.SelfAttention\.k' and 2 more"):
        import_adapter(write_folder(tmp_path / "a", some, "t5"), model)
    adapter = import_adapter(write_folder(tmp_path / "b", some, "t5", config={"leave_out": [0]}), model)
    assert bool((adapter.vectors["encoder.block.0.layer.0.SelfAttention.k"] == 1).all())


LABELS = {"label2id": {"up": 2, "down": 0, "flat": 1}}


def test_a_static_classifier_comes_with_its_labels(tmp_path: Path) -> None:
    model = make_model("bert")
    folder = write_folder(tmp_path / "a", vectors_of(model, BERT), "bert")
    head = {"classifier.weight": spread((3, 16)), "classifier.bias": spread(3)}
    write_head(folder, head, None, model_class="BertForSequenceClassification", **LABELS)
    adapter = import_adapter(folder, model)
    assert adapter.record["labels"] == ["down", "flat", "up"] and adapter.head_modules == ("classifier",)
    check_logits("bert", model, adapter, {**output_scaled(model, vectors_of(model, BERT)), **head})
    assert import_adapter(folder, make_model("bert"), with_head=False).head == {}


@pytest.mark.parametrize(
    ("family", "names", "layers", "activation", "pooler", "numbers"),
    [
        ("bert", BERT, 1, "tanh", True, {"1": "classifier"}),
        ("roberta", BERT, 2, "tanh", False, {"1": "classifier.dense", "4": "classifier.out_proj"}),
        ("distilbert", ("k_lin", "v_lin", "lin1"), 2, "relu", False, {"1": "pre_classifier", "4": "classifier"}),
    ],
)
def test_a_flexible_classifier_that_transformers_has_as_well_is_taken(
    family: str,
    names: tuple[str, ...],
    layers: int,
    activation: str,
    pooler: bool,
    numbers: dict[str, str],
    tmp_path: Path,
) -> None:
    model = make_model(family)
    folder = write_folder(tmp_path / "a", vectors_of(model, names), family)
    head = {
        f"{path}.{name}": spread(tensor.shape)
        for path in numbers.values()
        for name, tensor in model.get_submodule(path).state_dict().items()
    }
    flexible = {
        f"heads.news.{number}.{name.rpartition('.')[2]}": tensor
        for number, path in numbers.items()
        for name, tensor in head.items()
        if name.startswith(f"{path}.")
    }
    config = {
        "head_type": "classification", "layers": layers, "activation_function": activation, "use_pooler": pooler,
        "num_labels": 3, "bias": True, "dropout_prob": None, **LABELS,
    }  # fmt: skip
    write_head(folder, flexible, config)
    adapter = import_adapter(folder, model)
    assert adapter.record["labels"] == ["down", "flat", "up"]
    check_logits(family, model, adapter, {**output_scaled(model, vectors_of(model, names)), **head})


def test_a_flexible_head_that_transformers_has_not_is_refused(tmp_path: Path) -> None:
    model = make_model("bert")
    folder = write_folder(tmp_path / "a", vectors_of(model, BERT), "bert")
    config = {"head_type": "classification", "layers": 2, "activation_function": "tanh", "use_pooler": False}
    write_head(folder, {"heads.news.1.weight": spread((16, 16)), "heads.news.4.weight": spread((3, 16))}, config)
    with pytest.raises(AdapterError) as caught:
        import_adapter(folder, model)
    assert str(caught.value) == (
        f"Importing {folder} as an adapter of AdapterHub: its head (classification, 2 layers, activation 'tanh', "
        "pooler False) is none that transformers' classes of model type 'bert' have. Leave the head out: "
        "with_head=False (--without-head), and train one."
    )


@pytest.mark.parametrize("key", ["lm_head.weight", "heads.news.0.weight"])
def test_an_output_matrix_in_the_file_must_be_the_bases_own(key: str, tmp_path: Path) -> None:
    model = make_model("t5-gated")
    folder = write_folder(tmp_path / "a", vectors_of(model, T5), "t5")
    config = {"head_type": "seq2seq_lm"} if key.startswith("heads") else None
    write_head(folder, {key: model.lm_head.weight.detach().clone()}, config)
    assert import_adapter(folder, model).head == {}
    write_head(folder, {key: model.lm_head.weight.detach() + 1}, config)
    with pytest.raises(AdapterError, match=r"its head has 'lm_head\.weight', which is not the base's own"):
        import_adapter(folder, model)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"composition_mode": "add", "r": 8}, "got architecture 'lora', composition mode 'add', expected 'lora' with"),
        ({"architecture": None}, "it is another kind of adapter, got architecture None, expected 'lora' with 'scale'"),
        ({"architecture": "union"}, "got architecture 'union'"),
        ({"r": 2}, "got rank 2, alpha 1 and use_gating False, expected rank 1, a number and no gate"),
        ({"use_gating": True}, "got rank 1, alpha 1 and use_gating True"),
        ({"alpha": "much"}, "got rank 1, alpha 'much'"),
    ],
)
def test_other_kinds_of_adapters_are_refused(config: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=re.escape(told)):
        read_adapter_hub(write_folder(tmp_path / "a", {"a.k": spread(4)}, "t5", config=config))


def test_fused_projections_whose_function_is_not_in_the_file_are_refused(tmp_path: Path) -> None:
    """The library (1.3.0) wraps DeBERTa's `in_proj`, which has no bias, in a linear layer with a random one."""
    path = "deberta.encoder.layer.0.attention.self.in_proj"
    with pytest.raises(
        AdapterError, match=r"a DeBERTa \(v1\), whose fused projection gets a random bias there that is"
    ):
        read_adapter_hub(write_folder(tmp_path / "a", {path: spread(32)}, "deberta"))
    folder = write_folder(tmp_path / "b", {"h.0.attn.c_attn": spread(32)}, "gpt2", config={"alpha": 2})
    with pytest.raises(AdapterError, match="alpha is 2, which multiplies the queries of a fused projection as well"):
        read_adapter_hub(folder)


def test_odd_folders_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", {"a.k": spread(4)}, "t5")
    torch.save({"a.k.loras.news.gate.weight": torch.ones(1, 4)}, folder / "pytorch_adapter.bin")
    with pytest.raises(AdapterError, match=r"it holds 'a\.k\.loras\.news\.gate\.weight' of shape \(1, 4\), expected"):
        read_adapter_hub(folder)
    (folder / "pytorch_adapter.bin").unlink()
    with pytest.raises(AdapterError, match=r"there is no adapter\.safetensors or pytorch_adapter\.bin in it"):
        read_adapter_hub(folder)
    (folder / "adapter_config.json").write_text('{"config": "ia3"}')
    with pytest.raises(AdapterError, match=r"adapter_config\.json has no 'config', expected an object"):
        read_adapter_hub(folder)


def test_a_head_for_a_class_without_its_module_is_refused(tmp_path: Path) -> None:
    model = make_model("bert")
    folder = write_folder(tmp_path / "a", vectors_of(model, BERT), "bert")
    write_head(folder, {"qa_outputs.weight": spread((2, 16))}, None)
    with pytest.raises(AdapterError, match=r"its head has 'qa_outputs\.weight', and this base no module 'qa_outputs'"):
        import_adapter(folder, model)
