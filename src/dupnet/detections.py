"""What was found in one photo: boxes and scores, and what people do with them.

Here live `Detections`, intersection over union, and how many boxes of a face become one. Boxes are x1 y1 x2 y2 in pixels, in the photo's
coordinates unless said otherwise. Before this module comes `dupnet.runtime`; `dupnet.evaluation` scores what it holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dupnet.errors import DataError, ImageError
from dupnet.files import whole

Boxes = NDArray[np.float32]
SUFFIXES = (".json", ".csv", ".png", ".jpg", ".jpeg")
"""What `Detections.save` can write."""

DEFAULT_IOU = 0.45
"""Boxes of one detector that overlap a better one by more than this are of its face."""
VOTER = 0.5
"""A box votes for a surer one of its face, and on where it lies, if it is this much as sure."""
MOST_VOTES = 4
"""More votes than these make a face of one grid no surer."""
MIN_SIZE_PX, MAX_SIZE_PX = 32, 8192
"""Long sides to which a detector scales a photo."""


def check_arguments(size: object, score: float, iou: float) -> None:
    """Refuse what no detector accepts.

    Raises:
        ValueError: says which argument of `detect`, its range and what came.
    """
    if not isinstance(size, (int, np.integer)) or not MIN_SIZE_PX <= size <= MAX_SIZE_PX:
        raise ValueError(f"size must be an integer from {MIN_SIZE_PX} to {MAX_SIZE_PX} pixels, not {size!r}")
    for what, value in (("score", score), ("iou", iou)):
        if not isinstance(value, (float, int, np.floating, np.integer)) or not 0 <= value <= 1:
            raise ValueError(f"{what} must be a number from 0 to 1, not {value!r}")


class Detection(NamedTuple):
    """One box `(4,) float32` x1 y1 x2 y2 and its score."""

    box: Boxes
    score: float


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes and scores of one photo, the surest first. Nothing found is an empty `Detections`, never None.

    Attributes:
        xyxy: `(n, 4) float32`, x1 y1 x2 y2 in pixels of the photo.
        scores: `(n,) float32`, descending, in [0, 1] if they are of a detector from here; ties keep the order in which they were given.
        image: the photo, `(h, w, 3) uint8` RGB, if it is at hand; `plot` and `crops` need it. An array that
            was given to `detect` is not copied: copy one that you will write to.

    Example:
        >>> faces = Detections([[8, 8, 40, 48], [50, 9, 60, 22]], [0.6, 0.9])
        >>> [round(score, 2) for box, score in faces]
        [0.9, 0.6]
        >>> len(faces[faces.scores >= 0.7])
        1
    """

    xyxy: Boxes
    scores: NDArray[np.float32]
    image: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores, np.float32).reshape(-1)
        xyxy = np.asarray(self.xyxy, np.float32)
        if xyxy.shape != (len(scores), 4) and xyxy.size + len(scores) > 0:
            raise DataError(f"{len(scores)} scores need boxes of shape ({len(scores)}, 4), not {xyxy.shape}")
        if not (np.isfinite(xyxy).all() and np.isfinite(scores).all()):
            raise DataError("boxes and scores must be finite")
        if self.image is not None and not isinstance(self.image, np.ndarray):
            raise DataError(f"the photo must be an array (h, w, 3) uint8, not {type(self.image).__name__}")
        if xyxy.size and (xyxy[:, :2] > xyxy[:, 2:]).any():
            raise DataError("boxes must be x1 y1 x2 y2 with x1 <= x2 and y1 <= y2")
        order = np.argsort(-scores, kind="stable")
        object.__setattr__(self, "xyxy", xyxy.reshape(-1, 4)[order])
        object.__setattr__(self, "scores", scores[order])

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (Detection(box, float(score)) for box, score in zip(self.xyxy, self.scores))

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice | NDArray[np.bool_] | NDArray[np.integer]) -> Detections: ...
    def __getitem__(self, index: int | slice | NDArray[np.bool_] | NDArray[np.integer]) -> Detection | Detections:
        if isinstance(index, (int, np.integer)):
            return Detection(self.xyxy[index], float(self.scores[index]))
        return Detections(self.xyxy[index], self.scores[index], self.image)

    def __repr__(self) -> str:
        return f"Detections({len(self)} boxes" + (f", best {self.scores[0]:.2f})" if len(self) else ")")

    def plot(self, image: NDArray[np.uint8] | Image.Image | None = None) -> Image.Image:
        """Draw boxes and scores over a copy of the photo.

        Lines run outside the boxes and labels stand where they cover no face; a label that finds no such place inside
        the photo is left out.

        Args:
            image: what to draw on, RGB of the size of the photo, or a PIL image, which is turned upright as `Detector.detect` does; the
                photo itself by default.

        Raises:
            ImageError: there is no photo to draw on, or it has not 8 bits, or is of another size than the photo.
        """
        if isinstance(image, Image.Image):
            if image.mode[0] in "IF":
                raise ImageError(f"expected a picture of 8 bits, found mode {image.mode}; dupnet.image.read(image) gives one")
            image = ImageOps.exif_transpose(image).convert("RGB")
        pixels = np.asarray(self._photo() if image is None else image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise ImageError(f"expected a picture (h, w, 3) uint8 RGB, found {pixels.shape} {pixels.dtype}")
        if self.image is not None and pixels.shape != self.image.shape:
            raise ImageError(f"a picture of shape {pixels.shape} is not of the size of the photo, {self.image.shape}")
        return _draw(Image.fromarray(pixels), self)

    def crops(self, margin: float = 0.0) -> list[NDArray[np.uint8]]:
        """Cut the boxes out of the photo.

        Args:
            margin: added on each side, as a part of the box's width and height; the photo's border cuts it.

        Returns:
            One `(h, w, 3) uint8` array a box, in the boxes' order, at least one pixel each.
        """
        if not np.isfinite(margin):
            raise ValueError(f"margin must be a finite number, not {margin!r}")
        photo = self._photo()
        height, width = photo.shape[:2]
        size = self.xyxy[:, 2:] - self.xyxy[:, :2]
        low = np.floor(self.xyxy[:, :2] - margin * size).clip(0, [width - 1, height - 1]).astype(int)
        high = np.ceil(self.xyxy[:, 2:] + margin * size).clip(low + 1, [width, height]).astype(int)
        return [photo[y1:y2, x1:x2].copy() for (x1, y1), (x2, y2) in zip(low, high)]

    def to_list(self) -> list[dict[str, list[float] | float]]:
        """Plain data: one `{"box": [x1, y1, x2, y2], "score": s}` a face; boxes to 1/100 pixel, scores to 6 decimals."""
        return [{"box": [round(float(v), 2) for v in box], "score": round(score, 6)} for box, score in self]

    def to_json(self) -> str:
        """`to_list` as one line of JSON."""
        return json.dumps(self.to_list())

    def to_csv(self) -> str:
        """A header and one line `x1,y1,x2,y2,score` a face."""
        rows = [[*(f"{v:.2f}" for v in box), f"{score:.6f}"] for box, score in self]
        return "".join(",".join(row) + "\n" for row in [["x1", "y1", "x2", "y2", "score"], *rows])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON, CSV or the plotted photo, as the suffix says (.json .csv .png .jpg). The file appears whole or not at all.

        Raises:
            DataError: another suffix, or the file cannot be written.
            ImageError: a picture is asked for and there is no photo to draw on.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise DataError(f"{path}: the name must end in one of {' '.join(SUFFIXES)}")
        picture = self.plot() if suffix in (".png", ".jpg", ".jpeg") else None
        try:
            with whole(path) as part:
                if picture is not None:
                    picture.save(part, **({"format": "PNG"} if suffix == ".png" else {"format": "JPEG", "quality": 92}))
                else:
                    part.write_text(self.to_csv() if suffix == ".csv" else self.to_json() + "\n", encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None

    def _photo(self) -> NDArray[np.uint8]:
        if self.image is None:
            raise ImageError("these detections carry no photo; give Detections one as image=")
        return self.image


def iou(a: ArrayLike, b: ArrayLike) -> Boxes:
    """Intersection over union of each box of `a` with each of `b`; 0 where both are empty.

    Args:
        a: `(n, 4)` x1 y1 x2 y2.
        b: `(m, 4)`.

    Returns:
        `(n, m) float32`.

    Example:
        >>> iou([[0, 0, 2, 2]], [[1, 0, 3, 2]]).round(3).tolist()
        [[0.3330000042915344]]
    """
    one, two = np.asarray(a, np.float32).reshape(-1, 1, 4), np.asarray(b, np.float32).reshape(1, -1, 4)
    shared = np.clip(np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2]), 0, None).prod(-1)
    area_one, area_two = (np.clip(box[..., 2:] - box[..., :2], 0, None).prod(-1) for box in (one, two))
    union = area_one + area_two - shared
    overlap: Boxes = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def nms(xyxy: ArrayLike, scores: ArrayLike, *, threshold: float, most: int | None = None) -> NDArray[np.int64]:
    """Greedy non-maximum suppression: EResFD's, and that of several views. A grid's boxes are merged by `merge`.

    Args:
        xyxy: `(n, 4)` x1 y1 x2 y2.
        scores: `(n,)`; of equal ones the first is taken first.
        threshold: a box goes if its intersection over union with a kept one exceeds this.
        most: so many boxes are kept at most; None keeps all.

    Returns:
        Indices of the kept boxes, by descending score.
    """
    boxes = np.asarray(xyxy, np.float32).reshape(-1, 4)
    rest = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    kept: list[np.int64] = []
    while len(rest) and len(kept) != most:
        best, rest = rest[0], rest[1:]
        kept.append(best)
        rest = rest[iou(boxes[best], boxes[rest])[0] <= threshold]
    return np.array(kept, np.int64)


