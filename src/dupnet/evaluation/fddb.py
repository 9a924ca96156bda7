"""The FDDB protocol: discrete and continuous ROC curves over its ten folds, as the official program computes them.

Regions are compared by the pixels that they cover inside the photo (`dupnet.evaluation.regions`), and at each score
threshold the detections of a photo are matched with its faces one to one, such that the sum of the overlaps is largest.
docs/evaluation.md tells the rules. No photos are needed, only their sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dupnet import image
from dupnet.data import fddb
from dupnet.errors import DataError
from dupnet.evaluation import Detect, predictions, regions
from dupnet.evaluation.outcome import NEVER, Curve, Outcome, PhotoOutcome

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OVERLAP = 0.5
"""A match is a true positive of the discrete score if the overlap is more than this."""

FALSE_POSITIVES = 284
"""Where papers read the detection rate: about one in ten photos."""

CHUNK = 256
"""Photos whose regions are filled together: some tens of megabytes."""


@dataclass(frozen=True, eq=False)
class FddbScores:
    """Both ROC curves: what is found among the detections of each score and above. One entry a threshold, ascending.

    Attributes:
        thresholds: `(k,) float64`, every score that occurs.
        true_positives: `(k,) int64`, faces whose match overlaps by more than 0.5 (the discrete score).
        overlaps: `(k,) float64`, sum of the overlaps of all matches (the continuous score).
        false_positives: `(k,) int64`, detections that are no true positives.
        faces: how many there are to find.
        photos: how many photos that was measured on.
        has_empty: whether a photo has no detection; the official files then end in one more row.
    """

    thresholds: Floats
    true_positives: Ints
    overlaps: Floats
    false_positives: Ints
    faces: int
    photos: int
    has_empty: bool

    def discrete_rate(self, false_positives: float = FALSE_POSITIVES) -> float:
        """Largest true positive rate at any threshold with at most so many false positives."""
        return float(self.true_positives[self.false_positives <= false_positives].max(initial=0) / self.faces)

    def continuous_rate(self, false_positives: float = FALSE_POSITIVES) -> float:
        """Largest sum of overlaps at any threshold with at most so many false positives, divided by the number of faces."""
        return float(self.overlaps[self.false_positives <= false_positives].max(initial=0) / self.faces)


@dataclass(frozen=True, eq=False)
class PhotoScores:
    """The same for one photo: what its detections of each of its own scores and above reach; descending thresholds."""

    thresholds: Floats
    true_positives: Ints
    overlaps: Floats
    false_positives: Ints


def run(detect: Detect, photos: Sequence[fddb.FddbPhoto], images: Path, *, progress: bool = False) -> list[Floats]:
    """What a detector finds in each photo, as `score` takes it: `(n, 5) float64` x y w h score.

    Args:
        detect: should return boxes down to a low score; what it leaves out cannot count.
        photos: the benchmark's.
        images: the folder that their names are relative to.
        progress: show a progress bar on stderr.

    Raises:
        ImageError: a photo cannot be read.
    """
    from tqdm import tqdm

    bar = tqdm(photos, unit="photo", disable=not progress)
    return [predictions.rows(detect(image.read(fddb.photo_path(images, photo)))) for photo in bar]


def score(photos: Sequence[fddb.FddbPhoto], sizes: Sequence[tuple[int, int]], found: Sequence[Floats]) -> FddbScores:
    """Score what was found in each photo.

    Args:
        photos: the benchmark's.
        sizes: height and width of each.
        found: the detections of each, as from `predictions.read_fddb`: `(n, 5)` boxes or `(n, 6)` ellipses with their scores.
    """
    if not len(photos) == len(sizes) == len(found):
        raise DataError(f"{len(photos)} photos, {len(sizes)} sizes and {len(found)} lists of detections do not fit together")
    parts: list[PhotoScores] = []
    for at in range(0, len(photos), CHUNK):
        tables = overlap_tables([photo.ellipses for photo in photos[at : at + CHUNK]], sizes[at : at + CHUNK], found[at : at + CHUNK])
        parts += [score_photo(table, rows[:, -1]) for table, rows in zip(tables, found[at : at + CHUNK])]
    # Between two of its own scores a photo counts with what it reached at the higher one. So each curve is the sum of the
    # photos' steps, from the highest score down.
    thresholds = np.concatenate([part.thresholds for part in parts])
    order = np.argsort(-thresholds, kind="stable")
    ends = np.flatnonzero(np.diff(thresholds[order], append=-np.inf) < 0)[::-1]  # the last step of each score

    def curve(values: Sequence[NDArray[Any]]) -> NDArray[Any]:
        steps = np.concatenate([np.diff(one, prepend=one.dtype.type(0)) for one in values])
        return np.cumsum(steps[order])[ends]

    return FddbScores(
        thresholds=thresholds[order][ends],
        true_positives=curve([part.true_positives for part in parts]),
        overlaps=curve([part.overlaps for part in parts]),
        false_positives=curve([part.false_positives for part in parts]),
        faces=sum(len(photo.ellipses) for photo in photos),
        photos=len(photos),
        has_empty=any(not len(rows) for rows in found),
    )


def score_photo(table: Floats, scores: Floats) -> PhotoScores:
    """Score the detections of one photo at each of their scores.

    Args:
        table: `(m, n)`, overlap of each face with each detection.
        scores: `(n,)`, of the detections, in any order.
    """
    order = np.argsort(-scores, kind="stable")
    table, scores = table[:, order], scores[order]
    true_positives, overlaps = np.zeros(len(scores), np.int64), np.zeros(len(scores))
    # Faces and detections that overlap, directly or over others, form a group. Groups are matched apart, and a group's best
    # match changes only where one of its own detections comes in.
    for faces in _groups(table):
        own = np.flatnonzero(table[faces].any(axis=0))
        hits, total = _best_matches(table[np.ix_(faces, own)])
        at = np.searchsorted(own, np.arange(len(scores)), side="right")  # how many of its own are in by then
        true_positives += np.concatenate([[0], hits])[at]
        overlaps += np.concatenate([[0.0], total])[at]
    ends = np.flatnonzero(np.diff(scores, append=-np.inf) < 0)  # the last detection of each score
    return PhotoScores(scores[ends], true_positives[ends], overlaps[ends], ends + 1 - true_positives[ends])


def overlap_tables(faces: Sequence[Floats], sizes: Sequence[tuple[int, int]], found: Sequence[Floats]) -> list[Floats]:
    """Overlap of each face with each detection of the same photo, `(m, n)` a photo.

    Args:
        faces: ellipses of each photo, `(m, 5)`.
        sizes: height and width of each.
        found: the detections of each: `(n, 5)` boxes or `(n, 6)` ellipses with their scores.
    """
    masks = _masks(faces, sizes)
    if any(rows.shape[1] == 6 for rows in found):
        others = _masks([rows[:, :5] for rows in found], sizes)
        tables = [[regions.overlap_with_masks(mask, there) for mask in here] for here, there in zip(masks, others)]
    else:
        corners = [regions.rectangle_corners(rows[:, :4], size) for rows, size in zip(found, sizes)]
        tables = [[regions.overlap_with_rectangles(mask, there) for mask in here] for here, there in zip(masks, corners)]
    return [np.array(table).reshape(len(here), len(rows)) for table, here, rows in zip(tables, faces, found)]


def _masks(ellipses: Sequence[Floats], sizes: Sequence[tuple[int, int]]) -> list[list[regions.Mask]]:
    """Those of all photos are filled together: one by one, most of the time would go into calls of numpy."""
    counts = [len(rows) for rows in ellipses]
    masks = iter(regions.ellipse_masks(np.concatenate(ellipses), np.repeat(np.array(sizes), counts, axis=0)))
    return [list(itertools.islice(masks, count)) for count in counts]


def _groups(table: Floats) -> Iterator[Ints]:
    """Indices of the faces of each group; faces that no detection overlaps are in none."""
    touches = table > 0
    rest = touches.any(axis=1)
    while rest.any():
        group = np.zeros(len(table), bool)
        group[rest.argmax()] = True
        reached = 0
        while (size := int(np.count_nonzero(group))) > reached:
            reached = size
            group[:] = touches[:, touches[group].any(axis=0)].any(axis=1)
        rest &= ~group
        yield np.flatnonzero(group)


def _best_matches(table: Floats) -> tuple[Ints, Floats]:
    """Of the best match of all faces with the first 1, 2, ... n detections: how many pairs overlap enough, and by how much all do.

    Args:
        table: `(m, n)` overlaps.
    """
    hits, total = np.zeros(table.shape[1], np.int64), np.zeros(table.shape[1])
    for number, faces, detections in _matches(table):
        pairs = table[faces, detections]
        hits[number:], total[number:] = np.count_nonzero(pairs > OVERLAP), pairs.sum()
    return hits, total


def _matches(table: Floats) -> Iterator[tuple[int, Ints, Ints]]:
    """The best match of all faces with the detections up to a number, wherever it may differ from that with fewer of them.

    Yields:
        Number of the last detection that came in; faces and detections of the pairs (those without overlap mean nothing).
    """
    from scipy.optimize import linear_sum_assignment

    # With m faces, one of a face's m best detections is always free for it, as the others take m - 1 at most: so no match is
    # better than the best among these. A detection that is none of them for any face changes nothing.
    faces = len(table)
    kept: list[int] = []
    floor = np.zeros(faces)  # of each face's m best overlaps so far, the smallest
    for number, overlaps in enumerate(table.T):
        if np.any(overlaps > floor):
            kept.append(number)
            rows, columns = linear_sum_assignment(table[:, kept], maximize=True)
            yield number, rows, np.array(kept)[columns]
            if len(kept) >= faces:
                best = np.argsort(-table[:, kept], axis=1, kind="stable")[:, :faces]
                floor = np.take_along_axis(table[:, kept], best[:, -1:], axis=1)[:, 0]
                kept = [kept[i] for i in np.unique(best)]


def outcome(detector: str, photos: Sequence[fddb.FddbPhoto], sizes: Sequence[tuple[int, int]], found: Sequence[Floats]) -> Outcome:
    """What `score` sums up, face by face and box by box.

    A face is found at the highest score at which the best match gives it a detection that overlaps enough; a detection is a
    false alarm unless it is such a match when it comes in. Ellipses are shown as the boxes around them.

    Args:
        detector: what plots and tables call it.
        photos, sizes, found: as for `score`.
    """
    scores = score(photos, sizes, found)
    limits, misses = scores.thresholds[::-1], scores.false_positives[::-1].astype(np.float64)
    if not len(limits):
        limits, misses = np.array([np.inf]), np.zeros(1)
    hits, total = (np.resize(values[::-1], len(limits)).astype(np.float64) for values in (scores.true_positives, scores.overlaps))
    curves = (
        Curve("FDDB", scores.faces, limits, hits, misses),
        Curve("FDDB (continuous)", scores.faces, limits, total, misses, is_sum=True),
    )
    numbers = {
        f"Discrete rate at {FALSE_POSITIVES} false positives": scores.discrete_rate(),
        f"Continuous rate at {FALSE_POSITIVES} false positives": scores.continuous_rate(),
    }
    parts = []
    for at in range(0, len(photos), CHUNK):
        part = slice(at, at + CHUNK)
        tables = overlap_tables([photo.ellipses for photo in photos[part]], sizes[part], found[part])
        parts += [_photo_outcome(*row) for row in zip(photos[part], found[part], tables)]
    return Outcome(detector, numbers, curves, "FDDB", tuple(parts), len(photos))


def _photo_outcome(photo: fddb.FddbPhoto, rows: Floats, table: Floats) -> PhotoOutcome:
    order = np.argsort(-rows[:, -1], kind="stable")
    rows, table = rows[order], table[:, order]
    every = np.ones(len(photo.ellipses), bool)
    found_at, false_alarms = np.full(len(every), NEVER), np.ones(len(rows), bool)
    for number, faces, detections in _matches(table) if len(every) else ():
        enough = table[faces, detections] > OVERLAP
        found_at[faces[enough]] = np.maximum(found_at[faces[enough]], rows[number, -1])
        false_alarms[number] &= number not in detections[enough]
    boxes = _around(rows[:, :5]) if rows.shape[1] == 6 else np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
    found = predictions.Boxes(boxes, rows[:, -1])
    return PhotoOutcome(f"{photo.name}.jpg", _around(photo.ellipses), every, every, found_at, found, false_alarms)


def _around(ellipses: Floats) -> Floats:
    """Boxes around ellipses, `(n, 4)` x1 y1 x2 y2."""
    cosine, sine = np.cos(ellipses[:, 2:3]), np.sin(ellipses[:, 2:3])
    half = np.hypot(ellipses[:, :1] * np.concatenate([cosine, sine], axis=1), ellipses[:, 1:2] * np.concatenate([sine, cosine], axis=1))
    return np.concatenate([ellipses[:, 3:5] - half, ellipses[:, 3:5] + half], axis=1)


def write_curves(scores: FddbScores, folder: str | Path) -> None:
    """Write `DiscROC.txt` (true positive rate, false positives, threshold) and `ContROC.txt` (sum of overlaps divided by the
    number of faces, false positives) as the official program does: a line a threshold, ascending, six digits.

    Raises:
        DataError: they cannot be written.
    """
    discrete = [
        f"{hits / scores.faces:g} {float(misses):g} {threshold:g}\n"
        for hits, misses, threshold in zip(scores.true_positives, scores.false_positives, scores.thresholds)
    ]
    continuous = [f"{total / scores.faces:g} {float(misses):g}\n" for total, misses in zip(scores.overlaps, scores.false_positives)]
    if scores.has_empty:  # there the official program takes the largest number for the threshold
        discrete.append(f"0 0 {np.finfo(np.float64).max:g}\n")
        continuous.append("0 0\n")
    predictions.write_text(Path(folder) / "DiscROC.txt", "".join(discrete))
    predictions.write_text(Path(folder) / "ContROC.txt", "".join(continuous))
