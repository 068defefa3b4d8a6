"""Cross-attentions that nothing feeds: a decoder without an encoder passes over them, and a vector there never learns.

A class for language modelling alone may still hold the cross-attention of its encoder-decoder (BART's decoder, BERT
with `add_cross_attention`); it runs only where a caller hands encoder states in, which no text does. This file reads
names, classes and signatures; it never runs the model.
"""

from __future__ import annotations

import inspect
import re

from torch import nn
from transformers import PreTrainedModel

from ia3.core.families import is_foreign

_CROSS = re.compile(r"cross_?att|encoder_?att|encdecatt", re.IGNORECASE)
_STATES = ("encoder_hidden_states", "cross_attention_states")
REASON = "cross-attention without an encoder: it never runs"


def find_unfed(model: nn.Module) -> tuple[str, ...]:
    """Return the paths of the modules that run only on encoder states, in a model that has nothing to give them."""
    modules = dict(model.named_modules())
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False) or any(map(is_foreign, modules)):
        return ()
    found: list[str] = []
    for path, module in modules.items():
        is_cross = _CROSS.search(path.rpartition(".")[2]) or _CROSS.search(type(module).__name__)
        is_inside = any(path.startswith(f"{other}.") for other in found)
        if path and is_cross and not is_inside and _is_fed_from_outside(modules, path):
            found.append(path)
    return tuple(found)


def _is_fed_from_outside(modules: dict[str, nn.Module], path: str) -> bool:
    """Whether the stack that a module lies in takes encoder states from its caller."""
    while path:
        path = path.rpartition(".")[0]
        stack = modules[path]
        if isinstance(stack, PreTrainedModel):
            return any(name in inspect.signature(type(stack).forward).parameters for name in _STATES)
    return False
