"""The model card of an adapter: README.md in the format of the Hugging Face hub.

This file knows plain facts of one adapter and the words of a card; it knows nothing of models, tables or folders, and
writes no file.

Rules: whatever a label, name or prompt contains, the front matter stays YAML and a table stays a table. No path of a
machine gets into the card. Nothing is said that the facts do not say: a licence, a language or a data set that is not
known is left out.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ia3.errors import AdapterError
from ia3.inference.metrics_text import printable
from ia3.names import Kind

_AUTO_CLASS: Mapping[Kind, str] = {
    "seq2seq": "Seq2SeqLM",
    "causal": "CausalLM",
    "encoder": "SequenceClassification",
}
# The hub dropped text2text-generation in 2025 (huggingface.js #1590) and files T5 and its kin under text-generation.
_PIPELINE_TAG: Mapping[Kind, str] = {
    "seq2seq": "text-generation",
    "causal": "text-generation",
    "encoder": "text-classification",
}
_FOLDER = "path/to/this/folder"
_FEW_ROWS = 30  # fewer evaluated rows of a label make its numbers rough


def write_card(facts: CardFacts) -> str:
    """Return the text of README.md for one adapter.

    Args:
        facts: What is known of the adapter.

    Returns:
        Front matter in YAML between two lines `---`, then Markdown; ends in a line break.
    """
    sections = [
        _introduction(facts),
        _usage(facts),
        _labels(facts),
        _training_data(facts),
        _prompt(facts),
        _settings(facts),
        _results(facts),
        _limits(facts),
        _versions(facts),
    ]
    front = "\n".join(_yaml(_front_matter(facts)))
    card = f"---\n{front}\n---\n\n" + "\n\n".join(section for section in sections if section) + "\n"
    return re.sub("[\ud800-\udfff]", "\ufffd", card)  # a lone surrogate cannot be written as UTF-8


def _front_matter(facts: CardFacts) -> dict[str, Any]:
    """Return the metadata that the hub reads, what is not known left out."""
    library = "peft" if facts.pooling == "own" else "ia3"
    tags = list(dict.fromkeys(["ia3", library]))
    if facts.base_hub_id:
        tags.append(f"base_model:adapter:{facts.base_hub_id}")
    front: dict[str, Any] = {
        "base_model": facts.base_hub_id,
        "library_name": library,
        "pipeline_tag": _PIPELINE_TAG[facts.kind],
        "license": facts.license,
        "tags": tags,
        "datasets": [facts.data_hub_id] if facts.data_hub_id else None,
    }
    measured = _measured(facts)
    if measured:
        front["metrics"] = [kind for kind, _, _ in measured]
        front["model-index"] = [{"name": _without_folders(facts.name), "results": [_result(facts, measured)]}]
    return {key: value for key, value in front.items() if value is not None}


def _measured(facts: CardFacts) -> list[tuple[str, str, float]]:
    """Return (the hub's name of the metric, words for it, value) of the metrics that are there."""
    metrics = facts.metrics or {}
    share = ("accuracy", "Accuracy") if facts.labels else ("exact_match", "Exact match")
    candidates = [(*share, metrics.get("accuracy")), ("f1", "Macro F1", metrics.get("macro_f1"))]
    return [(kind, words, round(float(value), 4)) for kind, words, value in candidates if value is not None]


def _result(facts: CardFacts, measured: Sequence[tuple[str, str, float]]) -> dict[str, Any]:
    """Return one result of the model index: the task, the table that was evaluated, the numbers."""
    task = "text-classification" if facts.labels else "text-generation"
    is_hub_set = facts.data_hub_id is not None and facts.eval_name is None
    return {
        "task": {"type": task, "name": task.replace("-", " ").capitalize()},
        "dataset": {
            "type": facts.data_hub_id if is_hub_set else "custom",
            "name": _file_name(facts.eval_name or facts.data_name),
        },
        "metrics": [{"type": kind, "value": value, "name": words} for kind, words, value in measured],
    }


def _introduction(facts: CardFacts) -> str:
    if not facts.labels:
        does = "answers in free text"
    elif len(facts.labels) == 1:
        does = f"knows the one label {_code(facts.labels[0])}"
    elif len(facts.labels) <= 6:
        does = f"sorts texts into {', '.join(map(_code, facts.labels[:-1]))} and {_code(facts.labels[-1])}"
    else:
        does = f"sorts texts into {len(facts.labels)} labels"
    return (
        f"# {_plain(_without_folders(facts.name))}\n\n"
        f"An (IA)³ adapter for {_base(facts)} that {does}: {facts.trainable:,} trained numbers rescale the keys, "
        "values and feed-forward activations of the base, which itself is unchanged "
        "([Liu et al. 2022](https://arxiv.org/abs/2205.05638))."
    )


def _usage(facts: CardFacts) -> str:
    base = "" if facts.base_hub_id else " --base path/to/base"
    lines = [f"ia3 predict table.csv --adapter {_FOLDER}{base} --output predictions.csv"] if facts.labels else []
    lines.append(f"ia3 evaluate table.csv --adapter {_FOLDER}{base}")
    if facts.kind != "encoder":
        lines.append(f"ia3 generate --adapter {_FOLDER}{base} {shlex.quote('a text')}")
    where = "" if facts.base_hub_id else f" (the base, {_base(facts)}, is not on the hub: give your own copy)"
    shell, python = _fence("\n".join(lines), "bash"), _fence("\n".join(_python(facts)), "python")
    others = (
        ", with ia3 or PEFT" if facts.pooling == "own" else "; PEFT has no class for a head on the mean of all tokens"
    )
    return f"## How to use it\n\nOn the command line{where}:\n\n{shell}\n\nIn Python{others}:\n\n{python}"


def _python(facts: CardFacts) -> list[str]:
    """Return the lines that load the adapter and answer one text."""
    if facts.pooling != "own":
        base = "" if facts.base_hub_id else ', base="path/to/base"'
        made = f'predictor = ia3.load("{_FOLDER}"{base})'
        return ["import ia3", "", made, 'print(predictor.classify(["a text"])[0].prediction)']
    auto = _AUTO_CLASS[facts.kind]
    name = f"AutoPeftModelFor{auto}" if facts.base_hub_id else "PeftModel"
    lines = [f"from ia3.peft import {name}  # or: from peft import {name}"]
    labels = f", num_labels={len(facts.labels)}" if facts.kind == "encoder" else ""
    if facts.base_hub_id:
        revision = f", revision={_literal(facts.base_revision)}" if facts.base_revision else ""
        source = _literal(facts.base_hub_id) + revision
        load = [f'model = {name}.from_pretrained("{_FOLDER}"{labels})']
        lines.append("from transformers import AutoTokenizer")
    else:
        source = '"path/to/base"'
        load = [
            f"base = AutoModelFor{auto}.from_pretrained({source}{labels})",
            f'model = {name}.from_pretrained(base, "{_FOLDER}")',
        ]
        lines.append(f"from transformers import AutoModelFor{auto}, AutoTokenizer")
    prompt = re.sub(r"{{-?\s*(\w+)\s*-?}}", r"<\1>", facts.prompt)
    lines += ["", *load, f"tokenizer = AutoTokenizer.from_pretrained({source})"]
    lines.append(f'inputs = tokenizer({_literal(prompt)}, return_tensors="pt")')
    return [*lines, *_answer(facts)]


def _answer(facts: CardFacts) -> list[str]:
    if facts.kind == "encoder":
        names = ", ".join(map(_literal, facts.labels))
        return [f"labels = [{names}]", "print(labels[model(**inputs).logits.argmax(-1).item()])"]
    tokens = 'answer[0, inputs["input_ids"].shape[1] :]' if facts.kind == "causal" else "answer[0]"
    return [
        "answer = model.generate(**inputs, max_new_tokens=32)",
        f"print(tokenizer.decode({tokens}, skip_special_tokens=True))",
    ]


def _labels(facts: CardFacts) -> str:
    if not facts.labels:
        return ""
    listed = "\n".join(f"{i}. {_code(label)}" for i, label in enumerate(facts.labels))
    return f"## Labels\n\nIn this order, which is also that of the probabilities:\n\n{listed}"


def _training_data(facts: CardFacts) -> str:
    rows = [
        ("table", _code(facts.data_hub_id or _file_name(facts.data_name))),
        ("rows", f"{facts.rows:,}"),
        ("fingerprint of texts and labels (sha256)", _code(facts.fingerprint)),
    ]
    return "## Trained on\n\n" + _table(("", ""), rows)


def _prompt(facts: CardFacts) -> str:
    if not facts.prompt:
        return ""
    pairs = [(facts.prompt, facts.target), *facts.others]
    parts = [f"## Prompt template{'s' * (len(pairs) > 1)}"]
    if facts.others:
        ensemble = "; `--ensemble` averages over all of them" if facts.labels else ""
        told = f"One of {len(pairs)} was drawn for each row in each epoch. Predictions use the first"
        parts.append(f"{told}, and so did what was measured{ensemble}.")
    for prompt, target in pairs:
        parts.append(f"What the base reads, in Jinja2:\n\n{_fence(prompt, 'jinja')}")
        if target and facts.kind != "encoder":
            parts.append(f"What it answers:\n\n{_fence(target, 'jinja')}")
    if facts.searched:
        rows = [
            (_code(one["prompt"]), _code(one["target"]), f"{one['score']:.3f}", f"{one['accuracy']:.3f}")
            for one in facts.searched["candidates"]
        ]
        found = f"It was found among {len(rows)} that the base alone was tried with on {facts.searched['rows']} rows"
        parts += [f"{found}:", _table(("prompt", "answer", "right label, nats", "accuracy"), rows)]
    return "\n\n".join(parts)


def _settings(facts: CardFacts) -> str:
    if not facts.settings:
        return ""
    rows = [(_code(name), _code(_setting(value))) for name, value in facts.settings.items()]
    return "## Settings\n\n" + _table(("setting", "value"), rows)


def _results(facts: CardFacts) -> str:
    """Return the totals and one row for each label; without metrics the words that nothing was measured."""
    metrics = facts.metrics
    if not metrics:
        return "## Results\n\nNot evaluated."
    held_out = "rows that were held out"
    if facts.folds is not None:
        held_out = f"all rows, each measured by an adapter that has not learned from it (one of {facts.folds} folds)"
    where = f"the rows of {_code(_file_name(facts.eval_name))}" if facts.eval_name else held_out
    totals = [(words, f"{value:.4f}") for _, words, value in _measured(facts)]
    if metrics.get("accuracy_interval"):
        totals.insert(1, (f"{totals[0][0]}, 95 % interval", _interval(metrics)))
    unit = "example" if metrics.get("loss_unit") == "example" else "target token"
    for key, words in (
        ("loss", f"Loss, nats per {unit}"),
        ("perplexity", "Perplexity"),
        ("calibration_error", "Expected calibration error"),
    ):
        if metrics.get(key) is not None:
            totals.append((words, f"{metrics[key]:.4f}"))
    scaling = metrics.get("scaling")
    if scaling:
        words = f"The same with the temperature {scaling['temperature']:.3g}, which `ia3` applies"
        totals.append((words, f"{scaling['calibration_error_after']:.4f}"))
    text = f"## Results\n\nOn {where} ({metrics['rows']:,} rows):\n\n{_table(('measure', 'value'), totals)}"
    return f"{text}\n\n{_label_table(metrics['per_label'])}" if metrics.get("per_label") else text


def _label_table(per_label: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (_code(label), *(f"{score[key]:.3f}" for key in ("precision", "recall", "f1")), f"{score['support']:,}")
        for label, score in per_label.items()
    ]
    return _table(("label", "precision", "recall", "F1", "rows"), rows)


def _limits(facts: CardFacts) -> str:
    points = [f"It has seen {facts.rows:,} rows of one table; how it does on other kinds of text was not measured."]
    if facts.labels:
        points.append("`ia3 predict` always answers with one of the labels above, also where none fits.")
    length = facts.settings.get("max_length")
    if length is not None:
        points.append(f"Texts are cut so that a prompt has at most {length} tokens.")
    scores = (facts.metrics or {}).get("per_label") or {}
    few = sum(score["support"] < _FEW_ROWS for score in scores.values())
    if few:
        points.append(
            f"{few} of {len(scores)} labels {'has' if few == 1 else 'have'} fewer than {_FEW_ROWS} evaluated rows: "
            "take their numbers as rough."
        )
    points.append("It works on the base named above only, and the licence of that base applies to its use.")
    return "## Limits\n\n" + "\n".join(f"- {point}" for point in points)


def _versions(facts: CardFacts) -> str:
    if not facts.versions:
        return ""
    return "## Versions\n\n" + _table(("package", "version"), [(_code(k), _code(v)) for k, v in facts.versions.items()])


def _base(facts: CardFacts) -> str:
    if facts.base_hub_id:
        revision = f" at revision {_code(facts.base_revision)}" if facts.base_revision else ""
        return f"[{_plain(facts.base_hub_id)}](https://huggingface.co/{facts.base_hub_id}){revision}"
    return _code(_without_folders(facts.base_name))


def _interval(metrics: Mapping[str, Any]) -> str:
    low, high = metrics["accuracy_interval"]
    return f"{low:.4f} to {high:.4f}"


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


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; its cells are safe text, see `_code`."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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


def _yaml(value: Mapping[str, Any] | Sequence[Any] | str | float) -> list[str]:
    """Return `value` as lines of YAML in block style, every string quoted."""
    if isinstance(value, str):
        return [_literal(value)]
    if isinstance(value, Mapping):
        lines = []
        for key, inner in value.items():
            block = _yaml(inner)
            is_block = isinstance(inner, Mapping | list)
            lines += [f"{key}:", *(f"  {line}" for line in block)] if is_block else [f"{key}: {block[0]}"]
        return lines
    if isinstance(value, list):
        lines = []
        for item in value:
            first, *others = _yaml(item)
            lines += [f"- {first}", *(f"  {line}" for line in others)]
        return lines
    return [json.dumps(value)]


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
    license: str | None = None  # of the adapter, as the hub spells it; None leaves it to the user

    def __post_init__(self) -> None:
        for key, value in (("base_hub_id", self.base_hub_id), ("data_hub_id", self.data_hub_id)):
            if value is not None and not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", value, re.ASCII):
                raise AdapterError(
                    f"Writing the model card: {key} is no hub id, got {value!r}, expected 'name' or 'owner/name'. "
                    f"Pass None, and the path as {key.replace('hub_id', 'name')}."
                )
