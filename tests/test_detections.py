"""Detections: order, indexing, files, crops, drawings; IoU, suppression and voting by hand."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dupnet.detections import Detections, iou, merge, nms, vote_boxes
from dupnet.errors import DataError, ImageError

PHOTO = np.full((100, 160, 3), 128, np.uint8)
FACES = Detections([[10, 20, 30, 50], [100.126, 5, 120, 25], [40, 60, 60, 90]], [0.5, 0.9, 0.5], PHOTO)


def test_the_surest_come_first_and_ties_keep_their_order() -> None:
    assert FACES.scores.tolist() == pytest.approx([0.9, 0.5, 0.5])
    assert FACES.xyxy[1:, 0].tolist() == [10, 40]
    many = Detections(np.arange(100)[:, None] + [0, 0, 1, 1], np.arange(100) % 2)
    assert many.xyxy[:, 0].tolist() == [*range(1, 100, 2), *range(0, 100, 2)]
    assert FACES.xyxy.dtype == FACES.scores.dtype == np.float32


def test_items_and_parts() -> None:
    box, score = next(iter(FACES))
    assert box.tolist() == FACES[0].box.tolist() and score == FACES[0].score == pytest.approx(0.9)
    assert len(FACES[1:]) == 2 and FACES[1:].image is PHOTO
    assert len(FACES[FACES.scores > 0.7]) == 1 and FACES[np.array([2])].xyxy[0, 0] == 40
    assert len(list(FACES)) == 3
    with pytest.raises(IndexError):
        FACES[3]


def test_nothing_found_is_empty_everywhere() -> None:
    for nobody in (Detections([], [], PHOTO), Detections(np.zeros((0, 4)), np.zeros(0), PHOTO), FACES[FACES.scores > 1]):
        assert len(nobody) == 0 and nobody.xyxy.shape == (0, 4) and list(nobody) == [] and nobody.crops() == []
        assert nobody.to_json() == "[]" and nobody.to_csv() == "x1,y1,x2,y2,score\n"
        assert (np.asarray(nobody.plot()) == PHOTO).all()


@pytest.mark.parametrize(
    ("xyxy", "scores", "reason"),
    [
        ([[0, 0, 1, 1]], [0.5, 0.4], r"2 scores need boxes of shape \(2, 4\)"),
        ([[0, 0, 1]], [0.5], r"not \(1, 3\)"),
        ([0, 0, 1, 1], [0.5], r"not \(4,\)"),
        ([[0, 0, np.nan, 1]], [0.5], "finite"),
        ([[0, 0, 1, 1]], [np.inf], "finite"),
        ([[2, 0, 1, 1]], [0.5], "x1 <= x2"),
    ],
)
def test_wrong_arrays_are_refused(xyxy: list[object], scores: list[float], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Detections(xyxy, scores)  # type: ignore[arg-type]


def test_text() -> None:
    assert json.loads(FACES.to_json())[0] == {"box": [100.13, 5.0, 120.0, 25.0], "score": 0.9}
    assert FACES.to_csv().splitlines()[:2] == ["x1,y1,x2,y2,score", "100.13,5.00,120.00,25.00,0.900000"]
    assert repr(FACES) == "Detections(3 boxes, best 0.90)"


def test_save(tmp_path: Path) -> None:
    for suffix in ("json", "csv", "png", "jpg", "JPEG"):
        FACES.save(tmp_path / f"out.{suffix}")
    assert (tmp_path / "out.json").read_text() == FACES.to_json() + "\n" and (tmp_path / "out.csv").read_text() == FACES.to_csv()
    with Image.open(tmp_path / "out.png") as png, Image.open(tmp_path / "out.JPEG") as jpeg:
        assert (np.asarray(png) == np.asarray(FACES.plot())).all() and jpeg.format == "JPEG" and jpeg.size == (160, 100)
    with pytest.raises(DataError, match="must end in one of .json"):
        FACES.save(tmp_path / "out.txt")
    with pytest.raises(DataError, match="cannot be written"):
        FACES.save(tmp_path / "missing" / "out.json")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        FACES.save(tmp_path / "folder.csv")
    assert not list(tmp_path.glob(".*"))


def test_crops() -> None:
    assert [crop.shape for crop in FACES.crops()] == [(20, 20, 3), (30, 20, 3), (30, 20, 3)]
    assert FACES.crops(margin=0.5)[0].shape == (35 - 0, 40, 3)
    outside = Detections([[-9, -9, -2, -2], [158.2, 30, 170, 30], [300, 300, 310, 310]], [0.9, 0.8, 0.7], PHOTO)
    assert [crop.shape for crop in outside.crops()] == [(1, 1, 3), (1, 2, 3), (1, 1, 3)]


def test_pictures_need_a_photo() -> None:
    bare = Detections([[0, 0, 9, 9]], [0.5])
    for call in (bare.plot, bare.crops):
        with pytest.raises(ImageError, match="carry no photo"):
            call()
    assert bare.plot(PHOTO).size == (160, 100) and bare.plot(Image.fromarray(PHOTO)).size == (160, 100)


def test_boxes_from_elsewhere_may_be_huge() -> None:
    huge = Detections([[-1e30, -1e30, 1e30, 1e30], [20, 20, 60, 60]], [0.9, 0.8], PHOTO)
    assert (np.asarray(huge.plot()) != PHOTO).any()


@pytest.mark.parametrize("size_hw", [(1, 1), (24, 700), (700, 24), (900, 1600)])
def test_a_drawing_hides_no_face(size_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    height, width = size_hw
    centres = rng.uniform(0, 1, (40, 2)) * (width, height)
    half = rng.uniform(2, 12, (40, 1))
    faces = Detections(np.concatenate([centres - half, centres + half], 1), rng.random(40))
    apart = faces[nms(faces.xyxy + np.array([-9, -9, 9, 9], np.float32), faces.scores, threshold=0)]
    photo = rng.integers(0, 256, (height, width, 3), np.uint8)
    drawn = np.asarray(apart.plot(photo))
    for x1, y1, x2, y2 in np.round(apart.xyxy).astype(int).clip(0):
        assert (drawn[y1 + 1 : y2, x1 + 1 : x2] == photo[y1 + 1 : y2, x1 + 1 : x2]).all()
    assert size_hw == (1, 1) or (drawn != photo).any()


def test_iou_by_hand() -> None:
    a = [[0, 0, 4, 2], [0, 0, 0, 0]]
    b = [[2, 0, 6, 2], [0, 0, 4, 2], [4, 0, 8, 2], [0, 0, 0, 0]]
    assert iou(a, b) == pytest.approx(np.array([[1 / 3, 1, 0, 0], [0, 0, 0, 0]]))
    assert iou([], b).shape == (0, 4)


def test_nms_by_hand() -> None:
    boxes = [[0, 0, 4, 2], [2, 0, 6, 2], [20, 0, 24, 2], [20, 0, 24, 2], [3, 0, 7, 2]]
    assert nms(boxes, [0.5, 0.9, 0.7, 0.7, 0.1], threshold=0.4).tolist() == [1, 2, 0]
    assert nms(boxes, [0.5, 0.9, 0.7, 0.7, 0.1], threshold=0.3).tolist() == [1, 2]
    assert nms([], [], threshold=0.5).tolist() == []
    half = [[0, 0, 4, 1], [0, 0, 2, 1]]
    assert nms(half, [0.9, 0.8], threshold=0.5).tolist() == [0, 1], "exactly the threshold stays"


@given(st.integers(0, 30), st.sampled_from([0.0, 0.3, 0.45, 1.0]), st.integers(0, 2**32 - 1))
def test_nms_keeps_what_overlaps_nothing_better(count: int, threshold: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 20, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 20, (count, 2))], 1)
    scores = rng.integers(0, 5, count) / 5
    overlap, kept = iou(boxes, boxes), []
    for i in sorted(range(count), key=lambda i: (-scores[i], i)):
        if all(overlap[j, i] <= threshold for j in kept):
            kept.append(i)
    assert nms(boxes, scores, threshold=threshold).tolist() == kept


def test_votes_have_weights() -> None:
    with pytest.raises(ValueError, match="must be at least 0, not -2"):
        vote_boxes([[0, 0, 4, 4]] * 2, [-1.0, -2.0], threshold=0.5)
    with pytest.raises(DataError, match="the photo must be an array"):
        Detections([[0, 0, 1, 1]], [0.5], Image.new("RGB", (4, 4)))  # type: ignore[arg-type]


def test_votes_by_hand() -> None:
    boxes = np.array([[10, 0, 20, 10], [0, 0, 10, 10], [0, 2, 10, 12], [50, 50, 50, 50]], np.float32)
    merged, scores, votes = vote_boxes(boxes, np.array([0.2, 0.9, 0.1, 0.05], np.float32), threshold=0.5)
    np.testing.assert_allclose(merged, [[0, 0.2, 10, 10.2], [10, 0, 20, 10], [50, 50, 50, 50]], rtol=1e-6)
    np.testing.assert_allclose(scores, [0.9, 0.2, 0.05])
    np.testing.assert_allclose(votes, [10 / 9, 1, 1], rtol=1e-6)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)), max_size=12))
def test_votes_stay_inside_what_was_found(rows: list[tuple[int, int, int, int, int]]) -> None:
    table = np.array(rows, np.float32).reshape(-1, 5)
    boxes, scores = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], 1), table[:, 4] / 10
    merged, best, votes = vote_boxes(boxes, scores, threshold=0.4)
    assert (votes >= 1).all() and votes.sum() <= len(rows) + 1e-4
    assert (np.diff(best) <= 0).all() and (not len(best) or best[0] == scores.max())
    for box in merged:
        assert (box >= boxes.min(0) - 1e-4).all() and (box <= boxes.max(0) + 1e-4).all()
        assert iou(box, boxes).max() > 0.3


def test_only_those_half_as_sure_vote() -> None:
    boxes = np.array([[0, 0, 8, 8], [2, 0, 10, 8], [0, 2, 8, 10], [30, 0, 38, 8]], np.float32)
    scores = np.array([0.8, 0.4, 0.3, 0.41], np.float32)
    merged, best = merge(boxes, scores, score=0.5, iou=0.45)
    np.testing.assert_allclose(merged, [[2 / 3, 0, 8 + 2 / 3, 8]], rtol=1e-6)  # two votes of the first, one of the second
    np.testing.assert_allclose(best, [6 / 7], rtol=1e-6)  # odds of 4 to 1, one and a half times


@pytest.mark.parametrize(("boxes", "odds"), [(1, 0.25), (2, 0.5), (4, 1), (5, 1)])
def test_each_vote_up_to_four_raises_the_odds(boxes: int, odds: float) -> None:
    found, best = merge(np.tile(np.array([[0, 0, 8, 8]], np.float32), (boxes, 1)), np.full(boxes, 0.2, np.float32), score=0.0, iou=0.45)
    np.testing.assert_allclose(best, [odds / (1 + odds)], rtol=1e-6)
    assert found.tolist() == [[0, 0, 8, 8]]


def test_votes_bring_a_face_before_a_surer_box_that_stands_alone() -> None:
    boxes = np.array([[0, 0, 8, 8], [20, 0, 28, 8], [20, 0, 28, 8]], np.float32)
    scores = np.array([0.6, 0.5, 0.5], np.float32)
    merged, best = merge(boxes, scores, score=0.0, iou=0.45)
    assert merged[:, 0].tolist() == [20, 0]
    np.testing.assert_allclose(best, [2 / 3, 0.6], rtol=1e-6)
    assert merge(boxes, scores, score=0.65, iou=0.45)[0][:, 0].tolist() == [20]  # though no box is as sure as that


@given(st.integers(0, 30), st.sampled_from([0.0, 0.3, 0.45, 1.0]), st.sampled_from([0.0, 0.1, 0.4, 0.81]), st.integers(0, 2**32 - 1))
def test_a_face_is_what_it_is_whatever_the_lowest_score(count: int, threshold: float, score: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 20, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(1, 20, (count, 2))], 1).astype(np.float32)
    scores = (rng.integers(1, 9, count) / 9).astype(np.float32)
    (everything, sure), (found, best) = (merge(boxes, scores, score=least, iou=threshold) for least in (0.0, score))
    np.testing.assert_allclose(found, everything[sure >= np.float32(score)], rtol=1e-6)
    assert best.tolist() == sure[sure >= np.float32(score)].tolist()
    assert (np.diff(sure) <= 0).all() and len(sure) == len(nms(boxes, scores, threshold=threshold))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (PHOTO[:, :, 0], r"expected a picture \(h, w, 3\) uint8 RGB, found \(100, 160\) uint8"),
        (PHOTO / 255, "found .* float64"),
        ("photo.jpg", "expected a picture"),
        (Image.new("I;16", (160, 100)), "8 bits, found mode I;16"),
        (PHOTO[:50], r"\(50, 160, 3\) is not of the size of the photo, \(100, 160, 3\)"),
    ],
)
def test_what_cannot_be_drawn_on(picture: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        FACES.plot(picture)  # type: ignore[arg-type]


def test_a_picture_that_lies_on_its_side_is_drawn_upright() -> None:
    lying = Image.fromarray(np.rot90(PHOTO).copy())
    lying.getexif()[0x0112] = 6  # the top is at the right
    assert (np.asarray(FACES.plot(lying)) == np.asarray(FACES.plot())).all()


def test_a_margin_is_a_number() -> None:
    with pytest.raises(ValueError, match="finite"):
        FACES.crops(float("nan"))


def test_the_oldest_pillow_that_is_promised_has_what_is_used() -> None:
    """Fonts of any size and `has_transparency_data` came with Pillow 10.1."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    (pillow,) = (one for one in project["dependencies"] if one.startswith("Pillow"))
    version = re.fullmatch(r"Pillow>=(\d+)\.(\d+)", pillow)
    assert version is not None and (int(version[1]), int(version[2])) >= (10, 1)
