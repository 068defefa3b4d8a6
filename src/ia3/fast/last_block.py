"""The last block only where its output is wanted.

A classifier reads one position of the last block's output, a language model's loss the labelled ones. The keys and
values of that block are needed everywhere; its queries, its attention's output and its feed-forward are not. Hooks take
the wanted positions before such a module and put zeros in the others' place after it, so that shapes stay what they are
and nobody reads the zeros. This file knows modules' names; positions are `kernels.wanted`'s matter.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import Tensor, nn

from ia3.core.attach import Attachment
from ia3.core.families import LastBlock, family_of
from ia3.core.surgery import Surgery
from ia3.core.surroundings import surrounded, surroundings
from ia3.kernels.wanted import Wanted, choose, put, take


def only_at(positions: Tensor) -> AbstractContextManager[None]:
    """Let forward passes inside compute the last block where it is wanted alone.

    Args:
        positions: Where the last block's output is read, bool, shape (batch, seq).
    """
    return surrounded(wanted=choose(positions))


def path_of_blocks(model: Any, model_type: str) -> str | None:
    """Return the path of the list of blocks that every example goes through one after another; None if not known.

    Args:
        model: A model with a head on its body.
        model_type: Of its plan.
    """
    rule = family_of(model_type).last_block
    body = getattr(model, getattr(model, "base_model_prefix", "") or "", None)
    if rule is None or body is None or body is model or getattr(model.config, "is_encoder_decoder", False):
        return None
    modules = dict(model.named_modules())
    path = next(f"{name}.{rule.layers}" for name, module in modules.items() if module is body)
    return path if len(modules.get(path, ())) else None


def narrow_last_block(attachment: Attachment, surgery: Surgery) -> tuple[str, ...]:
    """Let the last block compute what is read of it alone, and return its path if there is one.

    Args:
        attachment: The handle of the bank.
        surgery: What the change is written down in.
    """
    model, model_type = attachment.model, attachment.bank.plan.model_type
    layers, rule = path_of_blocks(model, model_type), family_of(model_type).last_block
    if layers is None or rule is None or not _is_read_in_part(model, rule):
        return ()
    last = f"{layers}.{len(model.get_submodule(layers)) - 1}"
    inside = [*((name, slice(1)) for name in (*rule.alone, rule.opens)), (rule.closes, slice(1, None))]
    for name, places in inside:
        if name is None:
            continue
        surgery.hook_input(f"{last}.{name}", partial(_take, attachment, places))
        if name != rule.opens:
            surgery.hook_output(f"{last}.{name}", partial(_put_back, attachment))
    return (last,)


def _is_read_in_part(model: Any, rule: LastBlock) -> bool:
    """Whether some positions of the last block's output may be left out."""
    if getattr(model.config, "chunk_size_feed_forward", 0):  # the block cuts its positions itself
        return False
    if not rule.reads_first and model.get_output_embeddings() is None:  # a classifier on the last position
        return False
    return not getattr(model, "reads_every_position", False)  # a classifier on the mean


def _wanted(attachment: Attachment) -> Wanted | None:
    """Return the wanted positions of the pass under way, or None for all."""
    return None if attachment.call is None else surroundings().wanted


def _take(attachment: Attachment, places: slice, module: nn.Module, args: tuple[Any, ...]) -> Any:
    """Take the wanted positions of some arguments, and leave the others as they are."""
    wanted, given = _wanted(attachment), list(args)
    whole = given[places]
    if wanted is None or whole[0].dim() != 3 or whole[0].shape[1] != wanted.length:
        return None
    given[places] = [take(x, wanted.index) for x in whole]
    return tuple(given)


def _put_back(attachment: Attachment, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
    wanted = _wanted(attachment)
    return None if wanted is None or output.shape[1] == wanted.length else put(output, wanted.index, wanted.length)
