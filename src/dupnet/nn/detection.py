"""Boxes from a network in torch, float layers included. For integer models the C core finds the same ones, faster.

Before: a trained `dupnet.nn.Network`. After: `dupnet.detections`, or an evaluation that takes any such function.
"""

from __future__ import annotations

import numpy as np
import torch

from dupnet import image
from dupnet.detections import Detections, nms
from dupnet.head import decode
from dupnet.nn.network import Network


@torch.no_grad()
def detect(
    network: Network, source: image.Source, *, size: int | None = None, score: float | None = None, iou: float = 0.45
) -> Detections:
    """Find boxes in a photo, as `dupnet.Detector` does.

    Args:
        network: in evaluation mode, on any device.
        source: a path, an array or a PIL image (`dupnet.image.read`).
        size: long side of the scaled photo in pixels; the model's default if None.
        score: lowest score kept; the model's default if None.
        iou: of two boxes that overlap by more than this, the better stays.

    Example:
        >>> from dupnet import zoo
        >>> photo = np.zeros((90, 120, 3), np.uint8)
        >>> len(detect(Network(zoo.get("tinier-yolo")).eval(), photo, size=128))
        0
    """
    spec = network.spec
    photo = image.read(source)
    view = image.to_input(photo, spec.default_size_px if size is None else size, stride=spec.stride)
    pixels = torch.from_numpy(view.pixels).permute(2, 0, 1)[None].to(network.grid.bias.device)
    boxes, scores = decode(network(pixels)[0].numpy(force=True), spec.head, spec.stride)
    sure = scores >= np.float32(spec.default_score if score is None else score)
    boxes, scores = boxes[sure], scores[sure]
    kept = nms(boxes, scores, threshold=iou)
    return Detections(image.to_photo(boxes[kept], view), scores[kept], photo)
