"""benchmarks/mean_over_sizes.py: means over sizes, no difference of a model from itself, and the standard error of a difference."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks/mean_over_sizes.py"


def test_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=20)
    without = (values.sum() - values) / 19
    error = runpy.run_path(str(SCRIPT))["jackknife"](without)
    assert np.isclose(error, values.std(ddof=1) / np.sqrt(20))


def test_means_and_differences(tmp_path: Path) -> None:
    """Two sizes, 40 photos: 38 with a face where there is one, two (of different parts) with a label where there is none."""
    photos, boxes = [f"a/{i}.jpg" for i in range(40)], ["178 62 90 114"] * 38 + ["10 10 60 60"] * 2
    (tmp_path / "wider_face_split").mkdir()
    lines = "".join(f"{photo}\n1\n{box} 0 0 0 0 0 0\n" for photo, box in zip(photos, boxes))
    (tmp_path / "wider_face_split/wider_face_val_bbx_gt.txt").write_text(lines)
    levels = {photo: dict.fromkeys(("easy", "medium", "hard"), [0]) for photo in photos}
    (tmp_path / "wider_face_split/val_difficulty.json").write_text(json.dumps(levels))
    (tmp_path / "WIDER_val/images/a").mkdir(parents=True)
    for photo in photos:
        shutil.copy(ROOT / "examples/astronaut.jpg", tmp_path / "WIDER_val/images" / photo)
    command = [sys.executable, SCRIPT, *["dupnet-tinier-yolo"] * 2, "--data", tmp_path, "--sizes", "96,128"]
    printed = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(printed) == 4
    for line, name in zip(printed, ("AP", "dr", "AP", "dr")):
        numbers = re.fullmatch(rf"dupnet-tinier-yolo {name}: (\d\.\d+) (\d\.\d+); mean (\d\.\d+), \+0\.0000 ± 0\.0000", line)
        assert numbers, line
        low, high, mean = map(float, numbers.groups())
        assert 0.85 < low <= 0.96 and abs((low + high) / 2 - mean) < 0.001
