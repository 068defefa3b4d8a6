"""A frozen projection in int8 as a module: a linear map's numbers, rounded, and the vectors that it multiplies by.

This file knows one module; which of a base are replaced is `precision`'s matter, the arithmetic `kernels.int8`'s, whose
vectors it gets `core.attach`'s.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ia3.core.calls import Multiplier
from ia3.core.samples import sampled
from ia3.kernels.int8 import find_divisors, int8_linear, quantise_weight


class Int8Linear(nn.Module):
    """A frozen linear map in int8, in the place of an `nn.Linear` or of GPT-2's `Conv1D`.

    Args:
        weight: Shape (out, in), any floating dtype.
        bias: Shape (out,), or None; held as it is.
        largest: The largest |activation| seen in each input channel, shape (in,); left out, nothing is smoothed.
        original: The parameter that `weight` is a view of; its numbers name the base in a fingerprint.
        rounds_gradients: Whether the product that gives the input's gradient is in int8 too.

    Attributes:
        weight8: int8, shape (in, out).
        scale: fp32, shape (out,).
        divisors: fp32, shape (in,), or None.
        original_shape: Of the parameter before it was rounded.
        original_sample: Some of its numbers (see `samples`).
        vector_of: Gives the vectors of the pass under way for an input, or None for ones; set by `attach`.

    Example:
        >>> layer = Int8Linear(torch.tensor([[1.0, -0.5], [0.25, 0.125]]))
        >>> layer.weight8.T.tolist()
        [[127, -64], [127, 64]]
        >>> layer(torch.tensor([[2.0, 0.0]]))
        tensor([[2.0000, 0.5000]])
    """

    weight8: Tensor
    scale: Tensor
    divisors: Tensor | None
    vector_of: Callable[[Tensor], Multiplier | None] | None = None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        largest: Tensor | None = None,
        original: Tensor | None = None,
        rounds_gradients: bool = False,
    ) -> None:
        super().__init__()
        self.rounds_gradients = rounds_gradients
        self.out_features, self.in_features = weight.shape
        divisors = None if largest is None else find_divisors(weight, largest)
        weight8, scale = quantise_weight(weight, divisors)
        self.register_buffer("weight8", weight8)
        self.register_buffer("scale", scale)
        self.register_buffer("divisors", divisors)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        known = weight if original is None else original
        self.original_shape = tuple(known.shape)
        self.original_sample = sampled(known)

    @property
    def weight(self) -> Tensor:
        """The int8 numbers as an `nn.Linear` lays them out, shape (out, in): for code that asks for dtype or shape."""
        return self.weight8.t()

    def forward(self, x: Tensor) -> Tensor:
        """Return the map's output, shape (…, out), multiplied by the vectors of the pass under way."""
        multiplier = None if self.vector_of is None else self.vector_of(x)
        constants = (self.weight8, self.scale, self.bias, self.divisors)
        if multiplier is None:
            return int8_linear(x, *constants, rounds_gradients=self.rounds_gradients)
        values, keeps = multiplier.values, multiplier.keeps_input
        return int8_linear(x, *constants, values, keeps_unscaled=keeps, rounds_gradients=self.rounds_gradients)

    def extra_repr(self) -> str:
        """Return the sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Int8Linear:
        """Follow the model to another device, never to another dtype: scales stay fp32."""
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)
        return self
