"""Options that act outside the losses: each reaches what it is named after. And `measure`, which trains but leaves nothing behind."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from dupnet import spec as specs
from dupnet.cli import main
from dupnet.data.augmentation import Augmentation
from dupnet.nn import NetworkOptions
from dupnet.nn.quantizers import PACT
from dupnet.spec import HeadSpec, LayerSpec, ModelSpec
from dupnet.training import loop
from dupnet.training.detectors import make_network
from dupnet.training.loop import Run, Trainer, make_optimizer
from dupnet.training.loss import LossOptions
from dupnet.training.recipe import Optimizer, Recipe

SPEC = ModelSpec(
    "tiny",
    (LayerSpec(4, pool=4, input_bits=8), LayerSpec(8, pool=4), LayerSpec(12)),
    HeadSpec(((20.0, 20.0), (36.0, 36.0)), 2.0),
)
RECIPE = Recipe(SPEC, steps=3, batch=2, augmentation=Augmentation(crop_px=64))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("bound", [0.5, 3.0])
def test_every_quantizer_begins_with_pact_bound(bound: float) -> None:
    network = make_network(replace(RECIPE, network=NetworkOptions(pact_bound=bound)))
    assert [module.bound.item() for module in network.modules() if isinstance(module, PACT)] == [bound, bound]


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_momentum_reaches_every_group_of_sgd(momentum: float) -> None:
    recipe = replace(RECIPE, optimizer=Optimizer("sgd", momentum=momentum, bound_decay=1e-4))
    groups = make_optimizer(make_network(recipe), recipe).param_groups
    assert [group["momentum"] for group in groups] == [momentum] * 4  # weights, others, bounds, the grid's scale


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("clip_norm", [0.5, 20.0, 0.0])
def test_a_huge_gradient_is_limited_before_the_optimizers_step(clip_norm: float, kind: Any, tiny_wider: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, loss=LossOptions(box=1e6), optimizer=Optimizer(kind, clip_norm=clip_norm))
    trainer, seen = Trainer(recipe, Run(tiny_wider, tmp_path, device="cpu", workers=0)), []

    def look(*_: object) -> None:
        seen.append(math.hypot(*(p.grad.norm().item() for p in trainer.network.parameters() if p.grad is not None)))

    trainer.optimizer.register_step_pre_hook(look)
    whole = trainer.take_step(*next(trainer.batches(0, 1)))["gradient_norm"].item()
    assert whole > 1000 and seen == [pytest.approx(clip_norm or whole, rel=1e-4)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time in the training loop: a step takes half a second, and as long again to load its batch."""
    now, batches, take_step = [0.0], Trainer.batches, Trainer.take_step

    def slow_batches(trainer: Trainer, first: int, last: int) -> Iterator[Any]:
        for batch in batches(trainer, first, last):
            now[0] += 0.5
            yield batch

    def slow_step(trainer: Trainer, *batch: torch.Tensor) -> dict[str, torch.Tensor]:
        now[0] += 0.5
        return take_step(trainer, *batch)

    monkeypatch.setattr(Trainer, "batches", slow_batches)
    monkeypatch.setattr(Trainer, "take_step", slow_step)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))


def test_measured_rates_are_images_a_second(clock: None, tiny_wider: Path, tmp_path: Path) -> None:
    """The bare network's without loading, the loop's with it."""
    rates = loop.measure(RECIPE, Run(tiny_wider, tmp_path / "run", device="cpu", workers=0), steps=2)
    assert rates == {"bare": 4.0, "loop": 2.0} and not (tmp_path / "run").exists()


def test_measure_prints_its_line_and_writes_nothing(clock: None, tiny_wider: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(specs.to_toml(SPEC))
    (tmp_path / "recipe.toml").write_text(f'spec = "{tmp_path / "tiny.toml"}"\nsteps = 3\nbatch = 2\n[augmentation]\ncrop_px = 64\n')
    out = tmp_path / "run"
    run = ["train", str(tmp_path / "recipe.toml"), "--data", str(tiny_wider), "--out", str(out), "--device", "cpu", "--workers", "0"]
    result = CliRunner().invoke(main, [*run, "--measure"])
    assert result.exit_code == 0, result.output
    assert result.stdout == "bare network 4.0 images/s, whole loop 2.0 images/s (50%)\n" and not out.exists()
