"""Adapters on a model: attach a fresh one, load one from a folder, take one out, and save by the model's own method.

This is the public face of `core.attach`: it chooses the plan and the dtype, and gives the model a `save_pretrained`
that writes adapter folders, so that a training loop or transformers' `Trainer` saves the adapter and not the base.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ia3.adapters.adapter import Adapter, told_of_base
from ia3.adapters.config import AdapterConfig, kind_of_model, other_task
from ia3.adapters.fitting import build_head, check_brought, check_sites, config_for, named_modules, plan_of
from ia3.adapters.folder import load_adapter, save_adapter
from ia3.adapters.peft_format import place_vectors
from ia3.adapters.places import name_of
from ia3.adapters.record import describe_base, versions
from ia3.adapters.targets import CLASSIFIER_NAMES, find_heads
from ia3.adapters.vocabulary import taken_vocabulary
from ia3.bases.heads import drawn_weights
from ia3.bases.heads import find_heads as find_drawn
from ia3.core.attach import BANK_MODULE, Attachment, attach_bank, attachment_of
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.core.sites import Plan
from ia3.core.snapshot import BASE_ROW
from ia3.core.weights import Weights, is_in_parts, is_quantised, refuse_training_apart, whole
from ia3.errors import AdapterError, BankError, PlanError, SettingsError, near_matches
from ia3.files import replace_files
from ia3.names import MODEL_FILE

# The name under which transformers' Trainer looks for a checkpoint's weights; ours holds the bank and not the base.
TRAINER_FILE = "model.safetensors"
# Options of transformers' save_pretrained that have no meaning for a file of vectors.
_WITHOUT_MEANING = frozenset(
    ("max_shard_size", "safe_serialization", "save_function", "save_original_format", "save_peft_format")
)
# Options of its push_to_hub, which have one only where something is sent.
_OF_THE_HUB = frozenset(
    ("commit_description", "commit_message", "create_pr", "private", "repo_id", "revision", "tags", "token")
)


def attach(
    model: nn.Module,
    *,
    plan: Plan | None = None,
    head_modules: Sequence[str] = (),
    name: str = "default",
    trainable: bool = True,
    base_name: str | None = None,
) -> Attachment:
    """Put a bank with one adapter of ones on a model, freeze the base, and return the handle.

    From then on `model.save_pretrained(folder)` writes the adapter (each in a folder of its name if there are several;
    `adapter="news"` writes that one), and `handle.detach()` gives the model back.

    Args:
        model: A transformers model; changed in place.
        plan: Where the vectors sit; the model's own plan if left out.
        head_modules: Paths of modules that the adapter brings itself, such as `classifier`.
        name: Of the adapter.
        trainable: Whether it is in training.
        base_name: What its files call the base, a hub id for PEFT's Auto classes; left out, what the model was loaded
            from.

    Raises:
        PlanError: If there is no plan, it does not fit, or a vector would lie in a head.
        BankError: If the model has a bank, or a name or path cannot be used.
    """
    if trainable:
        refuse_training_apart(model)
    attachment = _attach_empty(model, plan or find_plan(model), head_modules)
    try:
        row = attachment.add(name, trainable=trainable)
    except BankError:
        attachment.detach()
        raise
    attachment.bank.describe(row, {"base": {"name": base_name}})
    return attachment


def load(model: nn.Module, folder: str | Path, name: str | None = None, *, trainable: bool = False) -> Attachment:
    """Put the adapter of a folder, or one of a packed store, on a model, beside those it has, and return the handle.

    Args:
        model: The base; a fresh one gets a bank, with the model's own plan where the adapter fits it.
        folder: Of ours or of PEFT's, an id on the hub, or `STORE:NAME`.
        name: In the bank; the folder's name, or that in the store, if left out.
        trainable: Whether to train it on; on a fresh model that means every site of its plan, also those where the
            adapter had none.

    Raises:
        AdapterError: If the folder holds no adapter of this base, or the bank's plan has no place for its vectors.
        BankError: If the bank has an adapter of this name.
    """
    adapter = load_adapter(folder, model)
    return put_on(model, adapter, name or name_of(folder), trainable=trainable)


def put_on(model: nn.Module, adapter: Adapter, name: str, *, trainable: bool = False) -> Attachment:
    """Put an adapter on a model that it fits, beside those the model has, and return the handle.

    Raises:
        AdapterError: If it does not fit the model or the bank's plan, or, unless it is trained on, if a head of the
            model is random numbers and the adapter brings none.
        BankError: If the bank has an adapter of this name.
    """
    doing = f"Putting adapter {name!r} on the model"
    if trainable:
        refuse_training_apart(model)
    check_sites(adapter, model, doing)  # on another base every head is missing
    head = build_head(adapter, model, doing)
    paths = head.paths if head else ()
    if not trainable:
        check_brought(model, paths, doing)
    try:
        attachment, is_new = attachment_of(model), False
    except BankError:
        attachment, is_new = _attach_empty(model, plan_of(adapter, model), paths), True
    try:
        row = attachment.bank.add(name, adapter.row(attachment.bank.plan), trainable=trainable, head=head)
    except (AdapterError, BankError):
        if is_new:
            attachment.detach()
        raise
    attachment.route_heads(paths)
    # trained on, it is no longer what the old data, settings and metrics made
    kept = {k: v for k, v in adapter.record.items() if not trainable or k in ("base", "labels", "template")}
    attachment.bank.describe(row, record_on_model(adapter.config, kept))
    return attachment


def record_on_model(config: AdapterConfig, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a bank knows of an adapter: its record, and of its base at least what PEFT's config says."""
    task = other_task(config)
    told = {} if task is None else {"task": task}
    return {**record, **told, "base": told_of_base(config, record)}


