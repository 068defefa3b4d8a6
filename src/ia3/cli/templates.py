"""`ia3 templates`: the templates there are, rows as a base reads them, and a template checked against a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ia3.cli.options import FOUND, READING, add, add_json, table_as_read
from ia3.cli.output import print_result, say
from ia3.cli.parsing import UsageError, Verb, whole_number
from ia3.names import KINDS, Kind

if TYPE_CHECKING:
    from ia3.data.examples import Table
    from ia3.data.templates import Template
    from ia3.inference.recorded import Recorded


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("what", choices=("list", "preview", "check"), help="What to do; the last two need a TABLE.")
    parser.add_argument("table", metavar="TABLE", nargs="?", help="Table, as for 'ia3 train'.")
    group = parser.add_argument_group("templates")
    group.add_argument("--template", metavar="T", action="append", help="A template, as for 'ia3 train'.")
    group.add_argument("--templates", metavar="FILE", help="YAML or JSON file with a list of templates.")
    group.add_argument("--adapter", metavar="DIR", help="Adapter folder whose templates these are.")
    group.add_argument("--kind", choices=KINDS, help="Kind of base (default: the base's or adapter's, else causal).")
    group.add_argument("--base", metavar="BASE", help="Base whose tokens are shown; its weights are not loaded.")
    data = parser.add_argument_group("data")
    add(data, "--text", "--label", *READING, words={"column": FOUND})
    data.add_argument("--rows", type=whole_number, default=3, metavar="N", help="Rows to show (default: %(default)s).")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """List, preview or check templates."""
    if options.what == "list":
        return _list(options)
    if options.table is None:
        raise UsageError(f"templates: {options.what} needs a table, got none. See 'ia3 templates --help'.")
    known = None if options.adapter is None else _recorded(options.adapter)
    kind = _kind(options)
    table, labels = _read(options, kind, known)
    templates = _templates(options, kind, table.label_column, known)
    return (_preview if options.what == "preview" else _check)(options, templates, table, labels, kind)


def _list(options: argparse.Namespace) -> int:
    """Show an adapter's templates, or those that are used where none is given."""
    from ia3.data.templates import default_template

    if options.table is not None:
        raise UsageError("templates: list takes no table; 'preview TABLE' and 'check TABLE' do.")
    if options.adapter is None:
        listed: list[dict[str, Any]] = [{"kind": kind, **default_template(kind, "label").to_json()} for kind in KINDS]
        heads = [f"{one['kind']}, where none is given:" for one in listed]
    else:
        known = _recorded(options.adapter)
        listed = [one.to_json() for one in (known.template, *known.others) if one is not None]
        heads = [f"template {number} of {options.adapter}:" for number in range(1, len(listed) + 1)]
    lines: list[str] = []
    for head, one in zip(heads, listed, strict=True):
        lines += [head, f"  prompt: {one['prompt']!r}", f"  answer: {one['target']!r}"]
    print_result(options, listed, lines or [f"{options.adapter} records no template."])
    return 0


def _preview(
    options: argparse.Namespace, templates: Sequence[Template], table: Table, labels: Sequence[str], kind: Kind
) -> int:
    """Show the first rows as a base reads them, with the answers it is asked to compare."""
    from ia3.data.previews import preview_rows

    tokenize = None if options.base is None else _tokenizer(options.base)
    shown = []
    for number, template in enumerate(templates, start=1):
        for row in preview_rows(template, table, labels, kind, options.rows):
            one: dict[str, Any] = {"template": number, **asdict(row)}
            if tokenize is not None:
                ids = _prompt_ids(tokenize, kind, row.prompt)
                one |= {"tokens": len(ids), "read": tokenize.decode(ids, clean_up_tokenization_spaces=False)}
            shown.append(one)
    lines: list[str] = []
    for one in shown:
        size = f", {one['tokens']} tokens" if "tokens" in one else ""
        lines.append(f"template {one['template']}, {one['origin']}{size}:")
        lines += [f"  {line}" for line in (one.get("read") or one["prompt"]).split("\n")]
        lines += [f"  {'→' if answer == one['right'] else ' '} {answer!r}" for answer in one["answers"]]
    print_result(options, shown, lines)
    return 0


