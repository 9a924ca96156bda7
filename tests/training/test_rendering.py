"""Crops made by torch are those that Pillow makes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dupnet.data import wider
from dupnet.data.augmentation import Augmentation
from dupnet.data.photos import Photos
from dupnet.training import loop
from dupnet.training.recipe import Recipe
from dupnet.training.rendering import Renderer, can_render
from dupnet.training.targets import Crops, collate

VARIANTS = {
    "as ever": Augmentation(crop_px=96, face_px=(8, 90)),
    "gray": Augmentation(crop_px=64, gray=1, mosaic=0),
    "mosaics": Augmentation(crop_px=128, mosaic=1, aspect=0.5),
    "worn": Augmentation(crop_px=96, worn=0.7, noise=40, gray=0.5),
    "far away": Augmentation(crop_px=96, zoom_probability=0, fit=(0.05, 0.3)),
    "close": Augmentation(crop_px=96, zoom_probability=1, face_px=(100, 300), zoom_max=9, fit=(0.1, 1)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_crops_are_those_of_pillow(name: str, tiny_wider: Path, tmp_path: Path) -> None:
    samples, images = wider.split(tiny_wider, "train")
    photos = Photos(samples, images, tmp_path)
    rendered = Crops(photos, VARIANTS[name], 5)
    decided = Crops(photos, VARIANTS[name], 5, rendered=False)
    wanted = collate([rendered[n] for n in range(24)])
    given = collate([decided[n] for n in range(24)])
    pixels = Renderer(photos, torch.device("cpu"))(given[0])
    assert pixels.shape == wanted[0].shape and pixels.dtype == torch.uint8 and pixels.is_contiguous(memory_format=torch.channels_last)
    difference = (pixels.int() - wanted[0].int()).abs()
    assert difference.max() <= 2 and difference.float().mean() < 0.05, "but for rounding"
    assert torch.equal(given[1], wanted[1]) and torch.equal(given[2], wanted[2])
    assert wanted[0].float().std() > 5, "the crops show something"


def test_a_photo_that_is_not_in_the_crop_leaves_it_black(tmp_path: Path, tiny_wider: Path) -> None:
    samples, images = wider.split(tiny_wider, "train")
    photos = Photos(samples, images, tmp_path)
    number, cut = Crops(photos, VARIANTS["gray"], 5, rendered=False)[0][0][0]
    cut.colours[:] = 255
    outside = type(cut)(**(vars(cut) | {"place": (64, 0, 64, 10)}))
    pixels = Renderer(photos, torch.device("cpu"))([[(number, cut)], [(number, outside)]])
    assert pixels[0].max() == 255 and pixels[1].max() == 0


def test_training_on_crops_of_the_device(tiny_wider: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(spec=loop.recipes.load("first-light").spec, steps=2, batch=2, augmentation=Augmentation(crop_px=64))
    run = loop.Run(tiny_wider, tmp_path / "run", tmp_path / "cache", device="cpu", workers=0)
    usual = [images for images, _, _ in loop.Trainer(recipe, run).batches(0, 2)]
    monkeypatch.setattr(loop, "can_render", lambda *_: True)
    trainer = loop.Trainer(recipe, run)
    assert trainer.renderer is not None
    for batch, images in zip(trainer.batches(0, 2), usual):
        assert (batch[0].int() - images.int()).abs().max() <= 2
        assert np.isfinite(float(trainer.take_step(*batch)["loss"]))
    trainer.finished()


def test_a_cpu_leaves_crops_to_the_loader(tiny_wider: Path, tmp_path: Path) -> None:
    samples, images = wider.split(tiny_wider, "train")
    assert not can_render(VARIANTS["as ever"], Photos(samples, images, tmp_path), torch.device("cpu"))
