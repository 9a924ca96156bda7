"""From photos to batches: which photo at which step, and its boxes as padded tensors.

Example `i` of a run is a function of (seed, i) alone. So a run can stop anywhere and go on bit for bit, any number of
loader processes gives the same batches, and several machines share one order.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dupnet.data.augmentation import Augmentation, Cut, cut, join, render, shown
from dupnet.data.photos import Photos
from dupnet.errors import DataError

Pieces = list[tuple[int, Cut]]
"""What a crop is made of: one photo's number and cut, or the four of a mosaic."""

Crop = tuple[np.ndarray | Pieces, np.ndarray, np.ndarray]
"""Pixels `(side, side, 3) uint8` (or what they are to be made of), boxes `(n, 4) float32`, kinds `(n,) uint8`."""

Batch = tuple[Any, Tensor, Tensor]
"""Images, boxes and kinds, as `collate` returns them."""


class Crops(Dataset[Crop]):
    """An endless list of training crops.

    Args:
        photos: annotated photos.
        how: the augmentation.
        seed: of the run.
        weights: how often photos of a folder are drawn relative to others, by the first part of the path; 1 if absent.
        held_out: of every so many photos the first is left out; 0 for none, a negative number for nothing but those.
        rendered: with pixels; without, `dupnet.training.rendering` makes them.
    """

    def __init__(
        self,
        photos: Photos,
        how: Augmentation,
        seed: int,
        weights: dict[str, float] | None = None,
        *,
        held_out: int = 0,
        rendered: bool = True,
    ) -> None:
        self.photos, self.how, self.seed, self.rendered = photos, how, seed, rendered
        self.part = how  # of a mosaic
        if how.mosaic:
            smallest, largest = how.face_px
            self.part = replace(how, crop_px=how.crop_px // 2, face_px=(min(smallest, largest / 2), largest / 2), mosaic=0.0)
        share = np.array([(weights or {}).get(sample.photo.split("/")[0], 1.0) for sample in photos.samples])
        folders = sorted({sample.photo.split("/")[0] for sample in photos.samples})
        if unknown := sorted(set(weights or {}) - set(folders)):
            some = ", ".join(folders[:20]) + (", ..." if len(folders) > 20 else "")
            warnings.warn(f"recipe: [weights] names {', '.join(unknown)}, but no photo is in such a folder; there are {some}", stacklevel=2)
        if held_out:
            share[(np.arange(len(share)) % abs(held_out) == 0) == (held_out > 0)] = 0
        if share.sum() <= 0:
            raise DataError(f"no photo can be drawn: of {len(share)}, all that held_out = {held_out} leaves have the weight 0")
        self.cumulative = np.cumsum(share) / share.sum()

    def __getitem__(self, index: int) -> Crop:
        rng = np.random.default_rng([self.seed, index])
        mosaic = rng.random() < self.how.mosaic
        drawn = [self._draw(self.part, rng) for _ in range(4)] if mosaic else [self._draw(self.how, rng)]
        boxes, kinds = shown([cut for _, cut, _ in drawn])
        order = rng.permutation(len(boxes))  # which faces count where only so many may (`LossOptions.faces_max`) is chance
        crop = join([render(photo, cut) for _, cut, photo in drawn]) if self.rendered else [(number, cut) for number, cut, _ in drawn]
        return crop, boxes[order], kinds[order]

    def _draw(self, how: Augmentation, rng: np.random.Generator) -> tuple[int, Cut, NDArray[np.uint8]]:
        number = int(np.searchsorted(self.cumulative, rng.random(), side="right"))
        number = min(number, len(self.cumulative) - 1)
        photo = self.photos.pixels(number)
        return number, cut(photo.shape[0], photo.shape[1], self.photos.samples[number], how, rng), photo


def collate(items: list[Crop]) -> Batch:
    """Crops to a batch.

    Returns:
        images `(n, 3, side, side) uint8` (channels last in memory; or a list of the crops' pieces, where they are not rendered yet),
        boxes `(n, m, 4) float32` and kinds `(n, m) uint8` (0 = nothing), where `m` is the largest number of boxes of one crop, rounded
        up to a power of two.
    """
    pixels = [crop for crop, _, _ in items if isinstance(crop, np.ndarray)]
    images: Any = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) if pixels else [pieces for pieces, _, _ in items]
    room = 1 << max(3, max(len(item[1]) for item in items) - 1).bit_length()
    boxes = torch.zeros(len(items), room, 4)
    kinds = torch.zeros(len(items), room, dtype=torch.uint8)
    for row, (_, box, kind) in enumerate(items):
        boxes[row, : len(box)], kinds[row, : len(box)] = torch.from_numpy(box), torch.from_numpy(kind)
    return images, boxes, kinds


def batches(crops: Crops, *, batch: int, first_step: int, last_step: int, workers: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """Batches of the steps `first_step` to `last_step - 1`; process `rank` of `world` gets its share of each."""

    def indices() -> Iterator[list[int]]:
        for step in range(first_step, last_step):
            start = (step * world + rank) * batch
            yield list(range(start, start + batch))

    loader = DataLoader(
        crops,
        batch_sampler=indices(),
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
    try:
        yield from loader
    except DataError as error:  # a worker's error carries its traceback as text; its last line is the message
        raise DataError(str(error).strip().splitlines()[-1].removeprefix("dupnet.errors.DataError: ")) from None
