"""`ia3 generate`: what a base with an adapter answers to texts, from the command line or from stdin."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence

from ia3.cli.options import add_adapter, add_json, load_options
from ia3.cli.output import print_json, print_lines, say
from ia3.cli.parsing import UsageError, Verb, whole_number
from ia3.errors import SettingsError, TableError

_AT_ONCE = 32  # lines of stdin that are answered together


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "texts",
        nargs="*",
        metavar="TEXT",
        help="Texts to answer, each in quotes; '-', or none with a pipe, reads one from each line of stdin.",
    )
    add_adapter(parser)
    group = parser.add_argument_group("answers")
    group.add_argument(
        "--max-new-tokens",
        type=whole_number,
        metavar="N",
        help="Most tokens of an answer (default: those of the longest label, or 64 for free text).",
    )
    add_json(parser, "texts and answers")


def run(options: argparse.Namespace) -> int:
    """Answer texts, one line each."""
    from ia3.adapters.folder import load_adapter
    from ia3.inference.loading import load_predictor

    is_piped = options.texts == ["-"] or (not options.texts and not sys.stdin.isatty())
    if not options.texts and not is_piped:
        raise UsageError("generate: there is no text. Give TEXT in quotes, or - to read lines from stdin.")
    if load_adapter(options.adapter).kind == "encoder":  # before its base is loaded
        raise SettingsError(
            f"Generating with {options.adapter}: its base is an encoder, which chooses among labels and writes no "
            "text. Use 'ia3 predict' or 'ia3 evaluate'."
        )
    strength = 1.0 if options.strength is None else options.strength
    predictor = load_predictor(options.adapter, strength=strength, say=say, **load_options(options))
    found = []
    for texts in _read_stdin() if is_piped else [options.texts]:
        full = [text for text in texts if text.strip()]
        given = iter(predictor.generate(full, options.max_new_tokens) if full else [])
        answers = [next(given) if text.strip() else "" for text in texts]
        found += [{"text": text, "answer": answer} for text, answer in zip(texts, answers, strict=True)]
        if not options.json:
            is_one = not is_piped and len(texts) == 1
            print_lines(answers if is_one else [answer.replace("\n", r"\n") for answer in answers])
            sys.stdout.flush()
    if options.json:
        print_json(found)
    return 0


def _read_stdin() -> Iterator[Sequence[str]]:
    """Yield the lines of stdin, some at a time; each by itself where a person types them."""
    lines = (line.rstrip("\r\n") for line in sys.stdin)
    try:
        while some := list(itertools.islice(lines, 1 if sys.stdin.isatty() else _AT_ONCE)):
            yield some
    except UnicodeDecodeError as error:
        raise TableError(f"Reading stdin: it is not {error.encoding} text ({error.reason}).") from error


VERB = Verb(
    name="generate",
    summary="Let a base with an adapter answer texts, one line each.",
    usage="[TEXT ... | -] --adapter DIR [OPTIONS]",
    examples=(
        "ia3 generate --adapter runs/news 'Profit rose by 3 %.' 'Sales fell.'",
        "ia3 generate --adapter runs/news --max-new-tokens 20 --json 'Profit rose by 3 %.'",
        "ia3 generate --adapter runs/news --strength 0.5 'Profit rose by 3 %.'",
        "cat sentences.txt | ia3 generate --adapter runs/news -",
    ),
    configure=configure,
    run=run,
)
