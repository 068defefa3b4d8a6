"""Small adapters of one base without any model, and stores of them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from ia3.adapters.adapter import Adapter
from ia3.adapters.config import AdapterConfig
from ia3.adapters.store import Store, create_store
from ia3.adapters.store_tables import Facts
from ia3.core.sites import Channels, Plan, Site
from ia3.errors import AdapterError
from tests.adapters.examples import assert_same, spread, whole

BASE = {"name": "owner/base", "fingerprint": "ab" * 32, "kind": "encoder", "head_modules": ["classifier"]}
SITES = (
    Site("a.0.c_attn", "output", "key", Channels.span(2, 2, 6), 6),
    Site("a.0.c_attn", "output", "value", Channels.span(4, 2, 6), 6),
    whole("a.0.up", "output", 5, "feedforward", peft=("a.0.down", "input")),
    whole("a.0.fc2", "input", 3, "feedforward"),
)
PLAN = Plan(SITES, "toy", "family")


def small(number: int, sites: tuple[Site, ...] = SITES, base: dict[str, Any] | None = BASE, **more: Any) -> Adapter:
    """Return an adapter made of a number; every second one has a head."""
    vectors = {site.name: spread(site.width, 10 * number + i) for i, site in enumerate(sites)}
    head = {"classifier.weight": spread((2, 3), number).to(torch.bfloat16)} if number % 2 else {}
    config = AdapterConfig(
        base_model_name_or_path="owner/base", target_modules=("c_attn", "up", "fc2"), feedforward_modules=("fc2",),
        modules_to_save=("classifier",) if head else None, extra={"of_a_later_peft": [number]},
    )  # fmt: skip
    record = {} if base is None else {"base": base, "labels": ["ja", "nein"], "metrics": {"accuracy": number / 10}}
    return Adapter(sites, vectors, head, ("classifier",) if head else (), config, record, **more)


def small_store(path: Path, *names: str, **options: Any) -> Store:
    """Return a store whose adapters are `small(0)`, `small(1)`, …, under these names."""
    return create_store(path, PLAN, adapters={name: small(i) for i, name in enumerate(names)}, **options)


def damage(path: Path, name: str, part: str) -> None:
    """Flip one bit of a part of an adapter, as a disk might: SQLite does not notice."""
    with closing(sqlite3.connect(path)) as file:
        [[facts]] = file.execute("SELECT facts FROM names WHERE name = ?", (name,)).fetchall()
        number = Facts.read(facts).adapter
        [[content]] = file.execute(f"SELECT {part} FROM adapters WHERE id = ?", (number,)).fetchall()
        changed = bytes([content[0] ^ 1]) + content[1:]
        file.execute(f"UPDATE adapters SET {part} = ? WHERE id = ?", (changed, number))
        file.commit()


def assert_holds(store: Store, adapters: dict[str, Adapter]) -> None:
    """Raise unless a store holds these adapters, in this order, to the last bit."""
    assert store.names == tuple(adapters)
    for name, adapter in adapters.items():
        assert_same(store.adapter(name), adapter)


def reads(store: Store, name: str, want: Adapter) -> bool:
    """Return whether an adapter can be read; raise if it is then another one, or if the error does not name it."""
    try:
        got = store.adapter(name)
    except AdapterError as error:
        assert repr(name) in str(error) and str(store.path) in str(error)
        return False
    assert_same(got, want)
    return True
