"""How much better detectors are on photos that they were trained on: the same scores on training photos and on val.

    python benchmarks/seen_and_unseen.py dupnet-tinier-yolo dupnet-tinier-yolo-l --data FACES --folder wider_train --every 2

Counts faces of at least 24, 14 and 8 pixels of height in the network's view; all others, and those marked invalid, are ignored. Prints the
three average precisions, and the part of the faces of at least 14 pixels that is found at 0.1 false positives a photo.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from dupnet import Detections, Detector, image
from dupnet.data import wider as annotations
from dupnet.data.sample import Sample
from dupnet.evaluation import wider

HEIGHTS_PX = dict(zip(wider.LEVELS, (24, 14, 8)))


def scores(detectors: Sequence[Detector], samples: Sequence[Sample], images: Path, size: int) -> list[wider.WiderScores]:
    """Of each detector on these photos."""
    found: list[list[Detections]] = [[] for _ in detectors]
    counts: wider.Difficulty = {}
    for sample in tqdm(samples, unit="photo"):
        pixels = image.read(images / sample.photo)
        heights = (sample.boxes[:, 3] - sample.boxes[:, 1]) * size / max(pixels.shape[:2])
        valid = [(index, height) for index, height in enumerate(heights) if not sample.ignore[index]]
        counts[sample.photo] = {level: [i for i, height in valid if height >= least] for level, least in HEIGHTS_PX.items()}
        for detector, of_detector in zip(detectors, found):
            faces = detector.detect(pixels, size=size, score=0.02)
            of_detector.append(Detections(faces.xyxy, faces.scores))
    return [wider.score(samples, counts, of_detector) for of_detector in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name that ships, or a .dnet file")
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE's folder")
    parser.add_argument("--size", type=int, default=416, help="long side of the network's view")
    parser.add_argument("--folder", default="", help="only training photos below this folder")
    parser.add_argument("--every", type=int, default=1, help="only every nth training photo of those")
    args = parser.parse_args()
    detectors = [Detector(model) for model in args.models]
    for split in ("train", "val"):
        samples, images = annotations.split(args.data, split)
        if split == "train":
            samples = [sample for sample in samples if sample.photo.startswith(args.folder)][:: args.every]
        for model, of_model in zip(args.models, scores(detectors, samples, images, args.size)):
            aps = f"{of_model.ap_easy:.3f} / {of_model.ap_medium:.3f} / {of_model.ap_hard:.3f}, {of_model.dr:.3f}"
            print(f"{model} on {len(samples)} photos of {split}: {aps}", flush=True)


if __name__ == "__main__":
    main()
