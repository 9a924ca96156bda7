"""Anchors: typical face sizes, by k-means over the boxes of a data set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dupnet.errors import DataError


def shape_iou(sizes: NDArray[np.float64], anchors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes with a common centre: `(n, 2)` sizes and `(k, 2)` anchors to `(n, k)`."""
    inter = np.minimum(sizes[:, None], anchors[None]).prod(-1)
    return inter / (sizes.prod(-1)[:, None] + anchors.prod(-1)[None] - inter)


def cluster(sizes: NDArray[np.float64], count: int, *, iterations: int = 300) -> tuple[NDArray[np.float64], float]:
    """K-means with the distance `1 - IoU` and means as centres.

    Starts from the quantiles of the areas, so the result depends on nothing but the sizes.

    Args:
        sizes: `(n, 2)` widths and heights.
        count: of anchors.
        iterations: at most so many; stops earlier when no box changes its anchor.

    Returns:
        `(count, 2)` anchors by rising area, and the mean IoU of the boxes with their best anchor.

    Raises:
        DataError: fewer boxes than anchors, or a box without area.

    Source: YOLO9000 (Redmon and Farhadi, 2016), "Dimension Clusters".
    """
    if len(sizes) < count:
        raise DataError(f"{count} anchors need at least as many boxes; there are {len(sizes)}")
    if sizes.min() <= 0:
        raise DataError("anchors need boxes with a width and a height above 0")
    order = sizes[np.argsort(sizes.prod(-1), kind="stable")]
    anchors = order[((np.arange(count) + 0.5) / count * len(sizes)).astype(int)].astype(np.float64)
    assigned = np.full(len(sizes), -1)
    for _ in range(iterations):
        nearest = shape_iou(sizes, anchors).argmax(1)
        if (nearest == assigned).all():
            break
        assigned = nearest
        for number in range(count):
            if (assigned == number).any():
                anchors[number] = sizes[assigned == number].mean(0)
    anchors = anchors[np.argsort(anchors.prod(-1))]
    return anchors, float(shape_iou(sizes, anchors).max(1).mean())
