"""Boxes from a network in torch, float layers included. For integer models the C core finds the same ones, faster.

Before: a trained `dupnet.nn.Network`. After: `dupnet.detections`, or an evaluation that takes any such function.
"""

from __future__ import annotations

import os

import torch

from dupnet import image
from dupnet.detections import DEFAULT_IOU, Detections, check_arguments, merge
from dupnet.errors import CheckpointError
from dupnet.head import decode
from dupnet.nn import checkpoint
from dupnet.nn.network import Network


class NetworkDetector:
    """A network with the names of `dupnet.Detector`, so that either serves where boxes are wanted.

    Args:
        network: a network, which is set to evaluation mode, or the path of a checkpoint.
        device: `"cpu"`, `"cuda"`, or `"auto"` for a GPU where there is one.

    Attributes:
        name, default_size, default_score, default_iou, stride: as of `dupnet.Detector`, from the network's spec.

    Raises:
        CheckpointError: the file cannot be used.

    Example:
        >>> faces = NetworkDetector("runs/teacher/network.pt").detect("group.jpg")    # doctest: +SKIP
    """

    def __init__(self, network: Network | str | os.PathLike[str], *, device: str = "cpu") -> None:
        if not isinstance(network, Network):
            network = checkpoint.load(os.fspath(network))
        if network.spec.head.classes:
            raise CheckpointError(f"{network.spec.name!r} gives class scores, not boxes")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.name = network.spec.name
        self.default_size = network.spec.default_size_px
        self.default_score = network.spec.default_score
        self.default_iou = DEFAULT_IOU
        self.stride = network.spec.stride

    def __repr__(self) -> str:
        return f"NetworkDetector({self.name!r}, size={self.default_size}, score={self.default_score:.2f})"

    def detect(self, source: image.Source, *, size: int | None = None, score: float | None = None, iou: float | None = None) -> Detections:
        """Find boxes in a photo: arguments, result and errors are those of `dupnet.Detector.detect`."""
        size = self.default_size if size is None else size
        score = self.default_score if score is None else score
        iou = self.default_iou if iou is None else iou
        check_arguments(size, score, iou)
        return detect(self.network, source, size=int(size), score=score, iou=iou)


@torch.no_grad()
def detect(
    network: Network, source: image.Source, *, size: int | None = None, score: float | None = None, iou: float = DEFAULT_IOU
) -> Detections:
    """Find boxes in a photo, as `dupnet.Detector` does.

    Args:
        network: in evaluation mode, on any device.
        source: a path, an array or a PIL image (`dupnet.image.read`).
        size: long side of the scaled photo in pixels; the model's default if None.
        score: lowest score kept; the model's default if None.
        iou: boxes that overlap by more than this are of the same face.

    Example:
        >>> import numpy as np
        >>> from dupnet import zoo
        >>> photo = np.zeros((90, 120, 3), np.uint8)
        >>> len(detect(Network(zoo.get("tinier-yolo")).eval(), photo, size=128))
        0
    """
    spec = network.spec
    photo = image.read(source)
    view = image.to_input(photo, spec.default_size_px if size is None else size, stride=spec.stride)
    pixels = torch.from_numpy(view.pixels).permute(2, 0, 1)[None].to(network.grid.bias.device)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # a GPU rounds no float of a float layer
        grid = network(pixels)[0].numpy(force=True)
    boxes, scores = decode(grid, spec.head, spec.stride)
    boxes, scores = merge(boxes, scores, score=spec.default_score if score is None else score, iou=iou)
    return Detections(image.to_photo(boxes, view), scores, photo)
