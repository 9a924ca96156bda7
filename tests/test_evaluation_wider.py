"""The WIDER FACE rules: cases counted by hand, the official loops written out, another detector's known scores."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, data_folder

from dupnet.data import wider as annotations
from dupnet.data.sample import Sample
from dupnet.detections import Detections
from dupnet.errors import DataError
from dupnet.evaluation import matching, wider
from dupnet.evaluation.outcome import NEVER, check_comparable

A, B, C, D = [10.0, 10, 30, 30], [50.0, 10, 70, 30], [90.0, 10, 110, 30], [130.0, 10, 134, 14]
NOWHERE = [200.0, 50, 220, 70]


def sample(photo: str, boxes: list[list[float]], ignore: tuple[int, ...] = ()) -> Sample:
    flags = np.zeros(len(boxes), bool)
    flags[list(ignore)] = True
    return Sample(photo, np.array(boxes, float).reshape(-1, 4), flags)


def found(*items: tuple[list[float], float]) -> Detections:
    return Detections([box for box, _ in items], [score for _, score in items])


def difficulty(**photos: tuple[list[int], list[int], list[int]]) -> dict[str, dict[str, list[int]]]:
    return {photo: dict(zip(wider.LEVELS, levels)) for photo, levels in photos.items()}


def test_an_official_step_lets_through_what_exact_scores_tell_apart() -> None:
    boxes = found((A, 1.0), (B, 0.50004), (NOWHERE, 0.50003), ([201.0, 50, 221, 70], 0.50002), (C, 0.0))
    scores = wider.score([sample("p", [A, B, C])], difficulty(p=([], [0, 1], [0, 1, 2])), [boxes])
    assert math.isnan(scores.exact_easy)
    assert scores.exact_medium == 1 and scores.ap_medium == pytest.approx(1 / 2 + 1 / 2 * 2 / 4)
    assert scores.exact_hard == pytest.approx(2 / 3 + 1 / 3 * 3 / 5) and scores.ap_hard == pytest.approx(1 / 3 + 2 / 3 * 3 / 5)
    assert scores.exact_all == scores.exact_hard


def test_one_photo_by_hand() -> None:
    # Score order: A found, miss, B found, A again (a false positive), D found.
    boxes = found((A, 1.0), (NOWHERE, 0.8), (B, 0.6), ([11.0, 10, 31, 30], 0.4), (D, 0.0))
    scores = wider.score([sample("p", [A, B, C, D])], difficulty(p=([0], [0, 1], [0, 1, 2])), [boxes])
    assert scores.ap_easy == 1  # B and D are not easy: their boxes do not count
    assert scores.ap_medium == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert scores.ap_hard == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    assert scores.ap_all == pytest.approx(1 / 4 * 1 + 1 / 4 * 2 / 3 + 1 / 4 * 3 / 5)
    assert scores.dr == 1 / 2  # before the first false positive; 0.1 a photo allow none here
    assert scores.photos == 1 and scores.inclusive


def test_invalid_faces_are_neither_found_nor_punished() -> None:
    boxes = found((C, 0.9), (A, 0.8), (NOWHERE, 0.1))
    scores = wider.score([sample("p", [A, B, C], ignore=(2,))], difficulty(p=([0], [0], [0])), [boxes])
    assert scores.ap_easy == 1 and scores.ap_all == 1 / 2


def test_a_box_looks_only_at_the_face_that_it_overlaps_most() -> None:
    near = [12.0, 10, 32, 30]
    boxes = found(([10.5, 10, 30.5, 30], 0.9), ([10.4, 10, 30.4, 30], 0.8))
    scores = wider.score([sample("p", [A, near])], difficulty(p=([0, 1], [0, 1], [0, 1])), [boxes])
    assert scores.ap_easy == pytest.approx(1 / 2), "the second box finds A again, not its neighbour"


def test_the_detection_rate_walks_exact_scores() -> None:
    # Ten photos allow one false positive. The fourth and fifth box have equal scores, so they pass together.
    samples = [sample(f"p{n}", [A, B]) for n in range(10)]
    table = difficulty(**{f"p{n}": ([], [0, 1], [0, 1]) for n in range(10)})
    empty = [Detections([], [])] * 8
    first = found((A, 0.9), (NOWHERE, 0.8000002), (B, 0.8))
    assert wider.score(samples, table, [first, found((A, 0.7), (NOWHERE, 0.7)), *empty]).dr == 2 / 20
    assert wider.score(samples, table, [first, found((A, 0.7), (NOWHERE, 0.69999)), *empty]).dr == 3 / 20
    assert math.isnan(wider.score(samples, table, [first, found(), *empty]).ap_easy), "no face is easy"


def test_photos_without_labels_allow_no_false_positives() -> None:
    # Nine photos with a label allow none, and those beside them, on which nothing is counted, none either.
    samples = [sample(f"p{n}", [A]) for n in range(9)] + [sample(f"q{n}", []) for n in range(5)]
    table = difficulty(**{f"p{n}": ([], [0], [0]) for n in range(9)})
    boxes = [found((A, 0.9), (NOWHERE, 0.8)), found((A, 0.7)), *[found()] * 12]
    assert wider.score(samples, table, boxes).dr == 1 / 9
    outcome = wider.outcome("d", samples, table, boxes)
    assert outcome.curve.best(outcome.allowed) == (1 / 9, pytest.approx(0.9)) and outcome.limit == pytest.approx(0.9)


def test_precision_is_read_at_a_thousand_thresholds() -> None:
    # 0.5004 and 0.5001 fall between the same two thresholds: the miss counts before the face.
    scores = np.array([1.0, 0.5004, 0.5001, 0.0])
    hits = np.array([True, True, False, False])
    precision, recall = matching.precision_recall(scores, np.ones(4, bool), hits, 2)
    assert matching.average_precision(precision, recall) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_scores_are_normalised_over_all_photos() -> None:
    samples, table = [sample("p", [A]), sample("q", [B])], difficulty(p=([0], [0], [0]), q=([0], [0], [0]))
    low = [found((A, 0.0209), (NOWHERE, 0.0201)), found((B, 0.0207))]  # no multiple of 0.001 lies between them
    assert wider.score(samples, table, low).ap_easy == 1


def test_the_lowest_score_is_looked_for_from_one_down() -> None:
    # From 1, B and the miss have 0.8007 and 0.8001 and pass a threshold together; from 1.5 they would have 0.6014 and 0.6002.
    boxes = found((A, 2.0), (B, 1.8007), (NOWHERE, 1.8001), (NOWHERE, 1.5))
    scores = wider.score([sample("p", [A, B])], difficulty(p=([0, 1], [0, 1], [0, 1])), [boxes])
    assert scores.ap_easy == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_decimal_labels_are_edges_and_whole_ones_pixels() -> None:
    face, box = [10.0, 10, 14, 14], [12.0, 10, 16, 14]  # overlap 2 of 6 columns as edges, 3 of 7 as pixels
    one, two = np.array([face]), np.array([box])
    assert matching.overlap(one, two, inclusive=False)[0, 0] == pytest.approx(1 / 3)
    assert matching.overlap(one, two, inclusive=True)[0, 0] == pytest.approx(3 / 7)
    assert not wider.score([sample("p", [[10.5, 10, 14, 14]])], difficulty(p=([0], [0], [0])), [found()]).inclusive


def test_nothing_found_and_photos_without_faces() -> None:
    samples, table = [sample("p", [A]), sample("q", [])], difficulty(p=([0], [0], [0]), q=([], [], []))
    nothing = wider.score(samples, table, [found(), found()])
    assert (nothing.ap_easy, nothing.ap_all, nothing.dr) == (0, 0, 0)
    both = wider.score(samples, table, [found((A, 0.5)), found((A, 0.9))])
    assert both.ap_easy == 1, "officially, boxes in a photo without labels do not count"


def official(samples: list[Sample], counts: list[np.ndarray], boxes: list[Detections]) -> float:
    """The published evaluation, loop by loop."""
    every = np.concatenate([faces.scores.astype(float) for faces in boxes])
    table, total = np.zeros((1000, 2)), 0
    for one, counted, faces in zip(samples, counts, boxes):
        total += counted.sum()
        if not len(one.boxes) or not len(faces):
            continue
        recalled, proposal, so_far = np.zeros(len(one.boxes)), np.ones(len(faces)), np.zeros(len(faces))
        for h, (x1, y1, x2, y2) in enumerate(faces.xyxy.astype(float)):
            overlaps = []
            for u1, v1, u2, v2 in one.boxes:
                w, h_ = min(x2, u2) - max(x1, u1) + 1, min(y2, v2) - max(y1, v1) + 1
                shared = w * h_ if w > 0 and h_ > 0 else 0
                overlaps.append(shared / ((x2 - x1 + 1) * (y2 - y1 + 1) + (u2 - u1 + 1) * (v2 - v1 + 1) - shared))
            nearest = int(np.argmax(overlaps))
            if overlaps[nearest] >= 0.5:
                if not counted[nearest]:
                    recalled[nearest], proposal[h] = -1, -1
                elif recalled[nearest] == 0:
                    recalled[nearest] = 1
            so_far[h] = (recalled == 1).sum()
        normal = (faces.scores.astype(float) - every.min()) / (every.max() - every.min())
        for t in range(1000):
            above = np.where(normal >= 1 - (t + 1) / 1000)[0]
            if len(above):
                table[t] += (proposal[: above[-1] + 1] == 1).sum(), so_far[above[-1]]
    precision, recall = table[:, 1] / np.maximum(table[:, 0], 1), table[:, 1] / total
    recall, precision = np.concatenate([[0], recall, [1]]), np.concatenate([[0], precision, [0]])
    for i in range(len(precision) - 1, 0, -1):
        precision[i - 1] = max(precision[i - 1], precision[i])
    steps = np.where(recall[1:] != recall[:-1])[0]
    return float(np.sum((recall[steps + 1] - recall[steps]) * precision[steps + 1]))


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_official_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples, boxes, table = [], [], {}
    for n in range(12):
        corner = rng.integers(0, 80, (rng.integers(0, 9), 2))
        faces = np.concatenate([corner, corner + rng.integers(4, 40, corner.shape)], 1).astype(float)
        guesses = np.concatenate([faces, faces, faces[::2]]) + rng.normal(0, 3, (2 * len(faces) + len(faces[::2]), 4))
        guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2])
        samples.append(Sample(f"p{n}", faces, rng.random(len(faces)) < 0.2))
        boxes.append(Detections(guesses, rng.beta(2, 2, len(guesses)).round(2)))
        table[f"p{n}"] = {
            level: np.flatnonzero(rng.random(len(faces)) < part).tolist() for level, part in zip(wider.LEVELS, (0.4, 0.6, 0.9))
        }
    scores = wider.score(samples, table, boxes)
    assert 0 < scores.ap_all < 1
    assert scores.ap_all == pytest.approx(official(samples, [~one.ignore for one in samples], boxes), abs=1e-12)
    for level, ap in zip(wider.LEVELS, (scores.ap_easy, scores.ap_medium, scores.ap_hard)):
        counts = [np.isin(np.arange(len(one.boxes)), table[one.photo][level]) for one in samples]
        assert ap == pytest.approx(official(samples, counts, boxes), abs=1e-12)


@pytest.fixture
def own_wider(tiny_wider: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(tiny_wider, tmp_path / "wider"))


def write_difficulty(root: Path, table: object) -> None:
    (root / "wider_face_split" / "val_difficulty.json").write_text(json.dumps(table))


def test_a_folder_from_end_to_end(own_wider: Path) -> None:
    samples, _ = annotations.split(own_wider, "val")
    write_difficulty(own_wider, {one.photo: dict.fromkeys(wider.LEVELS, [0]) for one in samples})
    order = iter(samples)

    def detect(photo: np.ndarray) -> Detections:
        assert photo.shape == (96, 128, 3) and photo.dtype == np.uint8
        return Detections(next(order).boxes, [0.9, 0.8])

    scores = wider.evaluate(detect, own_wider)
    assert (scores.ap_easy, scores.ap_all, scores.dr, scores.photos, scores.inclusive) == (1, 1, 1, 8, True)


def test_photos_are_not_kept(own_wider: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, _ = annotations.split(own_wider, "val")
    write_difficulty(own_wider, {one.photo: dict.fromkeys(wider.LEVELS, [0]) for one in samples})
    kept: list[Detections] = []
    score = wider.score
    monkeypatch.setattr(wider, "score", lambda samples, table, found: kept.extend(found) or score(samples, table, found))
    wider.evaluate(lambda photo: Detections([A], [0.5], photo), own_wider)
    assert len(kept) == 8 and all(len(faces) == 1 and faces.image is None for faces in kept)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({}, "difficulty of the faces in 0--Discs/0.png is not known"),
        ({"0--Discs/0.png": dict.fromkeys(wider.LEVELS, [0.5])}, "cannot be read: TypeError"),
        (
            {f"0--Discs/{n}.png": {"easy": [5], "medium": [], "hard": []} for n in range(8)},
            "2 faces are labelled, but easy are those from 5",
        ),
        ({"0--Discs/0.png": {"easy": []}}, "cannot be read: KeyError"),
        ([], "cannot be read"),
    ],
)
def test_wrong_difficulty_is_told(own_wider: Path, table: object, reason: str) -> None:
    write_difficulty(own_wider, table)
    with pytest.raises(DataError, match=reason):
        wider.evaluate(lambda photo: Detections([], []), own_wider)


def test_no_difficulty_is_told(own_wider: Path) -> None:
    with pytest.raises(DataError, match="neither .*train_difficulty.json nor .*wider_easy_train.mat"):
        wider.evaluate(lambda photo: Detections([], []), own_wider, split="train")


def test_where_the_optional_data_sets_are() -> None:
    assert data_folder({"DUPNET_DATA": "/somewhere/else"}) == Path("/somewhere/else")
    assert data_folder({}) == data_folder({"DUPNET_DATA": ""}) == ROOT.parent / "shared" / "data"


@pytest.mark.shared
def test_the_official_subsets(data_set: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    (tmp_path / "wider_face_split").symlink_to(data_set("wider") / "ground_truth")
    table = wider.read_difficulty(tmp_path)
    sizes = {level: sum(len(photo[level]) for photo in table.values()) for level in wider.LEVELS}
    assert min(min(photo["hard"], default=9) for photo in table.values()) == 0
    assert len(table) == 3226 and sizes == {"easy": 7211, "medium": 13319, "hard": 31958}


@pytest.mark.shared
def test_the_labels_themselves_score_full_marks(data_set: Callable[[str], Path]) -> None:
    folder = data_set("faces")
    samples, _ = annotations.split(folder, "val")
    boxes = [Detections(one.boxes, np.linspace(1, 0.9, len(one.boxes))) for one in samples]
    scores = wider.score(samples, wider.read_difficulty(folder), boxes)
    assert min(scores.ap_easy, scores.ap_medium, scores.ap_hard, scores.ap_all, scores.dr) > 0.999


def test_an_outcome_says_what_happened_to_each_face_and_box() -> None:
    # A is easy, B medium, C hard, D invalid. Medium faces lead; one photo allows no false positive.
    photo = sample("p", [A, B, C, D], ignore=(3,))
    boxes = found((A, 1.0), (C, 0.9), (NOWHERE, 0.8), (B, 0.6), ([11.0, 10, 31, 30], 0.4), (D, 0.3))
    result = wider.outcome("it", [photo], difficulty(p=([0], [0, 1], [0, 1, 2])), [boxes])
    assert result.detector == "it" and result.leading == "medium" and [curve.name for curve in result.curves] == [*wider.LEVELS, "all"]
    only = result.photos[0]
    assert only.valid.tolist() == [True, True, True, False] and only.counts.tolist() == [True, True, False, False]
    assert only.found_at == pytest.approx([1.0, 0.6, 0.9, NEVER])
    assert only.false_alarms.tolist() == [False, False, True, False, True, False]
    assert result.curve.hits.tolist() == [1, 1, 1, 2, 2, 2] and result.curve.false_positives.tolist() == [0, 0, 1, 1, 2, 2]
    assert result.limit == 1.0, "of two thresholds with equal recall, the higher"
    assert result.curve.best(1) == (1.0, pytest.approx(0.6)) and result.numbers["Detection rate at 0.1 per photo"] == 0.5


def test_an_outcome_without_medium_faces_is_led_by_all_faces() -> None:
    result = wider.outcome("it", [sample("p", [A])], difficulty(p=([], [], [])), [found()])
    assert result.leading == "all" and result.limit == math.inf and result.curve.best(9) == (0, math.inf)
    with pytest.raises(DataError, match="no photo of the data set holds a face"):
        wider.outcome("it", [sample("p", [A], ignore=(0,))], difficulty(p=([], [], [])), [found()])


def test_only_equal_faces_compare() -> None:
    one = wider.outcome("one", [sample("p", [A, B])], difficulty(p=([0], [0], [0])), [found()])
    two = wider.outcome("two", [sample("p", [A, B])], difficulty(p=([1], [1], [1])), [found()])
    check_comparable([one, replace(one, detector="other")])
    with pytest.raises(DataError, match="one and two were not measured on the same faces"):
        check_comparable([one, two])
    with pytest.raises(DataError, match="its own name"):
        check_comparable([one, one])
