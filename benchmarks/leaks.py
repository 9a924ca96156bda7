"""Does memory stay what it is over many detections?

    python benchmarks/leaks.py [--detections 100000]

Small photos of many sizes go through whole maps on one thread and on two, through row streaming, and through row feeds that
are left before their end. The resident memory of the process is printed on the way; the exit code is 1 if it grew after the first
tenth by more than a hundredth of one arena for each detection, or by more than 4 MB.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

from dupnet import Detector

MOST_BYTES = 4 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detections", type=int, default=100_000)
    total = parser.parse_args().detections
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (int(height), int(width), 3), np.uint8) for height, width in rng.integers(16, 49, (20, 2))]
    detectors = [Detector(), Detector(threads=2), Detector(memory="rows")]
    arena = detectors[0]._model.arena_bytes(32, 32, size=32)
    least = min(MOST_BYTES, total * arena // 100)
    start, first = time.perf_counter(), 0
    for number in range(total):
        photo = photos[number % len(photos)]
        if number % 4 < 3:
            detectors[number % 4].detect(photo, size=32, score=0.1)
        else:
            stream = detectors[0].stream(photo.shape[1], photo.shape[0], size=32)
            stream.feed(photo[: number % 16])
        if number + 1 == total // 10:
            first = resident_bytes()
        if (number + 1) % max(1, total // 10) == 0:
            seconds = time.perf_counter() - start
            print(f"{number + 1:8} detections  {seconds:7.1f} s  {resident_bytes() / 2**20:8.2f} MiB resident", flush=True)
    growth = resident_bytes() - first
    print(f"grew by {growth:,} bytes after the first tenth; an arena has {arena:,} bytes, and at most {least:,} are allowed")
    return 1 if growth > least else 0


if __name__ == "__main__":
    sys.exit(main())
