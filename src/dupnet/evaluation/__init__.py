"""How good a detector is: matching, curves, protocols. Any callable that takes a photo and returns `Detections` can be scored."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dupnet.detections import Detections

Detect = Callable[[NDArray[np.uint8]], Detections]
"""A detector: RGB photo `(h, w, 3) uint8` to boxes in its pixels."""
