"""Prompt templates: from an example to the words the base reads, and from a label to the words it answers.

A template is one or two Jinja2 sources, rendered in a sandbox: the prompt, and after `|||` the target. Placeholders are
the table's columns; `text` and `label` always name the text and the label. This file knows strings; it knows nothing of
tokens or models.

A template may come with somebody else's adapter. It sees strings only, none of Python's insides; what it makes is
bounded in size, but a loop in a loop may still take long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.exceptions
import jinja2.meta
import jinja2.runtime
import jinja2.sandbox

from ia3.data.examples import Example, quote
from ia3.errors import TemplateError, near_matches
from ia3.names import Kind

SEPARATOR = "|||"
_MOST_CHARACTERS = 2**24  # of a rendered prompt or answer, and of a string that `*` makes
_MOST_BITS = 4096  # of a whole number that `*` or `**` makes


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja2's sandbox, with bounds on what `*` and `**` make."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        for many, count in ((left, right), (right, left)):
            if isinstance(many, str | list | tuple) and isinstance(count, int) and len(many) * count > _MOST_CHARACTERS:
                raise jinja2.exceptions.SecurityError(
                    f"{operator} would make more than {_MOST_CHARACTERS:,} characters"
                )
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _MOST_BITS:
                raise jinja2.exceptions.SecurityError(f"{operator} would make a number of more than {_MOST_BITS} bits")
        return super().call_binop(context, operator, left, right)


_ENVIRONMENT = _Sandbox(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)


@dataclass(frozen=True)
class Template:
    r"""The words around a text and a label.

    Attributes:
        prompt: Jinja2 source of what the base reads.
        target: Jinja2 source of what it answers; for a closed label set it may use `label` only.

    Example:
        >>> template = Template("{{ text }}\nSentiment:")
        >>> template.render_prompt({"text": "Profit rose."}, text="Profit rose.", text_column="text")
        'Profit rose.\nSentiment:'
        >>> template.render_target("positive")
        'positive'
    """

    prompt: str
    target: str = "{{ label }}"

    def __post_init__(self) -> None:
        for name, source in (("prompt", self.prompt), ("target", self.target)):
            try:
                _ENVIRONMENT.from_string(source)  # compiled, since parsing does not look at the names of filters
            except jinja2.TemplateSyntaxError as error:
                raise TemplateError(
                    f"Reading the {name} template: {(error.message or '').rstrip('.')} in line {error.lineno}, got "
                    f"{quote(source)}."
                ) from error
            except RecursionError as error:
                raise TemplateError(f"Reading the {name} template: it is nested too deeply.") from error

    @cached_property
    def _prompt(self) -> jinja2.Template:
        return _ENVIRONMENT.from_string(self.prompt)

    @cached_property
    def _target(self) -> jinja2.Template:
        return _ENVIRONMENT.from_string(self.target)

    def render_prompt(self, fields: Mapping[str, str], *, text: str, text_column: str) -> str:
        """Return the prompt of one example.

        Args:
            fields: Every column of the row.
            text: The text, perhaps cut; takes the place of the text column.
            text_column: Name of the text column.

        Raises:
            TemplateError: If the template fails on this row.
        """
        return _render(self._prompt, {**fields, text_column: text, "text": text}, "prompt")

    def render_target(self, label: str, fields: Mapping[str, str] | None = None) -> str:
        """Return the answer for one label.

        Args:
            label: The label as it stands in the table.
            fields: The row's columns, for targets of free text.

        Raises:
            TemplateError: If the template fails, or gives an empty answer.
        """
        words = _render(self._target, {**(fields or {}), "label": label}, "target")
        if not words.strip():
            raise TemplateError(f"Rendering the target: label {quote(label)} gives an empty answer. Mend the template.")
        return words

    def to_json(self) -> dict[str, str]:
        """Return both sources, for the record."""
        return {"prompt": self.prompt, "target": self.target}


def default_template(kind: Kind, label_column: str | None) -> Template:
    """Return the template used when none is given.

    Args:
        kind: `causal` gets text, newline, the label column's name and a colon; `seq2seq` and `encoder` the text alone.
        label_column: Name of the label column.
    """
    if kind != "causal":
        return Template("{{ text }}")
    name = (label_column or "label").replace("{", "").replace("}", "")
    return Template("{{ text }}\n" + name + ":")


def parse_template(given: str) -> Template:
    r"""Return a template from a source, or from the file of that name.

    Args:
        given: `prompt` or `prompt ||| target`, or a path to a file that holds this. Blanks around `|||`, and a line
            break before and after it, are not part of either. Outside of files `\n` is a line break, since a shell
            hands it over as two characters.

    Raises:
        TemplateError: If the source is broken, or looks like a path and is not there.
    """
    source = given.replace("\\n", "\n")
    if "{{" not in given and "{%" not in given:
        path = Path(given).expanduser()
        try:
            source = path.read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise TemplateError(
                f"Reading the template {quote(given)}: it has no {{{{ placeholder }}}} and is no readable file. "
                "Write for example '{{ text }}\\nSentiment: ||| {{ label }}', or give the path of a file."
            ) from error
    prompt, *targets = source.split(SEPARATOR)
    if not targets:
        return Template(source)
    if len(targets) > 1:
        raise TemplateError(
            f"Reading the template {quote(source)}: it has {len(targets)} times {SEPARATOR}, expected one between the "
            "prompt and the target."
        )
    return Template(prompt.removesuffix("\n") if prompt.endswith("\n") else prompt.rstrip(" "), targets[0].strip())


def check_template(
    template: Template, columns: Sequence[str], *, text_column: str, label_column: str | None, is_closed: bool
) -> None:
    """Check a template's placeholders against a table before anything is trained.

    Args:
        template: The template.
        columns: The table's columns.
        text_column: Name of the text column.
        label_column: Name of the label column, if there is one.
        is_closed: Whether the labels are a closed set, so that the target may depend on the label alone.

    Raises:
        TemplateError: For an unknown placeholder, a prompt that does not show the text or that gives the label away,
            or a closed set's target that uses other columns.
    """
    in_prompt, in_target = placeholders(template.prompt), placeholders(template.target)
    known = {*columns, "text", "label"}
    faults = [*_unknown("prompt", in_prompt, known), *_unknown("target", in_target, known)]
    if not in_prompt & {"text", text_column}:
        faults.append(f"the prompt does not show the text. Put {{{{ text }}}} or {{{{ {text_column} }}}} into it.")
    if in_prompt & {"label", label_column}:
        faults.append("the prompt shows the label, which is what the base shall answer. Put it behind |||.")
    if is_closed and in_target - {"label", label_column}:
        others = ", ".join(map(repr, sorted(in_target - {"label", label_column})))
        faults.append(f"the target uses {others}; with a closed label set the answer may depend on the label alone.")
    if is_closed and not in_target & {"label", label_column}:
        faults.append("the target does not use {{ label }}, so every label has the same answer.")
    if faults:
        raise TemplateError("Checking the template: " + " And ".join(faults))


def check_prompt(template: Template, columns: Sequence[str], *, text_column: str) -> None:
    """Check that a table has every column that the prompt shows, before anything is predicted.

    Args:
        template: The template of an adapter.
        columns: The table's columns.
        text_column: Name of the text column in the template.

    Raises:
        TemplateError: For a placeholder that is no column.
    """
    known = {*columns, "text", text_column}
    faults = _unknown("prompt", placeholders(template.prompt), known)
    if faults:
        raise TemplateError("Checking the adapter's template: " + " And ".join(faults))


def placeholders(source: str) -> set[str]:
    """Return the names a source takes from the row; Jinja2's own (`range`, `dict`) are not among them."""
    return jinja2.meta.find_undeclared_variables(_ENVIRONMENT.parse(source)) - set(_ENVIRONMENT.globals)


