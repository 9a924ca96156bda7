"""How well a detector finds a face that fills the picture: the large faces of WIDER FACE val, cut out as portraits show them.

    python benchmarks/portraits.py dupnet-tinier-yolo dupnet-tinier-yolo-l --data FACES --size 416

The largest face of each photo, if it is at least 90 pixels high, in an upright picture (4:5) of whose height it fills 35, 50, 65 and 80%,
its middle a little above the picture's; cut from the photo, so without the pictures that the photo is too low for. Only this face counts; a
box on another one is no mistake. Prints for each of these parts how many pictures there are, average precision, and the part of the faces
that is found at 0.1 false positives a picture.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dupnet import Detections, Detector, image
from dupnet.data import wider as annotations
from dupnet.data.sample import Sample
from dupnet.evaluation import wider

PARTS = (0.35, 0.5, 0.65, 0.8)
LOWEST_PX = 90


def portrait(face: NDArray[np.float64], part: float, height: int, width: int) -> tuple[int, int, int, int] | None:
    """x1 y1 x2 y2 of the picture of which a face fills this part, or None where the photo is too low for it."""
    tall = (face[3] - face[1]) / part
    wide = min(0.8 * tall, width)
    if tall > height:
        return None
    left = np.clip((face[0] + face[2] - wide) / 2, 0, width - wide)
    top = np.clip((face[1] + face[3]) / 2 - 0.48 * tall, 0, height - tall)
    return int(left), int(top), int(left + wide), int(top + tall)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name that ships, or a .dnet file")
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE's folder")
    parser.add_argument("--size", type=int, default=416, help="long side of the network's view")
    args = parser.parse_args()
    detectors = {model: Detector(model) for model in args.models}
    samples, images = annotations.split(args.data, "val")
    pictures: dict[float, list[Sample]] = {part: [] for part in PARTS}
    counts: wider.Difficulty = {}
    found: dict[tuple[str, float], list[Detections]] = {(model, part): [] for model in detectors for part in PARTS}
    for sample in tqdm(samples, unit="photo"):
        heights = np.where(sample.ignore, 0, sample.boxes[:, 3] - sample.boxes[:, 1])
        if heights.max(initial=0) < LOWEST_PX:
            continue
        largest, photo = int(heights.argmax()), image.read(images / sample.photo)
        counts[sample.photo] = dict.fromkeys(wider.LEVELS, [largest])
        for part in PARTS:
            window = portrait(sample.boxes[largest], part, *photo.shape[:2])
            if window is None:
                continue
            x1, y1, x2, y2 = window
            pictures[part].append(replace(sample, boxes=sample.boxes - (x1, y1, x1, y1)))
            for model, detector in detectors.items():
                faces = detector.detect(photo[y1:y2, x1:x2], size=args.size, score=0.02)
                found[model, part].append(Detections(faces.xyxy, faces.scores))
    for (model, part), of_model in found.items():
        scores = wider.score(pictures[part], counts, of_model)
        print(f"{model}, {part:.0%} of {scores.photos} pictures: {scores.ap_medium:.3f}, {scores.dr:.3f}", flush=True)


if __name__ == "__main__":
    main()
