"""An adapter as a value: vectors, head, config and record, apart from any model or file.

Nothing here is changed in place; arithmetic makes a new adapter with `dataclasses.replace`. How the vectors lie in a
row of some plan is `layout`'s matter, how they are written `peft_format`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ia3.adapters.config import AdapterConfig, kind_of_task
from ia3.adapters.layout import lay_out
from ia3.bases.revisions import address_in
from ia3.core.sites import Plan, Site
from ia3.errors import AdapterError
from ia3.names import Kind


def told_of_base(config: AdapterConfig, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record says of the base, and at least the name and the revision that PEFT's config says."""
    base = record.get("base") or {}
    name, named = base.get("name"), config.base_model_name_or_path
    revision = base.get("revision") or (config.revision if name in (None, named) else None)
    return {**base, "name": name or named} | ({"revision": revision} if revision else {})


@dataclass(frozen=True, eq=False)
class Adapter:
    """One row of a bank with all that belongs to it.

    Attributes:
        sites: Where the vectors sit.
        vectors: By the site's name, each of shape (site.width,), fp32.
        head: Tensors of the modules the adapter brings itself, by their full name in the base (`classifier.weight`).
        head_modules: Paths of those modules.
        config: What stands in `adapter_config.json`.
        record: What is known of how it came about: base, data, settings, labels, metrics (see `record.make_record`).
    """

    sites: tuple[Site, ...]
    vectors: Mapping[str, Tensor]
    head: Mapping[str, Tensor] = field(default_factory=dict)
    head_modules: tuple[str, ...] = ()
    config: AdapterConfig = field(default_factory=AdapterConfig)
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [site.name for site in self.sites]
        if len(set(names)) != len(names) or set(names) != set(self.vectors):
            odd = sorted(set(names) ^ set(self.vectors)) or sorted({n for n in names if names.count(n) > 1})
            raise AdapterError(f"Making an adapter: expected one vector for each site, got a difference at {odd[:5]}.")
        for site in self.sites:
            vector = self.vectors[site.name]
            if vector.shape != (site.width,) or vector.dtype != torch.float32:
                raise AdapterError(
                    f"Making an adapter: vector {site.name!r} has shape {tuple(vector.shape)} and {vector.dtype}, "
                    f"expected ({site.width},) and torch.float32."
                )

    @property
    def base_name(self) -> str | None:
        """Folder or hub id of the base it was trained on, with its revision (`NAME@REVISION`), if known."""
        return address_in(told_of_base(self.config, self.record))

    @property
    def base_facts(self) -> dict[str, Any]:
        """What is known of the base: the record's word, else that of PEFT's config."""
        return told_of_base(self.config, self.record) | {"kind": self.kind}

    @property
    def kind(self) -> Kind | None:
        """What the base is for, if known."""
        return self.record.get("base", {}).get("kind") or kind_of_task(self.config.task)

    @property
    def pooling(self) -> str:
        """What its head reads of an encoder: `own`, the place that the base's class has for it, or `mean`."""
        return str(self.record.get("base", {}).get("pooling") or "own")

    @property
    def parameters(self) -> int:
        """Number of learned numbers, the head's included."""
        return sum(v.numel() for v in self.vectors.values()) + sum(t.numel() for t in self.head.values())

    def row(self, plan: Plan) -> Tensor:
        """Return the vectors as a row of a plan, shape (plan.width,), fp32; the same function of the base.

        A vector may stand elsewhere in the plan: a fused projection cut into its slices or whole, the linear branch of
        a gated feed-forward in place of the last projection's input. What the plan has and the adapter has not is one.

        Raises:
            AdapterError: If the plan has no place for a number that is not one.
        """
        return lay_out(self.sites, self.vectors, plan)
