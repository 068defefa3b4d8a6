"""`ia3 adapters import`: an adapter of T-Few's code or of AdapterHub's library, written as an ordinary folder."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ia3.cli.adapter_output import add_output, check_output, write_adapter
from ia3.cli.options import add_json, add_placement
from ia3.cli.output import print_json, print_lines, say
from ia3.cli.parsing import Verb

if TYPE_CHECKING:
    from ia3.adapters.adapter import Adapter


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "path", metavar="PATH", help="A .pt checkpoint of T-Few, a folder of AdapterHub's library, or one of PEFT's."
    )
    group = parser.add_argument_group("base")
    group.add_argument(
        "--base",
        required=True,
        metavar="BASE",
        help="The base it was trained on: folder, GGUF file, named base or hub id.",
    )
    add_placement(group, reads_only=True)
    group = parser.add_argument_group("labels and head")
    group.add_argument(
        "--labels",
        nargs="+",
        metavar="LABEL",
        help="The label set, where the file does not say it; an encoder's in the order of its head.",
    )
    group.add_argument("--without-head", action="store_true", help="Leave the head out.")
    add_output(parser.add_argument_group("folder"))
    add_json(parser, "what was written")


def run(options: argparse.Namespace) -> int:
    """Import an adapter and write it."""
    from ia3.adapters.importing import detect_format, import_adapter, read_foreign
    from ia3.bases.kinds import kind_of
    from ia3.bases.loading import load_base, load_config

    folder = check_output(options.output, overwrite=options.overwrite)
    library = detect_format(options.path)
    foreign = read_foreign(options.path, with_head=not options.without_head)  # before the base is loaded
    labels = options.labels or (list(foreign.labels) if foreign and foreign.labels else None)
    kind = kind_of(load_config(options.base, say=say))
    base = load_base(
        options.base,
        kind=kind,
        labels=labels if kind == "encoder" else None,
        dtype=options.dtype,
        device=options.device,
        say=say,
    )
    adapter = import_adapter(
        options.path,
        base.model,
        base_name=base.given,
        head_modules=base.head_modules,
        with_head=not options.without_head,
    )
    if labels:
        adapter = replace(adapter, record={**adapter.record, "labels": labels})
    write_adapter(adapter, folder, overwrite=options.overwrite)
    found = _describe(adapter, library, str(folder))
    if options.json:
        print_json(found)
    else:
        head = f", head {', '.join(adapter.head_modules)}" if adapter.head_modules else ""
        print_lines([f"{folder}: {library} adapter of {base.given}, {found['vectors']} vectors{head}"])
    return 0


def _describe(adapter: Adapter, library: str, folder: str) -> dict[str, Any]:
    return {
        "output": folder,
        "format": library,
        "base": adapter.base_name,
        "labels": adapter.record.get("labels"),
        "vectors": len(adapter.vectors),
        "parameters": adapter.parameters,
        "head_modules": list(adapter.head_modules),
    }


VERB = Verb(
    name="import",
    summary="Turn an adapter of T-Few's code or of AdapterHub's library into an ordinary one.",
    usage="PATH --base BASE --output DIR [OPTIONS]",
    examples=(
        "ia3 adapters import exp_out/t03b_rte/finish.pt --base bigscience/T0_3B --output runs/rte",
        "ia3 adapters import hub/sst2 --base bert-base-uncased --output runs/sst2",
    ),
    configure=configure,
    run=run,
)
