"""From an adapter's folder to its base with the adapter on it, by the base's name in the folder.

The base is found as everywhere in this package: a local folder, a named base that is installed, the hub's cache or the
hub. It is loaded by transformers' Auto class of the task, whose arguments are passed on.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from ia3.adapters.adapter import Adapter
from ia3.adapters.folder import load_adapter
from ia3.adapters.places import find_folder
from ia3.adapters.vocabulary import take_vocabulary
from ia3.bases.locating import locate
from ia3.bases.named import find_by_hub_id, is_installed
from ia3.bases.quiet import quiet
from ia3.bases.revisions import at_revision
from ia3.errors import AdapterError, BaseError, SettingsError
from ia3.peft.config import IA3Config, PeftConfig, TaskType
from ia3.peft.model import PeftModel

# The last layer of a classifier's head, whose rows are the labels.
_LAST_LAYERS = (
    "classifier.weight",
    "score.weight",
    "classifier.out_proj.weight",
)


def _load(
    auto: Any,
    task: TaskType,
    place: str | Path,
    adapter_name: str,
    is_trainable: bool,
    config: IA3Config | None,
    subfolder: str | None,
    revision: str | None,
    arguments: dict[str, Any],
) -> Any:
    """Return the base of an adapter as a PeftModel."""
    folder = find_folder(place, revision=revision, subfolder=subfolder)
    saved = PeftConfig.from_pretrained(folder)
    if saved.task_type not in (None, task):
        right = next((c.__name__ for c in _AUTO_CLASSES if c.task == saved.task_type), "PeftModel.from_pretrained")
        raise SettingsError(f"Loading {folder}: the adapter is for {saved.task_type}, expected {task}. Use {right}.")
    adapter = load_adapter(folder)
    name = saved.base_model_name_or_path or adapter.base_name
    if name is None:
        raise AdapterError(
            f"Loading {folder}: its config names no base (base_model_name_or_path is null). Load the base yourself and "
            "call PeftModel.from_pretrained(base, folder)."
        )
    if task == TaskType.SEQ_CLS:
        arguments = _label_arguments(adapter, arguments) | arguments
    *before, last = [at_revision(name, saved.revision)] if saved.revision else _candidates(adapter, name)
    for base in before:
        with suppress(AdapterError, BaseError):
            model = _load_base(auto, base, adapter, arguments)
            return PeftModel.from_pretrained(model, folder, adapter_name, is_trainable, config)
    model = _load_base(auto, last, adapter, arguments)
    return PeftModel.from_pretrained(model, folder, adapter_name, is_trainable, config)


def _candidates(adapter: Adapter, name: str) -> list[str]:
    """Return where the base may be: what the adapter names, before it an installed named base of this hub id.

    A named base may hold other weights than the hub's (quantised ones), so it is tried only where the adapter's record
    has the fingerprint that tells them apart.
    """
    named = find_by_hub_id(name)
    is_checked = bool((adapter.record.get("base") or {}).get("fingerprint"))
    return [named.name, name] if named and is_checked and is_installed(named) else [name]


def _load_base(auto: Any, name: str, adapter: Adapter, arguments: dict[str, Any]) -> Any:
    """Return the base, with the embeddings that the adapter brings where it has tokens of its own."""
    try:
        place = locate(name)
    except BaseError as error:
        raise BaseError(
            f"{error} Or load the base yourself and call PeftModel.from_pretrained(base, folder)."
        ) from error
    with quiet():
        model, info = auto.from_pretrained(str(place.folder), **{**arguments, "output_loading_info": True})
    output = model.get_output_embeddings()
    drawn = sorted(info["missing_keys"]) if output is not None else []  # a classifier may be the adapter's
    if drawn:
        raise BaseError(
            f"Loading base {name!r} as a {type(model).__name__}: its checkpoint lacks {', '.join(map(repr, drawn[:3]))}"
            ", which transformers drew at random, expected a language model. Give one that was saved as such."
        )
    take_vocabulary(adapter, model)
    place.name_model(model)  # what an adapter trained on it is saved with
    return model


def _label_arguments(adapter: Adapter, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the labels the adapter's head was trained with, for the base's config; PEFT makes the user give them."""
    if {"config", "num_labels", "id2label"} & arguments.keys():
        return {}
    labels = adapter.record.get("labels")
    if labels:
        return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    last = next((adapter.head[key] for key in _LAST_LAYERS if key in adapter.head), None)
    return {} if last is None else {"num_labels": last.shape[0]}


class _Auto:
    """What the Auto classes share; they are never instantiated."""

    auto: Any
    task: TaskType

    def __init__(self) -> None:
        raise SettingsError(f"{type(self).__name__} is not made by calling it. Use its from_pretrained(folder).")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: IA3Config | None = None,
        revision: str | None = None,
        *,
        subfolder: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return the base of an adapter with the adapter on it.

        Args:
            pretrained_model_name_or_path: Folder of the adapter, ours or PEFT's, or an id on the hub.
            adapter_name: The name it gets.
            is_trainable: Whether to train it on; else it is frozen and the model is in eval mode.
            config: Used in place of the saved one.
            revision: Of the adapter on the hub; that of the base stands in the adapter's config.
            subfolder: Folder inside it.
            kwargs: For transformers' `from_pretrained` of the base: dtype, device_map, num_labels, …

        Raises:
            AdapterError: If there is no adapter, it is broken, or it does not fit its base.
            BaseError: If the base cannot be found.
            SettingsError: If the adapter is for another task.
        """
        place = pretrained_model_name_or_path
        return _load(cls.auto, cls.task, place, adapter_name, is_trainable, config, subfolder, revision, kwargs)


class AutoPeftModelForSeq2SeqLM(_Auto):
    """An adapter of an encoder-decoder with its base."""

    auto = AutoModelForSeq2SeqLM
    task = TaskType.SEQ_2_SEQ_LM


class AutoPeftModelForCausalLM(_Auto):
    """An adapter of a causal language model with its base."""

    auto = AutoModelForCausalLM
    task = TaskType.CAUSAL_LM


class AutoPeftModelForSequenceClassification(_Auto):
    """An adapter of a classifier with its base; the labels are those of the adapter."""

    auto = AutoModelForSequenceClassification
    task = TaskType.SEQ_CLS


_AUTO_CLASSES: tuple[type[_Auto], ...] = (
    AutoPeftModelForSeq2SeqLM,
    AutoPeftModelForCausalLM,
    AutoPeftModelForSequenceClassification,
)
