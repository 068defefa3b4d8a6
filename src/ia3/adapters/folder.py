"""An adapter as a folder: PEFT's two files, our `ia3.json`, and what a caller puts beside them.

    adapter_config.json          PEFT's fields; written last, removed first: without it the folder is no adapter
    adapter_model.safetensors    PEFT's tensors
    ia3.json                     the record, the sites, and the checksum of the tensors

A folder is read whole or not at all: the config must be the same before and after, and the tensors must have the
checksum. A folder of PEFT's has no `ia3.json`; there the shapes decide whether it fits a model. This file knows paths
and bytes; what they mean is known by `config`, `peft_format` and `record`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ia3.adapters.adapter import Adapter
from ia3.adapters.config import AdapterConfig, read_config
from ia3.adapters.fitting import build_head, check_fit, check_targets, head_modules_of
from ia3.adapters.identity import base_fingerprint, short
from ia3.adapters.layout import Place
from ia3.adapters.peft_format import cut_vectors, place_vectors, read_tensors, whole_sites, write_tensors
from ia3.adapters.places import find_folder, find_stored
from ia3.adapters.record import read_record, write_record
from ia3.adapters.store import Store
from ia3.adapters.targets import full_targets, is_feedforward, is_target
from ia3.bases.revisions import address_of, is_at_another
from ia3.core.sites import Site
from ia3.errors import AdapterError
from ia3.files import replace_files
from ia3.names import CONFIG_FILE, PICKLED_FILE, RECORD_FILE, WEIGHTS_FILE
from ia3.spelling import first_line, first_of

_OURS = (CONFIG_FILE, WEIGHTS_FILE, RECORD_FILE)
_SHOWN = 8  # names in a message


def save_adapter(adapter: Adapter, folder: str | Path, *, extra_files: Mapping[str, str | bytes] | None = None) -> Path:
    """Write an adapter into a folder, atomically, over one that is there; return the folder.

    Killed at any instant, the folder holds the adapter that was there, the new one, or no `adapter_config.json`, which
    loading reports as incomplete. One process writes a folder at a time.

    Args:
        adapter: What to save.
        folder: Made if it is not there. Other files in it stay.
        extra_files: Content by name, written with the same care: a README.md, a tokenizer.

    Raises:
        AdapterError: If PEFT's format cannot express the adapter, a number is not finite, or the folder cannot be
            written.
    """
    path = Path(folder)
    extra = extra_files or {}
    wrong = sorted(name for name in extra if name in _OURS or Path(name).name != name)
    if wrong:
        raise AdapterError(
            f"Saving an adapter to {path}: {wrong[0]!r} cannot be an extra file. Give plain other names."
        )
    weights = _weights_of(adapter)
    described = {"file": WEIGHTS_FILE, "sha256": hashlib.sha256(weights).hexdigest()}
    files = {name: text.encode() if isinstance(text, str) else text for name, text in extra.items()}
    files[WEIGHTS_FILE] = weights
    files[RECORD_FILE] = write_record(adapter.record, adapter.sites, described)
    files[CONFIG_FILE] = expressible_config(adapter).to_json().encode()
    try:
        replace_files(path, files, CONFIG_FILE)
    except OSError as error:
        raise AdapterError(
            f"Saving an adapter to {path}: it cannot be written ({error.strerror or error}). Free space or choose "
            "another folder."
        ) from error
    return path


def load_adapter(folder: str | Path, model: nn.Module | None = None, *, revision: str | None = None) -> Adapter:
    """Return the adapter in a folder of ours or of PEFT's, or in a packed store.

    Args:
        folder: A folder, an id on the hub (`owner/name`, `owner/name/folder`, either with `@REVISION` behind it), or
            `STORE:NAME` for one in a packed store.
        model: The model it is for, with or without a bank; checked if given.
        revision: Of an id on the hub, where it is not spelled in the name.

    Returns:
        The adapter. `adapter.row(plan)` lays it out for a plan.

    Raises:
        AdapterError: If there is no adapter, it is incomplete or broken, or it is one of another base than `model`.
    """
    stored = None if revision is not None else find_stored(folder)
    if stored is not None:
        return _load_stored(*stored, model)
    path = find_folder(folder, revision=revision)
    files = _read_files(path)
    where = str(path / files.weights_name)
    config = read_config(files.config, str(path / CONFIG_FILE))
    found = read_tensors(_parse(files.weights, files.weights_name, where), config, where)
    record, sites = ({}, whole_sites(found.vectors)) if files.record is None else files.record[:2]
    vectors = cut_vectors(sites, found.vectors)
    if vectors is None:
        raise AdapterError(_MIXED.format(path=path, file=files.weights_name))
    head_modules = head_modules_of(found.head, config.modules_to_save)
    adapter = Adapter(sites, vectors, found.head, head_modules, config, record)
    if model is not None:
        _check(adapter, found.vectors, model, f"Loading adapter from {path}")
    return adapter


def choose_stored(store: Store, name: str | None) -> str:
    """Return the name of an adapter in a store; without a name, that of its only one.

    Raises:
        AdapterError: If there is none of that name, or none was named among several.
    """
    if name is None and len(store) == 1:
        return store.names[0]
    if not name:
        raise AdapterError(
            f"Loading adapter from {store.path}: the packed store holds {len(store)} adapters "
            f"({first_of(map(repr, store.names), _SHOWN)}), expected the name of one. Give {store.path}:NAME; "
            "'ia3 adapters list' shows them all."
        )
    store.has_tensors(name)
    return name


def _load_stored(path: Path, name: str | None, model: nn.Module | None) -> Adapter:
    with Store.open(path) as store:
        name = choose_stored(store, name)
        adapter = store.adapter(name)
    if model is not None:
        check_adapter(adapter, model, f"Loading adapter {name!r} from {path}")
    return adapter


def check_adapter(adapter: Adapter, model: nn.Module, doing: str, *, of_any_weights: bool = False) -> None:
    """Raise if an adapter does not belong to a model.

    Args:
        adapter: The adapter.
        model: The model, with or without a bank.
        doing: Beginning of the error.
        of_any_weights: Whether it may have been trained on other weights in the same places and shapes.

    Raises:
        AdapterError: Naming what does not fit, or that it was trained on another base.
    """
    if not of_any_weights:
        _check_base(adapter, model, doing)
    _check_shapes(adapter, place_vectors(adapter.sites, adapter.vectors), model, doing)


def is_of_weights(adapter: Adapter, model: nn.Module) -> bool:
    """Whether an adapter's record says of no other weights than a model's that it was trained on them."""
    return _fingerprints(adapter, model) is None


def _check(adapter: Adapter, placed: Mapping[Place, Tensor], model: nn.Module, doing: str) -> None:
    """Raise if an adapter, its vectors in PEFT's places, does not belong to a model."""
    _check_base(adapter, model, doing)
    _check_shapes(adapter, placed, model, doing)


