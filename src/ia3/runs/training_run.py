"""One run from its table to its adapter: check the folder, read the rows, load the base, describe, train, write.

Talk goes through `say`, progress through `on_event`; nothing is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ia3.adapters.attached import attach
from ia3.bases.loading import Base
from ia3.data.template_sets import TemplateLike
from ia3.errors import SettingsError
from ia3.inference.metrics import Metrics
from ia3.runs.beginning import begin_row
from ia3.runs.dataset import Answers, Rows, check_answers, data_name, hold_out, read_rows
from ia3.runs.few_rows import Planned, recipe_taken, rows_left
from ia3.runs.folder import check_folder, open_folder
from ia3.runs.run import ADAPTER, Run
from ia3.runs.run_base import Placement, in_order_of, kind_of_base, load_for, settled
from ia3.runs.saving import RunTask, temperature_note
from ia3.runs.setup import Setup
from ia3.runs.start import read_start
from ia3.runs.start_choice import begun_settings, is_named, settled_start
from ia3.runs.watch import Say, Watch
from ia3.runs.wording import encode_worded, read_words, settled_words
from ia3.training.recipes import find_recipe
from ia3.training.records import Event
from ia3.training.settings import Settings, settings_for
from ia3.training.tasks import Outcome


@dataclass(frozen=True)
class Result:
    """What a run gives."""

    folder: Path
    outcome: Outcome
    metrics: Metrics | None  # of the saved adapter on the held-out rows; None without any
    labels: tuple[str, ...]
    settings: Settings
    seconds: float  # of the whole run, loading included

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values, for `ia3 train --json`."""
        return {
            "output": str(self.folder),
            "steps": self.outcome.steps,
            "best_epoch": self.outcome.best_epoch,
            "stopped": self.outcome.is_stopped,
            "labels": list(self.labels),
            "settings": self.settings.to_json(),
            "metrics": None if self.metrics is None else self.metrics.to_json(),
            "seconds": self.seconds,
        }


