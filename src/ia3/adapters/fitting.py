"""An adapter against a model: does it fit, which plan does a fresh model get, and the modules of its head.

Only names and sizes are compared here; whether the base is the one the adapter was trained on is `identity`'s matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ia3.adapters.adapter import Adapter
from ia3.adapters.config import TASK_TYPES, AdapterConfig, kind_of_model
from ia3.adapters.layout import Place
from ia3.adapters.targets import is_target, spell_targets
from ia3.adapters.vocabulary import is_shared_vocabulary, vocabulary_fault
from ia3.bases.heads import drawn_weights
from ia3.bases.heads import find_heads as find_drawn
from ia3.bases.pooling import pooling_of
from ia3.core.attach import BANK_MODULE
from ia3.core.discovery import find_plan
from ia3.core.heads import Head, copy_head
from ia3.core.projections import is_transposed, model_type_of, projection_sizes
from ia3.core.sites import Plan
from ia3.core.weights import Weights, own_name
from ia3.errors import AdapterError, PlanError, near_matches
from ia3.names import CONFIG_FILE
from ia3.spelling import first_of


def plan_of(adapter: Adapter, model: nn.Module) -> Plan:
    """Return the plan a fresh model gets for an adapter: the model's default plan if the adapter fits it, else its own.

    With the default plan many adapters share one bank; with its own, an adapter of odd targets (queries, all linear
    modules) keeps every vector.

    Raises:
        AdapterError: If the model has not the modules, or has them in another size.
    """
    check_sites(adapter, model, "Planning for an adapter")
    try:
        plan = find_plan(model)
        adapter.row(plan)
    except (PlanError, AdapterError):
        return Plan(adapter.sites, model_type_of(model), "adapter")
    return plan


def check_sites(adapter: Adapter, model: nn.Module, doing: str) -> None:
    """Raise if the vectors of an adapter do not fit a model; see `check_fit`."""
    check_fit({(site.module, site.side): site.features for site in adapter.sites}, adapter.config, model, doing)


def check_fit(features: Mapping[Place, int], config: AdapterConfig, model: nn.Module, doing: str) -> None:
    """Raise if vectors do not fit a model, naming each (the first five).

    Args:
        features: Number of channels of each place that has a vector.
        config: Names the base for the error.
        model: The model, with or without a bank.
        doing: Beginning of the error.

    Raises:
        AdapterError: For a module that is not there, or of another width.
    """
    sizes = _linear_sizes(model)
    missing = [module for module, _ in features if module not in sizes]
    hints = {module: near_matches(module, sizes) for module in missing[:_SHOWN]}
    near = {module: hint for module, hint in hints.items() if hint.startswith(" Did you mean")}
    # of another kind of base nothing is near: what is there instead is told once
    told = near or {module: hints[module] for module in missing[:1]}
    faults = [f"vector {module!r} has no linear module here.{told.get(module, '')}".rstrip(".") for module in missing]
    for (module, side), width in features.items():
        needed = sizes[module][side == "output"] if module in sizes else width
        if needed != width:
            faults.append(f"vector {module!r} has width {width}, this base needs {needed}")
    _raise_foreign(doing, faults, config)


def check_targets(places: Iterable[Place], config: AdapterConfig, model: nn.Module, doing: str) -> None:
    """Raise if a module that the config targets has no vector: the model is larger than the adapter's base.

    Args:
        places: Those that have a vector, as PEFT holds them.
        config: Its names.
        model: The model, with or without a bank.
        doing: Beginning of the error.

    Raises:
        AdapterError: Naming the modules (the first five).
    """
    given = {module for module, _ in places}
    bare = [path for path in _linear_sizes(model) if path not in given and is_target(config, path)]
    _raise_foreign(doing, [f"{path!r} is among the targets and has no vector" for path in bare], config)


def _linear_sizes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of every linear module by its path."""
    sizes = {path: projection_sizes(module) for path, module in named_modules(model).items()}
    return {path: size for path, size in sizes.items() if size is not None}


def _raise_foreign(doing: str, faults: Sequence[str], config: AdapterConfig) -> None:
    if faults:
        raise AdapterError(
            f"{doing}: {first_of(faults, _SHOWN, mark='; ')}. The adapter was trained on another base: {config.base}. "
            "Load it on that one, or train again."
        )


