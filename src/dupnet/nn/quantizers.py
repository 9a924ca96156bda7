"""Quantizers: real numbers to levels (activations) and to signs or odd integers (weights), with their gradients.

A quantized activation is a pair: integer-valued `levels` (floats 0, 1, 2, ...) and the `step` that one level stands for.
Convolutions read the levels, so their sums are exact integers in float32; the step is a common factor that the batch norm
behind a convolution removes. `dupnet.conversion` finds thresholds by asking these modules, never by repeating their formulas.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

HWGQ_STEPS = {1: 0.799, 2: 0.538, 3: 0.3217, 4: 0.185, 8: 0.0165}
"""Step of the optimal uniform quantizer of a half-wave Gaussian. Source: HWGQ-Net; EdMIPS's table; 8 bits by Lloyd's iteration."""


class Quantized(NamedTuple):
    """A quantized tensor.

    Attributes:
        levels: integer-valued floats, `{0 .. 2^bits - 1}`.
        step: the real number that one level stands for.
    """

    levels: Tensor
    step: Tensor | float

    @property
    def values(self) -> Tensor:
        """The real values, `levels * step`."""
        return self.levels * self.step


def straight_through(exact: Tensor, smooth: Tensor) -> Tensor:
    """`exact` in the forward pass (bit for bit: `smooth - smooth` is 0), the gradient of `smooth` in the backward pass."""
    return exact.detach() + (smooth - smooth.detach())


class HWGQ(nn.Module):
    """Half-wave Gaussian quantizer: fixed step, meant for inputs of zero mean and unit variance (after batch norm).

    `level = #{x > 0, x > 1.5 step, x > 2.5 step, ...}`: the first threshold is 0, not half a step. The gradient passes
    where `0 <= x <= (2^bits - 1) step`.

    Example:
        >>> HWGQ(bits=2)(torch.tensor([-1.0, 0.1, 0.9, 9.0])).levels
        tensor([0., 1., 2., 3.])

    Source: HWGQ-Net (Cai et al., 2017), sections 3 and 4; thresholds as in its published Caffe code.
    """

    def __init__(self, bits: int = 2) -> None:
        super().__init__()
        if bits not in HWGQ_STEPS:
            raise ValueError(f"HWGQ has steps for {sorted(HWGQ_STEPS)} bits, not {bits}")
        self.bits, self.step = bits, HWGQ_STEPS[bits]

    def forward(self, x: Tensor) -> Quantized:
        top = 2**self.bits - 1
        scaled = x / torch.full((), self.step, dtype=x.dtype, device=x.device)  # by a plain number, a GPU would multiply by its inverse
        smooth = scaled.clamp(0, top)
        # ceil(s - 1/2) sends (1.5, 2.5] to 2 as the rule wants; everything in (0, 1.5] becomes 1.
        levels = torch.where(scaled > 0, (scaled - 0.5).ceil().clamp(1, top), 0.0)
        return Quantized(straight_through(levels, smooth), self.step)


class PACT(nn.Module):
    """Clipping at a learned bound `a`, then uniform rounding: `level = floor(clamp(x, 0, a) (2^bits - 1) / a + 1/2)`.

    Args:
        bits: of a level.
        bound: initial `a`. After batch norm a value near 2 (3 steps of HWGQ are 1.6) is sensible; the PACT paper starts at 10.

    Source: PACT (Choi et al., 2018). The bound gets the gradient of `y = clamp(x, 0, a)` rounded straight through. That is LSQ's
    (Esser et al., 2020): with `v = x / step`, `round(v) - v` inside and the top level where it is clipped, for each unit of `step`.
    """

    def __init__(self, bits: int = 2, bound: float = 2.0) -> None:
        super().__init__()
        if not 1 <= bits <= 8 or not bound > 0:
            raise ValueError(f"bits must be 1 to 8 and bound above 0, not {bits} and {bound}")
        self.bits, self.top = bits, 2**bits - 1
        self.bound = nn.Parameter(torch.tensor(float(bound)))

    def step(self) -> Tensor:
        """The real number that one level stands for, a scalar."""
        return self.bound.clamp(min=1e-3) / self.top

    def forward(self, x: Tensor) -> Quantized:
        bound = self.bound.clamp(min=1e-3)
        smooth = (x * (self.top / bound)).clamp(0, self.top)
        return Quantized(straight_through((smooth + 0.5).floor(), smooth), self.step())


class LeakyReLU(nn.LeakyReLU):
    """Darknet's activation for layers that stay in floats: slope 0.1 below zero."""

    def __init__(self) -> None:
        super().__init__(0.1)


def standardize(weight: Tensor) -> Tensor:
    """Each filter's weights, centred and divided by their standard deviation. Shape `(filters, c, k, k)`."""
    centred = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
    return centred * (centred.square().mean(dim=(1, 2, 3), keepdim=True) + 1e-12).rsqrt()


class _Scaled(torch.autograd.Function):
    """`exact` in the forward pass, the gradient of `smooth` by element-wise gradient scaling in the backward pass."""

    @staticmethod
    def forward(ctx: Any, exact: Tensor, smooth: Tensor, strength: float) -> Tensor:
        ctx.save_for_backward((smooth - exact).clamp(-1, 1))
        ctx.strength = strength
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        (distance,) = ctx.saved_tensors
        return None, gradient * (1 + ctx.strength * gradient.sign() * distance), None


def binarize(weight: Tensor, scale: Tensor | None = None, *, ewgs: float = 0.0) -> Tensor:
    """Signs of the weights, `{-1, +1}`, with sign(0) = +1.

    Args:
        weight: latent float weights.
        scale: per-filter scale `(filters, 1, 1, 1)`. If given, the gradient that reaches `weight` is the gradient with
            respect to `scale * sign(weight)` (HWGQ's and Darknet's rule); otherwise the one with respect to the signs.
        ewgs: strength `d` of element-wise gradient scaling; 0 for none. A gradient `g` becomes `g (1 + d sign(g) (w - sign(w)))`, with a
            difference of at most 1: what pulls a weight towards -1 or +1 counts more than what pushes it away. So none drifts off so far
            that its sign is never in question again.

    Source of `ewgs`: Lee et al., 2021, "Network Quantization with Element-wise Gradient Scaling".
    """
    signs = torch.where(weight >= 0, 1.0, -1.0)
    smooth = weight if scale is None else weight / scale.detach()
    return _Scaled.apply(signs, smooth, ewgs) if ewgs else straight_through(signs, smooth)  # type: ignore[no-untyped-call]


def quantize_weights(weight: Tensor, bits: int) -> Tensor:
    """Odd integers in `±(2^bits - 1)` by DoReFa's rule, `2 round(u (2^bits - 1)) - (2^bits - 1)`, `u = tanh(w) / (2 max|tanh(w)|) + 1/2`.

    Source: DoReFa-Net (Zhou et al., 2016), equation 9: `2^bits` levels, none of them zero.
    """
    top = 2**bits - 1
    t = weight.tanh()
    smooth = t / t.abs().max().clamp(min=1e-12) * top
    return straight_through(2 * ((smooth + top) / 2).round() - top, smooth)
