"""The page that says of every model type of transformers what becomes of it: `python -m tests.every_model.page`.

The page is the expectation of the tests too. Writing it anew takes minutes; it is not written where a type that was
right is refused now, unless `--accept` says that this is meant.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import transformers

from tests.every_model.tiny_configs import Pair, every_pair
from tests.every_model.verdicts import Verdict, judge

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
COMMAND = "make models"
_HEAD = """# Every model type

What becomes of each model type of transformers {version} that has a class for a causal language model, a seq2seq model
or a classifier. Each was built tiny, with random weights, and put through the library:

- **right** ({right}): its [plan](plans.md) was found; scaled by random numbers it equals weights scaled by hand, a
  mixed batch equals each example alone, and every site learns; training, saving, loading, classifying and generating
  give what plain passes of the merged model give;
- **refused** ({refused}): it is told why, before anything is trained;
- **not built** ({unbuilt}): transformers itself cannot build it from a config of its own class, or needs a library that
  is not there.

The model type is `model_type` in a base's `config.json`; the kind is [what it is used as](bases.md#kinds). A type that
is refused as a whole can often carry vectors at [targets of your own](plans.md#your-own-targets). The page is written
by `{command}`, and tested.

| model type | kind | class | | |
|---|---|---|---|---|
"""
_ROW = re.compile(r"^\| `([^`]+)` \| (causal|seq2seq|encoder) \| `([^`]+)` \| (right|refused|not built) \| (.*) \|$")


def render(verdicts: Sequence[Verdict]) -> str:
    """Return the page."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    head = _HEAD.format(
        version=transformers.__version__, command=COMMAND, right=counts["right"], refused=counts["refused"],
        unbuilt=counts["not built"],
    )  # fmt: skip
    return head + "".join(f"{render_row(verdict)}\n" for verdict in verdicts)


def render_row(verdict: Verdict) -> str:
    """Return the line of one verdict."""
    pair, why = verdict.pair, verdict.why.replace("|", "\\|")
    return f"| `{pair.model_type}` | {pair.kind} | `{pair.class_name}` | {verdict.outcome} | {why} |"


def rows_of(text: str) -> Mapping[tuple[str, str], str]:
    """Return the lines of a page by model type and kind."""
    return {(found[1], found[2]): line for line in text.splitlines() if (found := _ROW.match(line))}


def outcome_of(row: str) -> str:
    """Return right, refused or not built."""
    found = _ROW.match(row)
    assert found is not None, row
    return found[4]


def lost(before: Mapping[tuple[str, str], str], after: Iterable[Verdict]) -> list[str]:
    """Return the types that were right and are no more."""
    return [
        f"{pair.model_type} as {pair.kind}: {verdict.outcome}, {verdict.why}"
        for verdict in after
        if (pair := verdict.pair) and verdict.outcome != "right"
        if (row := before.get((pair.model_type, pair.kind))) and outcome_of(row) == "right"
    ]


def judge_in_a_new_folder(pair: Pair) -> Verdict:
    """Return a verdict; what it writes is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        return judge(pair, Path(folder))


def main() -> int:
    """Write the page."""
    before = rows_of(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
    verdicts, faults = [], []
    for pair in every_pair():
        try:
            verdicts.append(judge_in_a_new_folder(pair))
            print(render_row(verdicts[-1])[:160], flush=True)
        except AssertionError as fault:
            faults.append(f"{pair.model_type} as {pair.kind}: {fault}")
    gone = [] if "--accept" in sys.argv else lost(before, verdicts)
    for line in (*faults, *gone):
        print(f"not written: {line}", file=sys.stderr)
    if faults or gone:
        return 1
    PAGE.write_text(render(verdicts), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
