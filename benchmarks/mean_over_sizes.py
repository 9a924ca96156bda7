"""A steadier ruler than the scores at one size: their means over seven sizes, and how sure the difference of two models is.

    python benchmarks/mean_over_sizes.py dupnet-tinier-yolo runs/calm/other.dnet --data FACES

A network of few bits answers a slightly larger photo a little differently, which scatters its scores at any one size; the mean over sizes
averages that out. What is left of the difference of two models comes from the choice of the photos: it is measured again without each
twentieth of them, and the standard error is the jackknife's.
Prints for each model the mean of the three AP at each size and over all sizes, the same for the detection rate, and how both differ from
the first model's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dupnet import Detections, Detector, image
from dupnet.evaluation import wider

SIZES_PX = (352, 384, 416, 448, 480, 576, 640)
PARTS = 20


def jackknife(without: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard error of what was measured `(n, ...)` times, each time without another part of the data."""
    n = len(without)
    return np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name that ships, or a .dnet file")
    parser.add_argument("--data", type=Path, required=True, help="WIDER FACE's folder")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES_PX)), help="long sides of the network's view")
    args = parser.parse_args()
    sizes = [int(size) for size in args.sizes.split(",")]
    samples, difficulty, folder = wider.data_set(args.data)
    photos = [image.read(folder / sample.photo) for sample in tqdm(samples, unit="photo", desc="read")]
    kept = [np.arange(len(samples)) % PARTS != part for part in range(PARTS)]
    everything = np.ones(len(samples), bool)

    def scores(found: list[Detections], use: NDArray[np.bool_]) -> tuple[float, float]:
        at = np.flatnonzero(use)
        result = wider.score([samples[i] for i in at], difficulty, [found[i] for i in at])
        return (result.ap_easy + result.ap_medium + result.ap_hard) / 3, result.dr

    first = None
    for model in args.models:
        detector = Detector(model)
        at_size = np.zeros((len(sizes), 2))
        without = np.zeros((PARTS, 2))
        for row, size in enumerate(tqdm(sizes, unit="size", desc=Path(model).stem)):
            found = []
            for photo in photos:
                faces = detector.detect(photo, size=size, score=0.02)
                found.append(Detections(faces.xyxy, faces.scores))
            at_size[row] = scores(found, everything)
            without += [scores(found, use) for use in kept]
        mean, without = at_size.mean(0), without / len(sizes)
        first = first or (mean, without)
        change, error = mean - first[0], jackknife(without - first[1])
        for name, column in (("AP", 0), ("dr", 1)):
            row_text = " ".join(f"{score:.3f}" for score in at_size[:, column])
            print(f"{model} {name}: {row_text}; mean {mean[column]:.4f}, {change[column]:+.4f} ± {error[column]:.4f}", flush=True)


if __name__ == "__main__":
    main()
