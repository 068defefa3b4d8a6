"""Zero-shot: a base without an adapter, asked with a template alone which of the choices it finds most probable.

It is a predictor whose adapter is row `__base__`. This file knows bases, templates and tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ia3.bases.cache import Say
from ia3.bases.kinds import kind_of
from ia3.bases.label_names import read_labels
from ia3.bases.loading import Base, load_base, load_config
from ia3.bases.locating import say_on_stderr
from ia3.data.examples import Table
from ia3.data.labels import label_set
from ia3.data.templates import Template, check_template, default_template, parse_template
from ia3.errors import SettingsError
from ia3.inference.predictor import Predictor
from ia3.inference.recorded import Recorded, encoding_of
from ia3.names import BASE_NAME, Ranking


def load_zero_shot(
    base: str | Path | Base,
    table: Table,
    *,
    labels: Sequence[str] | None = None,
    template: Template | str | None = None,
    ranking: Ranking = "sum",
    device: str = "auto",
    dtype: str = "auto",
    precision: str = "float",
    say: Callable[[str], None] = lambda line: None,
) -> Predictor:
    """Return a predictor of a base without an adapter, which is asked with a template alone.

    Args:
        base: Name, folder, hub id or GGUF file of a language model, or a loaded one.
        table: Gives the columns, and the labels where they are not given.
        labels: The closed label set; by default all labels of the table.
        template: The words around text and label; by default those of the kind of base.
        ranking: What the labels are compared by: the sum of their tokens' log-probabilities, or the mean.
        device: Where the base goes; not used with a loaded one.
        dtype: Of the base; not used with a loaded one.
        precision: `float`, or `int8` for the weights of the base's blocks; not used with a loaded one.
        say: Told, a line at a time, what takes long.

    Raises:
        SettingsError: If the base is an encoder, whose head knows no labels yet, or the labels look like free text.
        TemplateError: If the template does not fit the table.
    """
    kind = base.kind if isinstance(base, Base) else kind_of(load_config(base, say))
    if kind == "encoder":
        name = base.name if isinstance(base, Base) else base
        raise SettingsError(
            f"Evaluating without an adapter: {str(name)!r} is an encoder, whose head for these labels is not trained, "
            "expected a language model (causal or seq2seq). Train an adapter: ia3 train TABLE --base BASE --output DIR."
        )
    own = table.choices_column
    chosen = (
        ()
        if own is not None
        else read_labels("Evaluating without an adapter", () if labels is None else labels) or _labels_of(table)
    )
    words = parse_template(template) if isinstance(template, str) else template
    words = words or default_template(kind, table.label_column)
    check_template(
        words,
        (*table.columns, *([] if own is None else ["choices"])),
        text_column=table.text_column,
        label_column=table.label_column,
        is_closed=own is None,
    )
    if not isinstance(base, Base):
        base = load_base(base, kind=kind, dtype=dtype, device=device, precision=precision, say=say)
    return ask_base(base, table, chosen, words, ranking, say)


def ask_base(
    base: Base, table: Table, labels: Sequence[str], template: Template, ranking: Ranking, say: Say = say_on_stderr
) -> Predictor:
    """Return the predictor of a base alone for a table that its template fits; as `load_zero_shot`, without checks."""
    own = table.choices_column
    known = Recorded(tuple(labels), template, table.text_column, table.label_column, None, choices_column=own)
    return Predictor(base, BASE_NAME, encoding_of(base, known), ranking=ranking, say=say)


def _labels_of(table: Table) -> tuple[str, ...]:
    labels = label_set(table)
    if len(labels) > max(2, len(table.examples) // 2):
        raise SettingsError(
            f"Evaluating without an adapter: the answers look like free text, got {len(labels)} different ones in "
            f"{len(table.examples)} rows, expected labels that repeat. Name the label set: --labels A B."
        )
    return labels
