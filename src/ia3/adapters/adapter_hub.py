"""Folders of AdapterHub's `adapters` library with an (IA)³ adapter.

What is known of them is read in adapter-hub/adapters, `src/adapters/`:

- `configuration/model_adapters_config.py` (build_full_config), `configuration/adapter_config.py` (IA3Config):
  `adapter_config.json` has the model, the adapter's name, and under `config` a LoRA of rank 1 that scales.
- `loading.py`: the weights stand under their names in the model, `….loras.<adapter>.lora_B`, shape (out, 1), in
  `pytorch_adapter.bin` or `adapter.safetensors`; a head with its own config lies beside them.
- `methods/lora.py`: the output of the layer is multiplied by `lora_B` times alpha; of a fused projection
  (LoRAMergedLinear, GPT-2) only the thirds that `attn_matrices` names. Before version 1.1.0 alpha was not
  applied to separate projections (`loading.py`, _fix_backward_compat).
- `head_utils.py`, `heads/base.py`: which flexible heads are those of which transformers class.

Their feed-forward vector multiplies what the first projection returns, before the activation; where the block is gated
that is the linear branch and the paper's vector, elsewhere it is a site of its own. This file knows names and shapes,
no model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ia3.adapters.config import read_object
from ia3.adapters.foreign import ForeignAdapter, read_tensor_file
from ia3.adapters.layout import Place
from ia3.core.families import family_of
from ia3.errors import AdapterError
from ia3.names import CONFIG_FILE

WEIGHTS_FILES = ("adapter.safetensors", "pytorch_adapter.bin")
_HEAD_CONFIG = "head_config.json"
_HEAD_FILES = ("model_head.safetensors", "pytorch_model_head.bin")
_KEY = re.compile(r"(?P<module>.+)\.loras\.(?P<name>[^.]+)\.lora_B")
_MATRICES = ("q", "k", "v")
_FUSED = ("c_attn",)  # GPT-2's; DeBERTa's in_proj is not among them, see _check_fused


def read_adapter_hub(folder: Path, *, with_head: bool = True) -> ForeignAdapter:
    """Return the adapter in a folder that `model.save_adapter` of the library has written.

    Args:
        folder: With `adapter_config.json` and the weights.
        with_head: Whether to read the head beside it, if there is one.

    Raises:
        AdapterError: If it is another kind of adapter, or a head that transformers' classes cannot have.
    """
    doing = f"Importing {folder} as an adapter of AdapterHub"
    content = read_object((folder / CONFIG_FILE).read_bytes(), str(folder / CONFIG_FILE))
    config = content.get("config")
    if not isinstance(config, dict):
        raise AdapterError(f"{doing}: {CONFIG_FILE} has no 'config', expected an object. Save the adapter again.")
    _check_method(config, doing)
    weights = next((folder / name for name in WEIGHTS_FILES if (folder / name).exists()), None)
    if weights is None:
        raise AdapterError(f"{doing}: there is no {' or '.join(WEIGHTS_FILES)} in it. Copy the whole folder.")
    matrices = set(config.get("attn_matrices") or ("k", "v"))
    thirds = tuple(number for number, name in enumerate(_MATRICES) if name in matrices)
    alpha = _alpha(content, config)
    vectors = _vectors(read_tensor_file(weights), content.get("name"), alpha, doing)
    _check_fused(vectors, alpha, doing)
    head, labels = _read_head(folder, str(content.get("model_type")), doing) if with_head else ({}, None)
    name = content.get("model_name")
    return ForeignAdapter(
        str(folder),
        "adapters",
        vectors,
        fused=_FUSED,
        thirds=thirds,
        is_partial=bool(config.get("leave_out")),
        head=head,
        labels=labels,
        base_name=name if isinstance(name, str) and name else None,
    )


def _check_method(config: Mapping[str, Any], doing: str) -> None:
    """Raise unless the config is one of (IA)³."""
    architecture, mode = config.get("architecture"), config.get("composition_mode")
    if architecture != "lora" or mode != "scale":
        told = f"architecture {architecture!r}" + (f", composition mode {mode!r}" if architecture == "lora" else "")
        raise AdapterError(
            f"{doing}: it is another kind of adapter, got {told}, expected 'lora' with 'scale', which is (IA)³. Use it "
            "with that library."
        )
    rank, alpha, gate = config.get("r", 1), config.get("alpha", 1), config.get("use_gating")
    if rank != 1 or gate or not isinstance(alpha, int | float):
        raise AdapterError(
            f"{doing}: got rank {rank!r}, alpha {alpha!r} and use_gating {gate!r}, expected rank 1, a number and no "
            "gate, which would depend on the text. Use it with that library."
        )


def _alpha(content: Mapping[str, Any], config: Mapping[str, Any]) -> float:
    """Return what the library multiplies the vectors by."""
    version = re.match(r"adapters\.(\d+)\.(\d+)", str(content.get("version")))
    if version and (int(version[1]), int(version[2])) < (1, 1):
        return 1.0
    return float(config.get("alpha", 1))


def _vectors(tensors: Mapping[str, Tensor], name: Any, alpha: float, doing: str) -> dict[Place, Tensor]:
    vectors: dict[Place, Tensor] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or tensor.dim() != 2 or tensor.shape[1] != 1 or not tensor.is_floating_point():
            raise AdapterError(
                f"{doing}: it holds {key!r} of shape {tuple(tensor.shape)}, expected vectors named "
                f"'….loras.{name}.lora_B' of shape (channels, 1) alone. Use it with that library."
            )
        vectors[match["module"], "output"] = (tensor.flatten().double() * alpha).to(torch.float32)
    if not vectors:
        raise AdapterError(f"{doing}: it holds no vector. Save the adapter again.")
    return vectors


def _check_fused(vectors: Mapping[Place, Tensor], alpha: float, doing: str) -> None:
    """Raise for fused projections of which the file does not hold the function."""
    modules = [module for module, _ in vectors]
    if any(module.endswith(".in_proj") for module in modules):
        raise AdapterError(
            f"{doing}: it is of a DeBERTa (v1), whose fused projection gets a random bias there that is not saved, so "
            "the file does not hold what was trained. Train it again here."
        )
    if alpha != 1 and any(module.endswith(tuple(f".{name}" for name in _FUSED)) for module in modules):
        raise AdapterError(
            f"{doing}: alpha is {alpha:g}, which multiplies the queries of a fused projection as well, expected 1. "
            "Train it again here."
        )


def _read_head(folder: Path, model_type: str, doing: str) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """Return the tensors of the head under transformers' names, and its labels."""
    weights = next((folder / name for name in _HEAD_FILES if (folder / name).exists()), None)
    if weights is None:
        return {}, None
    text = (folder / _HEAD_CONFIG).read_bytes() if (folder / _HEAD_CONFIG).exists() else b"{}"
    content = read_object(text, str(folder / _HEAD_CONFIG))
    config = content["config"] if isinstance(content.get("config"), dict) else {}
    tensors = read_tensor_file(weights)
    if any(key.startswith("heads.") for key in tensors):
        tensors = {_plain_name(key, config, model_type, doing): tensor for key, tensor in tensors.items()}
    return tensors, _labels(config.get("label2id") or content.get("label2id"))


