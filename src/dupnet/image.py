"""Photos: read anything as RGB, resize it in integers to the network's input, map boxes back.

The arithmetic is docs/arithmetic.md, "Photo to input map"; `core/dn_image.c` gives the same pixels. Not here: drawing
(`dupnet.detections`) and data sets (`dupnet.data`). Before this module comes the user's photo, after it the network.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dupnet.errors import ImageError

Pixels = NDArray[np.uint8]
Source = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""What `read` accepts."""

MAX_SIDE_PX = 16384
"""Longest side of a photo; below it, no sum of the resize leaves 64 bits."""

SUFFIXES = frozenset(".avif .bmp .gif .jfif .jpeg .jpg .jp2 .pgm .png .pnm .ppm .tif .tiff .webp".split())
"""Names of photos, in small letters, by which `find` knows them in a folder."""


def find(path: str | os.PathLike[str]) -> list[Path]:
    """The photos in a folder and in the folders below it, sorted; hidden ones are left out, and links to folders not
    followed. Any other path stands for itself."""
    root = Path(path)
    if not root.is_dir():
        return [root]
    visible = (file for file in root.rglob("*") if not any(part.startswith(".") for part in file.relative_to(root).parts))
    return sorted(file for file in visible if file.suffix.lower() in SUFFIXES and file.is_file())


