"""A head on the mean of all positions beside PEFT: it cannot say what the head reads, so it must not run it."""

from __future__ import annotations

from pathlib import Path

import pytest

import ia3.peft
from ia3.bases.loading import load_base
from ia3.errors import AdapterError
from tests.models import save_tiny_base
from tests.parity.peft_side import listening
from tests.runs.trials import run

pytestmark = pytest.mark.parity

peft = pytest.importorskip("peft")
LABELS = ("down", "up")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return an adapter whose head reads the mean; its base lies beside it."""
    save_tiny_base(tmp_path / "base", "encoder")
    run(tmp_path / "base", tmp_path / "o", pooling="mean", eval_fraction=0.0, max_steps=1)
    return tmp_path / "o"


def test_peft_refuses_it(folder: Path) -> None:
    model = load_base(folder.parent / "base", labels=LABELS).model
    with listening(), pytest.raises(KeyError, match="classifier"):
        peft.PeftModel.from_pretrained(model, str(folder))


def test_our_names_of_peft_refuse_it_with_the_cure(folder: Path) -> None:
    with pytest.raises(AdapterError, match=r"ia3\.load_base\(…, pooling='mean'\), or let ia3\.load\(folder\) load it"):
        ia3.peft.AutoPeftModelForSequenceClassification.from_pretrained(folder)
