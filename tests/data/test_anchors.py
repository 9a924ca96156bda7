"""Anchors by k-means."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from dupnet import cli
from dupnet.data.anchors import cluster, shape_iou
from dupnet.errors import DataError


def test_shape_iou_by_hand() -> None:
    found = shape_iou(np.array([[2.0, 2.0]]), np.array([[2.0, 2.0], [1.0, 4.0], [4.0, 4.0]]))
    np.testing.assert_allclose(found, [[1, 2 / 6, 4 / 16]])


def test_separated_clusters_are_found() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[10.0, 12.0], [40.0, 50.0], [120.0, 160.0]])
    sizes = np.concatenate([centre * rng.uniform(0.9, 1.1, (200, 2)) for centre in centres])
    rng.shuffle(sizes)
    anchors, overlap = cluster(sizes, 3)
    np.testing.assert_allclose(anchors, centres, rtol=0.02)
    assert overlap > 0.85


def test_the_order_of_the_boxes_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    sizes = np.exp(rng.normal(3, 1, (500, 2)))
    np.testing.assert_allclose(cluster(sizes, 5)[0], cluster(sizes[::-1], 5)[0])


@pytest.mark.parametrize(("sizes", "message"), [(np.ones((2, 2)), "at least as many"), (np.array([[1.0, 0.0]] * 6), "above 0")])
def test_impossible_boxes(sizes: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        cluster(sizes, 3)


@pytest.fixture
def folder(tiny_wider: Path, tmp_path: Path) -> Path:
    """A data set to write into."""
    return Path(shutil.copytree(tiny_wider, tmp_path / "faces"))


def test_the_verb(folder: Path) -> None:
    result = CliRunner().invoke(cli.main, ["anchors", "--data", str(folder), "--count", "2", "--size", "128"])
    assert result.exit_code == 0 and result.stdout.splitlines()[1].startswith("anchors = [[")
    halved = CliRunner().invoke(cli.main, ["anchors", "--data", str(folder), "--count", "1", "--size", "64"])
    assert halved.exit_code == 0 and "faces of" in halved.stdout and "at 64 pixels" in halved.stdout


def test_the_verb_reports_a_broken_photo(folder: Path) -> None:
    photo = folder / "WIDER_train" / "images" / "0--Discs" / "3.png"
    photo.write_bytes(b"not a photo")
    result = CliRunner().invoke(cli.main, ["anchors", "--data", str(folder)])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
    assert result.stderr.startswith("dupnet: error: ") and str(photo) in result.stderr


def test_the_verb_reports_that_there_are_no_faces(tmp_path: Path) -> None:
    (tmp_path / "WIDER_train" / "images").mkdir(parents=True)
    (tmp_path / "wider_face_split").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "WIDER_train" / "images" / "a.png")
    annotations = tmp_path / "wider_face_split" / "wider_face_train_bbx_gt.txt"
    for text in ("a.png\n0\n", "a.png\n1\n1 2 0.1 0.1\n"):
        annotations.write_text(text)
        result = CliRunner().invoke(cli.main, ["anchors", "--data", str(tmp_path)])
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit), result.exception
        assert "the train split holds no face of 8 pixels or more" in result.stderr
