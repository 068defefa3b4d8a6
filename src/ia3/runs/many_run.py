"""Many adapters in one run: from task specs to a folder with an adapter's folder for each.

    OUT/run.jsonl, OUT/curves.png, OUT/checkpoints/    the run
    OUT/<name>/                                        each task's adapter

Talk goes through `say`, progress through `on_event`; nothing is printed. Training one adapter is the same with one task
(`training_run`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from ia3.adapters.attached import attach
from ia3.adapters.folder import load_adapter
from ia3.adapters.store import create_store
from ia3.bases.kinds import Kind
from ia3.bases.loading import Base, load_base
from ia3.core.attach import Attachment
from ia3.core.sites import Plan
from ia3.data.templates import Template, parse_template
from ia3.errors import RunError, SettingsError
from ia3.inference.metrics import Metrics
from ia3.report.many_plots import draw_tasks
from ia3.runs.dataset import Answers, Dataset, Rows, data_name
from ia3.runs.folder import ADAPTER_FILES, CURVES, RECORD, check_folder, open_folder
from ia3.runs.many_data import encode_all, read_all, tell_tasks
from ia3.runs.many_heads import make_heads
from ia3.runs.many_results import ManyResult, TaskResult
from ia3.runs.run import SHARED, Run
from ia3.runs.saving import RunTask
from ia3.runs.setup import Setup, SharedStage
from ia3.runs.start import begin_from, read_starts
from ia3.runs.task_column import tasks_by_column
from ia3.runs.task_specs import Found, TaskSpec, check_tasks, name_faults, raise_faults
from ia3.runs.training_run import Say, few_rows_note, in_order_of, kind_of_base
from ia3.training.records import Event, read_events
from ia3.training.sampling import Sampling, draw_shared
from ia3.training.settings import Settings, settings_for
from ia3.training.tasks import Outcome

BATCHES = ("mixed", "apart")


def train_tasks(
    tasks: Sequence[TaskSpec | Mapping[str, Any]],
    base: str | Path | Base,
    output: str | Path,
    *,
    eval_fraction: float = 0.1,
    text: str | None = None,
    label: str | None = None,
    template: Template | str | None = None,
    answers: Answers = "auto",
    max_length: int | None = None,
    dtype: str = "auto",
    device: str = "auto",
    precision: str = "float",
    skip_bad_rows: bool = False,
    drop_duplicates: bool = False,
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
        eval_fraction: Share of each task's rows held out, in [0, 1).
        text: Name of the text column.
        label: Name of the label column.
        template: Jinja2 prompt, or `prompt ||| target`, or a file of it.
        answers: Whether the labels are a closed set or free text.
        max_length: Most tokens of an example; the text is cut.
        dtype: Of the base. A loaded one has its own.
        device: Where it runs. A loaded one has its own.
        precision: `float`, or `int8` for the weights of its blocks. A loaded one has its own.
        skip_bad_rows: Leave bad rows out, listed in the record, instead of stopping.
        drop_duplicates: Leave eval rows out whose text is trained on.
        sampling: How often a task has its turn: `equal`, `proportional` to its steps, or by `temperature`.
        temperature: With `temperature`: 1 is proportional, the higher the more equal.
        batches: `mixed`, or `apart` for one task each: slower, in the same bits as training alone.
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
        settings: Settings by name that differ from the defaults of the kind of base.

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
    specs = _specs(tasks)
    chosen = Sampling(sampling, temperature)
    if batches not in BATCHES:
        raise SettingsError(f"Training tasks: batches is {batches!r}, expected one of {', '.join(BATCHES)}.")
    check_folder(folder, resume=resume, overwrite=overwrite)
    check_task_folders(folder, [spec.name for spec in specs], is_free=resume or overwrite)
    packed = None if store is None else check_store(store, is_free=overwrite or resume)
    kind = kind_of_base(base, dtype, device, say, precision)
    shared_template = parse_template(template) if isinstance(template, str) else template
    starts = _starts_of(specs, start, shared_steps)
    read_starts(starts)  # before the base, which takes longer
    filled = [
        replace(
            spec,
            text=spec.text or text,
            label=spec.label or label,
            eval_fraction=eval_fraction if spec.eval_fraction is None else spec.eval_fraction,
            template=parse_template(spec.template)
            if isinstance(spec.template, str)
            else spec.template or shared_template,
            answers=spec.answers or answers,
            max_length=spec.max_length or max_length,
        )
        for spec in specs
    ]
    each = [settings_for(kind, **{**settings, **spec.settings}) for spec in filled]
    rows = read_all(filled, each, kind, skip_bad_rows=skip_bad_rows, drop_duplicates=drop_duplicates)
    loaded = load_for(base, kind, rows, dtype, device, each[0].seed, say, precision)
    rows = [in_order_of(loaded, one, is_strict=False) for one in rows]
    datasets = encode_all(filled, rows, loaded)
    tell_tasks(filled, datasets, say)
    _say_recipe(filled, each, datasets, loaded, settings, say)
    begun = read_starts(starts, loaded)
    stage = _shared_stage(datasets, kind, chosen, shared_steps, settings)
    if stage is not None:
        stage = replace(stage, start=begun[0])
    run_tasks = tuple(
        RunTask(
            spec.name, spec.name, folder / spec.name, dataset, own, data_name(spec.table, spec.name), _eval(spec),
            start=begin,
        )
        for spec, dataset, own, begin in zip(filled, datasets, each, begun, strict=True)
    )  # fmt: skip
    with (
        open_folder(folder, resume=resume, overwrite=overwrite),
        attached_rows(loaded, run_tasks, stage, say) as attachment,
    ):
        if overwrite:
            _clear(folder, [task.name for task in run_tasks])
        setup = Setup(
            folder, loaded, attachment, run_tasks, say, now, checkpoint_seconds, stage, chosen, batches == "mixed"
        )
        run = Run(setup)
        outcomes = run.train(on_event, should_stop, resume=resume)
        results = _results(setup, outcomes, run.finish(outcomes))
        draw_tasks(read_events(folder / RECORD), [task.name for task in run_tasks], folder / CURVES)
        if packed is not None and not any(one.is_stopped for one in outcomes):
            pack_results(packed, results, attachment.bank.plan, overwrite=overwrite or resume)
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
    dtype, device = options.get("dtype", "auto"), options.get("device", "auto")
    kind = kind_of_base(base, dtype, device, say, options.get("precision", "float"))
    names = ("text", "label", "answers", "skip_bad_rows")
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


@contextmanager
def attached_rows(
    base: Base, tasks: Sequence[RunTask], stage: SharedStage | None, say: Say = lambda sentence: None
) -> Any:
    """Put a bank with a row for each task on the base inside, each with a head of its own where the base has none."""
    wanted = [(len(task.dataset.encoding.labels), task.settings.seed, task.adapter) for task in tasks]
    if stage is not None:
        wanted.insert(0, (len(tasks[0].dataset.encoding.labels), stage.settings.seed, SHARED))
    heads = make_heads(base, [(labels, seed) for labels, seed, _ in wanted])
    attachment: Attachment = attach(base.model, head_modules=base.head_modules, name=wanted[0][2])
    try:
        attachment.bank.remove(wanted[0][2])  # every row is added in the same way
        for (_, _, name), head in zip(wanted, heads, strict=True):
            attachment.bank.add(name, trainable=True, head=head)
        _begin_rows(attachment, tasks, stage, say)
        yield attachment
    finally:
        attachment.detach()


def _begin_rows(attachment: Attachment, tasks: Sequence[RunTask], stage: SharedStage | None, say: Say) -> None:
    """Give every row that has one its start, the shared one's too, and say each thing once."""
    begins = [(task.adapter, task.start, task.dataset.encoding.labels) for task in tasks]
    if stage is not None:
        begins.insert(0, (SHARED, stage.start, tasks[0].dataset.encoding.labels))
    told = [begin_from(attachment, row, start, labels) for row, start, labels in begins if start is not None]
    for sentence in dict.fromkeys(told):
        say(sentence)


