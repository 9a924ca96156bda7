"""Types of the extension that bindings/_training.cpp makes."""

import numpy as np
from numpy.typing import NDArray

def pool(map: NDArray[np.float32], pooled: NDArray[np.float32], place: NDArray[np.uint8], threads: int) -> None: ...
def unpool(gradient: NDArray[np.float32], place: NDArray[np.uint8], map: NDArray[np.uint16], threads: int) -> None: ...
def first_gradient(
    photos: NDArray[np.uint8], gradient: NDArray[np.float32], place: NDArray[np.uint8], weights: NDArray[np.float32], threads: int
) -> None: ...
