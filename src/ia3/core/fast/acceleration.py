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
from ia3.core.fast.compiling import Compiled, install_compiled
from ia3.core.fast.forwards import (
    EXACT,
    WIDE,
    gated_forward,
    gated_parts,
    head_forward,
    norm_forward,
)
from ia3.core.fast.int8 import Int8Linear
from ia3.core.fast.products import linear_forward, takes
from ia3.core.fast.wanted import LAST_BLOCKS, Wanted, only_at, path_of_blocks, put, take
from ia3.core.modes import evaluating
from ia3.core.snapshot import BASE_NAME
from ia3.core.surgery import Surgery
from ia3.core.surroundings import surrounded, surroundings
from ia3.core.weights import input_device
from ia3.errors import BankError

_TOLERANCE = 1e-4  # of a replacement on random numbers, relative to the largest; fp32 and float64

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
        >>> from ia3.core.attach import attach
        >>> from ia3.core.bank import Bank
        >>> from ia3.core.discovery import find_plan
        >>> config = LlamaConfig(
        ...     hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=9
        ... )
        >>> model = LlamaForCausalLM(config).eval()
        >>> attachment = attach(model, Bank(find_plan(model)))
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
            self._install_gates()
            self._install_norms()
            self._install_linears()
        last = self._install_last_block()
        self._head_path = self._install_head()
        if compiled:
            self._compiled = install_compiled(self.attachment, self._surgery, last)
            self.counts["compiled blocks"] = self._compiled.blocks
        self._surgery.set("", FASTER, self)

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
        inputs = _small_inputs(model) | {"use_cache": False}
        ids = inputs["input_ids"]
        # numbers so large that a soft cap behind the head would show
        given = _numbers(head.weight, head.weight.shape[0]) * 1000
        with evaluating(model), torch.no_grad():
            logits = model(**inputs).logits
            hidden, _ = self.hidden_at(torch.ones_like(ids, dtype=torch.bool), inputs)
            with surrounded(answer=given):  # in this thread alone: others may be running the model
                is_last = torch.equal(model(**inputs).logits.to(given.dtype), given)
            return is_last and _is_same(logits[0], nn.functional.linear(hidden, head.weight, head.bias), hidden.dtype)

    # -- linears, norms, gates ----------------------------------------------------------------------------------------

    def _install_linears(self) -> None:
        for path, module in self._modules():
            is_frozen = type(module) is nn.Linear and not module.weight.requires_grad
            if is_frozen and takes(module.weight):
                self._surgery.set(path, "forward", linear_forward(module))
                self.counts["linears"] += 1

    def _modules(self) -> Iterator[tuple[str, Any]]:
        """Yield the base's modules by path; heads in the bank stay plain, so that one product can answer for many."""
        named = self.attachment.model.named_modules()
        return (
            (path, module)
            for path, module in named
            if not f"{path}.".startswith(f"{BANK_MODULE}.") and not self._is_own(path)
        )

    def _is_own(self, path: str) -> bool:
        """Whether a module lies in a head that adapters bring themselves, which is trained."""
        return any(f"{path}.".startswith(f"{head}.") for head in self.attachment.head_paths)

    def _install_norms(self) -> None:
        for path, module in self._modules():
            forward = norm_forward(module)
            if forward is None:
                continue
            x = _numbers(module.weight, module.weight.shape[0])
            if self._agrees(type(module), module, forward, x):
                self._surgery.set(path, "forward", forward)
                self.counts["norms"] += 1

    def _install_gates(self) -> None:
        numbers = {(group.module, group.side): n for n, group in enumerate(self.attachment.groups)}
        for path, module in self._modules():
            gated = gated_parts(module)
            if gated is None:
                continue
            gate, linear, last, activation = gated
            branch = getattr(module, linear)
            is_int8 = isinstance(branch, Int8Linear)  # it multiplies by its vector itself
            if (f"{path}.{gate}", "output") in numbers or not (is_int8 or branch.weight.dtype in WIDE):
                continue
            group = None if is_int8 else numbers.get((f"{path}.{linear}", "output"))
            forward = partial(gated_forward, self.attachment, module, (gate, linear, last), activation, group)
            like = branch.scale.to(next(self.attachment.model.parameters()).dtype) if is_int8 else branch.weight
            x = _numbers(like, branch.in_features)
            if self._agrees((type(module), activation.name), module, forward, x):
                self._surgery.set(path, "forward", forward)
                self.counts["gates"] += 1

    def _agrees(self, kind: Any, module: nn.Module, forward: Callable[..., Any], x: Tensor) -> bool:
        """Whether a replacement gives what the module gives; tried on the first module of a kind."""
        if kind not in self._verdicts:
            with evaluating(module):
                try:
                    self._verdicts[kind] = _is_same(module.forward(x), forward(x), _computed_in(module, x))
                except Exception:  # a module that wants more than an activation
                    self._verdicts[kind] = False
        return self._verdicts[kind]

    # -- the last block -----------------------------------------------------------------------------------------------

    def _install_last_block(self) -> tuple[str, ...]:
        """Let the last block compute what is read of it alone, and return its path if there is one."""
        model, model_type = self.attachment.model, self.attachment.bank.plan.model_type
        layers = path_of_blocks(model, model_type)
        if layers is None:
            return ()
        rule = LAST_BLOCKS[model_type]
        if getattr(model.config, "chunk_size_feed_forward", 0):  # the block cuts its positions itself
            return ()
        if not rule.reads_first and model.get_output_embeddings() is None:  # a classifier on the last position
            return ()
        if getattr(model, "reads_every_position", False):  # a classifier on the mean
            return ()
        last = f"{layers}.{len(model.get_submodule(layers)) - 1}"
        with_bank = self.attachment
        for name in rule.alone:
            self._surgery.hook_input(f"{last}.{name}", partial(_take_first, with_bank))
            self._surgery.hook_output(f"{last}.{name}", partial(_put_back, with_bank))
        if rule.opens and rule.closes:
            self._surgery.hook_input(f"{last}.{rule.opens}", partial(_take_first, with_bank))
            self._surgery.hook_input(f"{last}.{rule.closes}", partial(_take_rest, with_bank))
            self._surgery.hook_output(f"{last}.{rule.closes}", partial(_put_back, with_bank))
        self.counts["last blocks"] = 1
        return (last,)


