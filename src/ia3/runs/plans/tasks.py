"""Many adapters in one run: from task specs to a folder with an adapter's folder for each.

OUT/run.jsonl, OUT/curves.png, OUT/checkpoints/    the run
OUT/<name>/                                        each task's adapter
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from ia3.adapters.folder import load_adapter
from ia3.adapters.store import create_store
from ia3.bases.loading import Base
from ia3.core.sites import Plan
from ia3.errors import RunError, SettingsError
from ia3.report.many_plots import draw_tasks
from ia3.runs.drafts import Draft
from ia3.runs.folder import ADAPTER_FILES, CURVES, RUN_LOG, check_folder
from ia3.runs.prepare import hold_out_all, make_tasks, read_drafts
from ia3.runs.request import Request, RunOptions, request_of
from ia3.runs.results import RunResult, TaskResult
from ia3.runs.run_base import settled
from ia3.runs.saving import RunTask
from ia3.runs.setup import SharedStage
from ia3.runs.task_specs import TaskSpec, specs_of
from ia3.runs.training_run import check_batches, trained
from ia3.runs.watch import Say
from ia3.starts.packaged import AUTO, NONE
from ia3.training.records import read_events
from ia3.training.sampling import Sampling, draw_shared
from ia3.training.settings import settings_for


def train_tasks(
    tasks: Sequence[TaskSpec | Mapping[str, Any]],
    base: str | Path | Base,
    output: str | Path,
    **options: Unpack[TasksOptions],
) -> RunResult:
    """Train an adapter for each task, all in one run, and write each into a folder of its name.

    Args:
        tasks: Each a `TaskSpec` or a mapping with its keys (`name`, `table`, …, `settings`). What a task does not say
            it has from the options.
        base: Name, folder, hub id or GGUF file of the base, or a loaded one.
        output: Folder of the run.
        options: See `TasksOptions`, and settings by name (`Settings`).

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
    turns, left = turns_of(options)
    return train_specs(request_of(base, output, left, without=("eval_source",)), specs_of(tasks), turns)


class TasksOptions(RunOptions, total=False):
    """Keywords of a run of several tasks, besides those of every run and the settings.

    Attributes:
        sampling: How often a task has its turn: `equal`, `proportional` to its steps, or by `temperature`.
        temperature: With `temperature`: 1 is proportional, the higher the more equal.
        batches: `mixed`, or `apart` for one task each: slower, in the same bits as training alone with
            the same settings.
        shared_steps: Steps in which one row learns from all tasks first; each then begins with its numbers, and that
            one with `start`.
        store: File of a packed store that holds every adapter at the end, beside the folders.
    """

    sampling: str
    temperature: float
    batches: str
    shared_steps: int
    store: str | Path | None


@dataclass(frozen=True)
class Turns:
    """How several tasks share a run; names and meanings are those of `TasksOptions`."""

    sampling: str = "equal"
    temperature: float = 2.0
    batches: str = "mixed"
    shared_steps: int = 0
    store: str | Path | None = None


def turns_of(options: TasksOptions) -> tuple[Turns, Mapping[str, Any]]:
    """Return what several tasks share a run by, and the options of every run."""
    own = {one.name for one in fields(Turns)}
    turns = Turns(**{name: value for name, value in options.items() if name in own})  # type: ignore[arg-type]
    return turns, {name: value for name, value in options.items() if name not in own}


def train_specs(request: Request, specs: Sequence[TaskSpec], turns: Turns) -> RunResult:
    """Train tasks whose specs are checked."""
    sampling = Sampling(turns.sampling, turns.temperature)
    began, say, folder = request.watch.now(), request.say, request.output
    is_free = request.resume or request.overwrite
    check_batches(turns.batches)
    check_folder(folder, resume=request.resume, overwrite=request.overwrite)
    _check_task_folders(folder, [spec.name for spec in specs], is_free=is_free)
    packed = None if turns.store is None else _check_store(turns.store, is_free=is_free)
    _check_starts(request, specs, turns.shared_steps)
    specs = [spec.as_read(request.delimiter, request.quotes) for spec in specs]
    start = NONE if request.start is None and turns.shared_steps > 0 else request.start  # then no task chooses one
    request = replace(request, delimiter=None, quotes=None, start=start)
    kind, drafts = read_drafts(request, specs, follows_shared=turns.shared_steps > 0)
    drafts = hold_out_all(drafts, kind)
    loaded, tasks = make_tasks(request, kind, drafts, folder_of=lambda name: folder / name, has_own_heads=True)
    _tell(tasks, say)
    stage = _shared_stage(request, drafts, tasks, loaded, turns.shared_steps, sampling)
    with trained(request, loaded, tasks, batches=turns.batches, stage=stage, sampling=sampling) as (
        run,
        outcomes,
    ):
        results = tuple(
            TaskResult.of(task, outcome, measured, folder=_saved_folder(task))
            for task, outcome, measured in zip(tasks, outcomes, run.finish(outcomes), strict=True)
        )
        draw_tasks(read_events(folder / RUN_LOG), [task.name for task in tasks], folder / CURVES)
        if packed is not None and not any(one.is_stopped for one in outcomes):
            saved = {one.name: one.folder for one in results if one.folder is not None}
            _pack(packed, saved, run.setup.attachment.bank.plan, overwrite=is_free)
    return RunResult(folder, results, (request.watch.now() - began).total_seconds())


