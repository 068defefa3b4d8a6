"""Mistakes that people make, each told in one message that names the thing and what to do, with exit code 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ia3.cli.interrupts import Interrupts
from ia3.cli.main import main
from tests.cli.conftest import ROWS, write_table

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that runs a command, checks that it is refused in one message, and returns that message."""

    def run(*arguments: str | Path) -> str:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), err
        message = err[err.index("ia3: ") :]
        assert "Traceback" not in err and "unexpected error" not in err
        assert message.count("ia3: ") == 1 and message.endswith("\n")
        return message.removeprefix("ia3: ").rstrip("\n")

    return run


@pytest.fixture
def train(refused: Refused, home: Path, table: str, tmp_path: Path) -> Refused:
    """Return a function that trains with one thing wrong and returns the message, which is one line."""

    def run(*options: str | Path, table: str | Path = table, base: str | Path = home / "encoder") -> str:
        return refused("train", table, "--base", base, "--output", tmp_path / "out", *options)

    return run


def test_a_table_that_is_not_there(train: Refused, tmp_path: Path) -> None:
    message = train(table=tmp_path / "tabel.csv")
    assert "tabel.csv" in message and "\n" not in message


def test_an_empty_table(train: Refused, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    message = train(table=tmp_path / "empty.csv")
    assert message.startswith(f"Reading {tmp_path / 'empty.csv'}: ") and "empty" in message


def test_a_table_with_a_header_alone(train: Refused, tmp_path: Path) -> None:
    message = train(table=write_table(tmp_path / "t.csv", []))
    assert "there are no rows, expected at least one below the header." in message


def test_a_column_that_is_not_there(train: Refused) -> None:
    message = train("--text", "txet")
    assert "'txet'" in message and "Did you mean 'text'?" in message and "\n" not in message


def test_a_table_with_one_label_alone(train: Refused, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", [(text, "up") for text, _ in ROWS])
    message = train(table=table)
    assert "'up'" in message and "at least" in message and "\n" not in message


def test_a_base_that_nobody_knows(train: Refused) -> None:
    message = train(base="minilmm")
    assert message.startswith("Loading base 'minilmm': ") and "Did you mean 'minilm'?" in message


def test_a_base_folder_that_is_not_there(train: Refused, home: Path) -> None:
    message = train(base=home / "encodre")
    assert "there is no such file or folder. Did you mean 'encoder'?" in message


def test_a_hub_id_without_a_network(train: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = train(base="nobody/nothing-of-this-name")
    assert "hf download nobody/nothing-of-this-name" in message and "\n" not in message


def test_an_adapter_as_a_base(train: Refused, encoder: str, home: Path) -> None:
    message = train(base=encoder)
    assert f"{encoder} holds an adapter (IA3), not a base. It was made on '{home / 'encoder'}'" in message


def test_a_base_as_an_adapter(refused: Refused, home: Path, table: str) -> None:
    message = refused("evaluate", table, "--adapter", home / "encoder")
    assert message.startswith(f"Loading adapter from {home / 'encoder'}: it has no adapter_config.json")


def test_an_adapter_that_is_not_there(refused: Refused, encoder: str, table: str, tmp_path: Path) -> None:
    message = refused("predict", table, "--adapter", encoder[:-1], "--output", tmp_path / "p.csv")
    assert "there is no such folder. Did you mean 'adapter-encoder'" in message


def test_an_output_in_use(train: Refused, refused: Refused, encoder: str, table: str, home: Path) -> None:
    message = refused("train", table, "--base", home / "encoder", "--output", encoder)
    assert "adapter_config.json" in message and "--overwrite" in message and "--resume" in message


def test_an_output_that_is_a_file(refused: Refused, table: str, home: Path) -> None:
    message = refused("train", table, "--base", home / "encoder", "--output", table)
    assert f"{table}: it is a file, expected a folder. Give another --output." in message


def test_an_output_that_cannot_be_made(refused: Refused, table: str, home: Path) -> None:
    message = refused("train", table, "--base", home / "encoder", "--output", f"{table}/out")
    assert f"{table}/out" in message and "Give another --output." in message and "\n" not in message


def test_a_broken_template(train: Refused) -> None:
    message = train("--template", "{{ text }")
    assert message.startswith("Reading the prompt template: ") and "got '{{ text }'." in message


def test_a_template_that_is_neither_words_nor_a_file(train: Refused) -> None:
    assert "it has no {{ placeholder }} and is no readable file" in train("--template", "templates/mood.txt")


def test_an_unknown_placeholder(train: Refused, home: Path) -> None:
    message = train("--template", "{{ txet }} is {{ text }}", base=home / "causal")
    assert "the placeholder 'txet', the table has no such column. Did you mean 'text'?" in message


def test_zero_epochs(train: Refused) -> None:
    assert train("--epochs", "0") == "Checking the settings: epochs is 0, expected at least 1."


def test_a_negative_rate(train: Refused) -> None:
    message = train("--learning-rate", "-0.1")
    assert message == "Checking the settings: learning_rate is -0.1, expected above 0 and at most 10."


def test_several_bad_settings_are_told_at_once(train: Refused) -> None:
    message = train("--epochs", "0", "--batch-size", "-1", "--warmup", "1.5", "--clip", "-1")
    assert all(name in message for name in ("epochs is 0", "batch_size is -1", "warmup is 1.5", "clip is -1"))


def test_a_share_above_one(train: Refused) -> None:
    message = train("--eval-fraction", "1.5")
    assert "1.5" in message and "\n" not in message


def test_an_unknown_label_in_the_eval_table(train: Refused, tmp_path: Path) -> None:
    held_out = write_table(tmp_path / "eval.csv", [("gains", "upp"), *ROWS])
    message = train("--eval", held_out)
    assert f"{held_out}:2, column 'label': label 'upp' is unknown. Did you mean 'up'?" in message


def test_resuming_where_nothing_is(train: Refused) -> None:
    message = train("--resume")
    assert "there is no run in it. Leave --resume out to start one." in message


def test_resuming_a_finished_run(refused: Refused, home: Path, encoder: str, table: str) -> None:
    message = refused("train", table, "--base", home / "encoder", "--output", encoder, "--epochs", "1", "--resume")
    assert "the run is finished (3 steps)" in message and "--overwrite" in message


def test_resuming_another_run(
    refused: Refused, home: Path, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", table, "--base", str(home / "encoder"), "--output", str(tmp_path / "run"), "--epochs", "6"]
    asked = iter([False, False])
    with monkeypatch.context() as patch:
        patch.setattr(Interrupts, "is_asked", lambda self: next(asked, True))
        assert main(command) == 130
    message = refused(*command[:-1], "5", "--resume")
    assert "this is another run: epochs was 6 and is 5" in message and "--overwrite" in message


def test_a_suffix_that_no_table_has(refused: Refused, encoder: str, table: str, tmp_path: Path) -> None:
    message = refused("predict", table, "--adapter", encoder, "--output", tmp_path / "answers.xlsx")
    assert "the file has the suffix '.xlsx', expected one of .csv .tsv .jsonl .parquet." in message


def test_a_table_of_an_unknown_suffix(train: Refused, tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_text("x")
    message = train(table=tmp_path / "t.xlsx")
    assert ".xlsx" in message and "\n" not in message


def test_a_prediction_file_in_a_folder_that_is_not_there(
    refused: Refused, encoder: str, table: str, tmp_path: Path
) -> None:
    message = refused("predict", table, "--adapter", encoder, "--output", tmp_path / "no" / "answers.csv")
    assert f"there is no folder '{tmp_path / 'no'}'. Make it first." in message


def test_an_adapter_of_another_base(refused: Refused, causal: str, table: str, tmp_path: Path) -> None:
    from tests.models import save_tiny_base

    other = save_tiny_base(tmp_path / "other", "causal", seed=5)
    message = refused("evaluate", table, "--adapter", causal, "--base", other)
    assert "it was trained on base" in message and str(other) in message and "fingerprint" in message


def test_an_adapter_of_another_kind_of_base(refused: Refused, causal: str, home: Path, table: str) -> None:
    message = refused("evaluate", table, "--adapter", causal, "--base", home / "encoder")
    assert "causal" in message and str(home / "encoder") in message and "\n" not in message


def test_a_base_whose_config_is_broken(train: Refused, home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(home / "encoder", broken)
    (broken / "config.json").write_text('{"model_type": "bert",')
    message = train(base=broken)
    assert f"{broken / 'config.json'} is not JSON, line 1 column 23" in message


@pytest.mark.parametrize("name", ["adapter_config.json", "ia3.json"])
def test_an_adapter_whose_json_is_broken(name: str, refused: Refused, encoder: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(encoder, copy)
    (copy / name).write_text("{")
    message = refused("show", copy)
    assert f"Reading {copy / name}: line 1, column 2 is not JSON" in message


@pytest.mark.parametrize("is_pefts", [False, True])
def test_an_adapter_that_is_cut_short(is_pefts: bool, refused: Refused, encoder: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(encoder, copy)
    file = copy / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    if is_pefts:
        (copy / "ia3.json").unlink()
    message = refused("show", copy)
    assert file.name in message and "damaged" in message and "\n" not in message


def test_a_base_that_is_cut_short(train: Refused, home: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(home / "encoder", cut)
    file = cut / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} has" in train(base=cut)


def test_a_length_above_the_bases(train: Refused) -> None:
    message = train("--max-length", "100000")
    assert "max_length is 100000, the base reads at most 256 tokens." in message


def test_a_length_of_nothing(train: Refused) -> None:
    message = train("--max-length", "0")
    assert "0" in message and "\n" not in message


def test_generating_with_an_encoder(refused: Refused, encoder: str) -> None:
    message = refused("generate", "--adapter", encoder, "profit rose")
    assert "which chooses among labels and writes no text." in message


def test_free_text_for_an_encoder(train: Refused) -> None:
    message = train("--answers", "text")
    assert "encoder" in message and "\n" not in message


def test_a_device_that_is_not_here(train: Refused) -> None:
    message = train("--device", "cuda:7")
    assert "'cuda:7'" in message and "\n" not in message


def test_a_mistake_with_overwrite_leaves_the_old_adapter(
    refused: Refused, encoder: str, home: Path, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(encoder, old)
    for options in (["--text", "txet"], ["--epochs", "0"], ["--template", "{{ x"], ["--max-length", "100000"]):
        refused("train", home / "table.csv", "--base", home / "encoder", "--output", old, "--overwrite", *options)
        assert (old / "adapter_config.json").is_file(), options
    refused("train", home / "table.csv", "--base", home / "encodre", "--output", old, "--overwrite")
    assert (old / "adapter_config.json").is_file()


def test_a_mistake_leaves_no_folder_behind(train: Refused, tmp_path: Path) -> None:
    train("--epochs", "0")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("adapters", "list", "no-such-adapter"),
        pytest.param(("merge", "no-such-adapter", "--output", "out"), marks=pytest.mark.slow),  # imports torch and all
    ],
    ids=lambda words: words[0],
)
def test_a_real_process_says_one_line_and_nothing_else(words: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ia3", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "IA3_TRACEBACK": ""},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ia3: ") and done.stderr.count("\n") == 1
    assert "no-such-adapter" in done.stderr


def test_errors_with_json_are_a_sentence_on_stderr(refused: Refused, tmp_path: Path) -> None:
    message = refused("show", tmp_path, "--json")
    with pytest.raises(json.JSONDecodeError):
        json.loads(message)
    assert message.startswith(f"Loading adapter from {tmp_path}: ")
