"""The models that ship: each is what its float weights say, finds faces, and no refactoring moves its integers."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from dupnet import Detector, image, zoo
from dupnet.detections import iou
from dupnet.nn import checkpoint
from dupnet.verification import verify

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = [ROOT / "examples" / name for name in ("astronaut.jpg", "grace_hopper.jpg")]
FACES = np.array([[182, 70, 272, 185], [180, 110, 350, 350]], np.float32)
"""The two faces, marked by eye: x1 y1 x2 y2 in pixels of each photo."""

SIGNATURES = {"dupnet-tinier-yolo": 854932995, "dupnet-tinier-yolo-l": 1317523149}
"""CRC-32 over all maps of all stages for the astronaut at 128 pixels. It changes with the weights and with nothing else."""


@pytest.mark.parametrize("name", zoo.model_names())
def test_it_equals_its_float_weights(name: str) -> None:
    network = checkpoint.load(ROOT / "models" / f"{name}.pt")
    assert network.spec == zoo.get(name)
    result = verify(zoo.model_path(name), network, PHOTOS, size=224)
    assert result.difference is None and result.photos == 2


@pytest.mark.parametrize("name", zoo.model_names())
def test_its_integers_stay(name: str) -> None:
    detector = Detector(name)
    maps = detector.maps(image.to_input(image.read(PHOTOS[0]), 128, stride=detector.stride).pixels)
    assert zlib.crc32(b"".join(np.ascontiguousarray(m).tobytes() for m in maps)) == SIGNATURES[name]


@pytest.mark.parametrize("name", zoo.model_names())
@pytest.mark.parametrize(("photo", "face"), list(zip(PHOTOS, FACES)), ids=lambda value: getattr(value, "stem", ""))
def test_it_finds_the_face(name: str, photo: Path, face: np.ndarray) -> None:
    found = Detector(name).detect(photo)
    assert len(found) == 1
    assert iou(found.xyxy, face[None]).max() > 0.5


def test_the_default_model_ships_with_its_card() -> None:
    assert "dupnet-tinier-yolo" in zoo.model_names()
    for name in zoo.model_names():
        card = zoo.model_path(name).with_suffix(".md").read_text()
        assert all(word in card for word in ("Trained on", "Recipe", "Commit", "Scores"))
