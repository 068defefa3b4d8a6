"""Folders as PEFT writes them: its two files and no record, of adapters whose vectors are not ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from ia3.core.attach import attachment_of
from ia3.peft import IA3Config, get_peft_model


def write_peft_folder(model: Any, folder: Path, seed: int = 0, **config: Any) -> Path:
    """Put a random adapter on a model, write it as PEFT does, and return the folder.

    Args:
        model: A transformers model; it is a PeftModel afterwards.
        folder: Made.
        seed: Of the numbers of vectors and head.
        config: Of the `IA3Config`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a head that is neither in the checkpoint nor saved
        made = get_peft_model(model, IA3Config(**config))
    draw = torch.Generator().manual_seed(seed)
    for parameter in attachment_of(made).bank.parameters():
        parameter.data = torch.rand(parameter.shape, generator=draw) + 0.5
    made.eval().save_pretrained(folder)
    (folder / "ia3.json").unlink()
    return folder
