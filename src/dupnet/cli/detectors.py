"""One word for a model on the command line, whatever runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
    if model is None or Path(model).suffix not in (".pt", ".pth"):
        from dupnet.runtime import Detector

        return Detector(model, threads=threads)
    import torch

    from dupnet.nn import checkpoint
    from dupnet.nn.detection import NetworkDetector
    from dupnet.nn.eresfd import EResFD, EResFDDetector

    torch.set_num_threads(threads)
    network = checkpoint.load_any(model)
    return EResFDDetector(network, device="auto") if isinstance(network, EResFD) else NetworkDetector(network, device="auto")
