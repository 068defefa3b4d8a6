"""What a task of a run is asked to be: its table, columns, template and settings, checked before anything is read.

All faults of all tasks are told at once, each with where the task stands. This file knows plain values; it knows
nothing of the formats of task files.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ia3.data.examples import quote
from ia3.data.frames import is_frame
from ia3.data.sources import is_rereadable
from ia3.data.table_files import TableFile, as_read
from ia3.errors import SettingsError, near_matches
from ia3.names import ANSWERS, BASE_NAME
from ia3.runs.folder import CHECKPOINTS, CONFUSION, CURVES, OWN_FILES
from ia3.runs.task_templates import template_faults, templates_in
from ia3.runs.wording import read_words
from ia3.starts.packaged import AUTO, NONE, start_names
from ia3.training.setting import SHARE, at_least, one_of
from ia3.training.settings import OF_THE_RUN, setting_fault

KEYS = (
    "name", "table", "delimiter", "quotes", "text", "label", "choices", "eval", "eval_fraction", "template",
    "templates", "answers", "max_length", "start", "settings",
)  # fmt: skip
# keys whose values are text
TEXTS = ("name", "table", "delimiter", "text", "label", "choices", "eval", "template", "templates", "start")
_RULES = {"answers": one_of(*ANSWERS), "eval_fraction": SHARE, "max_length": at_least(1)}
_PLAIN = ("name", "text", "label", "choices")
_SHOWN = 20  # faults
_LONGEST = 100  # bytes of a name
_FORBIDDEN = '/\\:*?"<>|'
_TAKEN = {name.casefold() for name in (*OWN_FILES, CHECKPOINTS, CONFUSION, CURVES)}
_OF_WINDOWS = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}


@dataclass(frozen=True)
class TaskSpec:
    """One task as it was asked for.

    Attributes:
        name: Of its adapter and its folder.
        table: What `read_table` reads, or a table; as plain values `delimiter` and `quotes` say how a file is read.
        text: Text column; found by its name if left out.
        label: Label column; likewise.
        choices: Column with each row's own choices, where there is no one label set; None for that of the run.
        eval: Table to evaluate on; without it a part of the rows is held out.
        eval_fraction: Share that is held out; None for that of the run.
        template: Its own template, or several of which one is drawn for each row in each epoch; `auto` searches one;
            None for those of the run.
        answers: `auto`, `labels` or `text`; None for that of the run.
        max_length: Most tokens of an example; None for that of the run.
        start: Folder or hub id of the adapter that its row begins with; None for that of the run.
        settings: Settings that differ from those of the run.
        labels: The closed label set, where it is known already.
        origin: Where it stands, for messages.
    """

    name: str
    table: Any
    text: str | None = None
    label: str | None = None
    choices: str | None = None
    eval: Any = None
    eval_fraction: float | None = None
    template: Any = None
    answers: str | None = None
    max_length: int | None = None
    start: str | Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    labels: tuple[str, ...] | None = None
    origin: str = ""

    def as_read(self, delimiter: str | None, quotes: bool | None) -> TaskSpec:
        """Return the task with its files read so, where it does not say itself how, and where they have delimiters."""
        table, held_out = (
            as_read(source, delimiter, quotes, is_one_of_several=True) for source in (self.table, self.eval)
        )
        return replace(self, table=table, eval=held_out)


@dataclass(frozen=True)
class Found:
    """A task as plain values, with where it and each of its keys stand."""

    values: Mapping[str, Any]
    origin: str  # such as tasks.yaml:7
    places: Mapping[str, str] = field(default_factory=dict)  # of a key, `settings.epochs` for one inside

    def at(self, key: str) -> str:
        """Return where a key stands."""
        return self.places.get(key, self.origin)


def check_tasks(doing: str, found: Sequence[Found], folder: Path | None = None) -> list[TaskSpec]:
    """Return the tasks that plain values ask for.

    Args:
        doing: Beginning of the error, such as `Reading tasks.yaml`.
        found: The values of each task.
        folder: Where paths of tables begin; None for the current one.

    Raises:
        SettingsError: Every fault, with where it is.
    """
    faults: list[str] = []
    specs = []
    for one in found:
        own = _faults_of(one, folder)
        faults += own
        if not own:
            specs.append(_spec(one, folder))
    faults += name_faults([(_name(one), one.at("name")) for one in found if _name(one)])
    if not found:
        faults = ["there are no tasks, expected at least one"]
    raise_faults(doing, faults)
    return specs


def specs_of(tasks: Iterable[TaskSpec | Mapping[str, Any]]) -> list[TaskSpec]:
    """Return tasks as specs, their names checked.

    Raises:
        SettingsError: Every fault of those that are plain values, or of the names of all.
    """
    tasks = _as_list(tasks)
    found = [Found(task, f"task {number}") for number, task in enumerate(tasks, 1) if not isinstance(task, TaskSpec)]
    checked = iter(check_tasks("Training tasks", found) if found or not tasks else ())
    specs = [task if isinstance(task, TaskSpec) else next(checked) for task in tasks]
    named = [(spec.name, spec.origin or f"task {number}") for number, spec in enumerate(specs, 1)]
    raise_faults("Training tasks", name_faults(named))
    return specs


def _as_list(tasks: Iterable[TaskSpec | Mapping[str, Any]]) -> list[TaskSpec | Mapping[str, Any]]:
    """Return tasks that are specs and mappings as a list; a SettingsError for anything else."""
    if isinstance(tasks, str | Path | Mapping) or is_frame(tasks):
        cure = "[{'name': 'books', 'table': table}, …]"
        if isinstance(tasks, str | Path):
            cure = "ia3.runs.tasks_file.read_tasks(path) for a task file"
        elif isinstance(tasks, Mapping):
            cure = "[{'name': name, 'table': table} for name, table in tasks.items()]"
        elif is_frame(tasks):
            cure += ", or ia3.train_by_column(table, column, base, output) for one table of all tasks"
        raise SettingsError(
            f"Training tasks: got a value of type {type(tasks).__name__}, expected a list of tasks. Give {cure}."
        )
    listed = list(tasks)
    odd = [
        f"task {number} is of type {type(task).__name__}, expected a mapping with its name and table"
        for number, task in enumerate(listed, 1)
        if not isinstance(task, TaskSpec | Mapping)
    ]
    raise_faults("Training tasks", odd)
    return listed


def filled_spec(spec: TaskSpec, shared: Mapping[str, Any]) -> TaskSpec:
    """Return a task that has what it does not say from what holds for all, its templates read.

    Args:
        spec: The task.
        shared: Values of its attributes; None for what is found out.

    Raises:
        TemplateError: If a template of its own, or one of all, is none.
    """
    whole = replace(spec, **{key: value for key, value in shared.items() if getattr(spec, key) in (None, "")})
    return replace(whole, template=read_words(whole.template) or None)


def raise_faults(doing: str, faults: Sequence[str]) -> None:
    """Raise a SettingsError that tells all faults, if there are any."""
    if not faults:
        return
    if len(faults) == 1:
        raise SettingsError(f"{doing}: {faults[0]}.")
    more = [f"… and {len(faults) - _SHOWN} more."] if len(faults) > _SHOWN else []
    raise SettingsError("\n".join([f"{doing}: {len(faults)} faults.", *faults[:_SHOWN], *more]))


def name_faults(names: Sequence[tuple[str, str]]) -> list[str]:
    """Return what is wrong with the names of tasks, which are names of folders too.

    Args:
        names: Each with where it stands.
    """
    faults, seen = [], dict[str, tuple[str, str]]()
    for name, where in names:
        fault = name_fault(name)
        if fault:
            faults.append(f"{where}: the name {quote(name)} cannot be a folder's: {fault}")
        key = unicodedata.normalize("NFC", name).casefold()
        if key in seen:
            other, first = seen[key]
            like = "twice" if other == name else f"beside {quote(other)}, which is one folder on some systems"
            faults.append(f"{where}: the name {quote(name)} is there {like}, first at {first}")
        seen.setdefault(key, (name, where))
    return faults


def name_fault(name: str) -> str:
    """Return why a name can be no folder's, "" if it can.

    Example:
        >>> name_fault("a/b")
        "it holds '/'"
    """
    odd = [c for c in name if c in _FORBIDDEN or unicodedata.category(c).startswith("C")]
    if not name.strip():
        return "it is empty"
    if odd:
        return f"it holds {odd[0]!r}"
    if name[0] in ". " or name[-1] in ". ":
        return "it begins or ends with a dot or a blank"
    if len(name.encode()) > _LONGEST:
        return f"it has {len(name.encode())} bytes, at most {_LONGEST} are allowed"
    if name.casefold() in _TAKEN or name == BASE_NAME:
        return "the run needs it for itself"
    if name.casefold().partition(".")[0] in _OF_WINDOWS:
        return "Windows keeps it for a device"
    return ""


def _name(found: Found) -> str:
    """Return the name of a task, of its table where it has none; "" if neither tells."""
    name = found.values.get("name")
    if name is None and isinstance(found.values.get("table"), str | Path):
        return Path(found.values["table"]).stem
    return str(name) if isinstance(name, str | int) and not isinstance(name, bool) else ""


def _faults_of(found: Found, folder: Path | None) -> list[str]:
    """Return what is wrong with one task, but for its name beside others."""
    values = found.values
    faults = [
        f"{found.at(key)}: there is no key {quote(str(key))}.{near_matches(str(key), KEYS)}".removesuffix(".")
        for key in values
        if key not in KEYS
    ]
    if values.get("table") is None:
        faults.append(f"{found.origin}: 'table' is missing")
    for key in ("table", "eval"):
        fault = _table_fault(values.get(key), folder)
        faults += [f"{found.at(key)}: {key} {fault}"] if fault else []
    for key in _PLAIN:
        value = values.get(key)
        is_name = key == "name" and isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not isinstance(value, str) and not is_name:
            faults.append(f"{found.at(key)}: {key} is {value!r}, expected text")
    faults += [f"{found.at(key)}: {what}" for key, what in template_faults(values, folder)]
    faults += _value_faults(found)
    return faults


def _value_faults(found: Found) -> list[str]:
    values = found.values
    told = [(key, rule.fault(key, values[key])) for key, rule in _RULES.items() if values.get(key) is not None]
    faults = [f"{found.at(key)}: {fault}" for key, fault in told if fault]
    start = values.get("start")
    if start is not None and not isinstance(start, str | Path):
        faults.append(f"{found.at('start')}: start is {start!r}, expected the folder of an adapter")
    faults += _reading_faults(found)
    settings = values.get("settings")
    if settings is not None and not isinstance(settings, Mapping):
        return [*faults, f"{found.at('settings')}: settings is {settings!r}, expected names with values"]
    return faults + _settings_faults(found, settings or {})


def _reading_faults(found: Found) -> list[str]:
    """Return what is wrong with how the table is to be read."""
    table, delimiter, quotes = (found.values.get(key) for key in ("table", "delimiter", "quotes"))
    faults = []
    if quotes is not None and not isinstance(quotes, bool):
        faults.append(f"{found.at('quotes')}: quotes is {quotes!r}, expected true or false")
        quotes = None
    key = "quotes" if delimiter is None else "delimiter"
    try:
        as_read(table, delimiter, quotes)
    except SettingsError as error:
        faults.append(f"{found.at(key)}: {str(error).removeprefix('Reading a table: ').removesuffix('.')}")
    return faults


def _settings_faults(found: Found, settings: Mapping[Any, Any]) -> list[str]:
    faults = []
    for name, value in settings.items():
        fault = setting_fault(str(name), value)
        if name in OF_THE_RUN:
            fault = f"{name} is the same for all tasks of a run. Give it for the whole run"
        faults += [f"{found.at(f'settings.{name}')}: {fault}"] if fault else []
    return faults


def _table_fault(table: Any, folder: Path | None) -> str:
    """Return why there is no such table, "" if there may be."""
    if table is None:
        return ""
    if isinstance(table, TableFile):
        table = table.path
    if not isinstance(table, str | Path):  # rows in memory; a file names files
        if folder is None and (is_rereadable(table) or hasattr(table, "examples")):
            return ""
        if folder is None and isinstance(table, Iterable):
            return f"is of type {type(table).__name__}, which can be read once, expected rows in a list, or a file"
        return f"is {table!r}, expected the name of a file"
    path = placed(table, folder)
    if isinstance(path, Path) and not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = near_matches(path.name, names).partition(" Known:")[0] if names else ""
        return f"{quote(str(table))} is not there.{near}".removesuffix(".")
    return ""


def placed(table: Any, folder: Path | None) -> Any:
    """Return the path of a table named in a task file, or the hub id that the name may be."""
    if not isinstance(table, str | Path):
        return table
    path = Path(table).expanduser()
    whole = path if folder is None or path.is_absolute() else folder / path
    is_hub_id = isinstance(table, str) and table.count("/") == 1 and not Path(table.partition(":")[0]).suffix
    return table if is_hub_id and not whole.exists() and not whole.parent.is_dir() else whole


def _spec(found: Found, folder: Path | None) -> TaskSpec:
    values = {key: value for key, value in found.values.items() if value is not None}
    own: dict[str, Any] = {key: values[key] for key in KEYS if key in values and key != "templates"}
    own |= {"name": _name(found), "table": placed(values["table"], folder), "origin": found.origin}
    reading = own.pop("delimiter", None), own.pop("quotes", None)
    own["template"] = templates_in(values, folder) or None
    if "start" in values:
        whole = placed(values["start"], folder)
        is_ours = str(values["start"]) in start_names() and not Path(whole).exists()
        own["start"] = values["start"] if is_ours or values["start"] in (AUTO, NONE) else whole
    if "eval" in values:
        own["eval"] = placed(values["eval"], folder)
    return TaskSpec(**own).as_read(*reading)
