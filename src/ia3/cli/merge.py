"""`ia3 merge`: an adapter multiplied into its base, written as a plain transformers folder with the tokenizer.

The folder appears whole or not at all: it is filled beside its name and renamed.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ia3.cli.options import add, add_adapter_base, add_json
from ia3.cli.output import print_result, say
from ia3.cli.parsing import Verb
from ia3.errors import RunError
from ia3.spelling import size_in_words

if TYPE_CHECKING:
    from ia3.adapters.adapter import Adapter
    from ia3.bases.loading import Base


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add(parser, "adapter")
    group = parser.add_argument_group("base and output")
    add(group, "--output", words={"what": "Folder to write; new or empty"}, metavar="PLAIN")
    add_adapter_base(group)
    add_json(parser, "what was written")


def run(options: argparse.Namespace) -> int:
    """Merge an adapter into a copy of its base and write it."""
    from ia3.adapters.attached import load
    from ia3.adapters.config import other_task, refuse_task
    from ia3.adapters.folder import load_adapter
    from ia3.adapters.places import find_folder, find_stored
    from ia3.core.merge import merge
    from ia3.inference.adapter_base import load_base_of

    output = Path(options.output).expanduser()
    _refuse_used(output)
    doing = f"Merging {options.adapter}"
    adapter = load_adapter(options.adapter)
    refuse_task(other_task(adapter.config), doing)
    folder = None if find_stored(options.adapter) else find_folder(options.adapter)
    placed = {"dtype": options.dtype, "device": options.device}
    base = load_base_of(doing, adapter, options.base, None, folder=folder, say=say, **placed)
    if adapter.pooling == "mean":
        say(
            "its head reads the mean of all positions: ia3.load_base reads the folder; transformers has no class for it"
        )
    attachment = load(base.model, options.adapter, "merged")
    merged = merge(attachment, "merged")
    generation = None if base.kind == "encoder" else _settle_generation(merged, adapter, base)
    write_folder(output, merged, base.tokenizer)
    files = {path.name: path.stat().st_size for path in sorted(output.iterdir())}
    name, size = type(merged).__name__, size_in_words(sum(files.values()))
    found = {"adapter": options.adapter, "base": base.address, "output": str(output), "files": files}
    lines = [f"{output}: {name} of {base.address} with {options.adapter} merged in, {size}"]
    lines += [f"files: {', '.join(files)}", *([] if generation is None else _generation_lines(generation))]
    print_result(options, {**found, "class": name, "generation": generation}, lines)
    return 0


def _settle_generation(merged: Any, adapter: Adapter, base: Base) -> dict[str, Any]:
    """Have the merged model's own `generate` answer as `ia3 generate` does; return what was said of it before."""
    from ia3.inference.answer_room import most_new_tokens
    from ia3.inference.generation_settings import greedy_settings, left_out
    from ia3.inference.recorded import Recorded, encoding_of

    known = Recorded.read(f"Merging {adapter.base_name}", adapter.record)
    encoding = encoding_of(base, known)
    own, limit = merged.generation_config, most_new_tokens(base, encoding)
    merged.generation_config = greedy_settings(base, limit)
    tokenizer: Any = base.tokenizer
    if base.kind == "causal":
        # a prompt that is padded behind its end would be answered otherwise; what is saved are the init arguments
        tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"
    prompt = encoding.template.prompt
    return {"max_new_tokens": limit, "prompt": prompt, "left_out": left_out(own, merged.generation_config)}


def _generation_lines(generation: Mapping[str, Any]) -> list[str]:
    """Return what a user must know to have the folder answer as `ia3 generate` does."""
    dropped = ", ".join(f"{name} {value}" for name, value in generation["left_out"].items())
    lines = [
        f"generate: greedy, at most {generation['max_new_tokens']} new tokens, as 'ia3 generate' answers"
        + (f"; left out of the base's generation settings: {dropped}" if dropped else "")
    ]
    return [*lines, f"prompt: {generation['prompt']!r} around each text"]


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
