"""What colour is worth: the scores of detectors on WIDER FACE val, and on the same photos in gray.

    python benchmarks/gray_photos.py dupnet-tinier-yolo dupnet-tinier-yolo-l --data FACES --size 416

Prints AP easy / medium / hard and the detection rate, as `dupnet evaluate` measures them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dupnet import Detections, Detector
from dupnet.data.augmentation import LUMA
from dupnet.evaluation import wider


def in_gray(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photo with its luma in all three channels, rounded."""
    luma = np.rint(photo @ LUMA).astype(np.uint8)
    return np.repeat(luma[..., None], 3, axis=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name that ships, or a .dnet file")
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE's folder")
    parser.add_argument("--size", type=int, default=416, help="long side of the network's view")
    args = parser.parse_args()
    for model in args.models:
        detector = Detector(model)

        def in_colour(photo: NDArray[np.uint8], detector: Detector = detector) -> Detections:
            return detector.detect(photo, size=args.size, score=0.02)

        for name, detect in (("colour", in_colour), ("gray", lambda photo: in_colour(in_gray(photo)))):
            scores = wider.evaluate(detect, args.data, progress=True)
            print(f"{model} {name}: {scores.ap_easy:.3f} / {scores.ap_medium:.3f} / {scores.ap_hard:.3f}, {scores.dr:.3f}", flush=True)


if __name__ == "__main__":
    main()
