"""Mixed precision on a CPU: the forward pass in 8-bit integers, exact; the backward pass in bfloat16.

A quantized layer multiplies small integers by small integers, so its forward pass needs no floats: 8-bit products with 32-bit sums
(oneDNN's, four times as fast as float32 on processors with VNNI) give the very numbers that `F.conv2d` gives. Reduced floats would
not: bfloat16 rounds every accumulator beyond 256. Gradients, which a quantizer passes straight through anyway, are rounded to bfloat16
before they are multiplied (twice as fast); the sums inside stay float32. Pooling keeps only where its maxima were, so no map of
full size is stored for the backward pass.

`DuplicatedConv2d.mixed` switches a layer to this; `enable` does so for the layers of a network that it fits, the others stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dupnet.errors import SpecError

if TYPE_CHECKING:
    from dupnet.nn.network import Network

GROUP = 8
"""Filters of a pooled layer come in groups of so many."""

FILTER = 3
"""Kernel size, and number of colours, of a first layer that this is made for."""


def enable(network: Network) -> list[int]:
    """Let the layers of `network` that it fits train in mixed precision.

    A layer fits if it has 1-bit weights, moves by one pixel, reads sums of levels below 2^8 whose products, two by two, stay below
    2^15 (so that processors without VNNI are exact as well), and has a multiple of 8 filters if it is pooled; the first layer, if it
    is pooled and has 3x3 kernels with a border.

    Returns:
        The numbers of these layers; 0 is the first.

    Raises:
        SpecError: this machine's processor, or torch, cannot do it.
    """
    from dupnet.nn.duplication import DuplicatedConv2d

    _check_machine()
    fitting = []
    convs = [module for module in network.modules() if isinstance(module, DuplicatedConv2d)]
    for number, (layer, conv) in enumerate(zip(network.spec.layers, convs)):
        level = (2**layer.input_bits - 1) * layer.weight_copies
        conv.mixed = conv.weight_bits == 1 and conv.step == 1 and (layer.pool == 1 or conv.out_channels % GROUP == 0)
        if number == 0:
            conv.mixed &= layer.pool == 2 and (conv.in_channels, conv.kernel_size, conv.border) == (FILTER, FILTER, 1)
        else:
            conv.mixed &= level < 2**8 and 2 * level * layer.map_copies < 2**15
        fitting += [number] * conv.mixed
    return fitting


def _check_machine() -> None:
    """Raise a `SpecError` unless everything that this needs is here and gives what it should."""
    try:
        from dupnet import _training  # noqa: F401

        levels = (torch.arange(288.0) % 13).view(1, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
        weights = ((torch.arange(576.0) % 7 > 3) * 2.0 - 1).view(8, 8, 3, 3).requires_grad_()
        sums = convolve_and_pool(levels, weights, 1)
        exact = torch.equal(sums, F.max_pool2d(F.conv2d(levels, weights, padding=1), 2))
        sums.sum().backward()  # type: ignore[no-untyped-call]
    except (ImportError, AttributeError, RuntimeError) as error:
        raise SpecError(f"mixed precision needs a CPU and a torch with oneDNN's 8-bit and bfloat16 convolutions: {error}") from None
    if not exact:
        raise SpecError("mixed precision: this processor's 8-bit convolutions are not exact")


def convolve(levels: Tensor, weights: Tensor, border: int) -> Tensor:
    """`F.conv2d(levels, weights, padding=border)`, the same numbers.

    Args:
        levels: `(n, c, h, w)`, integer-valued floats in 0..255.
        weights: `(filters, c, k, k)`, integer-valued floats in -128..127.
        border: zeros around the map.
    """
    sums: Tensor = _Convolve.apply(levels, weights, border)  # type: ignore[no-untyped-call]
    return sums


def convolve_and_pool(levels: Tensor, weights: Tensor, border: int) -> Tensor:
    """`F.max_pool2d(F.conv2d(levels, weights, padding=border), 2)`, the same numbers; rows and columns of the map are even.

    A map that needs no gradient is taken for photos, with 3x3 kernels.
    """
    function = _ConvolveAndPool if levels.requires_grad else _ConvolveFirst
    sums: Tensor = function.apply(levels, weights, border)  # type: ignore[no-untyped-call]
    return sums


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, levels: Tensor, weights: Tensor, border: int) -> Tensor:
        small, signed = levels.to(torch.uint8), weights.to(torch.int8)
        ctx.save_for_backward(small, signed)
        ctx.border = border
        return _sums(small, signed, border)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        small, signed = ctx.saved_tensors
        return *_gradients(gradients[0].to(torch.bfloat16), small, signed, ctx.border), None


class _ConvolveAndPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, levels: Tensor, weights: Tensor, border: int) -> Tensor:
        small, signed = levels.to(torch.uint8), weights.to(torch.int8)
        pooled, place = _pool(_sums(small, signed, border))
        ctx.save_for_backward(small, signed, place)
        ctx.border = border
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        small, signed, place = ctx.saved_tensors
        return *_gradients(_unpool(gradients[0], place), small, signed, ctx.border), None


class _ConvolveFirst(torch.autograd.Function):
    """Over photos: three colours are too few for the 8-bit convolution to be faster, and only weights need a gradient."""

    @staticmethod
    def forward(ctx: Any, photos: Tensor, weights: Tensor, border: int) -> Tensor:
        pooled, place = _pool(F.conv2d(photos, weights, padding=border))
        ctx.save_for_backward(photos.to(torch.uint8), place)
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        photos, place = ctx.saved_tensors
        return None, _first_gradient(photos, gradients[0], place), None


def _gradients(gradient: Tensor, small: Tensor, signed: Tensor, border: int) -> tuple[Tensor, Tensor]:
    """Of levels and weights, from the sums' in bfloat16."""
    of_levels, of_weights, _ = torch.ops.aten.convolution_backward(
        gradient, small.to(torch.bfloat16), signed.to(torch.bfloat16), None,
        [1, 1], [border, border], [1, 1], False, [0, 0], 1, [True, True, False],
    )  # fmt: skip
    return of_levels.float(), of_weights.float()


