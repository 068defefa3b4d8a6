"""Writing one task's adapter as its row now is: PEFT's two files, the record, and the card.

This file knows values and one folder; when an adapter is written is the run's matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ia3.adapters.attached import adapter_of
from ia3.adapters.folder import save_adapter
from ia3.adapters.record import make_record, versions
from ia3.bases.loading import Base
from ia3.core.attach import Attachment
from ia3.inference.evaluate import HeldOut
from ia3.inference.metrics import Metrics
from ia3.inference.recorded import words_to_json
from ia3.names import Ranking
from ia3.report.card import CardFacts, write_card
from ia3.runs.dataset import Dataset
from ia3.runs.judging import Worth
from ia3.starts.start import Start
from ia3.training.recipes import differences_from_paper
from ia3.training.settings import Settings, usual_temperature
from ia3.training.t_few import ranking_for

USUAL = "other tables, for the recipe"  # what a temperature was fitted on where a run has no rows for it
NOT_LEARNED = "training rows that the vectors had not learned"


@dataclass(frozen=True)
class RunTask:
    """One task of a run.

    Attributes:
        name: In events; "" for the only one of a run.
        adapter: Name of its row.
        folder: Where its adapter goes whenever it is the best so far; None keeps it in the run alone.
        dataset: What it learns from.
        settings: How.
        table: What its table is called in the record.
        eval_table: What the table that is evaluated on is called; None for rows held out.
        more: What else its record says.
        start: What its row begins with; None for ones.
        heard: What was said while its start was chosen and its words were settled.
        worth: What its vectors are worth; None where that was not asked.
        asked: Its settings before they were settled by its rows; None where they were not.
    """

    name: str
    adapter: str
    folder: Path | None
    dataset: Dataset
    settings: Settings
    table: str
    eval_table: str | None
    more: Mapping[str, Any] = field(default_factory=dict)
    start: Start | None = None
    heard: tuple[str, ...] = ()
    worth: Worth | None = None
    asked: Settings | None = None

    def held_out(self, **scaling: Any) -> HeldOut:
        """Return the rows that it is measured on; `scaling` as `HeldOut` has it."""
        encoding = self.dataset.encoding
        return HeldOut(
            self.dataset.held_out, encoding.choice_ids, encoding.labels, self.adapter, self.ranking, **scaling
        )

    @property
    def ranking(self) -> Ranking:
        """What its choices are compared by."""
        return ranking_for(self.settings.losses, self.dataset.encoding.kind)

    def usual_temperature(self, step: int) -> float | None:
        """Return the temperature that adapters of its settings usually need.

        Args:
            step: How many steps the adapter has taken.

        Returns:
            None where that is not known: before the last step, where rows held out choose the epoch, without labels,
            and for most settings.
        """
        dataset, settings = self.dataset, self.settings
        has_choice = bool(dataset.held_out) and settings.eval_strategy == "epoch"
        if step < settings.total_steps(len(dataset.train)) or has_choice or not dataset.encoding.labels:
            return None
        if self.worth is not None and self.worth.temperature is not None:
            return self.worth.temperature
        return usual_temperature(settings, dataset.encoding.kind)


@dataclass(frozen=True)
class Progressed:
    """How far a task is when it is written."""

    step: int
    epoch: int
    metrics: Metrics | None  # of the numbers that the row has now


def temperature_note(tasks: Sequence[RunTask]) -> str:
    """Return the sentence that some adapters will have the temperature that is usual for their settings; "" if none.

    Where rows are held out, these move it, and the metrics tell.
    """
    alone = [task for task in tasks if not task.dataset.held_out and not task.settings.judge]
    ends = {task.usual_temperature(task.settings.total_steps(len(task.dataset.train))) for task in alone}
    found = sorted(temperature for temperature in ends if temperature is not None)
    if not found:
        return ""
    spelt = " or ".join(f"{temperature:g}" for temperature in found)
    return (
        f"Probabilities will have the temperature {spelt}, which adapters of such settings usually need; --folds fits "
        "one to your rows."
    )


def save_task(
    task: RunTask,
    folder: Path,
    base: Base,
    attachment: Attachment,
    facts: Mapping[str, Any],
    progressed: Progressed,
    now: datetime,
) -> None:
    """Write the adapter of a task into a folder, over one that is there.

    Args:
        task: The task.
        folder: Where.
        base: The base.
        attachment: Its bank; the row is written as it is.
        facts: What the record says of the base.
        progressed: How far the task is.
        now: The time in the record.
    """
    record = _record(task, facts, progressed, now)
    adapter = replace(adapter_of(attachment, task.adapter), record=record)
    trained = sum(t.numel() for t in (*adapter.vectors.values(), *_trained_head(attachment, task.adapter)))
    card = _card(task, folder, base, progressed, trained)
    save_adapter(adapter, folder, extra_files={"README.md": write_card(card)})


def _trained_head(attachment: Attachment, adapter: str) -> list[Any]:
    held = attachment.bank.snapshot.head(attachment.bank.row(adapter))
    return [] if held is None else list(held.parameters())


def _record(task: RunTask, facts: Mapping[str, Any], progressed: Progressed, now: datetime) -> dict[str, Any]:
    encoding, rows = task.dataset.encoding, task.dataset.rows
    metrics = progressed.metrics
    record = make_record(
        facts,
        data={
            "name": task.table,
            "rows": len(rows.train.examples),
            "fingerprint": rows.train.fingerprint,
            "eval_name": task.eval_table,
            "eval_rows": 0 if rows.held_out is None else len(rows.held_out.examples),
            "eval_duplicates": len(rows.duplicates),
            "eval_fingerprint": None if rows.held_out is None else rows.held_out.fingerprint,
            "skipped_rows": len(rows.train.faults),
            "eval_skipped_rows": 0 if rows.held_out is None else len(rows.held_out.faults),
            "text_column": rows.train.text_column,
            "label_column": rows.train.label_column,
        },
        settings=task.settings.to_json(),
        template=words_to_json(
            encoding.template,
            task.ranking if encoding.choice_ids or encoding.choices_column else None,
            [other.template for other in task.dataset.others],
            encoding.choices_column,
        ),
        labels=encoding.labels or None,
        metrics=None if metrics is None else metrics.to_json(),
        created=now.isoformat(timespec="seconds"),
    )
    differs = differences_from_paper((task.asked or task.settings).to_json(), encoding.kind)
    if task.dataset.others:
        differs = [one for one in differs if one["setting"] != "templates"]
    if metrics is not None and metrics.scaling is not None:
        record["calibration"] = {**metrics.scaling.to_json(), "fitted_on": "rows held out"}
    elif (usual := task.usual_temperature(progressed.step)) is not None:
        worth = task.worth
        count, source = (0, USUAL) if worth is None else (worth.rows, NOT_LEARNED)
        record["calibration"] = {"temperature": usual, "rows": count, "fitted_on": source}
    if task.worth is not None:
        record["worth"] = task.worth.to_json()
    if task.start is not None:
        differs = [one for one in differs if one["setting"] != "start"]
        record["start"] = task.start.to_json()
    record |= {"differs_from_paper": differs} if differs else {}
    record |= {} if task.dataset.search is None else {"template_search": task.dataset.search.to_json()}
    record |= dict(task.more)
    return record | {"max_length": encoding.max_length, "steps": progressed.step, "epoch": progressed.epoch}


def _card(task: RunTask, folder: Path, base: Base, progressed: Progressed, trained: int) -> CardFacts:
    encoding, name = task.dataset.encoding, base.name
    return CardFacts(
        name=folder.resolve().name,
        base_name=name,
        base_hub_id=name if "/" in name and not Path(name).exists() else None,
        base_revision=base.revision,
        kind=base.kind,
        pooling=base.pooling,
        labels=encoding.labels,
        prompt=encoding.template.prompt,
        target=encoding.template.target,
        others=tuple((other.template.prompt, other.template.target) for other in task.dataset.others),
        searched=None if task.dataset.search is None else task.dataset.search.to_json(),
        data_name=task.table,
        rows=len(task.dataset.rows.train.examples),
        fingerprint=task.dataset.rows.train.fingerprint,
        trainable=trained,
        settings=task.settings.to_json(),
        versions=versions(),
        metrics=None if progressed.metrics is None else progressed.metrics.to_json(),
        eval_name=task.eval_table,
        folds=(task.more.get("cross_validation") or {}).get("folds"),
    )
