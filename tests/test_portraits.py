"""benchmarks/portraits.py: where it cuts, and that a large face is scored there."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks/portraits.py"


@pytest.mark.parametrize("part", [0.35, 0.8])
def test_the_face_fills_its_part_of_an_upright_picture(part: float) -> None:
    portrait = runpy.run_path(str(SCRIPT))["portrait"]
    face = np.array([300.0, 200.0, 380.0, 300.0])
    x1, y1, x2, y2 = portrait(face, part, 600, 800)
    assert abs((y2 - y1) - 100 / part) <= 1 and abs((x2 - x1) - 80 / part) <= 1
    assert abs((x1 + x2) / 2 - 340) <= 1 and y1 < 200 and y2 > 300
    corner = portrait(face - (300, 200, 300, 200), part, 600, 800)
    assert corner[:2] == (0, 0) and np.abs(np.subtract(corner[2:], (x2 - x1, y2 - y1))).max() <= 1


def test_a_photo_too_low_gives_none() -> None:
    assert runpy.run_path(str(SCRIPT))["portrait"](np.array([0.0, 0.0, 80.0, 100.0]), 0.5, 199, 400) is None


def test_a_large_face_is_found_and_photos_of_small_ones_are_left_out(tmp_path: Path) -> None:
    folder, lists = tmp_path / "WIDER_val/images", tmp_path / "wider_face_split"
    folder.mkdir(parents=True)
    lists.mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(ROOT / "examples/astronaut.jpg", folder / name)
    face = "178 62 90 114 0 0 0 0 0 0"
    (lists / "wider_face_val_bbx_gt.txt").write_text(f"a.jpg\n2\n{face}\n0 0 30 40 0 0 0 0 0 0\nb.jpg\n1\n0 0 70 89 0 0 0 0 0 0\n")
    command = [sys.executable, SCRIPT, "dupnet-tinier-yolo", "--data", tmp_path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed == [f"dupnet-tinier-yolo, {part}% of 1 pictures: 1.000, 1.000" for part in (35, 50, 65, 80)]
