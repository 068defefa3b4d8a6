"""What a training pass keeps in memory, counted: the faster way keeps less than the frozen model does without adapters.

The floor is the frozen model with a gradient to its embeddings. The row itself, one copy for the whole pass, is counted
apart: it does not grow with the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from torch.nn import functional

from ia3.core.attach import Attachment, attach_bank
from ia3.core.bank import Bank
from ia3.core.discovery import find_plan
from ia3.data.batches import IGNORED, Batch
from ia3.fast.acceleration import accelerate
from ia3.inference.logits import class_logits, logits_at
from ia3.training.losses import sum_loss
from tests.families import CASES, VOCABULARY, make_inputs, make_model
from tests.fast.passes import seeded, take_onednn
from tests.kernels.kept import Kept, address

BATCH, SEQ, DECODED = 3, 7, 4  # of `make_inputs`
WIDTH, D_FF = 16, 24  # of the tiny models


@pytest.fixture(autouse=True)
def _onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    take_onednn(monkeypatch)


def _gemma3(key_value_heads: int) -> Any:
    """Return a tiny Gemma 3 with four query heads; Gemma 3 270M has four and one of keys and values."""
    config = hf.Gemma3TextConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=D_FF, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=key_value_heads, head_dim=4, query_pre_attn_scalar=4, sliding_window=4,
        layer_types=["sliding_attention", "full_attention"], max_position_embeddings=64, pad_token_id=0,
        eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    with seeded(0):
        return hf.Gemma3ForCausalLM(config).eval()


MODELS: dict[str, Callable[[], Any]] = {
    "gemma3": lambda: _gemma3(1),
    "gemma3 grouped": lambda: _gemma3(2),
    **{family: lambda family=family: make_model(family) for family in ("llama", "mt5", "bert")},  # type: ignore[misc]
}


def _with_row(model: Any, *, has_zero: bool = False) -> Attachment:
    attachment = attach_bank(model, Bank(find_plan(model)))
    for seed, name in enumerate("ab"):
        row = 0.5 + torch.rand(attachment.bank.plan.width, generator=torch.Generator().manual_seed(seed))
        row[:: 3 if has_zero else 10**6] = 0.0 if has_zero else 0.5
        attachment.bank.add(name, row, trainable=True)
    return attachment


@contextmanager
def _embeddings_want_gradients(model: Any) -> Iterator[None]:
    handles = [
        module.register_forward_hook(lambda module, args, out: out.requires_grad_(True))
        for module in _embeddings(model)
    ]
    yield
    for handle in handles:
        handle.remove()


def _embeddings(model: Any) -> list[nn.Module]:
    """Return the modules that hold the matrix of the words: T5's encoder and decoder have one each."""
    matrix = model.get_input_embeddings().weight
    return [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight is matrix]


def _kept_by(model: Any, path: str, inputs: dict[str, Any], attachment: Attachment | None = None) -> Kept:
    """Run the model, and return what the module at `path` keeps, the row left out."""
    found: list[Kept] = []

    def open_(module: Any, args: Any) -> None:
        multipliers = () if attachment is None else attachment.call.multipliers  # type: ignore[union-attr]
        found.append(Kept(model, [m.values for m in multipliers if m is not None]).__enter__())

    def close(module: Any, args: Any, output: Any) -> None:
        found[-1].__exit__()

    module = model.get_submodule(path)
    handles = [module.register_forward_pre_hook(open_), module.register_forward_hook(close)]
    try:
        model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[-1]


def _kept_in_three_ways(name: str, path: str, rows: Any = "a", **options: Any) -> tuple[Kept, Kept, Kept]:
    """Return what a module keeps frozen, with a row multiplied plainly, and with faster passes."""
    model = MODELS[name]()
    inputs: dict[str, Any] = dict(make_inputs(name.split()[0], padded=True))
    if name != "bert":
        inputs["use_cache"] = False
    model.requires_grad_(False)
    with _embeddings_want_gradients(model):
        floor = _kept_by(model, path, inputs)
    attachment = _with_row(model, **options)
    plain = _kept_by(model, path, {**inputs, "rows": rows}, attachment)
    with accelerate(attachment):
        return floor, plain, _kept_by(model, path, {**inputs, "rows": rows}, attachment)


# -- gated feed-forward ------------------------------------------------------------------------------------------------

GATED = {  # path of a block, and how many of tokens × d_ff the frozen one keeps: mT5's activation is written out
    "gemma3": ("model.layers.1.mlp", 3),
    "llama": ("model.layers.1.mlp", 3),
    "mt5": ("encoder.block.1.layer.1.DenseReluDense", 6),
}
ROWS = {"one row": "a", "row per example": ["a", "__base__", "b"]}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("name", GATED)
def test_a_gated_block_keeps_two_tensors_where_the_frozen_one_keeps_three(name: str, rows: Any) -> None:
    path, frozen = GATED[name]
    floor, plain, fast = _kept_in_three_ways(name, path, rows)
    tensor = BATCH * SEQ * D_FF * 4
    assert floor.total == frozen * tensor
    assert plain.total == frozen * tensor
    assert fast.total == 2 * tensor
    assert fast.total <= 0.67 * floor.total


