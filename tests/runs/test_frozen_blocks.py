"""Blocks whose vectors are not trained stay what the run began with, whatever else the settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ia3.adapters.folder import load_adapter
from ia3.errors import SettingsError
from ia3.training import loop
from tests.runs.trials import ROWS, run, run_many

BaseFolder = Callable[..., Path]
SHORT: dict[str, Any] = {"epochs": 2, "eval_fraction": 0.0}

pytestmark = pytest.mark.usefixtures("undrawn")


def _vectors(folder: Path) -> dict[str, Tensor]:
    return dict(load_adapter(folder).vectors)


@pytest.mark.parametrize("kind", ["causal", "seq2seq", "encoder"])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_the_first_blocks_keep_every_bit_of_the_start(
    kind: str, optimizer: str, base: BaseFolder, tmp_path: Path
) -> None:
    run(base(kind), tmp_path / "start", source=ROWS[::-1], **SHORT)
    given = {"weight_decay": 0.1, "feedforward_rate": 3.0, "optimizer": optimizer, **SHORT}
    run(base(kind), tmp_path / "o", start=tmp_path / "start", frozen_blocks=0.5, **given)
    begun, ended = _vectors(tmp_path / "start"), _vectors(tmp_path / "o")
    kept = {name for name in begun if torch.equal(begun[name], ended[name])}
    first_half = "encoder" if kind == "seq2seq" else ".0."  # of two blocks, or of two on each side
    assert kept == {name for name in begun if first_half in name}
    assert 0 < len(kept) < len(begun)


def test_the_three_losses_leave_them_as_well(base: BaseFolder, tmp_path: Path) -> None:
    run(base("causal"), tmp_path / "o", frozen_blocks=0.5, losses="lm+ul+ln", **SHORT)
    moved = {
        name: not torch.equal(vector, torch.ones_like(vector)) for name, vector in _vectors(tmp_path / "o").items()
    }
    assert {name for name, is_moved in moved.items() if not is_moved} == {name for name in moved if ".0." in name}


@pytest.mark.parametrize("batches", ["mixed", "apart"])
def test_each_task_of_a_run_has_its_own(batches: str, base: BaseFolder, tmp_path: Path) -> None:
    tasks = [{"name": f"{share}", "table": list(ROWS), "settings": {"frozen_blocks": share}} for share in (0.0, 0.5)]
    run_many(base("causal"), tmp_path / "o", tasks, batches=batches, **SHORT)
    for share, first in (("0.0", False), ("0.5", True)):
        vectors = _vectors(tmp_path / "o" / share)
        assert all(torch.equal(v, torch.ones_like(v)) == (first and ".0." in path) for path, v in vectors.items())


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("causal", {"dtype": "bfloat16"}),
        ("causal", {"precision": "int8"}),
        ("encoder", {"pooling": "mean"}),
        ("encoder", {"pooling": "mean", "dtype": "bfloat16"}),
    ],
    ids=str,
)
def test_what_the_frozen_blocks_give_may_be_kept_on_any_base(
    kind: str, given: dict[str, Any], base: BaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(base(kind), tmp_path / "kept", frozen_blocks=0.5, **given, **SHORT)
    monkeypatch.setattr(loop, "MOST_BYTES", 0)
    run(base(kind), tmp_path / "plain", frozen_blocks=0.5, **given, **SHORT)
    kept, plain = _vectors(tmp_path / "kept"), _vectors(tmp_path / "plain")
    moved = max(float((vector - 1).abs().max()) for vector in plain.values())
    assert max(float((kept[name] - plain[name]).abs().max()) for name in plain) <= 0.05 * moved


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_outside_its_range_is_refused(share: float, base: BaseFolder, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"frozen_blocks is {share}, expected a share in \[0, 1\)"):
        run(base("causal"), tmp_path / "o", frozen_blocks=share)
    assert not (tmp_path / "o").exists()


def test_a_share_that_is_less_than_a_block_is_told(base: BaseFolder, tmp_path: Path) -> None:
    told: list[str] = []
    run(base("causal"), tmp_path / "o", frozen_blocks=0.4, say=told.append, **SHORT)  # of two blocks
    assert (
        told.count("The base has too few blocks for frozen_blocks 0.4 to be one of them: all vectors are trained.") == 1
    )
