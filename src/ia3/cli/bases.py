"""`ia3 bases`: the named bases, which of them are here, and what brings the others."""

from __future__ import annotations

import argparse

from ia3.cli.options import add_json
from ia3.cli.output import print_result
from ia3.cli.parsing import Verb
from ia3.spelling import align_columns


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add_json(parser, "the list")


def run(options: argparse.Namespace) -> int:
    """Print the named bases."""
    from ia3.bases.named import list_named_bases

    found = list_named_bases()
    rows = [("name", "installed", "hub id", "download", "licence")]
    rows += [
        (s.base.name, "yes" if s.is_installed else "no", s.base.hub_id, s.base.size, s.base.licence) for s in found
    ]
    lines = align_columns(rows)
    missing = [(f"to install {s.base.name}:", s.install_command) for s in found if not s.is_installed]
    if missing:
        lines += ["", *align_columns(missing)]
    lines += ["", "--base also takes a folder, a GGUF file or a hub id, at a revision NAME@REVISION."]
    print_result(options, [status.to_json() for status in found], lines)
    return 0


VERB = Verb(
    name="bases",
    summary="List the named bases: what is installed, and what would bring the rest.",
    usage="[OPTIONS]",
    examples=("ia3 bases", "ia3 bases --json"),
    configure=configure,
    run=run,
)
