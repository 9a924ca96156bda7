"""WIDER FACE from its `.mat` files and prediction trees: the published evaluation written out, from the same files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dupnet.cli import main
from dupnet.detections import Detections
from dupnet.errors import DataError
from dupnet.evaluation import predictions, wider

scipy_io = pytest.importorskip("scipy.io")

Tree = dict[str, np.ndarray]
"""Rows x y w h score of each photo."""


def cells(values: list[np.ndarray]) -> np.ndarray:
    """A column of MATLAB cells."""
    column = np.empty((len(values), 1), object)
    for number, value in enumerate(values):
        column[number, 0] = value
    return column


def write_mats(folder: Path, rng: np.random.Generator, events: dict[str, int]) -> Tree:
    """Ground truth as MATLAB saves it; returns the boxes, x y w h."""
    boxes = {
        f"{event}/{event}_{n}.jpg": rng.integers([0, 0, 3, 3], [80, 60, 40, 40], (int(rng.integers(0, 9)), 4)).astype(np.int32)
        for event, count in events.items()
        for n in range(count)
    }
    names = {event: [photo for photo in boxes if photo.startswith(event + "/")] for event in events}
    lists = {
        "event_list": cells([np.array([event]) for event in events]),
        "file_list": cells([cells([np.array([Path(photo).stem]) for photo in names[event]]) for event in events]),
    }

    def per_photo(entry: Callable[[str], np.ndarray]) -> np.ndarray:
        return cells([cells([entry(photo) for photo in names[event]]) for event in events])

    invalid = {photo: (rng.random((len(table), 1)) < 0.1).astype(np.uint8) for photo, table in boxes.items()}
    folder.mkdir(parents=True)
    labels = {"face_bbx_list": per_photo(lambda photo: boxes[photo]), "invalid_label_list": per_photo(lambda photo: invalid[photo])}
    scipy_io.savemat(folder / "wider_face_val.mat", {**lists, **labels})
    for level, part in (("easy", 0.3), ("medium", 0.5), ("hard", 0.9)):
        counts = {photo: np.flatnonzero(rng.random(len(table)) < part)[:, None] + 1 for photo, table in boxes.items()}
        scipy_io.savemat(folder / f"wider_{level}_val.mat", {**lists, "gt_list": per_photo(lambda photo, c=counts: c[photo])})
    return boxes


def guesses(boxes: Tree, rng: np.random.Generator, low: float = 0.0, high: float = 1.0) -> Tree:
    """Boxes near the faces and elsewhere, with a few equal scores, in no order."""
    result = {}
    for photo, table in boxes.items():
        near = np.concatenate([table, table[::2], table[::3]]).astype(float)
        rows = np.concatenate([near + rng.normal(0, 2, near.shape), rng.uniform(0, 40, (3, 4))])
        rows[:, 2:] = np.maximum(rows[:, 2:], 0.5)
        scores = low + (high - low) * rng.beta(1, 1, (len(rows), 1)).round(3)
        result[photo] = np.concatenate([rows, scores], axis=1)[: int(rng.integers(0, len(rows) + 1))]
    return result


def write_tree(tree: Path, found: Tree, end: str = "\n") -> None:
    for photo, rows in found.items():
        file = tree / Path(photo).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [Path(photo).stem, str(len(rows)), *(" ".join(map(repr, row)) for row in rows.tolist())]
        file.write_text(end.join(lines) + end, newline="")


def official(tree: Path, folder: Path) -> list[float]:
    """The published evaluation, loop by loop, from the files: average precision easy, medium, hard."""
    faces = scipy_io.loadmat(folder / "wider_face_val.mat")
    found, least, most = {}, 1.0, 0.0
    for file in sorted(tree.glob("*/*.txt")):
        lines = file.read_text().split("\n")[2:]
        rows = [[float(field) for field in line.split(" ")] for line in lines if line]
        rows.sort(key=lambda row: -row[4])
        found[file.parent.name, file.stem] = rows
        for row in rows:
            least, most = min(least, row[4]), max(most, row[4])
    result = []
    for level in ("easy", "medium", "hard"):
        indices = scipy_io.loadmat(folder / f"wider_{level}_val.mat")["gt_list"]
        total, table = 0, [[0, 0] for _ in range(1000)]
        for e in range(len(faces["event_list"])):
            event = faces["event_list"][e][0][0]
            for j in range(len(faces["file_list"][e][0])):
                rows = found[event, faces["file_list"][e][0][j][0][0]]
                boxes = faces["face_bbx_list"][e][0][j][0].astype(float)
                keep = indices[e][0][j][0].ravel()
                total += len(keep)
                if len(boxes) == 0 or len(rows) == 0:
                    continue
                counted = [n + 1 in keep for n in range(len(boxes))]
                taken, tries, hits, steps = [False] * len(boxes), 0, 0, []
                for x, y, w, h, score in rows:
                    best, nearest = -1.0, -1
                    for n, (u, v, p, q) in enumerate(boxes):
                        across = min(x + w, u + p) - max(x, u) + 1
                        down = min(y + h, v + q) - max(y, v) + 1
                        shared = across * down if across > 0 and down > 0 else 0.0
                        overlap = shared / ((w + 1) * (h + 1) + (p + 1) * (q + 1) - shared)
                        if overlap > best:
                            best, nearest = overlap, n
                    if best < 0.5:
                        tries += 1
                    elif counted[nearest]:
                        tries += 1
                        hits += not taken[nearest]
                        taken[nearest] = True
                    steps.append(((score - least) / (most - least), tries, hits))
                for t in range(1000):
                    above = [step for step in steps if step[0] >= 1 - (t + 1) / 1000]
                    if above:
                        table[t][0] += above[-1][1]
                        table[t][1] += above[-1][2]
        recall = [0.0, *(hits / total for _, hits in table), 1.0]
        precision = [0.0, *(hits / max(tries, 1) for tries, hits in table), 0.0]
        for i in range(len(precision) - 1, 0, -1):
            precision[i - 1] = max(precision[i - 1], precision[i])
        result.append(sum((recall[i + 1] - recall[i]) * precision[i + 1] for i in range(len(recall) - 1)))
    return result


def scored(*words: str | Path) -> dict[str, float]:
    done = CliRunner().invoke(main, ["wider-score", *map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.output))


@pytest.mark.parametrize(("seed", "low", "high"), [(0, 0, 1), (1, -3, 8), (2, 5, 90), (3, 0.2, 0.7)])
def test_equal_to_the_published_evaluation(tmp_path: Path, seed: int, low: float, high: float) -> None:
    rng = np.random.default_rng(seed)
    boxes = write_mats(tmp_path / "ground_truth", rng, {"0--Parade": 7, "1--Handshaking": 5, "2--Alone": 1})
    write_tree(tmp_path / "tree", guesses(boxes, rng, low, high))
    scores = scored(tmp_path / "tree", "--wider", tmp_path)
    assert scores["photos"] == scores["listed"] == 13 and scores["inclusive"]
    expected = official(tmp_path / "tree", tmp_path / "ground_truth")
    assert 0 < min(expected) < max(expected) < 1
    assert [scores["ap_easy"], scores["ap_medium"], scores["ap_hard"]] == pytest.approx(expected, abs=1e-12)
    assert scored(tmp_path / "tree", "--wider", tmp_path / "ground_truth")["ap_hard"] == scores["ap_hard"], "the mats' own folder will do"


def test_line_ends_and_order_do_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    boxes = write_mats(tmp_path / "ground_truth", rng, {"0--Parade": 6})
    found = guesses(boxes, rng)
    write_tree(tmp_path / "one", found)
    order = {photo: np.argsort(-rows[:, 4], kind="stable") for photo, rows in found.items()}
    write_tree(tmp_path / "two", {photo: rows[order[photo]] for photo, rows in found.items()}, end="\r\n")
    one, two = (scored(tmp_path / tree, "--wider", tmp_path) for tree in ("one", "two"))
    assert {**one, "detections": "", "seconds": 0} == {**two, "detections": "", "seconds": 0}


def test_a_part_of_the_photos(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    boxes = write_mats(tmp_path / "ground_truth", rng, {"0--Parade": 8})
    photos = sorted(boxes)[:5]
    write_tree(tmp_path / "tree", {photo: rows for photo, rows in guesses(boxes, rng).items() if photo in photos})
    wrong = CliRunner().invoke(main, ["wider-score", str(tmp_path / "tree"), "--wider", str(tmp_path)])
    assert wrong.exit_code == 1 and "3 of 8 photos are missing, such as" in wrong.output
    scores = scored(tmp_path / "tree", "--wider", tmp_path, "--subset")
    assert (scores["photos"], scores["listed"]) == (5, 8)

    # The same photos by a detector that gives the same boxes, on a folder that holds only them.
    for photo in photos:
        path = tmp_path / "WIDER_val" / "images" / photo
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (120, 100)).save(path)
    given = iter(predictions.read_wider(tmp_path / "tree", photos))
    rerun = wider.evaluate(lambda photo: next(given), tmp_path)  # type: ignore[arg-type,return-value]  # the boxes of a file
    assert rerun.photos == 5 and rerun.ap_hard == pytest.approx(scores["ap_hard"], abs=0.02)  # Detections are float32


def test_nothing_is_lost_in_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    corners = rng.uniform(0, 900, (40, 2)).astype(np.float32)
    found = [Detections(np.concatenate([corners, corners + rng.gamma(2, 9, (40, 2))], axis=1), rng.random(40)), Detections([], [])]
    photos = ["0--Parade/a.jpg", "1--B/sub.b.webp"]
    predictions.write_wider(tmp_path, photos, found)
    again = predictions.read_wider(tmp_path, photos)
    for one, two in zip(found, again):
        assert np.array_equal(one.xyxy.astype(np.float64), two.xyxy) and np.array_equal(one.scores.astype(np.float64), two.scores)
    assert (tmp_path / "1--B" / "sub.b.txt").read_text() == "sub.b\n0\n"
    assert (tmp_path / "0--Parade" / "a.txt").read_text().splitlines()[:2] == ["a", "40"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("other\n0\n", "expected the name of 0--Parade/a.jpg, found 'other'"),
        ("a\n2\n1 2 3 4 5\n", "line 4: expected 'x y w h score' of 'a', found 'the end of the file'"),
        ("a\n1\n1 2 3 4\n", "line 3: expected 'x y w h score'"),
        ("a\n1\n1 2 3 4 inf\n", "line 3: expected"),
        ("a\n", "line 2: expected the number of boxes of 'a', found 'the end of the file'"),
        ("", "expected the boxes of one photo, found those of 0"),
        ("a\n0\na\n0\n", "found those of 2"),
        ("0--Parade/a.jpg\r\n1\r\n1 2 3 4 0.5 99 98\r\n", None),
    ],
)
def test_wrong_files_are_told(tmp_path: Path, text: str, reason: str | None) -> None:
    (tmp_path / "0--Parade").mkdir()
    (tmp_path / "0--Parade" / "a.txt").write_text(text, newline="")
    if reason is None:
        [boxes] = predictions.read_wider(tmp_path, ["0--Parade/a.jpg"])
        assert boxes.xyxy.tolist() == [[1, 2, 4, 6]] and boxes.scores.tolist() == [0.5]
        return
    with pytest.raises(DataError, match=reason):
        predictions.read_wider(tmp_path, ["0--Parade/a.jpg"])


def test_a_damaged_mat_is_told(tmp_path: Path) -> None:
    write_mats(tmp_path / "ground_truth", np.random.default_rng(8), {"0--Parade": 2})
    (tmp_path / "ground_truth" / "wider_hard_val.mat").write_bytes(b"MATLAB 5.0 MAT-file, or not")
    with pytest.raises(DataError, match="wider_hard_val.mat: cannot be read"):
        wider.ground_truth(tmp_path)


@pytest.mark.shared
def test_the_official_ground_truth(data_set: Callable[[str], Path], tmp_path: Path) -> None:
    root = data_set("wider")
    samples, difficulty = wider.ground_truth(root)
    assert (len(samples), sum(len(one.boxes) for one in samples)) == (3226, 39708)
    assert [sum(len(levels[level]) for levels in difficulty.values()) for level in wider.LEVELS] == [7211, 13319, 31958]
    predictions.write_wider(
        tmp_path, [one.photo for one in samples], [predictions.Boxes(one.boxes, np.full(len(one.boxes), 0.5)) for one in samples]
    )
    scores = scored(tmp_path, "--wider", root)
    assert min(scores["ap_easy"], scores["ap_medium"], scores["ap_hard"]) > 0.99


def test_photos_that_would_share_a_file_are_refused(tmp_path: Path) -> None:
    photos, boxes = ["e/a.jpg", "e/a.png"], Detections([[1, 2, 3, 4]], [0.5])
    with pytest.raises(DataError, match="e/a.jpg and e/a.png would have the same prediction file"):
        predictions.write_wider(tmp_path, photos, [boxes, boxes])
    predictions.write_wider(tmp_path, photos[:1], [boxes])
    with pytest.raises(DataError, match="would have the same prediction file"):
        predictions.read_wider(tmp_path, photos)


def test_a_tree_and_a_table_without_photos_are_told(tiny_wider: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_wider / "wider_face_split", tmp_path / "wider_face_split")
    (tmp_path / "wider_face_split/val_difficulty.json").write_text("{}")
    (tmp_path / "tree").mkdir()
    done = CliRunner().invoke(main, ["wider-score", str(tmp_path / "tree"), "--wider", str(tmp_path), "--subset"])
    assert done.exit_code == 1 and "holds none of the 8 photos, such as" in done.output
