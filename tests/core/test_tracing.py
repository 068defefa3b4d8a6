"""What is written down while the model runs once is refused; what is compiled keeps its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ia3.errors import BankError
from tests.core.banks import attached_model
from tests.families import make_inputs


class _Logits(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits


def _trace(module: nn.Module, ids: Tensor) -> Any:
    return torch.jit.trace(module, (ids,), check_trace=False)


def _export(module: nn.Module, ids: Tensor) -> Any:
    return torch.export.export(module, (ids,), strict=False)


def _make_fx(module: nn.Module, ids: Tensor) -> Any:
    return make_fx(module)(ids)


@pytest.mark.parametrize("write_down", [_trace, _export, _make_fx])
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # the tracer reads every attribute
def test_a_model_with_a_bank_is_not_traced(write_down: Callable[[nn.Module, Tensor], Any]) -> None:
    """A trace made with one adapter answered by it inside `use` of another and inside `disabled()`."""
    model, attachment = attached_model("llama", "a")
    with (
        torch.no_grad(),
        attachment.use("a"),
        pytest.raises(BankError, match=r"Tracing the model: .* Merge the adapter"),
    ):
        write_down(_Logits(model), make_inputs("llama")["input_ids"])


@pytest.mark.slow
def test_a_compiled_model_asks_for_its_rows_at_every_call() -> None:
    model, attachment = attached_model("llama", "a", "b")
    attachment.activate("a")
    inputs = make_inputs("llama")
    compiled = torch.compile(model, backend="eager")
    for name in ("a", "b", "__base__", "a"):
        with torch.no_grad(), attachment.use(name):
            assert torch.equal(compiled(**inputs).logits, model(**inputs, rows=name).logits)
    with pytest.raises(BankError, match="'nobody'"):
        compiled(**inputs, rows="nobody")