def _check_shapes(adapter: Adapter, placed: Mapping[Place, Tensor], model: nn.Module, doing: str) -> None:
    check_fit({place: len(vector) for place, vector in placed.items()}, adapter.config, model, doing)
    check_targets(placed, adapter.config, model, doing)
    build_head(adapter, model, doing)


def expressible_config(adapter: Adapter) -> AdapterConfig:
    """Return the adapter's config, its targets spelled anew where PEFT would not find the vectors by them.

    Adapters that PEFT made with `all-linear` need that, and such as were changed after they were loaded.

    Raises:
        AdapterError: If no names make PEFT find a vector, since it lies in a head.
    """
    places = place_vectors(adapter.sites, adapter.vectors)
    outputs = [module for module, side in places if side == "output"]
    inputs = [module for module, side in places if side == "input"]
    config = adapter.config
    if not _selects(config, outputs, inputs):
        targets, feedforward = full_targets(outputs, inputs)
        config = replace(config, target_modules=targets, feedforward_modules=feedforward, exclude_modules=None)
    hidden = [module for module, _ in places if not is_target(config, module)]
    if hidden:
        raise AdapterError(
            f"Writing an adapter in PEFT's format: vector {hidden[0]!r} lies in a head ({config.modules_to_save}), "
            "where PEFT finds none. Exclude it from the plan."
        )
    return config


_MIXED = (
    "Loading adapter from {path}: {file} does not hold the tensors that ia3.json describes; it was damaged, or written "
    "by another program. Save the adapter again, or remove ia3.json to read the folder as PEFT's."
)


def _selects(config: AdapterConfig, outputs: list[str], inputs: list[str]) -> bool:
    """Whether PEFT finds these vectors by the config's names, each on its side, and takes the config at all."""
    targets, feedforward = config.target_modules, config.feedforward_modules
    if isinstance(targets, tuple) and isinstance(feedforward, tuple) and not set(feedforward) <= set(targets):
        return False
    sides = {**dict.fromkeys(outputs, False), **dict.fromkeys(inputs, True)}
    return feedforward is not None and all(
        is_target(config, module) and is_feedforward(config, module) == is_input for module, is_input in sides.items()
    )


