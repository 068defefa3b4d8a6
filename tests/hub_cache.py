"""A hub's cache as the hub's client lays it out: commits as folders of links to blobs, and refs that name them.

cache = HubCache(tmp_path / "hub")
folder = cache.put("owner/name", OLD, source, refs=("v1", "refs/pr/1"))
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.models import save_tiny_base

OLD, NEW = "a1" * 20, "b2" * 20


class HubCache:
    """What was fetched from a hub that cannot be asked any more."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, hub_id: str, commit: str, source: Path, refs: Sequence[str] = (), folder: str = "") -> Path:
        """Lay out the files of a folder as a commit of a model, or as a folder in it, and return where they are."""
        repository = self.root / f"models--{hub_id.replace('/', '--')}"
        place = repository / "snapshots" / commit / folder
        blobs = repository / "blobs"
        for made in (place, blobs):
            made.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
            blob.write_bytes(file.read_bytes())
            (place / file.name).symlink_to(blob)
        for ref in refs:
            self.point(hub_id, ref, commit)
        return place

    def point(self, hub_id: str, ref: str, commit: str) -> None:
        """Let a branch, tag or pull request name a commit."""
        path = self.root / f"models--{hub_id.replace('/', '--')}" / "refs" / ref
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)


def offline_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """Return an empty cache that the hub's client uses, without a hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return HubCache(root)


def two_commits(hub_id: str, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """Work in a folder with a cache of one base at two commits with other weights; the older has two names."""
    monkeypatch.chdir(folder)
    cache = offline_cache(folder / "hub", monkeypatch)
    cache.put(hub_id, OLD, save_tiny_base(folder / "old", kind, 1), refs=("v1", "same"))
    cache.put(hub_id, NEW, save_tiny_base(folder / "new", kind, 2), refs=("main",))
    return cache
