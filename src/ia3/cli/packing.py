"""`ia3 adapters pack`, `add` and `unpack`: adapter folders into a packed store, and out of it again."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ia3.cli.options import add, add_json
from ia3.cli.output import print_result, say
from ia3.cli.parsing import UsageError, Verb
from ia3.cli.progress import Progress
from ia3.errors import AdapterError, RunError
from ia3.names import CONFIG_FILE, PICKLED_FILE, RECORD_FILE, STORED, WEIGHTS_FILE
from ia3.spelling import count_of, first_of, size_in_words

if TYPE_CHECKING:
    from ia3.adapters.adapter import Adapter
    from ia3.adapters.store import Store
    from ia3.core.sites import Plan

_PARTS = (CONFIG_FILE, WEIGHTS_FILE, PICKLED_FILE, RECORD_FILE)
_SHOWN = 5
_UNSAFE = frozenset('/\\%:*?"<>|')  # in the name of a folder, here or on another system


def configure_pack(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pack`."""
    _add_store_and_folders(parser, "File to write; must be new.")
    _add_options(parser.add_argument_group("base and storage"))
    add_json(parser, "what was packed")


def configure_add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `add`."""
    _add_store_and_folders(parser, "Packed store to add to.")
    group = parser.add_argument_group("names, base and storage")
    group.add_argument("--name", metavar="NAME", help="Name of the adapter (default: its folder's).")
    group.add_argument("--replace", action="store_true", help="Put it in the place of one that has its name.")
    _add_options(group)
    add_json(parser, "what was added")


def configure_unpack(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `unpack`."""
    add(parser, "store")
    parser.add_argument("names", metavar="NAME", nargs="*", help="Adapters to write (default: all).")
    group = parser.add_argument_group("where")
    words = {"what": "Folder for a folder of each adapter", "replaced": "adapters that are there"}
    add(group, "--output", "--overwrite", words=words)
    add_json(parser, "what was written")


def _add_store_and_folders(parser: argparse.ArgumentParser, what: str) -> None:
    add(parser, "store", help=what)
    parser.add_argument(
        "folders",
        metavar="FOLDER",
        nargs="+",
        help="Adapter folder of ours or PEFT's, or a folder of them; each is called by its folder's name.",
    )


def _add_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--base",
        metavar="BASE",
        help="Compare every adapter with this base, and store rows in its plan (default: compare them with what the "
        "others record).",
    )
    group.add_argument("--half", action="store_true", help="Store l − 1 in two bytes a number; the error is told.")


def run_pack(options: argparse.Namespace) -> int:
    """Pack folders into a new store."""
    from ia3.adapters.folder import load_adapter
    from ia3.adapters.store import create_store

    folders = find_folders(options.folders)
    recorded = [path for path in folders.values() if (path / RECORD_FILE).exists()]
    base = _Base.find(options.base, load_adapter((recorded or [*folders.values()])[0]))
    source = _Source(folders, base.model)
    path = Path(options.store).expanduser()
    with source.progress:
        store = create_store(path, base.plan, base=base.known, adapters=source.load(), half=options.half)
    _report(options, store, folders, source)
    return 0


def run_add(options: argparse.Namespace) -> int:
    """Add folders to a store."""
    from ia3.adapters.folder import load_adapter
    from ia3.adapters.store import Store

    folders = find_folders(options.folders)
    if options.name is not None:
        if len(folders) != 1:
            raise UsageError(f"adapters add: --name names one adapter, got {len(folders)}. Add them one by one.")
        folders = {options.name: next(iter(folders.values()))}
    store = Store.open(Path(options.store).expanduser())
    base = _Base.find(options.base, load_adapter(next(iter(folders.values())))) if options.base else None
    if base is not None:
        store.check_base(base.model, f"Adding to {store.path}")
    source = _Source(folders, base.model if base else None)
    with source.progress:
        store.append_many(source.load(), half=options.half, replaces=options.replace)
    _report(options, store, folders, source)
    return 0


