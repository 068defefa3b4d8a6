"""Put a bank on a model and take it off again.

The model stays what it is: hooks on its projections multiply, its entrances capture the rows of the batch, its weights
are never written. `attach` returns an `Attachment`, the handle for choosing rows. Everything that is put on the model
goes through one `Surgery`, so that `detach` restores it exactly; a deep copy of the model has a bank and a handle of
its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial, update_wrapper
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from ia3.core import calls, scopes
from ia3.core.bank import Bank
from ia3.core.calls import Call, ExampleAxis, Group, Multiplier, Scope
from ia3.core.checkpointing import bind_checkpoints, unbind_checkpoints
from ia3.core.choosing import Rows, default_rows, read_rows
from ia3.core.fit import check_fit
from ia3.core.generation import Generation
from ia3.core.heads import copy_head, run_heads
from ia3.core.labels import check_own_loss
from ia3.core.overwriting import Overwriting
from ia3.core.positions import scaled_position_bias, shares_positions
from ia3.core.surgery import Surgery, has_entrance
from ia3.core.surroundings import Surroundings, surrounded, surroundings
from ia3.core.tracing import check_untraced
from ia3.core.weights import device_of, refuse_tensor_parallel, tensor_names
from ia3.errors import BankError, PlanError, near_matches
from ia3.names import BASE_NAME

Save = Callable[["Attachment", Any, dict[str, Any]], None]
BANK_MODULE = "ia3_bank"
FASTER = "ia3_acceleration"  # where faster passes (`fast.acceleration`) leave their handle on the model
VECTOR_OF = "vector_of"  # of a projection that multiplies by itself (`bases.int8`): gives its multiplier for an input
_HANDLE = "ia3_attachment"


def attach_bank(model: nn.Module, bank: Bank, *, heads: Sequence[str] = (), save: Save | None = None) -> Attachment:
    """Put a bank on a model, freeze the base, and return the handle.

    Args:
        model: A transformers model that fits the bank's plan. It is changed in place and given back by `detach`.
        bank: The adapters; may be empty and filled later.
        heads: Paths of modules that adapters bring themselves, such as `classifier`.
        save: What `model.save_pretrained` shall do; left out, it saves as before.

    Raises:
        PlanError: If the model lacks a module of the plan, or has it in another size.
        BankError: If the model or a part of it has a bank already, a head's path is unknown or holds a site, or several
            processes compute a part of the channels each.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> from ia3.core.bank import Bank
        >>> from ia3.core.discovery import find_plan
        >>> config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        >>> model = BertModel(config).eval()
        >>> bank = Bank(find_plan(model))
        >>> attachment = attach_bank(model, bank)
        >>> bank.add("news", torch.full((32,), 0.5))
        1
        >>> out = model(input_ids=torch.ones(2, 3, dtype=torch.long), rows=["news", "__base__"])
        >>> torch.equal(out.last_hidden_state[0], out.last_hidden_state[1])
        False
    """
    if any(_HANDLE in module.__dict__ or has_entrance(module) for module in model.modules()):
        raise BankError(
            "Attaching a bank: this model, or a part of it, has one already. Add adapters to it, or detach "
            "it first: model.ia3_attachment.detach()."
        )
    check_fit(model, bank.plan)
    refuse_tensor_parallel(model)
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


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Have several passes of a model see its bank as it is now; a model without a bank is left alone."""
    handle = getattr(model, _HANDLE, None)
    held = {} if handle is None else {id(handle.bank): handle.bank.snapshot}
    with surrounded(still={**held, **surroundings().still}):  # within another such scope, that one's snapshot
        yield


