"""EResFD: its size, its published weights and their outputs, and files that are something else."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from dupnet.cli import main
from dupnet.errors import CheckpointError
from dupnet.nn import eresfd
from dupnet.nn.eresfd import EResFD, EResFDDetector
from dupnet.spec import EResFDSpec

OURS_TO_PUBLISHED = {
    "stem.": lambda rest: f"base.conv{int(rest[0]) + 1}{rest[1:]}",
    "stages.": lambda rest: f"base.m0.b2_{int(rest[0]) + 1}{rest[1:]}",
    "laterals.": lambda rest: f"base.m0.fpn.laterals.{rest[0]}.conv{rest[1:]}",
    "smooth.": lambda rest: f"base.m0.fpn.itm.{rest[0]}.conv{rest[1:]}",
    "mixing": lambda rest: "base.m0.fpn.w1",
    "contexts.": lambda rest: f"base.m0.FEM_{rest[0]}.res_branch{int(rest.split('.')[2]) + 1}.{rest.split('.', 3)[3]}",
    "locations.": lambda rest: f"loc.{rest}",
    "classes.": lambda rest: f"conf.{rest}",
}


def publish(network: EResFD, folder: Path) -> Path:
    """Write weights as the published files have them; returns the first."""
    parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in eresfd.PARTS}
    for name, tensor in network.state_dict().items():
        start = next(start for start in OURS_TO_PUBLISHED if name.startswith(start))
        theirs = OURS_TO_PUBLISHED[start](name.removeprefix(start)).replace("body.", "res_layer.").replace("shortcut.", "shortcut_layer.")
        part, _, rest = theirs.partition(".")
        parts[part][rest] = tensor
    for part, state in parts.items():
        torch.save(state, folder / f"some.pth.{part}.pth")
    return folder / "some.pth.base.pth"


@pytest.fixture
def network() -> EResFD:
    torch.manual_seed(3)
    return EResFD(EResFDSpec(8)).eval()


def test_the_published_size() -> None:
    network = EResFD()
    modules = eresfd.costs(network, (480, 640))
    assert network.training and {p.device.type for p in network.parameters()} == {"cpu"}, "it is asked about, not used up"
    assert sum(module.parameters for module in modules) == 92_208
    assert sum(module.macs for module in modules) == 295_065_600
    assert sum(module.macs for module in eresfd.costs(EResFD(), (640, 640))) == 393_308_400


def test_the_command_prints_it() -> None:
    result = CliRunner().invoke(main, ["cost", "eresfd", "--size", "640x480"])
    assert result.exit_code == 0 and result.output.splitlines()[-1].split() == ["total", "92,208", "295.07"]
    table = json.loads(CliRunner().invoke(main, ["cost", "eresfd", "--size", "640x480", "--json"]).output)
    assert (table["parameters"], table["macs"]) == (92_208, 295_065_600)
    assert table["layers"][1] == {"name": "stem.0.0", "parameters": 600, "macs": 600 * 120 * 160}


@pytest.mark.parametrize("height, width", [(1, 1), (5, 300), (151, 197), (128, 128)])
def test_any_size_gives_a_cell_for_each_stride(network: EResFD, height: int, width: int) -> None:
    with torch.no_grad():
        levels = network(torch.zeros(2, 3, height, width))
    for level, stride in zip(levels, eresfd.STRIDES):
        assert level.location.shape == (2, 4, -(-height // stride), -(-width // stride))
        assert level.classes.shape == (2, 2, -(-height // stride), -(-width // stride))


def test_anchors_and_boxes_by_hand() -> None:
    anchors = eresfd.anchors([(1, 2), (1, 1)])
    assert anchors.tolist() == [[2, 2, 16, 20], [6, 2, 16, 20], [4, 4, 32, 40]]
    location = np.array([[0, 0, 0, 0], [1, -1, 0, 0], [0, 0, 5 * np.log(2), 0]], np.float32)
    expected = [[-6, -8, 10, 12], [6 + 1.6 - 8, 2 - 2 - 10, 6 + 1.6 + 8, 2 - 2 + 10], [4 - 32, -16, 4 + 32, 24]]
    np.testing.assert_allclose(eresfd.decode(location, anchors), expected, rtol=1e-6)


def test_weights_survive_the_way_to_the_published_files_and_back(network: EResFD, tmp_path: Path) -> None:
    loaded = eresfd.load_published(publish(network, tmp_path))
    assert loaded.spec.channels == 8 and not loaded.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


class Intruder:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (eval, ("1/0",))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def widen(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["m0.fpn.w1"] = torch.ones(2, 10)
    torch.save(state, path)


def forget(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    del state["m0.fpn.w1"]
    torch.save(state, path)


def spoil(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["m0.fpn.w1"][0, 0] = torch.nan
    torch.save(state, path)


@pytest.mark.parametrize(
    "damage, says",
    [
        (truncate, "damaged"),
        (lambda path: path.unlink(), "cannot be read: No such file"),
        (lambda path: path.with_name("some.pth.conf.pth").unlink(), "some.pth.conf.pth: cannot be read"),
        (lambda path: path.write_bytes(pickle.dumps(Intruder())), "not a file of weights"),
        (lambda path: torch.save(Intruder(), path), "not a file of weights"),
        (lambda path: torch.save([1, 2], path), "expected a dictionary of tensors, found list"),
        (widen, "mixing"),
        (forget, "mixing"),
        (spoil, "mixing holds values that are not finite"),
    ],
)
def test_a_file_that_does_not_fit_is_told(network: EResFD, tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    path = publish(network, tmp_path)
    damage(path)
    with pytest.raises(CheckpointError, match="some.pth") as error:
        eresfd.load_published(path)
    assert says in str(error.value)


@pytest.mark.shared
def test_the_published_weights_give_the_published_outputs(data_set: Callable[[str], Path]) -> None:
    photos = data_set("faces") / "WIDER_val" / "images"
    peers = photos.parents[3] / "peers" / "eresfd"
    if not peers.is_dir():
        pytest.skip(f"needs {peers}")
    network = eresfd.load_published(peers / "eresfd_16.pth.base.pth")
    check = np.load(peers / "check.npz")
    for k, photo in enumerate(check["photos"]):
        pixels: NDArray[np.uint8]
        if str(photo).startswith("uniform_noise"):
            pixels = np.random.default_rng(0).integers(0, 256, (151, 197, 3), dtype=np.uint8)
        else:
            pixels = np.asarray(Image.open(photos / str(photo)).convert("RGB"))
        with torch.inference_mode():
            levels = network(torch.tensor(pixels).permute(2, 0, 1)[None])
        for number, level in enumerate(levels):
            np.testing.assert_allclose(level.location[0].permute(1, 2, 0).numpy(), check[f"{k}_loc{number}"], rtol=0, atol=1e-3)
            np.testing.assert_allclose(level.classes[0].permute(1, 2, 0).numpy(), check[f"{k}_conf{number}"], rtol=0, atol=1e-3)
        boxes, scores = eresfd.boxes(network, pixels, score=0.05, iou=0.3)
        expected = check[f"{k}_detections"]
        assert len(boxes) == len(expected)
        np.testing.assert_allclose(scores, expected[:, 4], rtol=0, atol=1e-3)
        # Scores that are equal to six digits may change places; each expected box is there.
        distance = np.abs(boxes[None] - expected[:, None, :4]).max(2)
        assert distance.min(1).max() < 0.05 and distance.min(0).max() < 0.05


def test_boxes_beside_the_photo_are_no_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = np.array([[-50, 10, -2, 40], [10, 10, 30, 40], [70, 90, 120, 200], [-5, -5, 8, 9]], np.float32)
    monkeypatch.setattr(eresfd, "boxes", lambda *args, **options: (found, np.array([0.9, 0.8, 0.7, 0.6], np.float32)))
    detections = EResFDDetector(EResFD()).detect(np.zeros((64, 96, 3), np.uint8), size=96)
    assert detections.scores.tolist() == pytest.approx([0.8, 0.6])
    assert detections.xyxy.tolist() == [[10, 10, 30, 40], [0, 0, 8, 9]]
