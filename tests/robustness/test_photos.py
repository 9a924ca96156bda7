"""Every kind of photo file is read right, or refused with a sentence that names it."""

from __future__ import annotations

import io
import os
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dupnet import image
from dupnet.errors import ImageError

RGB = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)


def saved(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)
    return path


def test_sources_agree(tmp_path: Path) -> None:
    path = saved(Image.fromarray(RGB), tmp_path / "photo.png")
    for source in (path, str(path), RGB, Image.fromarray(RGB)):
        pixels = image.read(source)
        assert pixels.dtype == np.uint8 and (pixels == RGB).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    turn = [None, lambda a: a, lambda a: a[:, ::-1], lambda a: a[::-1, ::-1], lambda a: a[::-1], lambda a: a.transpose(1, 0, 2)]
    turn += [lambda a: np.rot90(a, -1), lambda a: a[::-1, ::-1].transpose(1, 0, 2), lambda a: np.rot90(a, 1)]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(RGB), tmp_path / "turned.png", exif=exif)
    assert (image.read(path) == turn[orientation](RGB)).all()


def test_gray_and_16_bit_gray(tmp_path: Path) -> None:
    gray = RGB[:, :, 0]
    expected = np.repeat(gray[:, :, None], 3, 2)
    assert (image.read(gray) == expected).all()
    assert (image.read(saved(Image.fromarray(gray), tmp_path / "8.png")) == expected).all()
    deep = gray.astype(np.uint16) * 257
    for name in ("16.png", "16.tif"):
        assert (image.read(saved(Image.fromarray(deep), tmp_path / name)) == expected).all()
    assert (image.read(Image.fromarray(deep.astype(np.int32))) == expected).all()
    assert (image.read(Image.fromarray(deep.astype(">u2"))) == expected).all()
    clear = np.where(gray == gray[0, 0], 255, gray)
    path = saved(Image.fromarray(deep), tmp_path / "clear.png", transparency=int(deep[0, 0]))
    assert (image.read(path) == clear[:, :, None]).all()
    assert image.read(Image.fromarray(np.array([[0, 128, 129, 65535]], np.uint16)))[0, :, 0].tolist() == [0, 0, 1, 255]


def test_one_bit() -> None:
    bits = Image.fromarray(RGB[:, :, 0] > 127)
    assert bits.mode == "1" and set(np.unique(image.read(bits))) == {0, 255}


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    rgba[:, 15:, 3] = 0
    for source in (rgba, Image.fromarray(rgba), saved(Image.fromarray(rgba), tmp_path / "rgba.png")):
        assert (image.read(source)[:, :15] == RGB[:, :15]).all() and (image.read(source)[:, 15:] == 255).all()
    gray_alpha = Image.fromarray(rgba).convert("LA")
    assert (image.read(gray_alpha)[:, 15:] == 255).all()


def test_palettes(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 2), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((0, 0), 0)
    plain = image.read(saved(palette, tmp_path / "plain.png"))
    assert plain[0, 0].tolist() == [255, 0, 0] and plain[1, 1].tolist() == [0, 0, 255]
    for name in ("transparent.png", "transparent.gif"):
        pixels = image.read(saved(palette, tmp_path / name, transparency=0))
        assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[1, 1].tolist() == [0, 0, 255]


def test_cmyk(tmp_path: Path) -> None:
    for source in (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), tmp_path / "cmyk.jpg")):
        assert np.abs(image.read(source).astype(int) - [255, 0, 0]).max() < 6


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = saved(frames[0], tmp_path / f"moving.{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    assert np.abs(image.read(path).astype(int) - [255, 0, 0]).max() < 3


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RGB).resize((200, 150)).save(buffer, "JPEG")
    return buffer.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"dear diary", "not an image"),
        (jpeg()[:-400], "cannot be read, perhaps damaged"),
        (jpeg()[:30], "not an image|perhaps damaged"),
        (png_claiming(8, 8)[:-28], "perhaps damaged"),
        (png_claiming(0, 8), "not an image|perhaps damaged|each side must be"),
        (png_claiming(12000, 12000), "decompression bomb"),
        (png_claiming(2**30, 2**30), "decompression bomb"),
        (png_claiming(20000, 10), "each side must be 1 to 16384"),
    ],
    ids=["empty", "text", "half a jpeg", "start of a jpeg", "half a png", "no width", "bomb", "huge bomb", "too wide"],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "holiday.jpg"
    path.write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(ImageError, match=f"holiday.jpg: .*({reason})"):
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image.read(path)


def test_bombs_are_refused_when_warnings_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(12000, 12000))
    with warnings.catch_warnings(), pytest.raises(ImageError, match="decompression bomb"):
        warnings.simplefilter("error")
        image.read(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path, "folder"),
        (tmp_path / "gone.png", "no such file"),
        ("a\0b", "cannot be read"),
        ("x" * 5000, "cannot be read"),
    ):
        with pytest.raises(ImageError, match=reason):
            image.read(path)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32; expected uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0 pixels"),
        (np.zeros((1, 16385), np.uint8), "16385 x 1 pixels"),
        (Image.new("RGB", (0, 4)), "0 x 4 pixels"),
        (Image.new("F", (4, 4)), "convert it to 8 bits"),
        (Image.new("I", (4, 4), 70000), "do not fit 16 bits"),
        (Image.new("I", (4, 4), 200), "up to 200 look like 8 bits"),
        (b"bytes", "not bytes"),
        (None, "not NoneType"),
    ],
)
def test_bad_sources_are_refused(source: object, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        image.read(source)  # type: ignore[arg-type]


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    path, pipe = saved(Image.fromarray(RGB), tmp_path / "photo.png"), tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    writer.start()
    assert (image.read(pipe) == RGB).all()
    writer.join()
    writer = threading.Thread(target=lambda: pipe.write_bytes(b""))
    writer.start()
    with pytest.raises(ImageError, match="the file is empty"):
        image.read(pipe)
    writer.join()


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]), data=st.data())
def test_damaged_bytes_give_a_photo_or_an_image_error(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = image.read(path)
        except ImageError as error:
            assert str(path) in str(error)
        else:
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