@pytest.mark.parametrize("name", GATED)
def test_a_zero_in_the_row_costs_the_plain_block_a_tensor_and_the_fast_one_nothing(name: str) -> None:
    path, frozen = GATED[name]
    _, plain, fast = _kept_in_three_ways(name, path, has_zero=True)
    tensor = BATCH * SEQ * D_FF * 4
    assert plain.total == (frozen + 1) * tensor
    assert fast.total == 2 * tensor


# -- attention ---------------------------------------------------------------------------------------------------------

ATTENTION = {  # path of an attention, and how many numbers a token it keeps beside what the frozen one keeps
    "gemma3": ("model.layers.1.self_attn", 0),
    "bert": ("bert.encoder.layer.1.attention", 0),
    "mt5": ("encoder.block.1.layer.0.SelfAttention", 0),
    "gemma3 grouped": ("model.layers.1.self_attn", 8),  # values, of which attention keeps a repeated copy
    "llama": ("model.layers.1.self_attn", 16),  # the same, and keys, which it keeps rotated and repeated
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("name", ATTENTION)
def test_attention_keeps_what_the_frozen_one_keeps(name: str, rows: Any) -> None:
    path, more = ATTENTION[name]
    floor, plain, fast = _kept_in_three_ways(name, path, rows)
    assert plain.total == floor.total + more * BATCH * SEQ * 4
    assert fast.total == floor.total + more * BATCH * SEQ * 4


def test_cross_attention_keeps_what_the_frozen_one_keeps() -> None:
    floor, plain, fast = _kept_in_three_ways("mt5", "decoder.block.1.layer.1.EncDecAttention")
    assert fast.total == plain.total == floor.total


# -- a whole step ------------------------------------------------------------------------------------------------------


def _batch(name: str) -> Batch:
    """Return a batch with two targets an example."""
    inputs = make_inputs(name, padded=True)
    choices, decoder = torch.arange(BATCH), inputs.get("decoder_input_ids")
    labels = choices
    if CASES[name].kind != "encoder":
        labels = torch.full_like(inputs["input_ids"] if decoder is None else decoder, IGNORED)
        for example, length in enumerate(inputs["attention_mask"].sum(dim=1) if decoder is None else [DECODED] * BATCH):
            labels[example, length - 2 : length] = torch.tensor([5, 1])
    return Batch(inputs["input_ids"], inputs["attention_mask"], decoder, labels, choices, tuple(range(BATCH)))


def _frozen_loss(model: Any, kind: str, batch: Batch) -> Tensor:
    if kind == "encoder":
        return functional.cross_entropy(class_logits(model, batch.inputs), batch.choices, reduction="sum")
    positions = batch.labels != IGNORED
    logits = logits_at(model, positions, {**batch.inputs, "use_cache": False})
    return functional.cross_entropy(logits, batch.labels[positions], reduction="sum")


def _step_in_three_ways(name: str) -> tuple[Kept, Kept, Kept]:
    model, kind, batch = MODELS[name](), CASES[name].kind, _batch(name)
    model.requires_grad_(False)
    with _embeddings_want_gradients(model), Kept(model) as floor:
        _frozen_loss(model, kind, batch)
    attachment = _with_row(model)
    with Kept(model) as plain:
        sum_loss(model, kind, batch, "a")  # type: ignore[arg-type]
    with accelerate(attachment), Kept(model) as fast:
        sum_loss(model, kind, batch, "a")  # type: ignore[arg-type]
    return floor, plain, fast


@pytest.mark.parametrize(("name", "most"), [("gemma3", 0.9), ("llama", 0.9), ("mt5", 0.9), ("bert", 1.0)])
def test_a_whole_step_keeps_less_than_the_frozen_model(name: str, most: float) -> None:
    floor, plain, fast = _step_in_three_ways(name)
    assert fast.total <= most * floor.total
    assert fast.total < plain.total


@pytest.mark.parametrize("name", ["gemma3", "mt5", "bert"])
def test_the_row_is_kept_once_however_many_sites_read_it(name: str) -> None:
    model, batch = MODELS[name](), _batch(name)
    attachment, seen = _with_row(model), set[int]()

    def note(module: Any, args: Any, output: Any) -> None:
        seen.update(address(m.values) for m in attachment.call.multipliers if m is not None)  # type: ignore[union-attr]

    for module in _embeddings(model):
        module.register_forward_hook(note)
    with accelerate(attachment), Kept(model) as kept:
        sum_loss(model, CASES[name].kind, batch, "a")  # type: ignore[arg-type]
    assert len(seen) == 1
    assert kept.bytes[seen.pop()] == attachment.bank.plan.width * 4
