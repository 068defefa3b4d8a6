"""The model card of an adapter: README.md in the format of the Hugging Face hub.

The card is the template `card.md.jinja`; this file knows the plain facts that it is filled with, and how a text that
anybody may have written is put into it. It knows nothing of models, tables or folders, and writes no file.

Rules: whatever a label, name or prompt contains, the front matter stays YAML and a table stays a table: in the template
every such text passes one of the filters below. No path of a machine gets into the card. Nothing is said that the facts
do not say: a licence, a language or a data set that is not known is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from ia3.errors import AdapterError
from ia3.names import Kind
from ia3.spelling import printable

_FEW_ROWS = 30  # fewer evaluated rows of a label make its numbers rough


def write_card(facts: CardFacts) -> str:
    """Return the text of README.md for one adapter.

    Args:
        facts: What is known of the adapter.

    Returns:
        Front matter in YAML between two lines `---`, then Markdown; ends in a line break.
    """
    scores = (facts.metrics or {}).get("per_label") or {}
    card = _template().render(
        vars(facts),
        library="peft" if facts.pooling == "own" else "ia3",
        measured=_measured(facts),
        has_eval=facts.eval_name is not None,
        example=re.sub(r"{{-?\s*(\w+)\s*-?}}", r"<\1>", facts.prompt),
        templates=[(facts.prompt, facts.target), *facts.others],
        few=sum(score["support"] < _FEW_ROWS for score in scores.values()),
        few_rows=_FEW_ROWS,
    )
    return re.sub("[\ud800-\udfff]", "\ufffd", card)  # a lone surrogate cannot be written as UTF-8


@cache
def _template() -> Template:
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "code": _code,
        "fence": _fence,
        "file_name": _file_name,
        "literal": _literal,
        "plain": _plain,
        "setting": _setting,
        "thousands": "{:,}".format,
        "without_folders": _without_folders,
    }
    return environment.from_string(Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8"))


def _measured(facts: CardFacts) -> list[tuple[str, str, float]]:
    """Return (the hub's name of the metric, words for it, value) of the metrics that are there."""
    metrics = facts.metrics or {}
    share = ("accuracy", "Accuracy") if facts.labels else ("exact_match", "Exact match")
    candidates = [(*share, metrics.get("accuracy")), ("f1", "Macro F1", metrics.get("macro_f1"))]
    return [(kind, words, round(float(value), 4)) for kind, words, value in candidates if value is not None]


def _setting(value: object) -> str:
    if isinstance(value, str):
        return _without_folders(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(_setting, value))
    return str(value) if isinstance(value, int | float | bool | None) else _without_folders(str(value))


def _without_folders(text: str) -> str:
    r"""Return `text`, or its last part if it looks like a path of a machine (`/a/b`, `~/b`, `./b`, `..\b`, `C:\b`)."""
    return _file_name(text) if re.match(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|file:", text) else text


def _file_name(text: str) -> str:
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]


def _code(text: str) -> str:
    """Return `text` as inline code that is safe everywhere, in a table too."""
    shown = printable(text)
    if shown and shown == shown.strip() and not set("`|\\") & set(shown):
        return f"`{shown}`"
    # Renderers differ on a pipe in a code span of a table, not on entities in HTML.
    return "<code>" + "".join(c if c.isalnum() else f"&#{ord(c)};" for c in shown) + "</code>"


def _plain(text: str) -> str:
    """Return `text` for running text and headings, with what Markdown or HTML would read as a mark escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|&~$!])", r"\\\1", printable(text))


def _fence(text: str, language: str) -> str:
    """Return a code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _literal(text: str) -> str:
    """Return `text` as a double-quoted string of JSON, YAML and Python alike, on one line."""
    quoted = re.sub("[\ud800-\udfff]", "\ufffd", json.dumps(text, ensure_ascii=False))
    # JSON lets these stand; YAML 1.1 refuses them or reads them as line breaks.
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", quoted)


@dataclass(frozen=True)
class CardFacts:
    """What a model card tells of one adapter."""

    name: str  # of the adapter
    base_name: str  # what people call the base; of a path only the last part is shown
    base_hub_id: str | None  # the base on the hub; None if it has no place there
    kind: Kind
    labels: tuple[str, ...]  # in the order of the choices; empty for free text
    prompt: str  # Jinja2 source
    target: str  # Jinja2 source
    data_name: str  # file or folder of the table; only its last part is shown
    rows: int  # trained on
    fingerprint: str  # sha256 over texts and labels
    trainable: int  # numbers that were trained
    settings: Mapping[str, object]  # name → plain value
    versions: Mapping[str, str]  # package → version
    metrics: Mapping[str, Any] | None = None  # `Metrics.to_json()`, on rows not trained on
    eval_name: str | None = None  # file of an own eval table; None if rows were held out
    data_hub_id: str | None = None  # the table on the hub
    others: tuple[tuple[str, str], ...] = ()  # prompt and target of each further template
    searched: Mapping[str, Any] | None = None  # `Search.to_json()`, where the template was searched
    folds: int | None = None  # how many there were, if the metrics are those of a cross-validation
    pooling: str = "own"  # what an encoder's head reads; `mean` is for ia3 alone
    base_revision: str | None = None  # of the base on the hub; None is main

    def __post_init__(self) -> None:
        for key, value in (("base_hub_id", self.base_hub_id), ("data_hub_id", self.data_hub_id)):
            if value is not None and not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", value, re.ASCII):
                raise AdapterError(
                    f"Writing the model card: {key} is no hub id, got {value!r}, expected 'name' or 'owner/name'. "
                    f"Pass None, and the path as {key.replace('hub_id', 'name')}."
                )
