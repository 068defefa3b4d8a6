"""Wanted positions: chosen once each, taken and put back, and one is the other's adjoint."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ia3.kernels.wanted import choose, put, take
from tests.kernels.kept import Kept

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}
grids = st.integers(0, 6).flatmap(
    lambda seq: st.lists(st.lists(st.booleans(), min_size=seq, max_size=seq), min_size=1, max_size=5)
)


def _numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def _index(batch: int, length: int, wanted: int, seed: int = 0) -> Tensor:
    """Return distinct positions in any order, others for each example."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randperm(length, generator=generator)[:wanted] for _ in range(batch)]
    return torch.stack(drawn) if drawn else torch.zeros(0, wanted, dtype=torch.long)


@given(grid=grids)
def test_each_example_gets_its_wanted_positions_and_no_one_twice(grid: list[list[bool]]) -> None:
    positions = torch.tensor(grid, dtype=torch.bool).view(len(grid), -1)
    most, seq = int(positions.sum(dim=1).max()) if positions.numel() else 0, positions.shape[1]
    wanted = choose(positions)
    if most in (0, seq):
        assert wanted is None
        return
    assert wanted is not None and wanted.length == seq and wanted.index.shape == (len(grid), most)
    for row, index in zip(grid, wanted.index.tolist(), strict=True):
        asked = [place for place, is_asked in enumerate(row) if is_asked]
        assert index[: len(asked)] == asked  # in order, so that the ones behind are those that nobody reads
        assert len(set(index)) == most


def test_rows_that_want_fewer_get_some_that_nobody_reads() -> None:
    wanted = choose(torch.tensor([[0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool))
    assert wanted is not None
    assert wanted.index.tolist() == [[1, 3], [3, 0], [0, 1]]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 1, 1), (3, 7, 1), (2, 5, 0), (0, 4, 2)], ids=str)
def test_taking_and_putting_undo_each_other(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    batch, length, features = shape
    x = _numbers(*shape, dtype=dtype)
    for wanted in range(1, length + 1):
        index = _index(batch, length, wanted)
        taken = take(x, index)
        assert taken.shape == (batch, wanted, features) and taken.dtype == dtype
        assert torch.equal(taken, x.gather(1, index.unsqueeze(2).expand(-1, -1, features)))
        back = put(taken, index, length)
        is_wanted = torch.zeros(batch, length, dtype=torch.bool).scatter(1, index, True).unsqueeze(2)
        assert torch.equal(back, torch.where(is_wanted, x, 0))
        assert torch.equal(take(back, index), taken)


def test_activations_may_be_strided() -> None:
    whole, index = _numbers(6, 8, 10), _index(6, 8, 3)
    for x in (whole[..., ::2], whole.transpose(1, 2)[:, :8], whole[:1].expand(6, 8, 10)):
        assert torch.equal(take(x, index), x.gather(1, index.unsqueeze(2).expand(-1, -1, x.shape[2])))
        assert torch.equal(put(x[:, :3], index, 8), put(x[:, :3].contiguous(), index, 8))


def test_one_is_the_adjoint_of_the_other() -> None:
    index = _index(3, 7, 2)
    x, y = _numbers(3, 7, 4).requires_grad_(True), _numbers(3, 2, 4, seed=1).requires_grad_(True)
    torch.testing.assert_close((take(x, index) * y).sum(), (x * put(y, index, 7)).sum())
    (dx,) = torch.autograd.grad(take(x, index), x, y.detach())
    (dy,) = torch.autograd.grad(put(y, index, 7), y, x.detach())
    assert torch.equal(dx, put(y, index, 7)) and torch.equal(dy, take(x, index))


def test_gradcheck_in_float64() -> None:
    index = _index(2, 5, 3)
    assert torch.autograd.gradcheck(lambda x: take(x, index), (_numbers(2, 5, 2).requires_grad_(True),))
    assert torch.autograd.gradcheck(lambda x: put(x, index, 5), (_numbers(2, 3, 2).requires_grad_(True),))


def test_no_activation_is_kept() -> None:
    index = _index(2, 5, 3)
    with Kept() as kept:
        put(take(_numbers(2, 5, 4).requires_grad_(True), index).requires_grad_(True), index, 5)
    assert set(kept.shapes.values()) == {(6,)}, "positions and nothing else"
