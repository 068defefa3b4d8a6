"""A hub id at a revision, `NAME@REVISION`: the one spelling, for bases, adapters and data sets, and what the cache has.

A revision is a branch, a tag, a pull request (`refs/pr/1`) or a commit, whose first seven digits are enough where the
hub's cache has the commit. What exists on this machine under a name with an @ is that, and no revision of anything.
This file knows names and the layout of the hub's cache; it asks no hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ia3.errors import BaseError, IA3Error
from ia3.spelling import first_of

MAIN = "main"  # the revision that an id without one means
_SPELLED = re.compile(r"(?P<name>\w[\w.-]*(?:/[\w.-]+)*)@(?P<revision>.*)", re.DOTALL)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHORT = re.compile(r"[0-9a-f]{7,39}")
_NOTED = "_ia3_revision"  # attribute of a model that was loaded from the hub: its revision, or None
_SHOWN = 8


def split_revision(name: str) -> tuple[str, str | None]:
    """Return a name and the revision that is spelled behind it, or None.

    Example:
        >>> split_revision("owner/name@refs/pr/1"), split_revision("owner/name")
        (('owner/name', 'refs/pr/1'), ('owner/name', None))
    """
    match = _SPELLED.fullmatch(name)
    if match is None or Path(name).exists():
        return name, None
    return match["name"], match["revision"]


def at_revision(name: str, revision: str | None) -> str:
    """Return the spelling of a name at a revision; without one the name."""
    return name if revision is None else f"{name}@{revision}"


def agreed_revision(
    name: str, revision: str | None, doing: str, error: type[IA3Error] = BaseError
) -> tuple[str, str | None]:
    """Return a name without its revision, and the revision that is spelled behind it or given beside it.

    Raises:
        error: If both are there and differ, or it is empty.
    """
    bare, spelled = split_revision(name)
    if "" in (spelled, revision):
        raise error(f"{doing}: the revision is empty, expected a branch, a tag or a commit: {bare}@REVISION.")
    if None not in (spelled, revision) and spelled != revision:
        raise error(f"{doing}: it names revision {spelled!r}, and revision={revision!r} is given. Give one of them.")
    return bare, spelled if revision is None else revision


def note_revision(model: Any, revision: str | None) -> None:
    """Keep on a model that was loaded from the hub at which revision it was; None is main."""
    setattr(model, _NOTED, revision)


def revision_of(model: Any) -> str | None:
    """Return the revision that was noted on a model, if there is one."""
    found: str | None = vars(model).get(_NOTED)
    return found


def address_of(model: Any) -> str:
    """Return what a model was loaded from, with its revision where it is known, for people."""
    name = getattr(model, "name_or_path", None) or type(model).__name__
    return at_revision(str(name), revision_of(model))


def address_in(base: Mapping[str, Any]) -> str | None:
    """Return the name of a base with its revision, as a base is asked for, from what a record says of it."""
    return at_revision(base["name"], base.get("revision")) if base.get("name") else None


def is_at_another(base: Mapping[str, Any], model: Any) -> bool:
    """Whether a record says of a base that it is a model's, at another revision.

    For records without a fingerprint, which would decide. Of a model that was not loaded from the hub by this package
    the revision is not known, nor of a record that names none.
    """
    name = getattr(model, "name_or_path", None)
    if _NOTED not in vars(model):
        return False
    return differ(base, {"name": name, "revision": revision_of(model) or MAIN})


def differ(base: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records name one hub id at two revisions, which are two commits as far as the hub's cache tells."""
    names, revisions = (base.get("name"), other.get("name")), [base.get("revision"), other.get("revision")]
    if names[0] is None or names[0] != names[1] or None in revisions or revisions[0] == revisions[1]:
        return False
    cache = CachedRepository.read(names[0])
    one, two = (cache.commit_of(str(revision)) or revision for revision in revisions)
    return one != two


@dataclass(frozen=True)
class CachedRepository:
    """What the hub's cache has of one id.

    Attributes:
        hub_id: The id.
        refs: Commit of each branch, tag and pull request that was fetched by its name.
        commits: Those with files.
    """

    hub_id: str
    refs: Mapping[str, str]
    commits: tuple[str, ...]

    @classmethod
    def read(cls, hub_id: str, kind: str = "model") -> CachedRepository:
        """Return what the cache has; nothing is there of an id that was never fetched."""
        from huggingface_hub import constants  # not above: names are read without it, which takes no time
        from huggingface_hub.file_download import repo_folder_name

        folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=hub_id, repo_type=kind)
        refs = folder / "refs"
        named = {
            path.relative_to(refs).as_posix(): path.read_text().strip() for path in refs.rglob("*") if path.is_file()
        }
        snapshots = folder / "snapshots"
        there = sorted(path.name for path in snapshots.iterdir()) if snapshots.is_dir() else []
        return cls(hub_id, dict(sorted(named.items())), tuple(there))

    def commit_of(self, revision: str) -> str | None:
        """Return the commit of a name, or of a commit's first digits; None where the cache does not know it."""
        if revision in self.refs:
            return self.refs[revision]
        if _COMMIT.fullmatch(revision):
            return revision
        found = self._of_digits(revision)
        return found[0] if len(found) == 1 else None

    def full(self, revision: str, doing: str, error: type[IA3Error] = BaseError) -> str:
        """Return a revision with all digits, if it is the first digits of a commit that is there; else as it is.

        Raises:
            error: If several commits begin so.
        """
        found = self._of_digits(revision)
        if len(found) > 1:
            raise error(f"{doing}: several commits begin with {revision!r}: {' and '.join(found)}. Give more digits.")
        return found[0] if found else revision

    def _of_digits(self, revision: str) -> list[str]:
        if revision in self.refs or not _SHORT.fullmatch(revision):
            return []
        return [commit for commit in dict.fromkeys((*self.commits, *self.refs.values())) if commit.startswith(revision)]

    def others(self, revision: str | None) -> str:
        """Return in words that a revision is not there and which others are, to be named instead; "" if none are."""
        wanted = revision or MAIN
        there = [ref for ref, commit in self.refs.items() if commit in self.commits]
        there += [commit for commit in self.commits if commit not in self.refs.values()]
        there = [one for one in there if one != wanted]
        if not there:
            return ""
        shown = first_of(map(repr, there), _SHOWN)
        how = "is there without its files" if wanted in self.refs else "is not there"
        which = "revision" if len(there) == 1 else "the revisions"
        return (
            f"the hub's cache has {self.hub_id} at {which} {shown} ({wanted!r} {how}); name the one you want, as in "
            f"{at_revision(self.hub_id, there[0])}"
        )
