"""FDDB's protocol: its rules written out as loops, files as people have them, and the official program's curves."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dupnet.data import fddb as annotations
from dupnet.data.fddb import FddbPhoto
from dupnet.errors import DataError
from dupnet.evaluation import fddb, predictions

SIZE = (120, 160)


def scene(seed: int, *, columns: int, photos: int = 10) -> tuple[list[FddbPhoto], list[tuple[int, int]], list[np.ndarray]]:
    """Faces that touch each other, and detections about them with few different scores, some of them far off."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 5, 12).round(2)
    faces, found = [], []
    for number in range(photos):
        ellipses = np.concatenate([rng.uniform(5, 30, (3, 2)), rng.uniform(-1.5, 1.5, (3, 1)), rng.uniform(20, 90, (3, 2))], axis=1)
        ellipses = ellipses[: rng.integers(0, 4)]
        near = np.repeat(ellipses, 3, axis=0)
        if columns == 5:
            near = np.stack([near[:, 3] - near[:, 1], near[:, 4] - near[:, 0], 2 * near[:, 1], 2 * near[:, 0]], axis=1)
        far = rng.uniform(0, 40, (2, columns - 1))
        rows = np.concatenate([near + rng.normal(0, 4, near.shape) * (near > 2), far])
        rows[:, :2] = np.maximum(rows[:, :2], 0)
        rows = np.concatenate([rows, rng.choice(scores, (len(rows), 1))], axis=1)
        rng.shuffle(rows)
        faces.append(FddbPhoto(f"a/{number}", number + 1, ellipses))
        found.append(rows[: rng.integers(0, len(rows) + 1)])
    return faces, [SIZE] * photos, found


def overlaps(photo: FddbPhoto, rows: np.ndarray) -> np.ndarray:
    return fddb.overlap_tables([photo.ellipses], [SIZE], [rows])[0]


def official(photos: list[FddbPhoto], found: list[np.ndarray]) -> list[tuple[float, int, float, int]]:
    """The official program's loops: threshold, true positives, sum of overlaps, false positives of each row."""
    merged: list[tuple[float, int, float, int]] | None = None
    for photo, rows in zip(photos, found):
        table = overlaps(photo, rows)
        results = []
        for threshold in sorted(set(rows[:, -1])) or [np.finfo(float).max]:
            valid = [j for j in range(len(rows)) if rows[j, -1] >= threshold]
            best, hits = 0.0, 0
            slots = [*valid, *[None] * len(photo.ellipses)]
            for choice in set(itertools.permutations(slots, len(photo.ellipses))):
                pairs = [table[i, j] for i, j in enumerate(choice) if j is not None]
                if sum(pairs) > best + 1e-12:
                    best, hits = sum(pairs), sum(overlap > 0.5 for overlap in pairs)
            results.append((threshold, hits, best, len(valid) - hits))
        if merged is None:
            merged = results
            continue
        both, i, j = [], 0, 0
        while i < len(merged) or j < len(results):
            one, two = merged[i] if i < len(merged) else None, results[j] if j < len(results) else None
            rest = [row for row in (one, two) if row]
            both.append((min(row[0] for row in rest), *(sum(row[k] for row in rest) for k in (1, 2, 3))))
            i, j = i + (one is not None and one[0] == both[-1][0]), j + (two is not None and two[0] == both[-1][0])
        merged = both
    assert merged is not None
    return merged


@pytest.mark.parametrize(("seed", "columns"), [(0, 5), (1, 5), (2, 6)])
def test_equal_to_the_official_loops(seed: int, columns: int, tmp_path: Path) -> None:
    photos, sizes, found = scene(seed, columns=columns, photos=8)
    found[2] = found[2][:0]  # nothing found: one more row
    found = [rows[:6] for rows in found]  # the loops try all permutations
    scores = fddb.score(photos, sizes, found)
    rows = official(photos, found)
    assert scores.has_empty and rows[-1] == (np.finfo(float).max, 0, 0, 0)
    assert scores.thresholds.tolist() == [row[0] for row in rows[:-1]]
    assert scores.true_positives.tolist() == [row[1] for row in rows[:-1]]
    assert scores.false_positives.tolist() == [row[3] for row in rows[:-1]]
    assert np.allclose(scores.overlaps, [row[2] for row in rows[:-1]], rtol=0, atol=1e-12)
    assert 0 < scores.true_positives.max() < scores.faces

    fddb.write_curves(scores, tmp_path)
    discrete = [f"{hits / scores.faces:g} {misses} {limit:g}" for limit, hits, _, misses in rows]
    assert (tmp_path / "DiscROC.txt").read_text().splitlines() == discrete
    assert len((tmp_path / "ContROC.txt").read_text().splitlines()) == len(rows)


