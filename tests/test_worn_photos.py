"""benchmarks/worn_photos.py: what it does to photos, and that an easy face counts as found in all of them."""

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
SCRIPT = ROOT / "benchmarks/worn_photos.py"


def test_gray_is_luma() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    gray = runpy.run_path(str(SCRIPT))["gray"](photo)
    assert gray.shape == photo.shape and gray.dtype == np.uint8 and (gray == gray[..., :1]).all()
    assert np.abs(gray[..., 0].astype(int) - np.asarray(Image.fromarray(photo).convert("L"))).max() <= 1


def test_each_kind_of_wear_does_what_its_name_says() -> None:
    wear = runpy.run_path(str(SCRIPT))["WEAR"]
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[:, 32:] = (240, 200, 100)
    assert np.array_equal(wear["as they are"](photo), photo)
    assert wear["faded"](photo).min() == 64 and wear["faded"](photo).max() == 184
    grain = wear["noise"](np.full((64, 64, 3), 128, np.uint8)).astype(int) - 128
    assert 9.5 < grain.std() < 10.5 and (grain == grain[..., :1]).all()
    old = wear["old"](photo)
    assert (old == old[..., :1]).all() and 9 < old[:, :32].std() < 11 and abs(old[:, :32].mean() - 64) < 1
    assert 0 < wear["blurred"](photo)[5, 31, 0] < 120 and wear["blurred"](photo)[5, 5, 0] == 0
    assert 0 < np.abs(wear["JPEG"](photo).astype(int) - photo).mean() < 10


def test_an_easy_face_is_found_in_all_of_them_where_it_is(tmp_path: Path) -> None:
    folder, lists = tmp_path / "WIDER_val/images", tmp_path / "wider_face_split"
    folder.mkdir(parents=True)
    lists.mkdir()
    shutil.copy(ROOT / "examples/astronaut.jpg", folder / "a.jpg")
    (lists / "wider_face_val_bbx_gt.txt").write_text("a.jpg\n1\n178 62 90 114 0 0 0 0 0 0\n")
    (lists / "val_difficulty.json").write_text(json.dumps({"a.jpg": {"easy": [0], "medium": [0], "hard": [0]}}))
    command = [sys.executable, SCRIPT, "dupnet-tinier-yolo", "--data", tmp_path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    all_found = "1.000 / 1.000 / 1.000, 1.000"
    kinds = ("as they are", "gray", "faded", "noise", "old", "blurred", "JPEG")
    assert printed == [f"dupnet-tinier-yolo {kind}: {all_found}" for kind in kinds]
