"""Arguments of PEFT's that have no meaning here: which are passed over, and which are refused.

An argument that would only move or cast tensors while they are loaded is passed over, since vectors are fp32 and lie
where the model does. One that would change what the model computes is refused, never dropped.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ia3.adapters.config import AdapterConfig, task_of_class
from ia3.bases.heads import drawn_weights, find_heads
from ia3.errors import AdapterError, SettingsError, near_matches

_WITHOUT_EFFECT = (
    "device_map", "dtype", "ephemeral_gpu_offload", "low_cpu_mem_usage", "max_memory", "offload_dir", "offload_folder",
    "torch_device", "torch_dtype",
)  # fmt: skip
# They say how a folder is fetched from the hub, so one that lies here is read whatever they are.
_OF_FETCHING = ("cache_dir", "force_download", "local_files_only", "proxies", "repo_type", "token", "use_auth_token")
# PEFT's default is the only value that means what is done here.
_ONLY: Mapping[str, Any] = {"key_mapping": None, "ignore_mismatched_sizes": False, "use_safetensors": None}
_KNOWN = ("adapter_name", "config", "is_trainable", "revision", "subfolder", *_WITHOUT_EFFECT, *_OF_FETCHING, *_ONLY)


def refuse_narrow(autocast_adapter_dtype: bool) -> None:
    """Raise if vectors are asked for in the base's dtype."""
    if not autocast_adapter_dtype:
        raise SettingsError(
            "Making a PeftModel: autocast_adapter_dtype is false, expected true: vectors are always fp32, since in "
            "bf16 1 + 0.003 rounds to 1. Leave the argument out."
        )


def refuse_unknown(arguments: Mapping[str, Any], place: str | Path) -> None:
    """Raise for an argument of a loading method that is not known, or cannot be followed.

    Args:
        arguments: By name.
        place: The adapter; what says how to fetch it means nothing where it is a folder.
    """
    for name, value in arguments.items():
        if name in _ONLY and value != _ONLY[name]:
            raise SettingsError(
                f"Loading an adapter: {name} is {value!r}, expected {_ONLY[name]!r}: names and shapes must be those of "
                "the model. Leave it out."
            )
        if name in _OF_FETCHING and not Path(place).expanduser().exists():
            raise SettingsError(
                f"Loading an adapter: {name!r} cannot be followed here when {str(place)!r} is fetched. Fetch it first, "
                f"hf download {place} --local-dir DIR, and give DIR."
            )
        if name not in (*_WITHOUT_EFFECT, *_OF_FETCHING, *_ONLY):
            raise SettingsError(f"Loading an adapter: {name!r} is no argument.{near_matches(name, _KNOWN)}")


def refuse_saving(safe_serialization: bool, save_embedding_layers: str | bool, path_of_model: str | None) -> None:
    """Raise for a value of `save_pretrained` that cannot be followed."""
    if not safe_serialization:
        raise SettingsError("Saving adapters: safe_serialization is false, expected true. Leave it out.")
    if save_embedding_layers is True:
        raise AdapterError(
            "Saving adapters: save_embedding_layers is true, and embeddings are not trained here. To train and save "
            "them name them in modules_to_save."
        )
    if path_of_model is not None:
        raise SettingsError(
            f"Saving adapters: path_initial_model_for_weight_conversion is {path_of_model!r}, expected None: it turns "
            "one LoRA into another. Leave it out."
        )


# Tasks with a head that answers: one of another task under the same name would be taken for it.
_WITH_HEAD = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")


def refuse_other_task(config: AdapterConfig, model: nn.Module, place: str | Path) -> None:
    """Raise if an adapter is for another task than a model with a head.

    Args:
        config: The adapter's.
        model: The base; nothing is known of a class that is not transformers'.
        place: The adapter, for the error.
    """
    name = type(model).__name__
    own = task_of_class(name) if isinstance(model, PreTrainedModel) else None
    if own in _WITH_HEAD and config.task is not None and config.task != own:
        raise SettingsError(
            f"Loading {place}: the adapter is for {config.task}, and the model is a {name}, for {own}: its head would "
            "answer something else. Load the base as a model for the adapter's task."
        )


def warn_of_drawn(model: nn.Module, heads: Sequence[str]) -> None:
    """Warn of parts of a head that are random numbers and are neither trained nor saved with a new adapter."""
    inside = tuple(f"{path}." for path in heads)
    drawn = find_heads(model, [name for name in drawn_weights(model) if not name.startswith(inside)])
    if drawn:
        warnings.warn(
            f"{', '.join(map(repr, drawn))} of the model was drawn at random, since its checkpoint has none, and is "
            "neither trained nor saved with the adapter, which cannot answer later without it. Name it: "
            f"modules_to_save={[path.rpartition('.')[2] for path in drawn]}.",
            stacklevel=3,
        )
