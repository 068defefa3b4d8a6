"""`ia3 merge`: an adapter multiplied into its base, written as a plain transformers folder with the tokenizer.

The folder appears whole or not at all: it is filled beside its name and renamed.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from ia3.cli.options import add_base, add_json
from ia3.cli.output import print_json, print_lines, say, size_in_words
from ia3.cli.parsing import Verb
from ia3.errors import AdapterError, RunError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("adapter", metavar="DIR", help="Adapter folder that 'ia3 train' or PEFT has written.")
    group = parser.add_argument_group("base and output")
    group.add_argument("--output", required=True, metavar="PLAIN", help="Folder to write; new or empty.")
    add_base(group)
    add_json(parser, "what was written")


def run(options: argparse.Namespace) -> int:
    """Merge an adapter into a copy of its base and write it."""
    from ia3.adapters.attached import load
    from ia3.adapters.folder import load_adapter
    from ia3.bases.loading import load_base
    from ia3.core.merge import merge

    output = Path(options.output).expanduser()
    _refuse_used(output)
    adapter = load_adapter(options.adapter)
    name = options.base or adapter.base_name
    if name is None:
        raise AdapterError(f"Merging {options.adapter}: it does not say which base it is for. Name it with --base.")
    labels = adapter.record.get("labels") if adapter.kind == "encoder" else None
    placed = {"dtype": options.dtype, "device": options.device, "pooling": adapter.pooling}
    base = load_base(name, kind=adapter.kind, labels=labels, **placed, say=say)
    if adapter.pooling == "mean":
        say(
            "its head reads the mean of all positions: ia3.load_base reads the folder; transformers has no class for it"
        )
    attachment = load(base.model, options.adapter, "merged")
    merged = merge(attachment, "merged")
    write_folder(output, merged, base.tokenizer)
    files = {path.name: path.stat().st_size for path in sorted(output.iterdir())}
    if options.json:
        found = {"adapter": options.adapter, "base": base.address, "output": str(output), "files": files}
        print_json({**found, "class": type(merged).__name__})
        return 0
    size = size_in_words(sum(files.values()))
    print_lines(
        [
            f"{output}: {type(merged).__name__} of {base.address} with {options.adapter} merged in, {size}",
            f"files: {', '.join(files)}",
        ]
    )
    return 0


def write_folder(output: Path, model: Any, tokenizer: Any) -> None:
    """Write a model and its tokenizer as one folder, which appears whole or not at all.

    Raises:
        RunError: If it cannot be written.
    """
    from ia3.bases.quiet import quiet

    beside = output.parent / f".{output.name}.{os.getpid()}"
    try:
        beside.mkdir(parents=True)
        with quiet():
            model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
        if output.exists():
            output.rmdir()
        beside.replace(output)
    except OSError as error:
        raise RunError(
            f"Writing {output}: it cannot be written ({error.strerror or error}). Free space or give another --output."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _refuse_used(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise RunError(f"Merging into {output}: it is a file, expected a new or empty folder. Give another --output.")
    if output.is_dir() and any(output.iterdir()):
        inside = ", ".join(sorted(path.name for path in output.iterdir())[:4])
        raise RunError(
            f"Merging into {output}: it is not empty (it holds {inside}), expected a new or empty folder. Give another "
            "--output."
        )


VERB = Verb(
    name="merge",
    summary="Write an adapter and its base as one plain transformers model.",
    usage="DIR --output PLAIN [OPTIONS]",
    examples=(
        "ia3 merge runs/news --output plain/news",
        "ia3 merge runs/news --output plain/news --base path/to/base --dtype bfloat16",
    ),
    configure=configure,
    run=run,
)
