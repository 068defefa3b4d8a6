"""`python -m benchmarks.training`: the speed and memory of a training step, ours and the rivals', side by side.

Speeds are taken in this process, the methods in turn; memory in a fresh process for each row. This file reads the
command line and puts the parts together.
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.bases import NAMES, SHAPES, check_base, find_table, load_case, needs_table
from benchmarks.measure import Timing, time_methods
from benchmarks.memory import measure_in_child, run_child
from benchmarks.methods import Recipe
from benchmarks.ours import OURS
from benchmarks.products import PRODUCTS
from benchmarks.quality import TARGET, time_to_quality
from benchmarks.report import (
    describe_machine,
    machine_line,
    make_ratios,
    make_rows,
    say,
    table_lines,
    warnings_of,
    write_json,
)
from benchmarks.rivals import RIVALS
from benchmarks.workload import BATCH_SIZE, Work, make_chunk
from ia3.errors import IA3Error, SettingsError, near_matches

METHODS: Mapping[str, Recipe] = {**RIVALS, **OURS, **PRODUCTS}
QUALITY_BASE = "gemma-3-270m"
_STEPS, _QUICK_STEPS = 3, 2  # the notebook's loop takes seven seconds for a step of Gemma
_FEW_STEPS = {"flan-t5-base": 1, "qwen3-0.6b": 1}  # the largest two, so that all bases end within an hour
_REPEATS, _QUICK_REPEATS = 7, 3
_MEASURED_STEPS, _QUICK_MEASURED_STEPS = 2, 1  # of the child that measures memory

_WHAT = """\
Measure training steps of a frozen base with (IA)³: ours, PEFT's, and what no training can do without.

bases
  gemma-3-270m, minilm                           real weights, real table
  mt5-small, flan-t5-base, bert-base, qwen3-0.6b published shapes, random weights, random ids of the table's lengths

methods
  peft-notebook  PEFT's (IA)³ as its notebooks train: texts padded to 128, every logit, default targets
  peft-tuned     PEFT's (IA)³ at our sites, same batches, logits at the labels only, fused AdamW, no dropout
  peft-lora      LoRA of rank 16 on every linear but the head, as peft-tuned
  frozen-floor   the frozen base's forward and backward pass, nothing trained
  ia3            ours
  ia3-compiled   ours with compiled blocks
  ia3-int8       ours on an int8 base
  ia3-int8-gradients  the same with the products of the backward pass in int8
  gemm           the frozen base's matrix products alone, by torch.mm
  gemm-best      the same products by the fastest library here

columns
  ×              how many times as fast as that rival, the median of the repeats' ratios
  gemm, best     part of the method's time that the products alone take, by torch.mm and by the fastest library;
                 above 100 % where a method does fewer of them, or by a faster library
  peak MB        most resident memory during the steps; above base: more than with the base just loaded; of a step:
                 more than before the steps, when everything is built and compiled
  kept MB        kept for the backward pass in the longest step, weights and inputs aside
  loss           on the first batch, after the steps from the same first state
