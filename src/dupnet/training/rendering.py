"""Crops made on the training device, a whole batch at once: `dupnet.data.augmentation.render` in torch.

The photos lie decoded in the device's memory. Resizing by Pillow's bilinear filter is linear in the pixels and separable: rows and
columns have a matrix each, whose row `i` holds the triangle of weights around the place that pixel `i` of the crop shows. A row outside the
photo is zero, a flipped crop has its columns' matrix upside down. So a batch is two batched matrix products and a table lookup.
Before: `dupnet.training.targets`, which decides on the crops. After: `dupnet.training.loop`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dupnet.data.augmentation import GRAIN_PX, LUMA, Augmentation, Cut, grain
from dupnet.data.photos import Photos
from dupnet.errors import DataError
from dupnet.training.targets import Pieces


def can_render(how: Augmentation, photos: Photos, device: torch.device) -> bool:
    """Whether crops are best made on the device: a GPU, with room for the decoded photos and as much again; and no hue to be turned, which
    only Pillow does."""
    packed = photos.packed()
    if device.type != "cuda" or packed is None or how.turns_colours:
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return 2 * packed[0].size < free


class Renderer:
    """Makes the pixels of crops.

    Args:
        photos: with a cache, which is copied to the device (3 bytes a pixel).
        device: where.

    Example:
        >>> images = Renderer(photos, torch.device("cuda"))([pieces])                                # doctest: +SKIP
    """

    def __init__(self, photos: Photos, device: torch.device) -> None:
        packed = photos.packed()
        if packed is None:
            raise DataError("only photos with a cache can be rendered on a device")
        data, self.shapes, self.starts = packed
        self.pixels = torch.from_numpy(np.asarray(data)).to(device)

    def __call__(self, crops: Sequence[Pieces]) -> Tensor:
        """The crops that `Crops` without `rendered` describes, `(n, 3, side, side) uint8`, channels last in memory. They are Pillow's, but
        Pillow's weights are fixed-point numbers, these are not, so some levels are 1 off before the colours change."""
        side = max(pieces[0][1].side * (1 if len(pieces) == 1 else 2) for pieces in crops)
        images = torch.empty(len(crops), side, side, 3, dtype=torch.uint8, device=self.pixels.device)
        for count in (1, 4):
            which = [row for row, pieces in enumerate(crops) if len(pieces) == count]
            if which:
                parts = self._render([piece for row in which for piece in crops[row]])
                across = 1 if count == 1 else 2
                parts = parts.view(len(which), across, across, side // across, side // across, 3)
                images[which] = parts.permute(0, 1, 3, 2, 4, 5).reshape(len(which), side, side, 3)
        return images.permute(0, 3, 1, 2)

    def _render(self, pieces: Pieces) -> Tensor:
        """`(n, side, side, 3) uint8` of single cuts of one size."""
        device, side, cuts = self.pixels.device, pieces[0][1].side, [cut for _, cut in pieces]
        regions = [(0, 0, 1, 1) if cut.is_black else cut.region(*self.shapes[number]) for number, cut in pieces]
        photos = [self._photo(number)[y1:y2, x1:x2] for (number, _), (x1, y1, x2, y2) in zip(pieces, regions)]
        height, width = (max(photo.shape[axis] for photo in photos) for axis in (0, 1))
        source = torch.zeros(len(cuts), height, width, 3, dtype=torch.uint8, device=device)
        for row, photo in enumerate(photos):
            source[row, : photo.shape[0], : photo.shape[1]] = photo
        columns, rows = (_matrices(cuts, regions, axis, device) for axis in (0, 1))
        flat = source.float().transpose(1, 2).reshape(len(cuts), width, height * 3)
        across = _rounded(columns @ flat).view(len(cuts), side, height, 3).transpose(1, 2).reshape(len(cuts), height, side * 3)
        sized = _rounded(rows @ across).view(len(cuts), side, side, 3)
        tables = torch.from_numpy(np.stack([cut.colours for cut in cuts])).to(device)
        levels = sized.long().view(len(cuts), side * side, 3).transpose(1, 2)
        coloured = tables.gather(2, levels).transpose(1, 2).view(len(cuts), side, side, 3)
        luma = (coloured.float() @ torch.from_numpy(LUMA).to(device)).floor().to(torch.uint8)[..., None]
        gray = torch.tensor([cut.gray for cut in cuts], device=device).view(-1, 1, 1, 1)
        inside = (rows.sum(2) > 0)[:, :, None, None] & (columns.sum(2) > 0)[:, None, :, None]
        shades = torch.where(gray, luma, coloured)
        if any(cut.noise[0] for cut in cuts):
            shades = torch.stack([self._noisy(part, cut) for part, cut in zip(shades, cuts)])
        return torch.where(inside, shades, 0)

    def _noisy(self, pixels: Tensor, cut: Cut) -> Tensor:
        """`(side, side, 3) uint8` with the cut's noise, as `dupnet.data.augmentation.noisy` adds it."""
        (left, top, _, _), (deviation, row, column) = cut.place, cut.noise
        rows, columns = ((torch.arange(cut.side) + start) % GRAIN_PX for start in (row - top, column - left))
        noise = torch.from_numpy(grain())[rows[:, None], columns.flip(0) if cut.flip else columns].to(pixels.device)
        return (pixels + deviation * noise[..., None]).round().clamp(0, 255).to(torch.uint8)

    def _photo(self, number: int) -> Tensor:
        (height, width), start = self.shapes[number], self.starts[number]
        return self.pixels[start : start + 3 * height * width].view(height, width, 3)


def _rounded(x: Tensor) -> Tensor:
    return (x + 0.5).floor().clamp(0, 255)


def _matrices(cuts: Sequence[Cut], regions: Sequence[tuple[int, int, int, int]], axis: int, device: torch.device) -> Tensor:
    """Along one axis (0: x, 1: y) the weights of every pixel of a cut's region in every pixel of the crop, `(n, side, longest region)`.

    Source: Pillow's Resample.c: the triangle is as wide as a pixel of the crop, at least as one of the photo, and its weights sum up to 1.
    """
    first = np.array([cut.place[axis] for cut in cuts])
    count = np.array([cut.place[axis + 2] for cut in cuts]) - first
    count[[cut.is_black for cut in cuts]] = 0
    begin, end = (np.array([cut.source[edge] - region[axis] for cut, region in zip(cuts, regions)]) for edge in (axis, axis + 2))
    lengths = [region[axis + 2] - region[axis] for region in regions]
    scale = (end - begin) / np.maximum(count, 1)
    numbers = np.stack([first, count, begin, scale, lengths])
    left, shown, begin_, scale_, length = torch.from_numpy(numbers).to(device).view(5, -1, 1, 1)
    target = torch.arange(cuts[0].side, device=device).view(1, -1, 1)
    place = target - left
    pixel = torch.arange(max(lengths), device=device).view(1, 1, -1)
    distance = (pixel + 0.5 - (begin_ + (place + 0.5) * scale_)).abs() / scale_.clamp(min=1)
    weights = (1 - distance).clamp(min=0) * ((place >= 0) & (place < shown) & (pixel < length))
    weights = (weights / weights.sum(2, keepdim=True).clamp(min=1e-9)).float()
    if axis == 0:
        flipped = torch.tensor([cut.flip for cut in cuts], device=device).view(-1, 1, 1)
        weights = torch.where(flipped, weights.flip(1), weights)
    return weights
