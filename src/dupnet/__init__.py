"""Face detectors of 37 KB: 1-bit weights, 2-bit activations, integers only.

    import dupnet
    faces = dupnet.Detector().detect("group.jpg")
    print(faces.xyxy, faces.scores)

The path of a photo: `dupnet.image` -> `dupnet.runtime` (the C core) -> `dupnet.detections`. The path of a model:
`dupnet.spec` -> `dupnet.nn` -> `dupnet.training` -> `dupnet.conversion` -> `dupnet.integer` -> `dupnet.packed`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dupnet import cost, zoo
from dupnet.detections import Detections
from dupnet.errors import DupnetError
from dupnet.integer import IntegerModel
from dupnet.packed import load, save
from dupnet.runtime import Classifier, Detector
from dupnet.spec import ModelSpec

if TYPE_CHECKING:
    from dupnet.conversion import convert as convert
    from dupnet.training.loop import train as train

__version__ = "0.1.0"
__all__ = [
    "Classifier", "Detections", "Detector", "DupnetError", "IntegerModel", "ModelSpec", "cost", "load", "save", "zoo",
]  # fmt: skip

_NEEDS_TORCH = {"convert": "dupnet.conversion", "train": "dupnet.training.loop"}
"""Public names, too, but `from dupnet import *` leaves them out: it must work without torch."""


def __getattr__(name: str) -> Any:
    """`convert` and `train` import torch when they are first used."""
    if name in _NEEDS_TORCH:
        import importlib

        try:
            return getattr(importlib.import_module(_NEEDS_TORCH[name]), name)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ModuleNotFoundError(f"dupnet.{name} needs torch: pip install 'dupnet[train]'", name="torch") from None
    raise AttributeError(f"module 'dupnet' has no attribute {name!r}")