def check_task_folders(folder: Path, names: Iterable[str], *, is_free: bool) -> None:
    """Raise a RunError if an adapter lies where one is to go."""
    used = [name for name in names if any((folder / name / file).exists() for file in ADAPTER_FILES)]
    files = [name for name in names if (folder / name).is_file()]
    if files:
        raise RunError(f"Preparing {folder}: {', '.join(map(repr, files))} is a file, expected room for a folder.")
    if used and not is_free:
        raise RunError(
            f"Preparing {folder}: it holds the adapters {', '.join(map(repr, used[:8]))} already. Give --overwrite to "
            "replace them, or another --output."
        )


def check_store(store: str | Path, *, is_free: bool) -> Path:
    """Return the path of a packed store that can be made.

    Raises:
        RunError: If a file is there and is not to be replaced, or a folder.
    """
    path = Path(store).expanduser()
    if path.is_dir():
        raise RunError(f"Packing {path}: a folder of this name is there. Give another --store.")
    if path.exists() and not is_free:
        raise RunError(
            f"Packing {path}: the file is there already. Give --overwrite to replace it, or another --store."
        )
    return path


def pack_results(path: Path, results: Sequence[TaskResult], plan: Plan, *, overwrite: bool) -> None:
    """Put the saved adapters of a run into a new packed store."""
    if overwrite:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    saved = {one.name: partial(load_adapter, one.folder) for one in results if one.folder is not None}
    create_store(path, plan, adapters=saved).close()


