"""Duplicated, quantized layers in a classifier of your own: trained, converted, verified, packed, run in the C core.

    pip install '.[train]' scikit-learn
    python examples/digits.py            # about a minute; --seeds 3 for means over three splits

The digits that scikit-learn ships (1,797 images of 8x8) take the place of your data. docs/digits.md goes through this and has the table.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import dupnet
from dupnet.nn import Network
from dupnet.spec import FULL, HeadSpec, LayerSpec
from dupnet.verification import verify

# 1. The network. Each line is a convolution, batch norm, quantizer and maybe a pool; weights have 1 bit and maps 2 if it says nothing.
PLAIN = dupnet.ModelSpec(
    "digits",
    (
        LayerSpec(16, kernel=3, input_bits=8),  # reads 8-bit pixels
        LayerSpec(32, kernel=3, pool=2),
        LayerSpec(64, kernel=3),
        LayerSpec(64, kernel=4, padding=False),  # as large as its map: a fully connected layer
        LayerSpec(10, kernel=1),
    ),
    HeadSpec(classes=10),
    default_size_px=8,
)


def changed(name: str, changes: dict[int, dict[str, int]]) -> dupnet.ModelSpec:
    """PLAIN with some layers (0 is the first) changed."""
    layers = tuple(replace(layer, **changes.get(number, {})) for number, layer in enumerate(PLAIN.layers))
    return replace(PLAIN, name=name, layers=layers)


# 2. The same one in floats, and with duplication: in two layers only a quarter of the weights is stored, and used four times.
SPECS = {
    "float": changed("digits-float", {number: {"weight_bits": FULL, "input_bits": FULL} for number in range(5)}),
    "1-bit weights, 2-bit maps": PLAIN,
    "... weights of layers 3 and 4 duplicated 4x": changed("digits-4x", {2: {"weight_copies": 4}, 3: {"weight_copies": 4}}),
    "... and the map of layer 2 duplicated 4x": changed(
        "digits-4x-4x", {1: {"map_copies": 4}, 2: {"weight_copies": 4}, 3: {"weight_copies": 4}}
    ),
}


def train(spec: dupnet.ModelSpec, images: torch.Tensor, digits: torch.Tensor, *, seed: int, epochs: int) -> Network:
    """Like any other classifier: cross-entropy on the logits, Adam, a learning rate that falls to 0. `images` are pixels 0 to 255."""
    torch.manual_seed(seed)
    network = Network(spec).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    steps = epochs * -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(network(images[batch]).flatten(1), digits[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def load(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images `(n, 8, 8, 3) uint8` to train on and to test on, and their digits. Gray is three equal channels."""
    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)[..., None].repeat(3, axis=3)
    return train_test_split(pixels, data.target, test_size=0.25, stratify=data.target, random_state=seed)


def run(spec: dupnet.ModelSpec, seed: int, epochs: int, folder: Path) -> tuple[float, float, int | None]:
    """Train, convert, pack, verify and test; returns the accuracy on the held-out images, bytes of weights, bytes of the file."""
    train_images, test_images, train_digits, test_digits = load(seed)
    network = train(spec, torch.from_numpy(train_images).permute(0, 3, 1, 2), torch.from_numpy(train_digits), seed=seed, epochs=epochs)
    weight_bytes = dupnet.cost.count(spec, (8, 8)).total.weight_bytes
    if not spec.is_integer:
        with torch.no_grad():
            found = network(torch.from_numpy(test_images).permute(0, 3, 1, 2)).flatten(1).argmax(1).numpy()
        return float(np.mean(found == test_digits)), weight_bytes, None

    # 3. Without torch from here on: integers in a file, run in the C core.
    path = folder / f"{spec.name}.dnet"
    dupnet.save(dupnet.convert(network), path)
    checked = verify(path, network, list(test_images[:50]))  # torch = reference = core, every value of every map
    assert checked.difference is None, checked.difference
    classifier = dupnet.Classifier(path)
    found = np.array([classifier.scores(image).argmax() for image in test_images])
    return float(np.mean(found == test_digits)), weight_bytes, path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description="Digits: float, quantized, duplicated.")
    parser.add_argument("--seeds", type=int, default=1, help="so many splits and initial weights; means are printed")
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    print(f"{'':46}{'accuracy':>20}{'weights':>10}{'file':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for what, spec in SPECS.items():
            results = [run(spec, seed, arguments.epochs, Path(folder)) for seed in range(arguments.seeds)]
            accuracy = [100 * result[0] for result in results]
            spread = f" ({min(accuracy):.1f} to {max(accuracy):.1f})" if len(accuracy) > 1 else ""
            file = "-" if results[0][2] is None else f"{round(np.mean([result[2] for result in results])):,} B"
            print(f"{what:46}{f'{np.mean(accuracy):.1f} %{spread}':>20}{f'{results[0][1]:,.0f} B':>10}{file:>9}", flush=True)


if __name__ == "__main__":
    main()
