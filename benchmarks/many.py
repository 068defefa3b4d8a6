"""`python -m benchmarks.many`: many adapters on one base, ours beside PEFT's ways, merged copies and the base alone.

Requests, a packed store and the training of 32 tasks, each a part that can be run alone. This file reads the command
line and puts the parts together.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from benchmarks.bases import REAL, SHAPES, Case, check_base, find_table, load_case, needs_table
from benchmarks.many_measure import Load, Measured, measure_memory, run_memory_child, time_requests
from benchmarks.many_methods import PEFT_ADAPTERS, Recipe, count_merged, make_adapters, make_recipes
from benchmarks.many_report import goal_lines, make_goals, make_rows, make_warnings, table_lines
from benchmarks.many_requests import TASKS, WINDOW, Task
from benchmarks.many_store import measure_store, store_line
from benchmarks.many_tasks import BASE as TASK_BASE
from benchmarks.many_tasks import make_tasks, measure_tasks, tasks_line
from benchmarks.report import describe_machine, machine_line, say, write_json
from ia3.errors import IA3Error, SettingsError
from ia3.fast.memory import keep_freed_memory

# the bases and what each is asked
ASKED: dict[str, tuple[Task, ...]] = {
    "minilm": ("classification",),
    "gemma-3-270m": ("classification", "generation"),
    "mt5-small": ("generation",),
}
COUNTS = (1, 5, 100, 2_000, 10_000)
_REPEATS, _QUICK_REPEATS = 7, 3
_FAST_REPEATS, _QUICK_FAST_REPEATS = 15, 5  # of what answers a window in one batch
_TOKENS, _QUICK_TOKENS = 8, 4
_SMALL_BASE = 100e6  # parameters of a base whose windows are quick
_SMALL_WINDOWS, _QUICK_SMALL_WINDOWS = 4, 2

_STORES, _QUICK_STORES = ("minilm", "mt5-small"), ("minilm",)
_STORE_REQUESTS, _QUICK_STORE_REQUESTS = 51, 15
_STEPS, _QUICK_STEPS = 20, 4  # of each of the 32 tasks
_TASK_REPEATS = 3

_WHAT = """\
Measure many (IA)³ adapters on one base. Three parts; all of them run unless some are named.

requests (--requests): windows of 32 requests, each for an adapter drawn at random
  base              the frozen base as transformers has it, all requests of a window in one batch
  ia3               the same batch, each request by the row of its adapter, through the passes that ia3.load answers
                    with: 1, 5, 100, 2,000 and 10,000 adapters; in generation also with 32 different ones in every
                    window. With 0 adapters: the base's row through the same passes, which says what adapters cost
  peft-set-adapter  PEFT with 100 adapters, one request after another
  peft-grouped      PEFT with 100 adapters, the requests of a window that have the same adapter together
  merged-copies     a copy of the model for each adapter, as many as fit in a quarter of the free memory (32 at most)
  Bases: minilm (classification), gemma-3-270m (both), mt5-small (generation; random weights of its shape). Encoders'
  adapters bring their own head in every method but base. All take the same texts padded in the same way, and score and
  generate through the functions that a predictor answers with; generation is always the same number of tokens.
store (--store): a packed store of 10,000 adapters: opening it, and a request whose adapter is read first
tasks (--tasks): 32 tasks from four tables, trained together and one after another

columns
  of base        requests a second over the base's, the median of the repeats' ratios
  p50, p99       from the arrival of a request's window to its answer
  ms/token       from the first new token to the last, for a whole window
  peak MB        most resident memory of a fresh process that holds this method alone
