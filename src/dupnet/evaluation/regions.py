"""Which pixels a face region covers: ellipses and rectangles, pixel for pixel as OpenCV fills them, without OpenCV.

FDDB's overlap is counted in pixels, so an evaluator that is to agree with the official one must fill the same pixels. OpenCV
fills an ellipse as a polygon with a corner every 5 degrees (coarser when it is small), in fixed point with 16 bits behind the
point: the polygon's sides are drawn as lines, then the rows between them are filled. `dupnet.evaluation.fddb` counts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_BITS = 16
_ONE = 1 << _BITS
_HALF = _ONE >> 1
_SINES = np.round(np.sin(np.radians(np.arange(451))), 7).astype(np.float32).astype(np.float64)
"""OpenCV's table of sines holds seven decimals in float32; the cosine of i is `_SINES[450 - i]`."""
SIDES = 72
"""Of an ellipse's polygon, some of which have no length."""
_FAR = 1 << 20
"""Coordinates beyond this are cut: far outside every photo, and no product below overflows 64 bits."""


class Mask(NamedTuple):
    """The pixels of one region that lie in the photo.

    Attributes:
        top, left: where `pixels[0, 0]` is in the photo.
        pixels: `(rows, columns) bool`, no larger than the region; both 0 if it lies outside.
    """

    top: int
    left: int
    pixels: NDArray[np.bool_]

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.pixels))


def ellipse_masks(ellipses: Floats, sizes_hw: Ints) -> list[Mask]:
    """Fill ellipses, those of many photos at once.

    Args:
        ellipses: `(n, 5)`: half axes, angle of the first in radians, centre x y, as in FDDB's lists. The half axes are
            truncated to whole pixels, the centre is rounded, the angle is rounded to whole degrees.
        sizes_hw: `(n, 2)`, height and width of the photo of each, or `(2,)` if it is the same for all.
    """
    sizes = np.broadcast_to(np.asarray(sizes_hw, np.int64), (len(ellipses), 2))
    corners = _corners(ellipses)  # (n, 73, 2); small ellipses repeat corners
    line, y, x = _lines(corners[:, :-1].reshape(-1, 2), corners[:, 1:].reshape(-1, 2), np.repeat(sizes, SIDES, axis=0))
    starts = np.searchsorted(line, np.arange(len(ellipses) + 1) * SIDES)
    spans = _spans(corners, sizes)
    return [_mask(y[start:end], x[start:end], *span) for start, end, span in zip(starts, starts[1:], spans)]


def rectangle_corners(boxes: Floats, size_hw: tuple[int, int]) -> Ints:
    """Pixels that filled rectangles cover: `(n, 4)` left top right bottom, the first inclusive, the last exclusive.

    Args:
        boxes: `(n, 4)` x y w h. Both corners are rounded and belong to the rectangle, which is therefore `w + 1` pixels
            wide; a negative size puts the second corner before the first.
        size_hw: the photo's height and width, at which the rectangle is cut.
    """
    ends = np.stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:4]])
    pixels = _round(ends)
    low = np.clip(pixels.min(0), 0, size_hw[::-1])
    high = np.clip(pixels.max(0) + 1, 0, size_hw[::-1])
    return np.concatenate([low, np.maximum(low, high)], axis=1)


def overlap_with_rectangles(mask: Mask, corners: Ints) -> Floats:
    """Intersection over union of one mask with rectangles, `(n,)`; 0 where both are empty.

    Args:
        corners: `(n, 4)` from `rectangle_corners`.
    """
    rows, columns = mask.pixels.shape
    # table[y, x] counts the mask's pixels above y and left of x, so four entries give those in a rectangle.
    table = np.zeros((rows + 1, columns + 1), np.int32)
    np.cumsum(mask.pixels, axis=1, dtype=np.int32, out=table[1:, 1:])
    np.cumsum(table, axis=0, out=table)
    left, right = (np.clip(corners[:, i] - mask.left, 0, columns) for i in (0, 2))
    top, bottom = (np.clip(corners[:, i] - mask.top, 0, rows) for i in (1, 3))
    shared = (table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]).astype(np.int64)
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return _ratio(shared, mask.area + areas - shared)


def overlap_with_masks(mask: Mask, others: list[Mask]) -> Floats:
    """Intersection over union of one mask with others, `(n,)`; 0 where both are empty."""
    shared = np.array([_shared(mask, other) for other in others], np.int64)
    areas = np.array([other.area for other in others], np.int64)
    return _ratio(shared, mask.area + areas - shared)


