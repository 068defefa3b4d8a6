"""The table of settings in docs/train.md, from where they are declared: `python -m tests.docs.settings_table`."""

from __future__ import annotations

import re
from pathlib import Path

from ia3.training.setting import Setting
from ia3.training.settings import SETTINGS, default_in_words

PAGE = Path(__file__).parents[2] / "docs" / "train.md"
COMMAND = "make settings"
_HEAD = "| option | default | takes | is |\n|---|---|---|---|\n"
_TABLE = re.compile(re.escape(_HEAD) + r"(?:\|.*\n)*")


def with_table(page: str) -> str:
    """Return a page with the table of settings as they are declared."""
    rows = "".join(f"| `--{name.replace('_', '-')}` | {_row(name, one)} |\n" for name, one in SETTINGS.items())
    assert _TABLE.search(page)
    return _TABLE.sub(lambda _: _HEAD + rows, page)


def _row(name: str, one: Setting) -> str:
    takes = ", ".join(f"`{word}`" for word in one.rule.words) or one.rule.expected
    takes = takes or ("yes or no" if one.rule.sort is bool else "a name")
    told = f"{one.help}; the same for all tasks of a run" if one.is_of_run else one.help
    told = re.sub(r"--[a-z-]+", r"`\g<0>`", f"{told[0].lower()}{told[1:]}")
    return f"{default_in_words(name)} | {takes} | {told}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
