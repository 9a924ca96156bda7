"""benchmarks/sign_gradients.py: what gradients want of signs, and what comes of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from dupnet.data import wider
from dupnet.data.photos import Photos
from dupnet.nn import Network, checkpoint
from dupnet.training import recipe as recipes
from dupnet.training.detectors import compute_loss
from dupnet.training.targets import Crops, collate

RECIPE = 'spec = "dupnet-tinier-yolo"\nsteps = 1\n[augmentation]\ncrop_px = 96\n'


def test_it_prints_what_the_gradient_wants_and_what_the_loss_says(tiny_wider: Path, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(RECIPE)
    recipe = recipes.load(tmp_path / "small.toml")
    torch.manual_seed(3)
    network = Network(recipe.spec, recipe.network)  # type: ignore[arg-type]
    checkpoint.save(network.eval(), tmp_path / "network.pt")
    command = [sys.executable, "-W", "ignore", ROOT / "benchmarks/sign_gradients.py", tmp_path / "network.pt", "--data", tiny_wider]
    command += ["--recipe", tmp_path / "small.toml", "--batches", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"stages.{number}.conv" for number in range(8)] + ["grid.conv"]

    # The last layer once more: its gradient by the latent weights, which with mean|w| / mean|sign| = 1 is that by the signs.
    crops = Crops(Photos(*wider.split(tiny_wider, "train"), None), recipe.augmentation, 1_000_000, recipe.weights)
    layer = network.train().grid.conv
    signs = layer.integer_weights().detach()
    gradients, losses = [], []
    with torch.no_grad():
        layer.weight.copy_(signs)
    layer.standardize_weights = False
    for first in range(0, 96, 16):
        images, boxes, kinds = collate([crops[index] for index in range(first, first + 16)])
        network.zero_grad()
        loss = compute_loss(recipe, network(images), boxes, kinds, seen=1 << 60).total
        loss.backward()  # type: ignore[no-untyped-call]
        gradients.append(layer.weight.grad.clone())
        losses.append((float(loss.detach()), images, boxes, kinds))
    four = torch.stack(gradients[:4])
    wish = signs * four.mean(0) / (four.std(0, correction=0) / 2).clamp(min=1e-20)  # class channels have no gradient
    correlation = torch.corrcoef(torch.stack([(four[0] + four[2]).flatten(), (four[1] + four[3]).flatten()]))[0, 1]
    with torch.no_grad():
        layer.weight.view(-1)[wish.flatten().topk(10).indices] *= -1
        apart = [
            float(compute_loss(recipe, network(images), boxes, kinds, seen=1 << 60).total) - loss
            for loss, images, boxes, kinds in losses[4:]
        ]
    found = [float(number) for number in re.findall(r"-?\d+\.\d+", lines[-1].replace("+", ""))]
    expected = [correlation, 100 * (wish > 2).float().mean(), sum(apart) / 2, abs(apart[0] - apart[1]) / 2]
    assert found == [pytest.approx(float(value), abs=slack) for value, slack in zip(expected, (0.006, 0.06, 2e-4, 2e-4))]