def train_adapter(
    source: Any,
    base: str | Path | Base,
    output: str | Path,
    *,
    eval_source: Any = None,
    eval_fraction: float | None = None,
    text: str | None = None,
    label: str | None = None,
    choices: str | None = None,
    template: TemplateLike | Sequence[TemplateLike] | None = None,
    answers: Answers = "auto",
    max_length: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    precision: str = "float",
    skip_bad_rows: bool = False,
    drop_duplicates: bool = False,
    delimiter: str | None = None,
    quotes: bool | None = None,
    start: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    say: Say = lambda sentence: None,
    on_event: Callable[[Event], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    checkpoint_seconds: float = 10.0,
    **settings: Any,
) -> Result:
    """Train an adapter on a table of labelled text and write its folder.

    Args:
        source: A table file, a folder of them, a hub id, or (text, label) pairs.
        base: Name, folder, hub id or GGUF file of the base, or a loaded one.
        output: Folder of the adapter; new, or see `resume` and `overwrite`.
        eval_source: Table to evaluate on; without it `eval_fraction` of the rows is held out.
        eval_fraction: Share of the rows held out, in [0, 1); None for the recipe's: 0.1, or none of a handful.
        text: Name of the text column; found by its name if left out.
        label: Name of the label column; found by its name if left out.
        choices: Name of the column with each row's own choices, where there is no one label set.
        template: Jinja2 prompt, or `prompt ||| target`, or a file of it; see `ia3.data.templates`. Of several one is
            drawn for each row in each epoch. `auto` searches one that the base understands, as the recipe for
            few rows does without any.
        answers: Whether the labels are a closed set or free text.
        max_length: Most tokens of an example; the text is cut.
        dtype: Of the base: `auto`, `float32`, `bfloat16`, …. The vectors stay fp32. A loaded base has its own.
        device: `auto`, `cpu`, `cuda`, `mps`, …. A loaded base has its own.
        precision: `float`, or `int8` for the weights of the base's blocks. A loaded base has its own.
        skip_bad_rows: Leave bad rows out, listed in the record, instead of stopping.
        drop_duplicates: Leave rows of `eval_source` out whose text is trained on, instead of telling which they are.
        delimiter: What stands between the values of CSV and TSV files; by default that of their suffix.
        quotes: Whether `"` stands around values there; False takes quotes as characters and every line as a row.
        start: Folder or hub id of an adapter of the same base whose numbers are begun with in place of ones; the head's
            only where it has the same labels. `auto` chooses one of those that come with the project, as the recipe
            for few rows does where nothing is given; `none` begins with ones.
        resume: Go on from the folder's last checkpoint.
        overwrite: Replace the run in the folder.
        say: Called with each sentence for the user.
        on_event: Called with each event of the record.
        should_stop: Asked before every step; true ends the run with what is best so far.
        now: The time written into the record.
        checkpoint_seconds: Least time between two checkpoints within an epoch; 0 for one after every step.
        settings: Settings by name that differ from the defaults of the kind of base; see `Settings`. Where they leave
            the recipe open and rows are few, it is the one for few rows (`ia3.training.recipes`).

    Returns:
        The folder, how the run ended, and the metrics of the saved adapter on the held-out rows.

    Raises:
        IA3Error: For bad rows, a base that cannot be loaded, settings out of range, or a folder in use.
    """
    began = now()
    folder = Path(output).expanduser()
    check_folder(folder, resume=resume, overwrite=overwrite)
    words = read_words(template)
    if start is not None and is_named(start):
        read_start(start)  # before the base, which takes longer
    placement = Placement(dtype, device, precision)
    kind = kind_of_base(base, placement, say)
    chosen = settings_for(kind, has_start=is_named(start), **settings)
    rows = read_rows(
        source,
        eval_source=eval_source,
        eval_fraction=None,
        text=text,
        label=label,
        choices=choices,
        answers=answers,
        kind=kind,
        skip_bad_rows=skip_bad_rows,
        drop_duplicates=drop_duplicates,
        delimiter=delimiter,
        quotes=quotes,
    )
    check_answers(rows, kind)
    check_weights(rows, chosen)
    count = rows_left(rows, eval_fraction)
    settings |= recipe_taken([Planned(rows, settings, count, is_named(start))], base, kind, say)
    chosen = settings_for(kind, has_start=is_named(start), **settings)
    fraction = find_recipe(chosen.recipe).eval_fraction if eval_fraction is None else eval_fraction
    rows = hold_out(rows, fraction, chosen.seed)
    loaded = load_for(base, kind, [rows], placement, [chosen], say)
    rows = in_order_of(loaded, rows)
    begun = settled_start(start, rows, loaded, chosen, say)  # before an earlier run is replaced
    chosen = settled(begun_settings(kind, begun, settings), loaded)
    words = settled_words(words, begun, rows, loaded, chosen, say)
    dataset = encode_worded(rows, loaded, chosen, words, max_length, say)
    for sentence in (*rows.notes, *dataset.notes, *dataset.report.lines()):
        say(sentence)
    names = data_name(source), _eval_name(eval_source)
    with open_folder(folder, resume=resume, overwrite=overwrite):
        attachment = attach(loaded.model, head_modules=loaded.head_modules, name=ADAPTER)
        try:
            for sentence in begin_row(
                loaded, attachment, ADAPTER, begun, dataset.encoding.labels, dataset.train, chosen
            ):
                say(sentence)
            task = RunTask("", ADAPTER, folder, dataset, chosen, *names, start=begun)
            watch = Watch(say, on_event, should_stop, now, checkpoint_seconds)
            if note := temperature_note([task]):
                say(note)
            run = Run(Setup(folder, loaded, attachment, (task,), watch))
            outcomes = run.train(resume=resume)
            metrics = run.finish(outcomes)
            run.close(outcomes)
        finally:
            attachment.detach()
    return Result(folder, outcomes[0], metrics[0], rows.labels, chosen, (now() - began).total_seconds())


def check_weights(rows: Rows, settings: Settings) -> None:
    """Raise a SettingsError if labels are to be weighed and there are none."""
    if settings.class_weights and not rows.labels:
        raise SettingsError(
            "Checking the settings: class_weights is on and the answers are free text, expected a closed set of "
            "labels. Leave --class-weights out, or give --answers labels."
        )


def _eval_name(eval_source: Any) -> str | None:
    return None if eval_source is None else data_name(eval_source)