def vote_boxes(
    xyxy: ArrayLike, scores: ArrayLike, *, threshold: float, voter: float = 0.0
) -> tuple[Boxes, NDArray[np.float32], NDArray[np.float32]]:
    """Box voting: the surest box and all that overlap it are one face, at the mean of those that may vote, weighted by their scores.

    Args:
        xyxy: `(n, 4)` x1 y1 x2 y2.
        scores: `(n,)`, at least 0; of equal ones the first is taken first.
        threshold: IoU with the surest box above which another is of the same face.
        voter: how sure a box must be to vote, as a part of the surest one's score.

    Returns:
        Boxes `(m, 4)`, the scores of the surest `(m,)`, in descending order, and the votes `(m,)`: the sum of the voters' scores as parts
        of the surest one's, which has one vote itself.

    Example:
        >>> vote_boxes([[0, 0, 4, 4], [1, 0, 5, 4]], [0.5, 0.5], threshold=0.3)[0].tolist()
        [[0.5, 0.0, 4.5, 4.0]]
        >>> vote_boxes([[0, 0, 4, 4], [1, 0, 5, 4]], [0.75, 0.25], threshold=0.3, voter=VOTER)[0].tolist()
        [[0.0, 0.0, 4.0, 4.0]]

    Source: Gidaris and Komodakis, 2015, "Object detection via a multi-region and semantic segmentation-aware CNN model", section 5.
    """
    boxes, sure = np.asarray(xyxy, np.float32).reshape(-1, 4), np.asarray(scores, np.float32)
    if not (sure >= 0).all():
        raise ValueError(f"scores are weights of votes and must be at least 0, not {sure.min():g}")
    order = np.argsort(-sure, kind="stable")
    boxes, sure = boxes[order], sure[order]
    merged, best, count = [], [], []
    while len(boxes):
        same = iou(boxes[0], boxes)[0] > threshold
        same[0] = True  # a box without area does not even overlap itself
        votes = (same & (sure >= voter * sure[0])) * (sure / sure[0] if sure[0] > 0 else np.ones_like(sure))
        merged.append(votes @ boxes / votes.sum())
        best.append(sure[0])
        count.append(votes.sum())
        boxes, sure = boxes[~same], sure[~same]
    return np.array(merged, np.float32).reshape(-1, 4), np.array(best, np.float32), np.array(count, np.float32)