def test_matches_of_growing_sets_equal_each_solved_anew() -> None:
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(1)
    for _ in range(60):
        faces, detections = rng.integers(2, 6), rng.integers(1, 30)
        table = rng.random((faces, detections)) * (rng.random((faces, detections)) < rng.uniform(0.1, 1))
        hits, total = fddb._best_matches(table)
        for n in range(1, detections + 1):
            match = table[:, :n][linear_sum_assignment(table[:, :n], maximize=True)]
            assert hits[n - 1] == (match > 0.5).sum() and total[n - 1] == pytest.approx(match.sum(), abs=1e-12)


def one_face() -> FddbPhoto:
    return FddbPhoto("a/b", 1, np.array([[30.0, 20, 0.0, 80, 60]]))


def test_a_match_of_one_half_is_a_false_positive() -> None:
    inside = [60.0, 50, 40, 20, 0.9]
    table = overlaps(one_face(), np.array([inside]))
    scores = fddb.score([one_face()], [SIZE], [np.array([inside])])
    assert 0.3 < table[0, 0] <= 0.5
    assert (scores.true_positives[0], scores.false_positives[0], scores.overlaps[0]) == (0, 1, table[0, 0])


def test_the_sum_of_overlaps_decides_not_the_best_pair() -> None:
    # Greedy matching would give the first face the detection between both, and the second face nothing.
    pair = FddbPhoto("a/b", 1, np.array([[20.0, 20, 0.0, 60, 60], [20, 20, 0.0, 84, 60]]))
    between, left = [52.0, 42, 36, 36, 0.9], [36.0, 40, 36, 40, 0.8]
    scores = fddb.score([pair], [SIZE], [np.array([between, left])])
    table = overlaps(pair, np.array([between, left]))
    assert table[0, 0] > table[1, 0] > 0 and table[0, 1] > 0
    assert scores.overlaps.tolist() == [pytest.approx(table[1, 0] + table[0, 1]), table[0, 0]]


def test_rates_at_a_number_of_false_positives() -> None:
    face = one_face()
    hit, miss = [60.0, 35, 40, 50, 0.5], [0.0, 0, 9, 9, 0.7]
    scores = fddb.score([face] * 4, [SIZE] * 4, [np.array([hit]), np.array([hit, miss]), np.array([miss, miss]), np.zeros((0, 5))])
    assert scores.thresholds.tolist() == [0.5, 0.7] and scores.false_positives.tolist() == [3, 3]
    assert scores.discrete_rate(3) == 2 / 4 and scores.discrete_rate(2.9) == 0
    assert scores.continuous_rate() == pytest.approx(2 * overlaps(face, np.array([hit]))[0, 0] / 4)


def test_nothing_found_at_all(tmp_path: Path) -> None:
    scores = fddb.score([one_face()], [SIZE], [np.zeros((0, 5))])
    fddb.write_curves(scores, tmp_path)
    assert (tmp_path / "DiscROC.txt").read_text() == "0 0 1.79769e+308\n"
    assert (tmp_path / "ContROC.txt").read_text() == "0 0\n"
    assert scores.discrete_rate() == scores.continuous_rate() == 0


@pytest.fixture
def tiny_fddb(tmp_path: Path) -> Path:
    """Ten folds of two photos, with sizes."""
    root = tmp_path / "fddb"
    (root / "FDDB-folds").mkdir(parents=True)
    lines = ["image,width,height"]
    for fold in range(1, 11):
        names = [f"2002/big/img_{fold}{k}" for k in (0, 1)]
        faces = [f"{name}\r\n1\r\n30.5 20.5 1.2 80.25 60.5  1\r\n" for name in names]
        (root / "FDDB-folds" / f"FDDB-fold-{fold:02d}-ellipseList.txt").write_text("".join(faces))
        lines += [f"{name},160,120" for name in names]
    (root / "image_sizes.csv").write_text("\n".join(lines) + "\n")
    return root


