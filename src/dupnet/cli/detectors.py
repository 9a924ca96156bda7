"""One word for a model on the command line, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dupnet import image, zoo
from dupnet.detections import Detections
from dupnet.views import Views, detect

if TYPE_CHECKING:
    from dupnet.nn.detection import NetworkDetector
    from dupnet.nn.eresfd import EResFDDetector
    from dupnet.runtime import Detector


def open_detector(model: str | None, *, threads: int) -> Detector | NetworkDetector | EResFDDetector:
    """The detector that `model` names: a checkpoint (`.pt`, `.pth`) or EResFD's published weights
    (`.base.pth` and its two siblings) run in torch, anything else in the C core.

    Raises:
        ModuleNotFoundError: a checkpoint, but no torch; the program says what to install.
    """
    if model is None or not zoo.is_checkpoint(model):
        from dupnet.runtime import Detector

        return Detector(model, threads=threads)
    import torch

    from dupnet.nn import checkpoint
    from dupnet.nn.detection import NetworkDetector
    from dupnet.nn.eresfd import EResFD, EResFDDetector

    torch.set_num_threads(threads)
    network = checkpoint.load_any(model)
    return EResFDDetector(network, device="auto") if isinstance(network, EResFD) else NetworkDetector(network, device="auto")


def looking(
    detector: Detector | NetworkDetector | EResFDDetector, views: Views, *, score: float | None, iou: float | None
) -> Callable[[image.Source], Detections]:
    """From a photo to boxes, by as many looks as `views` says."""
    overlap = detector.default_iou if iou is None else iou
    lowest = detector.default_score if score is None else score

    def find(pixels: NDArray[np.uint8], size: int, least: float) -> Detections:
        return detector.detect(pixels, size=size, score=least, iou=overlap)

    return lambda source: detect(find, image.read(source), views, threshold=overlap, score=lowest)
