"""Mixed precision on a CPU: the forward pass in 8-bit integers, exact; the backward pass in bfloat16.

A quantized layer multiplies small integers by small integers, so its forward pass needs no floats: 8-bit products with 32-bit sums
(oneDNN's, four times as fast as float32 on processors with VNNI) give the very numbers that `F.conv2d` gives. Reduced floats would
not: bfloat16 rounds every accumulator beyond 256. Gradients, which a quantizer passes straight through anyway, are rounded to bfloat16
before they are multiplied (twice as fast); the sums inside stay float32. Pooling keeps only where its maxima were, so no map of
full size is stored for the backward pass. Levels travel from stage to stage in bfloat16, which holds them exactly, as do their gradients.

`DuplicatedConv2d.mixed` switches a layer to this; `enable` does so for the layers of a network that it fits, the others stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dupnet.errors import SpecError
from dupnet.integer import accumulator_max

if TYPE_CHECKING:
    from dupnet.nn.network import Network

GROUP = 8
"""Filters come in groups of so many, but for those of the last layer."""

FILTER = 3
"""Kernel size, and number of colours, of a first layer that this is made for."""


def enable(network: Network) -> list[int]:
    """Let the layers of `network` that it fits train, and answer in evaluation mode, in mixed precision.

    A layer fits if its weights, summed over copies of the map, stay below 2^7, it moves by one pixel, reads sums of levels below 2^8 whose
    products, two by two, stay below 2^15 (so that processors without VNNI are exact as well), its accumulators stay within 2^24 (they
    are kept in float32), and it has a multiple of 8 filters unless it is the last; the first layer, if it reads 8-bit pixels, is
    pooled, has 3x3 kernels with a border, and no copies of its weights.

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
        level, weight = (2**layer.input_bits - 1) * layer.weight_copies, (2**layer.weight_bits - 1) * layer.map_copies
        conv.mixed = weight < 2**7 and conv.step == 1 and (conv.out_channels % GROUP == 0 or conv is convs[-1])
        channels = conv.in_channels * layer.map_copies
        conv.mixed &= accumulator_max(channels, conv.kernel_size, layer.weight_bits, layer.input_bits) <= 2**24
        if number == 0:
            conv.mixed &= layer.pool == 2 and (conv.in_channels, conv.kernel_size, conv.border) == (FILTER, FILTER, 1)
            conv.mixed &= (layer.input_bits, layer.weight_copies) == (8, 1)
        else:
            conv.mixed &= level < 2**8 and 2 * level * weight < 2**15
        fitting += [number] * conv.mixed
    return fitting


