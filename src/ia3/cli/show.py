"""`ia3 show`: what is known of an adapter, from its files or its store alone; no base and no network is needed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ia3.cli.options import add, add_json
from ia3.cli.output import print_result
from ia3.cli.parsing import Verb
from ia3.names import ROLES
from ia3.spelling import align_columns, percent, size_in_words

if TYPE_CHECKING:
    from torch import Tensor

    from ia3.adapters.adapter import Adapter
    from ia3.core.sites import Site

_MOVED = 0.01  # a number counts as moved when it differs from one by more than this
_RECORDED = (
    "labels", "template", "template_search", "max_length", "data", "settings", "steps", "metrics", "combined",
    "imported", "created", "versions",
)  # fmt: skip
_CONFIGURED = ("target_modules", "feedforward_modules", "modules_to_save", "task_type", "peft_version")
_WIDEST = 100  # characters of a value in the output for people


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    add(parser, "adapter")
    add_json(parser, "what is known")


def run(options: argparse.Namespace) -> int:
    """Print what is known of an adapter."""
    from ia3.adapters.folder import load_adapter
    from ia3.adapters.places import find_folder, find_stored

    stored = find_stored(options.adapter)
    if stored is not None:
        content = _describe_stored(*stored)
    else:
        folder = find_folder(options.adapter)
        content = describe_adapter(load_adapter(folder), folder)
    print_result(options, content, _lines(content))
    return 0


def _describe_stored(path: Path, name: str | None) -> dict[str, Any]:
    """Return what is known of an adapter of a packed store."""
    from ia3.adapters.folder import choose_stored
    from ia3.adapters.store import Store

    with Store.open(path) as store:
        chosen = choose_stored(store, name)
        how, error = store.stored(chosen)
        content = describe_adapter(store.adapter(chosen), None)
    stored = {"store": str(path), "name": chosen, "as": how.words, "error": error}
    return {**content, "folder": f"{path}:{chosen}", "stored": stored}


def describe_adapter(adapter: Adapter, folder: Path | None) -> dict[str, Any]:
    """Return what is known of an adapter as plain values; what its files do not say is None."""
    from ia3.adapters.config import other_task

    record, config = adapter.record, adapter.config
    task = other_task(config)
    data = record.get("data") or {}
    groups = [group for group in group_vectors(adapter) if group.numbers]
    files = sorted(folder.iterdir()) if folder else []
    return {
        "folder": None if folder is None else str(folder),
        "base": adapter.base_facts,
        "other_task": None if task is None else f"{task}, which ia3 answers in Python alone (ia3.peft)",
        **{name: record.get(name) or data.get(name) for name in ("text_column", "label_column")},
        **{name: record.get(name) for name in _RECORDED},
        "parameters": {
            "vectors": sum(group.numbers for group in groups),
            "head": sum(tensor.numel() for tensor in adapter.head.values()),
            "head_modules": list(adapter.head_modules),
        },
        "vectors": {group.role: asdict(group) for group in groups},
        "peft": {name: getattr(config, name) for name in _CONFIGURED},
        "files": {path.name: path.stat().st_size for path in files if path.is_file()},
    }


def group_vectors(adapter: Adapter) -> list[VectorGroup]:
    """Return the statistics of the vectors of each role, the paper's roles first."""
    import torch

    by_role: dict[str, list[Tensor]] = {role: [] for role in ROLES}
    for site in adapter.sites:
        by_role.setdefault(role_of(site), []).append(adapter.vectors[site.name])
    groups = []
    for role, vectors in by_role.items():
        numbers = torch.cat(vectors).double() if vectors else torch.ones(0)
        moved = (numbers - 1).abs()
        spread = (float(numbers.min()), float(numbers.mean()), float(numbers.max())) if vectors else (1.0, 1.0, 1.0)
        groups.append(
            VectorGroup(role, len(vectors), len(numbers), *spread, float(moved.norm()), int((moved > _MOVED).sum()))
        )
    return groups


def role_of(site: Site) -> str:
    """Return a site's role; where a PEFT folder has names alone, the one that some known family gives the name."""
    from ia3.core.families import FAMILIES

    if site.role != "other":
        return site.role
    rules = [rule for family in FAMILIES for rule in family.rules if rule.side == site.side and rule.layout is None]
    return next((rule.role for rule in rules if re.search(rf"(?:^|\.){rule.pattern}$", site.module)), site.role)


def _lines(content: Mapping[str, Any]) -> list[str]:
    from ia3.bases.revisions import address_in

    base, data, template = content["base"], content["data"] or {}, content["template"] or {}
    labels = content["labels"]
    columns = {name: content[f"{name}_column"] for name in ("text", "label")}
    columns["choices"] = template.get("choices_column")
    rows = [
        ("adapter", content["folder"]),
        (
            "base",
            _join(address_in(base) or "not named", base.get("kind"), _part(base.get("fingerprint"), "fingerprint")),
        ),
        ("task", content["other_task"]),
        ("labels", ", ".join(map(repr, labels)) if labels else None),
        *_templates(template, is_closed=bool(labels) or template.get("choices_column") is not None),
        *_searched(content["template_search"] or {}),
        ("columns", _join(*(_part(column, name) for name, column in columns.items()))),
        ("max length", content["max_length"]),
        ("trained on", _join(_rows(data, "name", "rows"), _part(data.get("fingerprint"), "fingerprint"))),
        ("evaluated on", _rows(data, "eval_name", "eval_rows")),
        ("settings", _pairs(content["settings"])),
        ("steps", content["steps"]),
        ("metrics", _pairs(_numbers(content["metrics"] or {}))),
        *(("combined", _combined(step)) for step in content["combined"] or ()),
        ("imported from", _imported(content["imported"])),
        ("stored as", (content.get("stored") or {}).get("as")),
        ("created", content["created"]),
        ("versions", _pairs(content["versions"])),
        ("targets", _targets(content["peft"])),
        ("parameters", _parameters(content["parameters"])),
    ]
    known = [(name, _short(str(value))) for name, value in rows if value not in (None, "")]
    files = ["", *_file_table(content["files"])] if content["files"] else []
    return [*align_columns(known), "", *_vector_table(content["vectors"]), *files]


