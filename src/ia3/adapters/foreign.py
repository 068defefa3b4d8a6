"""Adapters of other libraries: their vectors as they stand in the file, and fitting them to a model.

`t_few` and `adapter_hub` read files into a `ForeignAdapter`; here its vectors find their modules in a model, and it
becomes an `Adapter`. Files are read without running anything in them: tensors and plain containers, or a refusal.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ia3.adapters.adapter import Adapter
from ia3.adapters.config import kind_of_model
from ia3.adapters.fitting import build_head, config_for, head_modules_of, named_modules, plan_of
from ia3.adapters.layout import Place
from ia3.adapters.peft_format import peft_places, whole_sites
from ia3.adapters.record import describe_base, versions
from ia3.core.projections import projection_sizes
from ia3.core.weights import Weights, has_weights
from ia3.errors import AdapterError, near_matches
from ia3.spelling import first_of


@dataclass(frozen=True, eq=False)
class ForeignAdapter:
    """What a file of another library holds.

    Attributes:
        source: The file or folder, for errors and the record.
        library: Whose format it is, for the record.
        vectors: By place, each of shape (channels,), fp32; a module's path may have another beginning than the base's.
        fused: Names of projections that are [query | key | value], of which a vector may cover some thirds only.
        thirds: Which thirds those are, such as `(1, 2)`.
        is_partial: Whether layers may have been left out on purpose.
        head: Tensors of the head by their name in transformers' class.
        labels: In the order of the head's outputs, if the file says them.
        base_name: What the file calls the base.
    """

    source: str
    library: str
    vectors: Mapping[Place, Tensor]
    fused: tuple[str, ...] = ()
    thirds: tuple[int, ...] = ()
    is_partial: bool = False
    head: Mapping[str, Tensor] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    base_name: str | None = None


def fit_foreign(
    foreign: ForeignAdapter, model: nn.Module, *, base_name: str | None = None, head_modules: Sequence[str] = ()
) -> Adapter:
    """Return a foreign adapter as one of ours, on the sites of the model's own plan where that can express it.

    Args:
        foreign: What was read.
        model: The base, not changed. On the meta device sizes are checked all the same, and no fingerprint is recorded.
        base_name: What the record calls the base; left out, what the model was loaded from.
        head_modules: Modules that the base's checkpoint does not have.

    Raises:
        AdapterError: If a vector finds no module of its size here, a module like the others has none, or the head does
            not fit.
    """
    doing = f"Importing {foreign.source}"
    modules = named_modules(model)
    placed = _placed(foreign, modules, doing)
    if not foreign.is_partial:
        _check_whole(placed, modules, doing)
    head = _own_head(foreign, modules, doing) if kind_of_model(model) == "encoder" else _no_head(foreign, model, doing)
    base = describe_model(model, base_name or foreign.base_name, head_modules)
    record = {
        "base": base,
        **({"labels": list(foreign.labels)} if foreign.labels else {}),
        "imported": {"library": foreign.library, "file": Path(foreign.source).name},
        "versions": versions(),
    }
    paths = head_modules_of(head, sorted({name.split(".")[0] for name in head}))
    bare = Adapter(whole_sites(placed), _by_site(placed), head, paths, record=record)
    plan = plan_of(bare, model)
    row = bare.row(plan)
    vectors = {site.name: row[span].clone() for site, span in plan.spans()}
    adapter = replace(bare, sites=plan.sites, vectors=vectors)
    adapter = replace(adapter, config=config_for(model, base, peft_places(plan.sites).values(), paths))
    build_head(adapter, model, doing)
    return adapter


def read_tensor_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or of a pickled state dict, by name; nothing in it is run.

    Raises:
        AdapterError: If it cannot be read, is damaged, or holds anything but tensors by name.
    """
    doing = f"Importing {path}"
    try:
        loaded: Any = _load(path)
    except OSError as error:
        raise AdapterError(f"{doing}: it cannot be read ({error.strerror or error}). Check the path.") from error
    except pickle.UnpicklingError as error:
        raise AdapterError(
            f"{doing}: it holds Python objects beside tensors, which are not loaded since that could run any code"
            f"{_named_global(str(error))}. Save the tensors alone: torch.save(model.state_dict(), …)."
        ) from error
    except Exception as error:  # torch and safetensors raise many kinds for a broken file
        told = " ".join(str(error).partition("\n")[0].split())[:200]
        raise AdapterError(
            f"{doing}: it is no file of tensors, or is cut off ({type(error).__name__}: {told}). Copy it again."
        ) from error
    if not isinstance(loaded, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in loaded.items()
    ):
        raise AdapterError(
            f"{doing}: it holds {_what_is(loaded)}, expected tensors by name. Save the state dict alone."
        )
    odd = [key for key, tensor in loaded.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]
    if odd:
        raise AdapterError(f"{doing}: {odd[0]!r} holds numbers that are not finite. Take another checkpoint.")
    return dict(loaded)


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickle's protocol
        return torch.load(path, map_location="cpu", weights_only=True)


def _named_global(message: str) -> str:
    """Return what torch refused to load, as a clause."""
    found = re.search(r"GLOBAL ([\w.]+)", message)
    return f" ({found[1]})" if found else ""


