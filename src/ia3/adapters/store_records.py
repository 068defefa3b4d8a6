"""An adapter as the parts of a store's block, and back: texts, the row in the store's plan, and tensors.

The texts are those of the adapter's folder, so both hold the same. An adapter's own vectors are read off its row, also
where they sit at other places than the plan's (a fused projection whole); where that would change a bit they are kept
beside the row.
This file knows adapters and bytes; it knows nothing of files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ia3.adapters.adapter import Adapter
from ia3.adapters.config import AdapterConfig, read_config
from ia3.adapters.half import halve, restore
from ia3.adapters.layout import lay_out
from ia3.adapters.record import read_record, write_record
from ia3.adapters.store_file import pack_text
from ia3.adapters.store_tables import Stored
from ia3.adapters.targets import is_target
from ia3.core.sites import Plan, Site
from ia3.errors import AdapterError
from ia3.names import CONFIG_FILE, RECORD_FILE

DTYPES: Mapping[Stored, torch.dtype] = {
    Stored.FLOAT32: torch.float32,
    Stored.FLOAT16: torch.float16,
    Stored.BFLOAT16: torch.bfloat16,
}
_OWN = "vectors"  # key of an adapter's own vectors, laid end to end
_HEAD = "head."
_NO_WEIGHTS = {"file": "", "sha256": ""}  # a folder's record describes its weights; a block has checksums


def pack_description(plan: Plan, base: Mapping[str, Any]) -> bytes:
    """Return the text of a store's description."""
    record = write_record({"base": dict(base)}, plan.sites, _NO_WEIGHTS).decode()
    return pack_text({RECORD_FILE: record, "model_type": plan.model_type, "source": plan.source})


def read_description(content: Mapping[str, Any], where: str) -> tuple[Plan, dict[str, Any]]:
    """Return the plan and the base of a store."""
    record, sites, _ = read_record(content[RECORD_FILE], where)
    return Plan(sites, content["model_type"], content["source"]), record["base"]


def pack_adapter(adapter: Adapter, plan: Plan, *, half: bool) -> Parts:
    """Return an adapter as the parts of a block.

    Args:
        adapter: What to store.
        plan: The store's.
        half: Store l − 1 in two bytes a number.

    Raises:
        AdapterError: If a number is not finite, the record is not JSON, or the plan has no place for a vector.
    """
    _refuse_odd_numbers(adapter)
    tensors = {f"{_HEAD}{name}": tensor for name, tensor in adapter.head.items()}
    places = _places(adapter.sites, plan)
    if places is None:
        row = adapter.row(plan)
        if not _is_read_off(adapter, row, plan):
            own = torch.cat([adapter.vectors[site.name] for site in adapter.sites])
            tensors[_OWN] = _store(own, half=half)[1]
    else:
        row = torch.ones(plan.width)
        for site, place in zip(adapter.sites, places, strict=True):
            row[place] = adapter.vectors[site.name].detach()
    stored, numbers, error = _store(row, half=half)
    return Parts(_pack_texts(adapter, plan), numbers, _pack_tensors(tensors), stored, error)


def read_metadata(content: Mapping[str, Any], plan: Plan, where: str) -> Metadata:
    """Return what is known of an adapter beside its numbers."""
    config = read_config(content[CONFIG_FILE], f"{where}, {CONFIG_FILE}")
    record, sites, _ = read_record(content[RECORD_FILE], f"{where}, {RECORD_FILE}")
    own = sites if content["own_sites"] else plan.sites
    return Metadata(config, record, own, tuple(content["head_modules"]))


def join_adapter(metadata: Metadata, plan: Plan, row: Tensor, tensors: bytes) -> Adapter:
    """Return the adapter that was packed.

    Args:
        metadata: As `read_metadata` returns it.
        plan: The store's.
        row: Its row, shape (plan.width,), fp32.
        tensors: A safetensors file, or nothing.
    """
    held = safetensors.torch.load(tensors) if tensors else {}
    sites = metadata.sites
    if _OWN in held:
        own = held[_OWN]
        whole = own if own.dtype == torch.float32 else restore(own)
        parts = whole.split([site.width for site in sites])
        vectors = {site.name: part.clone() for site, part in zip(sites, parts, strict=True)}
    else:
        vectors = _read_off(row, sites, plan)
    return Adapter(sites, vectors, _head_of(held), metadata.head_modules, metadata.config, metadata.record)


def join_head(metadata: Metadata, tensors: bytes) -> Adapter:
    """Return an adapter with its head and what a head is built by: of its vectors ones, at the sites that lie in it.

    Args:
        metadata: As `read_metadata` returns it.
        tensors: A safetensors file.
    """
    paths = tuple(f"{path}." for path in metadata.head_modules)
    sites = tuple(site for site in metadata.sites if f"{site.module}.".startswith(paths))
    vectors = {site.name: torch.ones(site.width) for site in sites}
    head = _head_of(safetensors.torch.load(tensors))
    return Adapter(sites, vectors, head, metadata.head_modules, metadata.config, metadata.record)