def run_unpack(options: argparse.Namespace) -> int:
    """Write adapters of a store as folders."""
    from ia3.adapters.folder import save_adapter
    from ia3.adapters.store import Store

    store = Store.open(Path(options.store).expanduser())
    names = [*dict.fromkeys(options.names)] or [*store.names]
    for name in names:
        store.stored(name)  # an unknown one is told before anything is written
    output = Path(options.output).expanduser()
    folders = {name: output / folder_name(name) for name in names}
    if not options.overwrite:
        _refuse_used(output, folders.values())
    with Progress(len(names), "adapters") as progress:
        for name, folder in folders.items():
            save_adapter(store.adapter(name), folder)
            progress.advance()
    lines = [f"{output}: {count_of(len(names), 'adapter')} of {store.path}"]
    lines += [f"{name!r} lies in {folder.name!r}" for name, folder in folders.items() if folder.name != name]
    found = {"store": str(store.path), "folders": {name: str(folder) for name, folder in folders.items()}}
    print_result(options, found, lines)
    return 0


def find_folders(given: Sequence[str]) -> dict[str, Path]:
    """Return adapters' folders by the names they will have: those given, and those in folders that are given.

    Raises:
        AdapterError: If one is no adapter and holds none, or two have one name.
    """
    from ia3.adapters.places import find_folder, name_of

    found: dict[str, Path] = {}
    for name in given:
        path = Path(name).expanduser()
        inner = [] if _is_adapter(path) or not path.is_dir() else sorted(p for p in path.iterdir() if _is_adapter(p))
        fetched = [] if inner else [find_folder(path if path.is_dir() else name)]
        for folder in inner or fetched:
            called = folder.name if inner else name_of(path)
            if called in found and found[called].resolve() != folder.resolve():
                raise AdapterError(
                    f"Packing {folder}: {found[called]} is called {called!r} as well, expected another name for each. "
                    "Rename a folder, or add it with --name."
                )
            found[called] = folder
    return found


def folder_name(name: str) -> str:
    """Return the folder's name for an adapter: its own, with what no folder can have written as in an address.

    Example:
        >>> folder_name("customer 7"), folder_name("eu/news"), folder_name("..")
        ('customer 7', 'eu%2Fnews', '%2E%2E')
    """
    from urllib.parse import quote

    if not name.strip("."):
        return name.replace(".", "%2E")
    return "".join(quote(c, safe="") if c in _UNSAFE or not c.isprintable() else c for c in name)


