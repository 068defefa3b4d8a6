"""`ia3 plan`: where the vectors of a base sit, what was left out and why, and how many numbers are trained.

Reads the base's config alone and builds the model on the meta device, so that a base of any size costs no memory.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ia3.cli.options import add_json
from ia3.cli.output import print_result, say
from ia3.cli.parsing import Verb
from ia3.names import KINDS, Kind
from ia3.spelling import align_columns

if TYPE_CHECKING:
    from ia3.core.sites import Plan, Site


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument(
        "base",
        metavar="BASE",
        help="Folder (a config.json is enough), GGUF file, named base or hub id (NAME@REVISION).",
    )
    group = parser.add_argument_group("targets, with PEFT's meaning (default: the paper's keys, values, feed-forward)")
    names = "names, matched at the end of a path, or one regular expression in quotes"
    group.add_argument(
        "--target-modules", "--targets", nargs="+", metavar="NAME", help=f"Modules that get a vector: {names}."
    )
    group.add_argument(
        "--feedforward-modules",
        nargs="*",
        metavar="NAME",
        help="Those of them whose input is multiplied; without a name, none.",
    )
    group.add_argument("--exclude-modules", nargs="+", metavar="NAME", help="Modules to leave out.")
    group.add_argument("--kind", choices=KINDS, help="What the base is used as (default: what its config says).")
    parser.add_argument_group("rows").add_argument("--all", action="store_true", help="Show every site on its own row.")
    add_json(parser, "the plan, every site of it,")


def run(options: argparse.Namespace) -> int:
    """Print the plan of a base."""
    from ia3.bases.kinds import empty_model, kind_of
    from ia3.bases.loading import load_config
    from ia3.core.discovery import find_plan

    config = load_config(options.base, say=say)
    kind = options.kind or kind_of(config)
    model = empty_model(config, kind)
    plan = find_plan(
        model,
        target_modules=read_names(options.target_modules),
        feedforward_modules=read_names(options.feedforward_modules),
        exclude_modules=read_names(options.exclude_modules),
    )
    count = count_plan(plan, model, config, kind, options.base)
    lines = _lines(plan, count, options.base, kind, every=options.all)
    print_result(options, _to_json(plan, count, options.base, kind), lines)
    return 0


def read_names(given: Sequence[str] | None) -> str | list[str] | None:
    """Return what PEFT's setting would be: one expression as text, names as a list.

    Example:
        >>> read_names(["k", "v"]), read_names([r".*[.](k|v)"]), read_names(["wi_1"]), read_names([])
        (['k', 'v'], '.*[.](k|v)', ['wi_1'], [])
    """
    if not given:
        return None if given is None else []
    is_expression = len(given) == 1 and (given[0] == "all-linear" or re.search(r"[^\w.-]", given[0]))
    return given[0] if is_expression else list(given)


def count_plan(plan: Plan, model: Any, config: Any, kind: Kind, base: str) -> Count:
    """Return the numbers of a plan's base, those with an output matrix of its own included where it may have one."""
    from ia3.bases.heads import is_head_weight
    from ia3.bases.kinds import count_parameters, empty_model
    from ia3.core.families import family_of

    total = count_parameters(model)
    untied = None
    if kind != "encoder" and family_of(config.model_type).may_own_head:
        with_own = count_parameters(empty_model(config, kind, untied_head=True))
        untied = with_own + plan.width if with_own != total else None
    heads = {
        name.rpartition(".")[0]: 0
        for name, _ in model.named_parameters()
        if kind == "encoder" and is_head_weight(name, model.base_model_prefix) and "pooler" not in name.split(".")
    }
    size = sum(p.numel() for path in heads for p in model.get_submodule(path).parameters(recurse=False))
    return Count(plan.width, total + plan.width, untied, _checkpoint_head(base), tuple(heads), size)


def _checkpoint_head(base: str) -> bool | None:
    """Return whether the base's checkpoint holds an output matrix of its own; None where that is not known."""
    from ia3.bases.folders import has_own_head

    folder = Path(base).expanduser()
    return has_own_head(folder) if folder.is_dir() else None


def _lines(plan: Plan, count: Count, base: str, kind: str, *, every: bool) -> list[str]:
    source = {
        "family": "by the table of known families",
        "structure": "by its structure",
        "targets": "by the targets given",
    }.get(plan.source, plan.source)
    lines = [f"{base}: {plan.model_type}, {kind}; {len(plan.sites)} sites, found {source}", ""]
    lines += _site_table(plan.sites) if every else _group_table(plan.sites)
    if plan.left_out:
        rows = [("left out", "count", "why")]
        rows += [(entry.pattern, str(entry.count), entry.reason) for entry in plan.left_out]
        lines += ["", *align_columns(rows, right=[1])]
    return [*lines, "", *_count_lines(count)]


