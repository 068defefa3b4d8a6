"""Adapters of a PeftModel as folders: the plan a loaded one gets, and PEFT's layout for saving.

The files themselves are `adapters.folder`'s matter. What is written has the names the user gave in the config, where
PEFT finds the vectors by them, and others where it would not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ia3.adapters.adapter import Adapter
from ia3.adapters.attached import adapter_of, write_adapters
from ia3.adapters.fitting import auto_mapping, plan_of
from ia3.adapters.vocabulary import taken_paths
from ia3.core.attach import Attachment
from ia3.core.sites import Plan
from ia3.peft.config import IA3Config, adapter_config
from ia3.peft.targets import covers

DEFAULT_NAME = "default"


def plan_for(adapter: Adapter, model: nn.Module) -> Plan:
    """Return the plan a fresh model gets for an adapter: the model's own if the adapter has all of it, else its own.

    Not the model's own for an adapter that has a part of it: training it on would train more than its targets.
    """
    plan = plan_of(adapter, model)
    return plan if covers(adapter.sites, plan) else Plan(adapter.sites, plan.model_type, "adapter")


def save_adapters(attachment: Attachment, folder: str | Path, options: Mapping[str, Any]) -> None:
    """Write the adapters of a PeftModel.

    Args:
        attachment: The model's handle.
        folder: Gets the adapter `default`, and a folder for each other one.
        options: `selected_adapters`, names or None for all; `state_dict`, given by transformers' Trainer;
            `is_main_process`, false where nothing is written; those of sending to the hub.

    Raises:
        AdapterError: For another option, or where an adapter or the folder cannot be written.
        SettingsError: If it shall be sent to the hub.
    """
    given = dict(options)
    chosen = given.pop("selected_adapters", None)
    names = list(attachment.model.peft_config) if chosen is None else chosen
    make = partial(_adapter, attachment)
    write_adapters(attachment, folder, given, names, make, own="selected_adapters", root=DEFAULT_NAME)


def _adapter(attachment: Attachment, name: str, state: Mapping[str, Tensor] | None) -> Adapter:
    """Return an adapter with the config that the user gave."""
    adapter = adapter_of(attachment, name, state)
    config: IA3Config = attachment.model.peft_config[name]
    given = adapter_config(config)
    held = attachment.bank.snapshot.head(attachment.bank.row(name))
    paths = held.paths if held else ()
    if given.target_modules is None:  # the model's own plan: its names are found
        found = adapter.config
        given = replace(
            given,
            target_modules=found.target_modules,
            feedforward_modules=found.feedforward_modules,
            exclude_modules=None,
        )
    merged = replace(
        given,
        auto_mapping=None if given.task_type else auto_mapping(attachment.model),
        base_model_name_or_path=adapter.config.base_model_name_or_path,
        inference_mode=True,
        revision=given.revision or adapter.config.revision,
    )
    kept = (*paths, *taken_paths(attachment.model))
    head = {key: t for key, t in adapter.head.items() if any(key.startswith(f"{path}.") for path in kept)}
    return replace(adapter, config=merged, head=head, head_modules=tuple(paths))