def adapter_of(attachment: Attachment, name: str | int, state: Mapping[str, Tensor] | None = None) -> Adapter:
    """Return one adapter of an attached model as a value: an fp32 copy on the CPU, ready to be saved.

    On a classifier the head holds every module that PEFT expects in the file (`classifier`, `score`) and every one that
    the base's checkpoint does not have (a pooler), the model's own where the adapter brings none.

    Args:
        attachment: The handle.
        name: Name or row of the adapter.
        state: Whole tensors of a sharded model by their names in it, as a trainer gathers them; left out, each is
            brought together here, for which every process must ask.

    Raises:
        BankError: For an unknown name, or the base.
        BaseError: If numbers are not there as a whole, or a head is quantised.
        AdapterError: If PEFT's format cannot express it.
    """
    model, bank = attachment.model, attachment.bank
    row = bank.row(name)
    if row == BASE_ROW:
        raise BankError(f"Taking out row {BASE_ROW}: it is the base and no adapter. Give the name of an adapter.")
    weights = Weights(model, state)
    vector = weights.given(f"{BANK_MODULE}.vectors.row{row}")
    vector = bank.vector(name) if vector is None else whole(vector.detach())
    vectors = {site.name: vector[span].to("cpu", torch.float32) for site, span in bank.plan.spans()}
    modules = named_modules(model)
    head_modules, head = _head_of(attachment, row, modules, weights)
    head = taken_vocabulary(model, weights) | head
    record = dict(attachment.bank.record(row))
    record["base"] = _described(model, record.get("base") or {}, attachment.head_paths, state)
    record.setdefault("versions", versions())
    config = config_for(model, record["base"], place_vectors(bank.plan.sites, vectors), head_modules)
    return Adapter(bank.plan.sites, vectors, head, head_modules, config, record)


