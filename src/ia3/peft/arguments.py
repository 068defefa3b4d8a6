"""Arguments of PEFT's that have no meaning here: which are passed over, and which are refused.

An argument that would only move or cast tensors while they are loaded is passed over, since vectors are fp32 and lie
where the model does. One that would change what the model computes is refused, never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ia3.errors import SettingsError, near_matches

_WITHOUT_EFFECT = (
    "device_map", "dtype", "ephemeral_gpu_offload", "low_cpu_mem_usage", "max_memory", "offload_dir", "offload_folder",
    "torch_device", "torch_dtype",
)  # fmt: skip
_KNOWN = ("adapter_name", "config", "is_trainable", "revision", "subfolder", *_WITHOUT_EFFECT)


def refuse_narrow(autocast_adapter_dtype: bool) -> None:
    """Raise if vectors are asked for in the base's dtype."""
    if not autocast_adapter_dtype:
        raise SettingsError(
            "Making a PeftModel: autocast_adapter_dtype is false, expected true: vectors are always fp32, since in "
            "bf16 1 + 0.003 rounds to 1. Leave the argument out."
        )


def refuse_unknown(arguments: Mapping[str, Any]) -> None:
    """Raise for an argument of a loading method that is not known."""
    for name in arguments:
        if name not in _WITHOUT_EFFECT:
            raise SettingsError(f"Loading an adapter: {name!r} is no argument.{near_matches(name, _KNOWN)}")
