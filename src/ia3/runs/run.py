"""A run under way: it trains, keeps its record in the folder, and writes the adapter whenever it is the best so far.

What is trained on what is hashed, so that a resumed run is the same run. This file knows folders and records; reading
tables and loading bases is done before it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ia3.adapters.attached import adapter_of
from ia3.adapters.folder import save_adapter
from ia3.adapters.record import RECORD_FILE, describe_base, make_record, versions
from ia3.bases.loading import Base
from ia3.core.attach import Attachment
from ia3.data.encoding import Encoded
from ia3.data.examples import Table, ascii_safe
from ia3.errors import RunError
from ia3.inference.evaluate import TOKEN_BUDGET, evaluate_encoded
from ia3.inference.metrics import Metrics, MetricsError
from ia3.report.card import CardFacts, write_card
from ia3.report.plots import draw_confusion, draw_curves
from ia3.runs.dataset import Dataset
from ia3.runs.folder import CHECKPOINTS, CONFUSION, CURVES, RECORD
from ia3.training.checkpoint import Checkpoint, newest_checkpoint, remove_checkpoints, save_checkpoint
from ia3.training.loop import Callbacks, Evaluation, Outcome, Task, train_loop
from ia3.training.records import Event, RunLog, finite, keep_events, read_events
from ia3.training.settings import Settings

ADAPTER = "default"  # name of the row in training, PEFT's name for an only adapter
_MOST_DRAWN = 100  # labels of a confusion matrix; 1000 would be a picture of 40,000 by 40,000 points


@dataclass(frozen=True)
class Setup:
    """Everything a run needs, made before it starts."""

    folder: Path
    base: Base
    attachment: Attachment
    dataset: Dataset
    settings: Settings
    table: str  # what the table is called in the record
    eval_table: str | None
    say: Callable[[str], None]
    now: Callable[[], datetime]
    checkpoint_seconds: float  # between checkpoints within an epoch


class Run:
    """One run; `train`, then `finish`."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.base_facts = describe_base(
            setup.base.model, name=setup.base.given, head_modules=setup.base.head_modules
        ) | {"kind": setup.base.kind, "dtype": str(setup.base.model.dtype).removeprefix("torch.")}
        self.metrics: Metrics | None = None  # of the numbers that the row has now
        self.saved_metrics: Metrics | None = None  # of the adapter in the folder
        self.step = 0
        self.epoch = 0

    def train(self, on_event: Callable[[Event], None], should_stop: Callable[[], bool], *, resume: bool) -> Outcome:
        """Train with the folder as the record.

        Args:
            on_event: Called with each event of the record.
            should_stop: Asked before every step.
            resume: Go on from the folder's newest checkpoint.

        Raises:
            RunError: If there is nothing to resume, or it is another run.
        """
        folder = self.setup.folder
        checkpoint = self._checkpoint() if resume else None
        keep_events(folder / RECORD, step=None if checkpoint is None else checkpoint.step)
        has_start = any(event["event"] == "start" for event in read_events(folder / RECORD))
        with RunLog(folder / RECORD) as log:

            def tell(event: Event) -> None:
                self.step, self.epoch = event["step"], event.get("epoch", self.epoch)
                log.write(event)
                on_event(event)

            def keep(state: Checkpoint) -> None:
                log.sync()
                save_checkpoint(folder / CHECKPOINTS, state)

            start = self._start_event()
            if not has_start:
                log.write(start)
            if checkpoint is not None:
                self.step = checkpoint.step
                self.epoch = math.ceil(self.step / self.setup.settings.steps_per_epoch(len(self.setup.dataset.train)))
            on_event(start | {"step": self.step})
            callbacks = Callbacks(
                evaluate=self._evaluate,
                on_event=tell,
                on_best=self._save,
                on_checkpoint=keep,
                should_stop=should_stop,
                checkpoint_seconds=self.setup.checkpoint_seconds,
            )
            outcome = train_loop(self._task(), self.setup.settings, callbacks, run=self.identity, resume=checkpoint)
            tell(
                {
                    "event": "end",
                    "step": outcome.steps,
                    "stopped": outcome.is_stopped,
                    "best_epoch": outcome.best_epoch,
                }
            )
        return outcome

    def finish(self, outcome: Outcome) -> Metrics | None:
        """Draw the pictures, drop a finished run's checkpoints, and return the saved adapter's metrics."""
        folder = self.setup.folder
        events = read_events(folder / RECORD)
        steps = [event for event in events if event["event"] == "step"]
        if steps:
            draw_curves(steps, [event for event in events if event["event"] == "epoch"], folder / CURVES)
        if outcome.best_epoch and self.saved_metrics is None:  # it was saved before the run was resumed
            self._evaluate()  # the row holds the best epoch again
            self.saved_metrics = self.metrics
        metrics = self.saved_metrics
        if metrics is not None and len(metrics.labels) > _MOST_DRAWN:
            self.setup.say(
                f"The confusion of {len(metrics.labels)} labels is not drawn; {RECORD_FILE} has its numbers."
            )
        elif metrics is not None and metrics.labels:
            draw_confusion(metrics.labels, metrics.confusion, folder / CONFUSION)
        if not outcome.is_stopped:
            remove_checkpoints(folder / CHECKPOINTS)
        return metrics

    @cached_property
    def identity(self) -> str:
        """A hash of what makes two runs the same run: base, rows, words and settings."""
        return hashlib.sha256(json.dumps(self._parts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _parts(self) -> dict[str, Any]:
        rows, encoding = self.setup.dataset.rows, self.setup.dataset.encoding
        plan = self.setup.attachment.bank.plan
        parts = {
            "base": self.base_facts["fingerprint"],
            "kind": self.base_facts["kind"],
            "dtype": self.base_facts["dtype"],
            "sites": f"{len(plan.sites)} sites {_hash(repr(site).encode() for site in plan.sites)}",
            "rows": _rows_in_words(rows.train),
            "eval rows": None if rows.held_out is None else _rows_in_words(rows.held_out),
            "labels": rows.labels,
            **encoding.template.to_json(),
            "max_length": encoding.max_length,
            _TOKEN_IDS: _hash(map(_ids, (*self.setup.dataset.train, *self.setup.dataset.held_out))),
            **self.setup.settings.to_json(),
        }
        return {name: finite(value) for name, value in parts.items()}

    def _checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint to go on from, or None to start at the first step of the same run."""
        folder = self.setup.folder
        events = read_events(folder / RECORD)
        start = next((event for event in events if event["event"] == "start"), None)
        if start is not None and start["run"] != self._parts:
            raise RunError(
                f"Resuming {folder}: this is another run: {_differences(start['run'], self._parts)}. Give the same "
                "table and settings, or --overwrite to start again."
            )
        checkpoint = newest_checkpoint(folder / CHECKPOINTS)
        if checkpoint is None:
            self.setup.say("The run stopped before its first checkpoint; it starts from the first step.")
            return None
        if checkpoint.run != self.identity:
            raise RunError(f"Resuming {folder}: its checkpoint is of another run. Give --overwrite to start again.")
        self.setup.say(f"Resuming after step {checkpoint.step}.")
        changed = [] if start is None else _differences_of_place(start)
        if changed:
            self.setup.say(f"The run began elsewhere ({'; '.join(changed)}): its last bits may differ.")
        return checkpoint

    def _task(self) -> Task:
        base, dataset = self.setup.base, self.setup.dataset
        return Task(
            attachment=self.setup.attachment,
            adapter=ADAPTER,
            kind=base.kind,
            train=dataset.train,
            pad_id=base.pad_id,
            decoder_start_id=base.decoder_start_id,
            choices=len(dataset.encoding.labels),
        )

    def _start_event(self) -> Event:
        setup, rows = self.setup, self.setup.dataset.rows
        faults = (*rows.train.faults, *(rows.held_out.faults if rows.held_out else ()))
        return {
            "event": "start",
            "step": 0,
            "time": setup.now().isoformat(timespec="seconds"),
            "total_steps": setup.settings.total_steps(len(setup.dataset.train)),
            "run": self._parts,
            "table": setup.table,
            "statistics": setup.dataset.report.to_json(),
            "eval_table": setup.eval_table,
            "notes": [*rows.notes, *setup.dataset.notes],
            "skipped_rows": [str(fault) for fault in faults],
            **_place(),
        }

    def _evaluate(self) -> Evaluation | None:
        setup, encoding = self.setup, self.setup.dataset.encoding
        if not setup.dataset.held_out:
            return None
        try:
            self.metrics = evaluate_encoded(
                setup.base.model,
                setup.base.kind,
                setup.dataset.held_out,
                encoding.choice_ids,
                encoding.labels,
                pad_id=setup.base.pad_id,
                decoder_start_id=setup.base.decoder_start_id,
                adapter=ADAPTER,
                token_budget=min(TOKEN_BUDGET, setup.settings.token_budget),
            )
        except MetricsError as error:
            raise RunError(f"Evaluating after step {self.step} (epoch {self.epoch}): {error}") from error
        loss = self.metrics.loss if self.metrics.loss is not None else math.nan
        return Evaluation(loss, self.metrics.accuracy if encoding.labels else None)

    def _save(self) -> None:
        """Write the adapter as the row now is."""
        self.saved_metrics = self.metrics
        adapter = replace(adapter_of(self.setup.attachment, ADAPTER), record=self._record())
        save_adapter(adapter, self.setup.folder, extra_files={"README.md": write_card(self._card())})

    def _record(self) -> dict[str, Any]:
        setup, encoding = self.setup, self.setup.dataset.encoding
        rows = setup.dataset.rows
        record = make_record(
            self.base_facts,
            data={
                "name": setup.table,
                "rows": len(rows.train.examples),
                "fingerprint": rows.train.fingerprint,
                "eval_name": setup.eval_table,
                "eval_rows": 0 if rows.held_out is None else len(rows.held_out.examples),
                "eval_fingerprint": None if rows.held_out is None else rows.held_out.fingerprint,
                "skipped_rows": len(rows.train.faults),
                "eval_skipped_rows": 0 if rows.held_out is None else len(rows.held_out.faults),
                "text_column": rows.train.text_column,
                "label_column": rows.train.label_column,
            },
            settings=setup.settings.to_json(),
            template=encoding.template.to_json(),
            labels=encoding.labels or None,
            metrics=None if self.metrics is None else self.metrics.to_json(),
            created=setup.now().isoformat(timespec="seconds"),
        )
        return record | {"max_length": encoding.max_length, "steps": self.step, "epoch": self.epoch}

    def _card(self) -> CardFacts:
        setup, encoding = self.setup, self.setup.dataset.encoding
        name = setup.base.name
        return CardFacts(
            name=setup.folder.resolve().name,
            base_name=name,
            base_hub_id=name if "/" in name and not Path(name).exists() else None,
            kind=setup.base.kind,
            labels=encoding.labels,
            prompt=encoding.template.prompt,
            target=encoding.template.target,
            data_name=setup.table,
            rows=len(setup.dataset.rows.train.examples),
            fingerprint=setup.dataset.rows.train.fingerprint,
            trainable=sum(p.numel() for p in setup.attachment.bank.parameters()),
            settings=setup.settings.to_json(),
            versions=versions(),
            metrics=None if self.metrics is None else self.metrics.to_json(),
            eval_name=setup.eval_table,
        )


_TOKEN_IDS = "token ids (other columns, or another tokenizer)"
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    told = [name for name in names if name != _TOKEN_IDS] or names  # what changed those stands there already
    return ", ".join(f"{name} was {_short(old.get(name))} and is {_short(new.get(name))}" for name in told)


def _short(value: Any) -> str:
    text = _DIGEST.sub(lambda match: match[0][:12], json.dumps(value, ensure_ascii=False))
    return ascii_safe(text if len(text) <= 60 else text[:59] + "…")


def _place() -> dict[str, Any]:
    """Return what the last bits of a run depend on beside what is trained on what."""
    return {"versions": versions(), "threads": torch.get_num_threads()}


def _differences_of_place(start: Mapping[str, Any]) -> list[str]:
    old = {**(start.get("versions") or {}), "threads": start.get("threads")}
    new = {**versions(), "threads": torch.get_num_threads()}
    return [f"{name} {old.get(name)}, now {value}" for name, value in new.items() if old.get(name) != value]


def _rows_in_words(table: Table) -> str:
    return f"{len(table.examples)} rows {table.fingerprint}"


def _ids(encoded: Encoded) -> bytes:
    """Return what the base reads and answers of one example, apart from every other."""
    numbers = (len(encoded.prompt_ids), *encoded.prompt_ids, len(encoded.target_ids), *encoded.target_ids)
    return array("q", (*numbers, encoded.choice)).tobytes()


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
