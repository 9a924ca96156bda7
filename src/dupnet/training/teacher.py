"""Labels with the help of another detector: its boxes, on file, say what the labels of a photo set miss.

Any detector can be the teacher: one of this package writes its boxes with `dupnet evaluate --predictions`, a foreign one in WIDER FACE's
prediction files or as arrays. After this module the samples go into `dupnet.training.targets` like any others.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dupnet import checked
from dupnet.data import wider
from dupnet.data.photos import Photos
from dupnet.data.sample import Sample
from dupnet.detections import iou
from dupnet.errors import DataError, SpecError
from dupnet.evaluation import predictions

Found = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Boxes `(n, 4)` x1 y1 x2 y2 in pixels of the photo, and scores `(n,)`."""


@dataclass(frozen=True)
class Teacher:
    """How a teacher's boxes and the labels become one.

    A box of the teacher is *sure* (`score >= sure`), *half sure* (`half <= score < sure`) or nothing. It is *known* if its IoU with a
    labelled face is at least `overlap`, or if an ignore region covers at least that share of it.

    - `"add"`: the labels stay. A sure box that is not known becomes a face, a half-sure one an ignore region.
    - `"replace"`: the teacher gives the targets. Its sure boxes become the faces, its half-sure ones ignore regions, but for those that an
      ignore region covers; a labelled face that no sure box overlaps by at least `overlap` becomes an ignore region, because the two
      disagree; ignore regions stay.

    Attributes:
        detections: a prediction tree in WIDER FACE's format, or an `.npz` file with `photos` (names), `start` (photo i owns the rows
            `start[i]` to `start[i + 1] - 1`), `boxes` and `scores`; "" for no teacher. Looked for where the command runs, then in the
            folder of the photo set.
        use: see above.
        folders: only labels of photos in these top folders of the photo set, such as those of one source that draws its boxes
            otherwise than the others; () for all.
        sure, half, overlap: see above.
    """

    detections: str = ""
    use: Literal["add", "replace"] = "add"
    folders: tuple[str, ...] = ()
    sure: float = 0.6
    half: float = 0.3
    overlap: float = 0.4

    def __post_init__(self) -> None:
        checked.choices(self, where="teacher")
        if not self.half <= self.sure:
            raise SpecError(f"teacher: half must not be above sure, but {self.half} is above {self.sure}")
        if not 0 < self.overlap <= 1:
            raise SpecError(f"teacher: overlap must be above 0 and at most 1, not {self.overlap}")


def taught_photos(data: Path, teacher: Teacher, cache: Path | None) -> Photos:
    """The training photos of a photo set with the teacher's boxes (`relabel`), decoded into `cache` first unless it is None.

    Raises:
        DataError: annotations, a photo or the teacher's file cannot be read, or do not fit together.
    """
    samples, images = wider.split(data, "train")
    return Photos(relabel(samples, teacher, data), images, cache)


def relabel(samples: Sequence[Sample], teacher: Teacher, data: Path) -> list[Sample]:
    """The samples with the teacher's boxes; as they are if there is no teacher, or if it is not asked about them.

    Args:
        samples: of a photo set.
        teacher: whose boxes, and for which folders.
        data: the folder of the photo set.

    Raises:
        DataError: the file cannot be read, or lacks a photo; a folder has no photo.
    """
    if not teacher.detections:
        return list(samples)
    tops = [sample.photo.split("/")[0] for sample in samples]
    if unknown := sorted(set(teacher.folders) - set(tops)):
        raise DataError(f"teacher: no photo lies in {', '.join(unknown)}; there are {', '.join(sorted(set(tops)))}")
    asked = [sample for sample, top in zip(samples, tops) if not teacher.folders or top in teacher.folders]
    found = read(located(teacher, data), [sample.photo for sample in asked])
    told = {sample.photo: combine(sample, boxes, scores, teacher) for sample, (boxes, scores) in zip(asked, found)}
    return [told.get(sample.photo, sample) for sample in samples]


