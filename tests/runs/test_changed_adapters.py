"""A trained adapter's folder with changed bytes is refused in a sentence of ours, or it is loaded and answers."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import ia3
from ia3.errors import IA3Error
from tests.adapters.test_mutations import FILES, changed_bytes
from tests.runs.trials import run

BaseFolder = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what a library thinks of a changed setting
@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_a_changed_adapter_is_refused_or_answers(kind: str, base: BaseFolder, tmp_path: Path) -> None:
    loaded = ia3.load_base(base(kind), kind=kind, labels=["down", "up"], say=lambda line: None)
    run(base(kind), tmp_path / "whole", epochs=1)
    changed, answered, chance = tmp_path / "changed", 0, random.Random(0)
    shutil.copytree(tmp_path / "whole", changed)
    for seed in range(500):
        name = chance.choice((*FILES, "ia3.json", "ia3.json"))
        content, how = changed_bytes((tmp_path / "whole" / name).read_bytes(), seed)
        (changed / name).write_bytes(content)
        try:
            predictor = ia3.load(changed, base=loaded)
            try:
                answered += predictor.classify(["good news"])[0].probability >= 0
            finally:
                predictor.attachment.detach()
        except IA3Error as error:
            assert str(error)
        except Exception as error:
            raise AssertionError(f"{name}: {how}: {type(error).__name__}: {error}") from error
        shutil.copyfile(tmp_path / "whole" / name, changed / name)
    assert 80 < answered < 500  # a load that fails leaves the base free for the next one
