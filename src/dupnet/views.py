"""Several views of one photo, for any detector: mirrored, at several sizes, their boxes merged.

"Test-time augmentation": it costs a pass of the network a view and no byte of the model. Before this module comes a detector,
given as a function; after it whoever asked for boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dupnet.detections import Detections, count_votes, nms, vote_boxes

Find = Callable[[NDArray[np.uint8], int, float], Detections]
"""A detector: pixels `(h, w, 3) uint8` RGB, the long side that the network sees and the lowest score, to boxes in the photo's pixels."""

VOTER = 0.25
"""A look's box votes for a surer one of its face if it is this much as sure."""


@dataclass(frozen=True)
class Views:
    """How a photo is looked at.

    Attributes:
        sizes: long sides in pixels, one pass (two with `flip`) for each.
        flip: look at the mirrored photo too.
        vote: merge the boxes of a face in all views by voting (`vote_boxes`) instead of keeping the surest one; its odds are those of the
            surest, times the votes, divided by the number of views: what all of them see stays as sure as it is.
    """

    sizes: tuple[int, ...]
    flip: bool = False
    vote: bool = False

    def __post_init__(self) -> None:
        if not self.sizes or len(set(self.sizes)) != len(self.sizes):
            raise ValueError(f"sizes must be different long sides, at least one, not {self.sizes}")

    @property
    def passes(self) -> int:
        """Runs of the network for one photo."""
        return len(self.sizes) * (1 + self.flip)


def detect(find: Find, pixels: NDArray[np.uint8], views: Views, *, threshold: float, score: float) -> Detections:
    """Look at a photo in every view and merge what is found.

    Args:
        find: the detector.
        pixels: `(h, w, 3) uint8` RGB.
        views: which; one plain view is the detector itself, unchanged.
        threshold: IoU above which two boxes are of the same face.
        score: lowest score of a face.

    Returns:
        Boxes in the photo's pixels.

    Example:
        >>> def find(pixels, size, score):  # finds one box at the left end
        ...     return Detections([[0, 0, 4, 4]], [0.5])
        >>> detect(find, np.zeros((8, 10, 3), np.uint8), Views((416,), flip=True), threshold=0.3, score=0.1).xyxy.tolist()
        [[0.0, 0.0, 4.0, 4.0], [6.0, 0.0, 10.0, 4.0]]

    Source: the default test of S3FD, PyramidBox and EResFD (flip, several scales, box voting).
    Departs: their published code keeps the surest score and drops boxes that no other view confirms; here these lose odds.
    """
    least = VOTER * score if views.vote else score
    parts = []
    for size in views.sizes:
        parts.append(find(pixels, size, least))
        if views.flip:
            mirrored = find(np.ascontiguousarray(pixels[:, ::-1]), size, least)
            width = pixels.shape[1]
            parts.append(Detections(mirrored.xyxy[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0], mirrored.scores))
    if len(parts) == 1 and not views.vote:
        return parts[0]
    boxes = np.concatenate([part.xyxy for part in parts])
    scores = np.concatenate([part.scores for part in parts])
    if views.vote:
        boxes, scores, votes = vote_boxes(boxes, scores, threshold=threshold, voter=VOTER)
        return Detections(*count_votes(boxes, scores, np.minimum(votes / len(parts), 1), score=score), pixels)
    kept = nms(boxes, scores, threshold=threshold)
    return Detections(boxes[kept], scores[kept], pixels)
