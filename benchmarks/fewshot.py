"""`python -m benchmarks.fewshot`: few labelled rows, ours beside its rivals, on the same rows and the same test rows.

The grid is long, so every finished run is a line of a file and is not run again; 16 rows a label come first, and one
draw of everything before the next. What is missing is listed. This file reads the command line and puts the parts
together.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

import ia3
from benchmarks.bases import find_table
from benchmarks.fewshot_data import (
    ALL,
    BASES,
    DRAWS,
    MOST_TEST,
    PER_LABEL,
    SENTIMENT,
    TASKS,
    Cell,
    Parts,
    find_tables,
    make_cells,
    read_parts,
    rows_of,
    spell_count,
    template_for,
)
from benchmarks.fewshot_methods import METHODS, OURS, RIVALS, STARTS, method_version
from benchmarks.fewshot_picture import draw_summary
from benchmarks.fewshot_report import (
    Result,
    comparison_lines,
    missing_cells,
    missing_lines,
    skipped_lines,
    summarise,
    table_lines,
)
from benchmarks.fewshot_rivals import Trial
from benchmarks.fewshot_setfit import make_environment
from benchmarks.fewshot_tuning import TASKS as TUNING_TASKS
from benchmarks.fewshot_tuning import best_rates, cells_of_rate, rate_beyond, tuning_cells
from benchmarks.measure import reason_of
from benchmarks.methods import NotAvailable
from benchmarks.report import describe_machine, machine_line, write_json
from benchmarks.starts import SOURCES, find_start, start_version
from ia3.bases.loading import Base
from ia3.data.labels import label_set
from ia3.errors import IA3Error, SettingsError
from ia3.fast.memory import keep_freed_memory

_QUICK_TEST = 300  # rows
_WHAT = """\
Compare few-shot methods on tables of text and label: gemma-3-270m and minilm, 4 to 64 rows a label and all, five draws
each. --tasks takes tables of your own as well, NAME=FILE, a name for one table in a file of results.

  zero-shot          the template alone, calibrated (language models)
  auto               ia3 as a user gets it who gives a table and a base, and nothing else; without a start where those
                     that come with ia3 have learned rows of the table
  head               ia3 by part, an encoder's head alone
  contrast, cross-entropy, both    ia3 by part: recipe t-few-small with one of an encoder's two losses, with both
  lm                 ia3, the recipe with the answer's loss alone (language models)
  lm+ul+ln           ia3, the recipe with the paper's three losses (language models)
  start              ia3, the recipe, from vectors trained on the VADER tables without the one compared (sentiment)
  start-business     the same from vectors trained on the bundled business news as well (phrasebank)
  chosen             ia3, the recipe with the start that it chooses (sentiment)
  peft-ia3           PEFT's (IA)3, its default targets
  peft-lora          PEFT's LoRA of rank 16 on every linear
  peft-road          PEFT's RoAd on every linear
  full               all weights
  logistic           logistic regression on the frozen base's mean last hidden state
  setfit             SetFit 1.2, the library, in an environment of its own (--setfit-venv, made with pip; encoders)

All get the same rows and are measured on the same rows. PEFT's and the whole model take the steps of the recipe for few
rows, or four passes over the rows where these are more, and SetFit its own, 500 at most. A label with fewer rows than
asked for gives all it has. Seconds are those of learning; SetFit's have its start and its answers in them.

