"""PEFT's tensors: what their names and shapes mean, and what cannot be read or written."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ia3.adapters.config import AdapterConfig
from ia3.adapters.peft_format import cut_vectors, peft_places, place_vectors, read_tensors, whole_sites, write_tensors
from ia3.core.sites import Channels, Site
from ia3.errors import AdapterError
from tests.adapters.examples import spread, whole

P = "base_model.model."


def read(tensors: dict[str, Tensor], **config: object) -> object:
    return read_tensors(tensors, AdapterConfig(**config), "f")  # type: ignore[arg-type]


def test_the_shape_says_the_side_whatever_the_config_says() -> None:
    found = read_tensors(
        {f"{P}a.k.ia3_l": spread((4, 1)), f"{P}a.wo.ia3_l": spread((1, 4))},
        AdapterConfig(target_modules=("k",), feedforward_modules=("k",)), "f",
    )  # fmt: skip
    assert set(found.vectors) == {("a.k", "output"), ("a.wo", "input")}
    assert torch.equal(found.vectors["a.k", "output"], spread(4))
    assert [(s.role, s.width) for s in whole_sites(found.vectors)] == [("key", 4), ("feedforward", 4)]


def test_sites_come_in_the_order_of_the_layers_however_the_file_holds_them() -> None:
    names = [f"{P}h.{layer}.{name}.ia3_l" for layer in (0, 2, 10) for name in ("k", "v")]
    expected = [("h.0.k", "output"), ("h.0.v", "output"), ("h.2.k", "output"), ("h.2.v", "output"),
                ("h.10.k", "output"), ("h.10.v", "output")]  # fmt: skip
    for order in (names, names[::-1], sorted(names)):
        assert list(read_tensors({name: spread((3, 1)) for name in order}, AdapterConfig(), "f").vectors) == expected


def test_a_single_number_is_on_the_side_that_the_config_says() -> None:
    config = AdapterConfig(feedforward_modules=("wo",))
    found = read_tensors({"wo.ia3_l": torch.ones(1, 1), "k.ia3_l": torch.ones(1, 1)}, config, "f")
    assert set(found.vectors) == {("wo", "input"), ("k", "output")}


@pytest.mark.parametrize("key", [f"{P}a.k.ia3_l", f"{P}a.k.ia3_l.default", "a.k.ia3_l", "a.k.ia3_l.my-task"])
def test_keys_are_read_as_every_version_of_peft_wrote_them(key: str) -> None:
    assert set(read_tensors({key: spread((3, 1))}, AdapterConfig(), "f").vectors) == {("a.k", "output")}


def test_heads_are_read_with_and_without_pefts_wrapper() -> None:
    found = read_tensors(
        {
            f"{P}k.ia3_l": spread((3, 1)),
            f"{P}classifier.weight": spread((2, 3)),
            f"{P}score.modules_to_save.default.dense.weight": spread((2, 2)),
            f"{P}head.modules_to_save.bias": spread(2),
            f"{P}score.original_module.dense.weight": spread((2, 2)),
        },
        AdapterConfig(),
        "f",
    )
    assert set(found.head) == {"classifier.weight", "score.dense.weight", "head.bias"}


def test_half_precision_vectors_are_widened_and_heads_left_as_they_are() -> None:
    found = read_tensors(
        {"k.ia3_l": spread((3, 1)).to(torch.bfloat16), "c.weight": spread(3).to(torch.float16)}, AdapterConfig(), "f"
    )
    assert found.vectors["k", "output"].dtype == torch.float32
    assert found.head["c.weight"].dtype == torch.float16


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        (
            {"conv.ia3_l": torch.ones(1, 4, 1, 1)},
            r"shape \(1, 4, 1, 1\) and scales a convolution, which is not",
        ),
        ({"k.ia3_l": torch.ones(4)}, r"has shape \(4,\), expected \(channels, 1\) or \(1, channels\)"),
        ({"k.ia3_l": torch.ones(4, 2)}, r"has shape \(4, 2\), expected"),
        ({"k.ia3_l": torch.ones(0, 1)}, r"has shape \(0, 1\), expected"),
        ({"k.ia3_l": torch.ones(4, 1, dtype=torch.int32)}, r"is torch\.int32, expected floating point"),
        ({"k.ia3_l": torch.tensor([[torch.nan]])}, "'k.ia3_l' holds numbers that are not finite"),
        ({"k.ia3_l.a": torch.ones(4, 1), "k.ia3_l.b": torch.ones(4, 1)}, "a second vector for its module"),
        ({"k.lora_A.weight": torch.ones(4, 1)}, r"no \(IA\)³ vector, got 1 tensors \('k.lora_A.weight'\)"),
        ({}, r"no \(IA\)³ vector, got 0 tensors \(none\)"),
    ],
)
def test_what_is_no_vector_is_named(tensors: dict[str, Tensor], told: str) -> None:
    with pytest.raises(AdapterError, match=told):
        read(tensors)


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(AdapterError, match=r"'a0\.ia3_l' .*'a4\.ia3_l' .*and 2 more"):
        read({f"a{n}.ia3_l": torch.ones(2, 2) for n in range(7)})


def test_slices_are_written_as_one_whole_vector_with_ones_elsewhere() -> None:
    sites = (
        Site("qkv", "output", "key", Channels(2, 6, 2, 2), 12),
        Site("qkv", "output", "value", Channels(2, 6, 4, 2), 12),
    )
    vectors = {"qkv[key]": spread(4, 1), "qkv[value]": spread(4, 2)}
    placed = place_vectors(sites, vectors)
    k, v = (vector.tolist() for vector in vectors.values())
    assert placed["qkv", "output"].tolist() == [1, 1, *k[:2], *v[:2], 1, 1, *k[2:], *v[2:]]
    cut = cut_vectors(sites, placed)
    assert cut is not None and all(torch.equal(cut[name], vectors[name]) for name in vectors)


def test_a_vector_lies_where_pefts_default_expects_it_unless_another_lies_there() -> None:
    up = whole("up", "output", 4, peft=("down", "input"))
    down = whole("down", "input", 4)
    assert peft_places((up,)) == {"up": ("down", "input")}
    assert peft_places((up, down)) == {"up": ("up", "output"), "down[input]": ("down", "input")}
    content = write_tensors(place_vectors((up, down), {"up": spread(4), "down[input]": spread(4)}), {})
    assert {name: tuple(t.shape) for name, t in content.items()} == {f"{P}up.ia3_l": (4, 1), f"{P}down.ia3_l": (1, 4)}


@pytest.mark.parametrize(
    "vectors",
    [
        {("k", "input"): spread(4)},
        {("k", "output"): spread(5)},
        {("k", "output"): spread(4), ("v", "output"): spread(4)},
    ],
)
def test_sites_are_not_cut_out_of_other_tensors(vectors: dict[tuple[str, str], Tensor]) -> None:
    assert cut_vectors((whole("k", "output", 4),), vectors) is None  # type: ignore[arg-type]


def test_tensors_that_share_memory_are_written_apart() -> None:
    tied = spread((2, 2))
    content = write_tensors({("k", "output"): spread(2)}, {"a.weight": tied, "b.weight": tied.t()})
    assert len({tensor.data_ptr() for tensor in content.values()}) == 3
    assert all(tensor.is_contiguous() for tensor in content.values())
