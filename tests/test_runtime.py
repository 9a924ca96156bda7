"""What a detector checks before the core runs."""

from __future__ import annotations

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


def test_nothing_found_is_empty(path: Path) -> None:
    found = Detector(path).detect(PHOTO, score=1.0)
    assert isinstance(found, Detections) and len(found) == 0 and found.xyxy.shape == (0, 4)


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
