"""Which default score to store in a packed file: false alarms and faces found at each, on photos that were trained on.

    python benchmarks/default_score.py dupnet-tinier-yolo face.dnet --data FACES --folder wider_train --every 3

For each score threshold it prints the false positives a photo, the part of the boxes that are right, and the faces found. Matching is
WIDER FACE's; boxes on ignored faces do not count. The models that ship store the lowest of these thresholds with fewer than 0.1 false
positives a photo.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dupnet import Detector, image
from dupnet.data import wider
from dupnet.evaluation import matching
from dupnet.evaluation.wider import is_inclusive

THRESHOLDS = np.arange(40, 75, 5) / 100


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name that ships, or a .dnet file")
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE's folder")
    parser.add_argument("--folder", default="", help="only training photos below this folder")
    parser.add_argument("--every", type=int, default=1, help="only every nth training photo of those")
    args = parser.parse_args()
    samples, images = wider.split(args.data, "train")
    samples = [sample for sample in samples if sample.photo.startswith(args.folder)][:: args.every]
    inclusive = is_inclusive(samples)
    for model in args.models:
        detector, right, wrong = Detector(model), [], []  # scores of the boxes that found a face, and of the false positives
        for sample in tqdm(samples, unit="photo"):
            faces = detector.detect(image.read(images / sample.photo), score=float(THRESHOLDS[0]))
            counts, found = np.ones(len(faces), bool), np.full(len(faces), -1)
            if len(sample.boxes):
                counts, found = matching.match(faces.xyxy.astype(float), sample.boxes.astype(float), ~sample.ignore, inclusive=inclusive)
            right.append(faces.scores[found >= 0])
            wrong.append(faces.scores[counts & (found < 0)])
        hits, alarms = np.concatenate(right), np.concatenate(wrong)
        for threshold in THRESHOLDS:
            hit, false = int((hits >= threshold).sum()), int((alarms >= threshold).sum())
            rate, precision = false / len(samples), hit / max(1, hit + false)
            print(f"{model} at {threshold:.2f}: {rate:.3f} false positives a photo, precision {precision:.3f}, {hit} faces found")


if __name__ == "__main__":
    main()