def count_votes(xyxy: Boxes, scores: NDArray[np.float32], votes: NDArray[np.float32], *, score: float) -> tuple[Boxes, NDArray[np.float32]]:
    """Multiply the odds of each face, `scores / (1 - scores)`, by its votes.

    Args:
        xyxy: `(m, 4)` x1 y1 x2 y2.
        scores: `(m,)`, in [0, 1].
        votes: `(m,)`, above 0.
        score: faces that end below it go.

    Returns:
        Boxes and scores, the surest first.

    Example:
        >>> count_votes(np.zeros((2, 4), np.float32), np.array([0.6, 0.5]), np.array([1, 4]), score=0.0)[1].tolist()
        [0.8, 0.6]
    """
    faces = scores * votes / (scores * votes + (1 - scores))  # never above 1, however it rounds
    order = np.argsort(-faces, kind="stable")
    order = order[faces[order] >= np.float32(score)]
    return xyxy[order], faces[order]


def merge(xyxy: Boxes, scores: NDArray[np.float32], *, score: float, iou: float) -> tuple[Boxes, NDArray[np.float32]]:
    """From all boxes of a grid to one for each face (docs/arithmetic.md, "Grid to boxes"): voting among those that `VOTER` lets vote.

    Args:
        xyxy: `(n, 4)` x1 y1 x2 y2.
        scores: `(n,)`, in [0, 1].
        score: lowest score of a face. Neither a face's score nor where it lies depends on it.
        iou: overlap above which two boxes are of the same face.

    Returns:
        Boxes `(m, 4)` and scores `(m,)`, the surest first.
    """
    most, least = np.float32(MOST_VOTES), np.float32(score)
    useful = scores >= np.float32(VOTER) * (least / (most - (most - 1) * least))  # half of what the most votes lift to `score`
    boxes, best, votes = vote_boxes(xyxy[useful], scores[useful], threshold=iou, voter=VOTER)
    return count_votes(boxes, best, np.minimum(votes, most), score=score)


