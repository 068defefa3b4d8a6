"""`ia3 demo`: two real models learn the bundled table, and what they then answer."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from pathlib import Path

from ia3.cli.options import add, add_json
from ia3.cli.output import print_json, print_lines, say
from ia3.cli.parsing import Verb
from ia3.cli.progress import TrainingProgress


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    what = "Folder for both adapters; those of an earlier demo in it are replaced (default: %(default)s)"
    add(parser, "--output", words={"what": what}, default="demo-output", required=False)
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
        shown = show_demo(options.output, say=tell, on_event=progress.show, command=invoked_as())
    finally:
        progress.close()
    if options.json:
        print_json(shown.to_json())
    return 0


def invoked_as() -> str:
    """Return what stands before the verb where this command was run, such as `.venv/bin/ia3` or `python -m ia3`."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{_typed('python', sys.executable)} -m ia3"
    return _typed("ia3", sys.argv[0]) if called.stem == "ia3" else "ia3"


def _typed(name: str, path: str) -> str:
    """Return the name of a program if a shell finds this one by it, else its path."""
    found = shutil.which(name)
    is_found = found is not None and Path(path).exists() and Path(found).samefile(path)
    return name if is_found and _is_of_one_environment(str(found), path) else shlex.quote(path)


def _is_of_one_environment(one: str, other: str) -> bool:
    """Whether two paths to one file lie in one folder: the Python of a virtual environment is a link to another's."""
    return Path(one).parent.resolve() == Path(other).parent.resolve()


VERB = Verb(
    name="demo",
    summary="Train two real models on the bundled sentences and show what they learned.",
    usage="[OPTIONS]",
    examples=("ia3 demo", "ia3 demo --output /tmp/demo"),
    configure=configure,
    run=run,
)
