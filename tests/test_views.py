"""Several views of a photo: where mirrored boxes land, and that one plain view changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dupnet.detections import Detections
from dupnet.views import Views, detect


def bright_box(pixels: NDArray[np.uint8], size: int, score: float) -> Detections:
    """A detector that finds the bounding box of what is bright, surer at larger sizes."""
    ys, xs = np.nonzero(pixels[:, :, 0])
    if not len(ys):
        return Detections([], [])
    return Detections([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], [size / 1000], pixels)


@pytest.fixture
def photo() -> NDArray[np.uint8]:
    pixels = np.zeros((20, 50, 3), np.uint8)
    pixels[3:9, 5:15] = 255
    return pixels


def test_one_plain_view_is_the_detector_itself(photo: NDArray[np.uint8]) -> None:
    given = Detections([[0, 0, 4, 4], [0, 0, 4, 4]], [0.5, 0.4])  # not even suppressed again
    assert detect(lambda pixels, size, score: given, photo, Views((320,)), threshold=0.3, score=0.4) is given


def test_every_view_sees_the_same_face(photo: NDArray[np.uint8]) -> None:
    seen = []

    def find(pixels: NDArray[np.uint8], size: int, score: float) -> Detections:
        seen.append((size, bool((pixels == photo).all()), score))
        return bright_box(pixels, size, score)

    views = Views((320, 640), flip=True)
    for vote in (False, True):
        found = detect(find, photo, Views(views.sizes, views.flip, vote), threshold=0.3, score=0.2)
        np.testing.assert_allclose(found.xyxy, [[5, 3, 15, 9]], rtol=1e-6)
        odds = 0.64 / 0.36 * ((1 + 1 + 0.5 + 0.5) / 4 if vote else 1)  # two views half as sure have half a vote each
        np.testing.assert_allclose(found.scores, [odds / (1 + odds)], rtol=1e-6)
    assert seen[:4] == [(320, True, 0.2), (320, False, 0.2), (640, True, 0.2), (640, False, 0.2)]
    assert {score for _, _, score in seen[4:]} == {0.05}  # what is a quarter as sure may vote
    assert views.passes == 4


def test_what_one_view_of_two_finds_is_half_as_likely(photo: NDArray[np.uint8]) -> None:
    def find(pixels: NDArray[np.uint8], size: int, score: float) -> Detections:
        return Detections([[0, 0, 9, 9]], [0.8]) if size == 640 else Detections([], [])

    for score, found in ((0.6, 1), (0.7, 0)):
        faces = detect(find, photo, Views((320, 640), vote=True), threshold=0.3, score=score)
        np.testing.assert_allclose(faces.scores, [2 / 3] * found, rtol=1e-6)  # odds of 4 to 1, halved
    assert detect(find, photo, Views((320, 640)), threshold=0.3, score=0.7).scores.tolist() == [np.float32(0.8)]


def test_an_empty_photo_stays_empty() -> None:
    for vote in (False, True):
        views = Views((320,), flip=True, vote=vote)
        assert len(detect(bright_box, np.zeros((8, 8, 3), np.uint8), views, threshold=0.3, score=0.0)) == 0


def test_sizes_are_checked() -> None:
    for sizes in ((), (320, 320)):
        with pytest.raises(ValueError, match="different long sides"):
            Views(sizes)
