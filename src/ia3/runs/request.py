"""What a run is asked for: the options that all kinds of runs share, documented once.

This file knows names and values; it knows nothing of tables and bases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

from ia3.bases.loading import Base
from ia3.data.template_sets import TemplateLike
from ia3.errors import SettingsError
from ia3.names import Answers
from ia3.runs.run_base import Placement
from ia3.runs.task_specs import TaskSpec, filled_spec
from ia3.runs.watch import Say, Watch
from ia3.training.records import Event


class SettingOptions(TypedDict, total=False):
    """Settings that differ from the defaults of the kind of base; None is not given. From `Settings`: make settings."""

    recipe: str | None
    losses: str | None
    contrast_temperature: float | None
    optimizer: str | None
    epochs: int | None
    eval_strategy: str | None
    patience: int | None
    max_steps: int | None
    learning_rate: float | None
    feedforward_rate: float | None
    head_learning_rate: float | None
    pooling: str | None
    fit_head: bool | None
    label_texts: bool | None
    judge: bool | None
    batch_size: int | None
    token_budget: int | None
    warmup: float | None
    beta1: float | None
    beta2: float | None
    weight_decay: float | None
    clip: float | None
    frozen_blocks: float | None
    interpolation: float | None
    dropout: bool | None
    class_weights: bool | None
    compile: str | None
    seed: int | None


class RunOptions(SettingOptions, total=False):
    """Keywords of every kind of run, besides the settings.

    Where the settings leave the recipe open and rows are few, it is the one for few rows (`ia3.training.recipes`).

    Attributes:
        eval_source: Table to evaluate on; without it `eval_fraction` of the rows is held out.
        eval_fraction: Share of the rows held out, in [0, 1); None for the recipe's: 0.1, or none of a handful.
        text: Name of the text column; found by its name if left out.
        label: Name of the label column; found by its name if left out.
        choices: Name of the column with each row's own choices, where there is no one label set.
        template: Jinja2 prompt, or `prompt ||| target`, or a file of it; see `ia3.data.templates`. Of several one is
            drawn for each row in each epoch. `auto` searches one that the base understands, as the recipe for
            few rows does without any.
        answers: Whether the labels are a closed set or free text: `auto`, `labels` or `text`.
        max_length: Most tokens of an example; the text is cut.
        skip_bad_rows: Leave bad rows out, listed in the record, instead of stopping.
        drop_duplicates: Leave rows of `eval_source` out whose text is trained on, instead of telling which they are.
        delimiter: What stands between the values of CSV and TSV files; by default that of their suffix.
        quotes: Whether `"` stands around values there; False takes quotes as characters and every line as a row.
        dtype: Of the base: `auto`, `float32`, `bfloat16`, …. The vectors stay fp32. A loaded base has its own.
        device: `auto`, `cpu`, `cuda`, `mps`, …. A loaded base has its own.
        precision: `float`, or `int8` for the weights of the base's blocks. A loaded base has its own.
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
    """

    eval_source: Any
    eval_fraction: float | None
    text: str | None
    label: str | None
    choices: str | None
    template: TemplateLike | Sequence[TemplateLike] | None
    answers: Answers
    max_length: int | None
    skip_bad_rows: bool
    drop_duplicates: bool
    delimiter: str | None
    quotes: bool | None
    dtype: str
    device: str
    precision: str
    start: str | Path | None
    resume: bool
    overwrite: bool
    say: Say
    on_event: Callable[[Event], None]
    should_stop: Callable[[], bool]
    now: Callable[[], datetime]
    checkpoint_seconds: float


@dataclass(frozen=True)
class Request:
    """What a run was asked for; names and meanings are those of `RunOptions`.

    Attributes:
        base: Name, folder, hub id or GGUF file of the base, or a loaded one.
        output: Folder of the run.
        placement: Where the base is put.
        watch: Who is told what, and who may end the run.
        settings: By name, as they were given.
    """

    base: str | Path | Base
    output: Path
    placement: Placement
    watch: Watch
    settings: Mapping[str, Any]
    eval_source: Any = None
    eval_fraction: float | None = None
    text: str | None = None
    label: str | None = None
    choices: str | None = None
    template: TemplateLike | Sequence[TemplateLike] | None = None
    answers: Answers = "auto"
    max_length: int | None = None
    skip_bad_rows: bool = False
    drop_duplicates: bool = False
    delimiter: str | None = None
    quotes: bool | None = None
    start: str | Path | None = None
    resume: bool = False
    overwrite: bool = False

    @property
    def say(self) -> Say:
        """Called with each sentence for the user."""
        return self.watch.say

    def spec(self, table: Any) -> TaskSpec:
        """Return the only task of a run on a table."""
        return self.filled(TaskSpec("", table, eval=self.eval_source))

    def filled(self, spec: TaskSpec) -> TaskSpec:
        """Return a task that has what it does not say from what was asked for all.

        Raises:
            TemplateError: If a template of its own, or one of all, is none.
        """
        names = ("text", "label", "choices", "eval_fraction", "template", "answers", "max_length", "start")
        return filled_spec(spec, {name: getattr(self, name) for name in names})


def request_of(
    base: str | Path | Base, output: str | Path, options: Mapping[str, Any], *, without: Sequence[str] = ()
) -> Request:
    """Return a request; what is no option of a run is a setting.

    Args:
        base: The base.
        output: Folder of the run.
        options: As `RunOptions` has them.
        without: Names of options that this kind of run has no use for.

    Raises:
        SettingsError: If one of those was given.
    """
    odd = [name for name in without if options.get(name) is not None]
    if odd:
        raise SettingsError(f"Preparing the run: {', '.join(odd)} is not for this kind of run. Leave it out.")
    left = {name: value for name, value in options.items() if name not in without}

    def taken(kind: type) -> dict[str, Any]:
        names = [one.name for one in fields(kind) if one.name in RunOptions.__annotations__ and one.name in left]
        return {name: left.pop(name) for name in names}

    placement, watch, own = Placement(**taken(Placement)), Watch(**taken(Watch)), taken(Request)
    return Request(base, Path(output).expanduser(), placement, watch, left, **own)
