"""Weights that lie elsewhere are brought before they are hashed, copied or multiplied, or a sentence says why not."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from ia3.adapters.attached import attach, load
from ia3.adapters.identity import base_fingerprint
from ia3.core.merge import merge
from ia3.core.weights import input_device, own_name, tensor_names
from ia3.errors import BankError, BaseError, IA3Error
from tests.core.banks import largest, random_row, tiny_model
from tests.families import make_inputs

_HERE = torch.device("cpu")


def _to_memory(model: Any, _: Path) -> None:
    accelerate.cpu_offload(model, execution_device=_HERE, offload_buffers=True)


def _to_disk(model: Any, folder: Path) -> None:
    accelerate.disk_offload(model, offload_dir=str(folder / "away"), execution_device=_HERE)


@torch.no_grad()
def _logits(model: Any, family: str, **options: Any) -> Tensor:
    return model(**make_inputs(family, padded=True), **options).logits


@pytest.mark.parametrize("offload", [_to_memory, _to_disk])
@pytest.mark.parametrize("family", ["llama", "gpt2", "t5-gated", "bert"])
def test_an_offloaded_base_is_merged_saved_and_known_as_if_it_were_in_memory(
    family: str, offload: Callable[[Any, Path], None], tmp_path: Path
) -> None:
    """Between the passes accelerate leaves parameters on the meta device; what was merged into these was lost."""
    model, plain = tiny_model(family), tiny_model(family)
    offload(model, tmp_path)
    assert next(model.parameters()).is_meta
    assert base_fingerprint(model) == base_fingerprint(plain)
    heads = ("classifier",) if family == "bert" else ()
    attachment = attach(model, name="news", head_modules=heads)
    attachment.bank.set_vector("news", random_row(attachment.bank))
    attached = _logits(model, family, rows="news")
    assert largest(attached - _logits(plain, family)) > 0.01
    merged = merge(attachment, "news")
    assert largest(_logits(merged, family) - attached) <= 1e-5
    assert torch.equal(_logits(model, family, rows="news"), attached)
    assert not any({"_hf_hook", "_old_forward", "forward"} & set(module.__dict__) for module in merged.modules())
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in plain.named_parameters()]
    model.save_pretrained(tmp_path / "adapter")
    load(plain, tmp_path / "adapter", "news")
    assert largest(_logits(plain, family, rows="news") - attached) <= 1e-6


def test_a_base_that_is_offloaded_under_its_bank_is_told() -> None:
    """The row in training would go along, and its optimizer hold a parameter that no pass reads."""
    model = tiny_model("llama")
    attachment = attach(model, name="news")
    _to_memory(model, Path())
    with pytest.raises(BankError, match=r"'news': its row was offloaded with the model .* Offload the base first"):
        _logits(model, "llama", rows="news")
    with pytest.raises(BankError, match="offloaded"):
        merge(attachment, "news")


def test_a_row_at_rest_stays_in_memory_when_its_base_is_offloaded() -> None:
    model = tiny_model("llama")
    attachment = attach(model, name="news", trainable=False)
    attachment.bank.set_vector("news", random_row(attachment.bank))
    before = _logits(model, "llama", rows="news")
    _to_memory(model, Path())
    assert torch.equal(_logits(model, "llama", rows="news"), before)
    merged = merge(attachment, "news")
    assert largest(_logits(merged, "llama") - before) <= 1e-5
    assert not any("forward" in module.__dict__ for module in merged.modules())
    assert torch.equal(_logits(model, "llama", rows="news"), before)


def test_a_model_without_numbers_is_not_run() -> None:
    with torch.device("meta"), pytest.raises(BaseError, match=r"its weights are on the meta device .* from_pretrained"):
        input_device(nn.Linear(2, 2))


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def _sharded(model: Any) -> Any:
    for layer in model.bert.encoder.layer if hasattr(model, "bert") else model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_sharded_model_is_trained_and_its_adapter_saved_with_what_was_trained(family: str, tmp_path: Path) -> None:
    """Rows and weights become DTensors, which could neither be hashed nor written."""
    model, plain = tiny_model(family), tiny_model(family)
    heads = ("classifier",) if family == "bert" else ()
    attachment = attach(model, name="news", head_modules=heads)
    attachment.bank.set_vector("news", random_row(attachment.bank))
    names = list(model.state_dict())
    _sharded(model)
    assert base_fingerprint(model, heads) == base_fingerprint(plain, heads)
    model(**make_inputs(family), rows="news").logits.square().sum().backward()
    with torch.no_grad():
        for parameter in attachment.bank.parameters():
            parameter -= 0.01 * parameter.grad
    trained = attachment.bank.vector("news")
    assert type(trained) is Tensor
    assert largest(trained - random_row(attachment.bank)) > 0
    model.save_pretrained(tmp_path / "own")
    whole = {name: getattr(t, "full_tensor", lambda t=t: t)() for name, t in model.state_dict().items()}
    assert list(whole) == names
    model.save_pretrained(tmp_path / "trainer", state_dict=whole)
    for folder in ("own", "trainer"):
        loaded = load(copy.deepcopy(plain), tmp_path / folder, "news")
        assert torch.equal(loaded.bank.vector("news"), trained)
    with pytest.raises(BaseError, match=r"Merging adapter 'news': .* each process has a part of it \(DTensor\)"):
        merge(attachment, "news")
    attachment.bank.set_vector("news", random_row(attachment.bank, seed=1))
    assert torch.equal(attachment.bank.vector("news"), random_row(attachment.bank, seed=1))


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_an_adapter_is_loaded_on_a_model_that_is_sharded_already(family: str, tmp_path: Path) -> None:
    plain, model = tiny_model(family), _sharded(tiny_model(family))
    heads = ("classifier",) if family == "bert" else ()
    attachment = attach(plain, name="news", head_modules=heads)
    attachment.bank.set_vector("news", random_row(attachment.bank))
    plain.save_pretrained(tmp_path / "adapter")
    load(model, tmp_path / "adapter", "news")
    assert largest(_logits(model, family, rows="news") - _logits(plain, family, rows="news")) <= 1e-6


@pytest.fixture
def one_of_two_processes() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_of_two_processes")
def test_a_row_of_its_own_is_trained_by_no_process() -> None:
    """Put on a model that was sharded before, a row would get the gradient of one process's examples alone."""
    model = _sharded(tiny_model("llama"))
    with pytest.raises(BankError, match=r"that 2 processes share: it was sharded before .* Attach first, then shard"):
        attach(model, name="news")
    attach(model, name="news", trainable=False)


