"""PEFT's model: a transformers model with a bank on it and PEFT's methods.

`get_peft_model` does not wrap the model. It puts a bank on it and changes its class to one made of `PeftModel` and the
class it had (as torch's parametrizations do), so that it is both a `PeftModel` and, say, a `BertForSequence…`:
transformers' Trainer keeps the columns, saves and reloads without knowing of this package.

How its adapters lie in the bank is `rows`' matter, how they are read and written `storage`'s.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ia3.adapters.folder import load_adapter
from ia3.adapters.places import find_folder
from ia3.bases.revisions import address_of, is_at_another, revision_of
from ia3.core.attach import attach_bank, attachment_of
from ia3.core.bank import Bank
from ia3.core.merge import merge
from ia3.core.sites import Plan
from ia3.core.weights import refuse_training_apart
from ia3.errors import AdapterError, BankError, SettingsError, near_matches
from ia3.peft import rows
from ia3.peft.arguments import refuse_narrow, refuse_other_task, refuse_saving, refuse_unknown, warn_of_drawn
from ia3.peft.config import PEFT_TYPE, IA3Config, PeftConfig, adapter_config, config_of
from ia3.peft.storage import plan_for, save_adapters
from ia3.peft.targets import covers, select

# What lies on a model beside its bank, in its `__dict__`.
_OWN_ATTRIBUTES = ("peft_config", "_ia3_partial")


def get_peft_model(
    model: nn.Module,
    peft_config: PeftConfig,
    adapter_name: str = "default",
    mixed: bool = False,
    autocast_adapter_dtype: bool = True,
    revision: str | None = None,
    low_cpu_mem_usage: bool = False,
) -> Any:
    """Put a new adapter on a model, freeze the base, and return the model as a `PeftModel`.

    Args:
        model: A transformers model; it is changed in place and returned.
        peft_config: An `IA3Config`. It is not changed; `model.peft_config` holds a copy that is filled in.
        adapter_name: Name of the adapter.
        mixed: Must be false: there is one kind of adapter.
        autocast_adapter_dtype: Must be true: vectors are fp32 whatever the base's dtype.
        revision: Revision of the base on the hub, to be noted in the config; left out, the config's, else the one
            that `ia3.load_base` has loaded.
        low_cpu_mem_usage: Without effect; a row takes no time to make.

    Raises:
        SettingsError: If an argument is not what it must be.
        PlanError: If the targets do not fit the model; see `select`.
        BankError: If the model has a bank already.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        >>> model = get_peft_model(BertForSequenceClassification(config), IA3Config(task_type="SEQ_CLS"))
        >>> model.print_trainable_parameters()
        trainable params: 50 || all params: 249,044 || trainable%: 0.0201
    """
    if mixed:
        raise SettingsError("Making a PeftModel: mixed is true, expected false: every adapter is an (IA)³ adapter.")
    refuse_narrow(autocast_adapter_dtype)
    selection = select(model, peft_config)
    if not selection.config.inference_mode:
        refuse_training_apart(model)
    wanted = revision or selection.config.revision
    if is_at_another({"name": selection.config.base_model_name_or_path, "revision": wanted}, model):
        raise SettingsError(
            f"Making a PeftModel: revision is {wanted!r}, the model was loaded from {address_of(model)!r}. Leave the "
            "revision out, or load the base at that one."
        )
    selection.config.revision = wanted or revision_of(model)
    _warn_of_other_base(peft_config, selection.config)
    warn_of_drawn(model, selection.heads)
    made = _attach_empty(model, selection.plan, selection.heads)
    try:
        rows.add(made, adapter_name, selection)
    except BankError:
        made.unload()
        raise
    made.set_adapter(adapter_name, inference_mode=selection.config.inference_mode)
    return made


def _warn_of_other_base(given: PeftConfig, filled: IA3Config) -> None:
    old, new = given.base_model_name_or_path, filled.base_model_name_or_path
    if old is not None and old != new:
        warnings.warn(
            f"The PEFT config's base_model_name_or_path was {old!r}; the model is {new!r}, and that is what will be "
            "saved with the adapter.",
            stacklevel=3,
        )


def _attach_empty(model: Any, plan: Plan, heads: Sequence[str]) -> Any:
    """Put an empty bank on a model and give it PEFT's methods."""
    is_double = next(model.parameters()).dtype == torch.float64
    attach_bank(model, Bank(plan, dtype=torch.float64 if is_double else torch.float32), heads=heads, save=save_adapters)
    own = vars(model)
    own.pop("save_pretrained", None)  # the class's takes its place: it knows PEFT's arguments
    own["peft_config"], own["_ia3_partial"] = {}, set()
    plain: Any = type(model)
    model.__class__ = _with_methods(plain)
    return model