def _shared(one: Mask, two: Mask) -> int:
    top, left = max(one.top, two.top), max(one.left, two.left)
    bottom = min(one.top + one.pixels.shape[0], two.top + two.pixels.shape[0])
    right = min(one.left + one.pixels.shape[1], two.left + two.pixels.shape[1])
    if bottom <= top or right <= left:
        return 0
    cut = [mask.pixels[top - mask.top : bottom - mask.top, left - mask.left : right - mask.left] for mask in (one, two)]
    return int(np.count_nonzero(cut[0] & cut[1]))


def _ratio(shared: Ints, union: Ints) -> Floats:
    ratio: Floats = np.divide(shared, union, out=np.zeros(len(shared)), where=union > 0)
    return ratio


def _round(values: Floats) -> Ints:
    """Nearest whole number, halves to the even one, of the nearest float32: OpenCV's points pass through float32."""
    return np.rint(np.clip(values, -_FAR, _FAR).astype(np.float32)).astype(np.int64)


def _corners(ellipses: Floats) -> Ints:
    """Corners of the polygons, `(n, SIDES + 1, 2)` x y in 1/65536 pixel; the last is the first again."""
    axes = np.clip(np.trunc(ellipses[:, :2]), 0, _FAR)
    centre = _round(ellipses[:, 3:5]).astype(np.float64)
    # The official program turns the angle over twice, (pi - a) and 180 - (...), and so arrives at a, but for the last bit.
    turn = np.rint(180 - (np.pi - ellipses[:, 2]) * 180 / np.pi).astype(np.int64) % 360
    longest = axes.max(axis=1, initial=0)
    step = np.select([longest < 3, longest < 10, longest < 15], [90, 30, 18], 5)
    at = np.minimum(np.arange(SIDES + 1) * step[:, None], 360)
    along, across = axes[:, :1] * _ONE * _SINES[450 - at], axes[:, 1:] * _ONE * _SINES[at]
    cosine, sine = _SINES[450 - turn][:, None], _SINES[turn][:, None]
    x = centre[:, :1] * _ONE + along * cosine - across * sine
    y = centre[:, 1:] * _ONE + along * sine + across * cosine
    return np.rint(np.stack([x, y], axis=2)).astype(np.int64)


def _quotient(a: Ints, b: Ints) -> Ints:
    """`a / b` rounded towards zero, as in C; 0 where b is 0."""
    size = np.abs(a) // np.maximum(np.abs(b), 1)
    return np.where((a < 0) != (b < 0), -size, size) * (b != 0)


def _lines(start: Ints, end: Ints, sizes_hw: Ints) -> tuple[Ints, Ints, Ints]:
    """Pixels of straight lines, one for each step along the longer direction: number of the line (ascending), y, x of each."""
    inside, (x1, y1), (x2, y2) = _clip_lines(start, end, sizes_hw)
    flat = np.abs(x2 - x1) > np.abs(y2 - y1)  # steps along x
    a1, b1 = np.where(flat, x1, y1), np.where(flat, y1, x1)  # a: the direction of the steps
    a2, b2 = np.where(flat, x2, y2), np.where(flat, y2, x2)
    swap = a2 < a1
    a1, a2, b1, b2 = np.where(swap, a2, a1), np.where(swap, a1, a2), np.where(swap, b2, b1), np.where(swap, b1, b2)
    slope = _quotient((b2 - b1) << _BITS, (a2 - a1) | 1)
    steps = np.where(inside, ((a2 - a1) >> _BITS) + 2, 0)  # the end point is set, too, as a step of its own
    number = np.repeat(np.arange(len(steps)), steps)
    k = np.arange(len(number)) - np.repeat(np.cumsum(steps) - steps, steps)
    last = k == steps[number] - 1
    a = np.where(last, (a2[number] + _HALF) >> _BITS, ((a1[number] + _HALF) >> _BITS) + k)
    b = np.where(last, b2[number] + _HALF, b1[number] + _HALF + k * slope[number]) >> _BITS
    x, y = np.where(flat[number], a, b), np.where(flat[number], b, a)
    keep = (x >= 0) & (x < sizes_hw[number, 1]) & (y >= 0) & (y < sizes_hw[number, 0])
    return number[keep], y[keep], x[keep]


