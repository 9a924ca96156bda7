"""benchmarks/crop_loss.py: the same crops for all networks, differences with their standard error."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from dupnet import zoo
from dupnet.data import wider
from dupnet.data.photos import Photos
from dupnet.nn import Network, checkpoint
from dupnet.training import recipe as recipes
from dupnet.training.detectors import compute_loss
from dupnet.training.targets import Crops, collate


def test_it_prints_the_loss_of_each_network_and_what_it_differs_by(tiny_wider: Path, tmp_path: Path) -> None:
    networks = []
    for number in range(2):
        torch.manual_seed(number)
        networks.append(Network(zoo.get("dupnet-tinier-yolo")).eval())
        checkpoint.save(networks[-1], tmp_path / f"{number}.pt")
    paths = [str(tmp_path / name) for name in ("0.pt", "1.pt")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "benchmarks/crop_loss.py", *paths, "--data", tiny_wider, "--crops", "17"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [[float(number) for number in re.findall(r"[+-]?\d+\.\d{4}", line.rpartition(".pt: ")[2])] for line in done.stdout.splitlines()]

    recipe = recipes.load("cool")
    with pytest.warns(UserWarning, match="no photo is in such a folder"):
        crops = Crops(Photos(*wider.split(tiny_wider, "train"), None), recipe.augmentation, 1_000_000, recipe.weights)
    shown = [collate([crops[index] for index in range(first, first + 16)]) for first in (0, 16)]
    with torch.no_grad():
        expected = [[float(compute_loss(recipe, one(i), b, k, seen=1 << 60).total) for i, b, k in shown] for one in networks]
    apart = [ours - theirs for ours, theirs in zip(expected[1], expected[0])]
    assert found[0] == [pytest.approx(sum(expected[0]) / 2, abs=1e-4)]
    assert found[1] == pytest.approx([sum(expected[1]) / 2, sum(apart) / 2, abs(apart[0] - apart[1]) / 2], abs=1e-4)
