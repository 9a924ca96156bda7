"""benchmarks/seen_and_unseen.py: the same rule for both splits, faces counted by their height in the network's view."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_faces_count_by_their_height_in_the_view(tmp_path: Path) -> None:
    (tmp_path / "wider_face_split").mkdir()
    for split, photos in (("train", ("a/1.jpg", "a/2.jpg", "a/3.jpg", "b/1.jpg")), ("val", ("a/1.jpg",))):
        lines = ""
        for photo in photos:
            path = tmp_path / f"WIDER_{split}/images" / photo
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "examples/astronaut.jpg", path)
            lines += f"{photo}\n1\n178 62 90 114 0 0 0 0 0 0\n"
        (tmp_path / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt").write_text(lines)
    command = [
        sys.executable,
        ROOT / "benchmarks/seen_and_unseen.py",
        "dupnet-tinier-yolo",
        "--data",
        tmp_path,
        "--folder",
        "a",
        "--every",
        "2",
    ]
    for size, easy in (("416", "1.000"), ("100", "nan")):  # 114 of 512 pixels are 92.6 and 22.3
        printed = subprocess.run([*command, "--size", size], capture_output=True, text=True, check=True).stdout.splitlines()
        scores = f"{easy} / 1.000 / 1.000, 1.000"
        assert printed == [f"dupnet-tinier-yolo on {where}: {scores}" for where in ("2 photos of train", "1 photos of val")]
