"""More than one look at a photo, from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dupnet import Detector
from dupnet.cli import main
from dupnet.detections import Detections
from dupnet.views import Views, detect

PHOTO = Path(__file__).parents[1] / "examples" / "astronaut.jpg"


def test_detect_looks_as_often_as_it_is_told() -> None:
    detector = Detector()

    def find(pixels: np.ndarray, size: int, score: float) -> Detections:
        return detector.detect(pixels, size=size, score=score)

    views, photo = Views((160, 320), flip=True, vote=True), np.asarray(Image.open(PHOTO).convert("RGB"))
    expected = detect(find, photo, views, threshold=0.45, score=detector.default_score)
    result = CliRunner().invoke(main, ["detect", str(PHOTO), "--sizes", "160,320", "--flip", "--vote", "--json"])
    assert result.exit_code == 0 and len(expected)
    assert json.loads(result.output)["faces"] == expected.to_list()


def test_evaluate_says_how_often_it_looked(tiny_wider: Path, tmp_path: Path) -> None:
    root = shutil.copytree(tiny_wider, tmp_path / "wider")
    table = {f"0--Discs/{n}.png": {"easy": [0], "medium": [0, 1], "hard": [0, 1]} for n in range(8)}
    (root / "wider_face_split" / "val_difficulty.json").write_text(json.dumps(table))
    arguments = ["evaluate", "dupnet-tinier-yolo", "--wider", str(root), "--json", "--sizes", "64,128", "--flip"]
    result = CliRunner().invoke(main, arguments)
    numbers = json.loads(result.output)
    assert (numbers["size"], numbers["flip"], numbers["vote"]) == ([64, 128], True, False)


@pytest.mark.parametrize("text", ["", "320,", "320,320", "16", "a,b", "320 640"])
def test_sizes_that_are_none(text: str) -> None:
    result = CliRunner().invoke(main, ["detect", str(PHOTO), "--sizes", text])
    assert result.exit_code == 2 and "different long sides from 32 to 8192" in result.output
