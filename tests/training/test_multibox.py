"""EResFD's matching and loss: against the published rules written as loops, and what the loss must and must not punish."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dupnet.data.augmentation import FACE, IGNORE
from dupnet.nn import eresfd
from dupnet.nn.eresfd import EResFD, Level
from dupnet.spec import EResFDSpec
from dupnet.training.multibox import MultiboxOptions, encode, match_anchors, multibox_loss


def match_slowly(overlap: np.ndarray, low: float, match: float, sure: float) -> list[int]:
    """The rules, one anchor at a time."""
    faces, anchors = overlap.shape
    forced = {int(overlap[face].argmax()): face for face in range(faces)}
    result = []
    for anchor in range(anchors):
        face = int(overlap[:, anchor].argmax())
        result.append(forced.get(anchor, face if overlap[face, anchor] >= match else -1))
    best = overlap.max(1)
    count = (int((best >= match).sum()) + int((best >= sure).sum())) // 2
    helpers = [a for a in range(anchors) if a not in forced and low < overlap[:, a].max() < match]
    for anchor in sorted(helpers, key=lambda a: -overlap[:, a].max())[:count]:
        result[anchor] = int(overlap[:, anchor].argmax())
    return result


@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([(0.1, 0.35, 0.5), (0.3, 0.7, 0.9)]))
def test_matching_is_the_published_one(faces: int, anchors: int, seed: int, ious: tuple[float, float, float]) -> None:
    overlap = np.random.default_rng(seed).random((faces, anchors), np.float32) ** 2
    low, match, sure = ious
    options = MultiboxOptions(low=low, match=match, sure=sure)
    assert match_anchors(torch.from_numpy(overlap), options).tolist() == match_slowly(overlap, low, match, sure)


def levels_of(side: int) -> list[Level]:
    """Predictions that know nothing: each box its anchor, both classes equally likely."""
    cells = [-(-side // stride) for stride in eresfd.STRIDES]
    return [Level(torch.zeros(1, 4, n, n, requires_grad=True), torch.zeros(1, 2, n, n, requires_grad=True)) for n in cells]


def gradient(levels: list[Level], boxes: list[list[float]], kinds: list[int], options: MultiboxOptions) -> tuple[Tensor, Tensor]:
    losses = multibox_loss(levels, torch.tensor([boxes]).reshape(1, -1, 4), torch.tensor([kinds]), options)
    losses.total.backward()  # type: ignore[no-untyped-call]
    location, classes = (torch.cat([map.grad.flatten(2)[0] for map in maps], 1) for maps in zip(*levels))  # type: ignore[union-attr]
    return location, classes


def test_encode_is_the_inverse_of_decode() -> None:
    rng = np.random.default_rng(0)
    anchors = eresfd.anchors([(3, 4)])
    location = rng.normal(size=(12, 4)).astype(np.float32)
    boxes = torch.from_numpy(eresfd.decode(location, anchors))
    np.testing.assert_allclose(encode(boxes, torch.from_numpy(anchors)).numpy(), location, atol=1e-4)


@pytest.mark.parametrize("negatives", ["hard", "focal"])
def test_the_face_pulls_its_anchors_and_the_rest_is_background(negatives: str) -> None:
    options = MultiboxOptions(negatives=negatives)  # type: ignore[arg-type]
    location, classes = gradient(levels_of(128), [[40.0, 40.0, 72.0, 80.0]], [FACE], options)
    pulled = classes[1] < 0  # towards "face"
    assert 0 < pulled.sum() < 20 and (location.abs().sum(0)[~pulled] == 0).all()
    pushed = classes[1] > 0
    assert int(pushed.sum()) == (3 * int(pulled.sum()) if negatives == "hard" else classes.shape[1] - int(pulled.sum()))


def test_an_ignore_region_is_no_background() -> None:
    options = MultiboxOptions(negatives="focal")
    _, classes = gradient(levels_of(64), [[0.0, 0.0, 32.0, 64.0]], [IGNORE], options)
    finest = classes[1, : 16 * 16].reshape(16, 16)
    assert (finest[2:14, 2:6] == 0).all() and (finest[:, 12:] > 0).all()


def test_a_photo_without_faces_is_learned_from() -> None:
    for negatives in ("hard", "focal"):
        options = MultiboxOptions(negatives=negatives)  # type: ignore[arg-type]
        _, classes = gradient(levels_of(64), [[0.0, 0.0, 0.0, 0.0]], [0], options)
        assert (classes[1] > 0).sum() >= 3 and not (classes[1] < 0).any()


def hard(*probabilities: float) -> float:
    """Cross entropy of the right classes' probabilities."""
    return -sum(math.log(p) for p in probabilities)


