"""How long row streaming takes, beside whole maps.

    python benchmarks/rows_speed.py [--size 640x480] [--kernels portable]

One thread each, decoding and suppression included, on noise of the network's size; both take turns in one run. `--kernels` are those
of the whole maps; row streaming has code of its own.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from dupnet import _core, zoo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="640x480", help="width x height")
    parser.add_argument("--kernels", default="portable")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    model = _core.Model(zoo.model_path("dupnet-tinier-yolo").read_bytes(), options.kernels)
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    how = {"size": max(width, height), "score": 0.3, "iou": 0.45}
    times: dict[str, list[float]] = {"whole maps": [], "row streaming": []}
    for _ in range(15):
        start = time.perf_counter()
        model.detect(photo, **how)
        middle = time.perf_counter()
        stream = _core.Stream(model, width, height, **how)
        stream.feed(photo)
        stream.end()
        times["whole maps"].append(middle - start)
        times["row streaming"].append(time.perf_counter() - middle)
    for name, values in times.items():
        print(f"{name:14} {options.size:>9}  median {np.median(values) * 1e3:7.2f} ms  min {min(values) * 1e3:7.2f} ms")
    ratio = np.median(times["row streaming"]) / np.median(times["whole maps"])
    print(f"row streaming takes {ratio:.2f} times as long as whole maps with {options.kernels} kernels")


if __name__ == "__main__":
    main()
