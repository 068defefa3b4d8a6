"""What is wrong with a config that transformers reads and cannot make a model of, in words a user can act on.

transformers answers such a config with whatever its arithmetic ends in, as "unsupported operand type(s)". The line that
failed names the settings it read; those are what is told. It knows configs and exceptions, nothing of files.
"""

from __future__ import annotations

import linecache
import re
import traceback
from typing import Any

from transformers import __version__ as transformers_version

from ia3.errors import BaseError

_SHOWN = 3  # settings in a message
_LENGTH = 300  # of what another library says


def unbuildable(config: Any, kind: str, name: str, error: Exception) -> BaseError:
    """Return the error for a config that no model can be built of.

    Args:
        config: The base's config.
        kind: What it was to be used as.
        name: The base, for the error.
        error: What transformers raised.
    """
    said = " ".join(str(error).split()).rstrip(".")
    doing = f"Loading base {name!r} as {kind}: transformers {transformers_version} cannot build a"
    if isinstance(error, ImportError):
        return BaseError(f"{doing} {config.model_type!r} model here: {said[:_LENGTH]}.")
    speaks = isinstance(error, ValueError | AttributeError)  # of what is wrong, by name
    settings = [] if speaks else _settings_read(config, error)
    said = said if len(said) <= _LENGTH else f"{said[: _LENGTH // 3]} … {said[-_LENGTH * 2 // 3 :]}"
    told = f"{', '.join(settings)} ({type(error).__name__}: {said})" if settings else said
    return BaseError(
        f"{doing} {config.model_type!r} model from its config: {told}. Correct its config.json (the one that came "
        "with the weights fits them), or use another release of transformers."
    )


def cause_of(error: BaseException) -> str:
    """Return an error of another library as one line without its full stop; its cause where it only wraps one."""
    wrapped = error.__cause__
    said = " ".join(str(error if wrapped is None else wrapped).split())
    return said[:_LENGTH].rstrip(".") or type(error).__name__


def _settings_read(config: Any, error: Exception) -> list[str]:
    """Return the settings that the failing line of a model's code reads, with their values; those without one first."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/transformers/models/" in _slashed(f.filename)]
    names: list[str] = []
    for frame in reversed(frames[-2:]):  # a line that only calls the next names no setting
        last = frame.end_lineno or frame.lineno or 0
        lines = [linecache.getline(frame.filename, number) for number in range(frame.lineno or last, last + 1)]
        names = re.findall(r"(?:config|self)\.(\w+)", "".join(lines))
        values = {name: value for name in names for value in _values(config, name)}
        if values:
            ordered = sorted(values, key=lambda name: values[name] is not None)
            return [f"{name} is {values[name]!r}" for name in ordered[:_SHOWN]]
    return []


def _values(config: Any, name: str) -> list[Any]:
    """Return the value of a plain setting, in a list; nothing for what is none."""
    for part in (config, *(getattr(config, part, None) for part in config.sub_configs)):
        value = getattr(part, name, config)
        if value is None or isinstance(value, int | float | str):
            return [value]
    return []


def _slashed(path: str) -> str:
    return path.replace("\\", "/")
