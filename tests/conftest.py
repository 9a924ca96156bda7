"""What several tests share: where the optional data sets are, and a tiny data set that is drawn here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not SHARED.is_dir():
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(pytest.mark.skip(reason=f"needs the data sets in {SHARED}"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of the optional data sets; tests that use it carry the mark `shared`."""
    return SHARED


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
