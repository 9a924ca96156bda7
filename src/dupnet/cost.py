"""What a model costs, from its spec alone: bytes, multiply-adds, the paper's FLOPs, memory for maps.

Every size and operation count that this project states comes from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dupnet import packed
from dupnet.errors import SpecError
from dupnet.integer import accumulator_max
from dupnet.spec import FULL, ModelSpec


@dataclass(frozen=True)
class LayerCost:
    """One layer, or the total of all.

    Attributes:
        name: `Conv1`, ..., or `total`.
        weight_bytes: stored weights, as the papers count them: `filters * stored channels * kernel^2 * weight_bits / 8`.
        file_bytes: its share of the packed file before anything is coded, thresholds and padding included, class channels not. The file
            is smaller, by how much depends on the weights (`dupnet inspect`). None for float models, which have no such file.
        macs: multiply-adds of the plain convolution over the duplicated channels.
        paper_mflops: the paper's FLOPs in millions, `macs * input_bits * weight_bits / 64`; `macs` where either is a float.
        effective_macs: multiply-adds after the two shortcuts (sum the maps under duplicated weights, sum the weights over
            duplicated maps).
        map_bytes: the maps that exist at once while the layer runs, read and written, at their bits (total: the largest of them).
            The first layer reads the photo's 8-bit pixels; a written map is counted after its max-pool.
    """

    name: str
    weight_bytes: float
    file_bytes: int | None
    macs: int
    paper_mflops: float
    effective_macs: int
    map_bytes: int


@dataclass(frozen=True)
class Cost:
    """The cost of a model at one input size (height, width)."""

    model: str
    size_hw: tuple[int, int]
    layers: tuple[LayerCost, ...]
    total: LayerCost


def count(spec: ModelSpec, size_hw: tuple[int, int] = (608, 608)) -> Cost:
    """Count.

    Args:
        spec: the model.
        size_hw: height and width of the network's input in pixels; rounded up to multiples of the stride, as the network does.

    Raises:
        SpecError: a side is below 1 pixel, or so small that nothing is left of a classifier's map.

    Example:
        >>> from dupnet import zoo
        >>> total = count(zoo.get("dupnet-tinier-yolo")).total
        >>> round(total.weight_bytes / 1024, 1), round(total.paper_mflops, 1)
        (36.9, 62.6)

    Source: DupNet, footnote 2 and tables 1, 3, 4 and 6.
    """
    if min(size_hw) < 1:
        raise SpecError(f"the input needs at least 1x1 pixels, not {size_hw[1]}x{size_hw[0]}")
    rows, columns = (-(-side // spec.stride) * spec.stride for side in size_hw)
    layers = []
    for number, (layer, channels, stored) in enumerate(zip(spec.layers, spec.in_channels, spec.stored_channels)):
        weights = layer.filters * stored * layer.kernel**2
        (sum_rows, out_rows), (sum_columns, out_columns) = layer.sides(rows), layer.sides(columns)
        if not out_rows or not out_columns:
            raise SpecError(f"{spec.name}: layer {number + 1}: nothing is left of a map of {columns}x{rows}, the input is too small")
        macs = sum_rows * sum_columns * layer.filters * channels * layer.map_copies * layer.kernel**2
        floats = FULL in (layer.weight_bits, layer.input_bits)
        last = number + 1 == len(spec.layers)
        read = 8 if number == 0 else layer.input_bits
        written = 32 if last else spec.layers[number + 1].input_bits
        layers.append(
            LayerCost(
                name=f"Conv{number + 1}",
                weight_bytes=weights * layer.weight_bits / 8,
                file_bytes=_record_bytes(spec, number) if spec.is_integer else None,
                macs=macs,
                paper_mflops=(macs if floats else macs * layer.input_bits * layer.weight_bits / 64) / 1e6,
                effective_macs=macs // math.lcm(layer.weight_copies, layer.map_copies),
                map_bytes=-(-(rows * columns * channels * read + out_rows * out_columns * layer.filters * written) // 8),
            )
        )
        rows, columns = out_rows, out_columns

    def total(field: Callable[[LayerCost], float]) -> float:
        return sum(field(layer) for layer in layers)

    return Cost(
        spec.name,
        size_hw,
        tuple(layers),
        LayerCost(
            name="total",
            weight_bytes=total(lambda c: c.weight_bytes),
            file_bytes=_header_bytes(spec) + int(total(lambda c: c.file_bytes or 0)) if spec.is_integer else None,
            macs=int(total(lambda c: c.macs)),
            paper_mflops=total(lambda c: c.paper_mflops),
            effective_macs=int(total(lambda c: c.effective_macs)),
            map_bytes=max(c.map_bytes for c in layers),
        ),
    )


@dataclass(frozen=True)
class FormCost:
    """One layer of a quantized network in two forms: with its arithmetic in floats, and converted to integers.

    Attributes:
        name: `Conv1`, ..., or `total`.
        float_weight_bytes, integer_weight_bytes: weights and all numbers that belong to a filter.
        float_map_bytes, integer_map_bytes: maps that the layer writes (total: all of them).
        float_peak_bytes, integer_peak_bytes: maps that exist at once while the layer runs (total: the largest).
    """

    name: str
    float_weight_bytes: float
    integer_weight_bytes: float
    float_map_bytes: int
    integer_map_bytes: int
    float_peak_bytes: int
    integer_peak_bytes: int


FORM_ASSUMPTIONS = (
    "Floats: weights of the first and the last layer have 32 bits, as XNOR-Net and HWGQ-Net leave them; all others their own bits, packed.",
    "Floats: each filter has a 32-bit scale and four 32-bit numbers of its batch norm; in the last layer a scale and a bias.",
    "Floats: a layer writes its sums and, if it pools, the pooled map, all of 32 bits (batch norm and quantizer work in place).",
    "Integers: weights of all layers have their own bits; a filter has 2^bits - 1 thresholds of 2 or 4 bytes; in the last layer as above.",
    "Integers: a layer writes its levels after the pool, packed to their bits; sums are no map. The last layer writes 32-bit sums.",
    "The image read has 32-bit floats in one form and bytes in the other. At once: the map read and what is written (floats: the sums).",
)
"""What `forms` assumes. The papers print results (2.16x and 18x), not how they were counted."""


def forms(spec: ModelSpec, size_hw: tuple[int, int]) -> tuple[FormCost, ...]:
    """What the conversion to integers saves over the same quantized network computed with floats: each layer, and last the total.

    Args:
        spec: a model whose layers are all quantized.
        size_hw: height and width of the network's input in pixels.

    Raises:
        SpecError: a layer is full precision, or the input too small.

    Source: IFQ-Net's abstract, which claims 2.16x less for the model and 18x less for the maps; the counting is ours (`FORM_ASSUMPTIONS`).
    """
    if not spec.is_integer:
        raise SpecError(f"{spec.name} has full-precision layers: there is no integer form to compare with")
    counted = count(spec, size_hw)
    rows, columns = (-(-side // spec.stride) * spec.stride for side in size_hw)
    lines = []
    for number, (layer, channels, cost) in enumerate(zip(spec.layers, spec.in_channels, counted.layers)):
        last = number + 1 == len(spec.layers)
        (sum_rows, out_rows), (sum_columns, out_columns) = layer.sides(rows), layer.sides(columns)
        read, sums, out = (
            n * 4 for n in (rows * columns * channels, sum_rows * sum_columns * layer.filters, out_rows * out_columns * layer.filters)
        )
        weight_bits = FULL if last or number == 0 else layer.weight_bits
        own, bits = 8.0 * layer.filters, 32  # scale and bias
        if not last:
            bits = spec.layers[number + 1].input_bits
            bound = accumulator_max(channels * layer.map_copies, layer.kernel, layer.weight_bits, layer.input_bits)
            own = packed.threshold_bytes(layer.filters, bits, bound)
        lines.append(
            FormCost(
                name=cost.name,
                float_weight_bytes=cost.weight_bytes / layer.weight_bits * weight_bits + layer.filters * (8 if last else 20),
                integer_weight_bytes=cost.weight_bytes + own,
                float_map_bytes=sums + (out if layer.pool > 1 else 0),
                integer_map_bytes=-(-out * bits // 32),
                float_peak_bytes=read + sums,
                integer_peak_bytes=cost.map_bytes,
            )
        )
        rows, columns = out_rows, out_columns
    total = FormCost(
        name="total",
        float_weight_bytes=sum(line.float_weight_bytes for line in lines),
        integer_weight_bytes=sum(line.integer_weight_bytes for line in lines),
        float_map_bytes=sum(line.float_map_bytes for line in lines),
        integer_map_bytes=sum(line.integer_map_bytes for line in lines),
        float_peak_bytes=max(line.float_peak_bytes for line in lines),
        integer_peak_bytes=max(line.integer_peak_bytes for line in lines),
    )
    return (*lines, total)


def _header_bytes(spec: ModelSpec) -> int:
    return packed.HEADER_BYTES + packed.padded(len(spec.name.encode())) + packed.ANCHOR_BYTES * len(spec.head.anchors)


def _record_bytes(spec: ModelSpec, number: int) -> int:
    layer, last = spec.layers[number], number + 1 == len(spec.layers)
    filters = spec.head.integer_channels if last else layer.filters
    weights = packed.padded(packed.weight_bytes(filters, spec.stored_channels[number], layer.kernel, layer.weight_bits))
    if last:
        return packed.STAGE_BYTES + weights + packed.HEAD_CHANNEL_BYTES * filters
    bound = accumulator_max(spec.in_channels[number] * layer.map_copies, layer.kernel, layer.weight_bits, layer.input_bits)
    thresholds = packed.threshold_bytes(layer.filters, spec.layers[number + 1].input_bits, bound)
    return packed.STAGE_BYTES + weights + packed.padded(thresholds)
