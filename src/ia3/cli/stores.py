"""`ia3 adapters list`, `remove`, `rename`, `verify`, `compact` and `convert`: what is in a packed store, and its order.

None of them imports torch; listing reads names and, with `--long`, the records, never the vectors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ia3.cli.options import add, add_json
from ia3.cli.output import print_lines, print_result
from ia3.cli.parsing import Verb
from ia3.errors import AdapterError
from ia3.names import CONFIG_FILE, RECORD_FILE
from ia3.spelling import align_columns, count_of, percent, size_in_words

if TYPE_CHECKING:
    from ia3.adapters.store_file import StoreFile

_MUCH = 0.1  # share of a file that is worth compacting away


def configure_list(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `list`."""
    add(parser, "store")
    group = parser.add_argument_group("what is shown")
    group.add_argument(
        "--long", action="store_true", help="Read each adapter's record as well: labels, data, accuracy."
    )
    add_json(parser, "the list")


def configure_remove(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `remove`."""
    add(parser, "store")
    parser.add_argument("names", metavar="NAME", nargs="+", help="Adapters to take out.")


def configure_rename(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rename`."""
    add(parser, "store")
    parser.add_argument("name", metavar="NAME", help="Adapter.")
    parser.add_argument("new", metavar="NEW", help="Its new name.")


def configure_verify(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `verify`."""
    add(parser, "store")
    add_json(parser, "what is damaged")


def configure_compact(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `compact`."""
    add(parser, "store")


def configure_convert(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `convert`."""
    parser.add_argument("old", metavar="OLD", help="Packed store of an earlier ia3; it stays as it is.")
    parser.add_argument("new", metavar="NEW", help="File to write; must be new.")


def run_list(options: argparse.Namespace) -> int:
    """Show what a store holds."""
    store = _open(options)
    adapters = [_describe(store, name, is_long=options.long) for name in store.state.lines]
    shared = _describe_store(store)
    lines = [_told(shared)]
    if adapters:
        lines += ["", *_table(adapters, is_long=options.long)]
    unused = shared["unused_bytes"]
    if unused > _MUCH * shared["bytes"]:
        lines += ["", f"{size_in_words(unused)} belong to no adapter; 'ia3 adapters compact' gives them back."]
    print_result(options, {**shared, "adapters": adapters}, lines)
    return 0


def run_remove(options: argparse.Namespace) -> int:
    """Take adapters out of a store."""
    from ia3.adapters.store_writing import remove_adapters

    store = remove_adapters(_open(options), options.names)
    print_lines([f"{store.path}: {_count(store)} left"])
    return 0


def run_rename(options: argparse.Namespace) -> int:
    """Give an adapter another name."""
    from ia3.adapters.store_writing import rename_adapter

    store = rename_adapter(_open(options), options.name, options.new)
    print_lines([f"{store.path}: {options.name!r} is now {options.new!r}"])
    return 0


def run_verify(options: argparse.Namespace) -> int:
    """Read everything in a store and tell what is damaged."""
    store = _open(options)
    found = store.find_damage()
    damaged = list(dict.fromkeys(damage.name for damage in found if damage.name is not None))
    count = len({*store.state.lines, *damaged})
    all_of_it = count_of(count, "adapter")
    lines = [f"{store.path}: {count - len(damaged):,} of {all_of_it} whole"]
    lines += [f"damaged: {f'{d.name!r}, ' if d.name is not None else ''}{d.what}" for d in found]
    parts = [{"name": damage.name, "part": damage.what} for damage in found]
    print_result(options, {"store": str(store.path), "adapters": count, "damage": parts}, lines)
    if damaged:
        raise AdapterError(
            f"Verifying {store.path}: {len(damaged)} of {all_of_it} damaged. Take another copy of the file, or "
            "remove them and add them again."
        )
    if found:
        raise AdapterError(
            f"Verifying {store.path}: every adapter that is read is whole, and other parts of the file are damaged. "
            "Take another copy of the file, or have what is there written anew: ia3 adapters compact."
        )
    return 0


def run_compact(options: argparse.Namespace) -> int:
    """Write a store anew without what was removed."""
    from ia3.adapters.store_writing import compact_store_file

    old = _open(options)
    before = size_in_words(old.size)
    store = compact_store_file(old, f"Compacting {old.path}")
    print_lines([f"{store.path}: {_count(store)}, {before} before, {size_in_words(store.size)} now"])
    return 0


def run_convert(options: argparse.Namespace) -> int:
    """Make a store of one that an earlier ia3 has written."""
    from ia3.adapters.store_before import read_before
    from ia3.adapters.store_file import unpack_text
    from ia3.adapters.store_writing import Writer, create_store_file

    doing = f"Converting {options.old}"
    adapters = read_before(Path(options.old).expanduser(), doing)
    _, shared = next(adapters)
    width = json.loads(unpack_text(shared.text)[RECORD_FILE])["plan"]["width"]

    def write(writer: Writer) -> None:
        writer.describe(shared.text)
        for name, adapter in adapters:
            writer.add(name, *adapter)

    store = create_store_file(Path(options.new).expanduser(), doing, 4 * width, write)
    print_lines([f"{store.path}: {_count(store)}, {size_in_words(store.size)}"])
    return 0


def _open(options: argparse.Namespace) -> StoreFile:
    from ia3.adapters.store_file import open_store_file

    return open_store_file(Path(options.store).expanduser())


def _describe_store(store: StoreFile) -> dict[str, Any]:
    content = store.description
    record = json.loads(content[RECORD_FILE])
    return {
        "store": str(store.path),
        "base": record["base"],
        "width": record["plan"]["width"],
        "bytes": store.size,
        "unused_bytes": store.unused_bytes(),
    }


def _describe(store: StoreFile, name: str, *, is_long: bool) -> dict[str, Any]:
    from ia3.adapters.store_tables import Stored

    facts = store.facts(name)
    found = {"name": name, "stored": Stored(facts.stored).name.lower(), "error": facts.error, "bytes": facts.size}
    if not is_long:
        return found
    text = store.text(name)
    record = json.loads(text[RECORD_FILE])
    return found | {
        "head_modules": text["head_modules"],
        "record": {key: value for key, value in record.items() if key not in ("format_version", "weights", "plan")},
        "config": json.loads(text[CONFIG_FILE]),
    }


def _told(shared: Mapping[str, Any]) -> str:
    from ia3.bases.revisions import address_in

    base = shared["base"]
    parts = [address_in(base) or "a base without a name", base.get("kind")]
    parts.append(f"fingerprint {base['fingerprint'][:12]}" if base.get("fingerprint") else "fingerprint not known")
    told = ", ".join(part for part in parts if part)
    return f"{shared['store']}: {told}; {shared['width']:,} numbers an adapter, {size_in_words(shared['bytes'])}"


def _table(adapters: list[dict[str, Any]], *, is_long: bool) -> list[str]:
    heading = ("name", "stored", "error", "size", *(("labels", "trained on", "accuracy", "created") if is_long else ()))
    rows = [heading]
    for adapter in adapters:
        error = f"{adapter['error']:.2g}" if adapter["error"] else "0"
        row = (adapter["name"], adapter["stored"], error, size_in_words(adapter["bytes"]))
        rows.append((*row, *_recorded(adapter["record"])) if is_long else row)
    return align_columns([tuple(map(_plain, row)) for row in rows], right=[2, 3])


def _recorded(record: Mapping[str, Any]) -> tuple[str, ...]:
    labels, data, metrics = record.get("labels") or (), record.get("data") or {}, record.get("metrics") or {}
    accuracy = metrics.get("accuracy")
    return (
        f"{', '.join(labels[:4])}{', …' if len(labels) > 4 else ''}",
        str(data.get("name") or ""),
        "" if accuracy is None else percent(accuracy),
        str(record.get("created") or "")[:10],
    )


def _plain(text: str) -> str:
    """Return a text on one line."""
    return text if text.isprintable() else repr(text)


def _count(store: StoreFile) -> str:
    return count_of(len(store.state.lines), "adapter")


VERBS = (
    Verb(
        name="list",
        summary="List the adapters of a packed store.",
        usage="STORE [OPTIONS]",
        examples=("ia3 adapters list news.ia3", "ia3 adapters list news.ia3 --long --json > news.json"),
        configure=configure_list,
        run=run_list,
    ),
    Verb(
        name="remove",
        summary="Take adapters out of a packed store.",
        usage="STORE NAME [NAME …]",
        examples=("ia3 adapters remove news.ia3 a b",),
        configure=configure_remove,
        run=run_remove,
    ),
    Verb(
        name="rename",
        summary="Give an adapter of a packed store another name.",
        usage="STORE NAME NEW",
        examples=("ia3 adapters rename news.ia3 a customer-7",),
        configure=configure_rename,
        run=run_rename,
    ),
    Verb(
        name="verify",
        summary="Read a whole packed store against its checksums.",
        usage="STORE [OPTIONS]",
        examples=("ia3 adapters verify news.ia3", "ia3 adapters verify news.ia3 --json"),
        configure=configure_verify,
        run=run_verify,
    ),
    Verb(
        name="compact",
        summary="Write a packed store anew without what was removed and replaced.",
        usage="STORE",
        examples=("ia3 adapters compact news.ia3",),
        configure=configure_compact,
        run=run_compact,
    ),
    Verb(
        name="convert",
        summary="Make a packed store of one that an earlier ia3 has written.",
        usage="OLD NEW",
        examples=("ia3 adapters convert news.ia3 news-2.ia3",),
        configure=configure_convert,
        run=run_convert,
    ),
)
