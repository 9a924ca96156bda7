"""The cache of decoded photos: same pixels, complete files only."""

import os
import pickle
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dupnet.data import photos, wider
from dupnet.data.photos import Photos
from dupnet.errors import DataError


def test_cached_pixels_are_the_decoded_ones(tiny_wider: Path, tmp_path: Path) -> None:
    samples, images = wider.split(tiny_wider, "train")
    plain, cached = Photos(samples, images), Photos(samples, images, tmp_path)
    assert len(cached) == 8
    assert all(np.array_equal(plain.pixels(n), cached.pixels(n)) for n in range(8))


def test_the_cache_is_built_once(tiny_wider: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, images = wider.split(tiny_wider, "train")
    Photos(samples, images, tmp_path)
    monkeypatch.setattr(photos, "_decode", lambda path: pytest.fail("decoded again"))
    Photos(samples, images, tmp_path).pixels(3)


def test_a_replaced_photo_is_decoded_anew(tiny_wider: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_wider, tmp_path / "data")
    samples, images = wider.split(tmp_path / "data", "train")
    Photos(samples, images, tmp_path / "cache")
    Image.new("RGB", (20, 10), (1, 2, 3)).save(images / samples[0].photo)
    assert Photos(samples, images, tmp_path / "cache").pixels(0).shape == (10, 20, 3)


def test_a_cache_that_lost_bytes_is_built_anew(tiny_wider: Path, tmp_path: Path) -> None:
    samples, images = wider.split(tiny_wider, "train")
    whole = Photos(samples, images, tmp_path).pixels(7).copy()
    (path,) = tmp_path.glob("*.u8")
    os.truncate(path, path.stat().st_size // 2)
    assert np.array_equal(Photos(samples, images, tmp_path).pixels(7), whole)
    path.with_suffix(".json").write_text("")
    assert np.array_equal(Photos(samples, images, tmp_path).pixels(7), whole)


def test_two_threads_build_one_cache(tiny_wider: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, images = wider.split(tiny_wider, "train")
    decode, both = photos._decode, threading.Barrier(2, timeout=10)

    def slowly(path: Path) -> NDArray[np.uint8]:
        both.wait()  # photo by photo, side by side
        return decode(path)

    monkeypatch.setattr(photos, "_decode", slowly)
    with ThreadPoolExecutor(2) as pool:
        caches = list(pool.map(lambda _: Photos(samples, images, tmp_path), range(2)))
    plain = Photos(samples, images)
    monkeypatch.undo()
    assert all(np.array_equal(cache.pixels(n), plain.pixels(n)) for cache in caches for n in range(8))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_cache_goes_to_other_processes_by_its_name(tiny_wider: Path, tmp_path: Path) -> None:
    cached = Photos(*wider.split(tiny_wider, "train"), tmp_path)
    sent = pickle.dumps(cached)
    assert len(sent) < 10_000 < next(tmp_path.glob("*.u8")).stat().st_size
    assert np.array_equal(pickle.loads(sent).pixels(3), cached.pixels(3))


def test_an_interrupted_build_leaves_nothing(tiny_wider: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, images = wider.split(tiny_wider, "train")
    decode, count = photos._decode, iter(range(100))

    def stop_at_the_third(path: Path) -> np.ndarray:
        if next(count) == 3:
            raise KeyboardInterrupt
        return decode(path)

    with monkeypatch.context() as patch:
        patch.setattr(photos, "_decode", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            Photos(samples, images, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(Photos(samples, images, tmp_path).pixels(5), Photos(samples, images).pixels(5))


def test_a_broken_photo_is_named(tiny_wider: Path, tmp_path: Path) -> None:
    samples, _ = wider.split(tiny_wider, "train")
    broken = tmp_path / samples[0].photo
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match=samples[0].photo):
        Photos(samples, tmp_path).pixels(0)
