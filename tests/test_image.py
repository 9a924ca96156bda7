"""Resizing against the formula of docs/arithmetic.md, written as it stands there; padding and the way back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dupnet import image
from dupnet.errors import ImageError


def one_row(pixels: list[int], out: int) -> list[int]:
    """The page's five lines."""
    n = len(pixels)
    s = 2 * max(out, n)
    row = []
    for o in range(out):
        w = [max(0, s - abs((2 * k + 1) * out - (2 * o + 1) * n)) for k in range(n)]
        p = [sum(w[:k]) for k in range(n + 1)]
        q = [p[k + 1] * 16384 // p[n] - p[k] * 16384 // p[n] for k in range(n)]
        row.append((sum(q[k] * pixels[k] for k in range(n)) + 8192) >> 14)
    return row


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1))
def test_a_row_follows_the_formula(n: int, out: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, n, 1), np.uint8)
    resized = image.resize(pixels, (1, out))
    assert resized[0, :, 0].tolist() == one_row(pixels[0, :, 0].tolist(), out)


def test_columns_first_then_rows() -> None:
    photo = np.random.default_rng(3).integers(0, 256, (37, 23, 3), np.uint8)
    wide = np.array([[one_row(row.tolist(), 11) for row in channel] for channel in photo.transpose(2, 0, 1)])
    both = np.array([[one_row(column.tolist(), 17) for column in channel.T] for channel in wide])
    assert (image.resize(photo, (17, 11)) == both.transpose(2, 1, 0)).all()


def test_the_same_size_is_the_same_photo() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    assert (image.resize(photo, (40, 30)) == photo).all()


@pytest.mark.parametrize(("photo_hw", "size_hw"), [((16384, 2), (1, 1)), ((2, 16384), (2, 7)), ((2, 1), (16384, 2))])
def test_white_stays_white_at_the_largest_sides(photo_hw: tuple[int, int], size_hw: tuple[int, int]) -> None:
    assert (image.resize(np.full((*photo_hw, 3), 255, np.uint8), size_hw) == 255).all()


@pytest.mark.parametrize(
    ("photo_hw", "size", "scaled"),
    [
        ((480, 640), 416, (312, 416)),
        ((640, 480), 416, (416, 312)),
        ((1, 16384), 32, (1, 32)),
        ((100, 100), 416, (416, 416)),
        ((3, 7), 4, (2, 4)),
    ],
)
def test_scaled_size(photo_hw: tuple[int, int], size: int, scaled: tuple[int, int]) -> None:
    assert image.scaled_size(*photo_hw, size) == scaled


def test_input_is_padded_with_zeros_to_the_stride() -> None:
    view = image.to_input(np.full((100, 333, 3), 9, np.uint8), 160, stride=16)
    assert view.scaled_hw == (48, 160) and view.pixels.shape == (48, 160, 3)
    view = image.to_input(np.full((100, 333, 3), 9, np.uint8), 150, stride=16)
    assert view.scaled_hw == (45, 150) and view.pixels.shape == (48, 160, 3)
    assert (view.pixels[:45, :150] == 9).all() and view.pixels.sum() == 45 * 150 * 3 * 9


def test_boxes_go_back_to_the_photo_and_stay_inside() -> None:
    view = image.to_input(np.zeros((240, 320, 3), np.uint8), 64, stride=16)
    boxes = np.array([[0, 0, 64, 48], [-5, 10, 10, 20], [60, 40, 90, 60]], np.float32)
    assert image.to_photo(boxes, view).tolist() == [[0, 0, 320, 240], [0, 50, 50, 100], [300, 200, 320, 240]]


def test_sides_out_of_range() -> None:
    with pytest.raises(ImageError, match="1 to 16384"):
        image.resize(np.zeros((4, 4, 3), np.uint8), (0, 4))
    with pytest.raises(ImageError, match="long side of 0"):
        image.scaled_size(4, 4, 0)


def test_find(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.png", "deep/c.webp", ".git/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in image.find(tmp_path)] == ["a.png", "b.JPG", "deep/c.webp"]
    assert image.find(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    assert image.find("missing.png") == [Path("missing.png")]