def _check_machine() -> None:
    """Raise a `SpecError` unless everything that this needs is here and gives what it should."""
    try:
        from dupnet import _training  # noqa: F401

        levels = (torch.arange(288.0) % 13).view(1, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
        weights = ((torch.arange(576.0) % 7 > 3) * 2.0 - 1).view(8, 8, 3, 3).requires_grad_()
        sums = convolve(levels, weights, 1, pool=True)
        exact = torch.equal(sums, F.max_pool2d(F.conv2d(levels, weights, padding=1), 2))
        sums.sum().backward()  # type: ignore[no-untyped-call]
    except (ImportError, AttributeError, RuntimeError) as error:
        raise SpecError(f"mixed precision needs a CPU and a torch with oneDNN's 8-bit and bfloat16 convolutions: {error}") from None
    if not exact:
        raise SpecError("mixed precision: this processor's 8-bit convolutions are not exact")


def convolve(levels: Tensor, weights: Tensor, border: int, *, pool: bool = False) -> Tensor:
    """`F.conv2d(levels, weights, padding=border)`, the same numbers, or of that `F.max_pool2d(..., 2)`; float32.

    Args:
        levels: `(n, c, h, w)`, integer-valued floats in 0..255, of even height and width if they are pooled. A map of three
            channels under 3x3 kernels that is pooled and needs no gradient is taken for photos.
        weights: `(filters, c, k, k)`, integer-valued floats in -128..127.
        border: zeros around the map.
        pool: whether maxima of 2x2 blocks are taken.
    """
    sums: Tensor = _Convolve.apply(levels, weights, _How(border, pool, _are_photos(levels, weights, pool)))  # type: ignore[no-untyped-call]
    return sums


def stage(
    levels: Tensor, weights: Tensor, border: int, *, pool: bool, slope: Tensor, shift: Tensor, step: Tensor, top: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A stage in training: `convolve`, then batch norm by the batch's own statistics and a uniform quantizer.

    Args:
        levels, weights, border, pool: as of `convolve`; the filters are a multiple of 8.
        slope, shift: of the batch norm, `(filters,)`.
        step: of the quantizer, a scalar: `floor(clamp(y / step, 0, top) + 1/2)`, where the rounding passes gradients straight through.
        top: largest level, at most 255.
        eps: of the batch norm.

    Returns:
        The levels in bfloat16; and without gradients the means and (biased) variances of the batch, `(filters,)`.
    """
    how = _How(border, pool, _are_photos(levels, weights, pool))
    given: tuple[Tensor, Tensor, Tensor] = _Stage.apply(levels, weights, slope, shift, step, top, eps, how)  # type: ignore[no-untyped-call]
    return given


class _How(NamedTuple):
    border: int
    pool: bool
    photos: bool


def _are_photos(levels: Tensor, weights: Tensor, pool: bool) -> bool:
    return pool and levels.shape[1] == FILTER and weights.shape[-1] == FILTER and not levels.requires_grad


def _dtype(how: _How) -> torch.dtype:
    """Of the gradient of the sums: pixels are far from zero, and sums over them cancel, which rounded gradients would not."""
    return torch.float32 if how.photos else torch.bfloat16


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, levels: Tensor, weights: Tensor, how: _How) -> Tensor:
        sums, *kept = _convolved(levels, weights, how)
        ctx.save_for_backward(*kept)
        ctx.how, ctx.dtype = how, levels.dtype
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        small, signed, place = ctx.saved_tensors
        return *_gradients(gradients[0].to(_dtype(ctx.how)), small, signed, place, ctx.how, ctx.dtype), None


class _Stage(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, levels: Tensor, weights: Tensor, slope: Tensor, shift: Tensor, step: Tensor, top: int, eps: float, how: _How
    ) -> tuple[Tensor, Tensor, Tensor]:
        sums, *kept = _convolved(levels, weights, how)
        quantized, mean, variance = _normalize(sums, slope, shift, step, top, eps)
        ctx.save_for_backward(sums, mean, variance, slope, shift, step, *kept)
        ctx.mark_non_differentiable(mean, variance)
        ctx.numbers, ctx.how, ctx.dtype = (top, eps), how, levels.dtype
        return quantized, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *norm, small, signed, place = ctx.saved_tensors
        gradient, of_slope, of_shift, of_step = _normalize_gradient(gradients[0], *norm, *ctx.numbers, _dtype(ctx.how))
        of_levels, of_weights = _gradients(gradient, small, signed, place, ctx.how, ctx.dtype)
        return of_levels, of_weights, of_slope, of_shift, of_step, None, None, None


def _convolved(levels: Tensor, weights: Tensor, how: _How) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The sums; levels and weights as bytes, and which of four pixels each maximum was, for `_gradients`."""
    small, signed = levels.to(torch.uint8), weights.to(torch.int8)
    if how.photos:  # three colours are too few for torch's convolutions to be fast
        sums, place = _first(small, signed)
    elif how.pool:
        sums, place = _pool(_sums(small, signed, how.border))
    else:
        return _sums(small, signed, how.border), small, signed, None
    return sums, small, signed, place


def _gradients(
    gradient: Tensor, small: Tensor, signed: Tensor, place: Tensor | None, how: _How, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor]:
    """Of levels (in `dtype`) and weights, from the sums' (in `_dtype(how)`)."""
    if how.photos:
        return None, _first_gradient(small, gradient, place)
    if place is not None:
        gradient = _unpool(gradient, place)
    of_levels, of_weights, _ = torch.ops.aten.convolution_backward(
        gradient, small.to(torch.bfloat16), signed.to(torch.bfloat16), None,
        [1, 1], [how.border, how.border], [1, 1], False, [0, 0], 1, [True, True, False],
    )  # fmt: skip
    return of_levels.to(dtype), of_weights.float()


def _map(n: int, channels: int, rows: int, columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty((n, channels, rows, columns), dtype=dtype, memory_format=torch.channels_last)


def _map_like(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype, memory_format=torch.channels_last)


def _pooled(x: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Maps to be filled, for a map of the size of `x`: the maxima of its 2x2 blocks, and which of the four each was."""
    n, _, rows, columns = x.shape
    return _map(n, channels, rows // 2, columns // 2), _map(n, channels, rows // 2, columns // 2, torch.uint8)


def _memory(x: Tensor) -> Any:
    """The numbers of a map as they lie in memory, `(n, h, w, c)`, for the extension; bfloat16 as uint16. No copy if channels are last."""
    laid_out = x.detach().contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return (laid_out.view(torch.uint16) if x.dtype == torch.bfloat16 else laid_out).numpy()


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

    pooled, place = _pooled(sums, sums.shape[1])
    _training.pool(_memory(sums), _memory(pooled), _memory(place), torch.get_num_threads())
    return pooled, place


@_pool.register_fake
def _(sums: Tensor) -> tuple[Tensor, Tensor]:
    return _pooled(sums, sums.shape[1])


@torch.library.custom_op("dupnet::unpool", mutates_args=())
def _unpool(gradient: Tensor, place: Tensor) -> Tensor:
    """The gradient of `_pool`, both in bfloat16."""
    from dupnet import _training

    n, channels, rows, columns = gradient.shape
    full = _map(n, channels, 2 * rows, 2 * columns, torch.bfloat16)
    _training.unpool(_memory(gradient), _memory(place), _memory(full), torch.get_num_threads())
    return full


@_unpool.register_fake
def _(gradient: Tensor, place: Tensor) -> Tensor:
    n, channels, rows, columns = gradient.shape
    return _map(n, channels, 2 * rows, 2 * columns, torch.bfloat16)


@torch.library.custom_op("dupnet::first", mutates_args=())
def _first(photos: Tensor, signed: Tensor) -> tuple[Tensor, Tensor]:
    """`_pool` of the first layer's sums."""
    from dupnet import _training

    groups = len(signed) // GROUP
    # (filters, colour, row, column) to (group, row, column and colour, filter)
    kernels = signed.float().view(groups, GROUP, FILTER, FILTER, FILTER).permute(0, 3, 4, 2, 1).reshape(groups, FILTER, FILTER**2, GROUP)
    pooled, place = _pooled(photos, len(signed))
    _training.convolve_first(_memory(photos), kernels.contiguous().numpy(), _memory(pooled), _memory(place), torch.get_num_threads())
    return pooled, place


@_first.register_fake
def _(photos: Tensor, signed: Tensor) -> tuple[Tensor, Tensor]:
    return _pooled(photos, len(signed))


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


@torch.library.custom_op("dupnet::normalize", mutates_args=())
def _normalize(sums: Tensor, slope: Tensor, shift: Tensor, step: Tensor, top: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm and quantizer of a stage: levels, means, variances."""
    from dupnet import _training

    levels, mean, variance = _map_like(sums, torch.bfloat16), torch.empty_like(slope), torch.empty_like(slope)
    _training.normalize(
        _memory(sums), slope.detach().numpy(), shift.detach().numpy(), step.item(), top, eps,
        _memory(levels), mean.numpy(), variance.numpy(), torch.get_num_threads(),
    )  # fmt: skip
    return levels, mean, variance


@_normalize.register_fake
def _(sums: Tensor, slope: Tensor, shift: Tensor, step: Tensor, top: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return _map_like(sums, torch.bfloat16), torch.empty_like(slope), torch.empty_like(slope)


@torch.library.custom_op("dupnet::normalize_gradient", mutates_args=())
def _normalize_gradient(
    gradient: Tensor, sums: Tensor, mean: Tensor, variance: Tensor, slope: Tensor, shift: Tensor, step: Tensor,
    top: int, eps: float, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of `_normalize`: of sums (in `dtype`), slope, shift and step."""
    from dupnet import _training

    of_sums, of_slope, of_shift = _map_like(sums, dtype), torch.empty_like(slope), torch.empty_like(shift)
    of_step = _training.normalize_gradient(
        _memory(sums), _memory(gradient), mean.numpy(), variance.numpy(), slope.detach().numpy(), shift.detach().numpy(), step.item(),
        top, eps, _memory(of_sums), of_slope.numpy(), of_shift.numpy(), torch.get_num_threads(),
    )  # fmt: skip
    return of_sums, of_slope, of_shift, torch.tensor(of_step, dtype=step.dtype)


@_normalize_gradient.register_fake
def _(
    gradient: Tensor, sums: Tensor, mean: Tensor, variance: Tensor, slope: Tensor, shift: Tensor, step: Tensor,
    top: int, eps: float, dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _map_like(sums, dtype), torch.empty_like(slope), torch.empty_like(shift), torch.empty_like(step)