def _templates(template: Mapping[str, Any], *, is_closed: bool) -> list[tuple[str, str | None]]:
    """Return every template that it was trained with, and which of them answer."""
    others = template.get("others") or ()
    rows = [("prompt", _quoted(template.get("prompt"))), ("target", _quoted(template.get("target")))]
    for number, other in enumerate(others, start=2):
        rows += [(f"prompt {number}", _quoted(other.get("prompt"))), (f"target {number}", _quoted(other.get("target")))]
    if others and is_closed:
        rows.append(("ensemble", f"--ensemble averages over all {len(others) + 1} templates, else the first is used"))
    return rows


def _searched(search: Mapping[str, Any]) -> list[tuple[str, str | None]]:
    """Return the templates that were compared, the best first, with their scores."""
    tried = search.get("candidates") or ()
    rows: list[tuple[str, str | None]] = [
        (
            "tried",
            f"{one['score']:.3f} nats, {percent(one['accuracy'])} right: {one['prompt']!r} ||| {one['target']!r}",
        )
        for one in tried
    ]
    if tried:
        rows.insert(0, ("searched", f"{len(tried)} templates, on {search['rows']} rows without training"))
    return rows


def _vector_table(groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    heading = ("vectors", "count", "numbers", "min", "mean", "max", "norm of l − 1", "moved over 1 %")
    rows: list[tuple[str, ...]] = [heading]
    for role, group in groups.items():
        spread = [f"{group[name]:.4f}" for name in ("min", "mean", "max", "distance")]
        share = f"{group['moved']:,} ({percent(group['moved'] / group['numbers'])})"
        rows.append((role, str(group["vectors"]), f"{group['numbers']:,}", *spread, share))
    return align_columns(rows, right=range(1, 8))


def _file_table(files: Mapping[str, int]) -> list[str]:
    rows = [("files", ""), *((name, size_in_words(size)) for name, size in files.items())]
    return align_columns(rows, right=[1])


def _combined(step: Mapping[str, Any]) -> str:
    """Return one step of arithmetic: the method, what went into it, and its settings."""
    weights = step.get("weights")
    parts = [_part_of_step(part) for part in step.get("adapters") or ()]
    if weights and len(weights) == len(parts):
        parts = [f"{part} ({_spell(weight)})" for part, weight in zip(parts, weights, strict=True)]
    rest = {key: value for key, value in step.items() if key not in ("method", "adapters", "weights")}
    told = f"{step.get('method')}{' of ' if parts else ''}{', '.join(parts)}"
    return _join(told, _pairs(rest))


def _part_of_step(part: Any) -> str:
    return str(part.get("name") if isinstance(part, Mapping) else part)


def _imported(source: Mapping[str, Any] | None) -> str | None:
    return None if not source else _join(source.get("library"), _part(source.get("file"), "file"))


def _numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return those metrics that are one number each."""
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


def _rows(data: Mapping[str, Any], name: str, count: str) -> str | None:
    """Return a table's name and number of rows."""
    if not data.get(count):
        return None
    return f"{data.get(name) or 'rows that were held out'}, {data[count]:,} rows"


def _parameters(counts: Mapping[str, Any]) -> str:
    head = f", and {counts['head']:,} of the head ({', '.join(counts['head_modules'])})" if counts["head"] else ""
    return f"{counts['vectors']:,} in the vectors{head}"


def _targets(peft: Mapping[str, Any]) -> str | None:
    targets = peft["target_modules"]
    if targets is None or isinstance(targets, str):
        return targets
    feedforward = peft["feedforward_modules"] or ()
    return ", ".join(f"{name} (input)" if name in feedforward else name for name in targets)


def _pairs(values: Mapping[str, Any] | None) -> str | None:
    if not values:
        return None
    return ", ".join(f"{name} {_spell(value)}" for name, value in values.items() if value is not None)


def _spell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _part(value: Any, name: str) -> str | None:
    if value is None:
        return None
    return f"{name} {value[:12]}" if name == "fingerprint" else f"{name} {value!r}"


def _join(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _quoted(text: str | None) -> str | None:
    return None if text is None else repr(text)


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST * 3 else text[: _WIDEST * 3 - 1] + "…"


@dataclass(frozen=True)
class VectorGroup:
    """The numbers of all vectors of one role."""

    role: str
    vectors: int
    numbers: int
    min: float
    mean: float
    max: float
    distance: float  # Euclidean norm of l − 1
    moved: int  # numbers that differ from one by more than 1 %


VERB = Verb(
    name="show",
    summary="Show what is known of an adapter, from its files alone.",
    usage="DIR|STORE:NAME [OPTIONS]",
    examples=("ia3 show runs/news", "ia3 show runs/news --json", "ia3 show customers.ia3:customer-7"),
    configure=configure,
    run=run,
)