def _small_inputs(model: Any) -> dict[str, Any]:
    """Return what a model is tried on: three tokens, for the base alone."""
    ids = torch.tensor([[1, 2, 3]], device=input_device(model))
    inputs: dict[str, Any] = {"input_ids": ids, "rows": BASE_NAME}
    return inputs | {"decoder_input_ids": ids} if model.config.is_encoder_decoder else inputs


def _see_outputs(attachment: Attachment) -> None:
    """Let a small pass show which outputs a model writes over, so that a run keeps the same from its first step on."""
    model = attachment.model
    if attachment.overwriting.is_seen(model.training):
        return
    with torch.no_grad(), torch.random.fork_rng(devices=range(torch.cuda.device_count())):  # dropout would draw
        try:
            model(**_small_inputs(model))
        except Exception:  # a model that wants other inputs than ids: its first step shows it
            return


def _numbers(like: Tensor, width: int) -> Tensor:
    """Return small, usual and large activations to try a module on, shape (1, 3, width).

    The small ones show an epsilon, the large ones a bound; the global random numbers stay where they are.
    """
    random = torch.Generator().manual_seed(0)
    return (torch.randn(1, 3, width, generator=random) * torch.tensor([[1e-3], [1.0], [30.0]])).to(like)


def _is_same(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether two results agree at every position, relative to its largest number; `dtype` is what was computed in."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    tolerance = _TOLERANCE if dtype in EXACT else 2e-2
    difference, size = (x.abs().amax(dim=-1) for x in (found - expected, expected))
    return bool((difference <= tolerance * size).all())


def _computed_in(module: nn.Module, x: Tensor) -> torch.dtype:
    """Return how exactly a module computes: in int8 a last bit before a projection can be a whole step behind it."""
    return torch.int8 if any(isinstance(part, Int8Linear) for part in module.modules()) else x.dtype


def _wanted(attachment: Attachment, x: Tensor) -> Tensor | None:
    """Return the wanted positions of an activation in the pass under way, or None for all."""
    wanted = _wanted_now(attachment)
    return wanted.index if wanted is not None and x.dim() == 3 and x.shape[1] == wanted.length else None


def _wanted_now(attachment: Attachment) -> Wanted | None:
    return None if attachment.call is None else surroundings().wanted


def _take_first(attachment: Attachment, module: nn.Module, args: tuple[Any, ...]) -> Any:
    index = _wanted(attachment, args[0])
    return None if index is None else (take(args[0], index), *args[1:])


def _take_rest(attachment: Attachment, module: nn.Module, args: tuple[Any, ...]) -> Any:
    index = _wanted(attachment, args[1])
    return None if index is None else (args[0], *(take(x, index) for x in args[1:]))


def _put_back(attachment: Attachment, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
    wanted = _wanted_now(attachment)
    return None if wanted is None or output.shape[1] == wanted.length else put(output, wanted.index, wanted.length)


@contextmanager
def accelerated(attachment: Attachment, *, compiled: bool = False) -> Iterator[None]:
    """Have the faster passes on inside, whether or not they are on already; afterwards they are as they were."""
    held = acceleration_of(attachment.model)
    if held is not None and (held.is_compiled or not compiled):
        _see_outputs(attachment)
        yield
        return
    if held is not None:
        held.remove()
    try:
        with accelerate(attachment, compiled=compiled):
            _see_outputs(attachment)
            yield
    finally:
        if held is not None:
            accelerate(attachment)


def keep_accelerated(attachment: Attachment) -> Acceleration:
    """Put faster passes on the model of a bank if it has none, and return their handle; several threads may ask."""
    with _PUTTING_ON:
        return acceleration_of(attachment.model) or accelerate(attachment)
