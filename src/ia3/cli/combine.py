"""`ia3 adapters combine`: one adapter made of several, or of one turned up, down or round."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ia3.cli.adapter_output import adapter_facts, add_output, check_output, write_adapter
from ia3.cli.options import add, add_json
from ia3.cli.output import print_result, say
from ia3.cli.parsing import Verb, number, numbers, whole_number
from ia3.errors import SettingsError, near_matches

if TYPE_CHECKING:
    from ia3.adapters.adapter import Adapter
    from ia3.core.sites import Plan

# The settings that each method has, beside --strength and --head-from.
METHODS: Mapping[str, tuple[str, ...]] = {
    "average": ("weights",),
    "sum": ("weights",),
    "ties": ("weights", "density"),
    "dare": ("weights", "drop", "seed"),
    "dare-ties": ("weights", "density", "drop", "seed"),
    "product": (),
    "negate": (),
}
_SETTINGS = ("weights", "density", "drop", "seed")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("adapters", nargs="+", metavar="DIR", help="Adapter folders of one base.")
    group = parser.add_argument_group("how")
    group.add_argument(
        "--method",
        choices=METHODS,
        default="average",
        metavar="METHOD",
        help=f"{', '.join(METHODS)} (default: %(default)s).",
    )
    group.add_argument(
        "--weights",
        type=numbers,
        metavar="W,W,…",
        help="One for each adapter; an average divides by their sum (default: all 1). The first one negative: "
        "--weights=-1,2.",
    )
    group.add_argument(
        "--density", type=number, metavar="SHARE", help="TIES: share of each task vector that is kept (default: 0.2)."
    )
    group.add_argument(
        "--drop", type=number, metavar="SHARE", help="DARE: share that is dropped at random (default: 0.5)."
    )
    group.add_argument("--seed", type=whole_number, metavar="N", help="DARE: of what is dropped (default: 0).")
    group.add_argument(
        "--strength",
        type=number,
        default=1.0,
        metavar="S",
        help="Of the result: 0 is the base, 2 twice as far from it (default: 1).",
    )
    group.add_argument(
        "--head-from",
        metavar="DIR",
        help="The adapter whose head, labels and template the result has (default: averaged, where they can be).",
    )
    add_base_of_all(group)
    add_output(parser.add_argument_group("folder"))
    add_json(parser, "what was written")


def run(options: argparse.Namespace) -> int:
    """Combine adapters and write the result."""
    settings = _settings(options)
    folder = check_output(options.output, overwrite=options.overwrite)
    adapters = load_adapters(options.adapters)
    head_from = None if options.head_from is None else _name_of(options.head_from, options.adapters, adapters)
    plan = None if options.base is None else find_base_plan(options.base)
    result = _stamped(_combine(options, adapters, settings, head_from, plan))
    lost = _lost(adapters, result)
    write_adapter(result, folder, overwrite=options.overwrite)
    line = f"{folder}: {_made_in_words(options, list(adapters), settings)}, {result.parameters:,} numbers"
    found = {"combined": result.record["combined"], "not_recorded": lost}
    print_result(options, {**adapter_facts(result, folder), **found}, [line])
    if lost and not options.json:
        say(f"The adapters differ in {' and '.join(lost)}, so none is recorded. --head-from takes those of one.")
    return 0


def add_base_of_all(group: argparse._ActionsContainer) -> None:
    """Add `--base`, for what `find_base_plan` returns."""
    rest = "; needed only for PEFT folders that hold one feed-forward in different places"
    add(group, "--base", words={"base": "Base of the adapters", "rest": rest})


def load_adapters(folders: Sequence[str]) -> dict[str, Adapter]:
    """Return the adapters by the names of their folders, or by what was given where two have one name.

    Raises:
        AdapterError: If one cannot be read.
        SettingsError: If one is given twice.
    """
    from ia3.adapters.folder import load_adapter
    from ia3.bases.revisions import at_revision, split_revision

    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise SettingsError(f"Loading adapters: {twice!r} is given twice, expected each once. Give it more weight.")
    parts = [split_revision(str(Path(folder).expanduser())) for folder in folders]
    short = [at_revision(Path(name).resolve().name, revision) for name, revision in parts]
    names = short if len(set(short)) == len(short) else list(folders)
    return {name: load_adapter(folder) for name, folder in zip(names, folders, strict=True)}


def find_base_plan(name: str) -> Plan:
    """Return the plan of a base, from its config alone."""
    from ia3.bases.kinds import empty_model, kind_of
    from ia3.bases.loading import load_config
    from ia3.core.discovery import find_plan

    config = load_config(name, say=say)
    return find_plan(empty_model(config, kind_of(config)))


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the method that were given.

    Raises:
        SettingsError: If one was given that the method has not, or a negation of several adapters is asked for.
    """
    given = {name: getattr(options, name) for name in _SETTINGS if getattr(options, name) is not None}
    odd = [name for name in given if name not in METHODS[options.method]]
    if odd:
        have = [method for method, names in METHODS.items() if odd[0] in names]
        raise SettingsError(
            f"Combining adapters: --{odd[0]} is no setting of {options.method!r}, only of {', '.join(have)}. Leave it "
            "out, or give another --method."
        )
    if options.method == "negate" and len(options.adapters) > 1:
        raise SettingsError(
            f"Combining adapters: 'negate' takes one adapter, got {len(options.adapters)}. Give one, or a sum with "
            "negative weights."
        )
    return given


