"""Ellipses and rectangles cover the pixels that OpenCV fills: its rules written out as loops, and pixels that it drew."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest

from dupnet.evaluation import regions

ONE, HALF = 65536, 32768


def towards_zero(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def sine(degrees: int) -> float:
    return float(np.float32(round(math.sin(math.radians(degrees)), 7)))


def clipped(x1: int, y1: int, x2: int, y2: int, right: int, bottom: int) -> tuple[int, int, int, int] | None:
    """A line's part in the picture, cut in OpenCV's order."""

    def code(x: int, y: int) -> int:
        return (x < 0) + 2 * (x > right) + 4 * (y < 0) + 8 * (y > bottom)

    c1, c2 = code(x1, y1), code(x2, y2)
    if not c1 & c2 and c1 | c2:
        if c1 & 12:
            a = 0 if c1 < 8 else bottom
            x1, y1 = x1 + towards_zero((a - y1) * (x2 - x1), y2 - y1), a
            c1 = code(x1, 0)
        if c2 & 12:
            a = 0 if c2 < 8 else bottom
            x2, y2 = x2 + towards_zero((a - y2) * (x2 - x1), y2 - y1), a
            c2 = code(x2, 0)
        if not c1 & c2 and c1 | c2:
            if c1:
                a = 0 if c1 == 1 else right
                x1, y1, c1 = a, y1 + towards_zero((a - x1) * (y2 - y1), x2 - x1), 0
            if c2:
                a = 0 if c2 == 1 else right
                x2, y2, c2 = a, y2 + towards_zero((a - x2) * (y2 - y1), x2 - x1), 0
    return None if c1 | c2 else (x1, y1, x2, y2)


def draw_line(picture: np.ndarray, start: tuple[int, int], end: tuple[int, int]) -> None:
    height, width = picture.shape
    line = clipped(*start, *end, width * ONE - 1, height * ONE - 1)
    if line is None:
        return
    x1, y1, x2, y2 = line
    pixels = []
    if abs(x2 - x1) > abs(y2 - y1):
        if x2 < x1:
            x1, y1, x2, y2 = x2, y2, x1, y1
        step = towards_zero((y2 - y1) * ONE, (x2 - x1) | 1)
        pixels = [(((x1 + HALF) >> 16) + k, (y1 + HALF + k * step) >> 16) for k in range(((x2 - x1) >> 16) + 1)]
    else:
        if y2 < y1:
            x1, y1, x2, y2 = x2, y2, x1, y1
        step = towards_zero((x2 - x1) * ONE, (y2 - y1) | 1)
        pixels = [((x1 + HALF + k * step) >> 16, ((y1 + HALF) >> 16) + k) for k in range(((y2 - y1) >> 16) + 1)]
    for x, y in [*pixels, ((x2 + HALF) >> 16, (y2 + HALF) >> 16)]:
        if 0 <= x < width and 0 <= y < height:
            picture[y, x] = True


def fill_polygon(picture: np.ndarray, corners: list[tuple[int, int]]) -> None:
    """Two chains of sides run down from the highest corner; each row between them is filled."""
    height, width = picture.shape
    for number, corner in enumerate(corners):
        draw_line(picture, corners[number - 1], corner)
    rows = [(y + HALF) >> 16 for _, y in corners]
    top = min(range(len(corners)), key=lambda i: corners[i][1])
    chains = [{"at": top, "step": step, "end": rows[top], "x": 0, "move": 0} for step in (1, -1)]
    for y in range(rows[top], min(max(rows), height)):
        for chain in chains:
            if y >= chain["end"]:
                here, after = chain["at"], (chain["at"] + chain["step"]) % len(corners)
                while rows[after] <= y:
                    here, after = after, (after + chain["step"]) % len(corners)
                tall = rows[after] - y
                rise = (corners[after][0] - corners[here][0]) * 2 + tall
                chain.update(at=after, end=rows[after], x=corners[here][0], move=towards_zero(rise, 2 * tall))
        if y >= 0:
            left, right = sorted((chain["x"] + HALF) >> 16 for chain in chains)
            picture[y, max(left, 0) : max(min(right + 1, width), 0)] = True
        for chain in chains:
            chain["x"] += chain["move"]


def drawn(ellipse: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The rules, one ellipse and one corner at a time."""
    picture = np.zeros(size_hw, bool)
    width, height = int(ellipse[0]), int(ellipse[1])
    turn = round(180 - (math.pi - ellipse[2]) * 180 / math.pi) % 360
    x0, y0 = (round(float(np.float32(v))) * ONE for v in ellipse[3:])
    longest = max(width, height)
    step = 90 if longest < 3 else 30 if longest < 10 else 18 if longest < 15 else 5
    corners: list[tuple[int, int]] = []
    for angle in range(0, 361, step):
        along, across = width * ONE * sine(450 - angle), height * ONE * sine(angle)
        x = x0 + along * sine(450 - turn) - across * sine(turn)
        y = y0 + along * sine(turn) + across * sine(450 - turn)
        corner = (round(x), round(y))
        if not corners or corner != corners[-1]:
            corners.append(corner)
    if len(corners) == 1:
        draw_line(picture, corners[0], corners[0])
    else:
        fill_polygon(picture, corners)
    return picture