@functools.cache
def _with_methods(plain: Any) -> Any:
    """Return the class of a model with PEFT's methods before its own; it keeps its name, which transformers reads."""
    names = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    return type(plain.__name__, (PeftModel, plain), {**names, "_ia3_plain_class": plain})


def _without_methods(model: Any) -> Any:
    """Give a model that has no bank any more its own class back."""
    model.__class__ = model._ia3_plain_class
    for name in _OWN_ATTRIBUTES:
        vars(model).pop(name, None)
    return model


class PeftModel(nn.Module):
    """A transformers model with adapters and PEFT's methods; made by `get_peft_model` or `PeftModel.from_pretrained`.

    `model(…, adapter_names=[…])` and `model.generate(…, adapter_names=[…])` take a name for each input: each goes
    through its own adapter, `__base__` through none. Beams and returned sequences follow their input.

    Attributes:
        peft_config: The config of each adapter, by name.
    """

    peft_config: dict[str, IA3Config]
    peft_type = PEFT_TYPE
    # transformers asks for it before it lets Trainer train on a quantised base
    _hf_peft_config_loaded = True

    @classmethod
    def from_pretrained(
        cls,
        model: nn.Module,
        model_id: str | Path,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: IA3Config | None = None,
        autocast_adapter_dtype: bool = True,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Put a saved adapter on a model and return the model as a `PeftModel`.

        Args:
            model: The base; it is changed in place and returned.
            model_id: Folder of an adapter, ours or PEFT's, or an id on the hub.
            adapter_name: The name it gets.
            is_trainable: Whether to train it on; else it is frozen and the model is in eval mode.
            config: Used in place of the saved one.
            autocast_adapter_dtype: Must be true; see `get_peft_model`.
            subfolder: Folder inside `model_id`.
            revision: Of `model_id` on the hub; not of the base.
            kwargs: PEFT's arguments about where and how tensors are loaded (`device_map`, `torch_dtype`, …), which have
                no effect: vectors are fp32 and lie where the model does.

        Raises:
            AdapterError: If there is no adapter, it is broken, or it is one of another base.
            BankError: If the model has a bank already.
            SettingsError: For an unknown argument, or an adapter that is for another task than the model.
        """
        refuse_narrow(autocast_adapter_dtype)
        refuse_unknown(kwargs, model_id)
        adapter = load_adapter(find_folder(model_id, revision=revision, subfolder=subfolder), model)
        refuse_other_task(adapter.config if config is None else adapter_config(config), model, model_id)
        if config is None:
            plan, own = plan_for(adapter, model), config_of(adapter.config)
        else:
            selection = select(model, config)
            plan, own = selection.plan, selection.config
        made = _attach_empty(model, plan, adapter.head_modules)
        try:
            rows.put_on(made, adapter_name, adapter, own, trainable=is_trainable)
        except (AdapterError, BankError):
            made.unload()
            raise
        attachment_of(made).activate(adapter_name)
        return made if is_trainable else made.eval()

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse to generate: a language model's own `generate`, which knows `adapter_names`, stands before this one.

        Raises:
            SettingsError: Always.
        """
        raise SettingsError(f"Generating: {type(self).__name__} is no language model. Load the base as one.")

    def get_base_model(self) -> Any:
        """Return the transformers model; with the bank on it, as PEFT's has its layers in it."""
        return self

    @property
    def active_adapter(self) -> str | None:
        """Name of the adapter that is used where none is named, or None if the last one was deleted."""
        attachment = attachment_of(self)
        return next((name for name, row in attachment.bank.snapshot.rows.items() if row == attachment.active), None)

    @property
    def active_adapters(self) -> list[str]:
        """The active adapter in a list."""
        return [] if self.active_adapter is None else [self.active_adapter]

    @property
    def active_peft_config(self) -> IA3Config:
        """Config of the active adapter."""
        return self.peft_config[self._known(self.active_adapter)]

    @property
    def modules_to_save(self) -> set[str] | None:
        """Names of the modules that the adapters train and save whole."""
        return {name for config in self.peft_config.values() for name in config.modules_to_save or ()} or None

    def add_adapter(self, adapter_name: str, peft_config: PeftConfig, low_cpu_mem_usage: bool = False) -> None:
        """Add a new adapter; it is neither active nor trained before `set_adapter`.

        Raises:
            BankError: If the name is taken, or the config's targets are not those of the adapters on this model.
            PlanError: If the targets do not fit the model.
        """
        selection = select(self, peft_config)
        plan = attachment_of(self).bank.plan
        if not covers(selection.plan.sites, plan):
            raise rows.other_plan(f"Adding adapter {adapter_name!r}", self)
        rows.add(self, adapter_name, selection)

    def load_adapter(
        self,
        model_id: str | Path,
        adapter_name: str,
        is_trainable: bool = False,
        torch_device: str | None = None,
        autocast_adapter_dtype: bool = True,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Load a saved adapter beside those on the model, or over the one of this name; it does not become active.

        An adapter whose vectors are a part of the model's plan is loaded as well, ones in the rest, but cannot be
        trained here.

        Args:
            model_id: Folder of an adapter, ours or PEFT's, or an id on the hub.
            adapter_name: The name it gets.
            is_trainable: Whether it requires gradients; else the model goes into eval mode.
            torch_device: Without effect; vectors lie where the model does.
            autocast_adapter_dtype: Must be true; see `get_peft_model`.
            subfolder: Folder inside `model_id`.
            revision: Of `model_id` on the hub; not of the base.
            kwargs: As for `from_pretrained`.

        Raises:
            AdapterError: If there is no adapter of this base, or the model's plan has no place for its vectors.
            BankError: If it shall be trained and its targets are only a part of the plan.
            SettingsError: For an unknown argument, or an adapter that is for another task than the model.
        """
        refuse_narrow(autocast_adapter_dtype)
        refuse_unknown(kwargs, model_id)
        adapter = load_adapter(find_folder(model_id, revision=revision, subfolder=subfolder), self)
        refuse_other_task(adapter.config, self, model_id)
        if adapter_name in self.peft_config:
            rows.overwrite(self, adapter_name, adapter)
        else:
            rows.put_on(self, adapter_name, adapter, config_of(adapter.config), trainable=is_trainable)
        if not is_trainable:
            self.eval()

    def set_adapter(self, adapter_name: str, inference_mode: bool = False) -> None:
        """Make an adapter the active one, and the only one that is trained (none with `inference_mode`)."""
        attachment_of(self).activate(self._known(adapter_name))
        for name in self.peft_config:
            rows.set_grad(self, name, name == adapter_name and not inference_mode)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        """Freeze or unfreeze adapters."""
        for name in [adapter_names] if isinstance(adapter_names, str) else adapter_names:
            rows.set_grad(self, self._known(name), requires_grad)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter; if it was active, the first of the others becomes active, with a warning."""
        attachment = attachment_of(self)
        was_active = self._known(adapter_name) == self.active_adapter
        attachment.bank.remove(adapter_name)
        del self.peft_config[adapter_name]
        vars(self)["_ia3_partial"].discard(adapter_name)
        if was_active:
            attachment.active = None
        if was_active and self.peft_config:
            following = next(iter(self.peft_config))
            warnings.warn(f"Adapter {adapter_name!r} was active; {following!r} is now.", stacklevel=2)
            attachment.activate(following)

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Use the base alone inside this scope, in this thread."""
        with attachment_of(self).disabled():
            yield

    def save_pretrained(
        self,
        save_directory: str | Path,
        safe_serialization: bool = True,
        selected_adapters: Sequence[str] | None = None,
        save_embedding_layers: str | bool = "auto",
        is_main_process: bool = True,
        path_initial_model_for_weight_conversion: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the adapters in PEFT's format: `default` into the folder, each other one into a folder of its name.

        Args:
            save_directory: Made if it is not there.
            safe_serialization: Must be true: pickled files run code when they are loaded.
            selected_adapters: Those to write; all by default.
            save_embedding_layers: Must not be true: embeddings are trained and saved if `modules_to_save` names them.
            is_main_process: Nothing is written if false.
            path_initial_model_for_weight_conversion: Must be None: it is for LoRA.
            kwargs: `state_dict` (Trainer's) adds the file from which it resumes; `push_to_hub` must be false.

        Raises:
            AdapterError: If the folder cannot be written, or an argument is unknown.
            BankError: For an unknown name.
            SettingsError: If an argument is not what it must be.
        """
        refuse_saving(safe_serialization, save_embedding_layers, path_initial_model_for_weight_conversion)
        chosen = (selected_adapters,) if isinstance(selected_adapters, str) else selected_adapters
        names = None if chosen is None else list(map(self._known, chosen))
        options = {**kwargs, "selected_adapters": names, "is_main_process": is_main_process}
        save_adapters(attachment_of(self), save_directory, options)

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        """Return (numbers that are trained, all numbers): base, vectors and heads, tied ones counted once."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in self.parameters()]
        return sum(size for size, is_trained in sizes if is_trained), sum(size for size, _ in sizes)

    def print_trainable_parameters(self) -> None:
        """Print the counts in PEFT's words."""
        trained, everything = self.get_nb_trainable_parameters()
        share = 100 * trained / everything
        print(f"trainable params: {trained:,d} || all params: {everything:,d} || trainable%: {share:.4f}")

    def merge_and_unload(
        self, progressbar: bool = False, safe_merge: bool = False, adapter_names: Sequence[str] | None = None
    ) -> Any:
        """Return a new plain transformers model with an adapter multiplied into its weights; this one stays as it is.

        Args:
            progressbar: Without effect.
            safe_merge: Whether to look for weights that are not finite.
            adapter_names: The one to merge; the active one by default.

        Raises:
            BankError: If the base is quantised, several adapters are given, or (`safe_merge`) a weight is not finite.
        """
        names = self.active_adapters if adapter_names is None else list(adapter_names)
        if len(names) != 1:
            raise BankError(f"Merging: got the adapters {names}, expected one. Give adapter_names=['…'].")
        attachment = attachment_of(self)
        merged = _without_methods(merge(attachment, self._known(names[0])))
        if safe_merge:
            for module in {site.module for site in attachment.bank.plan.sites}:
                if not all(torch.isfinite(p).all() for p in merged.get_submodule(module).parameters()):
                    raise BankError(f"Merging adapter {names[0]!r}: a weight of {module!r} would not be finite.")
        return merged

    def unload(self) -> Any:
        """Take the adapters off and return the model as it was, the same object."""
        attachment_of(self).detach()
        return _without_methods(self)

    def _known(self, name: str | None) -> str:
        if not isinstance(name, str) or name not in self.peft_config:
            raise BankError(
                f"Looking up adapter {name!r}: this model has none of this name."
                f"{near_matches(str(name), self.peft_config)}"
            )
        return name
