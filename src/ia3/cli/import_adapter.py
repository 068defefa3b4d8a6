"""`ia3 adapters import`: an adapter of T-Few's code or of AdapterHub's library, written as an ordinary folder."""

from __future__ import annotations

import argparse
from dataclasses import replace

from ia3.cli.adapter_output import adapter_facts, add_output, check_output, write_adapter
from ia3.cli.options import add, add_json
from ia3.cli.output import print_result, say
from ia3.cli.parsing import Verb
from ia3.names import DTYPES, STORED


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "path", metavar="PATH", help="A .pt checkpoint of T-Few, a folder of AdapterHub's library, or one of PEFT's."
    )
    group = parser.add_argument_group("base")
    add(group, "--base", words={"base": "The base it was trained on"}, required=True)
    stored = {"rest": "; stored leaves the weights in their files, in the type they have there"}
    add(group, "--dtype", words=stored, choices=(STORED, *DTYPES), default=STORED)  # the base is never run
    add(group, "--device", default="cpu")
    group = parser.add_argument_group("labels and head")
    add(group, "--labels")
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
    head = f", head {', '.join(adapter.head_modules)}" if adapter.head_modules else ""
    line = f"{folder}: {library} adapter of {base.given}, {len(adapter.vectors)} vectors{head}"
    print_result(options, {**adapter_facts(adapter, folder), "format": library}, [line])
    return 0


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