def whole(mask: regions.Mask, size_hw: tuple[int, int]) -> np.ndarray:
    picture = np.zeros(size_hw, bool)
    rows, columns = mask.pixels.shape
    picture[mask.top : mask.top + rows, mask.left : mask.left + columns] = mask.pixels
    return picture


@pytest.mark.parametrize("largest", [2, 9, 14, 60, 200])
def test_ellipses_equal_the_loops(largest: int) -> None:
    rng = np.random.default_rng(largest)
    for _ in range(12):
        size = tuple(int(v) for v in rng.integers(5, 90, 2))
        axes, centre = rng.uniform(0, largest + 1, (4, 2)), rng.uniform(-20, 100, (4, 2))
        centre[0] = np.floor(centre[0]) + 0.5  # halves go to the even pixel
        axes[1, 1] = 0.7  # no wider than a line
        ellipses = np.concatenate([axes, rng.uniform(-4, 7, (4, 1)), centre], axis=1)
        for ellipse, mask in zip(ellipses, regions.ellipse_masks(ellipses, size)):
            assert np.array_equal(whole(mask, size), drawn(ellipse, size)), (ellipse, size)


# What cv2.ellipse 5.0 (3.4.18 and 4.x alike) filled: ellipse, number of pixels, CRC-32 of the picture's bytes (0 or 1, row by row).
OPENCV = [
    ([2.9, 1.2, 0.3, 100, 100], 9, 143652875),
    ([0.5, 0.4, 0, 5, 5], 1, 1174116092),
    ([9.99, 6.1, -1.2, 40.5, 41.5], 179, 3529413013),
    ([14.2, 11.7, 0.8, 310, 120], 477, 3311863506),
    ([15, 15, 0, 20, 20], 761, 1361229626),
    ([123.5833, 85.5495, 1.265839, 269.6934, 161.7812], 24226, 1518837422),
    ([67.363819, 44.511485, -1.476417, 105.24997, 87.209036], 9424, 4172752299),
    ([167, 110, -0.226893, 227, 25], 31844, 2010022332),
    ([300, 40, 0.5, 160, 120], 27572, 885074220),
    ([55.2, 0.9, 1.0, 160, 120], 106, 2351406187),
    ([80, 60, 3.3, -30, 250], 1369, 365781049),
    ([90, 45, -1.5708, 319.5, 0.5], 3216, 2877224315),
]


@pytest.mark.parametrize(("ellipse", "pixels", "checksum"), OPENCV)
def test_ellipses_equal_opencvs(ellipse: list[float], pixels: int, checksum: int) -> None:
    [mask] = regions.ellipse_masks(np.array([ellipse]), (240, 320))
    assert mask.area == pixels
    assert zlib.crc32(whole(mask, (240, 320)).astype(np.uint8).tobytes()) == checksum


@pytest.mark.parametrize(
    ("box", "corners"),
    [
        ([10.0, 20, 5, 6], [10, 20, 16, 27]),  # both ends belong to it
        ([10.5, 11.5, 2, 2], [10, 12, 13, 15]),  # halves go to the even pixel
        ([10.4999999999, 0, 0, 0], [10, 0, 11, 1]),  # float32 makes it a half first
        ([11.4999999999, 0, 0, 0], [12, 0, 13, 1]),
        ([10.0, 20, -4, -5], [6, 15, 11, 21]),  # a negative size: the other way
        ([-9.0, -9, 20, 30], [0, 0, 12, 22]),  # cut at the border
        ([90.0, 60, 50, 50], [90, 60, 100, 80]),
        ([-50.0, 5, 10, 10], [0, 5, 0, 16]),  # outside: empty
        ([100.0, 5, 10, 10], [100, 5, 100, 16]),
        ([-1e300, -1e300, 2e300, 2e300], [0, 0, 100, 80]),
    ],
)
def test_rectangles(box: list[float], corners: list[int]) -> None:
    assert regions.rectangle_corners(np.array([box]), (80, 100)).tolist() == [corners]


def test_overlaps_count_pixels() -> None:
    rng = np.random.default_rng(5)
    size = (70, 90)
    ellipses = np.concatenate([rng.uniform(2, 30, (6, 2)), rng.uniform(-2, 2, (6, 1)), rng.uniform(-5, 90, (6, 2))], axis=1)
    boxes = np.concatenate([rng.uniform(-20, 90, (40, 2)), rng.uniform(-9, 50, (40, 2))], axis=1)
    masks = regions.ellipse_masks(ellipses, size)
    corners = regions.rectangle_corners(boxes, size)
    pictures = [whole(mask, size) for mask in masks]
    rectangles = []
    for left, top, right, bottom in corners:
        rectangles.append(np.zeros(size, bool))
        rectangles[-1][top:bottom, left:right] = True
    for mask, one in zip(masks, pictures):
        for overlaps, others in (
            (regions.overlap_with_rectangles(mask, corners), rectangles),
            (regions.overlap_with_masks(mask, masks), pictures),
        ):
            assert overlaps.tolist() == [(one & two).sum() / max((one | two).sum(), 1) for two in others]
    assert sum(mask.area > 0 for mask in masks) > 3, "too few in the picture to say anything"
