"""From an annotated photo to a training crop: zoom, crop, flip, colours.

In two parts: `cut` decides, `render` makes the pixels. Everything random comes from the generator that the caller hands in, so a crop
is a function of (photo, seed). Coordinates follow the pixels exactly: a box is where the resized face is.
After: `dupnet.training.targets` (batches) and `dupnet.training.rendering` (`render` for whole batches on a GPU).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dupnet import checked
from dupnet.data.sample import Sample
from dupnet.errors import SpecError


@dataclass(frozen=True)
class Augmentation:
    """How crops are made. All sizes in pixels of the crop.

    Attributes:
        crop_px: side of the square crop.
        zoom_probability: share of crops that bring one random face to a random size; the others show the photo as a whole, at a
            random scale.
        face_px: (smallest, largest) height that a zoomed face gets, log-uniform.
        whole_faces: whether a zoomed face lies wholly in the crop, if it fits; else only its centre does.
        anchors_px: sides of anchors; with them a zoomed face gets its size by data-anchor sampling instead (`_anchored`).
        zoom_max: a photo is enlarged at most this often.
        fit: (smallest, largest) scale of the whole photo, relative to just fitting into the crop. No crop of either kind shows a
            photo smaller than the first of them, so that little of a crop is empty.
        letterbox: what must just fit is the photo after its aspect ratio has changed, as in Darknet; else before.
        mosaic: probability that a crop is a mosaic of 2x2 crops of half the size: more faces, and smaller ones.
        aspect: largest relative change of the aspect ratio.
        small_px: faces whose longer side is below this become ignore regions.
        visible: faces of which less than this share lies in the crop become ignore regions.
        flip, gray: probabilities.
        brightness, contrast, gain: largest relative change of each; gain is per colour channel.
        hue: largest shift of the hue, as a part of the colour circle.
        saturation, exposure: largest factor by which each is multiplied or divided (of HSV; 1 leaves it alone).
        worn: probability that a crop looks as an old photo or a cheap camera's: with `fade` and `noise`.
        fade: largest share of its contrast that a worn crop loses, somewhere between black and white.
        noise: largest standard deviation of a worn crop's noise, in levels of 255, the same in all channels.
    """

    crop_px: int = 320
    zoom_probability: float = 0.7
    face_px: tuple[float, float] = (10.0, 260.0)
    whole_faces: bool = False
    anchors_px: tuple[float, ...] = ()
    zoom_max: float = 3.0
    fit: tuple[float, float] = (0.7, 1.6)
    letterbox: bool = False
    mosaic: float = 0.5
    aspect: float = 0.1
    small_px: float = 8.0
    visible: float = 0.4
    flip: float = 0.5
    gray: float = 0.1
    brightness: float = 0.3
    contrast: float = 0.3
    gain: float = 0.15
    hue: float = 0.0
    saturation: float = 1.0
    exposure: float = 1.0
    worn: float = 0.0
    fade: float = 0.6
    noise: float = 14.0

    def __post_init__(self) -> None:
        if self.crop_px % 2 or not 16 <= self.crop_px <= 2048:
            raise SpecError(f"augmentation: crop_px must be an even number in 16 to 2048, not {self.crop_px}")
        if self.mosaic and (self.crop_px % 4 or self.crop_px < 32):
            raise SpecError(
                f"augmentation: for mosaics of half as large crops, crop_px must be a multiple of 4 from 32, not {self.crop_px}"
            )
        if self.zoom_max <= 0 or self.small_px < 0:
            raise SpecError(f"augmentation: zoom_max must be above 0 and small_px at least 0, not {self.zoom_max} and {self.small_px}")
        if min(self.anchors_px, default=1) <= 0:
            raise SpecError(f"augmentation: anchors_px must be above 0, not {min(self.anchors_px)}")
        for name in ("face_px", "fit"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise SpecError(f"augmentation: {name} must be (low, high) with 0 < low <= high, not {(low, high)}")
        shares = "zoom_probability mosaic flip gray visible aspect brightness contrast gain hue worn fade".split()
        checked.fractions(self, shares, where="augmentation")
        for name in ("saturation", "exposure"):
            if not 1 <= getattr(self, name) <= 10:
                raise SpecError(f"augmentation: {name} must be in [1, 10], not {getattr(self, name)}")
        if not 0 <= self.noise <= 255:
            raise SpecError(f"augmentation: noise must be in [0, 255], not {self.noise}")

    @property
    def turns_colours(self) -> bool:
        """Whether crops change in hue, saturation or exposure, which needs a conversion to HSV and back."""
        return (self.hue, self.saturation, self.exposure) != (0, 1, 1)


FACE, IGNORE = 1, 2
"""Kinds of a box in a crop."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""How much red, green and blue count in a gray crop."""

