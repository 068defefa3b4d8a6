"""`python -m benchmarks.fewshot`: few labelled rows, ours beside its rivals, on the same rows and the same test rows.

The grid is long, so every finished run is a line of a file and is not run again; 16 rows a label come first, and one
draw of everything before the next. What is missing is listed. This file reads the command line and puts the parts
together.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

import ia3
from benchmarks.bases import find_table
from benchmarks.fewshot_data import BASES, DRAWS, PER_LABEL, TASKS, Cell, Parts, make_cells, read_parts, rows_of
from benchmarks.fewshot_methods import METHODS, OURS, RATES, STARTS, method_version
from benchmarks.fewshot_report import (
    Result,
    draw_summary,
    missing_cells,
    missing_lines,
    skipped_lines,
    summarise,
    table_lines,
)
from benchmarks.fewshot_rivals import Trial
from benchmarks.measure import reason_of
from benchmarks.methods import NotAvailable
from benchmarks.report import describe_machine, machine_line, write_json
from benchmarks.starts import SOURCES, find_start, start_version
from ia3.bases.loading import Base
from ia3.data.labels import label_set
from ia3.errors import IA3Error, SettingsError
from ia3.fast.memory import keep_freed_memory

_QUICK_TEST = 300  # rows
_TUNING_DRAWS = (100, 101)
_TUNING_TASK, _TUNING_ROWS = "phrasebank", 16
_FIRST, _MOST_FURTHER = 3, 3  # rates of a method that are tried, and beyond these
_WHAT = """\
Compare few-shot methods: gemma-3-270m and minilm, four tables of sentiment, 4 to 64 rows a label, five draws each.

  zero-shot          the template alone, calibrated (language models)
  lm                 ia3, recipe t-few-small with the answer's loss alone (language models)
  lm+ul+ln           ia3, the recipe with the paper's three losses (a head: its cross-entropy)
  start              ia3, the recipe, from vectors trained on the VADER tables without the one compared
  start-business     the same from vectors trained on the bundled business news as well (phrasebank)
  chosen             ours, the recipe with the one of the two that it chooses (phrasebank)
  peft-ia3           PEFT's (IA)3, its default targets
  peft-lora          PEFT's LoRA of rank 16 on every linear
  setfit             SetFit's way with sentence-transformers (minilm)
  logistic           logistic regression on the frozen base's mean last hidden state

