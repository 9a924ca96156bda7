"""benchmarks/found_by_height.py: every valid face is counted once, in the row of its height in the network's view."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dupnet import Detector, image
from dupnet.data import wider

ROOT = Path(__file__).parents[1]


def test_every_face_is_in_the_row_of_its_height(tiny_wider: Path) -> None:
    command = [sys.executable, ROOT / "benchmarks/found_by_height.py", "dupnet-tinier-yolo", "--data", tiny_wider, "--size", "160"]
    head, *rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert head.split() == ["pixels", "faces", "dupnet-tinier-yolo", "at", f"{Detector('dupnet-tinier-yolo').default_score:.2f}"]
    samples, images = wider.split(tiny_wider, "val")
    heights = []
    for sample in samples:
        scale = 160 / max(image.read(images / sample.photo).shape[:2])
        heights += [float(box[3] - box[1]) * scale for box in sample.boxes[~sample.ignore]]
    for row in rows:
        span, count, share = row.split()
        low, high = map(int, span.split("-"))
        assert int(count) == sum(low <= height < high for height in heights)
        assert 0 <= float(share) <= 1
    assert sum(int(row.split()[1]) for row in rows) == len(heights) == 15
