"""Integer models for tests: every shape that the format permits, with random numbers inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dupnet.integer import IntegerModel, Stage, validate
from dupnet.spec import HeadSpec, ModelSpec

CHANNELS = (1, 2, 3, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65)
"""Around the sizes of bytes and words, and some with common divisors."""


def random_stage(
    rng: np.random.Generator,
    *,
    in_channels: int,
    filters: int,
    kernel: int = 3,
    pool: int = 1,
    weight_bits: int = 1,
    input_bits: int = 2,
    output_bits: int = 2,
    weight_copies: int = 1,
    map_copies: int = 1,
    step: int = 1,
    pool_overlap: int = 0,
    padding: bool = True,
) -> Stage:
    """A stage whose thresholds part the sums that occur; a few are the extreme ones of the format."""
    stored = in_channels * map_copies // weight_copies
    codes = rng.integers(0, 2**weight_bits, (filters, stored, kernel, kernel))
    weights = (2 * codes - (2**weight_bits - 1)).astype(np.int16)
    bound = kernel**2 * in_channels * map_copies * (2**weight_bits - 1) * (2**input_bits - 1)
    thresholds = None
    if output_bits:
        spread = bound / np.sqrt(kernel**2 * stored) / weight_copies**0.25
        t = rng.normal(0, spread, (filters, 2**output_bits - 1))
        t[rng.random(t.shape) < 0.05] = -bound
        t[rng.random(t.shape) < 0.05] = bound + 1
        thresholds = np.sort(np.clip(t.round(), -bound, bound + 1).astype(np.int32), axis=1)
    return Stage(weights, weight_bits, input_bits, weight_copies, map_copies, pool, thresholds, step, pool_overlap, padding)


def random_model(
    rng: np.random.Generator, stages: list[Stage], *, anchors: int = 2, name: str = "random", score: float = 0.5
) -> IntegerModel:
    """A model of these stages, the last of which has `5 * anchors` filters and no thresholds."""
    scale = 4 / max(1.0, stages[-1].accumulator_max ** 0.5)
    sizes = tuple((float(np.float32(w)), float(np.float32(h))) for w, h in rng.uniform(4, 40, (anchors, 2)))
    return validate(
        IntegerModel(
            name=name,
            stages=tuple(stages),
            head=HeadSpec(sizes, centre_scale=2.0),
            scale=rng.normal(0, scale, 5 * anchors).astype(np.float32),
            bias=rng.normal(0, 1, 5 * anchors).astype(np.float32),
            default_size_px=64,
            default_score=float(np.float32(score)),
        )
    )


def of_spec(spec: ModelSpec, seed: int = 0) -> IntegerModel:
    """Random numbers in a spec's shape; of the last layer only the filters that an integer model has."""
    rng = np.random.default_rng(seed)
    filters = [*(layer.filters for layer in spec.layers[:-1]), 5 * len(spec.head.anchors)]
    fields = ("kernel", "pool", "weight_bits", "input_bits", "weight_copies", "map_copies")
    outputs = [*(layer.input_bits for layer in spec.layers[1:]), 0]
    stages = [
        random_stage(rng, in_channels=channels, filters=count, output_bits=bits, **{field: getattr(layer, field) for field in fields})
        for layer, channels, count, bits in zip(spec.layers, spec.in_channels, filters, outputs)
    ]
    return random_model(rng, stages, anchors=len(spec.head.anchors), name=spec.name)


def small_model(seed: int = 0) -> IntegerModel:
    """Four stages, one with coded weights, in a file of a few hundred bytes."""
    rng = np.random.default_rng(seed)
    first = random_stage(rng, in_channels=3, filters=5, pool=2, input_bits=8, output_bits=2, map_copies=2, weight_copies=3)
    second = random_stage(rng, in_channels=5, filters=5, map_copies=2)
    second.weights[:, 5:] = second.weights[:, :5]  # copies that are worth coding
    third = random_stage(rng, in_channels=5, filters=4, kernel=1, weight_bits=8, output_bits=3)
    last = random_stage(rng, in_channels=4, filters=10, kernel=3, weight_bits=2, input_bits=3, output_bits=0, map_copies=2, weight_copies=4)
    return random_model(rng, [first, second, third, last])


def input_map(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.uint8]:
    """Noise with plain black and white places, `(rows, columns, 3) uint8`."""
    noise = rng.integers(0, 256, (rows, columns, 3))
    return np.where(rng.random((rows, columns, 1)) < 0.2, 255 * rng.integers(0, 2, (rows, columns, 1)), noise).astype(np.uint8)


