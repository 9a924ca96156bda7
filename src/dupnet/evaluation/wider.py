"""The WIDER FACE protocol: average precision on the easy, medium and hard faces of its validation photos, or some of them.

The rules are those of the official evaluation (docs/evaluation.md states them); beside its three numbers stand `ap_all`
and `dr`, the detection rate at few false positives.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dupnet import image
from dupnet.data import wider
from dupnet.data.sample import Sample
from dupnet.detections import Detections
from dupnet.errors import DataError
from dupnet.evaluation import Detect, matching
from dupnet.evaluation.matching import FALSE_POSITIVES_PER_PHOTO
from dupnet.evaluation.outcome import NEVER, Curve, Outcome, PhotoOutcome
from dupnet.evaluation.predictions import Found

LEVELS = ("easy", "medium", "hard")
Difficulty = dict[str, dict[str, list[int]]]
"""What `read_difficulty` returns."""


@dataclass(frozen=True)
class WiderScores:
    """What one detector reaches; NaN where no face is to be found.

    Attributes:
        ap_easy, ap_medium, ap_hard: average precision on the official subsets of faces.
        ap_all: average precision on all faces that are not marked invalid.
        exact_easy, exact_medium, exact_hard, exact_all: the same with every score as a threshold instead of the official thousand. They
            are higher for a detector whose scores crowd in one place, where a single official step lets through thousands of boxes.
        dr: part of the medium faces found at 0.1 false positives a photo (of those with a label; on others nothing is counted).
        photos: how many photos that was measured on.
        inclusive: whether coordinates were taken for pixels rather than edges (`matching.overlap`): so they are where all
            labels are whole numbers, as in the official files, and not where photos were scaled after labelling.
    """

    ap_easy: float
    ap_medium: float
    ap_hard: float
    ap_all: float
    exact_easy: float
    exact_medium: float
    exact_hard: float
    exact_all: float
    dr: float
    photos: int
    inclusive: bool


def evaluate(detect: Detect, root: str | Path, *, split: str = "val", progress: bool = False) -> WiderScores:
    """Run a detector over a data set in WIDER's folders, or the part of its photos that is there, and score it.

    Args:
        detect: should return boxes down to a low score (0.02); what it leaves out cannot count.
        root: the folder that holds `WIDER_val` and the annotations (`ground_truth`).
        split: `"val"`, or another one for which `read_difficulty` finds the official subsets.
        progress: show a progress bar on stderr.

    Raises:
        DataError: annotations are missing or contradict each other.
        ImageError: a photo cannot be read.
    """
    samples, difficulty, images = data_set(root, split)
    return score(samples, difficulty, run(detect, samples, images, progress=progress))


def ground_truth(root: str | Path, split: str = "val") -> tuple[list[Sample], Difficulty]:
    """The labelled faces of all photos that the annotations list, and which of them are easy, medium and hard.

    `SPLIT_difficulty.json` belongs to the list `wider_face_SPLIT_bbx_gt.txt`; the official `wider_{easy,medium,hard}_SPLIT.mat`
    belong to `wider_face_SPLIT.mat`, or to the list where that is missing. They are looked for in `wider_face_split`, then in
    `ground_truth`, then in `root` itself.

    Raises:
        DataError: something of it is missing, or not what it should be.
    """
    difficulty = read_difficulty(root, split)
    list_path, mat_path = (_find(root, f"wider_face_{split}{end}") for end in ("_bbx_gt.txt", ".mat"))
    if mat_path.exists() and not (list_path.exists() and _find(root, f"{split}_difficulty.json").exists()):
        return wider.read_mat(mat_path), difficulty
    return wider.read(list_path), difficulty


def data_set(root: str | Path, split: str = "val") -> tuple[list[Sample], Difficulty, Path]:
    """The same for those photos that are there, and the folder that their paths are relative to.

    Raises:
        DataError: there is none, or what `ground_truth` raises.
    """
    images = Path(root) / f"WIDER_{split}" / "images"
    if not images.is_dir():
        raise DataError(f"{root}: not a WIDER FACE folder: {images} does not exist")
    samples, difficulty = ground_truth(root, split)
    there = [sample for sample in samples if (images / sample.photo).exists()]
    if not there:
        raise DataError(f"{images}: holds none of the {len(samples)} photos of the annotations, such as {samples[0].photo}")
    return there, difficulty, images


def _find(root: str | Path, name: str) -> Path:
    """Where a file of the annotations is, or is expected to be."""
    places = [Path(root) / folder / name for folder in ("wider_face_split", "ground_truth", ".")]
    return next((place for place in places if place.exists()), places[0])


def run(detect: Detect, samples: Sequence[Sample], images: Path, *, progress: bool = False) -> list[Detections]:
    """What a detector finds in each photo, without the photos: thousands do not fit in memory."""
    from tqdm import tqdm

    found = []
    for sample in tqdm(samples, unit="photo", disable=not progress):
        faces = detect(image.read(images / sample.photo))
        found.append(Detections(faces.xyxy, faces.scores))
    return found


def score(samples: Sequence[Sample], difficulty: Difficulty, found: Sequence[Found]) -> WiderScores:
    """Score what was found in each photo.

    Args:
        samples: the photos' labelled faces.
        difficulty: from `read_difficulty`.
        found: one `Detections` a sample, in pixels of the photo, or `predictions.Boxes`.
    """
    return _scores(samples, found, {level: _match_all(samples, difficulty, found, level) for level in (*LEVELS, "all")})


def _scores(samples: Sequence[Sample], found: Sequence[Found], matches: dict[str, Matches]) -> WiderScores:
    raw = np.concatenate([np.zeros(0), *(faces.scores.astype(np.float64) for faces in found)])
    low, high = raw.min(initial=1.0), raw.max(initial=0.0)  # the official start values: they show where scores leave [0, 1]
    spread = (high - low) or 1.0
    ap, exact = dict.fromkeys(matches, math.nan), dict.fromkeys(matches, math.nan)
    for level, (total, (scores, proposals, hits)) in matches.items():
        if total:
            ap[level] = matching.average_precision(*matching.precision_recall((scores - low) / spread, proposals, hits, total))
            _, right, wrong = matching.walk(scores, proposals, hits)
            exact[level] = matching.average_precision(right / np.maximum(right + wrong, 1), right / total)
    total, rows = matches["medium"]
    dr = matching.detection_rate(*rows, total, false_positives=FALSE_POSITIVES_PER_PHOTO * _counted(samples)) if total else math.nan
    return WiderScores(
        ap_easy=ap["easy"],
        ap_medium=ap["medium"],
        ap_hard=ap["hard"],
        ap_all=ap["all"],
        exact_easy=exact["easy"],
        exact_medium=exact["medium"],
        exact_hard=exact["hard"],
        exact_all=exact["all"],
        dr=dr,
        photos=len(samples),
        inclusive=is_inclusive(samples),
    )


def outcome(detector: str, samples: Sequence[Sample], difficulty: Difficulty, found: Sequence[Found]) -> Outcome:
    """What `score` sums up, face by face and box by box. The medium faces lead, or all of them where none is medium.

    Args:
        detector: what plots and tables call it.
        samples, difficulty, found: as for `score`.

    Raises:
        DataError: there is no face to find.
    """
    matches = {level: _match_all(samples, difficulty, found, level) for level in (*LEVELS, "all")}
    numbers = _scores(samples, found, matches)
    curves = [Curve(level, total, *matching.walk(*rows)) for level, (total, rows) in matches.items() if total]
    if not curves:
        raise DataError("no photo of the data set holds a face to find")
    leading = "medium" if any(curve.name == "medium" for curve in curves) else "all"
    inclusive = is_inclusive(samples)
    photos = [_photo_outcome(*row, difficulty, leading, inclusive) for row in zip(samples, found)]
    table = {"AP easy": numbers.ap_easy, "AP medium": numbers.ap_medium, "AP hard": numbers.ap_hard, "AP all": numbers.ap_all}
    return Outcome(
        detector, {**table, "Detection rate at 0.1 per photo": numbers.dr}, tuple(curves), leading, tuple(photos), _counted(samples)
    )


def _photo_outcome(sample: Sample, found: Found, difficulty: Difficulty, leading: str, inclusive: bool) -> PhotoOutcome:
    valid, counts = (_counts(sample, difficulty, level) for level in ("all", leading))
    found_at = np.full(len(sample.boxes), NEVER)
    false_alarms = np.zeros(len(found), bool)
    if len(sample.boxes) and len(found):
        boxes = found.xyxy.astype(np.float64)
        _, faces = matching.match(boxes, sample.boxes, valid | counts, inclusive=inclusive)
        found_at[faces[faces >= 0]] = found.scores[faces >= 0]
        proposals, faces = matching.match(boxes, sample.boxes, counts, inclusive=inclusive)
        false_alarms = proposals & (faces < 0)
    return PhotoOutcome(sample.photo, sample.boxes, valid | counts, counts, found_at, found, false_alarms)


def _counted(samples: Sequence[Sample]) -> int:
    """How many photos have a label; on others false positives are not counted, so they allow none."""
    return sum(len(sample.boxes) > 0 for sample in samples)


def is_inclusive(samples: Sequence[Sample]) -> bool:
    """Whether coordinates are pixels rather than edges: all labels are whole numbers."""
    return all(bool(np.all(sample.boxes == np.round(sample.boxes))) for sample in samples)


Matches = tuple[int, tuple[matching.Floats, matching.Flags, matching.Flags]]
"""How many faces count, and all photos' scores, proposals and finds in one row each."""


