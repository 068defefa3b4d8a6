from __future__ import annotations

import argparse

import pytest

from ia3.cli.main import VERBS, main
from ia3.cli.parsing import UsageError, Verb, make_parser, number, read_arguments, whole_number


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table")
    parser.add_argument("--epochs", type=whole_number)
    parser.add_argument("--rate", type=number)
    parser.add_argument("--base", required=True)


VERB = Verb("learn", "Learn.", "TABLE", ("ia3 learn",), _configure, lambda options: 0)


def _message(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        read_arguments(VERB, arguments)
    return str(caught.value)


def test_options_are_read() -> None:
    options = read_arguments(VERB, ["t.csv", "--base", "b", "--epochs=3", "--rate", "-0.5"])
    assert (options.table, options.base, options.epochs, options.rate) == ("t.csv", "b", 3, -0.5)


def test_an_unknown_option_is_named_with_its_near_match_before_missing_ones_are() -> None:
    assert _message("t.csv", "--bse", "b") == (
        "learn: there is no option '--bse'. Did you mean '--base'? See 'ia3 learn --help'."
    )


def test_an_abbreviated_option_is_unknown() -> None:
    assert "there is no option '--epoch'. Did you mean '--epochs'?" in _message("t.csv", "--base", "b", "--epoch", "3")


def test_a_value_behind_an_equals_sign_is_no_part_of_the_unknown_name() -> None:
    assert "there is no option '--bse'." in _message("t.csv", "--bse=b")


def test_what_follows_two_dashes_is_no_option() -> None:
    assert read_arguments(VERB, ["--base", "b", "--", "--text"]).table == "--text"


def test_a_text_that_begins_with_dashes_and_has_spaces_is_no_option() -> None:
    assert read_arguments(VERB, ["--base", "b", "--not an option"]).table == "--not an option"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t.csv"], "the following arguments are required: --base"),
        (["t.csv", "--base"], "--base: expected one argument"),
        (["t.csv", "--base", "b", "--epochs", "many"], "--epochs: got 'many', expected a whole number"),
        (["t.csv", "--base", "b", "--epochs", "1.5"], "--epochs: got '1.5', expected a whole number"),
        (["t.csv", "--base", "b", "--rate", "fast"], "--rate: got 'fast', expected a number"),
        (["t.csv", "--base", "b", "--rate", "nan"], "--rate: got 'nan', expected a finite number"),
        (["t.csv", "more", "--base", "b"], "'more' is one argument too many"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(arguments: list[str], message: str) -> None:
    assert _message(*arguments) == f"learn: {message}. See 'ia3 learn --help'."


def test_usage_errors_reach_the_user_without_argparse_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "t.csv", "--base", "b"]) == 2
    assert capsys.readouterr() == (
        "",
        "ia3: train: the following arguments are required: --output. See 'ia3 train --help'.\n",
    )


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_verb_explains_itself(verb: Verb, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb.name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: ia3 {verb.name} ")
    assert verb.summary in shown
    assert all(f"\n  {example}\n" in shown for example in verb.examples)
    assert verb.summary.count(".") == 1 and verb.summary.endswith(".")


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_example_is_read_by_its_parser(verb: Verb) -> None:
    import shlex

    assert verb.examples
    for example in verb.examples:
        words = shlex.split(example.split(" | ")[-1].split(" > ")[0])
        assert words[:2] == ["ia3", verb.name]
        assert read_arguments(verb, words[2:])


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_every_option_with_a_default_shows_it(verb: Verb) -> None:
    parser = make_parser(verb)
    for action in parser._actions:
        assert action.help, action.option_strings
        if action.default not in (None, False, argparse.SUPPRESS, []):
            assert "%(default)s" in action.help or str(action.default) in action.help, action.option_strings


def test_train_has_every_setting_as_an_option() -> None:
    from dataclasses import fields

    from ia3.training.settings import Settings

    train = next(verb for verb in VERBS if verb.name == "train")
    options = vars(read_arguments(train, ["t.csv", "--base", "b", "--output", "o"]))
    assert {field.name for field in fields(Settings)} <= set(options)
    assert all(options[field.name] is None for field in fields(Settings))
