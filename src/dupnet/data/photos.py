"""The photos of a data set, decoded once.

Training reads every photo hundreds of times; decoding it each time would cost more than the crop. So the pixels of
all photos are kept in one uncompressed file that is mapped into memory: processes share it, and the system's page cache
holds as much of it as there is memory for.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dupnet import image
from dupnet.data.sample import Sample
from dupnet.errors import DataError, ImageError
from dupnet.files import whole, write_text


class Photos:
    """Samples with their pixels.

    Args:
        samples: annotated photos.
        images: the folder that their paths are relative to.
        cache: a folder for the decoded pixels, made on first use (3 bytes a pixel: 6 GB for 12,000 photos of 400x400); None
            decodes a photo whenever it is asked for.
    """

    def __init__(self, samples: list[Sample], images: Path, cache: Path | None = None) -> None:
        self.samples, self.images = samples, images
        self._path: Path | None = None
        self._mapped: np.memmap | None = None
        if cache is not None:
            path, index = _build(samples, images, cache)
            self._shapes, self._starts = index["shapes"], index["starts"]
            self._map(path)

    def _map(self, path: Path) -> None:
        self._path = path
        self._mapped = np.memmap(path, np.uint8, mode="c")  # torch takes no read-only arrays; what is written stays in memory

    def __getstate__(self) -> dict[str, Any]:
        """Another process maps the file itself: a memory map would travel as its bytes."""
        return self.__dict__ | {"_mapped": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        if self._path is not None:
            self._map(self._path)

    def __len__(self) -> int:
        return len(self.samples)

    def pixels(self, number: int) -> NDArray[np.uint8]:
        """`(h, w, 3) uint8` RGB of photo `number`."""
        if self._mapped is None:
            return _decode(self.images / self.samples[number].photo)
        height, width = self._shapes[number]
        start = self._starts[number]
        return self._mapped[start : start + 3 * height * width].reshape(height, width, 3)

    def packed(self) -> tuple[NDArray[np.uint8], list[tuple[int, int]], list[int]] | None:
        """The cache as it is, or None: the bytes of all photos one after another, their heights and widths, and where each begins."""
        return None if self._mapped is None else (self._mapped, self._shapes, self._starts)


def _decode(path: Path) -> NDArray[np.uint8]:
    """A photo's pixels, read as the detector reads them."""
    try:
        return image.read(path)
    except ImageError as error:
        raise DataError(str(error)) from None


def _build(samples: list[Sample], images: Path, cache: Path) -> tuple[Path, dict[str, Any]]:
    """Write the cache and its index unless they are there; complete files only, so a killed build leaves nothing behind that counts.

    A photo that was replaced since has another size or time, so the cache of the new state has another name.
    """
    key = hashlib.sha256(str(images.resolve()).encode())
    for sample in samples:
        try:
            state = (images / sample.photo).stat()
        except OSError as error:
            raise DataError(f"{images / sample.photo}: cannot be read: {error.strerror}") from None
        key.update(f"\n{sample.photo} {state.st_size} {state.st_mtime_ns}".encode())
    path = cache / f"photos-{key.hexdigest()[:16]}.u8"
    with suppress(OSError, ValueError, KeyError, TypeError):  # not there, or a crash cost a file its end
        content = json.loads(path.with_suffix(".json").read_text())
        if path.stat().st_size == 3 * sum(height * width for height, width in content["shapes"]):
            return path, content
    cache.mkdir(parents=True, exist_ok=True)
    shapes, starts, at = [], [], 0
    try:
        with whole(path) as part:
            with open(part, "wb") as file:
                for sample in tqdm(samples, desc="decoding photos once", unit="photo", disable=None):
                    pixels = _decode(images / sample.photo)
                    shapes.append(pixels.shape[:2])
                    starts.append(at)
                    at += pixels.size
                    file.write(pixels.tobytes())
                file.flush()
                os.fsync(file.fileno())
            content = {"shapes": shapes, "starts": starts}
            write_text(path.with_suffix(".json"), json.dumps(content))
    except OSError as error:
        raise DataError(f"{path}: the cache of decoded photos cannot be written: {error.strerror or error}") from None
    return path, content
