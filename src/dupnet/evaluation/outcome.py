"""What one detector did on one data set, face by face and box by box: what protocols hand to plots and reports.

A protocol (`dupnet.evaluation.wider`, `.fddb`) decides which boxes found which faces; nothing here or later decides it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dupnet.errors import DataError
from dupnet.evaluation.matching import FALSE_POSITIVES_PER_PHOTO, Flags, Floats
from dupnet.evaluation.predictions import Found

NEVER = -np.inf
"""The score at which a face that no box found was found."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Faces found against false positives, at every distinct score from the highest down.

    Attributes:
        name: of the faces that count, such as `medium`.
        faces: how many they are, at least 1.
        limits: `(k,)` the scores, descending.
        hits: `(k,)` faces found by the boxes of that score and above (a sum of overlaps where a protocol counts so).
        false_positives: `(k,)`.
        is_sum: the hits are a sum of overlaps, so no precision follows from them.
    """

    name: str
    faces: int
    limits: Floats
    hits: Floats
    false_positives: Floats
    is_sum: bool = False

    @property
    def recall(self) -> Floats:
        """`(k,)` part of the faces found."""
        return self.hits / self.faces

    @property
    def precision(self) -> Floats:
        """`(k,)` part of the boxes that count which found a face."""
        boxes = self.hits + self.false_positives
        return np.divide(self.hits, boxes, out=np.ones(len(boxes)), where=boxes > 0)

    def best(self, false_positives: float) -> tuple[float, float]:
        """The largest recall with at most so many false positives, and the highest score threshold that gives it (0, inf if none does)."""
        allowed = np.flatnonzero(self.false_positives <= false_positives)
        if not len(allowed):
            return 0.0, np.inf
        at = allowed[np.argmax(self.hits[allowed])]
        return float(self.recall[at]), float(self.limits[at])


@dataclass(frozen=True, eq=False)
class PhotoOutcome:
    """What a detector did on one photo.

    Attributes:
        photo: path relative to the data set's photos.
        faces: `(m, 4)` every label, x1 y1 x2 y2 in pixels of the photo.
        valid: `(m,)` the labels that are faces to find, in the leading subset or not.
        counts: `(m,)` those in the leading subset.
        found_at: `(m,)` score of the box that found each valid face; `NEVER` where none did.
        found: the boxes.
        false_alarms: `(n,)` the boxes that are false positives when the leading subset counts.
    """

    photo: str
    faces: Floats
    valid: Flags
    counts: Flags
    found_at: Floats
    found: Found
    false_alarms: Flags


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a detector did on a data set.

    Attributes:
        detector: its name in plots and tables.
        numbers: the protocol's scores, by the names that tables show; NaN where no face is to be found.
        curves: one for each subset of faces that holds any.
        leading: name of the curve whose operating point says which faces are missed and which boxes are false alarms.
        photos: in the data set's order.
        counted: the photos on which false positives are counted; WIDER FACE leaves out those without a label.
    """

    detector: str
    numbers: Mapping[str, float]
    curves: tuple[Curve, ...]
    leading: str
    photos: tuple[PhotoOutcome, ...]
    counted: int

    @property
    def curve(self) -> Curve:
        """The leading one."""
        return next(curve for curve in self.curves if curve.name == self.leading)

    @cached_property
    def limit(self) -> float:
        """The score threshold of the operating point: at most 0.1 false positives a photo; infinite if no threshold is so low in them."""
        return self.curve.best(self.allowed)[1]

    @property
    def allowed(self) -> float:
        """False positives at the operating point."""
        return FALSE_POSITIVES_PER_PHOTO * self.counted


def check_comparable(outcomes: Sequence[Outcome]) -> None:
    """Refuse to compare detectors that were measured on different faces, or that have the same name.

    Raises:
        DataError: names the two that differ.
    """
    first = outcomes[0]
    if len({outcome.detector for outcome in outcomes}) < len(outcomes):
        raise DataError(f"each detector of a comparison needs its own name, not {', '.join(outcome.detector for outcome in outcomes)}")
    for other in outcomes[1:]:
        same = [curve.name for curve in first.curves] == [curve.name for curve in other.curves] and len(first.photos) == len(other.photos)
        if not same or any(a.photo != b.photo or not np.array_equal(a.counts, b.counts) for a, b in zip(first.photos, other.photos)):
            raise DataError(f"{first.detector} and {other.detector} were not measured on the same faces")