def _plain_name(key: str, config: Mapping[str, Any], model_type: str, doing: str) -> str:
    """Return transformers' name of a flexible head's tensor `heads.<head>.<number>.<parameter>`."""
    kind = config.get("head_type")
    if kind in ("seq2seq_lm", "causal_lm") and re.fullmatch(r"heads\.[^.]+\.0\.\w+", key):
        return f"lm_head.{key.rpartition('.')[2]}"
    layers, activation = config.get("layers"), config.get("activation_function")
    has_pooler = bool(config.get("use_pooler"))
    own = family_of(model_type).hub_head
    is_own = own is not None and (
        (kind, own.layers, own.has_pooler) == ("classification", layers, has_pooler)
        and (layers == 1 or activation == own.activation)
    )
    match = re.fullmatch(r"heads\.[^.]+\.(\d+)\.(\w+)", key)
    name = own.names.get(match[1]) if own is not None and is_own and match is not None else None
    if match is None or name is None:
        raise AdapterError(
            f"{doing}: its head ({kind}, {layers} layers, activation {activation!r}, pooler {has_pooler}) is none that "
            f"transformers' classes of model type {model_type!r} have. Leave the head out: with_head=False "
            "(--without-head), and train one."
        )
    return f"{name}.{match[2]}"


def _labels(label2id: Any) -> tuple[str, ...] | None:
    """Return the labels in the order of their numbers, unless they are placeholders."""
    if not isinstance(label2id, dict) or not all(type(number) is int for number in label2id.values()):
        return None
    if sorted(label2id.values()) != list(range(len(label2id))):
        return None
    labels = tuple(sorted(label2id, key=lambda label: label2id[label]))
    return None if labels == tuple(f"LABEL_{number}" for number in range(len(labels))) else labels
