"""Detection in torch: the boxes of the reference for integer models, boxes at all for float ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from random_networks import shaken

from dupnet import Detector, packed, reference, zoo
from dupnet.conversion import convert
from dupnet.errors import CheckpointError
from dupnet.nn import Network, checkpoint
from dupnet.nn.detection import NetworkDetector, detect

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


@pytest.mark.parametrize("name", ["dupnet-tinier-yolo-l", "table2/a4w4-4x", "table2/a8w8-8x", "table5/bits-conv1-3"])
def test_a_checkpoint_detects_as_its_packed_file(name: str, tmp_path: Path) -> None:
    network = shaken(Network(zoo.get(name)), seed=5)
    checkpoint.save(network, tmp_path / "network.pt")
    packed.save(convert(network), tmp_path / "model.dnet")
    ours, core = NetworkDetector(tmp_path / "network.pt"), Detector(tmp_path / "model.dnet")
    assert (ours.name, ours.default_size, ours.default_score, ours.stride) == (
        core.name, core.default_size, core.default_score, core.stride,
    )  # fmt: skip
    a, b = (detector.detect(PHOTO, size=96, score=0.01, iou=0.4) for detector in (ours, core))
    assert len(a) == len(b) > 3
    np.testing.assert_allclose(a.xyxy, b.xyxy, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4, atol=1e-6)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    detector = NetworkDetector(Network(zoo.get("tinier-yolo-half")))
    for wrong in ({"size": 8}, {"score": 2.0}, {"iou": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            detector.detect(PHOTO, **wrong)
    (tmp_path / "network.pt").write_text("nothing")
    with pytest.raises(CheckpointError, match="network.pt"):
        NetworkDetector(tmp_path / "network.pt")
