"""Training and evaluation mode of a model's modules, put back as they were.

`model.eval()` and `model.train()` set every module alike; a base may hold some of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Have every module in eval mode inside, so that no dropout draws; each is then in the mode it was in."""
    trained = [module for module in model.modules() if module.training]
    for module in trained:
        module.training = False
    try:
        yield
    finally:
        for module in trained:
            module.training = True