class Attachment:
    """The handle of a bank on a model: which rows are used, and how to take it off.

    Rows are, in this order: the `rows` given to `model(…, rows=…)` or `model.generate(…, rows=…)`, those of the
    innermost `rows(…)`, `use(…)` or `disabled()` scope of this thread or asyncio task (which begins in those it was
    started in), the activated adapter, the only adapter. With none of these a forward pass is an error.
    """

    def __init__(self, model: nn.Module, bank: Bank, heads: tuple[str, ...], save: Save | None) -> None:
        self.model: Any = model
        self.bank = bank
        self.head_paths: tuple[str, ...] = ()
        self.active: int | None = None
        self.groups = calls.group_sites(bank.plan)
        self._axis = ExampleAxis.of(bank.plan.model_type)
        self._called: set[int] = set()  # groups whose projection has been called
        self.overwriting = Overwriting.of(bank.plan.source, self.groups)
        self._me = object()  # whose scopes and passes are its own; whoever holds it does not hold the model
        self._generation = Generation(self)
        for path in heads:
            self._check_head(path)
        self._trained_before = {name for name, p in model.named_parameters() if p.requires_grad}
        self._surgery = Surgery(model)
        self._install(heads, save)

    def __deepcopy__(self, memo: dict[int, Any]) -> Attachment:
        """Go along with a deep copy of the whole model; a part copied alone stays under this handle."""
        if id(self.model) not in memo:
            return self
        copied = object.__new__(Attachment)
        memo[id(self)] = copied
        for name, value in self.__dict__.items():
            copied.__dict__[name] = object() if name == "_me" else copy.deepcopy(value, memo)
        return copied

    def __getstate__(self) -> Any:
        """A pickled model would come back without its threads' rows."""
        raise BankError("Pickling a model that has a bank: it cannot be. Save its adapters, or detach the bank first.")

    # -- choosing rows ------------------------------------------------------------------------------------------------

    def activate(self, adapter: str | int) -> None:
        """Use an adapter, in every thread, wherever no rows are given."""
        self._check_attached()
        self.active = self.bank.row(adapter)

    @contextmanager
    def rows(self, rows: Rows) -> Iterator[None]:
        """Use one row for each example (or one name for all) inside this scope, in this thread or asyncio task."""
        with self.opened(self._read_rows(rows)):
            yield

    @contextmanager
    def use(self, adapter: str | int) -> Iterator[None]:
        """Use one adapter for every example inside this scope, in this thread or asyncio task."""
        with self.rows(adapter):
            yield

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Use the base alone inside this scope, in this thread or asyncio task."""
        with self.rows(BASE_NAME):
            yield

    def chosen(self, rows: Any = None) -> Scope:
        """Return the rows that are given, else those of the innermost scope, the activated or the only adapter."""
        return self._current_scope() if rows is None else self._read_rows(rows)

    def opened(self, scope: Scope) -> AbstractContextManager[None]:
        """Use a scope inside, in this thread or asyncio task."""
        return scopes.open_scope(self._me, scope)

    def is_scoped(self) -> bool:
        """Whether a scope is open in this thread or asyncio task."""
        return scopes.innermost_scope(self._me) is not None

    def add(self, name: str, vectors: Tensor | None = None, *, trainable: bool = True) -> int:
        """Add an adapter with a fresh copy of the model's head, ready to train; see `Bank.add`."""
        self._check_attached()
        head = copy_head(self.model, self.head_paths) if self.head_paths else None
        return self.bank.add(name, vectors, trainable=trainable, head=head)

    def route_heads(self, paths: Sequence[str]) -> None:
        """Let adapters bring their own modules at these paths; every other row keeps the base's.

        Raises:
            BankError: If the model has no such module, or a site lies in it.
        """
        for path in paths:
            if path not in self.head_paths:
                self._check_head(path)
                faster = self.model.__dict__.get(FASTER)
                if faster is not None:  # routed over a faster pass, it would keep that when both come off
                    faster.release(path)
                plain = self.model.get_submodule(path).forward
                self._surgery.set(path, "forward", partial(self._run_head, path, plain))
                self.head_paths += (path,)

    # -- taking it off ------------------------------------------------------------------------------------------------

    def detach(self) -> None:
        """Take the bank off; the model is then what it was, its parameters trainable as before."""
        self._check_attached()
        self._generation.close()
        faster = self.model.__dict__.get(FASTER)
        if faster is not None:  # its passes multiply by this bank's rows
            faster.remove()
        self.model._modules.pop(BANK_MODULE, None)
        self._surgery.undo()
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name in self._trained_before)
        unbind_checkpoints(self.model)

    def _check_attached(self) -> None:
        if self.model.__dict__.get(_HANDLE) is not self:
            raise BankError("Using a bank: it was detached from its model. Attach it again: ia3.attach(model).")

    # -- putting it on ------------------------------------------------------------------------------------------------

    def _check_head(self, path: str) -> None:
        modules = dict(self.model.named_modules())
        if not path or path not in modules:
            raise BankError(
                f"Attaching a bank: the model has no module {path!r} to be a head.{near_matches(path, modules)}"
            )
        inside = [site.module for site in self.bank.plan.sites if f"{site.module}.".startswith(f"{path}.")]
        if inside:
            raise BankError(
                f"Attaching a bank: the site {inside[0]!r} lies in the head {path!r}, which an adapter brings whole. "
                "Leave the site out of the plan with exclude_modules."
            )

    def _install(self, heads: tuple[str, ...], save: Save | None) -> None:
        model, surgery = self.model, self._surgery
        model.requires_grad_(False)
        device = device_of(model)
        if device is not None:
            self.bank.to(device)
        self.bank.train(model.training)
        for path, module in model.named_modules():
            if path == "" or isinstance(module, PreTrainedModel):
                surgery.set_entrance(path, self._entered)
            if shares_positions(module):
                numbers = {g.module: n for n, g in enumerate(self.groups) if g.side == "output"}
                bias = scaled_position_bias(module, path, numbers, self.multiplier, self.suspended, self._axis)
                surgery.set(path, "disentangled_attention_bias", bias)
        for number, group in enumerate(self.groups):
            if group.side == "output" and hasattr(model.get_submodule(group.module), VECTOR_OF):
                surgery.set(group.module, VECTOR_OF, partial(self.spread, number))
                surgery.hook_output(group.module, partial(self._look_at, number))
            elif group.side == "output":
                surgery.hook_output(group.module, partial(self._scale_output, number, group))
            else:
                surgery.hook_input(group.module, partial(self._scale_input, number, group))
        if not self._axis.is_known:
            parents: dict[str, list[int]] = {}
            for number, group in enumerate(self.groups):
                parents.setdefault(group.module.rpartition(".")[0], []).append(number)
            for parent, inside in parents.items():
                surgery.hook_output(parent, partial(self._check_called, tuple(inside)))
        bind_checkpoints(model, self._inside)
        self._override_model(save)
        model._modules[BANK_MODULE] = self.bank
        surgery.set("", _HANDLE, self)
        self.route_heads(heads)

    def _override_model(self, save: Save | None) -> None:
        model = self.model
        before = {**self._generation.entries(), "_set_gradient_checkpointing": self._checkpoint}
        for name, override in before.items():
            original = getattr(model, name, None)
            if original is not None:
                self._surgery.set("", name, update_wrapper(partial(override, original), original))
        if save is not None:
            self._surgery.set("", "save_pretrained", partial(self._save, save))
            # a trainer that loads what was saved must not call the base's weights missing
            self._surgery.set("", "_keys_to_ignore_on_save", set(tensor_names(model)))

    def _checkpoint(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        bind_checkpoints(self.model, self._inside)

    def _save(self, save: Save, save_directory: Any, *args: Any, **options: Any) -> None:
        save(self, save_directory, options)

    # -- during a forward pass ----------------------------------------------------------------------------------------

    @contextmanager
    def _entered(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: Rows | None) -> Iterator[None]:
        """Be in a forward pass: the rows of the batch are captured, or those of the pass around it go on."""
        if rows is None and self.call is not None:
            yield
            return
        check_untraced()
        scope = self.chosen(rows)
        if kwargs.get("labels") is not None:
            check_own_loss(self.model, scope.snapshot.heads_of(scope.rows))
        batch = calls.batch_size(args, kwargs)
        call = self._open_call(calls.expand_rows(scope, batch), batch)
        with self._under_way(call), self.overwriting.watched(self.model.training):
            yield

    @contextmanager
    def _inside(self, first: Surroundings) -> Iterator[None]:
        """Run in the surroundings that a block was first computed in: what a recomputed one needs."""
        with surrounded(**vars(first)):
            call = self.call
            # gathered anew, so that its graph belongs to this computation
            with nullcontext() if call is None else self._under_way(self._open_call(call, call.batch)):
                yield

    def _open_call(self, chosen: Scope | Call, batch: int | None) -> Call:
        kept = chosen.kept if isinstance(chosen, Call) else self.overwriting.kept(self.model.training)
        frozen = surroundings().frozen
        of = chosen.snapshot, chosen.rows, batch, chosen.strengths
        return calls.open_call(self.bank.plan, self.groups, *of, frozen, kept)

    def _under_way(self, call: Call) -> AbstractContextManager[None]:
        entered = call, scopes.innermost_scope(self._me)
        return surrounded(calls={**surroundings().calls, self._me: entered})

    def _look_at(self, number: int, module: nn.Module, args: Any, output: Tensor) -> None:
        self.overwriting.look_at(number, output, self.model.training)

    @property
    def call(self) -> Call | None:
        """The forward pass under way in this thread, unless a scope was opened since it was entered."""
        call, scope = surroundings().calls.get(self._me, (None, None))
        return call if call is None or scopes.innermost_scope(self._me) is scope else None

    def _read_rows(self, rows: Any) -> Scope:
        self._check_attached()
        return read_rows(self.bank, self.head_paths, rows)

    def _current_scope(self) -> Scope:
        """The innermost scope, or the activated or only adapter."""
        scope = scopes.innermost_scope(self._me)
        if scope is not None:
            return scope
        scopes.check_known(self._me)
        return default_rows(self.bank, self.head_paths, self.active)

    def multiplier(self, number: int) -> Multiplier | None:
        """Return what a group is multiplied by in this thread's forward pass, or None for nothing."""
        self._called.add(number)
        if (self._me, number) in surroundings().suspended:
            return None
        call = self.call
        if call is None:  # a part of the model called on its own, outside every entrance
            scope = self._current_scope()
            batch = None if scope.is_uniform else len(scope.rows)
            call = self._open_call(scope, batch)
        return call.multipliers[number]

    def spread(self, number: int, x: Tensor) -> Multiplier | None:
        """Return a group's multiplier in a shape that broadcasts against an activation (batch, …, features)."""
        multiplier = self.multiplier(number)
        if multiplier is None:
            return None
        return calls.spread_for_call(x, multiplier, self.groups[number].module, self._axis)

    def _check_called(self, numbers: tuple[int, ...], module: nn.Module, args: Any, output: Any) -> None:
        """Refuse a module of an unknown model that reads its projections' weights and never calls them."""
        if not self._called.issuperset(numbers):
            dead = next(self.groups[number].module for number in numbers if number not in self._called)
            raise PlanError(
                f"Running the model: {type(module).__name__} has run without calling {dead!r}, so the vector there "
                "does nothing. Leave it out of the plan with exclude_modules."
            )

    def _scale_output(self, number: int, group: Group, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        multiplier = self.multiplier(number)
        scaled = output if multiplier is None else calls.scale_for_call(output, multiplier, group.module, self._axis)
        self._look_at(number, module, args, scaled)
        return None if multiplier is None else scaled

    def _scale_input(self, number: int, group: Group, module: nn.Module, args: tuple[Any, ...]) -> Any:
        multiplier = self.multiplier(number)
        if multiplier is None:
            return None
        # what the model gives to a projection it may still write over; what the projection is given it leaves alone
        x = args[0].clone() if multiplier.keeps_input else args[0]
        return (calls.scale_for_call(x, multiplier, group.module, self._axis), *args[1:])

    def _run_head(self, path: str, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Send each example through the head of its own adapter."""
        call = self.call or self._current_scope()
        heads = {row: call.snapshot.head(row) for row in set(call.rows)}
        parts = {row: head.part(path) for row, head in heads.items() if head is not None}
        return run_heads(path, self.model.get_submodule(path), plain, parts, call.rows, args, kwargs)

    def suspended(self, numbers: Iterable[int]) -> AbstractContextManager[None]:
        """Leave these groups unscaled inside, in this thread."""
        return surrounded(suspended=surroundings().suspended | {(self._me, number) for number in numbers})
