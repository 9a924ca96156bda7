"""Are faces of all sources drawn alike? How a detector's sure boxes lie relative to the labels, for each top folder of the training photos.

    python benchmarks/label_offsets.py --data FACES --teacher FACES/teacher_centerface.npz

For labelled faces of at least 16 pixels that overlap a box with a score above 0.5 by an IoU of at least 0.4, it prints their number,
the median offsets of the box's edges from the label's, in heights of the label (positive: further right or down), and the mean IoU.
A source whose offsets differ from the others' draws its boxes otherwise: recipes can replace its labels (`[teacher]`, `folders`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from dupnet.data import wider
from dupnet.detections import iou
from dupnet.training import teacher

SURE, OVERLAP, LEAST_PX = 0.5, 0.4, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE's folder")
    parser.add_argument("--teacher", required=True, help="a detector's boxes: a prediction tree, or an .npz file")
    args = parser.parse_args()
    samples, _ = wider.split(args.data, "train")
    of_folder: dict[str, list[list[float]]] = {}
    for sample, (boxes, scores) in zip(samples, teacher.read(args.teacher, [sample.photo for sample in samples])):
        faces, sure = sample.boxes[~sample.ignore], boxes[scores > SURE]
        heights = faces[:, 3] - faces[:, 1]
        if not len(sure):
            continue
        overlaps = iou(faces, sure)
        for face, box, height, overlap in zip(faces, sure[overlaps.argmax(1)], heights, overlaps.max(1)):
            if overlap >= OVERLAP and height >= LEAST_PX:
                of_folder.setdefault(sample.photo.split("/")[0], []).append([*((box - face) / height), overlap])
    print("folder faces left top right bottom IoU")
    for folder, rows in sorted(of_folder.items()):
        offsets = np.array(rows)
        edges = " ".join(f"{edge:+.3f}" for edge in np.median(offsets[:, :4], axis=0))
        print(f"{folder} {len(rows)} {edges} {offsets[:, 4].mean():.3f}")


if __name__ == "__main__":
    main()
