from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest

import ia3.cli.main as command
from ia3.cli.main import main
from ia3.cli.parsing import Verb
from ia3.errors import TableError

Run = Callable[[argparse.Namespace], int]


@pytest.fixture
def run_verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], int]:
    """Return a function that runs `ia3 act` with the given body."""

    def run(body: Run) -> int:
        verb = Verb("act", "Act.", "", ("ia3 act",), lambda parser: None, body)
        monkeypatch.setattr(command, "VERBS", (verb,))
        return main(["act"])

    return run


def _raiser(error: BaseException) -> Run:
    def run(options: argparse.Namespace) -> int:
        raise error

    return run


def _ia3(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **options}
    return subprocess.run(
        [sys.executable, "-m", "ia3", *arguments], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_verb_in_one_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb.name} " in shown and verb.summary in shown for verb in command.VERBS)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ia3 {version('ia3')}\n"


def test_an_unknown_verb_shows_near_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "ia3: there is no verb 'trian'. Did you mean 'train'? See 'ia3 --help'.\n"


def test_an_unknown_option_before_the_verb_shows_near_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--versoin"]) == 2
    assert capsys.readouterr().err == (
        "ia3: there is no option '--versoin'. Did you mean '--version'? See 'ia3 --help'.\n"
    )


def test_a_users_mistake_is_one_message_and_exit_code_2(
    run_verb: Callable[[Run], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(_raiser(TableError("Reading t.csv: no rows."))) == 2
    assert capsys.readouterr() == ("", "ia3: Reading t.csv: no rows.\n")


def test_a_fault_of_ours_is_one_line_and_exit_code_1(
    run_verb: Callable[[Run], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(_raiser(ValueError("one\ntwo"))) == 1
    assert capsys.readouterr().err == (
        "ia3: unexpected error: ValueError: one two. Set IA3_TRACEBACK=1 to see where it happened.\n"
    )


def test_the_traceback_is_shown_where_it_is_asked_for(
    run_verb: Callable[[Run], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IA3_TRACEBACK", "1")
    assert run_verb(_raiser(ValueError("one"))) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):")
    assert shown.endswith("ia3: unexpected error: ValueError: one. Set IA3_TRACEBACK=1 to see where it happened.\n")


def test_a_full_disk_is_told_in_one_line_and_is_not_our_fault(
    run_verb: Callable[[Run], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(_raiser(OSError(28, "No space left on device", "/tmp/out"))) == 2
    assert capsys.readouterr().err == "ia3: /tmp/out: No space left on device.\n"
    assert run_verb(_raiser(OSError(28, "No space left on device"))) == 2
    assert capsys.readouterr().err == "ia3: the system refused: No space left on device.\n"


def test_ctrl_c_is_one_line_and_exit_code_130(
    run_verb: Callable[[Run], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(_raiser(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "ia3: stopped.\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_verb_in_an_exception_so_that_it_can_clean_up(
    number: signal.Signals, run_verb: Callable[[Run], int], capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def wait(options: argparse.Namespace) -> int:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(True)
        return 0

    assert run_verb(wait) == 130
    assert (capsys.readouterr().err, cleaned) == ("ia3: stopped.\n", [True])


def test_a_reader_that_goes_away_is_no_error(
    run_verb: Callable[[Run], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(_raiser(BrokenPipeError())) == 141
    assert capsys.readouterr().err == ""


def test_warnings_and_talk_of_libraries_stay_off_stderr_and_are_on_again_after(
    run_verb: Callable[[Run], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    level = logging.getLogger("transformers").level

    def warn(options: argparse.Namespace) -> int:
        warnings.warn("a library's", UserWarning, stacklevel=1)
        logging.getLogger("transformers.models").warning("a library's")
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "error"
        return 0

    assert run_verb(warn) == 0
    assert capsys.readouterr().err == ""
    assert "TRANSFORMERS_VERBOSITY" not in os.environ
    assert logging.getLogger("transformers").level == level
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("again", UserWarning, stacklevel=1)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from ia3.cli.main import main; main(['--help']); main(['train', '--help']);"
        "print(sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = ("torch", "transformers", "numpy", "pyarrow", "matplotlib", "jinja2", "tqdm", "safetensors", "datasets")
    assert "ia3" in done.stderr
    assert [name for name in heavy if repr(name) in done.stderr] == []


def test_the_module_is_the_command() -> None:
    done = _ia3("--version")
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "ia3", "")
    assert _ia3("tarin").returncode == 2


def test_a_closed_pipe_is_quiet_in_a_real_process() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "ia3", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_json_stays_one_document_on_a_terminal_that_knows_ascii_alone() -> None:
    done = _ia3("bases", "--json", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0
    assert [entry["name"] for entry in json.loads(done.stdout)] == ["minilm", "gemma-3-270m", "smollm2-135m-instruct"]
