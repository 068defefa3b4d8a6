"""The ways to answer requests for many adapters: a bank's rows in one batch, PEFT's two, merged copies, no adapter.

Every method answers through the same function; it says which requests of a window go together, and makes a model ready
for them. The adapters are rows of one random table near one, so that all methods have the same numbers. PEFT is
imported when a method of it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bases import SEED, Case
from benchmarks.many_requests import WINDOW
from benchmarks.methods import NotAvailable, shared_copy
from benchmarks.rivals import peft_targets, wrap
from ia3.adapters.attached import attach
from ia3.core.attach import Attachment
from ia3.core.discovery import find_plan
from ia3.core.heads import Head
from ia3.core.merge import merge
from ia3.core.sites import Plan
from ia3.core.strengths import AdapterRefs
from ia3.fast.acceleration import accelerate
from ia3.inference.shortcuts import shortcuts_of
from ia3.names import BASE_NAME

PEFT_ADAPTERS = 100
MERGED_SHARE = 0.25  # of the memory that is free when the base is loaded
MOST_MERGED = WINDOW
_SPREAD = 0.1  # of the random vectors around one, to both sides

Split = Callable[[Sequence[int]], list[list[int]]]
Serve = Callable[[Sequence[int]], tuple[Any, AdapterRefs | None]]


@dataclass(frozen=True)
class Method:
    """One way to answer requests.

    Attributes:
        split: Places of a window's requests that are answered together, from the adapter of each.
        serve: Makes a model ready for the adapters of such requests; returns it with the bank's rows, if it has one.
    """

    split: Split
    serve: Serve


@dataclass(frozen=True)
class Recipe:
    """How a method is made.

    Attributes:
        method: Its name.
        adapters: How many it has; 0 for the base alone.
        build: Makes it from a base, whose weights it shares or copies and never changes, and the adapters' numbers.
        is_distinct: Whether every request of a window has another adapter.
        is_rival: Whether it takes long, so that it runs in the first repeats alone.
    """

    method: str
    adapters: int
    build: Callable[[Case, Adapters], Method]
    is_distinct: bool = False
    is_rival: bool = False

    @property
    def name(self) -> str:
        """Of the method with its adapters; `ia3 0` is the base by ours."""
        return self.method if self.method == "base" else told_name(self.method, self.adapters, self.is_distinct)


@dataclass(frozen=True)
class Adapters:
    """The numbers of many adapters.

    Attributes:
        plan: Layout of a row.
        table: Shape (adapters, plan.width), fp32.
        heads: Of each adapter the state of the modules it brings, by path; empty if it brings none.
    """

    plan: Plan
    table: Tensor
    heads: tuple[Mapping[str, Mapping[str, Tensor]], ...]

    @property
    def names(self) -> list[str]:
        """Of the adapters, in order."""
        return [name_of(number) for number in range(len(self.table))]

    def first(self, count: int) -> Adapters:
        """Return the first adapters; their numbers are shared."""
        return Adapters(self.plan, self.table[:count], self.heads[:count])


def told_name(method: str, adapters: int, is_distinct: bool) -> str:
    """Return a method with its adapters in words."""
    return f"{method} {adapters}{' distinct' if is_distinct else ''}"


def name_of(number: int) -> str:
    """Return the name of an adapter."""
    return f"customer-{number}"


def make_adapters(case: Case, count: int) -> Adapters:
    """Return random adapters of a base, the same ones in every run with as many."""
    random = torch.Generator().manual_seed(SEED)
    plan = find_plan(case.model)
    table = torch.empty(count, plan.width).uniform_(1 - _SPREAD, 1 + _SPREAD, generator=random)
    own = {path: case.model.get_submodule(path).state_dict() for path in case.head_modules}
    heads = tuple({path: _moved(state, random) for path, state in own.items()} for _ in range(count))
    return Adapters(plan, table, heads)


def _moved(state: Mapping[str, Tensor], random: torch.Generator) -> dict[str, Tensor]:
    return {name: x + _SPREAD * torch.randn(x.shape, generator=random) for name, x in state.items()}


def attach_bank(case: Case, adapters: Adapters) -> Attachment:
    """Put a bank with adapters on a base; their numbers stay where they are."""
    attachment = attach(case.model, plan=adapters.plan, head_modules=case.head_modules, trainable=False)
    attachment.bank.remove("default")
    heads = {}
    for name, states in zip(adapters.names, adapters.heads, strict=True):
        if states:
            heads[name] = make_head(case.model, states)
    if adapters.names:
        attachment.bank.adopt(adapters.names, adapters.table, heads=heads)
    return attachment


def make_head(model: Any, states: Mapping[str, Mapping[str, Tensor]]) -> Head:
    """Return the head of an adapter from its numbers."""
    parts = {}
    for path, state in states.items():
        plain = model.get_submodule(path)
        parts[path] = torch.nn.Linear(plain.in_features, plain.out_features, device="meta").to_empty(device="cpu")
        parts[path].load_state_dict(state)
    return Head(parts)


# -- the methods ------------------------------------------------------------------------------------------------------


def _together(adapters: Sequence[int]) -> list[list[int]]:
    return [[*range(len(adapters))]]


def _one_by_one(adapters: Sequence[int]) -> list[list[int]]:
    return [[place] for place in range(len(adapters))]


def _by_adapter(adapters: Sequence[int]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for place, adapter in enumerate(adapters):
        groups.setdefault(adapter, []).append(place)
    return [*groups.values()]


def _base(case: Case, adapters: Adapters) -> Method:
    """The frozen base, with no adapter at all."""
    return Method(_together, lambda _: (case.model, None))


def _ia3(case: Case, adapters: Adapters) -> Method:
    """Every request by the row of its own adapter, all in one batch, through the passes that `ia3.load` answers with;
    without adapters by the base's row.
    """
    accelerate(attach_bank(case, adapters))
    names = adapters.names or [BASE_NAME]
    return Method(_together, lambda chosen: (case.model, [names[number] for number in chosen]))


def _peft(case: Case, adapters: Adapters, split: Split) -> Method:
    """PEFT's (IA)³ at the same sites with the same numbers; one adapter is active at a time."""
    from peft import IA3Config

    targets, feedforward = peft_targets(case.model)
    heads = list(case.head_modules) or None
    config = IA3Config(target_modules=targets, feedforward_modules=feedforward, modules_to_save=heads)
    model = wrap(case.model, config)
    for name in adapters.names:
        model.add_adapter(name, config)
    inside = model.get_base_model().eval()  # without PEFT's wrapper around each call
    _fill_peft(inside, adapters)

    def serve(chosen: Sequence[int]) -> tuple[Any, None]:
        model.set_adapter(name_of(chosen[0]))
        return inside, None

    return Method(split, serve)