def _check(
    options: argparse.Namespace, templates: Sequence[Template], table: Table, labels: Sequence[str], kind: Kind
) -> int:
    """Tell what each template takes from the table, what it leaves out, and what it asks for in vain."""
    from ia3.data.previews import check_against

    fits = [check_against(template, table, is_closed=bool(labels)) for template in templates]
    lines: list[str] = []
    for template, fit in zip(templates, fits, strict=True):
        lines.append(f"{template.prompt!r} ||| {template.target!r}")
        lines.append(f"  columns it uses: {_names(fit.used)}")
        lines.append(f"  columns it leaves out: {_names(fit.unused)}")
        lines.append(f"  placeholders without a column: {_names(fit.missing)}")
        lines.append(f"  {fit.fault}" if fit.fault else "  it fits the table")
    found = [{**template.to_json(), **asdict(fit)} for template, fit in zip(templates, fits, strict=True)]
    print_result(options, found, lines)
    return 2 if any(fit.fault for fit in fits) else 0


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _kind(options: argparse.Namespace) -> Kind:
    """Return the kind of base that the rows are for."""
    from ia3.adapters.folder import load_adapter
    from ia3.bases.kinds import kind_of
    from ia3.bases.loading import load_config

    if options.kind is not None:
        kind: Kind = options.kind
        return kind
    if options.base is not None:
        return kind_of(load_config(options.base, say))
    return (options.adapter is not None and load_adapter(options.adapter).kind) or "causal"


def _read(options: argparse.Namespace, kind: Kind, known: Recorded | None) -> tuple[Table, tuple[str, ...]]:
    """Return the table, and the labels that are a closed set: an adapter's own, or the table's."""
    from ia3.data.tables import read_table
    from ia3.runs.dataset import closed_labels

    if options.rows < 1:
        raise UsageError(f"templates: --rows is {options.rows}, expected at least 1.")
    text, label, labels, source = options.text, options.label, None, table_as_read(options)
    if known is not None:
        from ia3.inference.rows import choose_columns_of

        own = choose_columns_of(source, {"text": known.text_column, "label": known.label_column})
        text, label, labels = text or own["text"], label or own["label"], known.labels
    table = read_table(source, text=text, label=label, labels_required=options.adapter is None)
    for note in table.notes:
        say(note)
    if labels is None and table.label_column is not None:
        labels = closed_labels(table, "auto", kind)[0]
    return table, labels or ()


def _templates(
    options: argparse.Namespace, kind: Kind, label_column: str | None, known: Recorded | None
) -> tuple[Template, ...]:
    """Return the templates given, an adapter's, or the default of the kind."""
    from ia3.data.template_sets import read_templates, templates_of
    from ia3.data.templates import default_template

    further = () if options.templates is None else read_templates(options.templates)
    given = templates_of([*(options.template or ()), *further])
    if given:
        return given
    if known is not None and known.template is not None:
        return (known.template, *known.others)
    return (default_template(kind, label_column),)


def _recorded(folder: str) -> Recorded:
    """Return what an adapter records of how it answers."""
    from ia3.adapters.folder import load_adapter
    from ia3.inference.recorded import Recorded

    return Recorded.read(f"Loading adapter from {folder}", load_adapter(folder).record)


def _tokenizer(base: str) -> Any:
    from ia3.bases.folders import load_tokenizer
    from ia3.bases.locating import locate

    place = locate(base, say)
    return load_tokenizer(place.folder, place.address)


def _prompt_ids(tokenizer: Any, kind: Kind, prompt: str) -> Sequence[int]:
    from ia3.data.encoding import Encoding
    from ia3.data.templates import Template

    return Encoding(tokenizer, kind, Template(""), "text").prompt_ids([prompt])[0]


VERB = Verb(
    name="templates",
    summary="List templates, show rows as a base reads them, or check a template against a table.",
    usage="list | preview TABLE | check TABLE [OPTIONS]",
    examples=(
        "ia3 templates list",
        "ia3 templates list --adapter runs/news",
        "ia3 templates preview news.csv --template '{{ text }}\\nMood: ||| {{ label }}' --base gemma-3-270m",
        "ia3 templates check news.csv --templates wordings.yaml",
    ),
    configure=configure,
    run=run,
)
