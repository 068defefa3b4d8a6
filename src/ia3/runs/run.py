"""A run under way: it trains one or many tasks, keeps its record, and writes each adapter whenever it is the best.

What is trained on what is hashed, so that a resumed run is the same run. This file knows folders and records; reading
tables and loading bases is done before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ia3.adapters.record import describe_base
from ia3.bases.loading import Base
from ia3.data.encoding import Encoded
from ia3.errors import RunError
from ia3.inference.asking import TOKEN_BUDGET
from ia3.inference.evaluate import HeldOut, evaluate_together
from ia3.inference.metrics import Metrics, MetricsError
from ia3.names import RECORD_FILE
from ia3.report.plots import draw_confusion, draw_curves
from ia3.report.reliability_plot import draw_reliability
from ia3.runs.fitted_head import fit_head
from ia3.runs.folder import CHECKPOINTS, CONFUSION, CURVES, RELIABILITY, RUN_LOG
from ia3.runs.identity import (
    differences,
    differences_of_place,
    digest_of,
    hash_of,
    ids_of,
    parts_of_base,
    parts_of_dataset,
    parts_of_settings,
    place,
)
from ia3.runs.saving import Progressed, RunTask, save_task
from ia3.runs.setup import Setup
from ia3.starts.start import part_of_start
from ia3.training.checkpoint import Checkpoint, newest_checkpoint, remove_checkpoints, save_checkpoint
from ia3.training.loop import train_together
from ia3.training.records import Event, RunLog, keep_events, read_events
from ia3.training.settings import Settings
from ia3.training.tasks import Callbacks, Evaluation, Outcome, Task

K = TypeVar("K", bound=Hashable)
ADAPTER = "default"  # name of the row of the only task, PEFT's name for an only adapter
SHARED = "shared stage"  # name of the row that is trained on all tasks first
_MOST_DRAWN = 100  # labels of a confusion matrix; 1000 would be a picture of 40,000 by 40,000 points


def measure_each(
    base: Base,
    parts: Mapping[K, HeldOut],
    token_budget: int = TOKEN_BUDGET,
    check: Callable[[MetricsError], None] = lambda error: None,
) -> dict[K, Metrics]:
    """Return the metrics of rows that are measured together; one without numbers does not take the others' away.

    Args:
        base: The base, with a bank.
        parts: The rows.
        token_budget: Tokens of a batch.
        check: Called with what is wrong with one that has no numbers, and is left out.
    """
    if not parts:
        return {}
    try:
        found = evaluate_together(base, [*parts.values()], token_budget)
    except MetricsError as error:
        check(error)
        if len(parts) == 1:
            return {}
        alone = [measure_each(base, {name: part}, token_budget, check) for name, part in parts.items()]
        return {name: metrics for one in alone for name, metrics in one.items()}
    return dict(zip(parts, found, strict=True))


class Run:
    """One run; `train`, then `finish`, then `close`."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        base, attachment = setup.base, setup.attachment
        measured = describe_base(base.model, head_modules=base.head_modules)
        for task in setup.tasks:  # measured once, for every time that one is written
            attachment.bank.describe(task.adapter, {"base": measured})
        self.base_facts = (
            measured
            | {"name": base.name if base.revision else base.given}
            | {"kind": base.kind, "dtype": str(base.model.dtype).removeprefix("torch.")}
        )
        self.metrics: dict[str, Metrics] = {}  # by adapter: of the numbers that the row has now
        self.saved_metrics: dict[str, Metrics | None] = {}  # of its best numbers so far
        self._at: dict[str, tuple[int, int]] = {}  # step and epoch of each adapter
        self._tasks = {task.adapter: task for task in setup.tasks}

    def train(self, *, resume: bool) -> tuple[Outcome, ...]:
        """Train with the folder as the record.

        Args:
            resume: Go on from the folder's newest checkpoint.

        Returns:
            How each task ended.

        Raises:
            RunError: If there is nothing to resume, or it is another run.
        """
        folder, watch = self.setup.folder, self.setup.watch
        checkpoint = self._checkpoint() if resume else None
        done = self._take_up(checkpoint)
        has_start = any(event["event"] == "start" for event in read_events(folder / RUN_LOG))
        with RunLog(folder / RUN_LOG) as log:

            def tell(event: Event) -> None:
                adapter = event.get("task", ADAPTER)
                self._at[adapter] = event["step"], event.get("epoch", self._at.get(adapter, (0, 0))[1])
                log.write(event)
                watch.on_event(event)

            def keep(state: Checkpoint) -> None:
                log.sync()
                save_checkpoint(folder / CHECKPOINTS, state)

            start = self._start_event()
            if not has_start:
                log.write(start)
            watch.on_event(start | {"step": done})
            callbacks = Callbacks(
                evaluate=self._evaluate,
                before_kept=self._fit_head,
                on_event=tell,
                on_best=self._save,
                on_checkpoint=keep,
                should_stop=watch.should_stop,
                checkpoint_seconds=watch.checkpoint_seconds,
            )
            outcomes = train_together(
                self._trained(),
                callbacks,
                run=self.identity,
                resume=checkpoint,
                sampling=self.setup.sampling,
                is_mixed=self.setup.is_mixed,
            )
            end = self._end_event(outcomes)
            log.write(end)
            watch.on_event(end)
        return outcomes[-len(self.setup.tasks) :]

    def _take_up(self, checkpoint: Checkpoint | None) -> int:
        """Make the record that of a checkpoint, and return the number of steps that are done."""
        states = {}
        if checkpoint is not None:
            states = {t.adapter: s for (t, _), s in zip(self._trained(), checkpoint.tasks, strict=True)}
        for adapter, state in states.items():
            per_epoch = 1 if adapter == SHARED else self._steps_per_epoch(self._tasks[adapter])
            self._at[adapter] = state.step, math.ceil(state.step / per_epoch)
        done = sum(state.step for state in states.values())
        # that a task was given up is told at the step it did not take
        of_tasks = {adapter: state.step + bool(state.fault) for adapter, state in states.items()}
        keep_events(self.setup.folder / RUN_LOG, step=None if checkpoint is None else done, of_tasks=of_tasks)
        return done

    def finish(self, outcomes: Sequence[Outcome]) -> list[Metrics | None]:
        """Draw the pictures of an only task, and return each saved adapter's metrics."""
        tasks = self.setup.tasks
        unknown = [  # they were saved before the run was resumed; the rows hold their best epoch again
            task.adapter
            for task, outcome in zip(tasks, outcomes, strict=True)
            if outcome.best_epoch and self.saved_metrics.get(task.adapter) is None
        ]
        self._evaluate(unknown)
        self.saved_metrics |= {adapter: self.metrics[adapter] for adapter in unknown if adapter in self.metrics}
        for task, outcome in zip(tasks, outcomes, strict=True):
            is_unmeasured = outcome.is_stopped and task.settings.eval_strategy == "end"  # stopped before its only look
            if is_unmeasured and task.adapter in unknown and task.folder is not None:
                self.write_best(task, outcome, task.folder)
        metrics = [self.saved_metrics.get(task.adapter) for task in tasks]
        if not self.setup.is_named:
            self._draw(metrics[0])
        return metrics

    def close(self, outcomes: Sequence[Outcome]) -> None:
        """Drop the checkpoints of a run that has ended, when all that it gives is on disk."""
        if not any(outcome.is_stopped for outcome in outcomes):
            remove_checkpoints(self.setup.folder / CHECKPOINTS)

    def _draw(self, metrics: Metrics | None) -> None:
        folder = self.setup.folder
        events = read_events(folder / RUN_LOG)
        steps = [event for event in events if event["event"] == "step"]
        if steps:
            draw_curves(steps, [event for event in events if event["event"] == "epoch"], folder / CURVES)
        if metrics is not None:
            self.draw_metrics(metrics)

    def draw_metrics(self, metrics: Metrics) -> None:
        """Draw what was taken for what, and how far probabilities come true with and without the temperature."""
        folder = self.setup.folder
        if len(metrics.labels) > _MOST_DRAWN:
            self.setup.watch.say(
                f"The confusion of {len(metrics.labels)} labels is not drawn; {RECORD_FILE} has its numbers."
            )
        elif metrics.labels:
            draw_confusion(metrics.labels, metrics.confusion, folder / CONFUSION)
        if metrics.scaling is not None:
            draw_reliability(metrics.scaling.bins_after, folder / RELIABILITY, metrics.scaling.bins_before)

    # -- the same run -------------------------------------------------------------------------------------------------

    @cached_property
    def identity(self) -> str:
        """A hash of what makes two runs the same run: base, rows, words and settings."""
        return digest_of(self._parts)

    @cached_property
    def _parts(self) -> dict[str, Any]:
        setup = self.setup
        base = parts_of_base(self.base_facts, setup.attachment.bank.plan)
        datasets = {id(task.dataset): task.dataset for task in setup.tasks}
        told = {number: parts_of_dataset(dataset) for number, dataset in datasets.items()}
        tasks = {
            t.name: told[id(t.dataset)] | parts_of_settings(t.asked or t.settings) | part_of_start(t.start)
            for t in setup.tasks
        }
        if not setup.is_named:
            return base | tasks[""]
        parts: dict[str, Any] = {"sampling": setup.sampling.by, "temperature": setup.sampling.temperature}
        parts |= {"batches": "mixed" if setup.is_mixed else "apart", "shared stage": None}
        if setup.shared is not None:
            settings = parts_of_settings(setup.shared.settings)
            examples = {"examples": hash_of(map(ids_of, setup.shared.train))}
            parts["shared stage"] = {**settings, **examples, **part_of_start(setup.shared.start)}
        return base | parts | {"tasks": tasks}

    def _checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint to go on from, or None to start at the first step of the same run."""
        folder = self.setup.folder
        events = read_events(folder / RUN_LOG)
        start = next((event for event in events if event["event"] == "start"), None)
        if start is not None and start["run"] != self._parts:
            raise RunError(
                f"Resuming {folder}: this is another run: {differences(start['run'], self._parts)}. Give the same "
                "table and settings, or --overwrite to start again."
            )
        checkpoint = newest_checkpoint(folder / CHECKPOINTS)
        if checkpoint is None:
            self.setup.watch.say("The run stopped before its first checkpoint; it starts from the first step.")
            return None
        if checkpoint.run != self.identity:
            raise RunError(f"Resuming {folder}: its checkpoint is of another run. Give --overwrite to start again.")
        self.setup.watch.say(f"Resuming after step {sum(task.step for task in checkpoint.tasks)}.")
        changed = [] if start is None else differences_of_place(start)
        if changed:
            self.setup.watch.say(f"The run began elsewhere ({'; '.join(changed)}): its last bits may differ.")
        return checkpoint

    # -- what is trained ----------------------------------------------------------------------------------------------

    def _trained(self) -> list[tuple[Task, Settings]]:
        """Return the tasks of the loop, the shared stage first."""
        setup = self.setup
        shared = (
            [] if setup.shared is None else [(self._task(SHARED, SHARED, setup.shared.train, 0), setup.shared.settings)]
        )
        source = None if setup.shared is None else SHARED
        return [
            *shared,
            *(
                (
                    replace(
                        self._task(t.name, t.adapter, t.dataset.train, len(t.dataset.encoding.labels), source),
                        variants=t.dataset.variants,
                    ),
                    t.settings,
                )
                for t in setup.tasks
            ),
        ]

    def _task(self, name: str, adapter: str, train: Iterable[Encoded], choices: int, source: str | None = None) -> Task:
        base = self.setup.base
        return Task(
            attachment=self.setup.attachment,
            adapter=adapter,
            kind=base.kind,
            train=tuple(train),
            pad_id=base.pad_id,
            decoder_start_id=base.decoder_start_id,
            choices=choices,
            name=name,
            starts_from=source,
        )

    def _steps_per_epoch(self, task: RunTask) -> int:
        return task.settings.steps_per_epoch(len(task.dataset.train))

    # -- the record ---------------------------------------------------------------------------------------------------

    def _start_event(self) -> Event:
        setup = self.setup
        total = sum(settings.total_steps(len(task.train)) for task, settings in self._trained())
        start = {
            "event": "start",
            "step": 0,
            "time": setup.watch.now().isoformat(timespec="seconds"),
            "total_steps": total,
            "run": self._parts,
        }
        if setup.is_named:
            return start | {"tasks": {task.name: self._facts(task) for task in setup.tasks}, **place()}
        return start | self._facts(setup.tasks[0]) | place()

    def _facts(self, task: RunTask) -> dict[str, Any]:
        """Return what is told of a task's tables before it is trained."""
        rows = task.dataset.rows
        faults = (*rows.train.faults, *(rows.held_out.faults if rows.held_out else ()))
        return {
            "table": task.table,
            "statistics": task.dataset.report.to_json(),
            "eval_table": task.eval_table,
            "notes": [*rows.notes, *task.dataset.notes],
            "skipped_rows": [str(fault) for fault in faults],
        }

    def _end_event(self, outcomes: Sequence[Outcome]) -> Event:
        is_stopped = any(outcome.is_stopped for outcome in outcomes)
        end: Event = {"event": "end", "step": sum(outcome.steps for outcome in outcomes), "stopped": is_stopped}
        if not self.setup.is_named:
            return end | {"best_epoch": outcomes[0].best_epoch}
        ended = zip(self.setup.tasks, outcomes[-len(self.setup.tasks) :], strict=True)
        return end | {"tasks": {t.name: {"steps": o.steps, "best_epoch": o.best_epoch} for t, o in ended}}

    # -- during the training ------------------------------------------------------------------------------------------

    def _evaluate(self, adapters: Sequence[str]) -> list[Evaluation | None]:
        """Evaluate some adapters on their held-out rows: together, or each for itself as they are trained."""
        measured = {a: self._held_out(self._tasks[a]) for a in adapters if a in self._tasks and self._has_rows(a)}
        groups = (
            [measured] * bool(measured) if self.setup.is_mixed else [{name: part} for name, part in measured.items()]
        )
        budget = min(TOKEN_BUDGET, self.setup.tasks[0].settings.token_budget)
        for name in measured:  # the loop gives one without numbers up
            self.metrics.pop(name, None)
        for group in groups:
            self.metrics |= measure_each(self.setup.base, group, budget, self._check_measured)
        return [self._evaluation(adapter) if adapter in measured else None for adapter in adapters]

    def _fit_head(self, adapter: str) -> None:
        """Fit the head of a row to what it now reads."""
        task, setup = self._tasks.get(adapter), self.setup
        if task is not None and task.settings.fit_head and setup.base.kind == "encoder":
            fit_head(setup.base, setup.attachment, adapter, task.dataset.train)

    def _has_rows(self, adapter: str) -> bool:
        return bool(self._tasks[adapter].dataset.held_out)

    def _check_measured(self, error: MetricsError) -> None:
        """Raise if the only task has no numbers."""
        if not self.setup.is_named:
            step, epoch = self._at.get(ADAPTER, (0, 0))
            raise RunError(f"Evaluating after step {step} (epoch {epoch}): {error}") from error

    def _held_out(self, task: RunTask) -> HeldOut:
        return task.held_out(is_fitted=True, usual=task.usual_temperature(self._at.get(task.adapter, (0, 0))[0]))

    def _evaluation(self, adapter: str) -> Evaluation:
        metrics = self.metrics.get(adapter)
        if metrics is None:
            return Evaluation(math.nan, None)
        loss = metrics.loss if metrics.loss is not None else math.nan
        return Evaluation(loss, metrics.accuracy)

    def _save(self, adapter: str) -> None:
        """Write an adapter as its row now is, where it has a folder of its own."""
        task = self._tasks.get(adapter)
        if task is None:
            return
        self.saved_metrics[adapter] = self.metrics.get(adapter)
        if task.folder is not None:
            self.write(task, task.folder)

    def write(self, task: RunTask, folder: Path) -> None:
        """Write the adapter of a task into a folder."""
        setup, own = self.setup, self._tasks[task.adapter]
        task = replace(task, settings=own.settings, worth=own.worth, asked=own.asked)  # as settled behind the plan
        step, epoch = self._at.get(task.adapter, (0, 0))
        progressed = Progressed(step, epoch, self.saved_metrics.get(task.adapter))
        save_task(task, folder, setup.base, setup.attachment, self.base_facts, progressed, setup.watch.now())

    def write_best(self, task: RunTask, outcome: Outcome, folder: Path) -> None:
        """Write the adapter of a task whose training has ended: its row holds the best epoch again."""
        per_epoch = self._steps_per_epoch(task)
        self._at[task.adapter] = min(outcome.steps, outcome.best_epoch * per_epoch), outcome.best_epoch
        self.write(task, folder)