--tune first tries three learning rates of every method that has one on rows of their own (two draws of 16 a label of
phrasebank and of trec; nothing of them is reported), and up to three further ones while the best lies at the edge of
what was tried; later runs with the same --results take the one with the best mean. Without it the middle one is taken,
and the report says so.
Each finished run is a line of --results and is not run again, so the command can be stopped and given again. Runs of
ours with earlier settings, or from an earlier start, do not count."""


@dataclass
class Bench:
    """What is loaded once: tables and bases; and where results go.

    Attributes:
        data: Folder of the tables of sentiment, which starts are made of.
        results: File of finished runs.
        starts: Folder of the starts.
        tables: Files of the tables by name.
        most_test: Most rows that are measured on; None for all.
        setfit: Environment of SetFit, made when it is needed.
        bases: Bases by name, labels and whether they are for ours, loaded when they are needed.
        parts: Tables by name.
    """

    data: Path
    results: Path
    starts: Path
    tables: Mapping[str, Path]
    most_test: int | None = None
    setfit: Path = Path("fewshot-setfit")
    bases: dict[tuple[str, tuple[str, ...], bool], Base] = field(default_factory=dict)
    parts: dict[str, Parts] = field(default_factory=dict)

    def base(self, name: str, labels: Sequence[str], *, is_ours: bool) -> Base:
        """Return a base, loaded once; those of another name or labels are given up, for memory.

        Args:
            name: Of the base.
            labels: Of an encoder's head; a language model is the same for all.
            is_ours: Whether an encoder's head reads what t-few-small lets it read; the rivals' is transformers' own.
        """
        key = (name, tuple(labels), is_ours)
        for (other, *_), loaded in self.bases.items():
            if other == name and loaded.kind != "encoder":
                return loaded
        if any(held[:2] != key[:2] for held in self.bases):
            self.bases.clear()
        if key not in self.bases:
            placed: dict[str, Any] = {"dtype": "float32", "device": "cpu", "pooling": "auto" if is_ours else "own"}
            self.bases[key] = ia3.load_base(name, labels=list(labels), **placed)
        return self.bases[key]

    def parts_of(self, task: str) -> Parts:
        """Return the parts of a table, read once."""
        if task not in self.parts:
            self.parts[task] = read_parts(self.tables[task], self.most_test)
        return self.parts[task]


def run_cell(bench: Bench, cell: Cell, rate: float | None) -> Result:
    """Return the result of one cell; a method that is not for this base has none, and the reason.

    Args:
        bench: What is loaded.
        cell: The cell.
        rate: Learning rate; None for the method's own.
    """
    parts = bench.parts_of(cell.task)
    labels = label_set(parts.pool)
    train, test = rows_of(parts, cell)
    base = bench.base(cell.base, labels, is_ours=cell.method in OURS)
    start = partial(_find_start, bench, base, cell.task) if _has_start(cell.method, cell.task) else None
    trial = Trial(
        base,
        train,
        test,
        labels,
        cell.draw,
        rate,
        start,
        template_for(cell.task),
        bench.setfit,
        is_seen=cell.task in SOURCES,
    )
    told: dict[str, Any] = {**asdict(cell), "key": cell.key, "used_rate": rate, "test_rows": len(test.examples)}
    told |= {"train_rows": len(train.examples), "version": method_version(cell.method)}
    if cell.method in STARTS and start is not None:
        start(STARTS[cell.method])  # not part of a run's seconds, nor is the next
    if cell.method == "setfit" and base.kind == "encoder":
        make_environment(bench.setfit, _say)
    began = time.perf_counter()
    try:
        if cell.method == "chosen" and start is None:
            raise NotAvailable("the starts are for tables of sentiment")
        measure = METHODS[cell.method](trial)
        seconds = time.perf_counter() - began
        metrics = measure()
    except NotAvailable as error:
        return {**told, "accuracy": None, "skipped": reason_of(error)}
    numbers = ("accuracy", "macro_f1", "calibration_error", "temperature")  # the last is in the one before
    return told | {name: getattr(metrics, name) for name in numbers} | {"seconds": seconds, "skipped": None}


def _has_start(method: str, task: str) -> bool:
    """Whether a start is compared on a table: of sentiment, and the one for business news on that of business news."""
    return task in SENTIMENT and (STARTS.get(method) != "business" or task not in SOURCES)


def _find_start(bench: Bench, base: Base, task: str, name: str) -> Path:
    folder = bench.starts / f"{name}-{Path(base.name).name}-without-{task}-{start_version(name)}"
    return find_start(base, bench.data, folder, name=name, without=task)


def read_results(path: Path) -> dict[str, Result]:
    """Return finished runs by their key.

    A line that was cut off when a run was killed counts as none, and so does a run of ours with an earlier recipe.
    """
    found: dict[str, Result] = {}
    if not path.is_file():
        return found
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            result = json.loads(line)
        except ValueError:
            continue
        if result.get("version") == method_version(result["method"]):
            found[result["key"]] = result
    return found


def run_cells(bench: Bench, cells: Sequence[Cell], say: Callable[[str], None]) -> dict[str, Result]:
    """Run the cells that have no result yet, each appended to the file as it ends; returns all results by key."""
    results = read_results(bench.results)
    todo = [cell for cell in cells if cell.key not in results]
    bench.results.parent.mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(todo, start=1):
        rate = cell.rate if cell.rate is not None else best_rates(results).get((cell.base, cell.method))
        result = run_cell(bench, cell, rate)
        with bench.results.open("a", encoding="utf-8") as file:
            file.write(("" if _ends_a_line(bench.results) else "\n") + json.dumps(result) + "\n")
        results[cell.key] = result
        if result["accuracy"] is not None:
            told = f"{100 * result['accuracy']:.1f} % in {result['seconds']:.0f} s"
            say(f"{number} of {len(todo)}: {cell.key}: {told}")
    return results


def _ends_a_line(path: Path) -> bool:
    content = path.read_bytes() if path.is_file() else b""
    return not content or content.endswith(b"\n")


def tune_rates(bench: Bench, bases: Sequence[str], methods: Sequence[str], say: Callable[[str], None]) -> None:
    """Try three learning rates for each method that has one, and further ones while the best lies at their edge."""
    results = run_cells(bench, list(tuning_cells(bases, methods)), say)
    for base in bases:
        for method in methods:
            while (rate := rate_beyond(results, base, method)) is not None:
                results = run_cells(bench, cells_of_rate(base, method, rate), say)


def report(
    results: Mapping[str, Result], wanted: Sequence[Cell], machine: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return everything as plain values, and as lines."""
    chosen = {cell.key for cell in wanted}
    reported = [result for key, result in results.items() if key in chosen]
    rows, missing = summarise(reported), missing_cells(wanted, results)
    rates = best_rates(results)
    told = [f"{base}, {method}: {rate:g}" for (base, method), rate in rates.items()]
    lines = [*table_lines(rows), "", *comparison_lines(rows, reported, RIVALS)]
    lines += [f"rates found on the tuning rows: {'; '.join(told) or 'none, the middle ones'}"]
    lines += [*skipped_lines(reported), *missing_lines(missing), machine_line(machine)]
    content = {"machine": machine, "rows": rows, "runs": reported, "rates": told, "missing": [c.key for c in missing]}
    return content, lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    transformers_logging.disable_progress_bar()
    keep_freed_memory()  # as `ia3` does; for every method alike
    try:
        wanted, bench = _prepared(options)
        if options.tune and not options.report:
            tune_rates(bench, options.bases, options.methods, _say)
        results = read_results(options.results) if options.report else run_cells(bench, wanted, _say)
    except IA3Error as error:
        print(f"benchmarks.fewshot: {error}", file=sys.stderr)
        return 2
    content, lines = report(results, wanted, describe_machine(datetime.now(UTC)))
    print("\n".join(lines))
    if options.json:
        write_json(options.json, content)
    if options.png:
        draw_summary(content["rows"], options.png)
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _prepared(options: argparse.Namespace) -> tuple[list[Cell], Bench]:
    """Return the grid and what it needs, after every check that takes no base."""
    unknown = [name for name in options.methods if name not in METHODS]
    if unknown:
        expected = f"expected some of {', '.join(METHODS)}"
        raise SettingsError(f"Reading the arguments: there is no method {unknown[0]!r}, {expected}.")
    named = [*options.tasks, *(TUNING_TASKS if options.tune else ())]
    data = find_table(options.data).parent.parent if any("=" not in task for task in named) else Path()
    most = _QUICK_TEST if options.quick else options.most_test or None
    bench = Bench(data, options.results, options.starts, find_tables(named, data), most, options.setfit_venv)
    if not options.report:
        for task in bench.tables:
            bench.parts_of(task)
    tasks = find_tables(options.tasks, data)
    axes = (
        [*dict.fromkeys(options.bases)],
        [*tasks],
        options.per_label,
        options.draws,
        [*dict.fromkeys(options.methods)],
    )
    return list(make_cells(*axes, most_test=most)), bench


