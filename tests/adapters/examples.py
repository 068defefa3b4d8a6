"""Adapters for tests: of tiny models, and made of numbers without any model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ia3.adapters.adapter import Adapter
from ia3.adapters.attached import adapter_of, attach
from ia3.core.sites import Channels, Site
from tests.families import make_model


def whole(module: str, side: Any, width: int, role: str = "key", **more: Any) -> Site:
    return Site(module, side, role, Channels.span(0, width, width), width, **more)


def spread(shape: tuple[int, ...] | torch.Size | int, seed: int = 0) -> Tensor:
    """Return random numbers, negative ones among them, none of them one."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.5 + 2


def adapter_for(name: str, seed: int = 0, head_modules: tuple[str, ...] = ()) -> tuple[Any, Adapter]:
    """Return a family's tiny model with a random adapter on it, and that adapter."""
    model = make_model(name)
    attachment = attach(model, head_modules=head_modules)
    attachment.bank.set_vector("default", spread(attachment.bank.plan.width, seed))
    with torch.no_grad():
        for number, parameter in enumerate(attachment.bank.heads.parameters()):
            parameter.copy_(spread(parameter.shape, seed + number + 1))
    return model, adapter_of(attachment, "default")


def assert_same(got: Adapter, want: Adapter) -> None:
    """Raise unless two adapters are equal to the last bit."""
    assert got.sites == want.sites
    assert got.config == want.config
    assert got.record == want.record
    assert got.head_modules == want.head_modules
    for mine, theirs in ((got.vectors, want.vectors), (got.head, want.head)):
        assert sorted(mine) == sorted(theirs)
        for name, tensor in theirs.items():
            assert mine[name].dtype == tensor.dtype and mine[name].shape == tensor.shape
            assert mine[name].contiguous().view(torch.uint8).equal(tensor.contiguous().view(torch.uint8)), name
