from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ia3.adapters.adapter import Adapter
from ia3.adapters.arithmetic import average, negate, ties, with_strength
from ia3.adapters.folder import load_adapter
from ia3.cli.combine import METHODS, VERB
from ia3.cli.parsing import UsageError, read_arguments
from ia3.errors import IA3Error
from ia3.inference.loading import load_predictor
from tests.cli.test_compare import second_of


def combine(*arguments: str) -> int:
    return VERB.run(read_arguments(VERB, arguments))


@pytest.fixture
def pair(encoder: str, tmp_path: Path) -> tuple[str, str]:
    """Return the encoder's adapter and another one of the same labels."""
    return encoder, second_of(encoder, tmp_path / "other")


def same(got: Adapter, want: Adapter) -> bool:
    return all(torch.equal(vector, want.vectors[name]) for name, vector in got.vectors.items())


def test_a_weighted_average_is_written_as_an_ordinary_folder(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "deep" / "both"
    capsys.readouterr()
    assert combine(*pair, "--weights", "0.7,0.3", "--output", str(output)) == 0
    out, err = capsys.readouterr()
    assert out == f"{output}: average of adapter-encoder (0.7), other (0.3), 290 numbers\n" and err == ""
    adapters = {Path(folder).name: load_adapter(folder) for folder in pair}
    got = load_adapter(output)
    assert same(got, average(adapters, [0.7, 0.3]))
    assert got.record["labels"] == ["down", "up"] and got.record["created"].endswith("+00:00")
    assert [source["name"] for source in got.record["combined"][0]["adapters"]] == ["adapter-encoder", "other"]
    assert load_predictor(output).classify(["profit rose"])[0].prediction in ("down", "up")


def test_methods_and_settings_reach_the_arithmetic(
    pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = {Path(folder).name: load_adapter(folder) for folder in pair}
    output = str(tmp_path / "out")
    arguments = ["--method", "ties", "--density", "0.5", "--strength", "2", "--head-from", "other", "--output", output]
    assert combine(*pair, *arguments) == 0
    assert same(load_adapter(output), with_strength(ties(adapters, density=0.5, head_from="other"), 2.0))
    assert "ties of adapter-encoder, other with density 0.5, strength 2," in capsys.readouterr().out
    assert combine(pair[0], "--method", "negate", "--strength", "0.5", "--output", output, "--overwrite") == 0
    assert same(load_adapter(output), negate(adapters["adapter-encoder"], 0.5))
    for method in ("sum", "dare", "dare-ties", "product"):
        assert combine(*pair, "--method", method, "--head-from", pair[0], "--output", output, "--overwrite") == 0
        assert load_adapter(output).record["combined"][0]["method"] == method


def test_json_is_one_document(pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert combine(*pair, "--output", str(tmp_path / "out"), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["output"] == str(tmp_path / "out") and found["parameters"] == 290
    assert found["labels"] == ["down", "up"] and found["head_modules"] == ["classifier"]
    assert found["combined"][0]["method"] == "average" and found["not_recorded"] == []


def test_words_that_the_adapters_do_not_share_are_said_to_be_lost(
    causal: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = second_of(causal, tmp_path / "other", labels=["no", "yes"])
    capsys.readouterr()
    assert combine(causal, other, "--output", str(tmp_path / "out")) == 0
    assert capsys.readouterr().err == (
        "The adapters differ in labels, so none is recorded. --head-from takes those of one.\n"
    )
    assert combine(causal, other, "--head-from", other, "--output", str(tmp_path / "out"), "--overwrite") == 0
    assert load_adapter(tmp_path / "out").record["labels"] == ["no", "yes"]
    assert capsys.readouterr().err == ""


def test_a_base_may_be_given_for_its_plan(pair: tuple[str, str], home: Path, tmp_path: Path) -> None:
    assert combine(*pair, "--base", str(home / "encoder"), "--output", str(tmp_path / "out")) == 0
    assert load_adapter(tmp_path / "out").sites == load_adapter(pair[0]).sites


def test_a_used_folder_is_replaced_only_when_asked_for(pair: tuple[str, str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert combine(*pair, "--output", str(output)) == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(IA3Error) as caught:
        combine(*pair, "--strength", "0", "--output", str(output))
    assert str(caught.value) == (
        f"Writing an adapter to {output}: it holds adapter_config.json, adapter_model.safetensors, ia3.json already. "
        "Give --overwrite to replace it, or another --output."
    )
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    for name in ("run.jsonl", "mine.txt"):
        (output / name).write_text("old")
    assert combine(*pair, "--strength", "0", "--output", str(output), "--overwrite") == 0
    assert all(bool((vector == 1).all()) for vector in load_adapter(output).vectors.values())
    assert not (output / "run.jsonl").exists() and (output / "mine.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--density", "0.5"], "--density is no setting of 'average', only of ties, dare-ties. Leave it out, or give"),
        (["--method", "product", "--weights", "1,2"], "--weights is no setting of 'product', only of average, sum,"),
        (["--method", "negate"], "'negate' takes one adapter, got 2. Give one, or a sum with negative weights."),
        (["--weights", "1"], "got 1 weights (1), expected one finite number for each of 2 adapters."),
        (["--weights=-1,1"], "the weights -1, 1 sum to 0, expected another sum."),
        (["--head-from", "othr"], "--head-from is 'othr', which is none of them. Did you mean 'other'?"),
        (["--method", "ties"], "their heads have other numbers, and this method is for vectors alone. Say whose head"),
        (["--strength", "1e45"], "numbers of the result are not finite"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    arguments: list[str], told: str, pair: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(IA3Error) as caught:
        combine(*pair, *arguments, "--output", str(tmp_path / "out"))
    assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_base_or_one_given_twice_is_refused(encoder: str, causal: str, tmp_path: Path) -> None:
    with pytest.raises(IA3Error, match=r"'adapter-encoder' and 'adapter-causal': they were trained on different bases"):
        combine(encoder, causal, "--output", str(tmp_path / "out"))
    with pytest.raises(IA3Error, match=r"is given twice, expected each once\. Give it more weight\."):
        combine(encoder, encoder, "--output", str(tmp_path / "out"))


@pytest.mark.parametrize("text", ["", "1,", "1;2", "a", "1,nan", "inf"])
def test_weights_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--weights: got '.*', expected a (finite )?number"):
        read_arguments(VERB, ["a", "--output", "b", f"--weights={text}"])


def test_weights_and_methods_are_read() -> None:
    assert read_arguments(VERB, ["a", "--output", "b", "--weights=0.7,-3e-1"]).weights == [0.7, -0.3]
    for method in METHODS:
        assert read_arguments(VERB, ["a", "--output", "b", "--method", method]).method == method
    with pytest.raises(UsageError, match="--method"):
        read_arguments(VERB, ["a", "--output", "b", "--method", "tie"])
