"""(IA)³ fine-tuning of Hugging Face transformers: a bank of small vectors over one frozen model.

    load_base        a base by name, folder, hub id or GGUF file
    train            a table of labelled text → an adapter in a folder
    train_tasks, train_by_column, train_repeats, train_folds, sweep    many adapters in one run
    load             an adapter's folder → a Predictor that classifies, generates and evaluates
    find_plan        where the vectors of a model sit (Plan, Site)
    attach           put a Bank of adapters on any transformers model
    save_adapter, load_adapter, merge, Adapter, Settings, IA3Error

Names are imported when they are first used, so that `import ia3` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ia3.adapters.adapter import Adapter
    from ia3.adapters.attached import attach
    from ia3.adapters.folder import load_adapter, save_adapter
    from ia3.bases.loading import load_base
    from ia3.core.bank import Bank
    from ia3.core.discovery import find_plan
    from ia3.core.merge import merge
    from ia3.core.sites import Plan, Site
    from ia3.errors import IA3Error
    from ia3.inference.loading import load_predictor as load
    from ia3.inference.predictor import Predictor
    from ia3.runs.plans.column import train_by_column
    from ia3.runs.plans.folds import train_folds
    from ia3.runs.plans.one import train_adapter as train
    from ia3.runs.plans.repeats import train_repeats
    from ia3.runs.plans.sweep import sweep
    from ia3.runs.plans.tasks import train_tasks
    from ia3.training.settings import Settings

_PLACES = {
    "Adapter": "ia3.adapters.adapter:Adapter",
    "Bank": "ia3.core.bank:Bank",
    "IA3Error": "ia3.errors:IA3Error",
    "Plan": "ia3.core.sites:Plan",
    "Predictor": "ia3.inference.predictor:Predictor",
    "Settings": "ia3.training.settings:Settings",
    "Site": "ia3.core.sites:Site",
    "attach": "ia3.adapters.attached:attach",
    "find_plan": "ia3.core.discovery:find_plan",
    "load": "ia3.inference.loading:load_predictor",
    "load_adapter": "ia3.adapters.folder:load_adapter",
    "load_base": "ia3.bases.loading:load_base",
    "merge": "ia3.core.merge:merge",
    "save_adapter": "ia3.adapters.folder:save_adapter",
    "sweep": "ia3.runs.plans.sweep:sweep",
    "train": "ia3.runs.plans.one:train_adapter",
    "train_by_column": "ia3.runs.plans.column:train_by_column",
    "train_folds": "ia3.runs.plans.folds:train_folds",
    "train_repeats": "ia3.runs.plans.repeats:train_repeats",
    "train_tasks": "ia3.runs.plans.tasks:train_tasks",
}

__all__ = [
    "Adapter",
    "Bank",
    "IA3Error",
    "Plan",
    "Predictor",
    "Settings",
    "Site",
    "attach",
    "find_plan",
    "load",
    "load_adapter",
    "load_base",
    "merge",
    "save_adapter",
    "sweep",
    "train",
    "train_by_column",
    "train_folds",
    "train_repeats",
    "train_tasks",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _PLACES:
        raise AttributeError(f"module 'ia3' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