def _name_of(given: str, folders: Sequence[str], adapters: Mapping[str, Adapter]) -> str:
    """Return the name of the adapter that a folder or a name means."""
    by_folder = dict(zip(folders, adapters, strict=True))
    if given not in by_folder and given not in adapters:
        raise SettingsError(
            f"Combining adapters: --head-from is {given!r}, which is none of them.{near_matches(given, adapters)}"
        )
    return by_folder.get(given, given)


def _combine(
    options: argparse.Namespace,
    adapters: Mapping[str, Adapter],
    settings: Mapping[str, Any],
    head_from: str | None,
    plan: Plan | None,
) -> Adapter:
    from ia3.adapters import arithmetic

    if options.method == "negate":
        (adapter,) = adapters.values()
        return arithmetic.negate(adapter, options.strength)
    methods: Mapping[str, Any] = {
        "average": arithmetic.average,
        "sum": arithmetic.add,
        "ties": arithmetic.ties,
        "dare": arithmetic.dare,
        "dare-ties": arithmetic.dare_ties,
        "product": arithmetic.multiply,
    }
    result = methods[options.method](adapters, **settings, head_from=head_from, plan=plan)
    return result if options.strength == 1 else arithmetic.with_strength(result, options.strength)


def _stamped(adapter: Adapter) -> Adapter:
    """Return the adapter with the time in its record."""
    from datetime import UTC, datetime

    now = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(adapter, record={**adapter.record, "created": now})


def _lost(adapters: Mapping[str, Adapter], result: Adapter) -> list[str]:
    """Return which of labels and template the adapters have and the result has not."""
    had = {name for adapter in adapters.values() for name in ("labels", "template") if adapter.record.get(name)}
    return sorted(name for name in had if not result.record.get(name))


def _made_in_words(options: argparse.Namespace, names: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Return what was done, for people."""
    weights = settings.get("weights")
    given = [f"{n} ({w:g})" for n, w in zip(names, weights, strict=True)] if weights else names
    rest = [f"{name} {value:g}" for name, value in settings.items() if name != "weights"]
    rest += [f"strength {options.strength:g}"] if options.strength != 1 else []
    return f"{options.method} of {', '.join(given)}" + (f" with {', '.join(rest)}" if rest else "")


VERB = Verb(
    name="combine",
    summary="Make one adapter of several: averages, sums, TIES, DARE, products, negation, strength.",
    usage="DIR … --output DIR [OPTIONS]",
    examples=(
        "ia3 adapters combine runs/news runs/mail --weights 0.7,0.3 --output runs/both",
        "ia3 adapters combine runs/news runs/mail --method ties --density 0.2 --output runs/both",
        "ia3 adapters combine runs/news --strength 0.5 --output runs/half",
        "ia3 adapters combine runs/rude --method negate --output runs/polite",
    ),
    configure=configure,
    run=run,
)
