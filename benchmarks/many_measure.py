"""The clock and the memory of many adapters: methods in turn in one process, then each alone in a fresh one.

In every repeat all methods get the same texts in the same order; those that take long run in the first repeats alone.
Ratios are taken within a repeat. A request waits from the moment its window arrives until its answer is there. This
file knows methods and requests; it knows nothing of what a method does.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bases import ROOT, Case, load_case
from benchmarks.many_methods import Adapters, Method, Recipe, build, make_adapters, make_recipes
from benchmarks.many_requests import WINDOW, Task, answer, draw_adapters, make_windows
from benchmarks.measure import Say, reason_of, still_collector
from benchmarks.memory import peak_bytes, resident_bytes, touch
from ia3.data.encoding import Encoded

_WARM_REQUESTS = 4  # of a method that takes long
Windows = Sequence[Sequence[Encoded]]


@dataclass(frozen=True)
class Load:
    """What a base is asked.

    Attributes:
        windows: Windows of requests for each task, by task.
        tokens: New tokens of an answer.
        repeats: Times that every method answers all of them.
        fast_repeats: Times that those do that do not take long.
    """

    windows: Mapping[Task, int]
    tokens: int
    repeats: int
    fast_repeats: int


@dataclass
class Measured:
    """What was measured of one method on one task.

    Attributes:
        seconds: Of all windows together, by repeat.
        decode_seconds: The part of it from first new tokens to last ones, by repeat.
        waits: Seconds that each request waited, all repeats together.
        values: What was answered in the first repeat, window by window.
        build_seconds: What making the method took.
        skipped: Why nothing was measured.
    """

    seconds: dict[int, float] = field(default_factory=dict)
    decode_seconds: dict[int, float] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    build_seconds: float = 0.0
    skipped: str | None = None


def time_requests(
    case: Case, recipes: Sequence[Recipe], adapters: Adapters, load: Load, say: Say
) -> dict[Task, dict[str, Measured]]:
    """Return what was measured of every method on every task, by the recipe's name; what fails is skipped.

    Args:
        case: The base.
        recipes: The methods.
        adapters: The numbers of all adapters.
        load: What is asked.
        say: Told what goes on.
    """
    methods: dict[str, Method] = {}
    found: dict[Task, dict[str, Measured]] = {task: {r.name: Measured() for r in recipes} for task in load.windows}
    for recipe in recipes:
        say(f"{case.name}: building {recipe.name}")
        began = time.perf_counter()
        try:
            methods[recipe.name] = build(recipe, case, adapters)
        except Exception as error:  # one method that fails must not take the others' numbers along
            say(f"{case.name}: {recipe.name} is skipped: {reason_of(error)}")
            for measured in found.values():
                measured[recipe.name].skipped = reason_of(error)
        for measured in found.values():
            measured[recipe.name].build_seconds = time.perf_counter() - began
    built = [recipe for recipe in recipes if recipe.name in methods]
    for task, measured in found.items():
        _time_task(case, task, built, methods, load, measured, say)
    return found


def _time_task(
    case: Case,
    task: Task,
    recipes: Sequence[Recipe],
    methods: Mapping[str, Method],
    load: Load,
    found: Mapping[str, Measured],
    say: Say,
) -> None:
    recipes = [recipe for recipe in recipes if task == "generation" or not recipe.is_distinct]
    windows = make_windows(case, load.windows[task])
    for recipe in recipes:
        say(f"{case.name}, {task}: warming up {recipe.name}")
        drawn = _draw(recipe, len(windows), 0)
        for window, chosen in zip(windows, drawn, strict=True):
            few = _WARM_REQUESTS if recipe.is_rival else WINDOW
            answer_window(case, task, methods[recipe.name], window[:few], chosen[:few], load.tokens)
    with still_collector():
        for repeat in range(max(load.repeats, load.fast_repeats)):
            say(f"{case.name}, {task}: repeat {repeat + 1} of {max(load.repeats, load.fast_repeats)}")
            now = [r for r in recipes if repeat < (load.repeats if r.is_rival else load.fast_repeats)]
            first = repeat % len(now)  # so that no method always comes behind the same one
            for recipe in now[first:] + now[:first]:
                gc.collect()
                _run_repeat(case, task, recipe, methods[recipe.name], windows, load.tokens, repeat, found[recipe.name])


def _draw(recipe: Recipe, windows: int, repeat: int) -> tuple[tuple[int, ...], ...]:
    return draw_adapters(recipe.adapters, windows, repeat, is_distinct=recipe.is_distinct)


def _run_repeat(
    case: Case, task: Task, recipe: Recipe, method: Method, windows: Windows, tokens: int, repeat: int, into: Measured
) -> None:
    drawn = _draw(recipe, len(windows), repeat)
    into.seconds[repeat] = into.decode_seconds[repeat] = 0.0
    for window, chosen in zip(windows, drawn, strict=True):
        waits, decode, values = answer_window(case, task, method, window, chosen, tokens)
        into.seconds[repeat] += max(waits)
        into.decode_seconds[repeat] += decode
        into.waits += waits
        if repeat == 0:
            into.values.append(values)


def answer_window(
    case: Case, task: Task, method: Method, window: Sequence[Encoded], chosen: Sequence[int], tokens: int
) -> tuple[list[float], float, Tensor]:
    """Let a method answer one window.

    Args:
        case: The base.
        task: What is asked.
        method: Who answers.
        window: The requests.
        chosen: The adapter of each.
        tokens: New tokens of an answer.

    Returns:
        Seconds that each request waited, seconds from first new tokens to last ones, and the answers in the order of
        the requests.
    """
    waits = [0.0] * len(window)
    values: dict[int, Tensor] = {}
    decode = 0.0
    began = time.perf_counter()
    for places in method.split(chosen):
        model, rows = method.serve([chosen[place] for place in places])
        answers = answer(case, task, model, [window[place] for place in places], tokens, rows)
        at = time.perf_counter() - began
        decode += answers.decode_seconds
        for place, value in zip(places, answers.values, strict=True):
            waits[place], values[place] = at, value
    return waits, decode, torch.stack([values[place] for place in range(len(window))])


def paired_ratio(
    mine: Mapping[int, float], rival: Mapping[int, float], repeats: int | None = None
) -> tuple[float, float, float] | None:
    """Return how many times the rival's seconds ours are in: median, lowest and highest of the common repeats.

    Args:
        mine: Seconds by repeat.
        rival: The same of the rival.
        repeats: Only those before this one; all if left out.
    """
    common = [r for r in mine if r in rival and (repeats is None or r < repeats)]
    ratios = [rival[r] / mine[r] for r in common]
    return (statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


# -- memory -----------------------------------------------------------------------------------------------------------


def measure_memory(base: str, recipe: Recipe, task: Task, table: Path | None, *, tokens: int) -> dict[str, Any]:
    """Return what a fresh process measures that holds one method alone; `memory_skipped` says why there is no number.

    Args:
        base: Name of the base.
        recipe: The method; it is built again in that process.
        task: What is asked.
        table: The table of sentences.
        tokens: New tokens of an answer.

    Returns:
        `peak_memory_bytes`, the most resident bytes while one window is answered.
    """
    order = {"base": base, "recipe": recipe.name, "adapters": recipe.adapters, "task": task, "tokens": tokens}
    command = [sys.executable, "-m", "benchmarks.many", "--child", json.dumps(order | {"table": table and str(table)})]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if child.returncode == 0:
        found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
        return found
    lines = child.stderr.strip().splitlines() or ["no message"]
    return {"memory_skipped": f"failed with code {child.returncode}: {lines[-1][:300]}"}


def run_memory_child(order: Mapping[str, Any]) -> dict[str, int]:
    """Measure in this process, which must be fresh; see `measure_memory`."""
    count = order["adapters"]
    recipe = next(one for one in make_recipes([count], count, count) if one.name == order["recipe"])
    case = load_case(order["base"], Path(order["table"]) if order["table"] else None)
    touch(case.model)
    [window], [chosen] = make_windows(case, 1), _draw(recipe, 1, 0)
    method = build(recipe, case, make_adapters(case, recipe.adapters))
    few = WINDOW if not recipe.is_rival else 2 * _WARM_REQUESTS
    resident_bytes()  # gives back what building took
    peak = peak_bytes(lambda: answer_window(case, order["task"], method, window[:few], chosen[:few], order["tokens"]))
    return {"peak_memory_bytes": peak}
