"""The promise checked on real photos: torch, the numpy reference and the C core give the same integer everywhere.

Not a tolerance: the first difference is reported by its place and both values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dupnet import image as images
from dupnet import packed, reference, zoo
from dupnet.conversion import convert
from dupnet.errors import CheckpointError
from dupnet.head import integer_channels
from dupnet.integer import spec_of
from dupnet.nn.network import Network
from dupnet.runtime import Classifier, Detector


@dataclass(frozen=True)
class Difference:
    """Where two implementations first disagree.

    Attributes:
        photo: path of the photo, or its number.
        stage: 1 is the first.
        channel, row, column: in the stage's map.
        left, right: names of the two implementations.
        left_value, right_value: what they say there.
    """

    photo: str
    stage: int
    channel: int
    row: int
    column: int
    left: str
    right: str
    left_value: int
    right_value: int

    def __str__(self) -> str:
        return (
            f"{self.photo}: stage {self.stage}, channel {self.channel}, row {self.row}, column {self.column}: "
            f"{self.left} has {self.left_value}, {self.right} has {self.right_value}"
        )


@dataclass(frozen=True)
class Verification:
    """Photos, stages and single values compared, and the first difference or None."""

    photos: int
    stages: int
    values: int
    difference: Difference | None


def verify(path: str | Path, network: Network, photos: Iterable[images.Source], *, size: int | None = None) -> Verification:
    """Compare every map of every stage on every photo: torch against the reference, the reference against the C core.

    Of a detector's grid without the class channels, which an integer model does not have. A classifier gets photos resized to a square.

    Args:
        path: packed file, or the name of one that ships.
        network: the network that it was made from, in evaluation mode.
        photos: paths, or pixels.
        size: long side of the network's input, for a classifier both; None for the model's default.

    Raises:
        CheckpointError: the network has other layers than the packed file, or another head: anchors, scales or biases.
    """
    path = zoo.model_path(path)
    model = packed.load(path)
    core = Classifier(path) if model.head.classes else Detector(path)
    if (spec_of(model).layers, model.head.classes) != (network.spec.layers, network.spec.head.classes):
        raise CheckpointError(
            f"{path} holds {model.name!r}, the checkpoint a {network.spec.name!r} of other layers: it was not made from that"
        )
    again = packed.from_bytes(packed.to_bytes(convert(network)))  # anchors are rounded as a file holds them
    if again.head != model.head or not (np.array_equal(again.scale, model.scale) and np.array_equal(again.bias, model.bias)):
        raise CheckpointError(f"{path}: anchors, scales or biases of the head are not those of the checkpoint")
    count, values = 0, 0
    for photo in photos:
        side = size or model.default_size_px
        pixels = images.read(photo)
        if model.head.classes:
            pixels = images.resize(pixels, (side, side))
        else:
            pixels = images.to_input(pixels, side, stride=model.stride).pixels
        with torch.no_grad():
            torch_maps = [m[0].numpy() for m in network.maps(torch.from_numpy(pixels).permute(2, 0, 1)[None])]
        torch_maps[-1] = integer_channels(torch_maps[-1], model.head)
        numpy_maps, core_maps = reference.run(model, pixels), core.maps(pixels)
        count += 1
        for left, right, pair in (("torch", "reference", (torch_maps, numpy_maps)), ("reference", "core", (numpy_maps, core_maps))):
            for stage, (a, b) in enumerate(zip(*pair, strict=True), 1):
                values += a.size
                if (place := first_difference(a, b)) is not None:
                    name = f"photo {count}" if isinstance(photo, np.ndarray) else str(photo)
                    found = Difference(name, stage, *place, left, right, int(a[place]), int(b[place]))
                    return Verification(count, len(model.stages), values, found)
    return Verification(count, len(model.stages), values, None)


def first_difference(a: NDArray[Any], b: NDArray[Any]) -> tuple[int, int, int] | None:
    """Channel, row and column of the first unequal value of two maps `(channels, rows, columns)`, or None."""
    if a.shape != b.shape:
        raise ValueError(f"maps of different shapes: {a.shape} and {b.shape}")
    unequal = np.argwhere(a != b)
    return (int(unequal[0][0]), int(unequal[0][1]), int(unequal[0][2])) if len(unequal) else None
