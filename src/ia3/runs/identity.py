"""What makes two runs the same run, as plain values: base, rows, words and settings; and how two runs differ.

This file knows values and hashes; it knows nothing of folders and models.
"""

from __future__ import annotations

import hashlib
import json
import re
from array import array
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch

from ia3.adapters.record import finite, versions
from ia3.core.sites import Plan
from ia3.data.encoding import Encoded
from ia3.data.examples import Example, Table, ascii_safe
from ia3.runs.dataset import Dataset, SplitTable
from ia3.spelling import first_of
from ia3.training.settings import Settings

_TOKEN_IDS = "token ids (other columns, or another tokenizer)"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_TASKS = "tasks"
_MOST_TOLD = 8  # differences


def parts_of_base(facts: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """Return what counts of the base and of where the vectors sit.

    Args:
        facts: As the record has them: fingerprint, kind, dtype, precision.
        plan: Layout of the rows.
    """
    parts = {name: facts[name] for name in ("kind", "dtype", "precision")}
    sites = f"{len(plan.sites)} sites {hash_of(repr(site).encode() for site in plan.sites)}"
    return {"base": facts["fingerprint"], **parts, "sites": sites}


def parts_of_dataset(dataset: Dataset) -> dict[str, Any]:
    """Return what counts of the rows of a task and of the words around them."""
    rows, encoding = dataset.rows, dataset.encoding
    parts: dict[str, Any] = {
        "rows": _rows_in_words(rows.train),
        "eval rows": None if rows.held_out is None else _rows_in_words(rows.held_out),
        "labels": rows.labels,
        **encoding.template.to_json(),
        "max_length": encoding.max_length,
        _TOKEN_IDS: hash_of(map(ids_of, (*dataset.train, *dataset.held_out, *chain.from_iterable(dataset.variants)))),
    }
    if encoding.choices_column is not None:
        parts["choices"] = hash_of(repr(e.choices).encode() for e in (*rows.train.examples, *_measured(rows)))
    if dataset.others:
        parts["further templates"] = [other.template.to_json() for other in dataset.others]
    return {name: finite(value) for name, value in parts.items()}


def _measured(rows: SplitTable) -> Iterable[Example]:
    return () if rows.held_out is None else rows.held_out.examples


def parts_of_settings(settings: Settings) -> dict[str, Any]:
    """Return what counts of the settings."""
    return {name: finite(value) for name, value in settings.to_json().items()}


def digest_of(parts: Mapping[str, Any]) -> str:
    """Return the hash by which a checkpoint names its run."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return in words how two runs differ, each difference with both values."""
    found = _of_one(old, new, "")
    before, after = (run.get(_TASKS) or {} for run in (old, new))
    gone, come = (sorted({*a} - {*b}) for a, b in ((before, after), (after, before)))
    found += [f"task {name!r} is no longer there" for name in gone] + [f"task {name!r} is new" for name in come]
    for name in before:
        if name in after:
            found += _of_one(before[name], after[name], f"{_short_text(name)}: ")
    return first_of(found, _MOST_TOLD)


def _of_one(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> list[str]:
    names = [name for name in sorted({*old, *new} - {_TASKS}) if old.get(name) != new.get(name)]
    told = [name for name in names if name != _TOKEN_IDS] or names  # what changed those stands there already
    return [f"{where}{name} was {_short(old.get(name))} and is {_short(new.get(name))}" for name in told]


def _short(value: Any) -> str:
    return _short_text(_DIGEST.sub(lambda match: match[0][:12], json.dumps(value, ensure_ascii=False)))


def _short_text(text: str) -> str:
    return ascii_safe(text if len(text) <= 60 else text[:59] + "…")


def place() -> dict[str, Any]:
    """Return what the last bits of a run depend on beside what is trained on what."""
    return {"versions": versions(), "threads": torch.get_num_threads()}


def differences_of_place(start: Mapping[str, Any]) -> list[str]:
    """Return in words how the place where a run began differs from here."""
    old = {**(start.get("versions") or {}), "threads": start.get("threads")}
    new = {**versions(), "threads": torch.get_num_threads()}
    return [f"{name} {old.get(name)}, now {value}" for name, value in new.items() if old.get(name) != value]


def _rows_in_words(table: Table) -> str:
    return f"{len(table.examples)} rows {table.fingerprint}"


def ids_of(encoded: Encoded) -> bytes:
    """Return what the base reads and answers of one example, apart from every other."""
    numbers = (len(encoded.prompt_ids), *encoded.prompt_ids, len(encoded.target_ids), *encoded.target_ids)
    return array("q", (*numbers, encoded.choice)).tobytes()


def hash_of(parts: Iterable[bytes]) -> str:
    """Return the sha256 of some bytes, one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