def _check_starts(request: Request, specs: Sequence[TaskSpec], shared_steps: int) -> None:
    """Raise a SettingsError if tasks that begin with a shared stage's numbers are to have starts of their own."""
    own = [spec.name for spec in specs if spec.start is not None]
    if own and shared_steps > 0:
        raise SettingsError(
            f"Training tasks: {', '.join(map(repr, own[:8]))} has a start of its own, and with --shared-steps every "
            "task begins with the shared adapter. Give --start, which that one begins with, or leave one of them out."
        )
    if request.start == AUTO and shared_steps > 0:
        raise SettingsError(
            "Training tasks: start is 'auto', which chooses one for each task, and with --shared-steps every task "
            "begins with the shared adapter. Name the start that this one begins with, or leave one of them out."
        )


def _shared_stage(
    request: Request, drafts: Sequence[Draft], tasks: Sequence[RunTask], base: Base, steps: int, sampling: Sampling
) -> SharedStage | None:
    """Return what the shared row learns from, and begins with; None without one."""
    if steps < 0:
        raise SettingsError(f"Training tasks: shared_steps is {steps}, expected a number of at least 0.")
    if steps == 0:
        return None
    sets = {task.dataset.encoding.labels for task in tasks}
    if base.kind == "encoder" and len(sets) > 1:
        raise SettingsError(
            f"Training tasks: a shared stage of an encoder needs one head, and the tasks have {len(sets)} different "
            "label sets. Leave --shared-steps out, or give a language model as the base."
        )
    taken = {} if "recipe" in drafts[0].spec.settings else {"recipe": drafts[0].given.get("recipe")}
    alone = {"max_steps": steps, "epochs": 1, "class_weights": False, "patience": 0, "judge": False}
    start = tasks[0].start
    given = {**request.settings, **taken, **alone}
    own = settled(settings_for(base.kind, has_start=start is not None, **given), base)
    if own.losses == "auto":  # no task's rows are those of all
        own = replace(own, losses="lm")
    drawn = draw_shared([task.dataset.train for task in tasks], steps * own.batch_size, sampling, own.seed)
    return SharedStage(drawn, own, start)


def _tell(tasks: Sequence[RunTask], say: Say) -> None:
    """Say what each task has, and what was decided for the user."""
    every = [dict.fromkeys((*task.dataset.rows.notes, *task.dataset.notes)) for task in tasks]
    common = [note for note in every[0] if all(note in notes for notes in every)] if len(every) > 1 else []
    for note in common:
        say(note)
    for task, notes in zip(tasks, every, strict=True):
        dataset, labels = task.dataset, task.dataset.encoding.labels
        own = dataset.encoding.choices_column is not None
        what = f"{len(labels)} labels" if labels else "choices of each row" if own else "free text"
        say(f"{task.name}: {len(dataset.train)} rows to train on, {len(dataset.held_out)} held out, {what}")
        for note in notes:
            if note not in common and "The answers are" not in note and "held out for evaluation" not in note:
                say(f"{task.name}: {note}")


def _saved_folder(task: RunTask) -> Path | None:
    return task.folder if task.folder is not None and (task.folder / ADAPTER_FILES[0]).exists() else None


def _check_task_folders(folder: Path, names: Iterable[str], *, is_free: bool) -> None:
    """Raise a RunError if an adapter lies where one is to go; one that may be replaced is none."""
    used = [name for name in names if any((folder / name / file).exists() for file in ADAPTER_FILES)]
    files = [name for name in names if (folder / name).is_file()]
    if files:
        raise RunError(f"Preparing {folder}: {', '.join(map(repr, files))} is a file, expected room for a folder.")
    if used and not is_free:
        raise RunError(
            f"Preparing {folder}: it holds the adapters {', '.join(map(repr, used[:8]))} already. Give --overwrite to "
            "replace them, or another --output."
        )


def _check_store(store: str | Path, *, is_free: bool) -> Path:
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


def _pack(path: Path, folders: Mapping[str, Path], plan: Plan, *, overwrite: bool) -> None:
    """Put adapters, by name, into a new packed store."""
    if overwrite:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    create_store(path, plan, adapters={name: partial(load_adapter, one) for name, one in folders.items()}).close()
