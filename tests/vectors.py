"""Vectors for `tests/core/agreement.c`: what the reference says about random models, the zoo's shapes and the models that ship."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from random_models import general_model_by_choice, input_map, model_by_choice, of_spec
from tools import ROOT

from dupnet import image, packed, reference, zoo
from dupnet.detections import iou
from dupnet.head import OBJECTNESS, decode
from dupnet.integer import IntegerModel
from dupnet.spec import GRID_CHANNELS

PHOTOS = [ROOT / "examples" / name for name in ("astronaut.jpg", "grace_hopper.jpg")]
END, MODEL, MAPS, BOXES, RESIZE = range(5)
EXTREME_RESIZES = [((3, 5000), (1, 416)), ((16384, 2), (416, 1)), ((1, 16384), (5, 1000)), ((2, 1), (1000, 3)), ((97, 33), (97, 33))]


def u32(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def model_record(data: bytes) -> bytes:
    return u32(MODEL, len(data)) + data


def maps_record(model: IntegerModel, pixels: NDArray[np.uint8]) -> bytes:
    parts = [u32(MAPS, *pixels.shape[:2]), pixels.tobytes()]
    for stage, values in zip(model.stages, reference.run(model, pixels)):
        parts += [u32(stage.output_bits, *values.shape), values.astype("u1" if stage.output_bits else "<i4").tobytes()]
    return b"".join(parts)


def is_decided(model: IntegerModel, photo: NDArray[np.uint8], *, size: int, score: float, iou_most: float) -> bool:
    """Whether no decision on the way to the boxes hangs on the last bits of `expf`, which differ between C libraries: no score within 1e-6
    of the lowest one or of another (equal logits aside), no overlap within 1e-4 of the most that is allowed."""
    grid = reference.grid_values(model, reference.run(model, image.to_input(photo, size, stride=model.stride).pixels)[-1])
    boxes, scores = decode(grid, model.head, model.stride)
    sure = scores >= score
    logits = grid[OBJECTNESS::GRID_CHANNELS].transpose(1, 2, 0).reshape(-1)[sure]
    order = np.argsort(logits)
    near = (np.diff(scores[sure][order]) < 1e-6) & (np.diff(logits[order]) != 0)
    return not near.any() and np.abs(scores - score).min() > 1e-6 and np.abs(iou(boxes[sure], boxes[sure]) - iou_most).min(initial=1) > 1e-4


def boxes_record(model: IntegerModel, photo: NDArray[np.uint8], *, size: int, score: float, iou_most: float) -> bytes:
    found = reference.detect(model, photo, size=size, score=score, iou=iou_most)
    numbers = np.concatenate([found.xyxy, found.scores[:, None]], axis=1).astype("<f4")
    head = u32(BOXES, photo.shape[1], photo.shape[0], size) + struct.pack("<2f", score, iou_most)
    return head + photo.tobytes() + u32(len(found)) + numbers.tobytes()


def resize_record(photo: NDArray[np.uint8], size_hw: tuple[int, int]) -> bytes:
    return u32(RESIZE, photo.shape[1], photo.shape[0], *size_hw) + photo.tobytes() + image.resize(photo, size_hw).tobytes()


def of_random_models(count: int) -> Iterator[bytes]:
    """Every shape that the format permits, at small sizes."""
    rng = np.random.default_rng(5)
    options: dict[str, Any] = {"size": 40, "score": 0.3, "iou_most": 0.45}
    for _ in range(count):
        model = model_by_choice(lambda values: values[rng.integers(len(values))])
        yield model_record(packed.to_bytes(model))
        rows, columns = rng.integers(1, 6, 2) * model.stride
        yield maps_record(model, input_map(rng, rows, columns))
        calm = dataclasses.replace(model, scale=model.scale / 16)  # few scores so near to 1 that floats cannot tell them apart
        photo = input_map(rng, *rng.integers(1, 90, 2))
        if is_decided(calm, photo, **options):
            yield model_record(packed.to_bytes(calm)) + boxes_record(calm, photo, **options)


def of_general_models(count: int) -> Iterator[bytes]:
    """Steps, large kernels and pools, no padding: classifiers, and detectors in between."""
    rng = np.random.default_rng(8)
    for number in range(count):
        with_boxes = number % 3 == 0
        model = general_model_by_choice(lambda values: values[rng.integers(len(values))], with_boxes=with_boxes)
        sides = rng.integers(1, 4, 2) * model.stride if with_boxes else model.default_size_px + rng.integers(0, 9, 2)
        yield model_record(packed.to_bytes(model)) + maps_record(model, input_map(rng, *sides))


def of_the_zoo() -> Iterator[bytes]:
    """Random numbers in the shapes of the zoo; then the models that ship, on the example photos."""
    rng = np.random.default_rng(6)
    for name in zoo.names():
        if zoo.get(name).is_integer:
            model = of_spec(zoo.get(name))
            yield model_record(packed.to_bytes(model)) + maps_record(model, input_map(rng, 48, 80))
    for name in zoo.model_names():
        model = packed.load(zoo.model_path(name))
        yield model_record(packed.to_bytes(model))
        for path in PHOTOS:
            photo = image.read(path)
            yield maps_record(model, image.to_input(photo, 128, stride=model.stride).pixels)
            yield boxes_record(model, photo, size=224, score=0.02, iou_most=0.45)


def of_resizes() -> Iterator[bytes]:
    """Shapes at the limits."""
    rng = np.random.default_rng(7)
    for shape, size_hw in EXTREME_RESIZES:
        yield resize_record(input_map(rng, *shape), size_hw)


def write(path: Path, records: Iterable[bytes]) -> None:
    """Write a file of vectors."""
    path.write_bytes(b"".join(records) + u32(END))