def _is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, or a part of one."""
    return any((folder / part).exists() for part in _PARTS)


def _refuse_used(output: Path, folders: Iterable[Path]) -> None:
    used = [folder.name for folder in folders if folder.exists() and (not folder.is_dir() or any(folder.iterdir()))]
    if used:
        raise RunError(
            f"Unpacking into {output}: {some(used)} there already, expected new or empty folders. Give --overwrite, or "
            "another --output."
        )


def some(names: Sequence[str]) -> str:
    """Return names as the beginning of a sentence that tells something of them."""
    return f"{first_of(map(repr, names), _SHOWN)} {'is' if len(names) == 1 else 'are'}"


def _report(options: argparse.Namespace, store: Store, folders: Mapping[str, Path], source: _Source) -> None:
    """Tell what is now in a store."""
    stored = {name: store.stored(name) for name in folders}
    if source.unknown:
        say(
            f"{some(source.unknown)} of a base that is not recorded, as PEFT's folders are: names and widths of their "
            "modules fit; whether it is this base is not known."
        )
    adapters = [{"name": n, "stored": kind.name.lower(), "error": error} for n, (kind, error) in stored.items()]
    found = {"store": str(store.path), "base": store.base, "width": store.plan.width, "adapters": adapters}
    size = size_in_words(store.path.stat().st_size)
    lines = [f"{store.path}: {count_of(len(store), 'adapter')} of {store.plan.width:,} numbers, {size}"]
    if len(folders) < len(store):
        lines.append(f"new: {count_of(len(folders), 'adapter')}")
    for kind in dict.fromkeys(kind for kind, _ in stored.values() if kind.size == 2):
        errors = [error for other, error in stored.values() if other is kind]
        lines.append(f"{kind.words}: {count_of(len(errors), 'adapter')}, largest error of a vector {max(errors):.2g}")
    print_result(options, found, lines)


@dataclass(frozen=True)
class _Base:
    """What the adapters of a store share."""

    plan: Plan
    known: Mapping[str, Any]  # of the base
    model: Any = None  # the base itself, if it was asked for

    @classmethod
    def find(cls, name: str | None, first: Adapter) -> _Base:
        """Load the base of this name for an adapter like the first one; without a name take the first one's word."""
        from ia3.core.sites import Plan

        if name is None:
            known = first.base_facts
            has_order = known.get("fingerprint")  # tensors of PEFT's files come in any
            sites = first.sites if has_order else tuple(sorted(first.sites, key=lambda site: site.name))
            return cls(Plan(sites, str(known.get("class") or "unknown"), "adapter"), known)
        from ia3.adapters.record import describe_base
        from ia3.bases.loading import load_base
        from ia3.core.discovery import find_plan

        labels = first.record.get("labels") if first.kind == "encoder" else None
        placed: dict[str, Any] = {"dtype": STORED, "device": "cpu", "pooling": first.pooling}
        base = load_base(name, kind=first.kind, labels=labels, **placed, say=say)
        known = describe_base(base.model, name=base.given, head_modules=base.head_modules) | {"kind": base.kind}
        return cls(find_plan(base.model), known, base.model)


class _Source:
    """Loads adapters from their folders, each when its turn comes.

    Attributes:
        unknown: Names of those that do not record their base, once they are loaded.
        progress: Shows how many were loaded.
    """

    def __init__(self, folders: Mapping[str, Path], model: Any) -> None:
        self.unknown: list[str] = []
        self.progress = Progress(len(folders), "adapters")
        self._folders, self._model = folders, model

    def load(self) -> Iterator[tuple[str, Callable[[], Adapter]]]:
        """Yield each name with the function that loads its adapter."""
        for name, folder in self._folders.items():
            yield name, partial(self._load, name, folder)
            self.progress.advance()

    def _load(self, name: str, folder: Path) -> Adapter:
        from ia3.adapters.folder import load_adapter

        adapter = load_adapter(folder, self._model)
        if not (adapter.record.get("base") or {}).get("fingerprint"):
            self.unknown.append(name)
        return adapter


VERBS = (
    Verb(
        name="pack",
        summary="Pack adapter folders of one base into one file.",
        usage="STORE FOLDER [FOLDER …] [OPTIONS]",
        examples=(
            "ia3 adapters pack news.ia3 runs/",
            "ia3 adapters pack news.ia3 runs/a runs/b --half",
            "ia3 adapters pack news.ia3 from_peft/ --base minilm",
        ),
        configure=configure_pack,
        run=run_pack,
    ),
    Verb(
        name="add",
        summary="Add adapter folders to a packed store.",
        usage="STORE FOLDER [FOLDER …] [OPTIONS]",
        examples=("ia3 adapters add news.ia3 runs/c", "ia3 adapters add news.ia3 runs/c --name a --replace"),
        configure=configure_add,
        run=run_add,
    ),
    Verb(
        name="unpack",
        summary="Write adapters of a packed store as folders, for PEFT as well.",
        usage="STORE [NAME …] --output DIR [OPTIONS]",
        examples=("ia3 adapters unpack news.ia3 --output out", "ia3 adapters unpack news.ia3 a b --output out"),
        configure=configure_unpack,
        run=run_unpack,
    ),
)
