"""`ia3 adapters compare`: how far adapters are from their base and from each other."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ia3.cli.combine import add_base_of_all, find_base_plan, load_adapters
from ia3.cli.options import add_json
from ia3.cli.output import print_result
from ia3.cli.parsing import Verb
from ia3.errors import SettingsError
from ia3.spelling import align_columns

if TYPE_CHECKING:
    from ia3.adapters.adapter import Adapter
    from ia3.adapters.arithmetic import Comparison


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("adapters", nargs="+", metavar="DIR", help="Adapter folders of one base, two or more.")
    add_base_of_all(parser.add_argument_group("base"))
    add_json(parser, "the comparison")


def run(options: argparse.Namespace) -> int:
    """Print distances and similarities."""
    from ia3.adapters.arithmetic import compare, size_of

    if len(options.adapters) < 2:
        raise SettingsError("Comparing adapters: got one, expected two or more. Give another folder.")
    adapters = {name: _with_roles(adapter) for name, adapter in load_adapters(options.adapters).items()}
    pairs = compare(adapters, plan=None if options.base is None else find_base_plan(options.base))
    sizes = {name: size_of(adapter) for name, adapter in adapters.items()}
    print_result(options, {"sizes": sizes, "pairs": [asdict(pair) for pair in pairs]}, _lines(sizes, pairs))
    return 0


def _with_roles(adapter: Adapter) -> Adapter:
    """Return the adapter with the roles that a PEFT folder does not say, where some known family gives the name."""
    from ia3.cli.show import role_of

    sites = tuple(replace(site, role=role_of(site)) if site.is_whole else site for site in adapter.sites)
    return replace(adapter, sites=sites)


def _lines(sizes: Mapping[str, float], pairs: Sequence[Comparison]) -> list[str]:
    lines = align_columns([("adapter", "norm of l − 1"), *((n, f"{size:.4f}") for n, size in sizes.items())], right=[1])
    rows: list[tuple[str, ...]] = [("adapters", "role", "distance", "cosine")]
    for pair in pairs:
        for role, distance in pair.distance.items():
            names = f"{pair.first}, {pair.second}" if role == "all" else ""
            rows.append((names, role, f"{distance:.4f}", _spell(pair.cosine[role])))
    return [*lines, "", *align_columns(rows, right=[2, 3])]


def _spell(cosine: Any) -> str:
    return "–" if cosine is None else f"{cosine:.4f}"


VERB = Verb(
    name="compare",
    summary="Show how far adapters are from their base and from each other.",
    usage="DIR DIR … [OPTIONS]",
    examples=("ia3 adapters compare runs/news runs/mail", "ia3 adapters compare runs/a runs/b runs/c --json"),
    configure=configure,
    run=run,
)
