"""What several tests share: optional data sets, and a tiny one that is drawn here.

The folder of the optional data sets is the environment variable DUPNET_DATA, else `../shared/data` beside the repository.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: the tests' networks are tiny, and threads that wait for each other cost more
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the tests compare bits, and some of a GPU's sums have no fixed order

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]


def data_folder(environment: Mapping[str, str]) -> Path:
    """The folder of the optional data sets."""
    return Path(environment.get("DUPNET_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def data_set() -> Callable[[str], Path]:
    """Gives the folder of an optional data set by its name, or skips the test; tests that use it carry the mark `shared`."""

    def find(name: str) -> Path:
        folder = data_folder(os.environ) / name
        if not folder.is_dir():
            pytest.skip(f"needs the data set {folder}")
        return folder

    return find


@pytest.fixture(scope="session")
def tiny_wider(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in WIDER's layout: 8 drawn photos for each split, two bright discs each, one of them sometimes invalid."""
    root = tmp_path_factory.mktemp("tiny_wider")
    rng = np.random.default_rng(7)
    (root / "wider_face_split").mkdir()
    for split in ("train", "val"):
        lines = []
        folder = root / f"WIDER_{split}" / "images" / "0--Discs"
        folder.mkdir(parents=True)
        for number in range(8):
            photo = Image.fromarray(rng.integers(0, 80, (96, 128, 3), np.uint8))
            draw, faces = ImageDraw.Draw(photo), []
            for side in (0, 64):
                w, h = rng.integers(16, 40, 2)
                x, y = side + rng.integers(0, 64 - w), rng.integers(0, 96 - h)
                draw.ellipse([x, y, x + w, y + h], fill=(230, 200, 180))
                faces.append(f"{x} {y} {w} {h} 0 0 0 {int(side and number == 3)} 0 0")
            photo.save(folder / f"{number}.png")
            lines += [f"0--Discs/{number}.png", "2", *faces]
        (root / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt").write_text("\n".join(lines) + "\n")
    return root
