"""Where the numbers of a model are: those that lie elsewhere are brought, and what cannot be brought is told.

| who holds them | what stands in the model |
|---|---|
| accelerate (`cpu_offload`, `disk_offload`, `device_map`) | a parameter on the meta device, between the passes |
| FSDP2, tensor parallel | a DTensor, of which each process has a part; to bring it all of them must ask |
| FSDP1 | a flat slice, or nothing, of which only a state dict can be made |
| ZeRO-3 of deepspeed | an empty parameter |
| torchao | a tensor of a class of its own, which stands for rounded numbers |

A state dict is asked of nothing but the bank: what writes one may change the weights it is of (bitsandbytes 0.50.2
rounds the scales of a 4-bit weight that has run on a processor with AVX512-BF16). This file knows modules and tensors.
"""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ia3.errors import BankError, BaseError

_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_fsdp_wrapped_module|_checkpoint_wrapped_module)(?:\.|$)")
_OF_ACCELERATE = ("_hf_hook", "_old_forward", "hf_device_map", "to", "cuda", "npu", "xpu", "mlu", "sdaa", "musa")


def own_name(name: str) -> str:
    """Return a name as it is in the model itself, without the modules that FSDP1 and checkpointing put around others.

    Example:
        >>> own_name("model.layers.0._fsdp_wrapped_module.mlp.up_proj.weight")
        'model.layers.0.mlp.up_proj.weight'
    """
    return _WRAPPERS.sub("", name).rstrip(".")


