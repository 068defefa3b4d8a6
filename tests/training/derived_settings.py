"""What `make settings` writes from where the settings are declared: their table in docs, and the names editors know."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ia3.training.setting import Setting
from ia3.training.settings import SETTINGS, Settings, default_in_words

ROOT = Path(__file__).parents[2]
COMMAND = "make settings"
_HEAD = "| option | default | takes | is |\n|---|---|---|---|\n"
_TABLE = re.compile(f"({re.escape(_HEAD)})" + r"(?:\|.*\n)*")
_OPTIONS = re.compile(r'(class SettingOptions\(.*\n    """.*"""\n\n)(?:    \w+: .*\n)*')


def with_table(page: str) -> str:
    """Return a page with the table of settings."""
    rows = "".join(f"| `--{name.replace('_', '-')}` | {_row(name, one)} |\n" for name, one in SETTINGS.items())
    return _filled(_TABLE, page, rows)


def _row(name: str, one: Setting) -> str:
    takes = ", ".join(f"`{word}`" for word in one.rule.words) or one.rule.expected
    takes = takes or ("yes or no" if one.rule.sort is bool else "a name")
    told = f"{one.help}; the same for all tasks of a run" if one.is_of_run else one.help
    told = re.sub(r"--[a-z-]+", r"`\g<0>`", f"{told[0].lower()}{told[1:]}")
    return f"{default_in_words(name)} | {takes} | {told}"


def with_options(source: str) -> str:
    """Return a file with the settings as keywords of a run, each of which may be None."""
    types = {name: one.type.removesuffix(" | None") for name, one in Settings.__dataclass_fields__.items()}
    return _filled(_OPTIONS, source, "".join(f"    {name}: {kind} | None\n" for name, kind in types.items()))


def _filled(place: re.Pattern[str], text: str, lines: str) -> str:
    assert place.search(text)
    return place.sub(lambda found: found[1] + lines, text)


WRITTEN: Mapping[Path, Callable[[str], str]] = {
    ROOT / "docs" / "train.md": with_table,
    ROOT / "src" / "ia3" / "runs" / "request.py": with_options,
}

if __name__ == "__main__":
    for path, fill in WRITTEN.items():
        path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
