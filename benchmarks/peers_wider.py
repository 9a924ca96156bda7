"""Score other detectors with this package's WIDER FACE evaluation, so that both sides are measured by the same code.

    python benchmarks/peers_wider.py --peers DIR --wider DIR [--peer yunet_s --peer yunet_n] [--size 416] [--trees DIR]

With `--trees`, the boxes are also written as WIDER FACE's prediction files, `DIR/NAME/EVENT/PHOTO.txt`, for a comparison on
one page: `dupnet evaluate MODEL --wider DIR --detections NAME=DIR/NAME --report out.html`.

`--peers` is a folder with a file `peers.py` of your own: `load(name, *, threads, floor) -> callable(rgb_u8) -> (n, 5)`.
The callable takes a photo `(h, w, 3) uint8` RGB and returns a float array, one row x1 y1 x2 y2 score a face, in pixels of
that photo; `floor` is the lowest score to return (0 to 1), `threads` how many it may use, `name` which detector.

`--wider` is a data set in WIDER's folders. The script needs opencv-python-headless, and what `peers.py` needs.
Each photo's long side is scaled to `--size` (OpenCV's INTER_AREA); boxes with scores above `--floor` are mapped back and clipped.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dupnet.detections import Detections
from dupnet.evaluation import Detect, predictions, wider
from dupnet.image import scaled_size


def at_size(peer: Callable[[NDArray[np.uint8]], NDArray[np.float64]], size: int) -> Detect:
    """`peer` on photos whose long side is scaled to `size`, with boxes in pixels of the photo."""
    import cv2

    def detect(photo: NDArray[np.uint8]) -> Detections:
        height, width = scaled_size(*photo.shape[:2], size)
        found = peer(cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA))
        corner = np.tile([photo.shape[1], photo.shape[0]], 2)
        boxes = found[:, :4] * corner / np.tile([width, height], 2)
        return Detections(np.clip(boxes, 0, corner), found[:, 4])

    return detect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="folder with peers.py and its models")
    parser.add_argument("--wider", required=True, help="folder with WIDER_val and wider_face_split")
    parser.add_argument("--peer", action="append", help="a name that peers.load knows; repeatable [yunet_s, yunet_n]")
    parser.add_argument("--size", type=int, default=416, help="long side in pixels [416]")
    parser.add_argument("--floor", type=float, default=0.02, help="lowest score kept [0.02]")
    parser.add_argument("--trees", type=Path, help="folder to write prediction files into")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    sys.path.insert(0, options.peers)
    import peers

    samples, difficulty, images = wider.data_set(options.wider)
    for name in options.peer or ["yunet_s", "yunet_n"]:
        start = time.perf_counter()
        detect = at_size(peers.load(name, threads=options.threads, floor=options.floor), options.size)
        found = wider.run(detect, samples, images, progress=True)
        if options.trees:
            predictions.write_wider(options.trees / name, [sample.photo for sample in samples], found)
        scores = wider.score(samples, difficulty, found)
        seconds = round(time.perf_counter() - start, 1)
        print(json.dumps({"detector": name, "size": options.size, **asdict(scores), "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
