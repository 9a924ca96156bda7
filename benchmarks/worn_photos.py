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
from tqdm import tqdm

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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name that ships, or a .dnet file")
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE's folder")
    parser.add_argument("--size", type=int, default=416, help="long side of the network's view")
    args = parser.parse_args()
    detectors = {model: Detector(model) for model in args.models}
    found: dict[tuple[str, str], list[Detections]] = {(model, name): [] for model in detectors for name in WEAR}
    samples, difficulty, folder = wider.data_set(args.data)
    for sample in tqdm(samples, unit="photo"):
        photo = image.read(folder / sample.photo)
        small = image.resize(photo, image.scaled_size(*photo.shape[:2], args.size))
        scale_xy = np.divide(photo.shape[1::-1], small.shape[1::-1], dtype=np.float32)
        for name, wear in WEAR.items():
            worn = wear(small)
            for model, detector in detectors.items():
                faces = detector.detect(worn, size=args.size, score=0.02)
                found[model, name].append(Detections(faces.xyxy * np.tile(scale_xy, 2), faces.scores))
    for (model, name), faces in found.items():
        scores = wider.score(samples, difficulty, faces)
        print(f"{model} {name}: {scores.ap_easy:.3f} / {scores.ap_medium:.3f} / {scores.ap_hard:.3f}, {scores.dr:.3f}", flush=True)


if __name__ == "__main__":
    main()
