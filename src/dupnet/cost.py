"""What a model costs, from its spec alone: bytes, multiply-adds, the paper's FLOPs, memory for maps.

Every size and operation count that this project states comes from here.
"""

from __future__ import annotations

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
                effective_macs=macs // max(layer.weight_copies, layer.map_copies),
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
