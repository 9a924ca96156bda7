"""benchmarks/label_offsets.py: offsets in heights of the label; small, ignored, unsure and far boxes do not count."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


def test_offsets_of_each_folder(tmp_path: Path) -> None:
    (tmp_path / "wider_face_split").mkdir()
    (tmp_path / "WIDER_train/images").mkdir(parents=True)
    faces = "0 0 16 20 0 0 0 0 0 0\n100 0 10 15 0 0 0 0 0 0\n200 0 40 40 0 0 0 1 0 0\n"  # one that counts, a small one, an ignored one
    lines = f"a/1.jpg\n3\n{faces}b/1.jpg\n1\n0 0 40 40 0 0 0 0 0 0\n"
    (tmp_path / "wider_face_split/wider_face_train_bbx_gt.txt").write_text(lines)
    boxes = [[0, 2, 16, 20], [1, 0, 16, 20], [100, 0, 110, 15], [200, 0, 240, 40], [1, -4, 41, 40]]
    scores = [0.9, 0.4, 0.9, 0.9, 0.8]
    np.savez(tmp_path / "t.npz", photos=["a/1.jpg", "b/1.jpg"], start=[0, 4, 5], boxes=np.array(boxes, float), scores=scores)
    command = [sys.executable, str(ROOT / "benchmarks/label_offsets.py"), "--data", str(tmp_path), "--teacher", str(tmp_path / "t.npz")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed[1:] == ["a 1 +0.000 +0.100 +0.000 +0.000 0.900", f"b 1 +0.025 -0.100 +0.025 +0.000 {39 * 40 / (40 * 44 + 40):.3f}"]
