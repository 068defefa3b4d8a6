"""Put faster passes on a model that has a bank, and take them off again.

The model computes the same function: products of frozen linears come from the fastest library, gated feed-forwards and
root-mean-square norms keep less and walk less over memory, the last block is computed where it is read, and the output
head hands its input out instead of logits where a loss asks for it. Each replacement is tried on random numbers beside
what it replaces, and left out where they differ. This file knows where they go; what they do is `forwards`' matter.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ia3.core.attach import BANK_MODULE, FASTER, Attachment
from ia3.core.modes import evaluating
from ia3.core.surgery import Surgery
from ia3.core.surroundings import surrounded
from ia3.errors import BankError
from ia3.fast.compiling import Compiled, install_compiled
from ia3.fast.forwards import REPLACEMENTS, Replacement, head_forward
from ia3.fast.last_block import narrow_last_block, only_at
from ia3.fast.trial import agrees, is_same, numbers_like, see_outputs, small_inputs

_PUTTING_ON = threading.Lock()


def accelerate(attachment: Attachment, *, compiled: bool = False) -> Acceleration:
    """Put faster passes on the model of a bank.

    Args:
        attachment: The handle of the bank; its model is changed in place and given back by `Acceleration.remove`.
        compiled: Whether the repeated blocks run compiled where gradients are wanted; the first passes are then slow.

    Returns:
        The handle; a `with` statement removes it at its end.

    Raises:
        BankError: If the model has faster passes already.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from ia3.core.attach import attach_bank
        >>> from ia3.core.bank import Bank
        >>> from ia3.core.discovery import find_plan
        >>> config = LlamaConfig(
        ...     hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9
        ... )
        >>> model = LlamaForCausalLM(config).eval()
        >>> attachment = attach_bank(model, Bank(find_plan(model)))
        >>> with accelerate(attachment) as acceleration:
        ...     print(acceleration.counts["gates"], acceleration.has_head)
        1 True
    """
    if FASTER in attachment.model.__dict__:
        raise BankError("Accelerating a model: it has faster passes already. Remove them first.")
    return Acceleration(attachment, compiled)


def acceleration_of(model: Any) -> Acceleration | None:
    """Return the handle of a model's faster passes, or None."""
    handle = model.__dict__.get(FASTER)
    return handle if isinstance(handle, Acceleration) else None