All get the same rows, words, batch size and steps, and are measured on the same rows. --tune first tries three learning
rates of every method on rows of their own (two draws of 16 a label of phrasebank; nothing of them is reported), and up
to three further ones while the best lies at the edge of what was tried; later runs with the same --results take the
best. Without it the middle one is taken, and the table says so.
Each finished run is a line of --results and is not run again, so the command can be stopped and given again. Runs of
ours with an earlier recipe, or from an earlier start, do not count."""


@dataclass
class Bench:
    """What is loaded once: tables and bases; and where results go.

    Attributes:
        data: Folder of the tables.
        results: File of finished runs.
        starts: Folder of the starts.
        most_test: Most rows that are measured on; None for all.
        bases: Bases by name and by whether they are for ours, loaded when they are needed.
        parts: Tables by name.
    """

    data: Path
    results: Path
    starts: Path
    most_test: int | None = None
    bases: dict[tuple[str, bool], Base] = field(default_factory=dict)
    parts: dict[str, Parts] = field(default_factory=dict)

    def base(self, name: str, labels: Sequence[str], *, is_ours: bool) -> Base:
        """Return a base, loaded once; the others are given up, since two may not fit into memory.

        Args:
            name: Of the base.
            labels: Of its head.
            is_ours: Whether an encoder's head reads what t-few-small lets it read; the rivals' is transformers' own.
        """
        if self.bases and next(iter(self.bases))[0] != name:
            self.bases.clear()
        if (name, is_ours) not in self.bases:
            other = self.bases.get((name, not is_ours))
            if other is not None and other.kind != "encoder":
                return other
            placed: dict[str, Any] = {"dtype": "float32", "device": "cpu", "pooling": "auto" if is_ours else "own"}
            self.bases[name, is_ours] = ia3.load_base(name, labels=list(labels), **placed)
        return self.bases[name, is_ours]

    def parts_of(self, task: str) -> Parts:
        """Return the parts of a table, read once."""
        if task not in self.parts:
            self.parts[task] = read_parts(self.data, task, self.most_test)
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
    name = STARTS.get(cell.method)
    start = None if name is None or not _has_start(name, cell.task) else partial(_find_start, bench, base, cell.task)
    trial = Trial(base, train, test, labels, cell.draw, rate, start)
    told: dict[str, Any] = {**asdict(cell), "key": cell.key, "used_rate": rate, "test_rows": len(test.examples)}
    told["version"] = method_version(cell.method)
    if name is not None and start is not None:
        start(name)  # not part of a run's seconds
    began = time.perf_counter()
    try:
        metrics = METHODS[cell.method](trial)
    except NotAvailable as error:
        return {**told, "accuracy": None, "skipped": reason_of(error)}
    numbers = ("accuracy", "macro_f1", "calibration_error", "temperature")  # the last is in the one before
    told |= {name: getattr(metrics, name) for name in numbers}
    return told | {"seconds": time.perf_counter() - began, "skipped": None}


def _has_start(name: str, task: str) -> bool:
    """Whether a start is compared on a table: the one for business news on the table of business news alone."""
    return name != "business" or task not in SOURCES


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
                results = run_cells(bench, [_tuning_cell(base, method, draw, rate) for draw in _TUNING_DRAWS], say)


def tuning_cells(bases: Sequence[str], methods: Sequence[str]) -> Iterator[Cell]:
    """Yield the runs that try learning rates: three for each method that has one, on the same two draws."""
    for draw in _TUNING_DRAWS:
        for base in bases:
            kind = "encoder" if base == "minilm" else "causal"
            for method in methods:
                for rate in RATES.get(method, {}).get(kind, ()):
                    yield _tuning_cell(base, method, draw, rate)


def _tuning_cell(base: str, method: str, draw: int, rate: float) -> Cell:
    return Cell(base, _TUNING_TASK, _TUNING_ROWS, draw, method, rate)


def rate_beyond(results: Mapping[str, Result], base: str, method: str) -> float | None:
    """Return the rate that comes after the best one where that is the lowest or highest tried; None where it is not, or
    where as many as there may be were tried.
    """
    own = [r for r in results.values() if (r["base"], r["method"]) == (base, method) and r["accuracy"] is not None]
    tried = sorted({result["rate"] for result in own if result.get("rate") is not None})
    if not 2 <= len(tried) < _FIRST + _MOST_FURTHER:
        return None
    ends = {tried[0]: tried[0] ** 2 / tried[1], tried[-1]: tried[-1] ** 2 / tried[-2]}
    beyond = ends.get(best_rates(results)[base, method])
    return None if beyond is None else float(f"{beyond:.3g}")


def best_rates(results: Mapping[str, Result]) -> dict[tuple[str, str], float]:
    """Return the rate of the best mean accuracy on the tuning rows, by base and method; of equal ones the lower."""
    scores: dict[tuple[str, str], dict[float, list[float]]] = {}
    for result in results.values():
        if result.get("rate") is not None and result["accuracy"] is not None:
            own = scores.setdefault((result["base"], result["method"]), {})
            own.setdefault(result["rate"], []).append(result["accuracy"])
    return {key: max(sorted(own), key=lambda rate: statistics.fmean(own[rate])) for key, own in scores.items()}


def report(
    results: Mapping[str, Result], wanted: Sequence[Cell], machine: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return everything as plain values, and as lines."""
    chosen = {cell.key for cell in wanted}
    reported = [result for key, result in results.items() if key in chosen]
    rows, missing = summarise(reported), missing_cells(wanted, results)
    rates = best_rates(results)
    told = [f"{base}, {method}: {rate:g}" for (base, method), rate in rates.items()]
    lines = [*table_lines(rows), "", f"rates found on the tuning rows: {'; '.join(told) or 'none, the middle ones'}"]
    lines += [*skipped_lines(reported), *missing_lines(missing), machine_line(machine)]
    content = {"machine": machine, "rows": rows, "runs": reported, "rates": told, "missing": [c.key for c in missing]}
    return content, lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    transformers_logging.disable_progress_bar()
    keep_freed_memory()  # as `ia3` does; for every method alike
    try:
        methods = _known(options.methods, METHODS, "method")
        bases, tasks = _known(options.bases, None, "base"), _known(options.tasks, TASKS, "table")
        wanted = list(make_cells(bases, tasks, options.per_label, options.draws, methods, is_quick=options.quick))
        most = _QUICK_TEST if options.quick else None
        bench = Bench(find_table(options.data).parent.parent, options.results, options.starts, most)
        if options.tune and not options.report:
            tune_rates(bench, bases, methods, _say)
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


def _known(given: Sequence[str], known: Mapping[str, Any] | None, what: str) -> list[str]:
    unknown = [name for name in given if known is not None and name not in known]
    if unknown:
        raise SettingsError(
            f"Reading the arguments: there is no {what} {unknown[0]!r}, expected some of {', '.join(known or ())}."
        )
    return [*dict.fromkeys(given)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fewshot", description=_WHAT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", help="folder with financial_phrasebank/ and vader/ (or IA3_DATA)")
    add("--bases", nargs="+", default=[*BASES], metavar="BASE", help="named bases (%(default)s)")
    add("--tasks", nargs="+", default=[*TASKS], metavar="TABLE", help="tables (%(default)s)")
    add("--methods", nargs="+", default=[*METHODS], metavar="METHOD", help="methods (all)")
    add("--per-label", nargs="+", type=int, default=[*PER_LABEL], metavar="N", help="rows of each label (%(default)s)")
    add("--draws", type=int, default=DRAWS, metavar="N", help="draws of each (%(default)s)")
    add("--quick", action="store_true", help=f"measure on {_QUICK_TEST} rows at most")
    add("--tune", action="store_true", help="try learning rates of each method first, on rows of their own")
    add("--report", action="store_true", help="run nothing, tell what is there")
    add("--results", type=Path, default=Path("fewshot.jsonl"), help="file of finished runs (%(default)s)")
    add("--starts", type=Path, default=Path("fewshot-starts"), help="folder of pre-trained starts (%(default)s)")
    add("--json", type=Path, help="write everything to this file")
    add("--png", type=Path, help="draw medians and quartiles into this file")
    return parser


if __name__ == "__main__":
    sys.exit(main())
