"""Put a bank on a model and take it off again.

The model stays what it is: hooks on its projections multiply, hooks on its entrances capture the rows of the batch, its
weights are never written. `attach` returns an `Attachment`, the handle for choosing rows. Everything that is put on the
model is listed in the handle, so `detach` restores it exactly and a copy can be stripped plain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ia3.core import calls
from ia3.core.bank import BASE_NAME, Bank
from ia3.core.calls import Call, Group, Scope, ThreadState
from ia3.core.discovery import projection_sizes
from ia3.core.heads import copy_head, run_heads
from ia3.core.positions import scaled_position_bias, shares_positions
from ia3.errors import BankError, PlanError

Rows = str | int | Sequence[str | int] | Tensor
Save = Callable[["Attachment", Any, dict[str, Any]], None]
BANK_MODULE = "ia3_bank"
_HANDLE = "ia3_attachment"
_BATCH_ARGUMENTS = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds", "labels")


def attach(model: nn.Module, bank: Bank, *, heads: Sequence[str] = (), save: Save | None = None) -> Attachment:
    """Put a bank on a model, freeze the base, and return the handle.

    Args:
        model: A transformers model that fits the bank's plan. It is changed in place and given back by `detach`.
        bank: The adapters; may be empty and filled later.
        heads: Paths of modules that adapters bring themselves, such as `classifier`.
        save: What `model.save_pretrained` shall do; left out, it saves as before.

    Raises:
        PlanError: If the model lacks a module of the plan, or has it in another size.
        BankError: If the model has a bank already, or a head's path is unknown.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> from ia3.core.bank import Bank
        >>> from ia3.core.discovery import find_plan
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        >>> model = BertModel(config).eval()
        >>> bank = Bank(find_plan(model))
        >>> attachment = attach(model, bank)
        >>> bank.add("news", torch.full((32,), 0.5))
        1
        >>> out = model(input_ids=torch.ones(2, 3, dtype=torch.long), rows=["news", "__base__"])
        >>> torch.equal(out.last_hidden_state[0], out.last_hidden_state[1])
        False
    """
    if hasattr(model, _HANDLE):
        raise BankError("Attaching a bank: this model has one already. Add adapters to it, or detach it first.")
    _check_fit(model, bank)
    return Attachment(model, bank, tuple(heads), save)


def attachment_of(model: nn.Module) -> Attachment:
    """Return the handle of a model that has a bank.

    Raises:
        BankError: If it has none.
    """
    handle = getattr(model, _HANDLE, None)
    if not isinstance(handle, Attachment):
        raise BankError("Looking for the bank of a model: it has none. Attach one first: ia3.attach(model).")
    return handle


def _check_fit(model: nn.Module, bank: Bank) -> None:
    modules = dict(model.named_modules())
    faults = []
    for site in bank.plan.sites:
        sizes = projection_sizes(modules[site.module]) if site.module in modules else None
        if sizes is None:
            faults.append(f"{site.module!r} is missing")
        elif sizes[site.side == "output"] != site.features:
            faults.append(f"{site.module!r} has {sizes[site.side == 'output']} channels, the plan {site.features}")
    if faults:
        raise PlanError(
            f"Attaching a bank: the plan does not fit this model: {'; '.join(faults[:5])}"
            f"{f' and {len(faults) - 5} more' if len(faults) > 5 else ''}. It was made for another base."
        )


class Attachment:
    """The handle of a bank on a model: which rows are used, and how to take it off.

    Rows are, in this order: the `rows` given to `model(…, rows=…)` or `model.generate(…, rows=…)`, those of the
    innermost `rows(…)`, `use(…)` or `disabled()` scope of this thread, the activated adapter, the only adapter. With
    none of these a forward pass is an error.
    """

    def __init__(self, model: nn.Module, bank: Bank, heads: tuple[str, ...], save: Save | None) -> None:
        self.model: Any = model
        self.bank = bank
        self.head_paths = heads
        self.active: int | None = None
        self._groups = calls.group_sites(bank.plan)
        self._state = ThreadState()
        self._undo: list[tuple[str, str, Any]] = []  # (module path, what was put there, its key)
        self._replaced: dict[tuple[str, str], Any] = {}  # attributes that other code had set on the modules before
        self._trained_before = {name for name, p in model.named_parameters() if p.requires_grad}
        self._install(save)

    def __deepcopy__(self, memo: dict[int, Any]) -> Attachment:
        """A copied model is stripped plain, or shares this handle; the handle itself is not copied."""
        return self

    # -- choosing rows ------------------------------------------------------------------------------------------------

    def activate(self, adapter: str | int) -> None:
        """Use an adapter, in every thread, wherever no rows are given."""
        self.active = self.bank.row(adapter)

    @contextmanager
    def rows(self, rows: Rows) -> Iterator[None]:
        """Use one row for each example (or one name for all) inside this scope, in this thread."""
        with self._scope(self._read_rows(rows, expands=False)):
            yield

    @contextmanager
    def use(self, adapter: str | int) -> Iterator[None]:
        """Use one adapter for every example inside this scope, in this thread."""
        with self.rows(adapter):
            yield

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Use the base alone inside this scope, in this thread."""
        with self.rows(BASE_NAME):
            yield

    def add(self, name: str, vectors: Tensor | None = None, *, trainable: bool = True) -> int:
        """Add an adapter with a fresh copy of the model's head, ready to train; see `Bank.add`."""
        head = copy_head(self.model, self.head_paths) if self.head_paths else None
        return self.bank.add(name, vectors, trainable=trainable, head=head)

    # -- taking it off ------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Take the bank off; the model is then what it was, its parameters trainable as before."""
        self._strip(self.model)
        for (path, name), value in self._replaced.items():
            self.model.get_submodule(path).__dict__[name] = value
        self._undo, self._replaced = [], {}

    def stripped(self, copied: Any) -> Any:
        """Take off a deep copy of the model what was put on the model, and return the copy."""
        self._strip(copied)
        return copied

    def _strip(self, model: Any) -> None:
        for path, what, key in self._undo:
            module = model.get_submodule(path)
            if what == "attribute":
                module.__dict__.pop(key, None)
            else:
                getattr(module, what).pop(key, None)
                for flags in ("_with_kwargs", "_always_called"):
                    getattr(module, what + flags, {}).pop(key, None)
        model._modules.pop(BANK_MODULE, None)
        for module in model.modules():
            func = module.__dict__.get("_gradient_checkpointing_func")
            if isinstance(func, _BoundCheckpoint):
                module._gradient_checkpointing_func = func.original
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in self._trained_before)

    # -- putting it on ------------------------------------------------------------------------------------------------

    def _install(self, save: Save | None) -> None:
        model = self.model
        for path in self.head_paths:
            if path not in dict(model.named_modules()):
                raise BankError(f"Attaching a bank: the model has no module {path!r} to be a head.")
        model.requires_grad_(False)
        device = next(model.parameters()).device
        self.bank.to(device)
        for path, module in model.named_modules():
            if path == "" or isinstance(module, PreTrainedModel):
                self._hook(path, "_forward_pre_hooks", self._enter, with_kwargs=True, prepend=True)
                self._hook(path, "_forward_hooks", self._leave, always_call=True)
            if shares_positions(module):
                numbers = {g.module: n for n, g in enumerate(self._groups) if g.side == "output"}
                bias = scaled_position_bias(module, path, numbers, self.multiplier, self.suspended)
                self._set(path, "disentangled_attention_bias", bias)
            func = module.__dict__.get("_gradient_checkpointing_func")
            if func is not None:
                module._gradient_checkpointing_func = _BoundCheckpoint(self, func)
        for number, group in enumerate(self._groups):
            if group.side == "output":
                self._hook(group.module, "_forward_hooks", partial(self._scale_output, number, group))
            else:
                self._hook(group.module, "_forward_pre_hooks", partial(self._scale_input, number, group))
        for path in self.head_paths:
            self._set(path, "forward", self._routed_head(path, model.get_submodule(path)))
        self._override_model(save)
        model._modules[BANK_MODULE] = self.bank
        self._set("", _HANDLE, self)

    def _hook(self, path: str, kind: str, hook: Callable[..., Any], **options: Any) -> None:
        module = self.model.get_submodule(path)
        register = "register_forward_pre_hook" if kind == "_forward_pre_hooks" else "register_forward_hook"
        self._undo.append((path, kind, getattr(module, register)(hook, **options).id))

    def _set(self, path: str, name: str, value: Any) -> None:
        attributes = self.model.get_submodule(path).__dict__
        if name in attributes:
            self._replaced[path, name] = attributes[name]
        attributes[name] = value
        self._undo.append((path, "attribute", name))

    def _override_model(self, save: Save | None) -> None:
        model = self.model
        if hasattr(model, "generate"):
            original = model.generate

            @wraps(original)
            def generate(*args: Any, rows: Rows | None = None, **kwargs: Any) -> Any:
                scope = self._current_scope() if rows is None else self._read_rows(rows, expands=True)
                expands = Scope(scope.rows, scope.is_uniform, True, scope.snapshot)
                with self._scope(expands):
                    return original(*args, **kwargs)

            self._set("", "generate", generate)
        if hasattr(model, "_set_gradient_checkpointing"):
            enable = model._set_gradient_checkpointing

            @wraps(enable)
            def set_gradient_checkpointing(*args: Any, **kwargs: Any) -> Any:
                enable(*args, **kwargs)
                for module in model.modules():
                    func = module.__dict__.get("_gradient_checkpointing_func")
                    if func is not None and not isinstance(func, _BoundCheckpoint):
                        module._gradient_checkpointing_func = _BoundCheckpoint(self, func)

            self._set("", "_set_gradient_checkpointing", set_gradient_checkpointing)
        if save is not None:
            self._set("", "save_pretrained", lambda folder, **options: save(self, folder, options))

    # -- during a forward pass ----------------------------------------------------------------------------------------

    @contextmanager
    def _scope(self, scope: Scope) -> Iterator[None]:
        self._state.scopes.append(scope)
        try:
            yield
        finally:
            self._state.scopes.pop()

    @contextmanager
    def inside(self, call: Call | None) -> Iterator[None]:
        """Run with a call that was captured before: what a recomputed block needs."""
        before = self._state.call
        if call is not None:  # gathered anew, so that its graph belongs to this computation
            call = calls.open_call(self.bank.plan, self._groups, call.snapshot, call.rows, call.batch)
        self._state.call = call
        try:
            yield
        finally:
            self._state.call = before

    @property
    def call(self) -> Call | None:
        """The forward pass under way in this thread."""
        return self._state.call

    def _read_rows(self, rows: Rows, *, expands: bool) -> Scope:
        snapshot = self.bank.snapshot
        if isinstance(rows, str | int):
            return Scope((snapshot.row(rows),), True, expands, snapshot)
        given = rows.tolist() if isinstance(rows, Tensor) else list(rows)
        if not given or not all(isinstance(row, str | int) for row in given):
            raise BankError(f"Reading the rows of a batch: got {rows!r}, expected one name or row for each example.")
        return Scope(tuple(snapshot.row(row) for row in given), False, expands, snapshot)

    def _current_scope(self) -> Scope:
        """The innermost scope, or the activated or only adapter."""
        if self._state.scopes:
            return self._state.scopes[-1]
        snapshot = self.bank.snapshot
        in_backward = torch._C._current_graph_task_id() != -1
        if in_backward and len(snapshot.rows) != 1:
            raise BankError(
                "Recomputing a checkpointed block: its rows are not known here. Enable gradient checkpointing with "
                "model.gradient_checkpointing_enable() on the model that has the bank, or give rows= to its forward."
            )
        if self.active is not None:
            return Scope((snapshot.row(self.active),), True, False, snapshot)
        if len(snapshot.rows) == 1:
            return Scope(tuple(snapshot.rows.values()), True, False, snapshot)
        names = ", ".join(map(repr, list(snapshot.rows)[:8])) or "none"
        raise BankError(
            f"Running the model: no rows are given and the bank has {len(snapshot.rows)} adapters ({names}). Give "
            f"rows=[…] with a name for each example, activate one, or use rows={BASE_NAME!r} for the base."
        )

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        state = self._state
        rows = kwargs.pop("rows", None) if "rows" in kwargs else None
        if state.call is None or rows is not None:
            scope = self._current_scope() if rows is None else self._read_rows(rows, expands=False)
            batch = _batch_size(args, kwargs)
            expanded = calls.expand_rows(scope, batch)
            state.entered.append((module, state.call))
            state.call = calls.open_call(self.bank.plan, self._groups, scope.snapshot, expanded, batch)
        return args, kwargs

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        state = self._state
        if state.entered and state.entered[-1][0] is module:
            state.call = state.entered.pop()[1]

    def multiplier(self, number: int) -> Tensor | None:
        """Return what a group is multiplied by in this thread's forward pass, shape (1 or batch, features), or None."""
        state = self._state
        if number in state.suspended:
            return None
        if state.call is None:  # a part of the model called on its own, outside every entrance
            scope = self._current_scope()
            batch = None if scope.is_uniform else len(scope.rows)
            return calls.open_call(self.bank.plan, self._groups, scope.snapshot, scope.rows, batch).multipliers[number]
        return state.call.multipliers[number]

    def _scale_output(self, number: int, group: Group, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        multiplier = self.multiplier(number)
        return None if multiplier is None else calls.scale_for_call(output, multiplier, group.module)

    def _scale_input(self, number: int, group: Group, module: nn.Module, args: tuple[Any, ...]) -> Any:
        multiplier = self.multiplier(number)
        if multiplier is None:
            return None
        return (calls.scale_for_call(args[0], multiplier, group.module), *args[1:])

    def _routed_head(self, path: str, original: nn.Module) -> Callable[..., Any]:
        """Return a forward that sends each example through the head of its own adapter."""
        plain = original.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            call = self._state.call or self._current_scope()
            parts = {row: head.part(path) for row, head in call.snapshot.heads.items()}
            return run_heads(path, plain, parts, call.rows, args, kwargs)

        return forward

    @contextmanager
    def suspended(self, numbers: Iterable[int]) -> Iterator[None]:
        """Leave these groups unscaled inside, in this thread."""
        before = self._state.suspended
        self._state.suspended = before | frozenset(numbers)
        try:
            yield
        finally:
            self._state.suspended = before


class _BoundCheckpoint:
    """A checkpoint function that recomputes each block with the rows it was first computed with."""

    def __init__(self, attachment: Attachment, original: Callable[..., Any]) -> None:
        self.attachment = attachment
        self.original = original

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call = self.attachment.call

        def run(*inputs: Any, **options: Any) -> Any:
            with self.attachment.inside(call):
                return function(*inputs, **options)

        return self.original(run, *args, **kwargs)


def _batch_size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Number of examples of a forward pass, from its first argument with a batch axis."""
    found = [args[0] if args else None, *(kwargs.get(name) for name in _BATCH_ARGUMENTS)]
    encoded = kwargs.get("encoder_outputs")
    found.append(encoded[0] if encoded is not None else None)
    return next((int(x.shape[0]) for x in found if isinstance(x, Tensor) and x.dim() > 0), None)