GRAIN_PX = 1024
"""Side of `grain`."""


@cache
def grain() -> NDArray[np.float32]:
    """The noise of all worn crops, of standard deviation 1; each begins somewhere else in it, and it goes on from the other edge."""
    return np.random.default_rng(0).standard_normal((GRAIN_PX, GRAIN_PX), np.float32)


@dataclass(frozen=True)
class Cut:
    """A crop as it is to be made from its photo, and what it shows.

    Attributes:
        side: of the crop, in pixels.
        place: left, top, right and bottom of the part of the crop (before it is flipped) that the photo fills; the rest is black.
        source: x1 y1 x2 y2 of the photo, real-valued: what is resized to fill that part.
        margin: photo pixels around `source` that the resizing filter may read.
        colours: look-up table of each channel, `(3, 256) uint8`.
        hsv: the same for hue, saturation and value, used after it; or None.
        gray, flip: whether.
        noise: its standard deviation, and the row and column of `grain` where it begins.
        boxes, kinds: `(n, 4) float32` x1 y1 x2 y2 clipped to the crop, and `(n,) uint8`, `FACE` or `IGNORE`.
    """

    side: int
    place: tuple[int, int, int, int]
    source: NDArray[np.float64]
    margin: int
    colours: NDArray[np.uint8]
    hsv: NDArray[np.uint8] | None
    gray: bool
    flip: bool
    noise: tuple[float, int, int]
    boxes: NDArray[np.float32]
    kinds: NDArray[np.uint8]

    @property
    def is_black(self) -> bool:
        """Whether the crop shows nothing of the photo."""
        left, top, right, bottom = self.place
        return right <= left or bottom <= top

    def region(self, height: int, width: int) -> tuple[int, int, int, int]:
        """x1 y1 x2 y2, whole pixels: what of a photo of that size is read."""
        x1, y1 = np.maximum(self.source[:2] - self.margin, 0).astype(int)
        x2, y2 = np.minimum(np.ceil(self.source[2:] + self.margin), [width, height]).astype(int)
        return int(x1), int(y1), int(x2), int(y2)


def cut(height: int, width: int, sample: Sample, how: Augmentation, rng: np.random.Generator) -> Cut:
    """Decide on one crop of one photo.

    Args:
        height, width: of the photo.
        sample: its annotation.
        how: sizes and probabilities.
        rng: the only source of randomness.
    """
    side, size = how.crop_px, np.array([width, height])
    scale_xy, offset = _window(size, sample, how, rng)
    boxes, kinds = _boxes(sample, scale_xy, offset, how)
    left, top, right, bottom = (int(v) for v in np.rint(np.clip([*offset, *(offset + size * scale_xy)], 0, side)))
    source = (np.array([left, top, right, bottom]) - np.tile(offset, 2)) / np.tile(scale_xy, 2)
    colours, hsv, gray = np.tile(np.arange(256, dtype=np.uint8), (3, 1)), None, False
    noise = (0.0, 0, 0)
    if right > left and bottom > top:
        colours = _colours(how, rng)
        if how.turns_colours:
            hsv = _hsv(how, rng)
        gray = rng.random() < how.gray
        if how.worn and rng.random() < how.worn:
            colours = _faded(how, rng)[colours]
            deviation, (row, column) = rng.uniform(0, how.noise), rng.integers(0, (GRAIN_PX, GRAIN_PX))
            noise = (deviation, int(row), int(column))
    flip = rng.random() < how.flip
    if flip:
        boxes = boxes[:, [2, 1, 0, 3]] * np.array([-1, 1, -1, 1], np.float32) + np.array([side, 0, side, 0], np.float32)
    margin = int(np.ceil(1 / scale_xy.min()) + 1)
    return Cut(
        side, (left, top, right, bottom), np.clip(source, 0, np.tile(size, 2)), margin, colours, hsv, gray, flip, noise, boxes, kinds
    )


