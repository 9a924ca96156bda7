"""How much a detector loses where photos are not new and bright: its scores on WIDER FACE val, and on the same photos worn.

    python benchmarks/worn_photos.py dupnet-tinier-yolo dupnet-tinier-yolo-l --data FACES --size 416

Photos are first brought to the size of the network's view, then worn: `gray`; `faded` to half of their contrast; with `noise` of a
standard deviation of 10 levels; `old`, which is all three; `blurred` by a Gaussian of one pixel; as a `JPEG` file of quality 15.
Prints AP easy / medium / hard and the detection rate, as `dupnet evaluate` measures them.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from dupnet import Detections, Detector, image
from dupnet.data.augmentation import LUMA
from dupnet.evaluation import wider

Photo = NDArray[np.uint8]


def gray(photo: Photo) -> Photo:
    """The photo with its luma in all three channels, rounded."""
    luma = np.rint(photo @ LUMA).astype(np.uint8)
    return np.repeat(luma[..., None], 3, axis=2)


def faded(photo: Photo) -> Photo:
    return np.rint(photo / 2 + 64).astype(np.uint8)


def noise(photo: Photo) -> Photo:
    grain = np.random.default_rng(1).normal(0, 10, (*photo.shape[:2], 1))
    return np.clip(np.rint(photo + grain), 0, 255).astype(np.uint8)


def blurred(photo: Photo) -> Photo:
    return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(1)))


def jpeg(photo: Photo) -> Photo:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=15)
    return np.asarray(Image.open(file).convert("RGB"))


WEAR: dict[str, Callable[[Photo], Photo]] = {
    "as they are": lambda photo: photo,
    "gray": gray,
    "faded": faded,
    "noise": noise,
    "old": lambda photo: noise(faded(gray(photo))),
    "blurred": blurred,
    "JPEG": jpeg,
}


def detect_worn(detector: Detector, photo: Photo, size: int, wear: Callable[[Photo], Photo]) -> Detections:
    """The faces of a photo that is worn at the size of the view, in the photo's own coordinates."""
    small = image.resize(photo, image.scaled_size(*photo.shape[:2], size))
    faces = detector.detect(np.ascontiguousarray(wear(small)), size=size, score=0.02)
    scale_xy = np.divide(photo.shape[1::-1], small.shape[1::-1], dtype=np.float32)
    return Detections(faces.xyxy * np.tile(scale_xy, 2), faces.scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name that ships, or a .dnet file")
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE's folder")
    parser.add_argument("--size", type=int, default=416, help="long side of the network's view")
    args = parser.parse_args()
    for model in args.models:
        detector = Detector(model)
        for name, wear in WEAR.items():

            def detect(photo: Photo, detector: Detector = detector, wear: Callable[[Photo], Photo] = wear) -> Detections:
                return detect_worn(detector, photo, args.size, wear)

            scores = wider.evaluate(detect, args.data, progress=True)
            print(f"{model} {name}: {scores.ap_easy:.3f} / {scores.ap_medium:.3f} / {scores.ap_hard:.3f}, {scores.dr:.3f}", flush=True)


if __name__ == "__main__":
    main()
