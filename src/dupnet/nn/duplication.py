"""The paper's layer: a convolution whose weights or input maps have duplicated channels.

Order of copies (the one definition, with docs/arithmetic.md): **tile**. Channel `j` of a duplicated tensor comes from channel
`j mod c'` of what is stored, as `Tensor.repeat` does.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dupnet.nn import mixed
from dupnet.nn.quantizers import Quantized, binarize, quantize_weights, standardize
from dupnet.spec import FULL

SPREAD = {1: (0.0,), 2: (0.612, -0.612), 4: (1.26, 0.42, -0.42, -1.26)}
"""Offsets of the copies, in standard deviations of the weights, for `spread_copies`. `r` copies of one latent weight, each shifted
before its sign is taken, sum to an `(r + 1)`-level quantizer; these are the thresholds of the optimal uniform one for Gaussian weights."""


class DuplicatedConv2d(nn.Module):
    """Convolution with duplicated weights or input maps, over integers where it is quantized.

    Reads a `Quantized` (or, for float input, a plain tensor) and returns a plain tensor of real values. The template
    `weight` has shape `(out_channels, in_channels * map_copies / weight_copies, k, k)`.

    Args:
        in_channels: channels of the map before duplication.
        out_channels: filters.
        kernel_size: odd; any, without padding.
        weight_bits: 1 (signs), 2 to 8 (odd integers), or 32 (floats).
        weight_copies: the template's channels are tiled this often before convolving.
        map_copies: the input's channels are tiled this often before convolving.
        gradient: `"mean"` averages the gradients of duplicates, as the paper does; `"sum"` is what the chain rule says.
        standardize_weights: centre and scale each filter's latent weights before the sign.
        spread_copies: start the `map_copies` copies of a weight equal and shift them by the constants `SPREAD`, so that they stay
            an `(r + 1)`-level quantizer. All copies receive the same gradient (they see the same map), so without this their
            differences are whatever the initial values happened to be.
        ewgs: strength of element-wise gradient scaling (`binarize`) where weights are signs.
        step: the kernel moves by so many pixels (its stride).
        padding: whether the map is surrounded by `kernel_size // 2` zeros.

    Example:
        >>> layer = DuplicatedConv2d(128, 256, weight_copies=4)
        >>> layer.weight.shape
        torch.Size([256, 32, 3, 3])
        >>> layer(Quantized(torch.ones(1, 128, 8, 8), step=0.538)).shape
        torch.Size([1, 256, 8, 8])

    Source: DupNet, sections 3.1 and 3.2, figure 2. The two shortcuts (sum the map's blocks under duplicated weights, sum the
    weights' blocks over duplicated maps) are the paper's, and exact.
    """

    offsets: Tensor
    mixed = False
    """Whether it convolves by `dupnet.nn.mixed`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        weight_bits: int = 1,
        weight_copies: int = 1,
        map_copies: int = 1,
        gradient: Literal["mean", "sum"] = "mean",
        standardize_weights: bool = False,
        spread_copies: bool = False,
        ewgs: float = 0.0,
        step: int = 1,
        padding: bool = True,
    ) -> None:
        super().__init__()
        if padding and kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd where there is padding, not {kernel_size}")
        if min(in_channels, out_channels, kernel_size, step, weight_copies, map_copies) < 1:
            raise ValueError("in_channels, out_channels, kernel_size, step, weight_copies and map_copies must be at least 1")
        if in_channels * map_copies % weight_copies:
            raise ValueError(f"{in_channels} channels x {map_copies} map copies are not a multiple of {weight_copies} weight copies")
        if weight_bits != FULL and not 1 <= weight_bits <= 8:
            raise ValueError(f"weight_bits must be 1 to 8, or {FULL} for floats, not {weight_bits}")
        if gradient not in ("mean", "sum"):
            raise ValueError(f"gradient must be 'mean' or 'sum', not {gradient!r}")
        if spread_copies and map_copies not in SPREAD:
            raise ValueError(f"spread_copies is defined for {sorted(SPREAD)} map copies, not {map_copies}")
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.step, self.border = step, kernel_size // 2 if padding else 0
        self.weight_bits, self.weight_copies, self.map_copies = weight_bits, weight_copies, map_copies
        self.gradient, self.standardize_weights, self.ewgs = gradient, standardize_weights, ewgs
        self.spread_copies = spread_copies and weight_bits == 1 and map_copies > 1
        stored = in_channels * map_copies // weight_copies
        self.weight = nn.Parameter(torch.empty(out_channels, stored, kernel_size, kernel_size))
        nn.init.normal_(self.weight, std=(2 / (kernel_size**2 * in_channels * map_copies)) ** 0.5)
        if self.spread_copies:
            if weight_copies > 1:
                raise ValueError("spread_copies is for layers whose weights are not duplicated")
            with torch.no_grad():
                self.weight.copy_(self.weight[:, :in_channels].repeat(1, map_copies, 1, 1))
            offsets = torch.tensor(SPREAD[map_copies]).repeat_interleave(in_channels).view(1, stored, 1, 1)
            self.register_buffer("offsets", offsets, persistent=False)

    def integer_weights(self) -> Tensor:
        """The template as integers (signs, or odd integers); floats if `weight_bits` is 32."""
        if self.weight_bits == FULL:
            return self.weight
        if self.weight_bits > 1:
            return quantize_weights(standardize(self.weight) if self.standardize_weights else self.weight, self.weight_bits)
        if not self.standardize_weights and not self.spread_copies:
            return binarize(self.weight, self.weight_scale(), ewgs=self.ewgs)
        latent = standardize(self.weight)
        return binarize(latent + self.offsets if self.spread_copies else latent, ewgs=self.ewgs)

    def weight_scale(self) -> Tensor:
        """`(filters, 1, 1, 1)`: the real number that one integer of the template stands for, mean|w| / mean|integer|.

        For signs that is mean|w| (XNOR-Net, HWGQ-Net). For more bits DoReFa-Net has one scale a layer; a scale is a factor of a filter
        that the batch norm removes, so here all numbers of bits have the same rule.
        """
        if self.weight_bits == FULL:
            return self.weight.new_ones(self.out_channels, 1, 1, 1)
        scale = self.weight.detach().abs().mean(dim=(1, 2, 3), keepdim=True)
        return scale if self.weight_bits == 1 else scale / self.integer_weights().detach().abs().mean(dim=(1, 2, 3), keepdim=True)

    @torch.no_grad()
    def thaw(self, deviation: float) -> None:
        """Make signs easy to move again: the same signs, but latent weights of this standard deviation and, filter by filter, normal.

        On either side of zero their order stays, so what was in doubt is in doubt. Where copies of a map have offsets, which signs
        depend on, the distribution stays and only its size changes. For layers with `standardize_weights` and 1-bit weights; others stay.
        """
        if self.weight_bits != 1 or not (self.standardize_weights or self.spread_copies):
            return
        latent = standardize(self.weight)
        if not self.spread_copies:
            flat = latent.flatten(1)
            new = torch.zeros_like(flat)
            for side, sign in ((flat >= 0, 1), (flat < 0, -1)):
                rank = flat.abs().masked_fill(~side, math.inf).argsort(dim=1).argsort(dim=1)
                size = torch.special.ndtri(0.5 + (rank + 0.5) / (2 * side.sum(dim=1, keepdim=True)))
                # The mean of a filter is taken away before its signs are, so it has to be zero: each side weighs 1.
                new = torch.where(side, sign * size / size.where(side, 0).sum(dim=1, keepdim=True), new)
            latent = standardize(new.view_as(latent))
        self.weight.copy_(latent * deviation)

    def _plain(self, template: Tensor) -> Tensor:
        return reduce(torch.add, template.repeat(1, self.weight_copies, 1, 1).chunk(self.map_copies, dim=1))

    def plain_weights(self) -> Tensor:
        """`(out_channels, in_channels, k, k)`: the integers (or floats) of the layer without copies that is the same function."""
        return self._plain(self.integer_weights().detach())

    def operands(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """The map and the weights, both in the type of `levels`, whose plain convolution is this layer's: duplicates are summed up."""
        weights = self.integer_weights().to(levels.dtype)
        if self.gradient == "mean":
            weights = _scale_gradient(weights, 1 / self.weight_copies)
            levels = _scale_gradient(levels, 1 / self.map_copies)
        if self.map_copies > 1:  # W * tile(X) = (W_1 + ... + W_r) * X
            weights = self._plain(weights)
        elif self.weight_copies > 1:  # tile(W) * X = W * (X_1 + ... + X_r)
            levels = reduce(torch.add, levels.chunk(self.weight_copies, dim=1))
        return levels, weights

    def accumulate(self, levels: Tensor) -> Tensor:
        """The convolution itself, `(n, in_channels, h, w) -> (n, out_channels, h', w')`, in the type of `levels`.

        The sums of integers are exact if the type holds them all: float32 up to 2^24, float64 up to 2^53.
        """
        if self.mixed:
            return mixed.convolve(*self.operands(levels), self.border)
        if levels.dtype == torch.bfloat16:  # of a layer before that trains in mixed precision, as this one does not
            levels = levels.float()
        levels, weights = self.operands(levels)
        return F.conv2d(levels, weights, stride=self.step, padding=self.border)

    def forward(self, x: Quantized | Tensor) -> Tensor:
        levels, step = x if isinstance(x, Quantized) else (x, 1.0)
        return self.accumulate(levels) * (self.weight_scale().view(1, -1, 1, 1) * step)


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x` itself, with its gradient multiplied by `factor`."""
    return x if factor == 1 else x.detach() + factor * (x - x.detach())
