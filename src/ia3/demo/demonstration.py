"""What `ia3 demo` shows: two real models learn real sentences through vectors alone.

MiniLM learns the bundled table and is measured on rows it did not train on; Gemma-3-270M answers five sentences in its
own words before and after a short training. Everything goes into one output folder. Words go through `say`; this file
prints nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from ia3.bases.loading import load_base
from ia3.data.encoding import Encoding
from ia3.data.templates import Template
from ia3.inference.loading import load_predictor
from ia3.inference.predictor import Predictor
from ia3.names import BASE_NAME
from ia3.runs.folder import OWN_FILES
from ia3.runs.plans.one import train_adapter
from ia3.runs.results import OneResult
from ia3.training.records import Event

TABLE = "business_news.csv"
# written for the demo; none of them stands in the table
SENTENCES = (
    "Halvorsen Marine won a ten-year order for 40 electric ferries, the largest in its history.",
    "The airline will cut one job in eight after bookings fell for a fourth month.",
    "Brightwater's annual meeting takes place on 14 May at its head office in Leeds.",
    "Net loss narrowed to EUR 1.2 million from EUR 9.8 million a year earlier.",
    "Warranty costs doubled to $310 million, and the carmaker gave up its profit forecast.",
)
GEMMA_TEMPLATE = Template("{{ text }}\nSentiment:")
GEMMA_STEPS = 40  # half a minute on two cores
_FOLDERS = ("minilm", "gemma-3-270m")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Demonstration:
    """What the demo gave."""

    folder: Path
    accuracy: float | None  # MiniLM's, on the held-out rows
    answers: tuple[str, ...]  # MiniLM's label of each sentence
    before: tuple[str, ...]  # Gemma's words without the adapter
    after: tuple[str, ...]  # and with it
    seconds: float  # of both trainings, evaluation included

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "output": str(self.folder),
            "accuracy": self.accuracy,
            "sentences": list(SENTENCES),
            "minilm": list(self.answers),
            "gemma_before": list(self.before),
            "gemma_after": list(self.after),
            "seconds": self.seconds,
        }


def show_demo(
    output: str | Path,
    *,
    say: Say,
    on_event: Callable[[Event], None] = lambda event: None,
    command: str = "ia3",
) -> Demonstration:
    """Train both bases on the bundled table and show what they learned.

    Args:
        output: Folder for both adapters; those of an earlier demo in it are replaced.
        say: Called with each line.
        on_event: Called with each event of the trainings.
        command: What stands before a verb of the command line where the demo was run.

    Returns:
        What it gave.

    Raises:
        IA3Error: If a base is not installed, or the folder is not the demo's to write.
    """
    folder = Path(output)
    with as_file(files("ia3.demo") / TABLE) as table:
        say(f"(IA)³ on {TABLE}: 885 short business-news sentences, labelled negative, neutral or positive.")
        say("")
        say("1. MiniLM (22 million numbers, frozen) learns the table through its vectors and a small head.")
        first = train_adapter(table, "minilm", folder / _FOLDERS[0], overwrite=True, say=_quietly, on_event=on_event)
        answers = _show_minilm(first, say)
        say("")
        say("2. Gemma-3-270M (268 million numbers, frozen) answers the same sentences in its own words.")
        before, after, second = _show_gemma(table, folder / _FOLDERS[1], say, on_event)
    _show_files(folder, say)
    show_next(folder, say, command)
    accuracy = first.metrics.accuracy if first.metrics else None
    return Demonstration(folder, accuracy, answers, before, after, first.seconds + second.seconds)


def _show_minilm(result: OneResult, say: Say) -> tuple[str, ...]:
    metrics = result.metrics
    if metrics is not None and metrics.accuracy_interval is not None:
        low, high = metrics.accuracy_interval
        say(
            f"   {result.seconds:.0f} s; right on {metrics.accuracy:.0%} of {metrics.rows} rows it did not train on "
            f"(95 % interval {low:.0%} to {high:.0%}; guessing gives 34 %)."
        )
    predictor = load_predictor(result.folder, say=_quietly)
    predictions = predictor.classify(SENTENCES)
    say("")
    for sentence, prediction in zip(SENTENCES, predictions, strict=True):
        say(f"   {prediction.prediction:9} {prediction.probability:4.0%}  {sentence}")
    return tuple(prediction.prediction for prediction in predictions)


def _show_gemma(
    table: Path, folder: Path, say: Say, on_event: Callable[[Event], None]
) -> tuple[tuple[str, ...], tuple[str, ...], OneResult]:
    base = load_base("gemma-3-270m", say=lambda line: say(f"   {line}"))
    encoding = Encoding(base.tokenizer, base.kind, GEMMA_TEMPLATE, "sentence")
    before = Predictor(base, BASE_NAME, encoding).generate(SENTENCES, max_new_tokens=6)
    result = train_adapter(
        table, base, folder, template=GEMMA_TEMPLATE, max_steps=GEMMA_STEPS, overwrite=True, say=_quietly,
        on_event=on_event,
    )  # fmt: skip
    after = load_predictor(folder, base=base, say=_quietly).generate(SENTENCES)
    say(f"   {result.seconds:.0f} s for {GEMMA_STEPS} steps of 8 sentences; asked '… Sentiment:', it writes:")
    say("")
    width = max(len(_shown(answer)) for answer in before)
    say(f"   {'before'.ljust(width)}  after")
    for sentence, old, new in zip(SENTENCES, before, after, strict=True):
        say(f"   {_shown(old).ljust(width)}  {_shown(new):10}  {sentence}")
    return tuple(before), tuple(after), result


def _show_files(folder: Path, say: Say) -> None:
    say("")
    say(f"Files: {folder}/minilm and {folder}/gemma-3-270m, each with")
    for name in OWN_FILES:
        path = folder / _FOLDERS[1] / name
        if path.exists():
            say(f"   {name:26} {path.stat().st_size / 1000:7,.1f} kB")


def show_next(folder: Path, say: Say, command: str) -> None:
    """Say what to do after the demo, as it is typed where the demo was run."""
    verbs = {
        f"show {shlex.quote(str(folder / _FOLDERS[0]))}": "what was learned from what",
        f"plan {_FOLDERS[1]}": "where the vectors sit",
        f"train YOUR.csv --base {_FOLDERS[0]} --output runs/yours": "your own table, two columns: text,label",
    }
    width = max(map(len, verbs))
    say("")
    say("Next:")
    for verb, what in verbs.items():
        say(f"   {command} {verb.ljust(width)}   {what}")


def _shown(answer: str) -> str:
    return repr(" ".join(answer.split())[:28])


def _quietly(line: str) -> None:
    """Say nothing: the demo has its own words."""