def _match_all(samples: Sequence[Sample], difficulty: Difficulty, found: Sequence[Found], level: str) -> Matches:
    """Match every photo's boxes with the faces of a level.

    Photos without a labelled face are left out, as officially.
    """
    if len(samples) != len(found):
        raise DataError(f"{len(samples)} photos need as many detections, not {len(found)}")
    inclusive = is_inclusive(samples)
    total, scores, proposals, hits = 0, [np.zeros(0)], [np.zeros(0, bool)], [np.zeros(0, bool)]
    for sample, boxes in zip(samples, found):
        counts = _counts(sample, difficulty, level)
        total += int(counts.sum())
        if len(sample.boxes) and len(boxes):
            proposal, faces = matching.match(boxes.xyxy.astype(np.float64), sample.boxes, counts, inclusive=inclusive)
            scores.append(boxes.scores.astype(np.float64))
            proposals.append(proposal)
            hits.append(faces >= 0)
    return total, (np.concatenate(scores), np.concatenate(proposals), np.concatenate(hits))


def _counts(sample: Sample, difficulty: Difficulty, level: str) -> matching.Flags:
    if level == "all":
        return ~sample.ignore
    if not len(sample.boxes):
        return np.zeros(0, bool)
    if sample.photo not in difficulty:
        raise DataError(f"the difficulty of the faces in {sample.photo} is not known")
    flags = np.zeros(len(sample.boxes), bool)
    indices = difficulty[sample.photo].get(level, [])
    if indices and not 0 <= min(indices) <= max(indices) < len(flags):
        raise DataError(f"{sample.photo}: {len(flags)} faces are labelled, but {level} are those from {min(indices)} to {max(indices)}")
    flags[indices] = True
    return flags


