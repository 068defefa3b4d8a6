"""Heads of an encoder: which modules its checkpoint does not have, and their first weights.

Rule: a weight may be missing from a checkpoint only if it belongs to a head. A head lies outside the body (the module
that transformers calls the base model: `bert`, `deberta`, `model`), or is a pooler inside it, which checkpoints of
masked language models lack. Any other missing weight means a damaged or foreign checkpoint. The heads' first weights
are a function of the seed alone. It knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ia3.bases.kinds import empty_model
from ia3.core.attach import BANK_MODULE

_MARK = "_is_hf_initialized"  # transformers' own, on what it has read or drawn


def is_head_weight(key: str, body: str) -> bool:
    """Return whether a parameter belongs to a head.

    Args:
        key: The parameter's path in an encoder with a head.
        body: The model's `base_model_prefix`.
    """
    return not key.startswith(f"{body}.") or "pooler" in key.split(".")


def drawn_weights(model: Any) -> frozenset[str]:
    """Return the paths of a head's parameters that no checkpoint gave to a model: transformers drew them at random.

    transformers marks each parameter that it reads from a checkpoint, and each module that it has given its numbers. Of
    a model without marks (made from a config, or copied), of a module that somebody put in, of an output matrix (which
    may have been resized) and of what is not in memory nothing is known, and of a model without a head (`BertModel`) a
    pooler may stay unread: none is returned.

    Args:
        model: A transformers model, with or without a bank, or any other module.
    """
    if not isinstance(model, PreTrainedModel) or model.base_model is model:
        return frozenset()
    output = model.get_output_embeddings()
    drawn: set[str] = set()
    is_any_read = False
    for path, module in model.named_modules():
        if path.partition(".")[0] == BANK_MODULE:  # copies of heads keep their modules' marks
            continue
        for name, parameter in module.named_parameters(path, recurse=False):
            is_read = getattr(parameter, _MARK, False)
            is_any_read = is_any_read or is_read
            if is_read or parameter.is_meta or module is output or not getattr(module, _MARK, False):
                continue
            if is_head_weight(name, model.base_model_prefix):
                drawn.add(name)
    return frozenset(drawn) if is_any_read else frozenset()


def find_heads(model: nn.Module, fresh: Collection[str]) -> tuple[str, ...]:
    """Return the paths of the topmost modules that the checkpoint does not have.

    Args:
        model: The model.
        fresh: Paths of the parameters that the checkpoint does not have, or has in another shape.

    Returns:
        In the model's order: modules all of whose parameters are fresh, none inside another. A module that holds a
        fresh parameter beside others of its own counts whole, since it is drawn and saved whole.
    """
    heads: list[str] = []
    for path, module in model.named_modules():
        own = {f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)}
        every = {f"{path}.{name}" for name, _ in module.named_parameters()}
        is_inside = any(path.startswith(f"{head}.") for head in heads)
        if path and not is_inside and every and (every <= set(fresh) or own & set(fresh)):
            heads.append(path)
    return tuple(heads)


def label_weights(config: Any) -> frozenset[str]:
    """Return the paths of an encoder's parameters whose shape follows the number of labels."""
    shapes = [
        {name: p.shape for name, p in empty_model(config, "encoder", num_labels=n).named_parameters()} for n in (2, 3)
    ]
    return frozenset(name for name, shape in shapes[0].items() if shapes[1][name] != shape)


def draw_heads(model: Any, heads: Sequence[str], seed: int) -> None:
    """Give the heads their first weights, by the model's own rule, from the seed alone.

    They are drawn on the CPU and in fp32, so that device and dtype change nothing but the rounding; the global random
    state is as before.

    Args:
        model: A transformers model on the CPU; the heads are changed in place.
        heads: Module paths.
        seed: Of the random numbers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone; torch.manual_seed would also reach the GPUs
        for path in heads:
            head = model.get_submodule(path)
            dtype = next(head.parameters()).dtype
            _initialize(model, head.float())
            head.to(dtype)


def _initialize(model: Any, head: nn.Module) -> None:
    """Run the model's own initialization on one head.

    transformers marks what it loaded and skips it; the mark is taken off, so that only the head is drawn.
    """
    for part in (*head.modules(), *head.parameters()):
        part.__dict__.pop(_MARK, None)
    model.initialize_weights()
