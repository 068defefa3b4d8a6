"""Every error that ia3 raises for a user's mistake.

    IA3Error
    ├── PlanError         no plan for this model, or target names that match nothing
    ├── BankError         an unknown or duplicate adapter name, a row out of range, a vector of the wrong width
    ├── BaseError         a base that is not there, cannot be read, or is another one than the adapter's
    ├── AdapterError      an adapter folder that cannot be read, or cannot be written in PEFT's format
    ├── TableError        a table that cannot be read; `.faults` lists every bad row
    ├── TemplateError     a prompt template that does not fit the table
    ├── SettingsError     settings that contradict each other or lie outside their range
    └── RunError          an output folder in use, a checkpoint that does not belong to the run

    IA3Warning            what goes on, and would mislead if nobody knew; the command line prints it

A message reads `<what we were doing>: <what is wrong>, got <value>, expected <rule>. <what to do>.` This file knows
nothing of models, files or the command line; it imports nothing of the package.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def near_matches(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return a clause that names what `name` may have meant, or what there is.

    Args:
        name: What the user wrote.
        known: The names that exist.
        most: How many near matches are shown at most.

    Returns:
        `" Did you mean 'a' or 'b'?"`, or `" Known: 'a', 'b', …."` without a near match, or `""` if nothing is known.

    Example:
        >>> near_matches("minilmm", ["minilm", "gemma-3-270m"])
        " Did you mean 'minilm'?"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(str(name), names, n=most, cutoff=0.6)
    if near:
        return f" Did you mean {' or '.join(repr(n) for n in near)}?"
    if not names:
        return ""
    shown = ", ".join(repr(n) for n in names[:12])
    return f" Known: {shown}{', …' if len(names) > 12 else ''}."


class IA3Error(Exception):
    """A user's mistake, told in a sentence; the root of every error of this package."""


class IA3Warning(UserWarning):
    """Something that is no mistake and would mislead if nobody knew: a file with a part missing, rows seen before."""


class PlanError(IA3Error):
    """No plan could be made for this model with these targets."""


class BankError(IA3Error):
    """A name, row or vector does not fit the bank."""


class BaseError(IA3Error):
    """A base cannot be found, read, or is not the one an adapter was trained on."""


class AdapterError(IA3Error):
    """An adapter cannot be read or written."""


class TableError(IA3Error):
    """A table cannot be read; `faults` holds one sentence for each bad row."""

    def __init__(self, message: str, faults: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class TemplateError(IA3Error):
    """A prompt template cannot be parsed or does not fit the table."""


class SettingsError(IA3Error):
    """Settings lie outside their range or contradict each other."""


class RunError(IA3Error):
    """An output folder or checkpoint cannot be used for this run."""
