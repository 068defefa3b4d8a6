"""`ia3 evaluate --reliability`: a picture, or one sentence for a place where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ia3.cli.main import main


def test_the_reliability_is_drawn_over_the_picture_before(encoder: str, table: str, tmp_path: Path) -> None:
    path = tmp_path / "r.PNG"
    path.write_bytes(b"old")
    assert main(["evaluate", table, "--adapter", encoder, "--reliability", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("r.jpg", "expected a name that ends in .png"),
        ("none/r.png", "which lies in a folder that does not exist"),
        ("folder.png", "which is a folder"),
    ],
)
def test_a_place_where_no_picture_can_be_is_refused_before_the_base_is_loaded(
    name: str, told: str, table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.png").mkdir()
    assert main(["evaluate", table, "--adapter", "not-there", "--reliability", str(tmp_path / name)]) == 2
    assert told in capsys.readouterr().err
