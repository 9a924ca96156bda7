"""Detection in torch: the boxes of the reference for integer models, boxes at all for float ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dupnet import reference, zoo
from dupnet.conversion import convert
from dupnet.nn import Network
from dupnet.nn.detection import detect

PHOTO = Path(__file__).resolve().parents[2] / "examples" / "astronaut.jpg"


def test_boxes_equal_the_references() -> None:
    torch.manual_seed(0)
    network = Network(zoo.get("dupnet-tinier-yolo")).eval()
    ours = detect(network, PHOTO, size=96, score=0.01)
    theirs = reference.detect(convert(network), PHOTO, size=96, score=0.01)
    assert len(ours) == len(theirs) > 3
    np.testing.assert_allclose(ours.xyxy, theirs.xyxy, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-4)


@pytest.mark.parametrize("name", ["tinier-yolo", "table3/conv4-8"])
def test_float_and_partly_float_networks_detect(name: str) -> None:
    torch.manual_seed(0)
    network = Network(zoo.get(name)).eval()
    faces = detect(network, PHOTO, size=64, score=0.0)
    assert len(faces) > 0 and faces.image is not None and np.isfinite(faces.xyxy).all()
