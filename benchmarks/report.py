"""What was measured as rows of plain values, as JSON and as lines of text.

This file knows timings and numbers of bytes; it measures nothing.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Timing, loss_difference, paired_ratio
from benchmarks.memory import FIELDS
from benchmarks.ours import OURS
from benchmarks.rivals import RIVALS
from benchmarks.workload import Work
from ia3.files import write_whole
from ia3.training.records import finite

Row = dict[str, Any]

LOSS_TOLERANCE = 1e-4
REFERENCE = "peft-tuned"  # the same function as ours, so that losses can be compared
_SAME_FUNCTION = ("ia3", "ia3-compiled")  # int8 is another one
_MEGA = 1e6
_HEAD = (
    "method", "examples/s", "(min … max)", "tokens/s", *(f"× {name.removeprefix('peft-')}" for name in RIVALS),
    "gemm", "best", "peak MB", "above base", "of a step", "kept MB", "loss", "warm-up s",
)  # fmt: skip


def say(line: str) -> None:
    """Talk on stderr; stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def describe_machine(now: datetime) -> Row:
    """Return what the numbers depend on: processor, threads, versions, and the date."""
    packages = ("torch", "transformers", "peft", "ia3")
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "date": now.isoformat(timespec="seconds"),
    }


def machine_line(machine: Mapping[str, Any]) -> str:
    """Return the machine in one line."""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "peft", "ia3"))
    return (
        f"{machine['cpu']} ({machine['capability']}), {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB; Python {machine['python']}, {versions}; {machine['date']}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def make_rows(
    base: str, works: Sequence[Work], timings: Mapping[str, Timing], memory: Mapping[str, Mapping[str, Any]]
) -> list[Row]:
    """Return a row of plain values for each method of a base.

    Args:
        base: Name of the base.
        works: The chunk.
        timings: By method.
        memory: What a fresh process measured, by method; missing where nothing was.
    """
    examples, tokens = sum(work.examples for work in works), sum(work.tokens for work in works)
    rows = []
    for name, timing in timings.items():
        row: Row = {"base": base, "method": name, "skipped": timing.skipped, "steps": len(works)}
        row |= {"examples": examples, "tokens": tokens, **_speeds(timing, examples, tokens)}
        row |= {f"{gemm.replace('-', '_')}_share": _share(timings.get(gemm), timing) for gemm in ("gemm", "gemm-best")}
        row |= {"loss": timing.losses[-1] if timing.losses else None, "step_losses": list(timing.losses[:-1])}
        row["loss_difference"] = _difference(name, timing, timings.get(REFERENCE))
        row |= {"warmup_seconds": timing.warmup_seconds, "seconds": list(timing.seconds)}
        rows.append(row | dict.fromkeys((*FIELDS, "memory_skipped")) | dict(memory.get(name, {})))
    return rows


def _speeds(timing: Timing, examples: int, tokens: int) -> Row:
    names = ("examples_per_second", "examples_per_second_low", "examples_per_second_high", "tokens_per_second")
    if not timing.seconds:
        return dict.fromkeys(names)
    speeds = [examples / seconds for seconds in timing.seconds]
    middle = statistics.median(speeds)
    return dict(zip(names, (middle, min(speeds), max(speeds), middle * tokens / examples), strict=True))


def _share(products: Timing | None, timing: Timing) -> float | None:
    """Return the products' part of a method's time."""
    if products is None or not products.seconds or not timing.seconds:
        return None
    return paired_ratio(timing, products)[0]


def _difference(name: str, timing: Timing, reference: Timing | None) -> float | None:
    return None if reference is None or name not in OURS else loss_difference(timing, reference)


def make_ratios(timings: Mapping[str, Timing]) -> dict[str, dict[str, Row]]:
    """Return how many times as fast as each rival each method is, with the lowest and highest of the repeats."""
    measured = {name: timing for name, timing in timings.items() if timing.seconds}
    return {
        name: {
            rival: dict(zip(("ratio", "low", "high"), paired_ratio(timing, measured[rival]), strict=True))
            for rival in RIVALS
            if rival in measured and rival != name
        }
        for name, timing in measured.items()
    }


def warnings_of(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for every row whose loss should be PEFT's and is not."""
    return [
        f"warning: {row['base']}: the loss of {row['method']} differs from {REFERENCE}'s by "
        f"{row['loss_difference']:.2e} after the same steps, expected at most {LOSS_TOLERANCE:.0e}"
        for row in rows
        if row["method"] in _SAME_FUNCTION and not (row["loss_difference"] or 0.0) <= LOSS_TOLERANCE
    ]


def table_lines(rows: Sequence[Row], ratios: Mapping[str, Mapping[str, Row]], title: str) -> list[str]:
    """Return the rows of one base as a table of text, numbers to the right."""
    cells = [_HEAD, *(_cells(row, ratios.get(row["method"], {})) for row in rows if not row["skipped"])]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = [title]
    for line in cells:
        rest = "  ".join(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        lines.append(f"{line[0]:<{widths[0]}}  {rest}".rstrip())
    lines += [f"{row['method']}: {row['skipped']}" for row in rows if row["skipped"]]
    lines += [f"{row['method']}: no memory numbers, {row['memory_skipped']}" for row in rows if row["memory_skipped"]]
    return lines


def _cells(row: Row, ratios: Mapping[str, Row]) -> tuple[str, ...]:
    low, high = row["examples_per_second_low"], row["examples_per_second_high"]
    memory = (row["peak_memory_bytes"], row["peak_above_base_bytes"], row["peak_of_step_bytes"], row["kept_bytes"])
    return (
        row["method"],
        number(row["examples_per_second"]),
        f"({number(low)} … {number(high)})",
        f"{row['tokens_per_second']:.0f}",
        *(f"{ratios[rival]['ratio']:.2f}" if rival in ratios else "" for rival in RIVALS),
        *("" if share is None else f"{share:.0%}" for share in (row["gemm_share"], row["gemm_best_share"])),
        *("" if size is None else number(size / _MEGA) for size in memory),
        "" if row["loss"] is None else f"{row['loss']:.5f}",
        f"{row['warmup_seconds']:.1f}",
    )


def number(value: float) -> str:
    """Return a number with about three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write what was measured, in the place of what was there.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(finite(content), indent=1) + "\n").encode())
