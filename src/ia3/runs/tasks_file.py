"""A task file: YAML or JSONL that names tables, columns, templates and settings, one task each.

    - name: books                 tasks:            {"name": "books", "table": "books.csv"}
      table: books.csv              - …             {"name": "games", "table": "games.csv"}
      settings: {epochs: 4}

Paths begin at the file's own folder. Every key keeps the line it stands on, for messages. This file knows the formats;
what a task may be is `task_specs`' matter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ia3.data.examples import quote
from ia3.errors import SettingsError
from ia3.runs.task_specs import TEXTS, Found, TaskSpec, check_tasks, raise_faults

SUFFIXES = (".yaml", ".yml", ".jsonl")


def read_tasks(path: str | Path) -> list[TaskSpec]:
    """Return the tasks of a file.

    Raises:
        SettingsError: If it cannot be read, or with every fault in it and where it is.
    """
    place = Path(path).expanduser()
    doing = f"Reading {path}"
    if place.suffix.lower() not in SUFFIXES:
        raise SettingsError(f"{doing}: the file has the suffix {place.suffix!r}, expected one of {' '.join(SUFFIXES)}.")
    try:
        text = place.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SettingsError(f"{doing}: there is no such file.") from error
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SettingsError(f"{doing}: it cannot be read ({told}).") from error
    faults: list[str] = []
    found = _of_lines(text, place.name, faults) if place.suffix.lower() == ".jsonl" else _of_yaml(text, place, faults)
    raise_faults(doing, faults)
    return check_tasks(doing, found, place.parent)


def _of_lines(text: str, name: str, faults: list[str]) -> list[Found]:
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            values = json.loads(line)
        except ValueError as error:
            faults.append(f"{where}: it is no JSON ({error})")
            continue
        if isinstance(values, Mapping):
            found.append(Found(values, where))
        else:
            faults.append(f"{where}: it is {quote(line.strip())}, expected an object with 'name' and 'table'")
    return found


def _of_yaml(text: str, place: Path, faults: list[str]) -> list[Found]:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        tasks = _tasks_in(root, place.name, faults)
        return [_found(node, place.name, faults) for node in tasks]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = place.name if mark is None else f"{place.name}:{mark.line + 1}"
        what = getattr(error, "problem", None) or str(error)
        faults.append(f"{where}: it is no YAML ({' '.join(str(what).split())})")
        return []


def _tasks_in(root: Any, name: str, faults: list[str]) -> list[Any]:
    """Return the nodes of the tasks: those of a list, or of the list under `tasks`."""
    inside = root
    if isinstance(root, yaml.MappingNode):
        known = {key.value: value for key, value in root.value}
        for key, _ in root.value:
            if key.value != "tasks":
                faults.append(f"{_where(key, name)}: there is no key {quote(str(key.value))} here, expected 'tasks'")
        inside = known.get("tasks")
    if root is None:
        return []
    if not isinstance(inside, yaml.SequenceNode):
        faults.append(f"{_where(root, name)}: expected a list of tasks, or 'tasks:' with one below it")
        return []
    odd = [node for node in inside.value if not isinstance(node, yaml.MappingNode)]
    faults += [f"{_where(node, name)}: expected a task with 'name' and 'table'" for node in odd]
    return [node for node in inside.value if node not in odd]


def _found(node: Any, name: str, faults: list[str]) -> Found:
    """Return a task's values with the line of each key; a key that is there twice is a fault."""
    places: dict[str, str] = {}
    values = _mapping(node, name, "", places, faults)
    return Found(values, _where(node, name), places)


def _mapping(node: Any, name: str, prefix: str, places: dict[str, str], faults: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in node.value:
        word = f"{prefix}{key.value}"
        if word in places:
            faults.append(f"{_where(key, name)}: the key {quote(word)} is there twice, first at {places[word]}")
        places.setdefault(word, _where(key, name))
        inner = isinstance(value, yaml.MappingNode)
        is_text = word in TEXTS and isinstance(value, yaml.ScalarNode) and not value.tag.endswith(":null")
        if is_text:  # a column or a name may be 1 or 007
            values[key.value] = value.value
        else:
            values[key.value] = _mapping(value, name, f"{word}.", places, faults) if inner else _plain(value)
    return values


def _plain(node: Any) -> Any:
    """Return the value of a node; YAML's 1.1 reads 8e-3 as text, which is meant as a number."""
    loader = yaml.SafeLoader("")
    try:
        value = loader.construct_object(node, deep=True)
    finally:
        loader.dispose()
    if isinstance(node, yaml.ScalarNode) and node.style is None and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _where(node: Any, name: str) -> str:
    return f"{name}:{node.start_mark.line + 1}"
