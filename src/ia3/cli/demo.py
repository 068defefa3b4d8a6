"""`ia3 demo`: two real models learn the bundled table, and what they then answer."""

from __future__ import annotations

import argparse
import sys

from ia3.cli.options import add_json
from ia3.cli.output import print_json, print_lines, say
from ia3.cli.parsing import Verb
from ia3.cli.progress import TrainingProgress


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "--output",
        default="demo-output",
        metavar="DIR",
        help="Folder for both adapters; those of an earlier demo in it are replaced (default: %(default)s).",
    )
    add_json(parser, "what was shown")


def run(options: argparse.Namespace) -> int:
    """Show the demo."""
    from ia3.demo.demonstration import show_demo

    progress = TrainingProgress()

    def tell(line: str) -> None:
        progress.close()
        if options.json:
            say(line)
        else:
            print_lines([line])
            sys.stdout.flush()

    try:
        shown = show_demo(options.output, say=tell, on_event=progress.show)
    finally:
        progress.close()
    if options.json:
        print_json(shown.to_json())
    return 0


VERB = Verb(
    name="demo",
    summary="Train two real models on the bundled sentences and show what they learned.",
    usage="[OPTIONS]",
    examples=("ia3 demo", "ia3 demo --output /tmp/demo"),
    configure=configure,
    run=run,
)