def render(photo: NDArray[np.uint8], cut: Cut) -> NDArray[np.uint8]:
    """The pixels of a crop, `(side, side, 3) uint8`, from those of its photo, `(h, w, 3) uint8` RGB."""
    crop = np.zeros((cut.side, cut.side, 3), np.uint8)
    if not cut.is_black:
        left, top, right, bottom = cut.place
        x1, y1, x2, y2 = cut.region(*photo.shape[:2])  # only the needed rows and columns become a PIL image
        image = Image.fromarray(np.ascontiguousarray(photo[y1:y2, x1:x2]))
        box = tuple(np.minimum(cut.source - [x1, y1, x1, y1], [*image.size, *image.size]))
        part = image.resize((right - left, bottom - top), Image.Resampling.BILINEAR, box=box).point(cut.colours.ravel().tolist())
        if cut.hsv is not None:
            part = part.convert("HSV").point(cut.hsv.ravel().tolist()).convert("RGB")
        pixels = np.asarray(part)
        pixels = (pixels @ LUMA).astype(np.uint8)[:, :, None] if cut.gray else pixels
        crop[top:bottom, left:right] = noisy(pixels, cut.noise) if cut.noise[0] else pixels
    return crop[:, ::-1] if cut.flip else crop


def noisy(pixels: NDArray[np.uint8], noise: tuple[float, int, int]) -> NDArray[np.uint8]:
    """`(h, w, channels)` with `Cut.noise` added, rounded and clipped."""
    deviation, *corner = noise
    rows, columns = ((start + np.arange(length)) % GRAIN_PX for start, length in zip(corner, pixels.shape))
    return np.clip(np.rint(pixels + deviation * grain()[np.ix_(rows, columns)][..., None]), 0, 255).astype(np.uint8)


