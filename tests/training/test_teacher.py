"""A teacher's boxes: which become faces, which are ignored, and what the labels keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dupnet.data import wider
from dupnet.data.sample import Sample
from dupnet.detections import Detections
from dupnet.errors import DataError, SpecError
from dupnet.evaluation import predictions
from dupnet.training import recipe as recipes
from dupnet.training.loop import Run, Trainer
from dupnet.training.teacher import Teacher, combine, read, relabel

LABELS = Sample("e/a.jpg", np.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 60, 20]]), np.array([False, False, True]))
#                  on the first label    half sure, free    sure, free       in the ignore region   hopeless
BOXES = np.array([[1.0, 0, 10, 10], [70, 0, 80, 10], [90, 0, 99, 10], [42, 2, 50, 9], [110, 0, 120, 10]])
SCORES = np.array([0.9, 0.5, 0.7, 0.95, 0.1])


def split(sample: Sample) -> tuple[list[list[float]], list[list[float]]]:
    return sample.boxes[~sample.ignore].tolist(), sample.boxes[sample.ignore].tolist()


def test_adding_keeps_the_labels() -> None:
    faces, ignored = split(combine(LABELS, BOXES, SCORES, Teacher()))
    assert faces == [[0, 0, 10, 10], [20, 0, 30, 10], [90, 0, 99, 10]]
    assert ignored == [[40, 0, 60, 20], [70, 0, 80, 10]]


def test_replacing_takes_the_teachers_word_and_doubts_what_it_did_not_see() -> None:
    faces, ignored = split(combine(LABELS, BOXES, SCORES, Teacher(use="replace")))
    assert faces == [[1, 0, 10, 10], [90, 0, 99, 10]]
    assert ignored == [[70, 0, 80, 10], [20, 0, 30, 10], [40, 0, 60, 20]]


@pytest.mark.parametrize("use", ["add", "replace"])
def test_a_teacher_who_sees_nothing(use: str) -> None:
    faces, ignored = split(combine(LABELS, np.zeros((0, 4)), np.zeros(0), Teacher(use=use)))  # type: ignore[arg-type]
    assert (len(faces), len(ignored)) == ((2, 1) if use == "add" else (0, 3))


def test_the_thresholds_are_inclusive() -> None:
    box = np.array([[70.0, 0, 80, 10]])
    for score, kind in ((0.6, [False]), (0.3, [True]), (0.59, [True]), (0.29, [])):
        assert combine(Sample("a", np.zeros((0, 4)), np.zeros(0, bool)), box, np.array([score]), Teacher()).ignore.tolist() == kind


def test_trees_and_arrays_say_the_same(tmp_path: Path) -> None:
    photos = ["e/a.jpg", "e/b.jpg"]
    predictions.write_wider(tmp_path / "tree", photos, [Detections(BOXES, SCORES), Detections([], [])])
    np.savez(tmp_path / "some.npz", photos=photos[::-1], start=[0, 0, 5], boxes=BOXES.astype(np.float32), scores=SCORES)
    for path in (tmp_path / "tree", tmp_path / "some.npz"):
        (boxes, scores), (none, _) = read(path, photos)
        assert sorted(boxes.tolist()) == sorted(BOXES.tolist()) and len(none) == 0
        np.testing.assert_allclose(sorted(scores), sorted(SCORES), rtol=1e-6)
    with pytest.raises(DataError, match="1 of 2 photos are missing, such as 'e/c.jpg'"):
        read(tmp_path / "some.npz", ["e/a.jpg", "e/c.jpg"])
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="bad.npz: cannot be read"):
        read(tmp_path / "bad.npz", photos)
    np.savez(tmp_path / "torn.npz", photos=photos, start=[0, 3, 9], boxes=BOXES, scores=SCORES)
    with pytest.raises(DataError, match="do not fit together"):
        read(tmp_path / "torn.npz", photos)
    np.savez(tmp_path / "late.npz", photos=photos, start=[1, 3, 5], boxes=BOXES, scores=SCORES)
    with pytest.raises(DataError, match="do not fit together"):
        read(tmp_path / "late.npz", photos)
    np.savez(tmp_path / "back.npz", photos=[*photos, "e/c.jpg"], start=np.array([0, 5, 3, 5], np.uint64), boxes=BOXES, scores=SCORES)
    with pytest.raises(DataError, match="do not fit together"):
        read(tmp_path / "back.npz", photos)
    np.savez(tmp_path / "text.npz", photos=photos, start=[0, 3, 5], boxes=np.full(BOXES.shape, "far"), scores=SCORES)
    np.savez(tmp_path / "nan.npz", photos=photos, start=[0, 3, 5], boxes=BOXES * np.nan, scores=SCORES)
    with pytest.raises(DataError, match="must be finite"):
        read(tmp_path / "nan.npz", photos)
    (tmp_path / "empty.npz").touch()
    np.save(tmp_path / "array.npy", BOXES)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    np.savez_compressed(tmp_path / "damaged.npz", photos=photos, start=[0, 3, 5], boxes=BOXES, scores=SCORES)
    whole = bytearray((tmp_path / "damaged.npz").read_bytes())
    whole[len(whole) // 3] ^= 0xFF
    (tmp_path / "damaged.npz").write_bytes(whole)
    for name in ("empty", "array", "damaged", "text"):
        with pytest.raises(DataError, match=f"{name}.npz: cannot be read"):
            read(tmp_path / f"{name}.npz", photos)


def test_a_rule_that_contradicts_itself_is_told() -> None:
    with pytest.raises(SpecError, match="half must not be above sure"):
        Teacher(half=0.7)
    with pytest.raises(SpecError, match="overlap must be above 0"):
        Teacher(overlap=0.0)


def test_a_recipe_names_its_teacher(tiny_wider: Path, tmp_path: Path) -> None:
    samples, _ = wider.split(tiny_wider, "train")
    predictions.write_wider(tmp_path / "tree", [s.photo for s in samples], [Detections([[0, 0, 9, 9]], [0.99])] * len(samples))
    recipe = replace(recipes.load("first-light"), teacher=Teacher(str(tmp_path / "tree")))
    assert recipes.from_dict(recipes.to_dict(recipe)) == recipe
    seen = Trainer(recipe, Run(tiny_wider, tmp_path / "run", workers=0)).crops.photos.samples
    for before, after in zip(samples, seen):
        assert len(after.boxes) == len(before.boxes) + 1 and after.boxes[-1].tolist() == [0, 0, 9, 9]
    assert relabel(samples, Teacher(), tiny_wider) == samples


def test_only_some_folders_and_a_file_beside_the_photos(tmp_path: Path) -> None:
    """Photos of other folders need not be in the teacher's file, which is looked for in the photo set, too."""
    samples = [Sample(f"{top}/a.jpg", LABELS.boxes, LABELS.ignore) for top in ("loose", "tight")]
    np.savez(tmp_path / "t.npz", photos=["loose/a.jpg"], start=[0, 1], boxes=[[1, 0, 10, 10]], scores=[0.9])
    teacher = Teacher("t.npz", use="replace", folders=("loose",))
    loose, tight = relabel(samples, teacher, tmp_path)
    assert split(loose) == ([[1, 0, 10, 10]], [[20, 0, 30, 10], [40, 0, 60, 20]])
    assert tight is samples[1]
    with pytest.raises(DataError, match=r"no photo lies in lose; there are loose, tight"):
        relabel(samples, replace(teacher, folders=("lose",)), tmp_path)
    with pytest.raises(DataError, match=r"elsewhere.npz: cannot be read"):
        relabel(samples, replace(teacher, detections="elsewhere.npz"), tmp_path)


@pytest.mark.shared
def test_the_teacher_of_the_shared_photos(data_set: Callable[[str], Path]) -> None:
    faces = data_set("faces")
    samples, _ = wider.split(faces, "train")
    added = relabel(samples, Teacher("teacher_centerface.npz", sure=0.5), faces)
    new = sum(int((~after.ignore).sum()) - int((~before.ignore).sum()) for before, after in zip(samples, added))
    assert 200 < new < 600  # the data set's description counts 336 boxes above 0.5 that the labels neither have nor ignore