_SHOWN = 5


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return every module by its path, the bank and what FSDP1 puts around others left out."""
    return {
        path: module
        for path, module in ((own_name(path), module) for path, module in model.named_modules())
        if path and path != BANK_MODULE and not path.startswith(f"{BANK_MODULE}.")
    }


def config_for(
    model: nn.Module, base: Mapping[str, Any], places: Iterable[Place], heads: Sequence[str]
) -> AdapterConfig:
    """Return the config by which PEFT finds vectors and heads in a model.

    Args:
        model: The model, with or without a bank.
        base: What the adapter's record says of it.
        places: Where PEFT holds the vectors.
        heads: Paths of the modules that are saved whole.
    """
    modules, sides = named_modules(model), dict.fromkeys(places)
    outputs, inputs = ([module for module, side in sides if side == wanted] for wanted in ("output", "input"))
    targets, feedforward = spell_targets(list(modules), outputs, inputs)
    kind = kind_of_model(model)
    return AdapterConfig(
        auto_mapping=None if kind else auto_mapping(model),
        base_model_name_or_path=base.get("name"),
        fan_in_fan_out=any(is_transposed(modules[module]) for module, _ in sides),
        feedforward_modules=feedforward,
        modules_to_save=tuple(heads) or None,
        revision=base.get("revision"),
        target_modules=targets,
        task_type=TASK_TYPES[kind] if kind else None,
    )


def auto_mapping(model: nn.Module) -> dict[str, str]:
    """Return how PEFT names the class of a model whose task it does not know."""
    return {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}


def head_modules_of(names: Iterable[str], saved: Sequence[str] | None) -> tuple[str, ...]:
    """Return the paths of the modules that a head's tensors belong to.

    Args:
        names: Full names of tensors, such as `classifier.dense.weight`.
        saved: `modules_to_save` of the config; a module is the shortest part of a path that ends in one of them.

    Example:
        >>> head_modules_of(["classifier.dense.weight", "score.weight"], ["classifier"])
        ('classifier', 'score')
    """
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")[:-1]
        parents = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
        named = [path for path in parents if any(path.endswith(end) for end in saved or ())]
        found[named[0] if named else ".".join(parts)] = None
    return tuple(found)


def build_head(adapter: Adapter, model: nn.Module, doing: str) -> Head | None:
    """Return the adapter's head as modules: copies of the model's with the adapter's numbers, or None without a head.

    A last linear layer may have another number of outputs than the model's: another set of labels. A module that has a
    vector and is saved whole all the same (PEFT does so with a scaled output layer) is no head if it is the base's own;
    nor are embeddings that PEFT has saved beside the vectors.

    Raises:
        AdapterError: If the model has no such module, a tensor is missing, unknown or of another shape, or a module
            with a vector is not the base's own; and for embeddings of other tokens than the model's.
    """
    modules = {path: _module_at(model, path) for path in adapter.head_modules}  # not all: walking takes longer
    unknown = [path for path, module in modules.items() if module is None]
    faults = [f"the model has no module {path!r}.{near_matches(path, named_modules(model))}" for path in unknown]
    own = [path for path, module in modules.items() if module and _is_the_bases_own(adapter, model, path)]
    if alien := vocabulary_fault(adapter, model):
        raise AdapterError(f"{doing}: {alien}.")
    paths = [] if faults else [path for path in modules if path not in own]
    faults += [f"{path!r} is a head and holds a vector" for path in paths if _holds_site(adapter, path)]
    if not faults and paths:
        head = copy_head(model, paths)
        labels = getattr(getattr(model, "config", None), "num_labels", None)
        for path, part in zip(head.paths, head.parts, strict=True):
            faults += _fill(part, path, _tensors_of(adapter, path), labels)
    pooling = pooling_of(getattr(model, "config", None))
    if unknown and adapter.pooling != pooling:
        raise AdapterError(
            f"{doing}: its head reads another place of the base ({adapter.pooling}) than this model's ({pooling}). "
            f"Load the base so: ia3.load_base(…, pooling={adapter.pooling!r}), or let ia3.load(folder) load it."
        )
    if faults:
        raise AdapterError(
            f"{doing}: {'; '.join(faults[:5])}. The head belongs to another class of model or another base: "
            f"{adapter.config.base_model_name_or_path or 'unnamed'} ({CONFIG_FILE}). Load it on that one."
        )
    return head if paths else None


def check_brought(model: nn.Module, brought: Sequence[str], doing: str, drawn: Sequence[str] = ()) -> None:
    """Raise if a model has a head that was drawn at random and that an adapter does not bring.

    Only a training may begin with random numbers; whoever answers with them answers nothing.

    Args:
        model: The base, with or without a bank.
        brought: Paths of the modules that the adapter brings.
        doing: Beginning of the error.
        drawn: Modules that are known to be drawn, beside those that the model shows.

    Raises:
        AdapterError: Naming the modules.
    """
    known = {name for name, _ in model.named_parameters() if name.startswith(_inside(drawn))}
    lacking = sorted(name for name in known | drawn_weights(model) if not name.startswith(_inside(brought)))
    if lacking:
        names = ", ".join(map(repr, find_drawn(model, lacking)))
        raise AdapterError(
            f"{doing}: neither the adapter nor the checkpoint of its base has {names}, so that its numbers were drawn "
            "at random, expected trained ones. Give the base that has them (for the same labels), or train an adapter "
            "that brings them: ia3 train does, PEFT with modules_to_save (for task_type SEQ_CLS by itself)."
        )


def _inside(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{path}." for path in paths)


def _module_at(model: nn.Module, path: str) -> nn.Module | None:
    """Return the module at a path, or None; the bank is no module of the model."""
    if not path or f"{path}.".startswith(f"{BANK_MODULE}."):
        return None
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _tensors_of(adapter: Adapter, path: str) -> dict[str, Tensor]:
    """Return the tensors of one head by their name inside it."""
    return {name.removeprefix(f"{path}."): t for name, t in adapter.head.items() if name.startswith(f"{path}.")}


def _holds_site(adapter: Adapter, path: str) -> bool:
    return any(site.module == path or site.module.startswith(f"{path}.") for site in adapter.sites)


def _is_the_bases_own(adapter: Adapter, model: nn.Module, path: str) -> bool:
    """Whether a module with a vector, or embeddings that PEFT saved unasked, have the base's own numbers."""
    if not _holds_site(adapter, path):
        return is_shared_vocabulary(adapter, model, path, _tensors_of(adapter, path))
    own = Weights(model).tensors_of(path, f"Comparing {path!r} with the base's own")
    tensors = {f"{path}.{name}": tensor for name, tensor in _tensors_of(adapter, path).items()}
    return all(n in own and torch.equal(own[n].cpu(), t.to(own[n].dtype)) for n, t in tensors.items())