def _head_of(
    attachment: Attachment, row: int, modules: Mapping[str, nn.Module], weights: Weights
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Return the paths of the head that is saved with an adapter, and a copy of its tensors on the CPU."""
    held = attachment.bank.snapshot.head(row)
    own = dict(zip(held.paths, held.parts, strict=True)) if held else {}
    names = (*own, *(classifier_names(attachment.model) if kind_of_model(attachment.model) == "encoder" else ()))
    # PEFT expects a classifier in the file, but could not read one that is quantised; the base has it anyway
    paths = tuple(p for p in find_heads(modules, names) if p in own or not is_quantised(modules[p]))
    doing = f"Saving the head of adapter {attachment.bank.snapshot.entries[row].name!r}"
    tensors: dict[str, Tensor] = {}
    for path in paths:
        if path not in own:
            tensors |= weights.tensors_of(path, doing)
    for number, (path, part) in enumerate(own.items()):
        inner = weights.under(f"{BANK_MODULE}.heads.row{row}.parts.{number}", part)
        tensors |= {f"{path}.{key}": tensor for key, tensor in inner.tensors_of("", doing).items()}
    return paths, {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def classifier_names(model: nn.Module) -> tuple[str, ...]:
    """Return the ends of paths of the modules that an adapter of a classifier brings: PEFT's, and what was drawn."""
    return (*CLASSIFIER_NAMES, *find_drawn(model, drawn_weights(model)))


def _attach_empty(model: nn.Module, plan: Plan, head_modules: Sequence[str]) -> Attachment:
    hidden = [s.name for s in plan.sites if any(s.module == p or s.module.startswith(f"{p}.") for p in head_modules)]
    if hidden:
        raise PlanError(
            f"Attaching a bank: vector {hidden[0]!r} would lie in a head ({', '.join(head_modules)}), which is trained "
            "whole. Exclude it: exclude_modules, or other head_modules."
        )
    is_double = next(model.parameters()).dtype == torch.float64
    bank = Bank(plan, dtype=torch.float64 if is_double else torch.float32)
    return attach_bank(model, bank, heads=head_modules, save=_save)


def _described(
    model: nn.Module, known: Mapping[str, Any], head_paths: Sequence[str], state: Mapping[str, Tensor] | None
) -> dict[str, Any]:
    """Return what is known of the base; measured where it is not known."""
    if known.get("fingerprint"):
        return dict(known)
    measured = describe_base(model, name=known.get("name"), head_modules=head_paths, state=state)
    return {**{key: value for key, value in known.items() if value is not None}, **measured}


def _save(attachment: Attachment, folder: str | Path, options: Mapping[str, Any]) -> None:
    """Do what `save_pretrained` of an attached model does: write its adapters."""
    given = dict(options)
    only = given.pop("adapter", None)
    names = attachment.bank.names if only is None else (only,)
    if not names:
        raise AdapterError(f"Saving adapters to {folder}: the model's bank has none. Add one first.")
    make = partial(adapter_of, attachment)
    write_adapters(attachment, folder, given, names, make, own="adapter", root=names[0] if len(names) == 1 else None)


def write_adapters(
    attachment: Attachment,
    folder: str | Path,
    options: Mapping[str, Any],
    names: Sequence[str],
    make: Callable[[str, Mapping[str, Tensor] | None], Adapter],
    *,
    own: str,
    root: str | None,
) -> None:
    """Write adapters of an attached model, and the bank as a checkpoint where transformers' Trainer asks for one.

    Args:
        attachment: The model's handle.
        folder: Where.
        options: Of transformers' `save_pretrained`.
        names: Which adapters.
        make: Returns one by its name; it is given the whole tensors of a sharded model, as a trainer gathers them.
        own: The caller's own option, which names adapters; for the error.
        root: The adapter that is written into the folder itself; each other one gets a folder of its name in it.

    Raises:
        AdapterError: For an unknown option, a name that cannot be a folder's, or where something cannot be written.
        SettingsError: If it shall be sent to the hub.
    """
    given, path = without_hub_options(options, folder), Path(folder)
    is_main, is_trainer, state = (
        given.pop("is_main_process", True),
        "state_dict" in given,
        given.pop("state_dict", None),
    )
    unknown = sorted(set(given) - _WITHOUT_MEANING)
    if unknown:
        raise AdapterError(
            f"Saving adapters to {path}: {unknown[0]!r} is no argument of this save_pretrained."
            f"{near_matches(unknown[0], (own, 'is_main_process', 'state_dict'))} Leave it out."
        )
    if not is_main and (state or not is_in_parts(attachment.model)):
        return
    odd = next((name for name in names if name != root and Path(name).name != name), None)
    if odd is not None:
        raise AdapterError(f"Saving adapters to {path}: {odd!r} cannot be a folder's name. Choose another name.")
    adapters = {name: make(name, state) for name in names}
    checkpoint = {TRAINER_FILE: _bank_file(attachment, path, state)} if is_trainer else {}
    if not is_main:  # it was here to give its part of the numbers
        return
    for name, adapter in adapters.items():
        save_adapter(adapter, path if name == root else path / name, extra_files=checkpoint if name == root else {})
    if checkpoint and root not in adapters:
        replace_files(path, checkpoint, TRAINER_FILE)


def without_hub_options(options: Mapping[str, Any], folder: Any) -> dict[str, Any]:
    """Return the options of a `save_pretrained` without those of sending to the hub, which is done by another method.

    Raises:
        SettingsError: If it shall send.
    """
    if options.get("push_to_hub"):
        raise SettingsError(
            f"Saving adapters to {folder}: push_to_hub is true, and saving sends nothing. Leave it out, and call "
            "model.push_to_hub('owner/name'), or: hf upload owner/name FOLDER."
        )
    return {name: value for name, value in options.items() if name != "push_to_hub" and name not in _OF_THE_HUB}


def _bank_file(attachment: Attachment, path: Path, state: Mapping[str, Tensor] | None) -> bytes:
    """Return the file that Trainer loads a checkpoint's weights from: the bank's tensors by their name in the model.

    Raises:
        AdapterError: If a whole model lies in the folder.
    """
    if (path / MODEL_FILE).exists():
        raise AdapterError(
            f"Saving a checkpoint to {path}: a whole model lies there ({MODEL_FILE}), and its {TRAINER_FILE} would be "
            "overwritten. Choose another folder."
        )
    prefix = f"{BANK_MODULE}."
    own = {name: t for name, t in (state or {}).items() if name.startswith(prefix)}
    bank = own or attachment.bank.state_dict(prefix=prefix)
    tensors = {name: whole(tensor.detach()).cpu().clone().contiguous() for name, tensor in bank.items()}
    return safetensors.torch.save(tensors, metadata={"format": "pt"})