def _weights_of(adapter: Adapter) -> bytes:
    """Return the content of `adapter_model.safetensors`."""
    odd = [name for name, t in {**adapter.vectors, **adapter.head}.items() if not torch.isfinite(t).all()]
    if odd:
        raise AdapterError(
            f"Saving an adapter: {odd[0]!r} holds numbers that are not finite (and {len(odd) - 1} others). The "
            "training diverged; train again with a lower learning rate."
        )
    tensors = write_tensors(place_vectors(adapter.sites, adapter.vectors), adapter.head)
    return safetensors.torch.save({name: t.cpu() for name, t in tensors.items()}, metadata={"format": "pt"})


def _read_files(path: Path) -> _Files:
    """Return the folder's files; read again if somebody writes them meanwhile."""
    is_mixed = False
    for _ in range(3):
        config = _read(path, CONFIG_FILE)
        name = WEIGHTS_FILE if (path / WEIGHTS_FILE).exists() else PICKLED_FILE
        text, weights = _read(path, RECORD_FILE), _read(path, name)
        if config is None or weights is None or _read(path, CONFIG_FILE) != config:
            continue
        record = None if text is None else read_record(text, str(path / RECORD_FILE))
        is_mixed = record is not None and record[2]["sha256"] != hashlib.sha256(weights).hexdigest()
        if not is_mixed:
            return _Files(config, weights, name, record)
    if is_mixed:
        raise AdapterError(_MIXED.format(path=path, file=name))
    lacks = next((n for n, read in ((CONFIG_FILE, config), (WEIGHTS_FILE, weights)) if read is None), None)
    if lacks is None:
        raise AdapterError(f"Loading adapter from {path}: it is being written just now. Load it again.")
    there = ", ".join(sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(".")))
    raise AdapterError(
        f"Loading adapter from {path}: the adapter is incomplete, {lacks} is missing (there: {there}). A save was "
        "interrupted, or not every file was copied. Save it again, or load another one."
    )


def _read(path: Path, name: str) -> bytes | None:
    try:
        return (path / name).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise AdapterError(
            f"Loading adapter from {path}: {name} cannot be read ({error.strerror or error})."
        ) from error


def _parse(content: bytes, name: str, where: str) -> dict[str, Tensor]:
    try:
        if name == PICKLED_FILE:
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            return {str(key): tensor for key, tensor in dict(loaded).items() if isinstance(tensor, Tensor)}
        return safetensors.torch.load(content)
    except Exception as error:  # torch and safetensors raise many kinds for a broken file
        raise AdapterError(
            f"Reading {where}: it is no tensor file ({first_line(error)}). It is cut off or damaged; save the "
            "adapter again."
        ) from error


def _check_base(adapter: Adapter, model: nn.Module, doing: str) -> None:
    """Raise if the record says that the adapter was trained on another base."""
    differ = _fingerprints(adapter, model)
    if differ is not None:
        raise AdapterError(
            f"{doing}: it was trained on base {adapter.base_name or 'without a name'!r} (fingerprint "
            f"{short(differ[0])}), this model is {address_of(model)!r} (fingerprint {short(differ[1])}). Load it on "
            "that base, or train again on this one."
        )
    if not adapter.base_facts.get("fingerprint") and is_at_another(adapter.base_facts, model):
        raise AdapterError(
            f"{doing}: it was trained on base {adapter.base_name!r}, this model is {address_of(model)!r}. Load it on "
            "that base, or train again on this one."
        )


def _fingerprints(adapter: Adapter, model: nn.Module) -> tuple[str, str] | None:
    """Return the fingerprints of the base in an adapter's record and of a model, if there are two and they differ."""
    base = adapter.record.get("base") or {}
    expected = base.get("fingerprint")
    if expected is None:
        return None
    got = base_fingerprint(model, base.get("head_modules") or ())
    return None if got == expected else (expected, got)


@dataclass(frozen=True)
class _Files:
    """The content of a folder, read while nobody wrote it; the record as `read_record` returns it."""

    config: bytes
    weights: bytes
    weights_name: str
    record: tuple[dict[str, Any], tuple[Site, ...], dict[str, str]] | None
