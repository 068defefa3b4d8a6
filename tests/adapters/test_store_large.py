"""Ten thousand adapters in one file: opened without reading the table, and only the rows asked for are in memory.

Counts are compared; what takes time is printed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import MT5Config

from ia3.adapters.adapter import Adapter
from ia3.adapters.store import create_store
from ia3.bases.kinds import empty_model
from ia3.core.discovery import find_plan

COUNT, TOUCHED = 10_000, 100
ROW = 34_816 * 4

_READER = """
import json, os, random, sys, time
from pathlib import Path
from ia3.adapters.store_file import open_store_file

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssFile:")))

path, touched = Path(sys.argv[1]), int(sys.argv[2])
before, start = resident(), time.perf_counter()
file = open_store_file(path)
names = list(file.state.lines)
found = {"open_seconds": time.perf_counter() - start, "index_bytes": resident() - before}
found["imported"] = [name for name in ("torch", "numpy", "transformers") if name in sys.modules]
import torch
from ia3.adapters.store import Store
torch.set_num_threads(1)
store = Store.open(path)
store.rows(names[:1])  # what is imported at the first use
chosen = random.Random(0).sample(names, touched)
before, start = resident(), time.perf_counter()
rows = store.rows(chosen)
found["first_seconds"] = time.perf_counter() - start
found["touched_bytes"] = resident() - before
start = time.perf_counter()
again = store.rows(chosen)
found["again_seconds"] = time.perf_counter() - start
assert again.equal(rows)
found["first_numbers"] = dict(zip(chosen, rows[:, 0].tolist()))
print(json.dumps(found))
"""

_KEEPER = """
import sys
from pathlib import Path
from ia3.adapters.store_file import open_store_file
from ia3.adapters.store_writing import compact_store_file, remove_adapters

file = open_store_file(Path(sys.argv[1]))
file = remove_adapters(file, list(file.state.lines)[::7])
file = compact_store_file(file, "Compacting")
assert file.find_damage() == ()
peak = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
print(1024 * int(peak[0].split()[1]))
"""


def _run(program: str, *arguments: object) -> str:
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_ten_thousand_adapters_open_without_the_table_and_rows_alone_are_resident(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 4 * COUNT * ROW:
        pytest.skip("needs 6 GB on the disk")
    config = MT5Config(d_model=512, d_kv=64, d_ff=1024, num_layers=8, num_decoder_layers=8, num_heads=6)  # mT5-small
    plan = find_plan(empty_model(config, "seq2seq"))
    assert plan.width * 4 == ROW
    noise = torch.rand(plan.width + COUNT, generator=torch.Generator().manual_seed(0)) + 0.5
    record = {"base": {"name": "google/mt5-small", "fingerprint": "ab" * 32, "kind": "seq2seq"}, "labels": ["a", "b"]}

    def make(number: int) -> Callable[[], Adapter]:
        row = noise[number : number + plan.width]
        return lambda: Adapter(plan.sites, {site.name: row[span] for site, span in plan.spans()}, record=record)

    path = tmp_path / "s.ia3"
    start = time.perf_counter()
    create_store(path, plan, adapters=((f"customer-{i:05d}", make(i)) for i in range(COUNT))).close()
    seconds = time.perf_counter() - start
    if hasattr(os, "posix_fadvise"):  # out of the system's memory, so that the first reading is the disk's
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    found = json.loads(_run(_READER, path, TOUCHED))
    print(
        f"\n{COUNT:,} adapters, {path.stat().st_size / 1e9:.3f} GB, packed in {seconds:.1f} s; opened in "
        f"{1e3 * found['open_seconds']:.1f} ms with {found['index_bytes'] / 1e6:.1f} MB; a row first in "
        f"{1e6 * found['first_seconds'] / TOUCHED:.0f} µs, again in {1e6 * found['again_seconds'] / TOUCHED:.0f} µs; "
        f"resident {found['touched_bytes'] / (TOUCHED * ROW):.4f} of the rows touched"
    )
    assert path.stat().st_size < 1.02 * COUNT * ROW
    assert found["imported"] == []
    assert found["index_bytes"] < 1000 * COUNT
    assert found["touched_bytes"] <= 1.02 * TOUCHED * ROW + 2**20  # what SQLite keeps of the pages
    assert int(_run(_KEEPER, path)) < 1e8  # of a file of 1.4 GB, written anew and read
    assert found["first_numbers"] == {name: float(noise[int(name[-5:])]) for name in found["first_numbers"]}