def _clip_lines(start: Ints, end: Ints, sizes_hw: Ints) -> tuple[NDArray[np.bool_], list[Ints], list[Ints]]:
    """Cut lines at the photo's border: which are left, and their ends as `[x, y]`.

    The cut ends are rounded, which turns the rest of the line a little: so this must be done as OpenCV does it, in this order.
    """
    bottom, right = (sizes_hw.T << _BITS) - 1
    ends = [[start[:, 0].copy(), start[:, 1].copy()], [end[:, 0].copy(), end[:, 1].copy()]]
    for axis, limit in ((1, bottom), (0, right)):  # first the lines through the upper or lower border, then left and right
        code = [_beyond(point, right, bottom) for point in ends]
        crossing = ((code[0] & code[1]) == 0) & ((code[0] | code[1]) != 0)
        bits = 12 if axis else 3
        for i, point in enumerate(ends):
            cut = crossing & ((code[i] & bits) != 0)
            border = np.where(point[axis] < 0, 0, limit)
            run, rise = (ends[1][j] - ends[0][j] for j in (1 - axis, axis))
            point[1 - axis] += np.where(cut, _quotient((border - point[axis]) * run, rise), 0)
            point[axis] = np.where(cut, border, point[axis])
    return (_beyond(ends[0], right, bottom) | _beyond(ends[1], right, bottom)) == 0, ends[0], ends[1]


def _beyond(point: list[Ints], right: Ints, bottom: Ints) -> Ints:
    """Bits 1, 2, 4, 8: left, right, above, below the photo."""
    x, y = point
    return (x < 0) * 1 + (x > right) * 2 + (y < 0) * 4 + (y > bottom) * 8


def _spans(corners: Ints, sizes_hw: Ints) -> list[tuple[int, Ints, Ints]]:
    """What is filled between the sides: for each polygon its first row, and the first and last column of each row.

    A side fills the rows from the one of its upper corner to before that of its lower corner. On the first of them it is where
    its upper corner is, without regard to the corner's fraction of a row; then it moves by the same amount each row.
    """
    row = (corners[..., 1] + _HALF) >> _BITS
    down = row[:, 1:] > row[:, :-1]

    def ends(values: Ints) -> tuple[Ints, Ints]:
        """Of the upper and the lower corner of each side, all polygons in one row."""
        return np.where(down, values[:, :-1], values[:, 1:]).ravel(), np.where(down, values[:, 1:], values[:, :-1]).ravel()

    (upper, lower), (x_upper, x_lower) = ends(row), ends(corners[..., 0])
    tall = lower - upper
    move = _quotient((x_lower - x_upper) * 2 + tall, 2 * tall)
    side = np.repeat(np.arange(len(tall)), tall)
    k = np.arange(len(side)) - np.repeat(np.cumsum(tall) - tall, tall)
    y, column, polygon = upper[side] + k, (x_upper[side] + move[side] * k + _HALF) >> _BITS, side // SIDES
    top, bottom = (np.clip(row.min(axis=1), 0, sizes_hw[:, 0]), np.clip(row.max(axis=1), 0, sizes_hw[:, 0]))
    starts = np.concatenate([[0], np.cumsum(bottom - top)])  # of each polygon in the row of all their rows
    keep = (y >= top[polygon]) & (y < bottom[polygon])
    at = (starts[polygon] + y - top[polygon])[keep]
    first, last = np.full(starts[-1], _FAR), np.full(starts[-1], -1)
    np.minimum.at(first, at, column[keep])
    np.maximum.at(last, at, column[keep])
    first, last = np.maximum(first, 0), np.minimum(last, np.repeat(sizes_hw[:, 1], bottom - top) - 1)
    return [(int(t), first[start:end], last[start:end]) for t, start, end in zip(top, starts, starts[1:])]


def _mask(y: Ints, x: Ints, top: int, first: Ints, last: Ints) -> Mask:
    """A region from the pixels of its border and the filled part of each row from `top` on."""
    filled = last >= first
    ys, lefts, rights = np.flatnonzero(filled) + top, first[filled], last[filled]
    if len(y) + len(ys) == 0:
        return Mask(0, 0, np.zeros((0, 0), bool))
    low_y, low_x = min(y.min(initial=_FAR), ys.min(initial=_FAR)), min(x.min(initial=_FAR), lefts.min(initial=_FAR))
    high_y, high_x = max(y.max(initial=-1), ys.max(initial=-1)), max(x.max(initial=-1), rights.max(initial=-1))
    pixels = np.zeros((high_y - low_y + 1, high_x - low_x + 1), bool)
    columns = np.arange(low_x, high_x + 1)
    pixels[ys - low_y] = (columns >= lefts[:, None]) & (columns <= rights[:, None])
    pixels[y - low_y, x - low_x] = True
    return Mask(int(low_y), int(low_x), pixels)
