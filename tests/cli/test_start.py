"""`ia3 train --start`: what is said, and that a wrong one is a user's mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ia3.cli.main import main


def test_a_start_is_told_and_recorded(
    home: Path, table: str, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--base", str(home / "encoder"), "--output", str(tmp_path / "o"), "--max-steps", "1"]
    assert main(["train", table, *place, "--start", encoder, "--no-fit-head"]) == 0
    told = capsys.readouterr().err
    assert f"The vectors start from '{Path(encoder).name}', trained on 18 rows of table.csv; the head as well." in told
    record = json.loads((tmp_path / "o" / "ia3.json").read_text(encoding="utf-8"))
    assert record["start"]["name"] == Path(encoder).name and len(record["start"]["vectors"]) == 64


def test_a_start_that_is_none_ends_in_one_sentence_before_the_base_is_loaded(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--base", str(tmp_path / "no base"), "--output", str(tmp_path / "o")]
    (tmp_path / "empty").mkdir()
    assert main(["train", table, *place, "--start", str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.startswith(f"ia3: Starting from {tmp_path / 'empty'}: Loading adapter from ")
    assert not (tmp_path / "o").exists()


def test_a_start_of_no_name_is_told_once_which_there_are(
    table: str, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every folder beside it was listed as well, and then the starts, as "Known:" twice."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "adapter_config.json").write_bytes((Path(encoder) / "adapter_config.json").read_bytes())
    (tmp_path / "pictures").mkdir()
    told = {}
    for name in ("nothere", "busines", "min"):
        assert main(["train", table, "--base", "no base", "--output", "o", "--start", name]) == 2
        told[name] = capsys.readouterr().err
    assert told["nothere"] == (
        "ia3: Starting from nothere: there is no such folder, and no such start comes with ia3. Known: 'business', "
        "'mine', 'sentiment'.\n"
    )
    assert told["busines"].endswith(" comes with ia3. Did you mean 'business'?\n")
    assert told["min"].endswith(" comes with ia3. Did you mean 'mine'?\n")