def focal(alpha: float, gamma: float) -> float:
    """The one face is found with .8; the others' faces, which are none, with .1, .4 and .2."""
    background = sum(p**gamma * hard(1 - p) for p in (0.1, 0.4, 0.2))
    return alpha * (1 - 0.8) ** gamma * hard(0.8) + (1 - alpha) * background


BOX = 0.5 * 0.5**2 + (2 - 0.5)
"""Smooth L1 of an error of .5 and one of 2."""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"negative_ratio": 1}, BOX + hard(0.8, 0.6)),
        ({"negative_ratio": 2}, BOX + hard(0.8, 0.6, 0.8)),
        ({"negative_ratio": 3}, BOX + hard(0.8, 0.6, 0.8, 0.9)),
        ({"ignore_overlap": 0.3}, BOX + hard(0.8, 0.6, 0.8, 0.9)),
        ({"ignore_overlap": 0.22}, BOX + hard(0.8, 0.6, 0.8)),
        ({"box": 0.0}, hard(0.8, 0.6, 0.8, 0.9)),
        ({"box": 2.0}, 2 * BOX + hard(0.8, 0.6, 0.8, 0.9)),
        ({"negatives": "focal"}, BOX + focal(0.25, 2)),
        ({"negatives": "focal", "alpha": 0.6}, BOX + focal(0.6, 2)),
        ({"negatives": "focal", "gamma": 0.5}, BOX + focal(0.25, 0.5)),
        ({"negatives": "focal", "gamma": 0.0}, BOX + focal(0.25, 0)),
    ],
    ids=str,
)
def test_four_anchors_cost_what_each_option_says(options: dict[str, Any], expected: float) -> None:
    """2 x 2 cells of the finest level, where the first anchor is the face and, by a high `match`, the only one that answers.

    A region to ignore has 4 x 20 of the second anchor's 16 x 20 pixels and 4 x 16 of the fourth's.
    """
    face = torch.tensor([0.8, 0.1, 0.4, 0.2])
    location = torch.zeros(1, 4, 2, 2)
    location[0, :, 0, 0] = torch.tensor([0.5, 0.0, 0.0, -2.0])
    level = Level(location, torch.stack([1 - face, face]).log().view(1, 2, 2, 2))
    boxes = torch.tensor([[[-6.0, -8.0, 10.0, 12.0], [10.0, -8.0, 30.0, 12.0]]])
    losses = multibox_loss([level], boxes, torch.tensor([[FACE, IGNORE]]), MultiboxOptions(low=0.9, match=0.9, **options))
    assert losses.total.item() == pytest.approx(expected, rel=1e-5)


def test_it_learns_one_photo_by_heart() -> None:
    torch.manual_seed(0)
    network = EResFD(EResFDSpec(8))
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    image = torch.randint(0, 80, (2, 3, 64, 64), dtype=torch.uint8)
    boxes = torch.tensor([[[8.0, 10, 28, 35]], [[30.0, 25, 50, 50]]])
    for photo, (x1, y1, x2, y2) in enumerate(boxes[:, 0].int().tolist()):
        image[photo, :, y1:y2, x1:x2] += 150
    losses = []
    for _ in range(40):
        loss = multibox_loss(network(image), boxes, torch.full((2, 1), FACE), MultiboxOptions())
        optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.total.detach()))
    assert losses[-1] < 0.5 * losses[0]