"""
_EXAMPLES = """\
examples
  python -m benchmarks.many --quick --json many.json --png many.png
  python -m benchmarks.many --requests --base minilm
  python -m benchmarks.many --requests --base gemma-3-270m --task generation --no-memory
  python -m benchmarks.many --tasks --data ../shared/data
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.many",
        description=_WHAT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    for part in PARTS:
        add(f"--{part}", action="store_true", help=f"Run the part {part}, and no other that is not named.")
    add("--base", action="append", metavar="NAME", help=f"Base of the requests, may be repeated ({', '.join(ASKED)}).")
    add("--task", choices=TASKS, help="What is asked of the bases (default: all that each can).")
    add("--data", metavar="DIR", help="Folder with the tables (default: IA3_DATA, else ../shared/data).")
    add(
        "--quick",
        action="store_true",
        help="Fewer repeats, windows, tokens, steps: twelve minutes, half of them for memory.",
    )
    add("--repeats", type=int, metavar="N", help=f"Repeats of every method ({_REPEATS}, quick {_QUICK_REPEATS}).")
    add("--adapters", type=int, action="append", metavar="N", help="Number of adapters for ours, may be repeated.")
    add("--memory", action=argparse.BooleanOptionalAction, default=True, help="Whether memory is measured.")
    add("--json", metavar="FILE", default="build/benchmarks/many.json", help="(default: %(default)s)")
    add("--png", metavar="FILE", default="build/benchmarks/many.png", help="(default: %(default)s)")
    add("--child", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    options = make_parser().parse_args(arguments)
    transformers_logging.set_verbosity_error()
    keep_freed_memory()  # as `ia3` does; for every method alike
    try:
        if options.child:
            print(json.dumps(run_memory_child(json.loads(options.child))))
        else:
            _measure(options)
    except (IA3Error, OSError) as error:
        say(f"benchmark: {error}")
        return 2
    return 0


def _measure(options: argparse.Namespace) -> None:
    check_options(options)
    machine = describe_machine(datetime.now(UTC))
    print(machine_line(machine), flush=True)
    content: dict[str, Any] = {"machine": machine, "rows": [], "goals": [], "warnings": []}
    named = [part for part in PARTS if getattr(options, part)]
    for part in named or PARTS:
        PARTS[part](options, content)
    print("\n".join(["", *goal_lines(content["goals"]), *content["warnings"]]), flush=True)
    say(f"written: {options.json}")


def check_options(options: argparse.Namespace) -> None:
    """Raise a SettingsError if the options ask for what there is not."""
    for name in options.base or ():
        check_base(name)
        if options.task and options.task not in asked_of(name):
            raise SettingsError(
                f"Choosing the bases: {name!r} is not asked for {options.task}, expected {' or '.join(asked_of(name))}."
            )
    for option in ("repeats", *(["adapters"] if options.adapters else [])):
        given = getattr(options, option)
        smallest = min(given) if isinstance(given, list) else given
        if smallest is not None and smallest < 1:
            raise SettingsError(f"Reading the options: --{option} is {smallest}, expected at least 1.")


def asked_of(name: str) -> tuple[Task, ...]:
    """Return what a base can be asked."""
    kind = SHAPES[name].kind if name in SHAPES else None
    by_kind: dict[Any, tuple[Task, ...]] = {"encoder": TASKS[:1], "causal": TASKS, "seq2seq": TASKS[1:]}
    return by_kind[kind] if name not in REAL else ASKED[name]


def _write(options: argparse.Namespace, content: dict[str, Any]) -> None:
    from benchmarks.many_picture import draw_rows  # and with it matplotlib, which a child has no use for

    write_json(Path(options.json), content)
    draw_rows(content["rows"], machine_line(content["machine"]), Path(options.png))


# -- requests ---------------------------------------------------------------------------------------------------------


def _measure_requests(options: argparse.Namespace, content: dict[str, Any]) -> None:
    names = list(dict.fromkeys(options.base or ASKED))
    names = [name for name in names if not options.task or options.task in asked_of(name)]
    table = find_table(options.data) if any(needs_table(name) for name in names) else None
    for name in names:
        tasks = (options.task,) if options.task else asked_of(name)
        _measure_base(name, tasks, table, options, content)
        gc.collect()


def _measure_base(
    name: str, tasks: Sequence[Task], table: Path | None, options: argparse.Namespace, content: dict[str, Any]
) -> None:
    say(f"{name}: loading")
    case = load_case(name, table)
    load = _load_for(case, tasks, options)
    recipes = make_recipes(options.adapters or COUNTS, count_merged(case.model))
    adapters = make_adapters(case, max(WINDOW, PEFT_ADAPTERS, *(recipe.adapters for recipe in recipes)))
    found = time_requests(case, recipes, adapters, load, say)
    is_real = case.is_real
    del case, adapters
    gc.collect()
    memory = _memory_of(name, recipes, found, table, load, options)
    for task in tasks:
        rows = make_rows(name, task, recipes, found[task], load, memory[task])
        content["rows"] += rows
        content["goals"] += make_goals(name, task, found[task])
        content["warnings"] += make_warnings(name, task, found[task])
        print("\n".join(["", *table_lines(rows, _title(name, task, load, is_real))]), flush=True)
    _write(options, content)  # after every base, so that an interrupt loses one


def _load_for(case: Case, tasks: Sequence[Task], options: argparse.Namespace) -> Load:
    is_small = case.model.num_parameters() < _SMALL_BASE
    many = (_QUICK_SMALL_WINDOWS if options.quick else _SMALL_WINDOWS) if is_small else 1
    repeats = options.repeats or (_QUICK_REPEATS if options.quick else _REPEATS)
    fast = max(repeats, _QUICK_FAST_REPEATS if options.quick else _FAST_REPEATS) if not options.repeats else repeats
    return Load(dict.fromkeys(tasks, many), _QUICK_TOKENS if options.quick else _TOKENS, repeats, fast)


def _memory_of(
    name: str,
    recipes: Sequence[Recipe],
    found: Mapping[Task, Mapping[str, Measured]],
    table: Path | None,
    load: Load,
    options: argparse.Namespace,
) -> dict[Task, dict[str, Any]]:
    """Return the memory of every method that was timed, by task and name; each in a process of its own."""
    memory: dict[Task, dict[str, Any]] = {task: {} for task in found}
    for task, measured in found.items():
        for recipe in recipes if options.memory else ():
            if measured[recipe.name].seconds:
                say(f"{name}, {task}: memory of {recipe.name}")
                memory[task][recipe.name] = measure_memory(name, recipe, task, table, tokens=min(load.tokens, 2))
    return memory


def _title(name: str, task: Task, load: Load, is_real: bool) -> str:
    tokens = f" of {load.tokens} new tokens" if task == "generation" else ""
    return (
        f"{name} ({'real' if is_real else 'random'} weights), {task}: {load.windows[task]} windows of {WINDOW} requests"
        f"{tokens}, {load.repeats} repeats ({load.fast_repeats} of base and ia3)"
    )


# -- the other parts --------------------------------------------------------------------------------------------------


def _measure_store(options: argparse.Namespace, content: dict[str, Any]) -> None:
    names = options.base or (_QUICK_STORES if options.quick else _STORES)
    table = find_table(options.data) if any(needs_table(name) for name in names) else None
    count = max(options.adapters or COUNTS)
    requests = _QUICK_STORE_REQUESTS if options.quick else _STORE_REQUESTS
    tokens = _QUICK_TOKENS if options.quick else _TOKENS
    content["stores"] = []
    for name in names:
        case = load_case(name, table)
        row, goals = measure_store(case, asked_of(name)[-1], count, requests, tokens, say)
        content["stores"].append(row)
        content["goals"] += goals
        print("\n" + store_line(row), flush=True)
        _write(options, content)


def _measure_tasks(options: argparse.Namespace, content: dict[str, Any]) -> None:
    steps = _QUICK_STEPS if options.quick else _STEPS
    repeats = options.repeats or (1 if options.quick else _TASK_REPEATS)
    row, reached = measure_tasks(make_tasks(options.data), TASK_BASE, steps, repeats, say)
    content["tasks"] = row
    content["goals"].append(reached)
    print("\n" + tasks_line(row), flush=True)
    _write(options, content)


PARTS: dict[str, Callable[[argparse.Namespace, dict[str, Any]], None]] = {
    "requests": _measure_requests,
    "store": _measure_store,
    "tasks": _measure_tasks,
}


if __name__ == "__main__":
    sys.exit(main())