_LINE, _EDGE = (255, 214, 10), (24, 24, 24)
"""A colour that skin, cloth and sky rarely have, and the dark rim that makes it visible on a light ground."""


def _draw(picture: Image.Image, faces: Detections) -> Image.Image:
    draw = ImageDraw.Draw(picture)
    line = max(1, round(max(picture.size) / 280))
    font = ImageFont.load_default(max(10, round(max(picture.size) / 45)))
    far = 2 * max(picture.size)  # beyond it nothing shows, and much further Pillow cannot draw
    boxes = [(round(x1), round(y1), round(x2), round(y2)) for x1, y1, x2, y2 in faces.xyxy.clip(-far, far).tolist()]
    for rim, colour in ((1 + line // 4, _EDGE), (0, _LINE)):
        for x1, y1, x2, y2 in boxes:
            out = line + rim
            draw.rectangle((x1 - out, y1 - out, x2 + out, y2 + out), outline=colour, width=out)
    taken = np.zeros((2 * len(boxes), 4), np.int64)  # the boxes, then room for their labels
    taken[: len(boxes)] = np.array(boxes, np.int64).reshape(-1, 4) + (-line, -line, line, line)
    for number, (box, score) in enumerate(zip(boxes, faces.scores)):
        text = f"{score:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        pad = line + 1
        size = int(right - left) + 2 * pad, int(bottom - top) + 2 * pad
        place = _label_place(box, size, 2 * line + 1, picture.size, taken[: len(boxes) + number])
        if place is not None:
            x, y = place
            draw.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), fill=_EDGE)
            draw.text((x + pad - left, y + pad - top), text, fill=_LINE, font=font)
            taken[len(boxes) + number] = (x, y, x + size[0], y + size[1])
    return picture


def _label_place(
    box: tuple[int, int, int, int], size: tuple[int, int], gap: int, photo: tuple[int, int], taken: NDArray[np.int64]
) -> tuple[int, int] | None:
    """Where a label of `size` (width, height) stands inside the photo without covering what is `taken`, or None."""
    x1, y1, x2, y2 = box
    w, h = size
    above_or_below = [(x, y) for y in (y1 - gap - h, y2 + gap) for x in (x1 - gap // 2, x2 + gap // 2 - w)]
    beside = [(x, y) for x in (x2 + gap, x1 - gap - w) for y in (y1 - gap // 2, y2 + gap // 2 - h)]
    for x, y in above_or_below + beside:
        free = not ((taken[:, :2] < (x + w, y + h)) & (taken[:, 2:] > (x, y))).all(1).any()
        if free and _is_inside(x, y, size, photo):
            return x, y
    corner = max(x1, 0) + gap // 2, max(y1, 0) + gap // 2
    roomy = min(x2 - x1, y2 - y1) > 6 * max(w, h)  # then a corner of the box shows no face
    return corner if roomy and _is_inside(*corner, size, photo) else None


def _is_inside(x: int, y: int, size: tuple[int, int], photo: tuple[int, int]) -> bool:
    return x >= 0 and y >= 0 and x + size[0] <= photo[0] and y + size[1] <= photo[1]