def _head_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(_HEAD): tensor for name, tensor in tensors.items() if name.startswith(_HEAD)}


def find_misfit(adapter: Adapter, plan: Plan) -> str | None:
    """Return why an adapter belongs to another base than a plan's, as names and widths tell, or None.

    A vector of another width, and a target of the plan's modules without a vector: its base has fewer layers.
    """
    features = {(site.module, site.side): site.features for site in plan.sites}
    for site in adapter.sites:
        needed = features.get((site.module, site.side), site.features)
        if needed != site.features:
            return f"vector {site.name!r} has width {site.features}, the store's base needs {needed}"
    given = {site.module for site in adapter.sites}
    bare = [site.module for site in plan.sites if site.module not in given and is_target(adapter.config, site.module)]
    return f"{bare[0]!r} is among its targets and has no vector" if bare else None


def _places(sites: Sequence[Site], plan: Plan) -> list[slice] | None:
    """Return where the vectors of sites lie in a row, or None if one of them is no site of the plan."""
    spans = dict(zip((site.place for site in plan.sites), (span for _, span in plan.spans()), strict=True))
    places = [spans.get(site.place) for site in sites]
    return [place for place in places if place is not None] if None not in places else None


def _read_off(row: Tensor, sites: tuple[Site, ...], plan: Plan) -> dict[str, Tensor]:
    """Return the vectors of sites that a row of a plan holds."""
    places = _places(sites, plan)
    if places is None:
        own = Plan(sites, plan.model_type, "adapter")
        row = lay_out(plan.sites, {site.name: row[span] for site, span in plan.spans()}, own)
        places = [span for _, span in own.spans()]
    return {site.name: row[place].clone() for site, place in zip(sites, places, strict=True)}


def _is_read_off(adapter: Adapter, row: Tensor, plan: Plan) -> bool:
    """Whether an adapter's vectors come back from its row to the last bit."""
    try:
        vectors = _read_off(row, adapter.sites, plan)
    except AdapterError:  # the row holds what the sites cannot
        return False
    return all(vectors[name].view(torch.int32).equal(v.view(torch.int32)) for name, v in adapter.vectors.items())


def _store(numbers: Tensor, *, half: bool) -> tuple[Stored, Tensor, float]:
    halved = halve(numbers) if half else None
    if halved is None or not math.isfinite(halved.error):
        return Stored.FLOAT32, numbers, 0.0
    stored = next(stored for stored, dtype in DTYPES.items() if dtype == halved.numbers.dtype)
    return stored, halved.numbers, halved.error


def _pack_texts(adapter: Adapter, plan: Plan) -> bytes:
    has_own_sites = adapter.sites != plan.sites
    config = json.loads(adapter.config.to_json()) | dict(adapter.config.extra)
    record = write_record(adapter.record, adapter.sites if has_own_sites else (), _NO_WEIGHTS)
    return pack_text(
        {
            CONFIG_FILE: json.dumps(config),
            RECORD_FILE: record.decode(),
            "head_modules": list(adapter.head_modules),
            "own_sites": has_own_sites,
        }
    )


def _pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    if not tensors:
        return b""
    # a clone each: safetensors refuses tensors that share memory
    return safetensors.torch.save({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()})


def _refuse_odd_numbers(adapter: Adapter) -> None:
    numbers = {**adapter.vectors, **adapter.head}
    odd = [name for name, tensor in numbers.items() if not torch.isfinite(tensor).all()]
    if odd:
        more = f" (and {len(odd) - 1} others)" if len(odd) > 1 else ""
        raise AdapterError(
            f"{odd[0]!r} holds numbers that are not finite{more}. The training diverged; train again with a lower "
            "learning rate."
        )


@dataclass(frozen=True, eq=False)
class Parts:
    """An adapter as it is written."""

    text: bytes
    row: Tensor  # (plan.width,), float32, or l − 1 in float16 or bfloat16
    tensors: bytes
    stored: Stored
    error: float


@dataclass(frozen=True)
class Metadata:
    """What is known of an adapter beside its numbers.

    Attributes:
        config: What stands in `adapter_config.json`.
        record: What stands in `ia3.json`.
        sites: Where its own vectors sit; those that it lacks are ones in its row.
        head_modules: Paths of the modules that it brings itself.
    """

    config: AdapterConfig
    record: Mapping[str, Any]
    sites: tuple[Site, ...]
    head_modules: tuple[str, ...]
