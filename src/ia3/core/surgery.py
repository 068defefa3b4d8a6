"""What is put on a model, written down so that it can be taken off again.

A hook or an attribute goes on through a `Surgery`, which can undo all of it; what other code has put over it since is
left alone. Nothing here is a closure over the model: a deep copy of the model carries copies that belong to the copy.
This file knows modules and attributes; it knows nothing of rows and vectors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MethodType
from typing import Any

from torch import nn

from ia3.errors import BankError

_ENTRANCE = "ia3_entrance"

# (arguments, named arguments, rows or None) → the scope of one forward pass
Opener = Callable[[tuple[Any, ...], Mapping[str, Any], Any], AbstractContextManager[None]]


def has_entrance(module: nn.Module) -> bool:
    """Whether a module captures rows when it is called."""
    return _ENTRANCE in module.__dict__


def take_rows(kwargs: dict[str, Any]) -> Any:
    """Take the rows out of the named arguments of a call; `adapter_names` is PEFT's word for them.

    A model that swallows arguments it does not know would else run every example through the active adapter.

    Raises:
        BankError: If both are given.
    """
    rows, names = kwargs.pop("rows", None), kwargs.pop("adapter_names", None)
    if rows is not None and names is not None:
        raise BankError("Running the model: got rows and adapter_names, which mean the same. Give one of them.")
    return names if rows is None else rows


class Surgery:
    """The changes made to one model, in order."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._hooks: list[tuple[nn.Module, str, int]] = []  # module, which of its dicts of hooks, key
        self._attributes: list[_Attribute] = []

    def hook_output(self, path: str, hook: Callable[..., Any]) -> None:
        """Register a forward hook on the module at `path`."""
        module = self.model.get_submodule(path)
        self._hooks.append((module, "_forward_hooks", module.register_forward_hook(hook).id))

    def hook_input(self, path: str, hook: Callable[..., Any]) -> None:
        """Register a forward pre-hook on the module at `path`."""
        module = self.model.get_submodule(path)
        self._hooks.append((module, "_forward_pre_hooks", module.register_forward_pre_hook(hook).id))

    def set(self, path: str, name: str, value: Any) -> None:
        """Set an attribute on the instance, over the class's."""
        module = self.model.get_submodule(path)
        attributes = module.__dict__
        self._attributes.append(_Attribute(module, name, value, name in attributes, attributes.get(name)))
        attributes[name] = value

    def set_entrance(self, path: str, opened: Opener) -> None:
        """Let the module at `path` take `rows` (or `adapter_names`) and run inside the scope that `opened` gives.

        The scope is left however the pass ends, an interrupt included; a forward hook would not be called then.
        """
        module = self.model.get_submodule(path)
        self.set(path, _ENTRANCE, _Entrance(module.forward, opened))
        self.set(path, "forward", MethodType(_entrance_of(module), module))

    def undo_inside(self, module: nn.Module) -> None:
        """Set the attributes of a module and its parts back, the newest first; its hooks stay."""
        inside = {id(part) for part in module.modules()}
        mine = [attribute for attribute in self._attributes if id(attribute.module) in inside]
        for attribute in reversed(mine):
            attribute.undo()
        self._attributes = [attribute for attribute in self._attributes if id(attribute.module) not in inside]

    def undo(self) -> None:
        """Take everything off, the newest first."""
        for module, kind, key in self._hooks:
            getattr(module, kind).pop(key, None)
        for attribute in reversed(self._attributes):
            attribute.undo()
        self._hooks, self._attributes = [], []


@dataclass(frozen=True, eq=False)
class _Attribute:
    """An attribute that was set on a module, and what stood there before."""

    module: nn.Module
    name: str
    value: Any
    was_set: bool
    before: Any

    def undo(self) -> None:
        attributes = self.module.__dict__
        if attributes.get(self.name) is not self.value:  # other code has wrapped it since, and keeps its wrapper
            return
        if self.was_set:
            attributes[self.name] = self.before
        else:
            del attributes[self.name]


@dataclass(frozen=True, eq=False)
class _Entrance:
    """What a module's forward was, and the scope it runs in now."""

    plain: Callable[..., Any]
    opened: Opener


def _entrance_of(module: nn.Module) -> Callable[..., Any]:
    """Return a forward that looks up its entrance on the module it is called on: a copy finds its own."""
    original = type(module).forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        rows = take_rows(kwargs)
        entrance = self.__dict__.get(_ENTRANCE)
        if entrance is None:  # the bank was detached while other code held on to this function
            return original(self, *args, **kwargs)
        with entrance.opened(args, kwargs, rows):
            return entrance.plain(*args, **kwargs)

    forward.__doc__, forward.__name__, forward.__qualname__ = original.__doc__, original.__name__, original.__qualname__
    # A signature and no `__wrapped__`: trainers read the columns they keep from the signature, `rows` among them, and
    # accelerate follows `__wrapped__` past this function to what it covers.
    forward.__signature__ = _with_rows(inspect.signature(original))  # type: ignore[attr-defined]
    return forward


def _with_rows(signature: inspect.Signature) -> inspect.Signature:
    rows = inspect.Parameter("rows", inspect.Parameter.KEYWORD_ONLY, default=None)
    parameters = [p for p in signature.parameters.values() if p.name != "rows"]
    place = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_KEYWORD), len(parameters))
    return signature.replace(parameters=[*parameters[:place], rows, *parameters[place:]])