@torch.no_grad()
def _fill_peft(model: Any, adapters: Adapters) -> None:
    for site, span in adapters.plan.spans():
        vectors = model.get_submodule(site.module).ia3_l
        for name, row in zip(adapters.names, adapters.table, strict=True):
            vectors[name].copy_(row[span].view_as(vectors[name]))
    for name, states in zip(adapters.names, adapters.heads, strict=True):
        for path, state in states.items():
            model.get_submodule(path).modules_to_save[name].load_state_dict(state)


def _merged(case: Case, adapters: Adapters) -> Method:
    """A copy of the whole model for each adapter, its vectors multiplied into the weights."""
    if len(adapters.table) < 2:
        raise NotAvailable("fewer than two copies of this base fit in the memory they may take")
    attachment = attach_bank(case, adapters)
    copies = [merge(attachment, name) for name in adapters.names]
    attachment.detach()
    if case.kind != "encoder":
        for copy in copies:  # what a first pass tries out is not to be timed; the warm-up asks a few of them alone
            shortcuts_of(replace(case, model=copy))
    return Method(_by_adapter, lambda chosen: (copies[chosen[0]], None))


def build(recipe: Recipe, case: Case, adapters: Adapters) -> Method:
    """Return a method on a copy of a base that shares its weights."""
    return recipe.build(replace(case, model=shared_copy(case.model)), adapters.first(recipe.adapters))


def make_recipes(counts: Sequence[int], merged: int, peft: int = PEFT_ADAPTERS) -> tuple[Recipe, ...]:
    """Return every method, the base first.

    Args:
        counts: Numbers of adapters for ours.
        merged: How many merged copies.
        peft: Adapters for PEFT.
    """
    return (
        Recipe("base", 0, _base),
        Recipe("ia3", 0, _ia3),
        *(Recipe("ia3", count, _ia3) for count in counts),
        Recipe("ia3", WINDOW, _ia3, is_distinct=True),
        Recipe("peft-set-adapter", peft, lambda case, own: _peft(case, own, _one_by_one), is_rival=True),
        Recipe("peft-grouped", peft, lambda case, own: _peft(case, own, _by_adapter), is_rival=True),
        Recipe("merged-copies", merged, _merged, is_rival=True),
    )


def count_merged(model: Any) -> int:
    """Return how many copies of a model fit in the share of the free memory that they may take, 32 at most."""
    size = sum(p.numel() * p.element_size() for p in {id(p): p for p in model.parameters()}.values())
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min(MOST_MERGED, int(free * MERGED_SHARE / size))