def read(source: Source) -> Pixels:
    """Read a photo as RGB, upright.

    EXIF orientation is applied. Transparent pixels are laid over white. 16-bit gray is scaled to 8 bits. Of an
    animation the first frame is read (of a PIL image the frame it stands at).

    Args:
        source: a path, a PIL image, or a uint8 array: `(h, w, 3)` in the order RGB (OpenCV's arrays are BGR: pass
            `array[:, :, ::-1]`), `(h, w)` gray or `(h, w, 4)` RGBA.

    Returns:
        `(h, w, 3) uint8`, each side 1 to `MAX_SIDE_PX`. It shares memory with `source` where that is possible.

    Raises:
        ImageError: says which photo, what is wrong and, where there is a remedy, what to do.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pil(source, "the PIL image")
    if isinstance(source, (str, os.PathLike)):
        return _from_file(Path(source))
    raise ImageError(f"a photo must be a path, a uint8 array or a PIL image, not {type(source).__name__}")


def _from_array(array: NDArray[np.uint8]) -> Pixels:
    if array.dtype != np.uint8:
        raise ImageError(f"the photo is an array of {array.dtype}; expected uint8, values 0 to 255")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(f"the photo is an array of shape {array.shape}; expected (h, w, 3), (h, w) or (h, w, 4)")
    _check_size(array.shape[1], array.shape[0], "the photo")
    if array.ndim == 2:
        return np.repeat(array[:, :, None], 3, axis=2)
    return array if array.shape[2] == 3 else _from_pil(Image.fromarray(array), "the photo")


def _from_file(path: Path) -> Pixels:
    try:
        if path.is_dir():
            raise ImageError(f"{path}: is a folder, not a photo")
        pipe = io.BytesIO(path.read_bytes()) if path.is_fifo() else None
        if not (pipe.getvalue() if pipe else path.stat().st_size):
            raise ImageError(f"{path}: the file is empty")
        with Image.open(pipe or path) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError
            return _from_pil(image, str(path))
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such file") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: is not an image, or in a format that Pillow cannot read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            f"{path}: has more than {Image.MAX_IMAGE_PIXELS} pixels, so it may be a decompression bomb; if you trust it, "
            "scale it down first or raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from None
    except Exception as error:
        raise _unreadable(str(path), error) from None


def _from_pil(image: Image.Image, name: str) -> Pixels:
    _check_size(image.width, image.height, name)
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        return np.asarray(_to_rgb(upright, is_16_bit=image.format in ("PNG", "PPM")))
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Exception as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: Exception) -> ImageError:
    """For whatever a decoder raises: damaged files end in errors of struct, zlib, indices or syntax, as it comes."""
    if isinstance(error, MemoryError):
        return ImageError(f"{name}: does not fit into the memory that is free")
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    guess = "" if isinstance(error, PermissionError) else ", perhaps damaged"
    return ImageError(f"{name}: cannot be read{guess}: {reason}")


def _to_rgb(image: Image.Image, *, is_16_bit: bool) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"gray values from {values.min()} to {values.max()} do not fit 16 bits; convert it to 8 bits first")
        if image.mode == "I" and not is_16_bit and 0 < values.max() < 256:
            raise ImageError(f"32-bit gray values up to {values.max()} look like 8 bits, and are black as 16; convert it to mode L first")
        gray = ((values * 255 + 32767) // 65535).astype(np.uint8)
        if isinstance(through := image.info.get("transparency"), int):
            gray[values == through] = 255
        return Image.fromarray(gray).convert("RGB")
    if image.mode == "F":
        raise ImageError("floating-point pixels have no fixed white; convert it to 8 bits first")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _check_size(width: int, height: int, name: str) -> None:
    if not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
        raise ImageError(f"{name}: is {width} x {height} pixels; each side must be 1 to {MAX_SIDE_PX}")


def scaled_size(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of a photo once its long side has `size` pixels.

    Example:
        >>> scaled_size(768, 1024, 416)
        (312, 416)
    """
    if min(height, width, size) < 1:
        raise ImageError(f"a photo of {width} x {height} pixels cannot be scaled to a long side of {size}")
    long = max(height, width)
    return max(1, (height * size + long // 2) // long), max(1, (width * size + long // 2) // long)


def resize(image: Pixels, size_hw: tuple[int, int]) -> Pixels:
    """Resize with the integer triangle filter of docs/arithmetic.md: horizontally, then vertically.

    Args:
        image: `(h, w, channels) uint8`, sides at most `MAX_SIDE_PX`.
        size_hw: height and width of the result, each at most `MAX_SIDE_PX`.

    Returns:
        `(*size_hw, channels) uint8`, the same on every machine.
    """
    height, width = size_hw
    _check_size(image.shape[1], image.shape[0], "the photo")
    _check_size(width, height, "the resized photo")
    return np.ascontiguousarray(_resize_columns(_resize_columns(image, width), height))


_BLOCK = 16
"""Output positions that share one matrix product: enough to feed it, few enough that it holds few zeros."""


def _resize_columns(image: Pixels, out: int) -> Pixels:
    """One pass over the second axis, which becomes the first: `(rows, n, channels)` to `(out, rows, channels)`.

    A float32 product is exact here: each partial sum is an integer of at most 16384 * 255 < 2^24.
    """
    rows, n, channels = image.shape
    if out == n:
        return image.transpose(1, 0, 2)
    result = np.empty((out, rows * channels), np.uint8)
    first, weights = _taps(n, out)
    for start in range(0, out, _BLOCK):
        block = slice(start, start + _BLOCK)
        low, high = first[block][0], min(n, first[block][-1] + weights.shape[1])
        band = np.zeros((len(first[block]), high - low + weights.shape[1]), np.float32)
        np.put_along_axis(band, (first[block] - low)[:, None] + np.arange(weights.shape[1]), weights[block], axis=1)
        pixels = image[:, low:high].transpose(1, 0, 2).reshape(high - low, -1).astype(np.float32)
        result[block] = ((band[:, : high - low] @ pixels).astype(np.int32) + 8192) >> 14
    return result.reshape(out, rows, channels)


def _taps(n: int, out: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """First input position `(out,)` and weights q `(out, taps)` of each output position; zeros where fewer taps are needed."""
    reach = 2 * max(out, n)
    centre = (2 * np.arange(out, dtype=np.int64) + 1) * n
    first = np.maximum(0, (centre - reach + out) // (2 * out))
    k = first[:, None] + np.arange(reach // out + 2)
    w = np.maximum(0, reach - np.abs((2 * k + 1) * out - centre[:, None]))
    w[k >= n] = 0
    cumulated = np.cumsum(w, axis=1)  # at most 2^29; times 16384 it fits 64 bits
    q = np.diff(cumulated * 16384 // cumulated[:, -1:], axis=1, prepend=0)
    return first, q.astype(np.float32)


@dataclass(frozen=True, eq=False)
class InputMap:
    """A photo as a network sees it.

    Attributes:
        pixels: `(H, W, 3) uint8`; the scaled photo at the top left, zeros on the right and at the bottom.
        scaled_hw: height and width of the photo inside.
        photo_hw: height and width of the photo as it was read.
    """

    pixels: Pixels
    scaled_hw: tuple[int, int]
    photo_hw: tuple[int, int]

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Pixels of the photo per pixel of the map, to the right and down."""
        return self.photo_hw[1] / self.scaled_hw[1], self.photo_hw[0] / self.scaled_hw[0]


def to_input(image: Pixels, size: int, *, stride: int) -> InputMap:
    """Scale a photo's long side to `size` and pad it to multiples of `stride`.

    Example:
        >>> to_input(np.zeros((768, 1024, 3), np.uint8), 416, stride=16).pixels.shape
        (320, 416, 3)
    """
    height, width = image.shape[:2]
    scaled = scaled_size(height, width, size)
    padded = [-(-side // stride) * stride for side in scaled]
    pixels = np.zeros((*padded, 3), np.uint8)
    pixels[: scaled[0], : scaled[1]] = resize(image, scaled)
    return InputMap(pixels, scaled, (height, width))


def to_photo(xyxy: NDArray[np.float32], view: InputMap) -> NDArray[np.float32]:
    """Map boxes from pixels of the input map to pixels of the photo and clip them to it.

    Args:
        xyxy: `(n, 4) float32`.
        view: what `to_input` returned.
    """
    height, width = view.photo_hw
    boxes = xyxy * np.tile(np.array(view.scale_xy, np.float32), 2)
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)
