"""benchmarks/default_score.py: boxes are right, wrong or do not count, photo by photo."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_it_counts_faces_found_and_false_alarms(tmp_path: Path) -> None:
    # The same photo four times: its face labelled, ignored, not labelled at all, labelled elsewhere.
    face, ignored, elsewhere = "178 62 90 114 0 0 0 0 0 0", "178 62 90 114 0 0 0 1 0 0", "5 300 90 114 0 0 0 0 0 0"
    lines = ""
    for number, label in enumerate((face, ignored, None, elsewhere)):
        photo = f"a/{number}.jpg"
        path = tmp_path / "WIDER_train/images" / photo
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "examples/astronaut.jpg", path)
        lines += f"{photo}\n1\n{label}\n" if label else f"{photo}\n0\n0 0 0 0 0 0 0 0 0 0\n"
    (tmp_path / "wider_face_split").mkdir()
    (tmp_path / "wider_face_split/wider_face_train_bbx_gt.txt").write_text(lines)
    command = [sys.executable, ROOT / "benchmarks/default_score.py", "dupnet-tinier-yolo", "--data", tmp_path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed[-1] == "dupnet-tinier-yolo at 0.70: 0.500 false positives a photo, precision 0.333, 1 faces found"
    assert [line.split()[2] for line in printed] == ["0.40:", "0.45:", "0.50:", "0.55:", "0.60:", "0.65:", "0.70:"]