def _what_is(loaded: Any) -> str:
    if not isinstance(loaded, Mapping):
        return f"a {type(loaded).__name__}"
    key, value = next((k, v) for k, v in loaded.items() if not isinstance(k, str) or not isinstance(v, Tensor))
    return f"a {type(value).__name__} under {key!r}"


def _placed(foreign: ForeignAdapter, modules: Mapping[str, nn.Module], doing: str) -> dict[Place, Tensor]:
    """Return the vectors by their place in the model, each over all channels of its side."""
    sizes = {path: size for path, module in modules.items() if (size := projection_sizes(module)) is not None}
    placed: dict[Place, Tensor] = {}
    faults = []
    for (key, side), vector in foreign.vectors.items():
        found = [path for path in sizes if path == key] or [
            path for path in sizes if path.endswith(f".{key}") or key.endswith(f".{path}")
        ]
        if len(found) != 1:
            faults.append(f"vector {key!r} has no linear module here.{near_matches(key, sizes)}")
            continue
        width = sizes[found[0]][side == "output"]
        is_fused = found[0].rpartition(".")[2] in foreign.fused
        whole = _over_all_channels(vector, width, foreign.thirds if is_fused else ())
        if whole is None:
            faults.append(f"vector {key!r} has width {len(vector)}, this base needs {width}")
        elif (found[0], side) in placed:
            faults.append(f"vector {key!r} is a second one for {found[0]!r}")
        else:
            placed[found[0], side] = whole
    if faults:
        named = f" ({foreign.base_name})" if foreign.base_name else ""
        raise AdapterError(
            f"{doing}: {first_of((fault.removesuffix('.') for fault in faults), 3, mark='; ')}. It was trained on "
            f"another base{named}; give that one."
        )
    return placed


def _by_site(placed: Mapping[Place, Tensor]) -> dict[str, Tensor]:
    """Return the vectors of whole places by the names of their sites."""
    return {site.name: vector for site, vector in zip(whole_sites(placed), placed.values(), strict=True)}


def _over_all_channels(vector: Tensor, width: int, thirds: tuple[int, ...]) -> Tensor | None:
    """Return a vector over `width` channels, ones where it has none, or None if it cannot be."""
    if len(vector) == width:
        return vector
    if not thirds or width % 3 or len(vector) != width // 3 * len(thirds):
        return None
    whole = torch.ones(3, width // 3)
    whole[list(thirds)] = vector.view(len(thirds), -1)
    return whole.flatten()


def _check_whole(placed: Mapping[Place, Tensor], modules: Mapping[str, nn.Module], doing: str) -> None:
    """Raise if a module that is like one with a vector, in another layer, has none: the base has more layers."""

    def pattern(path: str) -> str:
        return re.sub(r"(?<=\.)\d+(?=\.)", "*", path)  # layer numbers, not wi_0 and wi_1

    wanted = {pattern(module) for module, _ in placed}
    given = {module for module, _ in placed}
    bare = [path for path in modules if pattern(path) in wanted and path not in given]
    if bare:
        raise AdapterError(
            f"{doing}: it has no vector for {bare[0]!r} and {len(bare) - 1} more modules that are like those it has "
            "one for, expected one in every layer. It was trained on a smaller base; give that one."
        )


def _own_head(foreign: ForeignAdapter, modules: Mapping[str, nn.Module], doing: str) -> dict[str, Tensor]:
    """Return the head of a classifier, whose modules must be there."""
    for name in foreign.head:
        if name.rpartition(".")[0] not in modules:
            raise AdapterError(
                f"{doing}: its head has {name!r}, and this base no module "
                f"{name.rpartition('.')[0]!r}.{near_matches(name.rpartition('.')[0], modules)} Leave the head out: "
                "with_head=False (--without-head)."
            )
    return dict(foreign.head)


def _no_head(foreign: ForeignAdapter, model: nn.Module, doing: str) -> dict[str, Tensor]:
    """Return no head: a language model's output matrix may be in the file, if it is the base's own."""
    for name, tensor in foreign.head.items():
        if not _is_own(model, name, tensor):
            raise AdapterError(
                f"{doing}: its head has {name!r}, which is not the base's own, and language models have no head of "
                "their own here. Leave the head out: with_head=False (--without-head)."
            )
    return {}


def _is_own(model: nn.Module, name: str, tensor: Tensor) -> bool:
    """Whether a tensor has the numbers of the base's own."""
    path, _, attribute = name.rpartition(".")
    try:
        own = getattr(model.get_submodule(path), attribute)
    except AttributeError:
        return False
    if not isinstance(own, Tensor) or own.shape != tensor.shape:
        return False
    numbers = Weights(model).of(name, own, "Comparing a head with the base's own")
    return torch.equal(numbers.cpu(), tensor.to(numbers.dtype))


def describe_model(model: nn.Module, name: str | None, head_modules: Sequence[str]) -> dict[str, Any]:
    """Return what a record says of a base, without a fingerprint where it has no weights."""
    if not has_weights(model):
        return {"name": name, "kind": kind_of_model(model), "class": type(model).__name__}
    return describe_base(model, name=name, head_modules=head_modules)
