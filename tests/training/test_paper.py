"""The paper's recipe at a reduced size, and that every precision learns, with its optimizer and with ours."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dupnet import spec as specs
from dupnet import zoo
from dupnet.data.augmentation import Augmentation
from dupnet.errors import SpecError
from dupnet.nn import NetworkOptions
from dupnet.spec import HeadSpec, LayerSpec, ModelSpec
from dupnet.training import recipe as recipes
from dupnet.training.loop import Run, Trainer, learning_rate, scaled
from dupnet.training.recipe import Optimizer, Recipe, Schedule

SMALL = ModelSpec(
    "small",
    (
        LayerSpec(8, pool=2, input_bits=8),
        LayerSpec(16, pool=2, map_copies=2),
        LayerSpec(16, pool=2),
        LayerSpec(32, pool=2),
        LayerSpec(32, weight_copies=4),
        LayerSpec(12),
    ),
    HeadSpec(((20.0, 20.0), (36.0, 36.0))),
)
PRECISIONS = {
    "a2w1": "",
    "a2w2": "conv1-6.weight_bits=2",
    "a4w4": "conv1-6.weight_bits=4,conv2-6.input_bits=4",
    "a8w8": "conv1-6.weight_bits=8,conv2-6.input_bits=8",
    "a8w3 a2w3 a2w2 a2w1": "conv1-2.weight_bits=3,conv3.weight_bits=2",
    "the middle quantized": "conv1.weight_bits=32,conv1.input_bits=32,conv6.weight_bits=32,conv6.input_bits=32",
    "floats": "conv1-6.weight_bits=32,conv1-6.input_bits=32",
}
STEPS = 70
PAPER = replace(
    recipes.load("paper"),
    steps=STEPS,
    batch=4,
    augmentation=replace(recipes.load("paper").augmentation, crop_px=64),
    schedule=Schedule("step", warmup_steps=20),
)
OURS = Recipe(
    SMALL,
    steps=STEPS,
    batch=4,
    augmentation=Augmentation(crop_px=64, mosaic=0),
    schedule=Schedule("cosine", warmup_steps=5),
    optimizer=Optimizer(learning_rate=4e-3),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def losses(recipe: Recipe, data: Path, out: Path) -> list[float]:
    """The loss of every step."""
    trainer = Trainer(recipe, Run(data, out, device="cpu", workers=0))
    return [float(trainer.take_step(*batch)["loss"]) for batch in trainer.batches(0, recipe.steps)]


@pytest.mark.parametrize(
    ("how", "precision"),
    [
        *(("paper", precision) for precision in PRECISIONS),
        ("paper+pact", "a2w1"),
        ("paper+pact", "a8w8"),
        *(("ours", p) for p in PRECISIONS),
    ],
)
def test_every_precision_learns(how: str, precision: str, tiny_wider: Path, tmp_path: Path) -> None:
    spec = specs.derive(SMALL, PRECISIONS[precision]) if PRECISIONS[precision] else SMALL
    recipe = replace(OURS if how == "ours" else PAPER, spec=spec)
    if how == "paper+pact":
        recipe = recipes.with_model(recipe, activation="pact")
    found = losses(recipe, tiny_wider, tmp_path)
    print(how, precision, np.mean(found[:10]), np.mean(found[-10:]))
    assert np.isfinite(found).all() and np.mean(found[-10:]) < 0.85 * np.mean(found[:10])


def test_the_papers_recipe_is_what_the_paper_says() -> None:
    recipe = recipes.load("paper")
    assert (recipe.steps, recipe.optimizer.kind, recipe.augmentation.crop_px, recipe.start_from) == (100_000, "sgd", 608, "")
    rates = [learning_rate(recipe, step) for step in (29_999, 30_000, 60_000, 80_000, 90_000, 99_999)]
    assert rates == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-6])
    assert recipe.network == NetworkOptions("hwgq", gradient="mean", standardize_weights=False, spread_copies=False)
    assert recipe.spec.layers == zoo.get("table6/dupnet").layers and recipe.spec.head.centre_scale == 1
    rows = {name: recipes.with_model(recipe, spec=name) for name in ("table6/dupnet-l+pact", "table4/conv1-3", "table3/conv4-8")}
    assert all(other.spec.head == recipe.spec.head and other.spec.default_size_px == 608 for other in rows.values())
    assert all(other.spec.layers == zoo.get(name).layers for name, other in rows.items())
    assert [other.network.activation for other in rows.values()] == ["pact", "hwgq", "hwgq"]


@pytest.mark.parametrize("name", ["table6/dupnet-l+pact", "table2/a8w8-8x", "table3/conv2-8"])
def test_the_papers_recipe_takes_a_step(name: str, tiny_wider: Path, tmp_path: Path) -> None:
    trainer = Trainer(replace(recipes.with_model(PAPER, spec=name), batch=2), Run(tiny_wider, tmp_path, device="cpu", workers=0))
    before = [p.detach().clone() for p in trainer.network.parameters()]
    scalars = trainer.take_step(*next(trainer.batches(0, 1)))
    assert torch.isfinite(scalars["loss"]) and scalars["loss"] > 0
    assert all(not torch.equal(a, b) for a, b in zip(before, trainer.network.parameters()))


def test_sgd_sees_the_mean_of_the_copies_gradients(tiny_wider: Path, tmp_path: Path) -> None:
    """Layer 6's gradient is what the chain rule gives; layer 5's template has a quarter of it."""
    grads = {}
    for gradient in ("mean", "sum"):
        free = replace(PAPER.optimizer, clip_norm=0.0)
        recipe = replace(PAPER, spec=SMALL, network=replace(PAPER.network, gradient=gradient), optimizer=free)
        trainer = Trainer(recipe, Run(tiny_wider, tmp_path, device="cpu", workers=0))
        trainer.take_step(*next(trainer.batches(0, 1)))
        grads[gradient] = [trainer.network.grid.conv.weight.grad, *(stage.conv.weight.grad for stage in trainer.network.stages)]
    for layer, share in ((0, 1), (5, 1 / 4), (4, 1), (2, 1), (1, 1 / 2)):  # layer 1 lies below layer 2, whose map is doubled
        torch.testing.assert_close(grads["mean"][layer], share * grads["sum"][layer])


def test_the_optimizer_knows_every_parameter_once(tiny_wider: Path, tmp_path: Path) -> None:
    recipe = recipes.with_model(replace(PAPER, spec=SMALL), activation="pact")
    trainer = Trainer(recipe, Run(tiny_wider, tmp_path, device="cpu", workers=0))
    decays = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert len(decays) == sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(list(trainer.network.parameters()))
    stage = trainer.network.stages[0]
    assert [decays[id(p)] for p in (stage.conv.weight, stage.norm.weight, stage.activation.bound, trainer.network.grid.scale)] == [
        5e-4,
        0,
        4e-4,
        0,
    ]
    trainer.take_step(*next(trainer.batches(0, 1)))
    assert [group["lr"] / trainer.optimizer.param_groups[0]["lr"] for group in trainer.optimizer.param_groups] == [
        1,
        1,
        1,
        1 / (2 * 9 * 32),
    ]


def test_several_sizes(tiny_wider: Path, tmp_path: Path) -> None:
    sizes = (64, 96, 128)
    recipe = replace(PAPER, spec=SMALL, sizes_px=sizes, batch=1)
    trainer, seen = Trainer(recipe, Run(tiny_wider, tmp_path, device="cpu", workers=0)), []
    trainer.forward = lambda images: (seen.append(images.shape[-1]), trainer.network(images))[1]
    for batch in trainer.batches(0, 40):
        trainer.take_step(*batch)
    assert set(seen) <= set(sizes) and len(set(seen)) > 1 and all(len(set(seen[n : n + 10])) == 1 for n in range(0, 40, 10))
    with pytest.raises(SpecError, match="multiples of the model's stride 16, not 100"):
        replace(recipe, sizes_px=(96, 100))


def test_scaled_boxes_follow_the_pixels() -> None:
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    images[..., 16:48, 8:24] = 255
    smaller, boxes = scaled(images, torch.tensor([[[8.0, 16.0, 24.0, 48.0]]]), 32)
    assert boxes.tolist() == [[[4.0, 8.0, 12.0, 24.0]]] and smaller.shape == (1, 3, 32, 32)
    bright = (smaller[0, 0] > 127).nonzero()
    assert bright.min(0).values.tolist() == [8, 4] and bright.max(0).values.tolist() == [23, 11]
    assert torch.equal(smaller, smaller.round())
