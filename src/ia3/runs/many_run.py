"""Many adapters in one run: from task specs to a folder with an adapter's folder for each.

    OUT/run.jsonl, OUT/curves.png, OUT/checkpoints/    the run
    OUT/<name>/                                        each task's adapter

Talk goes through `say`, progress through `on_event`; nothing is printed. Training one adapter is the same with one task
(`training_run`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ia3.bases.loading import Base
from ia3.data.template_sets import TemplateLike
from ia3.errors import SettingsError
from ia3.inference.metrics import Metrics
from ia3.names import BATCHES
from ia3.report.many_plots import draw_tasks
from ia3.runs.dataset import Answers, Dataset, data_name
from ia3.runs.few_rows import Planned, recipe_taken, rows_left
from ia3.runs.folder import ADAPTER_FILES, CURVES, RECORD, check_folder, open_folder
from ia3.runs.many_data import encode_all, hold_out_all, read_all, tell_tasks
from ia3.runs.many_folder import check_store, check_task_folders, clear_adapters, pack_folders
from ia3.runs.many_results import ManyResult, TaskResult
from ia3.runs.many_rows import attached_rows
from ia3.runs.run import Run
from ia3.runs.run_base import Placement, in_order_of, kind_of_base, load_for, settled
from ia3.runs.saving import RunTask, temperature_note
from ia3.runs.setup import Setup, SharedStage
from ia3.runs.start import Start, read_starts
from ia3.runs.start_choice import is_named, warn_of_seen
from ia3.runs.task_column import tasks_by_column
from ia3.runs.task_specs import TaskSpec, filled_spec, specs_of
from ia3.runs.watch import Say, Watch
from ia3.starts.packaged import AUTO
from ia3.training.records import Event, read_events
from ia3.training.sampling import Sampling, draw_shared
from ia3.training.settings import settings_for
from ia3.training.tasks import Outcome


def train_tasks(
    tasks: Sequence[TaskSpec | Mapping[str, Any]],
    base: str | Path | Base,
    output: str | Path,
    *,
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
    sampling: str = "equal",
    temperature: float = 2.0,
    batches: str = "mixed",
    shared_steps: int = 0,
    start: str | Path | None = None,
    store: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    say: Say = lambda sentence: None,
    on_event: Callable[[Event], None] = lambda event: None,
    should_stop: Callable[[], bool] = lambda: False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    checkpoint_seconds: float = 10.0,
    **settings: Any,
) -> ManyResult:
    """Train an adapter for each task, all in one run, and write each into a folder of its name.

    Args:
        tasks: Each a `TaskSpec` or a mapping with its keys (`name`, `table`, …, `settings`). What a task does not say
            it has from the arguments below.
        base: Name, folder, hub id or GGUF file of the base, or a loaded one.
        output: Folder of the run.
        eval_fraction: Share of each task's rows held out, in [0, 1); None for that of its recipe.
        text: Name of the text column.
        label: Name of the label column.
        choices: Name of the column with each row's own choices, where there is no one label set.
        template: Jinja2 prompt, or `prompt ||| target`, or a file of it. Of several one is drawn for each row in each
            epoch. `auto` searches one for each task.
        answers: Whether the labels are a closed set or free text.
        max_length: Most tokens of an example; the text is cut.
        dtype: Of the base. A loaded one has its own.
        device: Where it runs. A loaded one has its own.
        precision: `float`, or `int8` for the weights of its blocks. A loaded one has its own.
        skip_bad_rows: Leave bad rows out, listed in the record, instead of stopping.
        drop_duplicates: Leave eval rows out whose text is trained on.
        delimiter: What stands between the values of CSV and TSV files; by default that of their suffix.
        quotes: Whether `"` stands around values there; False takes quotes as characters and every line as a row.
        sampling: How often a task has its turn: `equal`, `proportional` to its steps, or by `temperature`.
        temperature: With `temperature`: 1 is proportional, the higher the more equal.
        batches: `mixed`, or `apart` for one task each: slower, in the same bits as training alone with
            the same settings.
        shared_steps: Steps in which one row learns from all tasks first; each then begins with its numbers.
        start: Folder or hub id of an adapter of the same base that every row begins with in place of ones, the shared
            one too; a task may have its own.
        store: File of a packed store that holds every adapter at the end, beside the folders.
        resume: Go on from the folder's last checkpoint.
        overwrite: Replace the run in the folder.
        say: Called with each sentence for the user.
        on_event: Called with each event of the record.
        should_stop: Asked before every round; true ends the run with what is best so far.
        now: The time written into the record.
        checkpoint_seconds: Least time between two checkpoints.
        settings: Settings by name that differ from the defaults of the kind of base. Where all tasks leave the recipe
            open and have few rows, it is the one for few rows (`ia3.training.recipes`).

    Returns:
        How each task ended, and the metrics of its saved adapter.

    Raises:
        IA3Error: For faults in the tasks or their tables, all of them at once, a base that cannot be loaded, settings
            out of range, or a folder in use.

    Example:
        >>> train_tasks(
        ...     [{"name": "books", "table": "books.csv"}, {"name": "games", "table": "games.csv"}], "minilm", "runs/all"
        ... )  # doctest: +SKIP
    """
    began, folder = now(), Path(output).expanduser()
    placement, watch = Placement(dtype, device, precision), Watch(say, on_event, should_stop, now, checkpoint_seconds)
    specs = specs_of(tasks)
    chosen = Sampling(sampling, temperature)
    if batches not in BATCHES:
        raise SettingsError(f"Training tasks: batches is {batches!r}, expected one of {', '.join(BATCHES)}.")
    check_folder(folder, resume=resume, overwrite=overwrite)
    check_task_folders(folder, [spec.name for spec in specs], is_free=resume or overwrite)
    packed = None if store is None else check_store(store, is_free=overwrite or resume)
    kind = kind_of_base(base, placement, say)
    starts = _starts_of(specs, start, shared_steps)
    read_starts(starts)  # before the base, which takes longer
    shared: dict[str, Any] = {"text": text, "label": label, "choices": choices, "eval_fraction": eval_fraction}
    shared |= {"template": template, "answers": answers, "max_length": max_length}
    filled = [filled_spec(spec, shared).as_read(delimiter, quotes) for spec in specs]
    has_start = [begun is not None or shared_steps > 0 for begun in starts]
    given = [{**settings, **spec.settings} for spec in filled]
    each = [settings_for(kind, has_start=begins, **own) for begins, own in zip(has_start, given, strict=True)]
    rows = read_all(filled, each, kind, skip_bad_rows=skip_bad_rows, drop_duplicates=drop_duplicates)
    planned = [
        Planned(one, own, rows_left(one, spec.eval_fraction), begins, spec.name)
        for one, own, begins, spec in zip(rows, given, has_start, filled, strict=True)
    ]
    taken = recipe_taken(planned, base, kind, say)
    if taken:
        settings |= taken
        each = [task.settings(kind, **taken) for task in planned]
    rows = hold_out_all(filled, each, rows)
    loaded = load_for(base, kind, rows, placement, each, say)
    each = [settled(own, loaded) for own in each]
    rows = [in_order_of(loaded, one, is_strict=False) for one in rows]
    begun = read_starts(starts, loaded)
    for spec, one, begin in zip(filled, rows, begun, strict=True):
        if begin is not None:
            warn_of_seen(begin, one, say, spec.name)
    datasets = encode_all(filled, each, rows, loaded, say, begun)
    tell_tasks(filled, datasets, say)
    stage = _shared_stage(datasets, loaded, chosen, shared_steps, settings, begun[0])
    run_tasks = tuple(
        RunTask(
            spec.name, spec.name, folder / spec.name, dataset, own, data_name(spec.table, spec.name), _eval(spec),
            start=begin,
        )
        for spec, dataset, own, begin in zip(filled, datasets, each, begun, strict=True)
    )  # fmt: skip
    if note := temperature_note(run_tasks):
        say(note)
    with (
        open_folder(folder, resume=resume, overwrite=overwrite),
        attached_rows(loaded, run_tasks, stage, say) as attachment,
    ):
        if overwrite:
            clear_adapters([folder / task.name for task in run_tasks])
        setup = Setup(folder, loaded, attachment, run_tasks, watch, stage, chosen, batches == "mixed")
        run = Run(setup)
        outcomes = run.train(resume=resume)
        results = _results(setup, outcomes, run.finish(outcomes))
        draw_tasks(read_events(folder / RECORD), [task.name for task in run_tasks], folder / CURVES)
        if packed is not None and not any(one.is_stopped for one in outcomes):
            saved = {one.name: one.folder for one in results if one.folder is not None}
            pack_folders(packed, saved, attachment.bank.plan, overwrite=overwrite or resume)
        run.close(outcomes)
    return ManyResult(folder, results, (now() - began).total_seconds())


def train_by_column(
    source: Any, column: str, base: str | Path | Base, output: str | Path, **options: Any
) -> ManyResult:
    """Train an adapter for each value of a column of one table.

    Args:
        source: What `read_table` reads.
        column: Name of the column.
        base: The base.
        output: Folder of the run.
        options: Those of `train_tasks`, and `eval_source`, a table with the same column.

    Raises:
        IA3Error: As `train_tasks`, and if the table has no such column or a value can be no folder's name.
    """
    folder = Path(output).expanduser()
    check_folder(folder, resume=options.get("resume", False), overwrite=options.get("overwrite", False))
    say = options.get("say", lambda sentence: None)
    placed = {name: options[name] for name in ("dtype", "device", "precision") if name in options}
    kind = kind_of_base(base, Placement(**placed), say)
    names = ("text", "label", "choices", "answers", "skip_bad_rows", "delimiter", "quotes")
    given = {name: options[name] for name in names if name in options}
    specs, notes = tasks_by_column(source, column, eval_source=options.pop("eval_source", None), kind=kind, **given)
    for note in notes:
        say(note)
    specs = [replace(spec, origin=f"{data_name(source)} ({column} {spec.name})") for spec in specs]
    return train_tasks(specs, base, output, **options)


def _results(setup: Setup, outcomes: Sequence[Outcome], metrics: Sequence[Metrics | None]) -> tuple[TaskResult, ...]:
    return tuple(
        TaskResult(
            task.name,
            task.folder if task.folder is not None and (task.folder / ADAPTER_FILES[0]).exists() else None,
            outcome,
            measured,
            task.dataset.encoding.labels,
            task.settings,
        )
        for task, outcome, measured in zip(setup.tasks, outcomes, metrics, strict=True)
    )


def _shared_stage(
    datasets: Sequence[Dataset],
    base: Base,
    sampling: Sampling,
    steps: int,
    settings: Mapping[str, Any],
    start: Start | None,
) -> SharedStage | None:
    """Return what the shared row learns from, and begins with; None without one."""
    if steps < 0:
        raise SettingsError(f"Training tasks: shared_steps is {steps}, expected a number of at least 0.")
    if steps == 0:
        return None
    sets = {dataset.encoding.labels for dataset in datasets}
    if base.kind == "encoder" and len(sets) > 1:
        raise SettingsError(
            f"Training tasks: a shared stage of an encoder needs one head, and the tasks have {len(sets)} different "
            "label sets. Leave --shared-steps out, or give a language model as the base."
        )
    alone = {"max_steps": steps, "epochs": 1, "class_weights": False, "patience": 0}
    own = settled(settings_for(base.kind, has_start=start is not None, **{**settings, **alone}), base)
    drawn = draw_shared([dataset.train for dataset in datasets], steps * own.batch_size, sampling, own.seed)
    return SharedStage(drawn, own, start)


def _starts_of(specs: Sequence[TaskSpec], start: str | Path | None, shared_steps: int) -> list[str | Path | None]:
    """Return what each task begins with.

    Raises:
        SettingsError: If a task that begins with a shared stage's numbers has a start of its own as well.
    """
    own = [spec.name for spec in specs if spec.start is not None]
    if own and shared_steps > 0:
        raise SettingsError(
            f"Training tasks: {', '.join(map(repr, own[:8]))} has a start of its own, and with --shared-steps every "
            "task begins with the shared adapter. Give --start, which that one begins with, or leave one of them out."
        )
    found = [start if spec.start is None else spec.start for spec in specs]
    if AUTO in found:
        raise SettingsError("Training tasks: start is 'auto', which is for one task. Name one of its own for each.")
    return [one if is_named(one) else None for one in found]


def _eval(spec: TaskSpec) -> str | None:
    return None if spec.eval is None else data_name(spec.eval, spec.name)
