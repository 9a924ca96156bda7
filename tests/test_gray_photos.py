"""benchmarks/gray_photos.py: what it calls gray, and that a face which is easy in colour and in gray counts as found in both."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks/gray_photos.py"


def test_gray_is_luma() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    gray = runpy.run_path(str(SCRIPT))["in_gray"](photo)
    assert gray.shape == photo.shape and gray.dtype == np.uint8 and (gray == gray[..., :1]).all()
    assert np.abs(gray[..., 0].astype(int) - np.asarray(Image.fromarray(photo).convert("L"))).max() <= 1


def test_colour_and_gray(tmp_path: Path) -> None:
    folder, lists = tmp_path / "WIDER_val/images", tmp_path / "wider_face_split"
    folder.mkdir(parents=True)
    lists.mkdir()
    shutil.copy(ROOT / "examples/astronaut.jpg", folder / "a.jpg")
    (lists / "wider_face_val_bbx_gt.txt").write_text("a.jpg\n1\n178 62 90 114 0 0 0 0 0 0\n")
    (lists / "val_difficulty.json").write_text(json.dumps({"a.jpg": {"easy": [0], "medium": [0], "hard": [0]}}))
    command = [sys.executable, SCRIPT, "dupnet-tinier-yolo", "--data", tmp_path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    all_found = "1.000 / 1.000 / 1.000, 1.000"
    assert printed == [f"dupnet-tinier-yolo {name}: {all_found}" for name in ("colour", "gray")]
