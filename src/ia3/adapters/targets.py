"""Which modules the names of a PEFT config select, and the names that select given modules.

PEFT's rules (tuners_utils.check_target_module_exists, IA3Model._check_target_module_feedforward, other._set_trainable):
a target name matches a whole path or its end after a dot, a regular expression the whole path; a feed-forward name
matches the end of the path, dot or not, and must be among the targets; a head's name matches the end of a path, and
what lies in it is no target. This file knows paths only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ia3.adapters.config import AdapterConfig, Names

# Heads that PEFT adds to `modules_to_save` by itself for the task SEQ_CLS, and then demands in the file.
CLASSIFIER_NAMES = ("classifier", "score")


def is_target(config: AdapterConfig, path: str) -> bool:
    """Whether PEFT puts a vector on the module at `path`."""
    if config.exclude_modules and _is_named(config.exclude_modules, path):
        return False
    if any(re.match(rf"(^|.*\.){name}($|\..*)", path) for name in config.modules_to_save or ()):
        return False
    return bool(config.target_modules) and _is_named(config.target_modules, path)


def is_feedforward(config: AdapterConfig, path: str) -> bool:
    """Whether PEFT multiplies the input of the target at `path`, rather than its output."""
    names = config.feedforward_modules
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path.endswith(name) for name in names or ())


def find_heads(paths: Iterable[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return the modules that PEFT saves whole for these names, the outermost only, in order."""
    found: list[str] = []
    for path in paths:
        inside = any(path.startswith(f"{head}.") for head in found)
        if not inside and any(path.endswith(name) for name in names):
            found.append(path)
    return tuple(found)


def spell_targets(
    paths: Sequence[str], outputs: Sequence[str], inputs: Sequence[str]
) -> tuple[str | tuple[str, ...], str | tuple[str, ...]]:
    """Return `target_modules` and `feedforward_modules` that select exactly the given modules.

    Names are the shortest ends of paths that select nothing else (BERT's `0.output.dense`, since `output.dense` would
    be the attention's as well); where no name will do, both are regular expressions.

    Args:
        paths: Every module of the model.
        outputs: Those whose output is multiplied.
        inputs: Those whose input is multiplied.

    Example:
        >>> spell_targets(["0.att.k", "0.att.out.dense", "0.out.dense"], ["0.att.k"], ["0.out.dense"])
        (('k', '0.out.dense'), ('0.out.dense',))
    """
    ends = _ends(paths)
    wanted = {path: _shortest_end(path, ends, set(outputs), ()) for path in outputs}
    wanted |= {path: _shortest_end(path, ends, set(inputs), outputs) for path in inputs}
    names = [wanted[path] for path in paths if path in wanted]
    if any(name is None for name in names):
        return _expression([*outputs, *inputs]), _expression(inputs) if inputs else ()
    spelled = tuple(dict.fromkeys(name for name in names if name is not None))
    feedforward = {wanted[path] for path in inputs}
    return spelled, tuple(name for name in spelled if name in feedforward)


def full_targets(outputs: Sequence[str], inputs: Sequence[str]) -> tuple[str | tuple[str, ...], str | tuple[str, ...]]:
    """Return `target_modules` and `feedforward_modules` for given modules where the model is not at hand: full paths.

    Args:
        outputs: Modules whose output is multiplied.
        inputs: Those whose input is multiplied.
    """
    modules = [*outputs, *inputs]
    is_safe = all("." in path for path in modules) and not any(o.endswith(i) for o in outputs for i in inputs)
    if is_safe:
        return tuple(modules), tuple(inputs)
    return _expression(modules), _expression(inputs) if inputs else ()


def _ends(paths: Iterable[str]) -> dict[str, set[str]]:
    """Map every end of every path, cut at a dot, to the paths that end so."""
    ends: dict[str, set[str]] = {}
    for path in paths:
        for end in _ends_of(path):
            ends.setdefault(end, set()).add(path)
    return ends


def _ends_of(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]


def _shortest_end(path: str, ends: dict[str, set[str]], side: set[str], others: Sequence[str]) -> str | None:
    """Return the shortest end that only modules of this side have, and that no module of the other side ends in."""
    for end in _ends_of(path):
        if ends[end] <= side and not any(other.endswith(end) for other in others):
            return end
    return None


def _expression(paths: Sequence[str]) -> str:
    """Return a regular expression that matches exactly these paths."""
    return "|".join(map(re.escape, paths))


def _is_named(names: Names, path: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in names or ())
