"""How long the C core takes for a photo, beside YuNet_s through ONNX Runtime if its folder is given.

    python benchmarks/detect_speed.py --photo examples/astronaut.jpg --size 640x480 [--threads 1] [--peers DIR]

The photo is resized to the size before the clock starts. Decoding and suppression are included. Both detectors take turns in
one run, so that a noisy machine disturbs both alike; compare the ratio, not the milliseconds.

DIR holds a file `peers.py` of your own: `load(name, *, threads, floor) -> callable(rgb_u8) -> (n, 5)`; `name` is "yunet_s".
The callable takes a photo `(h, w, 3) uint8` RGB and returns a float array, one row x1 y1 x2 y2 score a face, in pixels of
that photo; `floor` is the lowest score to return (0 to 1), `threads` how many it may use.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np

from dupnet import Detector, image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", required=True)
    parser.add_argument("--size", action="append", help="width x height; may be given several times (320x240 and 640x480)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5, help="for each size")
    parser.add_argument("--peers")
    options = parser.parse_args()
    detector = Detector(threads=options.threads)
    runners: dict[str, Callable[[np.ndarray], object]] = {
        detector.name: lambda rgb: detector.detect(rgb, size=max(rgb.shape[:2]), score=0.5),
    }
    if options.peers:
        sys.path.insert(0, options.peers)
        from peers import load

        runners["yunet_s"] = load("yunet_s", threads=options.threads, floor=0.5)
    photo = image.read(options.photo)
    for size in options.size or ["320x240", "640x480"]:
        width, height = map(int, size.split("x"))
        rgb = image.resize(photo, (height, width))
        times: dict[str, list[float]] = {name: [] for name in runners}
        stop = time.perf_counter() + options.seconds
        while time.perf_counter() < stop:
            for name, run in runners.items():
                start = time.perf_counter()
                run(rgb)
                times[name].append((time.perf_counter() - start) * 1e3)
        medians = {name: float(np.median(values)) for name, values in times.items()}
        for name, values in times.items():
            ratio = "" if name == "yunet_s" or "yunet_s" not in medians else f"  {medians[name] / medians['yunet_s']:.2f}x yunet_s"
            print(f"{name:24} {size:>9}  {options.threads} thread(s)  median {medians[name]:7.2f} ms  min {min(values):7.2f} ms{ratio}")


if __name__ == "__main__":
    main()
