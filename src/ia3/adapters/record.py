"""`ia3.json`: what an adapter was learned from, and where each of its vectors sits.

PEFT's two files say neither which base the vectors belong to nor which channels of a fused projection were learned;
this one does, and holds the checksum of the tensors it describes. The record itself is a plain dict: base, data,
settings, template, labels, metrics, versions, created, and what else a caller adds. This file knows JSON and sites.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from torch import Tensor, nn

from ia3.adapters.config import kind_of_model, read_object
from ia3.adapters.identity import base_fingerprint
from ia3.bases.pooling import pooling_of
from ia3.bases.precision import precision_of
from ia3.bases.revisions import revision_of, split_revision
from ia3.core.sites import Channels, Site
from ia3.errors import AdapterError
from ia3.names import RECORD_FILE

FORMAT_VERSION = 1
# What the folder adds to the record when it is written, and takes off when it is read.
_OF_THE_FOLDER = ("format_version", "weights", "plan")


def make_record(
    base: Mapping[str, Any],
    *,
    data: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    template: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    created: str | None = None,
) -> dict[str, Any]:
    """Return the record of an adapter, with the versions of what made it.

    Args:
        base: As `describe_base` returns it.
        data: The tables: fingerprint, rows, columns.
        settings: Of the training.
        template: Prompt, target and label words.
        labels: The closed set, in the head's order for a classifier.
        metrics: Of the evaluation.
        created: When, in ISO 8601; the caller has the clock.
    """
    return {
        "base": dict(base),
        "data": None if data is None else dict(data),
        "settings": None if settings is None else dict(settings),
        "template": None if template is None else dict(template),
        "labels": None if labels is None else list(labels),
        "metrics": None if metrics is None else dict(metrics),
        "versions": versions(),
        "created": created,
    }


def describe_base(
    model: nn.Module,
    *,
    name: str | None = None,
    head_modules: Sequence[str] = (),
    state: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Return what a record says of a base: name, fingerprint, kind, class, precision, pooling, and its heads.

    A base of the hub at a revision has that as well.

    Args:
        model: The base, with or without a bank.
        name: Hub id, perhaps `NAME@REVISION`, or folder; left out, what the model was loaded from.
        head_modules: Paths of modules that the base's checkpoint does not have.
        state: Whole parameters that are already there, by name; of a sharded model.
    """
    own = getattr(model, "name_or_path", None) or None
    called, revision = split_revision(name) if name else (own, None)
    if called == own:
        revision = revision_of(model) or revision
    return {
        "name": called,
        **({"revision": revision} if revision else {}),
        "fingerprint": base_fingerprint(model, head_modules, state),
        "kind": kind_of_model(model),
        "class": type(model).__name__,
        "precision": precision_of(model),
        "pooling": pooling_of(getattr(model, "config", None)),
        "head_modules": list(head_modules),
    }


def versions() -> dict[str, str]:
    """Return the versions of what an adapter's numbers depend on."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES}


_PACKAGES = ("ia3", "torch", "transformers")


def write_record(record: Mapping[str, Any], sites: Sequence[Site], weights: Mapping[str, str]) -> bytes:
    """Return the content of `ia3.json`; a number that is not finite (a perplexity) becomes null.

    Args:
        record: The adapter's record.
        sites: Where its vectors sit; one line each.
        weights: Name of the file with the tensors, and its sha256.

    Raises:
        AdapterError: If the record holds something that is not JSON.
    """
    content: dict[str, Any] = {"format_version": FORMAT_VERSION}
    content |= {name: finite(value) for name, value in record.items() if name not in _OF_THE_FOLDER}
    content |= {"weights": dict(weights), "plan": {"width": sum(s.width for s in sites), "sites": "…"}}
    try:
        return _dump(content, sites, is_ascii=False).encode()
    except UnicodeEncodeError:  # a label with a lone surrogate
        return _dump(content, sites, is_ascii=True).encode()
    except (TypeError, ValueError) as error:
        raise AdapterError(
            f"Writing {RECORD_FILE}: the record holds something that is not JSON ({error}). Give text, numbers, lists "
            "and dicts."
        ) from error


def _dump(content: Mapping[str, Any], sites: Sequence[Site], *, is_ascii: bool) -> str:
    before, _, after = json.dumps(content, indent=2, ensure_ascii=is_ascii, allow_nan=False).rpartition(
        json.dumps("…", ensure_ascii=is_ascii)
    )
    lines = ",\n".join(f"      {json.dumps(_site_to_json(site), ensure_ascii=is_ascii)}" for site in sites)
    return f"{before}[\n{lines}\n    ]{after}\n"


def finite(value: Any) -> Any:
    """Return a value of plain types as JSON gives it back: null for what is not finite, lists for tuples."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_record(text: str | bytes, where: str) -> tuple[dict[str, Any], tuple[Site, ...], dict[str, str]]:
    """Return the record, the sites and the description of the weights in an `ia3.json`.

    Raises:
        AdapterError: If it is broken, or was written by a later version of this package.
    """
    content = read_object(text, where)
    version = content.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise AdapterError(
            f"Reading {where}: its format has version {version}, this is ia3 {metadata.version('ia3')}, which reads up "
            f"to {FORMAT_VERSION}. Upgrade: pip install --upgrade ia3."
        )
    try:
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version is {version!r}")
        sites = tuple(_site_from_json(site) for site in content["plan"]["sites"])
        weights = {name: str(content["weights"][name]) for name in ("file", "sha256")}
        record = {name: value for name, value in content.items() if name not in _OF_THE_FOLDER}
        _check_types(record)
    except (KeyError, TypeError, ValueError) as error:
        told = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise AdapterError(
            f"Reading {where}: it is not a record of this package: {told}. Save the adapter again, or remove the file "
            "to read the folder as PEFT's."
        ) from error
    return record, sites, weights


def _check_types(record: Mapping[str, Any]) -> None:
    """Raise ValueError for a known entry of another type than it must have."""
    kinds: Mapping[str, type] = {
        "base": dict, "data": dict, "settings": dict, "template": dict, "labels": list, "metrics": dict,
        "versions": dict, "created": str,
    }  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(record.get(name), kind | None):
            raise ValueError(f"{name!r} is {type(record[name]).__name__}, expected {kind.__name__} or null")
    base = record.get("base") or {}
    for name in ("name", "revision", "fingerprint", "kind"):
        if not isinstance(base.get(name), str | None):
            raise ValueError(f"'base.{name}' is {type(base[name]).__name__}, expected text or null")


def _site_to_json(site: Site) -> dict[str, Any]:
    c = site.channels
    return {
        "module": site.module,
        "side": site.side,
        "role": site.role,
        "channels": [c.groups, c.stride, c.start, c.length],
        "features": site.features,
        "where": site.where,
        "peft": site.peft,
        "twin": site.twin,
    }


def _site_from_json(content: Mapping[str, Any]) -> Site:
    if content["side"] not in ("output", "input"):
        raise ValueError(f"a site has side {content['side']!r}")
    channels = Channels(*map(int, content["channels"]))
    features = int(content["features"])
    if not 0 < channels.width <= features or channels.indices()[-1] >= features:
        raise ValueError(f"site {content['module']!r} has channels {content['channels']} of {features}")
    peft, twin = (tuple(place) if place else None for place in (content["peft"], content["twin"]))
    return Site(
        str(content["module"]), content["side"], str(content["role"]), channels, features, str(content["where"]),
        peft, twin,
    )  # fmt: skip
