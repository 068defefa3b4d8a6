"""Whether a plan fits a model: every module is there, with as many channels as the plan says."""

from __future__ import annotations

from torch import nn

from ia3.core.projections import projection_sizes
from ia3.core.sites import Plan
from ia3.errors import PlanError
from ia3.spelling import first_of


def check_fit(model: nn.Module, plan: Plan) -> None:
    """Raise unless a model has every module of a plan, in its size.

    Raises:
        PlanError: Naming what is missing or of another size.
    """
    modules = dict(model.named_modules())
    faults = []
    for site in plan.sites:
        sizes = projection_sizes(modules[site.module]) if site.module in modules else None
        if sizes is None:
            faults.append(f"{site.module!r} is missing")
        elif sizes[site.side == "output"] != site.features:
            faults.append(f"{site.module!r} has {sizes[site.side == 'output']} channels, the plan {site.features}")
    if faults:
        raise PlanError(
            f"Attaching a bank: the plan does not fit this model: {first_of(faults, 5, mark='; ')}. It was made for "
            "another base."
        )
