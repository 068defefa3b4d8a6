"""Importing an adapter of another library: which format a path holds, and the adapter in it.

| format | what it is |
|---|---|
| peft | a folder of PEFT's or of ours: `adapter_config.json` with `peft_type` |
| t-few | a `.pt` checkpoint of the (IA)³ paper's code |
| adapter-hub | a folder of AdapterHub's `adapters` library |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import nn

from ia3.adapters.adapter import Adapter
from ia3.adapters.adapter_hub import WEIGHTS_FILES, read_adapter_hub
from ia3.adapters.config import read_object
from ia3.adapters.folder import load_adapter
from ia3.adapters.foreign import ForeignAdapter, describe_model, fit_foreign
from ia3.adapters.places import find_folder
from ia3.adapters.t_few import read_t_few
from ia3.errors import AdapterError
from ia3.names import CONFIG_FILE

Format = Literal["peft", "t-few", "adapter-hub"]


def detect_format(path: str | Path) -> Format:
    """Return whose format a path holds.

    Raises:
        AdapterError: If it holds none of them; what is there is named.
    """
    place = Path(path)
    if place.is_file():
        return "t-few"
    if (place / CONFIG_FILE).is_file():
        content = read_object((place / CONFIG_FILE).read_bytes(), str(place / CONFIG_FILE))
        is_hub = "peft_type" not in content and (
            "config" in content or any((place / f).exists() for f in WEIGHTS_FILES)
        )
        return "adapter-hub" if is_hub else "peft"
    checkpoints = sorted(file.name for file in place.glob("*.pt")) if place.is_dir() else []
    if checkpoints:
        raise AdapterError(
            f"Importing {path}: it is a folder with {', '.join(checkpoints[:5])}, expected one file of them. Give "
            f"{place / ('finish.pt' if 'finish.pt' in checkpoints else checkpoints[-1])}."
        )
    find_folder(path)  # an id on the hub, or a sentence about what is there instead
    return "peft"


def read_foreign(path: str | Path, *, with_head: bool = True) -> ForeignAdapter | None:
    """Return what a path of another library holds, or None for PEFT's format, which `load_adapter` reads.

    Raises:
        AdapterError: If it cannot be read as what it seems to be.
    """
    found = detect_format(path)
    if found == "t-few":
        return read_t_few(Path(path))
    return read_adapter_hub(Path(path), with_head=with_head) if found == "adapter-hub" else None


def import_adapter(
    path: str | Path,
    model: nn.Module,
    *,
    base_name: str | None = None,
    head_modules: Sequence[str] = (),
    with_head: bool = True,
) -> Adapter:
    """Return the adapter of another library as one of ours.

    Args:
        path: A `.pt` file of T-Few, a folder of AdapterHub's library, or a folder of PEFT's.
        model: The base it was trained on; not changed.
        base_name: What the record calls the base; left out, what the model was loaded from.
        head_modules: Modules that the base's checkpoint does not have.
        with_head: Whether to take the head as well; a head that transformers' classes cannot have is refused.

    Returns:
        The adapter; `save_adapter` writes it as a folder that PEFT reads.

    Raises:
        AdapterError: If the path holds no (IA)³ adapter, or one of another base.
    """
    foreign = read_foreign(path, with_head=with_head)
    if foreign is not None:
        return fit_foreign(foreign, model, base_name=base_name, head_modules=head_modules)
    adapter = load_adapter(path, model)
    if not adapter.record.get("base"):
        named = base_name or adapter.config.base_model_name_or_path
        base = describe_model(model, named, head_modules)
        adapter = replace(adapter, record={**adapter.record, "base": base})
    if not with_head:
        bare = replace(adapter.config, modules_to_save=None)
        adapter = replace(adapter, head={}, head_modules=(), config=bare)
    return adapter