def _read_count(given: str) -> int:
    if given == "all":
        return ALL
    if not given.isdecimal() or not int(given):
        raise argparse.ArgumentTypeError(f"got {given!r}, expected a number from 1, or all")
    return int(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fewshot", description=_WHAT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="folder with financial_phrasebank/ and vader/ (or IA3_DATA)")
    add("--bases", nargs="+", default=[*BASES], metavar="BASE", help="named bases (%(default)s)")
    add("--tasks", nargs="+", default=[*TASKS], metavar="TABLE", help="tables, NAME=FILE for your own (%(default)s)")
    add("--methods", nargs="+", default=[*METHODS], metavar="METHOD", help="methods (all)")
    counts = " ".join(map(spell_count, PER_LABEL))
    add(
        "--per-label", nargs="+", type=_read_count, default=[*PER_LABEL], metavar="N",
        help=f"rows of each label, or all ({counts})",
    )  # fmt: skip
    add("--draws", type=int, default=DRAWS, metavar="N", help="draws of each (%(default)s)")
    add("--most-test", type=int, default=MOST_TEST, metavar="N", help="measure on N rows at most, 0 all (%(default)s)")
    add("--quick", action="store_true", help=f"the same as --most-test {_QUICK_TEST}")
    add("--tune", action="store_true", help="try learning rates of each method first, on rows of their own")
    add("--report", action="store_true", help="run nothing, tell what is there")
    add("--results", type=Path, default=Path("fewshot.jsonl"), help="file of finished runs (%(default)s)")
    add("--starts", type=Path, default=Path("fewshot-starts"), help="folder of pre-trained starts (%(default)s)")
    add("--setfit-venv", type=Path, default=Path("fewshot-setfit"), help="environment of SetFit (%(default)s)")
    add("--json", type=Path, help="write everything to this file")
    add("--png", type=Path, help="draw medians and ranges into this file; of several bases one for each")
    return parser


if __name__ == "__main__":
    sys.exit(main())