def test_files_as_people_have_them(tiny_fddb: Path, tmp_path: Path) -> None:
    photos = annotations.read(tiny_fddb)
    sizes = annotations.sizes(tiny_fddb, photos)
    assert (
        len(photos) == 20
        and photos[2].fold == 2
        and set(sizes) == {SIZE}
        and photos[0].ellipses.tolist() == [[30.5, 20.5, 1.2, 80.25, 60.5]]
    )
    rng = np.random.default_rng(0)
    found = [rng.normal(20, 9, (rng.integers(0, 3), 5)) for _ in photos]
    predictions.write_fddb(tmp_path / "folds", photos, found)
    again = predictions.read_fddb(tmp_path / "folds", photos)
    assert all(np.array_equal(one, two) for one, two in zip(found, again)), "no digit is lost"

    text = "".join((tmp_path / "folds" / f"fold-{fold:02d}-out.txt").read_text() for fold in range(1, 11))
    (tmp_path / "all.txt").write_text("\ufeff" + text.replace("\n", "\r\n").replace("img_10\r", "img_10.jpg\r") + "\r\n\r\n", newline="")
    (tmp_path / "det").mkdir()
    for fold in range(1, 11):
        (tmp_path / "folds" / f"fold-{fold:02d}-out.txt").rename(tmp_path / "det" / f"FDDB-det-fold-{fold:02d}.txt")
    (tmp_path / "det" / "DiscROC.txt").write_text("0 0 1.79769e+308\n")
    for path in (tmp_path / "all.txt", tmp_path / "det"):
        assert all(np.array_equal(one, two) for one, two in zip(found, predictions.read_fddb(path, photos)))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("2002/big/img_10\n", "2002/big/img_99\n", "1 of 20 photos are not of the benchmark, such as '2002/big/img_99'"),
        ("2002/big/img_10\n0\n", "", "1 of 20 photos are missing, such as '2002/big/img_10'"),
        ("2002/big/img_11\n", "2002/big/img_10\n", "is there twice"),
        ("img_10\n0\n", "img_10\nfew\n", "line 2: expected the number of boxes"),
        ("img_10\n0\n", "img_10\n1\n1 2 3 4 5\n1 2 3 4 5\n", "line 4: expected a photo's name, found '1 2 3 4 5'"),
        ("img_10\n0\n", "img_10\n1\n1 2 3 nan 5\n", "line 3: expected 'x y w h score'"),
        ("img_10\n0\n", "img_10\n1\n1 2 3 4\n", "line 3: expected 'x y w h score'"),
        ("img_10\n0\n", "img_10\n2\n1 2 3 4 5\n1 2 3 4 5 6\n", "line 4: expected"),
        ("img_10\n0\n", "img_10\n1\n-1 2 0 4 5 6\n", "negative radius"),
    ],
)
def test_wrong_detections_are_told(tiny_fddb: Path, tmp_path: Path, old: str, new: str, reason: str) -> None:
    photos = annotations.read(tiny_fddb)
    text = "".join(f"{photo.name}\n0\n" for photo in photos)
    (tmp_path / "d.txt").write_text(text.replace(old, new))
    with pytest.raises(DataError, match=reason):
        predictions.read_fddb(tmp_path / "d.txt", photos)


def test_wrong_annotations_are_told(tiny_fddb: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no FDDB-fold-NN-ellipseList.txt"):
        annotations.read(tmp_path)
    photos = annotations.read(tiny_fddb)
    (tiny_fddb / "image_sizes.csv").write_text("image,width,height\n")
    with pytest.raises(DataError, match="image_sizes.csv: the size of '2002/big/img_10' is missing"):
        annotations.sizes(tiny_fddb, photos)
    (tiny_fddb / "image_sizes.csv").unlink()
    with pytest.raises(DataError, match="neither image_sizes.csv nor the photos: expected .*originalPics/2002/big/img_10.jpg"):
        annotations.sizes(tiny_fddb, photos)
    (tiny_fddb / "FDDB-folds" / "FDDB-fold-07-ellipseList.txt").unlink()
    with pytest.raises(DataError, match="fold 7 is missing"):
        annotations.read(tiny_fddb)
    for fold in range(1, 11):
        (tiny_fddb / "FDDB-folds" / f"FDDB-fold-{fold:02d}-ellipseList.txt").write_text("2002/big/img_10\n0\n" if fold == 1 else "")
    with pytest.raises(DataError, match="the ellipse lists hold no face"):
        annotations.read(tiny_fddb)


@pytest.mark.shared
def test_the_official_curves_of_another_detector(data_set: Callable[[str], Path], tmp_path: Path) -> None:
    root = data_set("fddb")
    photos = annotations.read(root)
    scores = fddb.score(photos, annotations.sizes(root, photos), predictions.read_fddb(root / "check_mtcnn", photos))
    fddb.write_curves(scores, tmp_path)
    assert (scores.photos, scores.faces) == (2845, 5171)
    assert scores.discrete_rate() == pytest.approx(0.896345, abs=5e-7)
    for name in ("DiscROC.txt", "ContROC.txt"):
        assert (tmp_path / name).read_text() == (root / "check_mtcnn" / name).read_text()
