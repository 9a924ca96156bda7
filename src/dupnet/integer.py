"""The integer model: the waist of the hourglass, plain data.

Everything before it (specs, networks, training) ends here; everything after it (reference, packed file, C core)
starts here and knows neither torch nor floats, except for the head's scales. What the numbers mean is defined in
docs/arithmetic.md and computed, slowly, by `dupnet.reference`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dupnet.errors import ConversionError
from dupnet.spec import GRID_CHANNELS, MAX_KERNEL, MAX_POOL, MAX_STEP, HeadSpec, LayerSpec, ModelSpec, is_name, sides


def accumulator_max(channels: int, kernel: int, weight_bits: int, input_bits: int) -> int:
    """Largest sum of a convolution over `channels` duplicated channels, whatever the weights and levels; the smallest is its negative."""
    return kernel**2 * channels * (2**weight_bits - 1) * (2**input_bits - 1)


@dataclass(frozen=True, eq=False)
class Stage:
    """Convolution, max-pool and thresholds over integers.

    Attributes:
        weights: `(filters, stored_channels, kernel, kernel) int16`, odd integers in `±(2^weight_bits - 1)`: the template.
        weight_bits, input_bits: 1 to 8.
        weight_copies: how often the template's channels are tiled.
        map_copies: how often the input map's channels are tiled.
        pool: 1 (none) to 8 (8x8 max-pool after the convolution).
        thresholds: `(filters, 2^output_bits - 1) int32`, ascending; `level = #(accumulator >= t)`. None in the last
            stage, whose accumulators are the grid.
        step: the kernel moves by so many pixels, 1 to 8.
        pool_overlap: pixels that neighbouring pools share; the pool moves by the rest of it.
        padding: whether the map is surrounded by `kernel // 2` zeros.
    """

    weights: NDArray[np.int16]
    weight_bits: int
    input_bits: int
    weight_copies: int
    map_copies: int
    pool: int
    thresholds: NDArray[np.int32] | None
    step: int = 1
    pool_overlap: int = 0
    padding: bool = True

    @property
    def filters(self) -> int:
        return self.weights.shape[0]

    @property
    def kernel(self) -> int:
        return self.weights.shape[2]

    @property
    def in_channels(self) -> int:
        """Channels of the map that is read, before duplication."""
        return self.weights.shape[1] * self.weight_copies // self.map_copies

    @property
    def output_bits(self) -> int:
        """Bits of a level of the output map; 0 for the grid."""
        return 0 if self.thresholds is None else (self.thresholds.shape[1] + 1).bit_length() - 1

    @property
    def pool_step(self) -> int:
        """The pool moves by so many pixels."""
        return self.pool - self.pool_overlap

    def sides(self, side: int) -> tuple[int, int]:
        """Rows (or columns) of the accumulators and of the map after the pool, over a map of `side` of them; 0 if nothing fits."""
        return sides(side, self.kernel, self.step, self.padding, self.pool, self.pool_overlap)

    @property
    def accumulator_max(self) -> int:
        """Largest accumulator that any weights and levels of these shapes can give; the smallest is its negative."""
        return accumulator_max(self.in_channels * self.map_copies, self.kernel, self.weight_bits, self.input_bits)


@dataclass(frozen=True, eq=False)
class IntegerModel:
    """A detector, or a classifier, in integers.

    Attributes:
        name: 1 to 64 bytes of UTF-8.
        stages: in the order of execution; each reads the map of the one before, the first reads the image's levels.
        head: anchors and decoding.
        scale, bias: `(5 * anchors,)` or `(classes,) float32`; the grid's real values are `scale * accumulator + bias`.
        default_size_px: long side of the network's input unless the user says otherwise.
        default_score: lowest score kept unless the user says otherwise.
    """

    name: str
    stages: tuple[Stage, ...]
    head: HeadSpec
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]
    default_size_px: int
    default_score: float

    @cached_property
    def stride(self) -> int:
        """The sides of an input map are multiples of it: a detector's pixels per cell of the grid; 1 for a classifier."""
        return 1 if self.head.classes else math.prod(stage.step * stage.pool_step for stage in self.stages)

    def sides(self, side: int) -> int:
        """Rows (or columns) of the grid of an input map of `side` of them; 0 if nothing is left of some map."""
        for stage in self.stages:
            side = stage.sides(side)[1]
        return side


def spec_of(model: IntegerModel) -> ModelSpec:
    """The spec of the network that a model was made from, so that its cost can be counted: with the classes in the last layer."""
    filters = [*(stage.filters for stage in model.stages[:-1]), model.head.channels]
    layers = (
        LayerSpec(
            *(count, s.kernel, s.pool, s.weight_bits, s.input_bits, s.weight_copies, s.map_copies),
            *(s.step, s.pool_overlap, s.padding),
        )
        for count, s in zip(filters, model.stages)
    )
    return ModelSpec(model.name, tuple(layers), model.head, default_size_px=model.default_size_px, default_score=float(model.default_score))