def _map(n: int, channels: int, rows: int, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty((n, channels, rows, columns), dtype=dtype, memory_format=torch.channels_last)


def _memory(x: Tensor) -> Any:
    """The numbers of a map as they lie in memory, `(n, h, w, c)`, for the extension. No copy if channels are last."""
    return x.detach().contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1).numpy()


@torch.library.custom_op("dupnet::sums", mutates_args=())
def _sums(small: Tensor, signed: Tensor, border: int) -> Tensor:
    """Convolution of uint8 with int8 to integer-valued float32."""
    filters, ones, sides = signed.shape[0], [1, 1], [border, border]
    scale, zero = torch.ones(filters), torch.zeros(filters, dtype=torch.int32)
    packed = torch.ops.onednn.qconv_prepack(signed.contiguous(), scale, 1.0, 0, ones, sides, ones, 1, list(small.shape))
    sums: Tensor = torch.ops.onednn.qconv2d_pointwise(
        small, 1.0, 0, packed, scale, zero, None, ones, sides, ones, 1, 1.0, 0, torch.float32, "none", [], ""
    )
    return sums.contiguous(memory_format=torch.channels_last)


@_sums.register_fake
def _(small: Tensor, signed: Tensor, border: int) -> Tensor:
    grow = 2 * border - signed.shape[-1] + 1
    return _map(small.shape[0], signed.shape[0], small.shape[2] + grow, small.shape[3] + grow)


@torch.library.custom_op("dupnet::pool", mutates_args=())
def _pool(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima of 2x2 blocks, and which of the four each was."""
    from dupnet import _training

    n, channels, rows, columns = sums.shape
    pooled, place = _map(n, channels, rows // 2, columns // 2), _map(n, channels, rows // 2, columns // 2, torch.uint8)
    _training.pool(_memory(sums), _memory(pooled), _memory(place), torch.get_num_threads())
    return pooled, place


@_pool.register_fake
def _(sums: Tensor) -> tuple[Tensor, Tensor]:
    n, channels, rows, columns = sums.shape
    return _map(n, channels, rows // 2, columns // 2), _map(n, channels, rows // 2, columns // 2, torch.uint8)


@torch.library.custom_op("dupnet::unpool", mutates_args=())
def _unpool(gradient: Tensor, place: Tensor) -> Tensor:
    """The gradient of `_pool` in bfloat16."""
    from dupnet import _training

    n, channels, rows, columns = gradient.shape
    full = _map(n, channels, 2 * rows, 2 * columns, torch.bfloat16)
    _training.unpool(_memory(gradient), _memory(place), _memory(full.view(torch.uint16)), torch.get_num_threads())
    return full


@_unpool.register_fake
def _(gradient: Tensor, place: Tensor) -> Tensor:
    n, channels, rows, columns = gradient.shape
    return _map(n, channels, 2 * rows, 2 * columns, torch.bfloat16)


@torch.library.custom_op("dupnet::first_gradient", mutates_args=())
def _first_gradient(photos: Tensor, gradient: Tensor, place: Tensor) -> Tensor:
    """Of the first layer's weights, from that of its pooled sums."""
    from dupnet import _training

    weights = torch.empty(gradient.shape[1], FILTER, FILTER, FILTER)
    _training.first_gradient(_memory(photos), _memory(gradient), _memory(place), weights.numpy(), torch.get_num_threads())
    return weights.permute(0, 3, 1, 2).contiguous()


@_first_gradient.register_fake
def _(photos: Tensor, gradient: Tensor, place: Tensor) -> Tensor:
    return torch.empty(gradient.shape[1], FILTER, FILTER, FILTER)