def read_difficulty(root: str | Path, split: str = "val") -> Difficulty:
    """Which faces are easy, medium and hard: `{photo: {"easy": [index in the list, from 0], ...}}`.

    Read from `SPLIT_difficulty.json` if it exists, else from the official `wider_easy_SPLIT.mat`, `wider_medium_SPLIT.mat` and
    `wider_hard_SPLIT.mat` (this needs scipy); `ground_truth` says where they are looked for.

    Raises:
        DataError: neither is there, or they are not what they should be.
    """
    path = _find(root, f"{split}_difficulty.json")
    if path.exists():
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            return {photo: {level: [operator.index(i) for i in levels[level]] for level in LEVELS} for photo, levels in table.items()}
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise DataError(f"{path}: cannot be read: {type(error).__name__}: {error}") from None
    mats = {level: _find(root, f"wider_{level}_{split}.mat") for level in LEVELS}
    if missing := [str(mat) for mat in mats.values() if not mat.exists()]:
        raise DataError(f"which faces are easy, medium and hard is not known: neither {path} nor {missing[0]} exists")
    result: Difficulty = {}
    for level, mat in mats.items():
        for photo, (indices,) in wider.mat_table(mat, "gt_list").items():
            result.setdefault(photo, {})[level] = [int(i) - 1 for i in indices.ravel()]
    return result