def _fill(part: nn.Module, path: str, tensors: Mapping[str, Tensor], labels: int | None) -> list[str]:
    """Give a module its numbers, in the dtype they have; return what does not fit.

    Args:
        part: The module.
        path: Its path in the base.
        tensors: Its tensors by their name in it.
        labels: Number of the model's labels; a linear layer with that many outputs may get another number.
    """
    expected = part.state_dict()
    if set(expected) != set(tensors):
        odd = sorted(set(expected) ^ set(tensors))
        return [f"head {path!r} differs in the tensors {', '.join(map(repr, odd[:3]))}"]
    faults: list[str] = []
    owners: list[Any] = []
    for name, tensor in tensors.items():
        owner_path, _, attribute = name.rpartition(".")
        owner: Any = part.get_submodule(owner_path)
        is_last = isinstance(owner, nn.Linear) and owner.out_features == labels
        if tensor.shape[is_last:] != expected[name].shape[is_last:] or tensor.dim() != expected[name].dim():
            faults.append(f"{path}.{name} has shape {tuple(tensor.shape)}, needs {tuple(expected[name].shape)}")
            continue
        held = getattr(owner, attribute)
        held.data = tensor.detach().clone().to(held.device)
        owners.append(owner)
    for owner in owners:
        if isinstance(owner, nn.Linear):
            owner.out_features = int(owner.weight.shape[0])
    return faults