def is_in_parts(model: nn.Module) -> bool:
    """Whether each process has a part of the parameters, so that all of them must ask for the whole ones."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def is_stand_in(tensor: Any) -> bool:
    """Whether a tensor stands for numbers that were rounded otherwise, as torchao's do, and cannot be written."""
    is_wrapper: bool = is_traceable_wrapper_subclass(tensor)
    return is_wrapper and not hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor as a plain one: the parts of every process together, and the numbers that another stands for."""
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    if is_stand_in(tensor):
        tensor = tensor.dequantize()
    state = getattr(tensor, "quant_state", None)
    return _unpacked(tensor, state) if getattr(state, "packing_format_for_cpu", False) else tensor


def _unpacked(tensor: Tensor, state: Any) -> Tensor:
    """Return a 4-bit weight as bitsandbytes has it before it lays it out anew for a processor with AVX512-BF16."""
    held = copy.copy(state)  # what bitsandbytes does writes into it
    held.original_nested = False  # so its scales are not rounded again
    unpack = importlib.import_module("bitsandbytes.functional")._convert_weight_packed_for_cpu_inverse
    found: Tensor = unpack(tensor.data, held)[0]
    return found


def refuse_training_apart(model: nn.Module) -> None:
    """Raise if rows that are added now would be trained by each process on its own.

    Raises:
        BankError: If several processes share the model's weights.
    """
    refuse_tensor_parallel(model)
    count = _count_processes(model)
    if count > 1:
        raise BankError(
            f"Training an adapter on a model that {count} processes share: it was sharded before the adapter was "
            "put on it, and each process would train a row of its own. Attach first, then shard (fully_shard)."
        )


def refuse_tensor_parallel(model: nn.Module) -> None:
    """Raise if each process computes a part of the channels, for which a whole vector does not fit.

    Raises:
        BankError: If several processes share the weights, and not as FSDP does, which brings them together to compute.
    """
    count = _count_processes(model)
    if count == 1:
        return
    from torch.distributed.fsdp import FSDPModule  # takes a moment to import, and is there where it is used

    if not any(isinstance(module, FSDPModule) for module in model.modules()):
        raise BankError(
            f"Attaching a bank: {count} processes each compute a part of this model's channels (tensor parallel), "
            "expected whole ones, which a vector is for. Load the base without tp_plan; fully_shard can share it."
        )


def _count_processes(model: nn.Module) -> int:
    """Return how many processes have parts of the parameters."""
    shared: Any = next((p for p in model.parameters() if hasattr(p, "full_tensor")), None)
    return 1 if shared is None else int(shared.device_mesh.size())


def write(tensor: Tensor, values: Tensor) -> None:
    """Write values into a tensor in place; into this process's part where it has one."""
    if hasattr(tensor, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        place: Any = tensor
        values = distribute_tensor(values, place.device_mesh, place.placements)
    tensor.copy_(values)


def tensor_names(module: nn.Module) -> list[str]:
    """Return the names that a state dict has for a module's parameters and buffers, without making one."""
    return [
        f"{path}.{name}" if path else name
        for path, part in module.named_modules(remove_duplicate=False)
        for name, tensor in (*part._parameters.items(), *part._buffers.items())
        if tensor is not None and name not in part._non_persistent_buffers_set
    ]


class Weights:
    """The numbers of a model by the names of its parameters and buffers, brought when they are asked for.

    Args:
        model: The model; not changed.
        state: Whole numbers that are already there by their names, as a trainer gives them to `save_pretrained`.
    """

    def __init__(self, model: nn.Module, state: Mapping[str, Tensor] | None = None) -> None:
        self.model = model
        self._state = state or {}
        self._kept = dict(_kept_elsewhere(model))

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every parameter, each once, as it stands in the model; its numbers may be elsewhere."""
        for name, parameter in self.model.named_parameters():
            yield own_name(name), parameter

    def given(self, name: str) -> Tensor | None:
        """Return what the state has for a name, or None."""
        return self._state.get(name)

    def under(self, path: str, module: nn.Module) -> Weights:
        """Return the numbers of a module which the state has under another path than the model."""
        inner = {n.removeprefix(f"{path}."): t for n, t in self._state.items() if n.startswith(f"{path}.")}
        return Weights(module, inner)

    def of(self, name: str, tensor: Tensor, doing: str) -> Tensor:
        """Return the numbers of a parameter or buffer.

        Args:
            name: Its name in the model.
            tensor: What stands there.
            doing: Beginning of the error.

        Raises:
            BaseError: If they cannot be brought.
        """
        held = self._state.get(name)
        if held is None:
            held = self.elsewhere(name) if tensor.is_meta else tensor
        lack = "it lies on the meta device and nothing keeps its numbers" if held is None else None
        lack = lack or _lack(self.model, name, tensor if held is None else held)
        if held is None or lack:
            raise BaseError(f"{doing}: {name!r} is not there as a whole, {lack}.")
        return whole(held)

    def elsewhere(self, name: str) -> Tensor | None:
        """Return the numbers that accelerate keeps of a parameter or buffer, or None."""
        path = name
        while path:
            path = path.rpartition(".")[0]
            kept = self._kept.get(path)
            if kept is not None:
                try:
                    return kept[name.removeprefix(f"{path}.") if path else name]
                except KeyError:  # of a hook that keeps no submodules
                    continue
        return None

    def tensors_of(self, path: str, doing: str) -> dict[str, Tensor]:
        """Return the numbers of a module's parameters and buffers, by their full names.

        Raises:
            BaseError: If they cannot be brought, or stand for numbers that another program rounded.
        """
        module = self.model.get_submodule(path)
        found = {}
        for inner in tensor_names(module):
            held, name = _at(module, inner), own_name(f"{path}.{inner}" if path else inner)
            if _is_quantised(held):
                raise BaseError(
                    f"{doing}: {name!r} is quantised ({type(held).__name__}, {held.dtype}), and heads are saved "
                    "in floating point. Load the base with this module left out of the quantisation."
                )
            found[name] = self.of(name, held, doing)
        return found


def device_of(model: nn.Module) -> torch.device | None:
    """Return where a model computes: where its first parameter lies, or is brought; None for one without weights."""
    for module in model.modules():
        outer = module.__dict__.get("_hf_hook")
        for hook in (outer, *getattr(outer, "hooks", ())):
            if getattr(hook, "offload", False) and getattr(hook, "execution_device", None) is not None:
                return torch.device(hook.execution_device)
        for parameter in module.parameters(recurse=False):
            if not parameter.is_meta:
                return parameter.device
    return None


def input_device(model: nn.Module) -> torch.device:
    """Return where a model's inputs go, which is not where its first parameter lies if accelerate keeps that elsewhere.

    Raises:
        BaseError: If it has no weights to compute with.
    """
    device = device_of(model)
    if device is None:
        raise BaseError(
            "Running the model: its weights are on the meta device and nothing keeps their numbers, expected weights "
            "to compute with. Load it with from_pretrained, or ia3.load_base."
        )
    return device


def is_quantised(module: nn.Module) -> bool:
    """Whether a parameter of a module stands for numbers that another program has rounded."""
    return any(_is_quantised(parameter) for parameter in module.parameters())


def _is_quantised(held: Tensor) -> bool:
    return isinstance(held, nn.Parameter) and (not held.is_floating_point() or is_stand_in(held))


def has_weights(model: nn.Module) -> bool:
    """Whether a model has numbers, here or elsewhere; one that was made on the meta device has none."""
    weights = Weights(model)
    return all(not p.is_meta or weights.elsewhere(name) is not None for name, p in weights.named_parameters())


def refuse_parts(model: nn.Module, doing: str) -> None:
    """Raise if a process has no whole copy of the weights.

    Raises:
        BaseError: Naming the first weight.
    """
    for name, parameter in model.named_parameters():
        lack = (
            "each process has a part of it (DTensor)"
            if hasattr(parameter, "full_tensor")
            else _lack(model, name, parameter)
        )
        if lack:
            raise BaseError(
                f"{doing}: {own_name(name)!r} is not there as a whole, {lack}. Save the adapter, load the base anew in "
                "one process without sharding, and load the adapter on it."
            )


def bring_home(model: nn.Module) -> None:
    """Give a model the numbers that accelerate keeps elsewhere, in memory, and take accelerate's hooks off.

    A model with everything in its place is left as it is, hooks and all.

    Raises:
        BaseError: If numbers cannot be found.
    """
    weights = Weights(model)
    absent = [name for name in tensor_names(model) if _at(model, name).is_meta]
    if not absent:
        return
    for name in absent:
        path, _, last = name.rpartition(".")
        held = _at(model, name)
        numbers = weights.of(name, held, "Bringing the weights of a model").detach()
        module = model.get_submodule(path)
        if isinstance(held, nn.Parameter):
            module._parameters[last] = nn.Parameter(numbers, held.requires_grad)
        else:
            module._buffers[last] = numbers
    _tie_again(model)
    for module in model.modules():
        _take_hooks_off(module)
    model.to("cpu")  # parts may have been left on other devices, between which the hooks have sent the activations


def _take_hooks_off(module: nn.Module) -> None:
    own = module.__dict__
    if "_old_forward" in own:
        before = own["_old_forward"]
        own["forward"] = before
        if getattr(before, "__func__", None) is type(module).forward:
            del own["forward"]
    for name in _OF_ACCELERATE:
        own.pop(name, None)


def _tie_again(model: nn.Module) -> None:
    """Let weights be one parameter again that accelerate had to keep as two."""
    for target, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        one, other = _at(model, source), _at(model, target)
        if one is not other and one.shape == other.shape and torch.equal(one, other):
            path, _, last = target.rpartition(".")
            model.get_submodule(path)._parameters[last] = one


def _at(model: nn.Module, name: str) -> Any:
    path, _, last = name.rpartition(".")
    return getattr(model.get_submodule(path), last)


def _kept_elsewhere(model: nn.Module) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Yield what accelerate's hooks keep, by the paths of the modules that have them."""
    for path, module in model.named_modules():
        outer = module.__dict__.get("_hf_hook")
        for hook in (outer, *getattr(outer, "hooks", ())):
            kept = getattr(hook, "weights_map", None)
            if kept is not None and getattr(hook, "offload", False):
                yield own_name(path), kept


def _lack(model: nn.Module, name: str, tensor: Tensor) -> str | None:
    """Return why a tensor is no whole parameter, or None."""
    path, _, last = name.rpartition(".")
    if hasattr(tensor, "ds_id") or tensor.numel() == 0:
        return (
            f"its shape here is {tuple(tensor.shape)} (as deepspeed's ZeRO-3 and FSDP leave it). Gather the weights "
            "first: deepspeed.zero.GatheredParameters(list(model.parameters())) or FSDP.summon_full_params(model)"
        )
    is_slice = (
        tensor.dim() == 1 and last == "weight" and isinstance(model.get_submodule(path), nn.Linear | nn.Embedding)
    )
    if is_slice or last == "_flat_param":
        return (
            f"FSDP has laid a slice of {tensor.numel():,} numbers in its place. Gather the weights first, "
            "FSDP.summon_full_params(model), or give state_dict= the full state dict"
        )
    return None