def model_by_choice(choose: Callable[[Sequence[int]], int]) -> IntegerModel:
    """Any model that the format permits, small enough for the reference; `choose` picks one of several."""
    rng = np.random.default_rng(choose(range(2**32)))
    anchors, count = choose((1, 2, 3)), choose((1, 2, 3, 4))
    stages: list[Stage] = []
    channels, bits, stride = 3, 8, 1
    for number in range(count):
        last = number == count - 1
        map_copies = choose((1, 1, 2, 3, 4, 8, 64) if channels < 12 else (1, 1, 2, 3, 4))
        divisors = [r for r in range(1, 65) if channels * map_copies % r == 0]
        shape = {
            "in_channels": channels,
            "filters": 5 * anchors if last else choose(CHANNELS),
            "kernel": choose((1, 3, 3, 5, 7)),
            "pool": 1 if last or stride == 16 else choose((1, 2)),
            "weight_bits": choose((1, 1, 2, 3, 4, 5, 6, 7, 8)),
            "input_bits": bits,
            "output_bits": 0 if last else choose(range(1, 9)),
            "map_copies": map_copies,
            "weight_copies": choose(divisors),
        }
        stages.append(random_stage(rng, **shape))
        channels, bits, stride = shape["filters"], shape["output_bits"], stride * shape["pool"]
    return random_model(rng, stages, anchors=anchors)


def classifier(rng: np.random.Generator, stages: list[Stage], *, size: int, name: str = "classifier") -> IntegerModel:
    """A classifier of these stages, the last of which has no thresholds; each filter of it is a class."""
    classes = stages[-1].filters
    scale, bias = rng.normal(0, 0.1, classes).astype(np.float32), rng.normal(0, 1, classes).astype(np.float32)
    return validate(IntegerModel(name, tuple(stages), HeadSpec(classes=classes), scale, bias, size, 0.5))


def general_shape(choose: Callable[[Sequence[int]], int], *, with_boxes: bool = False) -> dict[str, Any]:
    """Kernel, step, padding and pool of any stage, or of one that a detector can have."""
    padding = with_boxes or choose((0, 1)) == 1
    pool = choose((1, 2, 3, 4, 8))
    return {
        "kernel": choose((1, 3, 5, 7, 9, 11) if padding else range(1, 12)),
        "step": choose((1, 1, 2, 3, 4, 8)),
        "padding": padding,
        "pool": pool,
        "pool_overlap": 0 if with_boxes else choose(range(pool)),
    }


def general_model_by_choice(choose: Callable[[Sequence[int]], int], *, with_boxes: bool = False) -> IntegerModel:
    """A classifier of any stages; or a detector with steps, large kernels and large pools. Small enough for the reference."""
    rng = np.random.default_rng(choose(range(2**32)))
    size, count = choose((32, 40, 33, 61) if with_boxes else (1, 5, 8, 23, 37)), choose((1, 2, 3))
    stages: list[Stage] = []
    channels, bits, side, stride = 3, 8, size, 1
    for number in range(count):
        last = number == count - 1
        shape = general_shape(choose, with_boxes=with_boxes) | ({"pool": 1, "pool_overlap": 0} if last else {})
        shape |= {
            "map_copies": choose((1, 1, 2, 3)),
            "weight_bits": choose((1, 1, 2, 8)),
            "output_bits": 0 if last else choose((1, 2, 3, 8)),
        }
        shape |= {"weight_copies": choose([r for r in range(1, 13) if channels * shape["map_copies"] % r == 0])}
        filters = 5 if last and with_boxes else choose((1, 3, 8, 9, 17))
        stage = random_stage(rng, in_channels=channels, filters=filters, input_bits=bits, **shape)
        steps = stage.step * stage.pool_step
        if stage.sides(side)[1] == 0 or (with_boxes and stride * steps > 64):  # fall back to what always fits
            plain = {"kernel": 1, "step": 1, "pool": 1, "pool_overlap": 0}
            stage = random_stage(rng, in_channels=channels, filters=stage.filters, input_bits=bits, **(shape | plain))
            steps = 1
        stages.append(stage)
        channels, bits, side, stride = stage.filters, stage.output_bits, stage.sides(side)[1], stride * steps
    return random_model(rng, stages, anchors=1) if with_boxes else classifier(rng, stages, size=size)


@st.composite
def models(draw: Any) -> IntegerModel:
    """Any model that the format permits, small enough for the reference."""
    return model_by_choice(lambda options: draw(st.sampled_from(options)))


def wide_model() -> IntegerModel:
    """A map of 4096 channels, 4 bits each: at large sizes it does not fit into the address space of 32 bits."""
    rng = np.random.default_rng(0)
    first = random_stage(rng, in_channels=3, filters=4096, kernel=1, input_bits=8, output_bits=4)
    last = random_stage(rng, in_channels=4096, filters=5, kernel=1, input_bits=4, output_bits=0)
    return random_model(rng, [first, last], anchors=1, name="wide")