def _unknown(where: str, names: set[str], known: set[str]) -> list[str]:
    return [
        f"the {where} has the placeholder {name!r}, the table has no such column.{near_matches(name, known)}"
        for name in sorted(names - known)
    ]


class ChoicesInWords(tuple[str, ...]):
    """The choices of a row as a template sees them: a list that reads as `a, b, c`."""

    def __str__(self) -> str:
        return ", ".join(self)


def prompt_of(template: Template, example: Example, text_column: str, text: str | None = None) -> str:
    """Return the prompt of an example, with its text replaced where `text` is given.

    Raises:
        TemplateError: If the template fails on this row; names file and line.
    """
    fields: dict[str, Any] = dict(example.fields)
    if example.choices:
        fields["choices"] = ChoicesInWords(example.choices)
    try:
        return template.render_prompt(fields, text=example.text if text is None else text, text_column=text_column)
    except TemplateError as error:
        raise TemplateError(f"{error} (row {example.origin})") from error


def _render(template: jinja2.Template, values: Mapping[str, str], name: str) -> str:
    pieces: list[str] = []
    size = 0
    try:
        for piece in template.generate(values):
            pieces.append(piece)
            size += len(piece)
            if size > _MOST_CHARACTERS:
                raise jinja2.exceptions.SecurityError(f"it gives more than {_MOST_CHARACTERS:,} characters")
    except jinja2.UndefinedError as error:
        raise TemplateError(f"Rendering the {name}: {error.message}.") from error
    except Exception as error:  # a template is a program and can fail in every way
        what = str(error).rstrip(".") or "no memory left"
        raise TemplateError(f"Rendering the {name}: {type(error).__name__}: {what}.") from error
    return "".join(pieces)
