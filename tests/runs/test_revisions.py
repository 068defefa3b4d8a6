"""A run on a base at a revision: recorded with it, gone on with on the same commit only, told in the card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ia3.adapters.folder import load_adapter
from ia3.errors import RunError
from ia3.inference.loading import load_predictor
from tests.hub_cache import HubCache, two_commits
from tests.runs.trials import run, run_many, stop_after

ID = "owner/tiny"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """The same base at two commits with other weights; the older has two names."""
    return two_commits(ID, "encoder", tmp_path, monkeypatch)


@pytest.mark.usefixtures("cache", "undrawn")
def test_a_run_keeps_the_revision_of_its_base_in_every_file(tmp_path: Path) -> None:
    run(f"{ID}@v1", tmp_path / "o")
    config = json.loads((tmp_path / "o" / "adapter_config.json").read_text())
    record = json.loads((tmp_path / "o" / "ia3.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (ID, "v1")
    assert (record["base"]["name"], record["base"]["revision"]) == (ID, "v1")
    assert 'revision="v1"' in (tmp_path / "o" / "README.md").read_text()
    assert load_predictor(tmp_path / "o").base.revision == "v1"


@pytest.mark.usefixtures("cache", "undrawn")
def test_a_run_goes_on_with_the_same_commit_only(tmp_path: Path) -> None:
    run(f"{ID}@v1", tmp_path / "o", **stop_after(4))
    shutil.copytree(tmp_path / "o", tmp_path / "again")
    with pytest.raises(RunError, match="this is another run: base was"):
        run(ID, tmp_path / "o", resume=True)
    run(f"{ID}@same", tmp_path / "again", resume=True)
    assert load_adapter(tmp_path / "again").config.revision == "same"


@pytest.mark.usefixtures("cache", "undrawn")
def test_every_task_of_a_run_keeps_the_revision(tmp_path: Path) -> None:
    run_many(f"{ID}@v1", tmp_path / "o", epochs=1)
    found = sorted((tmp_path / "o").glob("*/adapter_config.json"))
    assert len(found) == 3 and all(json.loads(file.read_text())["revision"] == "v1" for file in found)