@pytest.mark.usefixtures("one_of_two_processes")
@pytest.mark.parametrize("trainable", [True, False])
def test_a_model_whose_channels_are_split_among_processes_gets_no_bank(trainable: bool) -> None:
    """Its keys are half as wide as the vector, which ended in torch's message about the sizes of two tensors."""
    model = tiny_model("llama")
    layer = model.model.layers[0].self_attn.k_proj
    mesh = init_device_mesh("cpu", (2,))
    layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, [Shard(0)], src_data_rank=None))
    with pytest.raises(
        BankError, match=r"2 processes each compute a part of this model's channels \(tensor parallel\)"
    ):
        attach(model, name="news", trainable=trainable)


class _Rounded(Tensor):
    """A weight as torchao holds one: a tensor that says it is fp32 and holds int8."""

    def __new__(cls, steps: Tensor, scale: float) -> _Rounded:
        return torch.Tensor._make_wrapper_subclass(cls, steps.shape, dtype=torch.float32)

    def __init__(self, steps: Tensor, scale: float) -> None:
        self.steps, self.scale = steps, scale

    def __tensor_flatten__(self) -> tuple[list[str], float]:
        return ["steps"], self.scale

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], scale: float, size: Any, stride: Any) -> _Rounded:
        return _Rounded(inner["steps"], scale)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return cls(args[0].steps, args[0].scale)
        raise NotImplementedError(str(function))

    def dequantize(self) -> Tensor:
        return self.steps.float() * self.scale


