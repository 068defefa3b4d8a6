"""What the demo says to do next is typed as the demo itself was; it used to name a command that no shell found."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import ia3
from ia3.cli.demo import invoked_as
from ia3.demo.demonstration import show_next

SCRIPT = f"#!{sys.executable}\nimport sys\nfrom ia3.cli.main import main\nsys.exit(main())\n"


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, where a shell finds no ia3 and no python of ours."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(ia3.__file__).parents[1])]))
    return tmp_path


def _install(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "ia3").write_text(SCRIPT)
    (folder / "ia3").chmod(0o755)


def _runs(command: str) -> bool:
    done = subprocess.run(f"{command} --version", shell=True, capture_output=True, text=True, timeout=60)
    return done.returncode == 0 and done.stdout.startswith("ia3 ")


@pytest.mark.parametrize("folder", [".venv/bin", "my venv/bin"])
def test_a_command_that_was_run_by_its_path_is_named_by_it(
    folder: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(elsewhere / folder)
    monkeypatch.setattr(sys, "argv", [f"{folder}/ia3", "demo"])
    assert invoked_as() == shlex.quote(f"{folder}/ia3") and _runs(invoked_as())
    assert not _runs("ia3")


def test_a_command_that_the_shell_finds_is_named_alone(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(elsewhere / "bin")
    monkeypatch.setenv("PATH", f"{elsewhere / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "argv", [str(elsewhere / "bin" / "ia3"), "demo"])
    assert invoked_as() == "ia3" and _runs("ia3")
    _install(elsewhere / "other" / "bin")  # another one than the one that is found
    monkeypatch.setattr(sys, "argv", ["other/bin/ia3", "demo"])
    assert invoked_as() == "other/bin/ia3"


def test_a_module_that_was_run_is_named_with_its_python(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(Path(ia3.__file__).parent / "__main__.py"), "demo"])
    assert invoked_as() == f"{shlex.quote(sys.executable)} -m ia3" and _runs(invoked_as())
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    assert invoked_as() == "python -m ia3"


def test_a_caller_that_is_no_command_is_told_the_usual_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["notebook.py"])
    assert invoked_as() == "ia3"


def test_the_next_commands_are_those_that_were_run() -> None:
    lines: list[str] = []
    show_next(Path("my demo"), lines.append, ".venv/bin/ia3")
    assert lines[2].startswith("   .venv/bin/ia3 show 'my demo/minilm'  ")
    assert all(line.startswith("   .venv/bin/ia3 ") for line in lines[2:])
    assert [line.rstrip() for line in lines[:2]] == ["", "Next:"]
