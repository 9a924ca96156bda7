"""What a detector checks before the core runs."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from random_models import input_map, small_model

from dupnet import Detections, Detector, packed, reference, zoo
from dupnet.errors import ImageError, ModelFileError, SpecError

PHOTO = input_map(np.random.default_rng(0), 30, 40)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runtime") / "small.dnet"
    packed.save(small_model(), path)
    return path


def test_what_it_knows(path: Path) -> None:
    detector = Detector(path)
    assert (detector.name, detector.default_size, detector.default_score, detector.stride) == ("random", 64, 0.5, 2)
    assert repr(detector) == "Detector('random', size=64, score=0.50)"


def test_defaults_and_kinds_of_photo(path: Path) -> None:
    detector, expected = Detector(str(path), threads=2), reference.detect(small_model(), PHOTO)
    assert len(expected) > 3
    for photo in (PHOTO, np.asfortranarray(PHOTO), Image.fromarray(PHOTO)):
        found = detector.detect(photo)
        np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=1e-3)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
        assert found.image is not None and found.image.shape == (30, 40, 3)


def test_by_rows_it_finds_the_same(path: Path) -> None:
    expected = Detector(path).detect(PHOTO, size=80, score=0.3)
    by_rows = Detector(path, memory="rows")
    assert len(expected) > 3
    for photo in (PHOTO, np.asfortranarray(PHOTO), Image.fromarray(PHOTO)):
        found = by_rows.detect(photo, size=80, score=0.3)
        assert np.array_equal(found.xyxy, expected.xyxy) and np.array_equal(found.scores, expected.scores)
        assert found.image is not None
    with pytest.raises(ValueError, match="memory must be one of maps, rows, not 'row'"):
        Detector(path, memory="row")


def test_rows_of_a_camera(path: Path) -> None:
    detector = Detector(path)
    expected = detector.detect(PHOTO, score=0.3)
    stream = detector.stream(40, 30, score=0.3)
    stream.feed(PHOTO[0])
    stream.feed(PHOTO[1:3])
    for wrong in (PHOTO[3:4, :39], PHOTO[3:4, :, :2], PHOTO[3:4].astype(np.int16), PHOTO[3].ravel()):
        with pytest.raises(ValueError, match=r"rows of this photo are \(n, 40, 3\) uint8"):
            stream.feed(wrong)
    with pytest.raises(ValueError, match="more rows than were fed"):
        stream.end()
    stream.feed(np.asfortranarray(PHOTO[3:]))
    found = stream.end()
    assert np.array_equal(found.xyxy, expected.xyxy) and np.array_equal(found.scores, expected.scores)
    with pytest.raises(ValueError, match="has ended"):
        stream.feed(PHOTO[0])
    for width, height in ((0, 30), (40, 16385), (40.0, 30)):
        with pytest.raises(ValueError, match="sides of a photo"):
            detector.stream(width, height)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size must be"):
        detector.stream(40, 30, size=31)


def test_nothing_found_is_empty(path: Path) -> None:
    found = Detector(path).detect(PHOTO, score=1.0)
    assert isinstance(found, Detections) and len(found) == 0 and found.xyxy.shape == (0, 4)


def test_it_travels_to_other_processes_and_folders(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    expected = Detector(path).detect(PHOTO)
    detector = Detector(path.name, threads=2, memory="rows")
    parcel = pickle.dumps(detector)
    monkeypatch.chdir(tmp_path)
    for other in (pickle.loads(parcel), copy.deepcopy(detector)):
        assert (other.name, other._threads, other._by_rows) == ("random", 2, True)
        assert np.array_equal(other.detect(PHOTO).xyxy, expected.xyxy)
    detector.default_score = 0.9
    assert copy.copy(detector).default_score == 0.9


@pytest.mark.parametrize("options", [{"size": 31}, {"size": 8193}, {"size": 64.0}, {"score": 1.1}, {"score": float("nan")}, {"iou": -0.1}])
def test_options_out_of_range(path: Path, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        Detector(path).detect(PHOTO, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, 257, 1.5])
def test_threads_out_of_range(path: Path, threads: int) -> None:
    with pytest.raises(ValueError, match="threads must be 1 to 256"):
        Detector(path, threads=threads)


def test_models_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="unheard-of"):
        Detector("unheard-of")
    with pytest.raises(ModelFileError, match="cannot be read"):
        Detector(str(tmp_path))
    with pytest.raises(ModelFileError, match="cannot be read"):
        Detector("a\0b.dnet")


def test_a_file_of_any_name_in_the_current_folder(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("face.bin").write_bytes(path.read_bytes())
    assert Detector("face.bin").name == "random"
    Path("face.bin").write_bytes(b"something else" * 4)
    with pytest.raises(ModelFileError, match="^face.bin: magic is b'some', expected b'DNET'"):
        Detector("face.bin")


def test_what_ships_comes_before_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in zoo.model_names():
        Path(name).mkdir()
        assert zoo.model_path(name).parent != Path(".")


def test_maps(path: Path) -> None:
    detector = Detector(path)
    pixels = PHOTO[:, :38]
    for a, b in zip(detector.maps(pixels), reference.run(small_model(), pixels), strict=True):
        assert np.array_equal(a, b)
    for wrong in (PHOTO[:29], PHOTO[:, :, :2], PHOTO.astype(np.float32), PHOTO[:0]):
        with pytest.raises(ValueError, match="input map"):
            detector.maps(wrong)
    with pytest.raises(ImageError):
        detector.detect(PHOTO[:0])
