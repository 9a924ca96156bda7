"""Types of the extension that bindings/_training.cpp makes."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
BFloats = NDArray[np.uint16]
Bytes = NDArray[np.uint8]

def pool(map: Floats, pooled: Floats, place: Bytes, threads: int) -> None: ...
def unpool(gradient: BFloats, place: Bytes, map: BFloats, threads: int) -> None: ...
def convolve_first(photos: Bytes, weights: Floats, pooled: Floats, place: Bytes, threads: int) -> None: ...
def first_gradient(photos: Bytes, gradient: Floats, place: Bytes, weights: Floats, threads: int) -> None: ...
def normalize(
    map: Floats,
    weight: Floats,
    bias: Floats,
    step: float,
    top: int,
    eps: float,
    levels: BFloats,
    mean: Floats,
    variance: Floats,
    threads: int,
) -> None: ...
def normalize_gradient(
    map: Floats,
    gradient: BFloats,
    mean: Floats,
    variance: Floats,
    weight: Floats,
    bias: Floats,
    step: float,
    top: int,
    eps: float,
    result: BFloats | Floats,
    of_weight: Floats,
    of_bias: Floats,
    threads: int,
) -> float: ...
