"""Anchors by k-means."""

import numpy as np
import pytest

from dupnet.data.anchors import cluster, shape_iou
from dupnet.errors import DataError


def test_shape_iou_by_hand() -> None:
    found = shape_iou(np.array([[2.0, 2.0]]), np.array([[2.0, 2.0], [1.0, 4.0], [4.0, 4.0]]))
    np.testing.assert_allclose(found, [[1, 2 / 6, 4 / 16]])


def test_separated_clusters_are_found() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[10.0, 12.0], [40.0, 50.0], [120.0, 160.0]])
    sizes = np.concatenate([centre * rng.uniform(0.9, 1.1, (200, 2)) for centre in centres])
    rng.shuffle(sizes)
    anchors, overlap = cluster(sizes, 3)
    np.testing.assert_allclose(anchors, centres, rtol=0.02)
    assert overlap > 0.85


def test_the_order_of_the_boxes_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    sizes = np.exp(rng.normal(3, 1, (500, 2)))
    np.testing.assert_allclose(cluster(sizes, 5)[0], cluster(sizes[::-1], 5)[0])


@pytest.mark.parametrize(("sizes", "message"), [(np.ones((2, 2)), "at least as many"), (np.array([[1.0, 0.0]] * 6), "above 0")])
def test_impossible_boxes(sizes: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        cluster(sizes, 3)
