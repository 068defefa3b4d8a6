"""Learning rates of the few-shot methods: what is tried on rows of their own, and which is the best of them.

Two tables of different kinds, two draws of 16 rows a label of their tuning parts; as many rates for every method. This
file knows cells and results; it runs nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.fewshot_data import Cell
from benchmarks.fewshot_methods import RATES
from benchmarks.fewshot_report import Result

TASKS, ROWS = ("phrasebank", "trec"), 16
DRAWS = (100, 101)
_FIRST, _MOST_FURTHER = 3, 3  # rates of a method that are tried, and beyond these


def tuning_cells(bases: Sequence[str], methods: Sequence[str]) -> Iterator[Cell]:
    """Yield the runs that try learning rates: three for each method that has one, on the same rows."""
    for base in bases:
        kind = "encoder" if base == "minilm" else "causal"
        for method in methods:
            for rate in RATES.get(method, {}).get(kind, ()):
                yield from cells_of_rate(base, method, rate)


def cells_of_rate(base: str, method: str, rate: float) -> list[Cell]:
    """Return the runs that try one rate."""
    return [Cell(base, task, ROWS, draw, method, rate) for task in TASKS for draw in DRAWS]


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
    """Return the rate of the best mean accuracy over the tuning runs, by base and method; of equal ones the lower.

    The tables are weighed alike, however many of their runs there are.
    """
    scores: dict[tuple[str, str], dict[float, dict[str, list[float]]]] = {}
    for result in results.values():
        if result.get("rate") is not None and result["accuracy"] is not None:
            own = scores.setdefault((result["base"], result["method"]), {}).setdefault(result["rate"], {})
            own.setdefault(result["task"], []).append(result["accuracy"])
    return {
        key: max(sorted(own), key=lambda rate: statistics.fmean(map(statistics.fmean, own[rate].values())))
        for key, own in scores.items()
    }