def join(parts: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The pixels of four crops of equal size as those of one mosaic, in reading order; of one as they are."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([np.concatenate(parts[:2], axis=1), np.concatenate(parts[2:], axis=1)])


def shown(cuts: Sequence[Cut]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Boxes and kinds of one cut, or of a mosaic of four."""
    places = np.array([[0, 0], [1, 0], [0, 1], [1, 1]], np.float32)
    boxes = [cut.boxes + np.tile(place * cut.side, 2) for cut, place in zip(cuts, places)]
    return np.concatenate(boxes), np.concatenate([cut.kinds for cut in cuts])


def _window(size: NDArray[Any], sample: Sample, how: Augmentation, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scale (x, y) of a photo of `size` (width, height), and where its corner lies in the crop."""
    side = how.crop_px
    fit = side / max(size)
    stretch = np.exp(rng.uniform(-1, 1) * np.log1p(how.aspect) / 2)
    stretch_xy = np.array([stretch, 1 / stretch])
    faces = sample.boxes[~sample.ignore]
    if len(faces) and rng.random() < how.zoom_probability:
        face = faces[rng.integers(len(faces))]
        wanted = _anchored(face, how.anchors_px, rng) if how.anchors_px else np.exp(rng.uniform(*np.log(how.face_px)))
        scale = min(max(wanted / max(face[3] - face[1], 1.0), how.fit[0] * fit), how.zoom_max) * stretch_xy
        slack = side - size * scale
        edge = np.clip((face[2:] - face[:2]) * scale / (2 * side), 0.1, 0.5) if how.whole_faces else np.full(2, 0.1)
        offset = rng.uniform(edge, 1 - edge) * side - (face[:2] + face[2:]) / 2 * scale
        offset = np.clip(offset, np.minimum(slack, 0), np.maximum(slack, 0))
    else:
        if how.letterbox:
            fit = side / max(size * stretch_xy)
        scale = min(fit * np.exp(rng.uniform(*np.log(how.fit))), how.zoom_max) * stretch_xy
        offset = rng.random(2) * (side - size * scale)
    return scale, np.rint(offset)


def _anchored(face: NDArray[np.float64], anchors: tuple[float, ...], rng: np.random.Generator) -> float:
    """A height for a face by data-anchor sampling: of the anchor nearest to its side, the next larger and all smaller ones one is drawn,
    and a side from half of it to twice it; but a face is never more than doubled for the next larger one.

    Source: PyramidBox (Tang et al., 2018), section 3.3, which EResFD uses.
    """
    width, height = np.maximum(face[2:] - face[:2], 1.0)
    side = float(np.sqrt(width * height))
    nearest = int(np.abs(np.asarray(anchors) - side).argmin())
    drawn = int(rng.integers(min(nearest + 1, len(anchors) - 1) + 1))
    low, high = anchors[drawn] / 2, anchors[drawn] * 2
    if drawn > nearest:
        high = max(low, min(high, 2 * side))
    return float(rng.uniform(low, high)) * height / side


def _boxes(
    sample: Sample, scale_xy: NDArray[Any], offset: NDArray[Any], how: Augmentation
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The boxes that the crop shows."""
    boxes = sample.boxes * np.tile(scale_xy, 2) + np.tile(offset, 2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    clipped = np.clip(boxes, 0, how.crop_px)
    size = clipped[:, 2:] - clipped[:, :2]
    shown = size.min(1, initial=np.inf) > 0.5
    small = (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0) < how.small_px
    hidden = size.prod(1) < how.visible * area
    kinds = np.where(sample.ignore | small | hidden, IGNORE, FACE).astype(np.uint8)
    return clipped[shown].astype(np.float32), kinds[shown]


def _colours(how: Augmentation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A look-up table `(3, 256)`: brightness, contrast and a gain for each channel in one pass over the pixels."""
    brightness, contrast = 1 + rng.uniform(-1, 1, 2) * (how.brightness, how.contrast)
    gains = 1 + rng.uniform(-1, 1, 3) * how.gain
    levels = np.arange(256)
    table = ((levels - 128) * contrast + 128)[None, :] * (brightness * gains)[:, None]
    return np.clip(np.rint(table), 0, 255).astype(np.uint8)


def _faded(how: Augmentation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A look-up table `(256,)`: the levels squeezed into a random part of their range."""
    contrast = 1 - rng.uniform(0, how.fade)
    return np.rint(np.arange(256) * contrast + rng.uniform(0, 255 * (1 - contrast))).astype(np.uint8)


def _hsv(how: Augmentation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A look-up table `(3, 256)` for hue (which goes in a circle), saturation and value.

    Source: Darknet's `distort_image`; a factor is uniform in [1, largest], then inverted half of the time.
    """
    levels = np.arange(256)
    shift = round(rng.uniform(-1, 1) * how.hue * 256)
    factors = rng.uniform(1, (how.saturation, how.exposure)) ** rng.choice((-1, 1), 2)
    scaled = [np.clip(np.rint(levels * factor), 0, 255) for factor in factors]
    return np.stack([(levels + shift) % 256, *scaled]).astype(np.uint8)
