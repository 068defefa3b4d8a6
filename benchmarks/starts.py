"""`python -m benchmarks.starts`: the pre-trained starts of a base, from open tables.

    sentiment   reviews, tweets and editorials of VADER (MIT), as many rows of each table and label
    business    the same, and the table of business news that comes with the project (CC0), each of its rows twice

One adapter learns from the tables of a start together, as T-Few's vectors learned from T0's tasks first; it is what
`ia3 train --start` begins with. A start that is compared on one of these tables is made without it. Everything goes
through `ia3.train`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

import ia3
from benchmarks.bases import find_table
from benchmarks.fewshot_data import BASES, TASKS, TEMPLATE
from ia3.bases.loading import Base
from ia3.data.draws import draw_per_label
from ia3.data.tables import read_table
from ia3.demo.demonstration import TABLE
from ia3.errors import AdapterError, IA3Error, SettingsError
from ia3.names import Kind
from ia3.starts.packaged import LEARNED, STARTS, packaged_start, text_hashes

SOURCES = ("reviews", "tweets", "editorials")
PER_LABEL = 400  # rows of each label of each table of VADER
TIMES = {"sentiment": 0, "business": 2}  # how often each start sees each row of the bundled business news
NAMES = tuple(TIMES)
STEPS: dict[Kind, int] = {"causal": 900, "seq2seq": 900, "encoder": 300}
_SEED = 2026
_WHAT = """\
Make a start for `ia3 train --start`: an adapter that has learned sentiment from the tables of VADER, or from these and
the bundled business news. VADER's tables (vader/*.csv in --data or IA3_DATA) are Hutto and Gilbert's of 2014, MIT
licence; the bundled one is CC0."""


def make_start(
    base: str | Base,
    data: Path,
    output: Path,
    *,
    name: str = NAMES[0],
    without: str | None = None,
    steps: int | None = None,
) -> Path:
    """Train a start and return its folder; one that is there and finished is taken as it is.

    Args:
        base: Name of the base, or a loaded one (an encoder with the tables' labels).
        data: Folder with `vader/`.
        output: Folder of the adapter.
        name: Which start: one of `NAMES`.
        without: Name of a table that it must not see.
        steps: Optimizer steps; by default those of the kind of base.
    """
    if is_finished(output):
        return output
    rows = start_rows(data, without, name=name)
    labels = sorted({label for _, label in rows})
    loaded = base if isinstance(base, Base) else ia3.load_base(base, labels=labels, pooling="auto")  # as t-few-small
    given = start_settings(loaded.kind)
    given |= {} if steps is None else {"max_steps": steps}
    ia3.train(rows, loaded, output, eval_fraction=0.0, answers="labels", seed=_SEED, overwrite=True, **given)
    return output


def start_settings(kind: Kind) -> dict[str, Any]:
    """Return the words and settings that a start is trained with."""
    own = {} if kind == "encoder" else {"template": TEMPLATE, "feedforward_rate": 3.0, "warmup": 0.05, "compile": "off"}
    return {**own, "max_steps": STEPS[kind]}


def find_start(base: Base, data: Path, output: Path, *, name: str = NAMES[0], without: str) -> Path:
    """Return the folder of a start that has not seen a table: the one that comes with the project where that is so.

    Args:
        base: The base.
        data: Folder with `vader/`.
        output: Where one is made if it must be.
        name: Which start: one of `NAMES`.
        without: Name of the table.
    """
    packaged = None
    if without not in SOURCES:
        with suppress(AdapterError):  # there is none for this base
            packaged = packaged_start(name, base.name)
    return packaged or make_start(base, data, output, name=name, without=without)


def start_rows(data: Path, without: str | None = None, *, name: str = NAMES[0]) -> list[tuple[str, str]]:
    """Return the texts with labels that a start learns from; no row of the table that is left out.

    Args:
        data: Folder with `vader/`.
        without: Name of a table of VADER.
        name: Which start: one of `NAMES`.

    Raises:
        SettingsError: If nothing is left.
    """
    chosen = [task for task in SOURCES if task != without]
    found = []
    for task in chosen:
        table = read_table(data / TASKS[task], label="label")
        drawn = draw_per_label(table, PER_LABEL, _SEED)[0]
        found += [(example.text, str(example.label)) for example in drawn.examples]
    if not found:
        raise SettingsError(f"Making a start: no table is left without {without!r}. Known: {', '.join(SOURCES)}.")
    return found + _business_rows() * TIMES[name]


def write_learned(data: Path, folder: Path) -> None:
    """Write hashes of the texts that the starts which come with the project have learned, a file for each name.

    Args:
        data: Folder with `vader/`.
        folder: Has a folder for each name.
    """
    for name in NAMES:
        hashes = sorted({*text_hashes(text for text, _ in start_rows(data, name=name))})
        np.save(folder / name / LEARNED, np.array(hashes, dtype=np.uint64))


def _business_rows() -> list[tuple[str, str]]:
    with as_file(files("ia3.demo") / TABLE) as path:
        return [(example.text, str(example.label)) for example in read_table(path).examples]


def start_version(name: str = NAMES[0]) -> str:
    """Return a hash of how a start is made and of what is packaged of it, eight hexadecimal digits."""
    made = {kind: start_settings(kind) for kind in STEPS}
    content = json.dumps([made, PER_LABEL, _SEED, name, TIMES[name], _packaged_digests(name)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:8]


@cache
def _packaged_digests(name: str) -> list[str]:
    """Return the sha256 of the numbers of a start that come with the project, for each named base."""
    folders = [packaged_start(name, base) for base in BASES]
    return [
        hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
        for folder in folders
        if folder is not None
    ]


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a start whose training has ended."""
    record = folder / "run.jsonl"
    if not (folder / "adapter_config.json").is_file() or not record.is_file():
        return False
    last = json.loads(record.read_text(encoding="utf-8").splitlines()[-1])
    return last.get("event") == "end" and not last.get("stopped")


def main(arguments: Sequence[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.starts", description=_WHAT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default=BASES[0], help="named base or folder (%(default)s)")
    parser.add_argument("--name", choices=NAMES, default=NAMES[0], help="which start (%(default)s)")
    parser.add_argument("--data", help="folder with financial_phrasebank/ and vader/ (or IA3_DATA)")
    parser.add_argument("--without", choices=SOURCES, help="table that the start must not see")
    parser.add_argument("--steps", type=int, help="optimizer steps (900; encoders 300)")
    parser.add_argument("--output", type=Path, help="folder of the adapter")
    parser.add_argument(
        "--write-learned", action="store_true", help="instead, write which texts the packaged starts have learned"
    )
    options = parser.parse_args(arguments)
    if options.output is None and not options.write_learned:
        parser.error("give --output, or --write-learned")
    try:
        data = find_table(options.data).parent.parent
        if options.write_learned:
            write_learned(data, STARTS)
            say(f"written: {', '.join(str(STARTS / name / LEARNED) for name in NAMES)}")
            return 0
        made = make_start(
            options.base, data, options.output, name=options.name, without=options.without, steps=options.steps
        )
    except IA3Error as error:
        print(f"benchmarks.starts: {error}", file=sys.stderr)
        return 2
    say(f"the start lies in {made}; begin with it: ia3 train TABLE --base {options.base} --start {made} --output DIR")
    return 0


if __name__ == "__main__":
    sys.exit(main())