class Acceleration:
    """The faster passes of one model.

    Attributes:
        attachment: The handle of the bank.
        counts: How many modules each kind of replacement stands for.
    """

    def __init__(self, attachment: Attachment, compiled: bool) -> None:
        self.attachment = attachment
        self.counts = {"linears": 0, "gates": 0, "norms": 0, "last blocks": 0, "compiled blocks": 0}
        self._surgery = Surgery(attachment.model)
        self._head_path: str | None = None
        self._compiled: Compiled | None = None
        self._verdicts: dict[Any, bool] = {}  # of replacements that were tried, by kind of module
        try:
            self._install(compiled)
        except BaseException:
            self._surgery.undo()
            raise

    def _install(self, compiled: bool) -> None:
        with torch.no_grad(), self.attachment.disabled():
            for kind, replace in REPLACEMENTS.items():
                self.counts[kind] = self._replace(replace)
        last = narrow_last_block(self.attachment, self._surgery)
        self.counts["last blocks"] = len(last)
        self._head_path = self._install_head()
        if compiled:
            self._compiled = install_compiled(self.attachment, self._surgery, last)
            self.counts["compiled blocks"] = self._compiled.blocks
        self._surgery.set("", FASTER, self)

    def _replace(self, replace: Callable[[Attachment, str, Any], Replacement | None]) -> int:
        """Set the forwards of one kind wherever they give what the modules give, and return how many."""
        count = 0
        for path, module in self.attachment.model.named_modules():
            # heads in the bank stay plain, so that one product can answer for many
            is_apart = f"{path}.".startswith(f"{BANK_MODULE}.") or self._is_own(path)
            new = None if is_apart else replace(self.attachment, path, module)
            if new is not None and self._agrees(module, new):
                self._surgery.set(path, "forward", new.forward)
                count += 1
        return count

    def _agrees(self, module: nn.Module, new: Replacement) -> bool:
        if new.tried_on is None:
            return True
        if new.kind not in self._verdicts:
            self._verdicts[new.kind] = agrees(module, new.forward, new.tried_on)
        return self._verdicts[new.kind]

    def _is_own(self, path: str) -> bool:
        """Whether a module lies in a head that adapters bring themselves, which is trained."""
        return any(f"{path}.".startswith(f"{head}.") for head in self.attachment.head_paths)

    def __enter__(self) -> Acceleration:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def __deepcopy__(self, memo: dict[int, Any]) -> Acceleration:
        """Go along with a deep copy of the whole model; compiled blocks cannot. A part copied alone stays as it is."""
        if id(self.attachment.model) not in memo:
            return self
        if self._compiled is not None:
            raise BankError("Copying a model with compiled blocks: it cannot be. Remove them first, or copy it before.")
        copied = object.__new__(Acceleration)
        memo[id(self)] = copied
        copied.__dict__.update({name: copy.deepcopy(value, memo) for name, value in self.__dict__.items()})
        return copied

    def remove(self) -> None:
        """Take the faster passes off; the bank stays."""
        self._surgery.undo()

    def release(self, path: str) -> None:
        """Give a module and its parts their own passes back: it becomes a head that adapters bring themselves."""
        self._surgery.undo_inside(self.attachment.model.get_submodule(path))

    @property
    def is_compiled(self) -> bool:
        """Whether blocks run compiled where gradients are wanted."""
        return self._compiled is not None

    @property
    def compile_failure(self) -> str | None:
        """Why the blocks run uncompiled although they should not, or None."""
        return None if self._compiled is None else self._compiled.failure

    # -- the output head ----------------------------------------------------------------------------------------------

    def hidden_at(self, positions: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Any]:
        """Run the model; return what its head would receive at some positions, (wanted, width), and its output.

        Args:
            positions: bool, shape (batch, seq) of the decoder's side.
            inputs: What the model is called with; no labels.
        """
        caught: list[Tensor] = []
        with surrounded(captured=caught), only_at(positions):
            output = self.attachment.model(**inputs)
        return caught[0][positions], output

    @property
    def has_head(self) -> bool:
        """Whether the output head's logits are its matrix times its input, nothing before or after.

        A loss may then be taken from its input (`hidden_at`). Never where adapters bring a head of their own.
        """
        return self._head_path is not None and not self._is_own(self._head_path)

    def _install_head(self) -> str | None:
        """Let the output head hand its input out, and return its path if its logits are the model's."""
        model = self.attachment.model
        head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        if not isinstance(head, nn.Linear) or head.weight.requires_grad:
            return None
        path = next(name for name, module in model.named_modules() if module is head)
        plain = head.forward
        self._surgery.set(path, "forward", partial(head_forward, plain))
        try:
            return path if self._is_plain_head(head) else None
        except Exception:  # a model that wants other inputs than ids: its loss is taken from logits
            return None

    def _is_plain_head(self, head: nn.Linear) -> bool:
        """Compare the model's logits with its head's on the model's own hidden states."""
        model = self.attachment.model
        inputs = small_inputs(model) | {"use_cache": False}
        ids = inputs["input_ids"]
        # numbers so large that a soft cap behind the head would show
        given = numbers_like(head.weight, head.weight.shape[0]) * 1000
        with evaluating(model), torch.no_grad():
            logits = model(**inputs).logits
            hidden, _ = self.hidden_at(torch.ones_like(ids, dtype=torch.bool), inputs)
            with surrounded(answer=given):  # in this thread alone: others may be running the model
                is_last = torch.equal(model(**inputs).logits.to(given.dtype), given)
            return is_last and is_same(logits[0], nn.functional.linear(hidden, head.weight, head.bias), hidden.dtype)


@contextmanager
def accelerated(attachment: Attachment, *, compiled: bool = False) -> Iterator[None]:
    """Have the faster passes on inside, whether or not they are on already; afterwards they are as they were."""
    held = acceleration_of(attachment.model)
    if held is not None and (held.is_compiled or not compiled):
        see_outputs(attachment)
        yield
        return
    if held is not None:
        held.remove()
    try:
        with accelerate(attachment, compiled=compiled):
            see_outputs(attachment)
            yield
    finally:
        if held is not None:
            accelerate(attachment)


def keep_accelerated(attachment: Attachment) -> Acceleration:
    """Put faster passes on the model of a bank if it has none, and return their handle; several threads may ask."""
    with _PUTTING_ON:
        return acceleration_of(attachment.model) or accelerate(attachment)
