"""The definition of the arithmetic, in numpy: slow and obvious. docs/arithmetic.md says the same in words.

Channels are really duplicated here and every sum really made; the C core must find the same integers faster. Before this
module comes an `IntegerModel`, from `dupnet.conversion` or `dupnet.packed`; nothing but tests and the curious come after it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dupnet import image
from dupnet.detections import DEFAULT_IOU, Detections, merge
from dupnet.head import decode
from dupnet.integer import IntegerModel, Stage


def run(model: IntegerModel, input_map: NDArray[np.uint8]) -> tuple[NDArray[np.uint8] | NDArray[np.int32], ...]:
    """Compute every map.

    Args:
        model: must obey the rules of `dupnet.integer.validate`.
        input_map: `(rows, columns, 3) uint8`, sides multiples of `model.stride`; a classifier's so large that something is left of
            every map.

    Returns:
        The output of each stage: levels `(filters, rows, columns) uint8` after pool and thresholds; of the last stage the
        grid's accumulators, `(5 * anchors, rows, columns)` or `(classes, rows, columns) int32`.

    Raises:
        ValueError: the input map has another shape or type.
    """
    if input_map.ndim != 3 or input_map.shape[2] != 3 or input_map.dtype != np.uint8:
        raise ValueError(f"an input map is (rows, columns, 3) uint8, not {input_map.shape} {input_map.dtype}")
    if min(input_map.shape) == 0 or any(side % model.stride for side in input_map.shape[:2]):
        raise ValueError(f"the sides of an input map must be multiples of {model.stride}, not {input_map.shape[:2]}")
    if min(model.sides(side) for side in input_map.shape[:2]) == 0:
        raise ValueError(f"nothing is left of an input map of {input_map.shape[:2]} pixels")
    maps: list[NDArray[np.uint8] | NDArray[np.int32]] = []
    levels = input_map.transpose(2, 0, 1)
    for stage in model.stages:
        accumulators = _pool(stage, _convolve(stage, levels))
        if stage.thresholds is None:
            maps.append(accumulators)
        else:
            levels = _count(accumulators, stage.thresholds)
            maps.append(levels)
    return tuple(maps)


def _convolve(stage: Stage, levels: NDArray[np.uint8]) -> NDArray[np.int32]:
    k, s, (rows, columns) = stage.kernel, stage.step, (stage.sides(side)[0] for side in levels.shape[1:])
    border = k // 2 if stage.padding else 0
    weights = np.tile(stage.weights, (1, stage.weight_copies, 1, 1)).astype(np.float64)
    tiled = np.tile(levels, (stage.map_copies, 1, 1))
    framed = np.pad(tiled, ((0, 0), (border, border), (border, border))).astype(np.float64)
    sums = np.zeros((stage.filters, rows, columns))
    for i in range(k):
        for j in range(k):  # exact: integers below 2^31, in numbers with 53 bits
            sums += np.tensordot(weights[:, :, i, j], framed[:, i : i + rows * s : s, j : j + columns * s : s], axes=1)
    return sums.astype(np.int32)


def _pool(stage: Stage, values: NDArray[np.int32]) -> NDArray[np.int32]:
    windows = np.lib.stride_tricks.sliding_window_view(values, (stage.pool, stage.pool), axis=(1, 2))
    return windows[:, :: stage.pool_step, :: stage.pool_step].max(axis=(3, 4))


def _count(values: NDArray[np.int32], thresholds: NDArray[np.int32]) -> NDArray[np.uint8]:
    levels = np.zeros(values.shape, np.uint8)
    for t in thresholds.T:
        levels += values >= t[:, None, None]
    return levels


def grid_values(model: IntegerModel, accumulators: NDArray[np.integer]) -> NDArray[np.float32]:
    """The grid's real values `(channels, rows, columns) float32`: `scale * accumulator + bias`, rounded to float32 at each step."""
    return model.scale[:, None, None] * accumulators.astype(np.float32) + model.bias[:, None, None]


def class_scores(model: IntegerModel, accumulators: NDArray[np.integer]) -> NDArray[np.float32]:
    """A classifier's scores `(classes,) float32` (logits), from its grid: `scale * mean accumulator of all cells + bias`."""
    if not model.head.classes:
        raise ValueError(f"{model.name} gives boxes, not class scores")
    mean = accumulators.sum(axis=(1, 2), dtype=np.int64) / (accumulators.shape[1] * accumulators.shape[2])
    return model.scale * mean.astype(np.float32) + model.bias


def detect(
    model: IntegerModel, source: image.Source, *, size: int | None = None, score: float | None = None, iou: float = DEFAULT_IOU
) -> Detections:
    """Find boxes in a photo, as `dupnet.Detector` does.

    Args:
        model: the detector.
        source: a path, an array or a PIL image (`dupnet.image.read`).
        size: long side of the scaled photo in pixels; the model's default if None.
        score: lowest score kept; the model's default if None.
        iou: boxes that overlap by more than this are of the same face.
    """
    if model.head.classes:
        raise ValueError(f"{model.name} gives class scores, not boxes")
    photo = image.read(source)
    view = image.to_input(photo, model.default_size_px if size is None else size, stride=model.stride)
    boxes, scores = decode(grid_values(model, run(model, view.pixels)[-1]), model.head, model.stride)
    boxes, scores = merge(boxes, scores, score=model.default_score if score is None else score, iou=iou)
    return Detections(image.to_photo(boxes, view), scores, photo)