def located(teacher: Teacher, data: Path) -> str:
    """The path of the teacher's file, or "" if there is no teacher."""
    inside = data / teacher.detections
    return str(inside) if teacher.detections and not Path(teacher.detections).exists() and inside.exists() else teacher.detections


def combine(sample: Sample, boxes: NDArray[np.float64], scores: NDArray[np.float64], teacher: Teacher) -> Sample:
    """One sample with the teacher's boxes `(n, 4)` and scores `(n,)`, by the rule that `Teacher` states.

    Example:
        >>> label = Sample("a.jpg", np.array([[0.0, 0, 10, 10]]), np.array([False]))
        >>> boxes, scores = np.array([[0.0, 0, 10, 9], [50, 0, 60, 9], [80, 0, 90, 9]]), np.array([0.9, 0.8, 0.4])
        >>> combine(label, boxes, scores, Teacher()).ignore.tolist()  # the label, a new face, a region to ignore
        [False, False, True]
    """
    faces, regions = sample.boxes[~sample.ignore], sample.boxes[sample.ignore]
    sure, half = scores >= teacher.sure, (scores >= teacher.half) & (scores < teacher.sure)
    covered = _covered(boxes, regions) >= teacher.overlap
    labelled = (iou(boxes, faces) >= teacher.overlap).any(1)
    if teacher.use == "add":
        new = (sure | half) & ~labelled & ~covered
        return Sample(sample.photo, np.concatenate([sample.boxes, boxes[new]]), np.concatenate([sample.ignore, half[new]]))
    doubted = ~(iou(faces, boxes[sure]) >= teacher.overlap).any(1)
    parts = [(boxes[sure & ~covered], False), (boxes[half & ~covered], True), (faces[doubted], True), (regions, True)]
    ignore = np.concatenate([np.full(len(part), kind) for part, kind in parts])
    return Sample(sample.photo, np.concatenate([part for part, _ in parts]), ignore)


def _covered(boxes: NDArray[np.float64], regions: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(n,)`: the largest share of each box that one region covers."""
    low, high = np.maximum(boxes[:, None, :2], regions[None, :, :2]), np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    share: NDArray[np.float64] = np.clip(high - low, 0, None).prod(2) / np.maximum(area, 1e-9)[:, None]
    return share.max(1, initial=0)


def read(path: str | Path, photos: Sequence[str]) -> list[Found]:
    """The teacher's boxes of each photo.

    Raises:
        DataError: the file cannot be read, or lacks a photo.
    """
    if Path(path).suffix != ".npz":
        return [(boxes.xyxy, boxes.scores) for boxes in predictions.read_wider(path, photos)]
    try:
        with np.load(path, allow_pickle=False) as file:
            names, start, boxes, scores = (file[key] for key in ("photos", "start", "boxes", "scores"))
        boxes, scores = boxes.astype(np.float64), scores.astype(np.float64)
    except (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as a teacher's boxes (photos, start, boxes, scores): {error}") from None
    shapes = start.shape == (len(names) + 1,) and scores.ndim == 1 and boxes.shape == (len(scores), 4)
    if not shapes or start[0] != 0 or (start[1:] < start[:-1]).any() or start[-1] != len(scores):
        raise DataError(
            f"{path}: {len(names)} photos, {start.shape} starts, {boxes.shape} boxes and {scores.shape} scores do not fit together"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise DataError(f"{path}: boxes and scores must be finite numbers")
    rows = {str(name): slice(int(a), int(b)) for name, a, b in zip(names, start, start[1:])}
    if missing := [photo for photo in photos if photo not in rows]:
        raise DataError(f"{path}: {len(missing)} of {len(photos)} photos are missing, such as {missing[0]!r}")
    return [(boxes[rows[photo]], scores[rows[photo]]) for photo in photos]
