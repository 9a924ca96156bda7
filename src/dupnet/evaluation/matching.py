"""The counting rules of the WIDER FACE evaluation, on arrays: which box found which face, curves, areas.

What to count and where it comes from is `dupnet.evaluation.wider`. The rules are told in docs/evaluation.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]

IOU = 0.5
"""A box finds a face if their intersection over union is at least this."""

THRESHOLDS = 1000
"""Points of a precision-recall curve."""

FALSE_POSITIVES_PER_PHOTO = 0.1
"""The operating point of the papers: where a detection rate is read."""


def overlap(a: Floats, b: Floats, *, inclusive: bool) -> Floats:
    """Intersection over union, `(n, m) float64` for `(n, 4)` and `(m, 4)` boxes x1 y1 x2 y2.

    Args:
        inclusive: coordinates name pixels, the last one included, so a box from 3 to 5 is 3 wide; else they are edges,
            and it is 2 wide.
    """
    one, two, extra = a[:, None], b[None], float(inclusive)
    shared = np.clip(np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2]) + extra, 0, None).prod(-1)
    union = (one[..., 2:] - one[..., :2] + extra).prod(-1) + (two[..., 2:] - two[..., :2] + extra).prod(-1) - shared
    ratio: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ratio


def match(boxes: Floats, faces: Floats, counts: Flags, *, inclusive: bool) -> tuple[Flags, Indices]:
    """Match the boxes of one photo, the surest first, with its labelled faces.

    Each box looks only at the face that it overlaps most. If that face does not count, the box does not count either; if
    it counts and is not found yet, the box finds it.

    Args:
        boxes: `(n, 4)` x1 y1 x2 y2, by descending score.
        faces: `(m, 4)`, all of the photo's, m at least 1.
        counts: `(m,)`, which faces are to be found.
        inclusive: see `overlap`.

    Returns:
        `(n,)` which boxes are proposals (they count), `(n,)` the index of the face that each box found, or -1. The
        proposals that found none are false positives.
    """
    overlaps = overlap(boxes, faces, inclusive=inclusive)
    nearest = overlaps.argmax(axis=1)
    touches = overlaps.max(axis=1) >= IOU
    proposals = ~(touches & ~counts[nearest])
    found = np.full(len(boxes), -1)
    hits = np.flatnonzero(touches & counts[nearest])
    faces_hit, first = np.unique(nearest[hits], return_index=True)
    found[hits[first]] = faces_hit
    return proposals, found


def precision_recall(scores: Floats, proposals: Flags, found: Flags, faces: int) -> tuple[Floats, Floats]:
    """Precision and recall at the score thresholds 0.999, 0.998, ... 0.

    Args:
        scores: `(n,)` in [0, 1], of the boxes of all photos, in any order.
        proposals, found: `(n,)`, which of them count and which found a face (`match`).
        faces: how many were to be found.
    """
    order = np.argsort(-scores, kind="stable")
    limits = 1 - np.arange(1, THRESHOLDS + 1) / THRESHOLDS
    above = np.searchsorted(-scores[order], -limits, side="right")
    hits, tries = (np.concatenate([[0], np.cumsum(flags[order])])[above] for flags in (found, proposals))
    return np.divide(hits, tries, out=np.zeros(THRESHOLDS), where=tries > 0), hits / faces


def average_precision(precision: Floats, recall: Floats) -> float:
    """Area under the curve, after each precision is raised to the best one at the same or a higher recall.

    Example:
        >>> round(average_precision(np.array([1.0, 0.5, 0.6]), np.array([0.2, 0.4, 0.6])), 6)
        0.44
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def walk(scores: Floats, proposals: Flags, found: Flags) -> tuple[Floats, Floats, Floats]:
    """What passes each distinct score, from the highest down: the scores, faces found, false positives, `(k,)` each.

    Boxes of equal score pass together. Arguments as in `precision_recall`; `scores` are compared exactly.
    """
    order = np.argsort(-scores, kind="stable")
    hits, tries = (np.cumsum(flags[order], dtype=np.float64) for flags in (found, proposals))
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf) < 0)
    return scores[order][ends], hits[ends], tries[ends] - hits[ends]


def detection_rate(scores: Floats, proposals: Flags, found: Flags, faces: int, *, false_positives: float) -> float:
    """Largest recall at any score threshold that lets through at most so many false positives. Arguments as in `walk`."""
    _, hits, wrong = walk(scores, proposals, found)
    return float(hits[wrong <= false_positives].max(initial=0) / faces)