def _group_table(sites: Sequence[Site]) -> list[str]:
    rows = [("site", "count", "role", "side", "width", "numbers", "where", "in PEFT's files")]
    for group in group_sites(sites):
        width, numbers = f"{group.width:,}", f"{group.width * group.count:,}"
        rows.append((group.pattern, str(group.count), group.role, group.side, width, numbers, group.where, group.peft))
    return align_columns(rows, right=[1, 4, 5])


def _site_table(sites: Sequence[Site]) -> list[str]:
    rows = [("site", "role", "side", "width", "where", "in PEFT's files")]
    rows += [(s.name, s.role, s.side, f"{s.width:,}", s.where, _peft_place(s)) for s in sites]
    return align_columns(rows, right=[3])


def group_sites(sites: Sequence[Site]) -> list[SiteGroup]:
    """Return the sites that differ in layer numbers only as one group each, in the order of the first of each."""
    counts: dict[tuple[str, str, str, int, str, str], int] = {}
    for site in sites:
        key = (_starred(site.name), site.role, site.side, site.width, site.where, _starred(_peft_place(site)))
        counts[key] = counts.get(key, 0) + 1
    return [SiteGroup(*key, count) for key, count in counts.items()]


def _starred(path: str) -> str:
    return re.sub(r"(?<=\.)[0-9]+(?=\.|$)", "*", path)


def _peft_place(site: Site) -> str:
    """Return where PEFT's format holds a site's vector, as it differs from the site."""
    if site.peft is not None:
        module, side = site.peft
        return f"{module.rpartition('.')[2]} ({side})"
    return "the same" if site.is_whole else f"{site.module.rpartition('.')[2]} ({site.side}), ones elsewhere"


def _count_lines(count: Count) -> list[str]:
    share = f"{100 * count.trainable / count.total:.3g} %"
    lines = [f"trainable parameters: {count.trainable:,} ({share} of all)"]
    if count.heads:
        lines.append(
            f"and a head where the checkpoint has none: {count.head_size:,} for two labels ({', '.join(count.heads)})"
        )
    if count.total_with_own_head is None:
        return [*lines, f"parameters in total: {count.total:,}"]
    rows = [("parameters in total:", f"{count.total:,}", "with the output matrix tied to the embeddings")]
    rows.append(("", f"{count.total_with_own_head:,}", "with an output matrix of the checkpoint's own"))
    told = {True: ["this checkpoint has its own"], False: ["this checkpoint has none of its own"], None: []}
    return [*lines, *align_columns(rows, right=[1]), *told[count.has_own_head]]


def _to_json(plan: Plan, count: Count, base: str, kind: str) -> Mapping[str, Any]:
    content = plan.to_json()
    for entry, site in zip(content["sites"], plan.sites, strict=True):
        entry["peft"] = {"module": site.peft[0], "side": site.peft[1]} if site.peft else None
    parameters = {
        "trainable": count.trainable,
        "total": count.total,
        "total_with_own_head": count.total_with_own_head,
        "has_own_head": count.has_own_head,
        "head": {"modules": list(count.heads), "for_two_labels": count.head_size} if count.heads else None,
    }
    return {"base": base, "kind": kind, "parameters": parameters, **content}


@dataclass(frozen=True)
class SiteGroup:
    """Sites of one kind, one in each layer."""

    pattern: str  # their name with `*` for the layer numbers
    role: str
    side: str
    width: int  # of each
    where: str
    peft: str  # where PEFT's format holds the vector
    count: int


@dataclass(frozen=True)
class Count:
    """How many numbers a base has and an adapter trains."""

    trainable: int  # vectors alone
    total: int  # of the base as its config says, and the vectors
    total_with_own_head: int | None  # the same with an untied output matrix; None where that is no question
    has_own_head: bool | None  # what the checkpoint's files say; None if there are none to ask
    heads: tuple[str, ...]  # an encoder's modules outside its body
    head_size: int  # their numbers, for two labels


VERB = Verb(
    name="plan",
    summary="Show where the vectors of a base sit and why, from its config alone.",
    usage="BASE [OPTIONS]",
    examples=(
        "ia3 plan minilm",
        "ia3 plan path/to/base --all",
        "ia3 plan path/to/base --target-modules k v wo --feedforward-modules wo",
        "ia3 plan gemma-3-270m --json > plan.json",
    ),
    configure=configure,
    run=run,
)