def load_for(
    base: str | Path | Base,
    kind: Kind,
    rows: Sequence[Rows],
    dtype: str,
    device: str,
    seed: int,
    say: Say,
    precision: str = "float",
) -> Base:
    """Return the base; an encoder's head is drawn anew, unless all tasks have the labels that it was saved with.

    Raises:
        SettingsError: If a loaded encoder has a head of its own, and the tasks other labels.
    """
    sets = list(dict.fromkeys(one.labels for one in rows))
    if isinstance(base, Base):
        if base.kind == "encoder" and not base.head_modules:
            for one in rows:
                in_order_of(base, one)
        return base
    placed: Any = {"dtype": dtype, "device": device, "precision": precision, "seed": seed, "say": say}
    if kind != "encoder":
        return load_base(base, kind=kind, **placed)
    loaded = load_base(base, kind=kind, labels=sets[0], **placed)
    if len(sets) > 1 and not loaded.head_modules:  # it was saved with the first labels, which are not those of all
        loaded = load_base(base, kind=kind, labels=sets[1], **placed)
    return loaded


def _specs(tasks: Sequence[TaskSpec | Mapping[str, Any]]) -> list[TaskSpec]:
    """Return the tasks as specs, their names checked."""
    given = [task for task in tasks if not isinstance(task, TaskSpec)]
    found = [Found(task, f"task {number}") for number, task in enumerate(tasks, 1) if not isinstance(task, TaskSpec)]
    if given or not tasks:
        checked = iter(check_tasks("Training tasks", found))
        specs = [task if isinstance(task, TaskSpec) else next(checked) for task in tasks]
    else:
        specs = [task for task in tasks if isinstance(task, TaskSpec)]
    named = [(spec.name, spec.origin or f"task {number}") for number, spec in enumerate(specs, 1)]
    raise_faults("Training tasks", name_faults(named))
    return specs


def _say_recipe(
    specs: Sequence[TaskSpec],
    each: Sequence[Settings],
    datasets: Sequence[Dataset],
    base: Base,
    given: Mapping[str, Any],
    say: Say,
) -> None:
    """Say once, of all tasks, that there is a recipe for so few rows."""
    told = {
        spec.name: few_rows_note(dataset, own, base)
        for spec, dataset, own in zip(specs, datasets, each, strict=True)
        if not (given.get("recipe") or spec.settings.get("recipe"))
    }
    few = [name for name, note in told.items() if note]
    if few:
        others = f" So it is with {', '.join(few[1:9])}{', …' if len(few) > 9 else ''}." if few[1:] else ""
        say(f"{few[0]}: {told[few[0]]}{others}")


def _shared_stage(
    datasets: Sequence[Dataset], kind: Kind, sampling: Sampling, steps: int, settings: Mapping[str, Any]
) -> SharedStage | None:
    """Return what the shared row learns from; None without one."""
    if steps < 0:
        raise SettingsError(f"Training tasks: shared_steps is {steps}, expected a number of at least 0.")
    if steps == 0:
        return None
    sets = {dataset.encoding.labels for dataset in datasets}
    if kind == "encoder" and len(sets) > 1:
        raise SettingsError(
            f"Training tasks: a shared stage of an encoder needs one head, and the tasks have {len(sets)} different "
            "label sets. Leave --shared-steps out, or give a language model as the base."
        )
    alone = {"max_steps": steps, "epochs": 1, "class_weights": False, "patience": 0}
    own = settings_for(kind, **{**settings, **alone})
    drawn = draw_shared([dataset.train for dataset in datasets], steps * own.batch_size, sampling, own.seed)
    return SharedStage(drawn, own)


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
    return [start if spec.start is None else spec.start for spec in specs]


def _eval(spec: TaskSpec) -> str | None:
    return None if spec.eval is None else data_name(spec.eval, spec.name)


def _clear(folder: Path, names: Iterable[str]) -> None:
    """Remove the adapters that are in the way of this run's."""
    for name in names:
        for file in (*ADAPTER_FILES, "README.md"):
            (folder / name / file).unlink(missing_ok=True)
