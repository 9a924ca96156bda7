"""The grid and the boxes: channel layout, anchors, encoding and decoding. The only definition in Python.

The formulas are in docs/arithmetic.md, "Grid to boxes"; `core/dn_head.c` is tested against this module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dupnet.spec import GRID_CHANNELS, NETWORK_CHANNELS, HeadSpec

X, Y, W, H, OBJECTNESS = range(GRID_CHANNELS)
"""Channels of one anchor in the grid, in this order. A network's grid has the class as a sixth, an integer model's does not: with one class
it carries nothing. Anchor `a` owns the channels from `6a` or `5a` on."""

LOG_SIZE_MAX = 8.0
"""`exp` of the size channels stops here, so that no grid overflows."""


def sigmoid(v: NDArray[np.floating]) -> NDArray[np.float32]:
    """`1 / (1 + exp(-v))` in float32, without overflow for any finite `v`."""
    return (1 / (1 + np.exp(-np.clip(v, -80, 80)))).astype(np.float32)


def without_class(channels: NDArray[Any]) -> NDArray[Any]:
    """The channels that an integer model keeps of a network's, `(6 * anchors, ...)` to `(5 * anchors, ...)`."""
    kept = channels.reshape(-1, NETWORK_CHANNELS, *channels.shape[1:])[:, :GRID_CHANNELS]
    return kept.reshape(-1, *channels.shape[1:])


def integer_channels(channels: NDArray[Any], head: HeadSpec) -> NDArray[Any]:
    """What an integer model keeps of the channels of a network's grid: of a classifier's all, otherwise `without_class`."""
    return channels if head.classes else without_class(channels)


def decode(grid: NDArray[np.float32], head: HeadSpec, stride: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Turn a grid into boxes, one for each cell and anchor.

    Args:
        grid: `(6 * anchors, rows, columns) float32`, real values, or 5 * anchors without the classes.
        head: anchors and `centre_scale`.
        stride: pixels of the network's input per cell.

    Returns:
        `(rows * columns * anchors, 4)` boxes x1 y1 x2 y2 in pixels of the network's input, not clipped, and
        `(rows * columns * anchors,)` scores in [0, 1]; ordered by row, then column, then anchor.
    """
    anchors = len(head.anchors)
    rows, columns = grid.shape[1:]
    v = grid.reshape(anchors, -1, rows, columns).transpose(2, 3, 0, 1).astype(np.float32)
    row, column = np.mgrid[:rows, :columns].astype(np.float32)[..., None]
    size = np.array(head.anchors, np.float32)
    k = np.float32(head.centre_scale)
    cx = stride * (column + k * sigmoid(v[..., X]) - (k - 1) / 2)
    cy = stride * (row + k * sigmoid(v[..., Y]) - (k - 1) / 2)
    w = size[:, 0] * np.exp(np.minimum(v[..., W], LOG_SIZE_MAX))
    h = size[:, 1] * np.exp(np.minimum(v[..., H], LOG_SIZE_MAX))
    boxes = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1)
    return boxes.reshape(-1, 4).astype(np.float32), sigmoid(v[..., OBJECTNESS]).reshape(-1)
