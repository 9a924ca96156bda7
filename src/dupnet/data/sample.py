"""One annotated photo, whatever format it came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Sample:
    """A photo and what is known of its faces.

    Attributes:
        photo: path relative to the data set's image folder.
        boxes: `(n, 4) float64`, x1 y1 x2 y2 in pixels of the photo, in the file's order; may reach outside the photo.
        ignore: `(n,) bool`: neither a face to find nor background to punish.
    """

    photo: str
    boxes: NDArray[np.float64]
    ignore: NDArray[np.bool_]