"""
_EXAMPLES = """\
examples
  python -m benchmarks.training --base gemma-3-270m --quick
  python -m benchmarks.training --data ../shared/data --json speed.json --png speed.png
  python -m benchmarks.training --base minilm --method ia3 --method peft-tuned --repeats 21 --no-memory
  python -m benchmarks.training --quality --json quality.json
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=_WHAT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--base", action="append", metavar="NAME", help="Base to measure, may be repeated (default: all of them).")
    add("--method", action="append", metavar="NAME", help="Method to measure, may be repeated (default: all of them).")
    add(
        "--data",
        metavar="DIR",
        help="Folder with financial_phrasebank/train.csv (default: IA3_DATA, else ../shared/data).",
    )
    add("--quick", action="store_true", help="Fewer repeats and steps: Gemma within five minutes.")
    add(
        "--repeats",
        type=int,
        metavar="N",
        help=f"Times each method runs the steps ({_REPEATS}, quick {_QUICK_REPEATS}).",
    )
    steps = f"Steps of {BATCH_SIZE} examples ({_STEPS}; large bases and --quick: fewer)."
    add("--steps", type=int, metavar="N", help=steps)
    add("--compile", action=argparse.BooleanOptionalAction, default=True, help="Whether compiled methods run.")
    add("--memory", action=argparse.BooleanOptionalAction, default=True, help="Whether memory is measured.")
    add("--json", metavar="FILE", default="build/benchmarks/training.json", help="(default: %(default)s)")
    add("--png", metavar="FILE", default="build/benchmarks/training.png", help="(default: %(default)s)")
    add(
        "--quality",
        action="store_true",
        help=f"Instead of steps, time `ia3 train` until its accuracy is reached (base: {QUALITY_BASE}).",
    )
    add("--quality-target", type=float, default=TARGET, metavar="X", help="That accuracy (default: %(default)s).")
    add("--train-arguments", default="", metavar="ARGS", help="Further arguments of that ia3 train, in one string.")
    add("--child", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    options = make_parser().parse_args(arguments)
    transformers_logging.set_verbosity_error()
    try:
        if options.child:
            print(json.dumps(run_child(json.loads(options.child), METHODS)))
        elif options.quality:
            _measure_quality(options)
        else:
            _measure_steps(options)
    except (IA3Error, OSError) as error:
        say(f"benchmark: {error}")
        return 2
    return 0


def _measure_steps(options: argparse.Namespace) -> None:
    from benchmarks.pictures import draw_rows  # and with it matplotlib, which a child has no use for

    names = _chosen_bases(options)
    recipes = _chosen_methods(options)
    table = find_table(options.data) if any(needs_table(name) for name in names) else None
    content = _head()
    for name in names:
        rows, ratios, lines = _measure_base(name, recipes, table, options)
        content["rows"] += rows
        content["ratios"][name] = ratios
        content["warnings"] += warnings_of(rows)
        print("\n".join(["", *lines]), flush=True)
        write_json(Path(options.json), content)  # after every base, so that an interrupt loses one
        draw_rows(content["rows"], machine_line(content["machine"]), Path(options.png))
    for warning in content["warnings"]:
        print(warning, flush=True)
    say(f"written: {options.json}, {options.png}")


def _head() -> dict[str, Any]:
    machine = describe_machine(datetime.now(UTC))
    print(machine_line(machine), flush=True)
    return {"machine": machine, "rows": [], "ratios": {}, "warnings": [], "quality": None}


def _measure_base(
    name: str, recipes: Mapping[str, Recipe], table: Path | None, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    steps = options.steps or _FEW_STEPS.get(name) or (_QUICK_STEPS if options.quick else _STEPS)
    repeats = options.repeats or (_QUICK_REPEATS if options.quick else _REPEATS)
    works, timings, is_real = _time_base(name, recipes, table, steps, repeats)
    memory = {}
    for method, recipe in recipes.items():
        if options.memory and recipe.is_training and timings[method].skipped is None:
            say(f"{name}: memory of {method}")
            measured = min(steps, _QUICK_MEASURED_STEPS if options.quick else _MEASURED_STEPS)
            memory[method] = measure_in_child(name, method, steps, measured, table)
    rows, ratios = make_rows(name, works, timings, memory), make_ratios(timings)
    title = (
        f"{name} ({'real' if is_real else 'random'} weights): {steps} steps of {BATCH_SIZE} examples, "
        f"{sum(work.tokens for work in works)} real tokens, {repeats} repeats, loss after them on the first batch"
    )
    return rows, ratios, table_lines(rows, ratios, title)


def _time_base(
    name: str, recipes: Mapping[str, Recipe], table: Path | None, steps: int, repeats: int
) -> tuple[tuple[Work, ...], dict[str, Timing], bool]:
    """Load a base, time its methods, and let go of it before memory is measured."""
    say(f"{name}: loading")
    case = load_case(name, table)
    works = make_chunk(case, steps)
    timings = time_methods(case, works, recipes, repeats, say)
    is_real = case.is_real
    del case
    torch.compiler.reset()
    gc.collect()
    return works, timings, is_real


def _chosen_bases(options: argparse.Namespace) -> list[str]:
    names = options.base or list(NAMES)
    for name in names:
        check_base(name)
    return list(dict.fromkeys(names))


def _chosen_methods(options: argparse.Namespace) -> dict[str, Recipe]:
    for name in options.method or ():
        if name not in METHODS:
            near = near_matches(name, METHODS)
            raise SettingsError(f"Choosing the methods: the benchmark has no method {name!r}.{near}")
    for option in ("repeats", "steps"):
        if getattr(options, option) is not None and getattr(options, option) < 1:
            raise SettingsError(f"Reading the options: --{option} is {getattr(options, option)}, expected at least 1.")
    chosen = {name: recipe for name, recipe in METHODS.items() if not options.method or name in options.method}
    return {name: recipe for name, recipe in chosen.items() if options.compile or not recipe.is_compiled}


def _measure_quality(options: argparse.Namespace) -> None:
    bases = options.base or [QUALITY_BASE]
    for name in bases:
        if name in SHAPES:
            raise SettingsError(f"Timing ia3 train: the base {name!r} has random weights, expected one that can learn.")
    table = find_table(options.data)
    content = _head()
    content["quality"] = []
    for name in bases:
        say(f"{name}: ia3 train until its accuracy is {options.quality_target:.1%}")
        found = time_to_quality(table, name, options.quality_target, shlex.split(options.train_arguments))
        content["quality"].append(found)
        write_json(Path(options.json), content)
        for seen in found["evaluations"]:
            print(f"{name}: {seen['accuracy']:.1%} after {seen['seconds']:.1f} s (step {seen['step']})", flush=True)
        ending = f"reached in {found['seconds']:.1f} s" if found["reached"] else "not reached"
        print(f"{name}: {options.quality_target:.1%} {ending}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