def test_a_weight_of_a_rounding_library_is_known_by_its_numbers_and_never_merged() -> None:
    """It calls itself fp32, so that merging went on to a NotImplementedError of aten.mul."""
    model = tiny_model("llama")
    layer = model.model.layers[0].self_attn.k_proj
    steps = (layer.weight.detach() * 100).round().to(torch.int8)
    layer.weight = nn.Parameter(_Rounded(steps, 0.01), requires_grad=False)
    plain = tiny_model("llama")
    plain.model.layers[0].self_attn.k_proj.weight.data = steps.float() * 0.01
    assert base_fingerprint(model) == base_fingerprint(plain)
    attachment = attach(model, name="news")
    with pytest.raises(BankError, match=r"k_proj': its weight is quantised, got _Rounded for a weight"):
        merge(attachment, "news")


def test_a_weight_that_is_made_of_others_is_never_merged() -> None:
    """What was written into it was lost when it was read the next time: the merged model was the base."""
    model = tiny_model("llama")
    nn.utils.parametrizations.weight_norm(model.model.layers[0].mlp.up_proj)
    attachment = attach(model, name="news")
    with pytest.raises(BankError, match=r"up_proj': its weight is made anew from other parameters \(parametrizations"):
        merge(attachment, "news")


@pytest.mark.parametrize("what", ["empty", "flat", "meta"])
def test_weights_that_are_not_there_are_told_by_name(what: str, tmp_path: Path) -> None:
    model = tiny_model("llama")
    weight = model.model.layers[1].mlp.down_proj.weight
    if what == "meta":
        model.to("meta")
    else:
        weight.data = torch.empty(0) if what == "empty" else weight.data.flatten()[:40]
    words = {"empty": r"ZeRO-3", "flat": "a slice of 40 numbers", "meta": "nothing keeps its numbers"}[what]
    with pytest.raises(BaseError, match=f"Identifying the base: .* is not there as a whole, .*{words}"):
        base_fingerprint(model)
    attachment = attach(model, name="news")
    with pytest.raises(IA3Error, match=words):
        merge(attachment, "news")
    with pytest.raises(IA3Error, match=words):
        model.save_pretrained(tmp_path)


def test_a_model_without_parameters_has_no_identity() -> None:
    """FSDP without use_orig_params takes them away; all such models had one fingerprint."""
    with pytest.raises(BaseError, match="the Dropout has no parameters"):
        base_fingerprint(nn.Dropout())


def test_nothing_asks_a_base_for_a_state_dict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it writes one, bitsandbytes 0.50.2 rounds the scales of 4-bit weights anew, and the base was another one."""
    model = tiny_model("llama")
    expected = set(model.state_dict())

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a state dict of the base")

    monkeypatch.setattr(type(model), "state_dict", refuse)
    monkeypatch.setattr(nn.Linear, "_save_to_state_dict", refuse)
    attachment = attach(model, name="news")
    assert model._keys_to_ignore_on_save == expected
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "checkpoint", state_dict=None)
    attachment.detach()


@pytest.mark.parametrize("family", ["t5", "llama", "bert", "gpt2"])
def test_names_are_those_of_a_state_dict(family: str) -> None:
    model = tiny_model(family)
    assert sorted(tensor_names(model)) == sorted(model.state_dict())


def test_wrappers_are_no_part_of_a_name() -> None:
    name = "_fsdp_wrapped_module.model.layers.0._checkpoint_wrapped_module._fsdp_wrapped_module.mlp.up_proj.weight"
    assert own_name(name) == "model.layers.0.mlp.up_proj.weight"
    assert own_name("layers.0._fsdp_wrapped_module") == "layers.0"