def validate(model: IntegerModel) -> IntegerModel:
    """Return `model` unchanged if every rule of docs/format.md holds.

    Raises:
        ConversionError: names the stage, the rule and the values found.
    """

    def check(true: bool, message: str) -> None:
        if not true:
            raise ConversionError(f"integer model {model.name!r}: {message}")

    check(is_name(model.name), "name must be 1 to 64 bytes of UTF-8 without control characters")
    check(1 <= len(model.stages) <= 64, f"1 to 64 stages are possible, not {len(model.stages)}")
    least = 1 if model.head.classes else 32
    is_size = isinstance(model.default_size_px, (int, np.integer)) and least <= model.default_size_px <= 8192
    check(is_size, f"default size must be a whole number of {least} to 8192 pixels, not {model.default_size_px}")
    check(0 <= model.default_score <= 1, f"default score must be in [0, 1], not {model.default_score}")
    check(model.stride <= 64, f"the product of all steps and pools must be at most 64, not {model.stride}")
    channels, bits, side = 3, 8, model.default_size_px
    for number, stage in enumerate(model.stages, 1):
        where, last = f"stage {number}: ", number == len(model.stages)
        check(
            stage.weights.ndim == 4 and stage.weights.shape[2] == stage.weights.shape[3], where + f"weights of shape {stage.weights.shape}"
        )
        check(stage.weights.dtype.kind == "i", where + f"weights must be integers, not {stage.weights.dtype}")
        for what, value, most in (("kernel", stage.kernel, MAX_KERNEL), ("step", stage.step, MAX_STEP), ("pool", stage.pool, MAX_POOL)):
            check(1 <= value <= most, where + f"{what} must be 1 to {most}, not {value}")
        check(stage.kernel % 2 == 1 or not stage.padding, where + f"an even kernel, {stage.kernel}, cannot have padding")
        check(0 <= stage.pool_overlap < stage.pool, where + f"pools of {stage.pool} cannot overlap by {stage.pool_overlap}")
        plain = stage.padding and not stage.pool_overlap
        check(plain or bool(model.head.classes), where + "a detector's stages need padding, and pools that do not overlap")
        side = stage.sides(side)[1]
        check(side > 0 or not model.head.classes, where + "nothing is left of an input of the default size")
        check(1 <= stage.weight_bits <= 8 and 1 <= stage.input_bits <= 8, where + "weights and input must have 1 to 8 bits")
        check(1 <= stage.weight_copies <= 64 and 1 <= stage.map_copies <= 64, where + "1 to 64 copies are possible")
        check(1 <= stage.filters <= 4096 and 1 <= stage.in_channels <= 4096, where + "1 to 4096 channels are possible")
        tiled = stage.weights.shape[1] * stage.weight_copies
        check(
            tiled == channels * stage.map_copies,
            where + f"filters have {tiled} channels, the map before has {channels} x {stage.map_copies}",
        )
        check(stage.input_bits == bits, where + f"reads {stage.input_bits}-bit levels, the map before has {bits} bits")
        check(stage.accumulator_max < 2**31, where + f"accumulators up to {stage.accumulator_max} need more than 32 bits")
        limit = 2**stage.weight_bits - 1
        odd = bool(np.all(stage.weights % 2 == 1)) and bool(np.all(np.abs(stage.weights) <= limit))
        check(odd, where + f"weights must be odd integers in ±{limit}")
        check((stage.thresholds is None) == last, where + "exactly the last stage has no thresholds")
        if stage.thresholds is not None:
            t, bound = stage.thresholds, stage.accumulator_max
            check(t.dtype.kind == "i", where + f"thresholds must be integers, not {t.dtype}")
            check(
                t.shape == (stage.filters, 2**stage.output_bits - 1) and 1 <= stage.output_bits <= 8,
                where + f"thresholds of shape {t.shape}",
            )
            check(bool(np.all(t[:, :-1] <= t[:, 1:])), where + "thresholds must ascend")
            check(bool(np.all((t >= -bound) & (t <= bound + 1))), where + f"thresholds must be in [{-bound}, {bound + 1}]")
        channels, bits = stage.filters, stage.output_bits
    check(model.stages[-1].pool == 1, "the last stage cannot pool")
    head = model.head
    needs = f"{head.classes} classes need one each" if head.classes else f"{len(head.anchors)} anchors need {GRID_CHANNELS} each"
    check(channels == head.integer_channels, f"the grid has {channels} channels, {needs}")
    for what, values in (("scale", model.scale), ("bias", model.bias)):
        check(values.shape == (channels,) and bool(np.all(np.isfinite(values))), f"head {what} must be {channels} finite numbers")
    return model
