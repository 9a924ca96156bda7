"""Which part of the faces a detector finds at its default score, by their height in the network's view.

    python benchmarks/found_by_height.py dupnet-tinier-yolo dupnet-tinier-yolo-l --data FACES --size 416

Counts every face of WIDER FACE val that is not marked invalid; it is found if a box overlaps it by an IoU of 0.5.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dupnet import Detector, image
from dupnet.data import wider
from dupnet.detections import iou

HEIGHTS_PX = (8, 10, 12, 14, 17, 22, 30, 70, 180, 420)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name that ships, or a .dnet file")
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE's folder")
    parser.add_argument("--size", type=int, default=416, help="long side of the network's view")
    args = parser.parse_args()
    detectors = [Detector(model) for model in args.models]
    samples, images = wider.split(args.data, "val")
    heights, found = [], []
    for sample in tqdm(samples, unit="photo"):
        pixels, faces = image.read(images / sample.photo), sample.boxes[~sample.ignore]
        boxes = [detector.detect(pixels, size=args.size).xyxy for detector in detectors]
        heights.append((faces[:, 3] - faces[:, 1]) * args.size / max(pixels.shape[:2]))
        found.append(np.array([iou(faces, xyxy).max(1, initial=0) >= 0.5 for xyxy in boxes]).T.reshape(-1, len(detectors)))
    height, hit = np.concatenate(heights), np.concatenate(found)
    print("pixels    faces  " + "  ".join(f"{detector.name} at {detector.default_score:.2f}" for detector in detectors))
    for low, high in pairwise(HEIGHTS_PX):
        chosen = (height >= low) & (height < high)
        if not chosen.any():
            continue
        shares = "  ".join(f"{share:{len(detector.name) + 8}.2f}" for detector, share in zip(detectors, hit[chosen].mean(0)))
        print(f"{low:>3}-{high:<4} {chosen.sum():>6}  {shares}")


if __name__ == "__main__":
    main()
