"""SetFit, the library, in an environment of its own, since it brings releases of its own with it.

Measured with setfit 1.2.0, sentence-transformers 6.2.0, transformers 5.24.0 and torch 2.13.0 (the CPU's build). Pairs,
batches and passes are those of the paper (Tunstall et al. 2022): 20 pairs of each sort a row, in batches of 16, once
each; with many rows it ends earlier. This file knows the environment and one cell at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.fewshot_rivals import RATES, Measure, Trial
from benchmarks.methods import NotAvailable
from ia3.bases.locating import locate
from ia3.errors import SettingsError
from ia3.inference.measures import score_predictions

_TORCH = ("torch==2.13.0",)  # first: another's request for it may fetch a CUDA build of gigabytes
_PACKAGES = ("setfit==1.2.0", "sentence-transformers==6.2.0", "transformers==5.24.0", "scikit-learn")
_MADE = "made-for-fewshot"  # a file of the environment, written when everything is there
_CHILD = Path(__file__).with_name("fewshot_setfit_child.py")
_PAIRS, _BATCH = 20, 16  # pairs of one label and of two for each row; pairs of a step
_MOST_STEPS = 500  # 16,000 texts: more than four passes over the largest pool


def make_environment(folder: Path, say: Callable[[str], None]) -> None:
    """Make the environment of SetFit with pip; one that is there is taken as it is.

    Raises:
        SettingsError: If it cannot be made.
    """
    if (folder / _MADE).is_file():
        return
    say(f"installing SetFit into {folder}")
    _call([sys.executable, "-m", "venv", str(folder)], folder)
    for packages in (_TORCH, _PACKAGES):
        _call([str(_python(folder)), "-m", "pip", "install", "--quiet", *packages], folder)
    (folder / _MADE).write_text("\n".join((*_TORCH, *_PACKAGES)) + "\n", encoding="utf-8")


def run_setfit(trial: Trial) -> Measure:
    """Train with SetFit in a process of its own; its seconds have those of the process and of its answers in them."""
    if trial.base.kind != "encoder":
        raise NotAvailable("SetFit is for sentence encoders")
    places = {label: place for place, label in enumerate(trial.labels)}
    rate = trial.rate or RATES["setfit"]["encoder"][1]
    with TemporaryDirectory(prefix="fewshot-setfit-") as folder:
        asked, answer = Path(folder, "asked.json"), Path(folder, "answer.json")
        content = {
            "model": str(locate(trial.base.name).folder), "folder": folder, "rate": rate, "seed": trial.seed,
            "texts": [example.text for example in trial.train.examples],
            "labels": [places[str(example.label)] for example in trial.train.examples],
            "test": [example.text for example in trial.test.examples],
            "pairs": _PAIRS, "batch": _BATCH, "most_steps": _MOST_STEPS,
        }  # fmt: skip
        asked.write_text(json.dumps(content), encoding="utf-8")
        _call([str(_python(trial.setfit)), "-I", str(_CHILD), str(asked), str(answer)], trial.setfit)
        given = json.loads(answer.read_text(encoding="utf-8"))
    probabilities = np.zeros((len(trial.test.examples), len(places)))
    probabilities[:, given["classes"]] = given["probabilities"]
    gold = [places[str(example.label)] for example in trial.test.examples]
    return lambda: score_predictions(trial.labels, gold, probabilities, None)


def _python(folder: Path) -> Path:
    return folder.absolute() / "bin" / "python"


def _call(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["nothing was said"]
        raise SettingsError(
            f"Running SetFit in {folder}: {Path(command[0]).name} ended with {done.returncode}, {told[-1].strip()!r}. "
            "Give --setfit-venv another folder, or leave setfit out of --methods."
        )
