"""Row streaming = whole maps = reference: equal integers at every stage, equal boxes, however the rows are fed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import input_map, models, of_spec, random_model, random_stage, small_model

from dupnet import _core, image, packed, reference, zoo
from dupnet.integer import IntegerModel

quick = settings(deadline=None, derandomize=True, database=None)


def assert_equal_maps(model: IntegerModel, pixels: np.ndarray) -> None:
    expected = reference.run(model, pixels)
    found = _core.Stream.run(_core.Model(packed.to_bytes(model)), pixels)
    assert len(found) == len(expected)
    for number, (a, b) in enumerate(zip(expected, found), 1):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.array_equal(a, b), f"stage {number}: {np.count_nonzero(a != b)} of {a.size} values differ"


def assert_equal_boxes(model: _core.Model, photo: np.ndarray, cuts: list[int], **options: float) -> int:
    """Feed `photo` in blocks that begin at `cuts`; returns the number of boxes."""
    expected = model.detect(photo, **options)
    stream = _core.Stream(model, photo.shape[1], photo.shape[0], **options)
    for first, last in zip([0, *cuts], [*cuts, len(photo)]):
        stream.feed(np.ascontiguousarray(photo[first:last]))
    for a, b in zip(expected, stream.end()):
        assert np.array_equal(a, b)
    return len(expected[1])


@settings(quick, max_examples=200)
@given(model=models(), cells=st.integers(1, 5), wide=st.booleans(), seed=st.integers(0, 99))
def test_maps_of_random_models(model: IntegerModel, cells: int, wide: bool, seed: int) -> None:
    short, long = cells * model.stride, -(-32 // model.stride) * model.stride
    pixels = input_map(np.random.default_rng(seed), *((short, long) if wide else (long, short)))
    assert_equal_maps(model, pixels)


@pytest.mark.parametrize("name", [name for name in zoo.names() if zoo.get(name).is_integer])
def test_maps_of_the_zoo(name: str) -> None:
    assert_equal_maps(of_spec(zoo.get(name)), input_map(np.random.default_rng(1), 48, 80))


@pytest.mark.parametrize("weight_bits", [1, 2, 8])
@pytest.mark.parametrize("extreme", [0, 255])
def test_the_largest_sums(weight_bits: int, extreme: int) -> None:
    rng = np.random.default_rng(0)
    for map_copies, weight_copies in ((1, 1), (1, 3), (5, 1), (64, 64), (64, 1)):
        copies = {"map_copies": map_copies, "weight_copies": weight_copies}
        stage = random_stage(rng, in_channels=3, filters=5, weight_bits=weight_bits, input_bits=8, output_bits=0, **copies)
        stage.weights[:3], stage.weights[3:] = 2**weight_bits - 1, 1 - 2**weight_bits
        assert_equal_maps(random_model(rng, [stage], anchors=1), np.full((4, 32, 3), extreme, np.uint8))


@pytest.mark.parametrize("copies", [{}, {"weight_copies": 5}, {"weight_copies": 64}])
def test_sums_at_the_edge_of_32_bits(copies: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    first = random_stage(rng, in_channels=3, filters=64, kernel=1, input_bits=8, output_bits=8)
    assert first.thresholds is not None
    first.thresholds[:] = -first.accumulator_max
    last = random_stage(rng, in_channels=64, filters=5, kernel=7, weight_bits=8, input_bits=8, output_bits=0, map_copies=10, **copies)
    last.weights[:3], last.weights[3:] = 255, -255
    assert last.accumulator_max > 2**30
    assert_equal_maps(random_model(rng, [first, last], anchors=1), np.full((9, 32, 3), 255, np.uint8))


@pytest.mark.parametrize(
    ("channels", "map_copies", "weight_copies"),
    [(8, 4, 1), (32, 1, 4), (16, 3, 2), (24, 2, 6), (64, 1, 2), (8, 64, 64), (4, 3, 6), (9, 2, 6), (12, 2, 1), (5, 7, 7), (3, 64, 64)],
)
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_both_duplications_at_once(channels: int, map_copies: int, weight_copies: int, kernel: int) -> None:
    rng = np.random.default_rng(channels)
    first = random_stage(rng, in_channels=3, filters=channels, input_bits=8, output_bits=3)
    copies = {"map_copies": map_copies, "weight_copies": weight_copies}
    last = random_stage(rng, in_channels=channels, filters=5, kernel=kernel, weight_bits=2, input_bits=3, output_bits=0, **copies)
    assert_equal_maps(random_model(rng, [first, last], anchors=1), input_map(rng, 5, 32))


@settings(quick, max_examples=100)
@given(
    model=models(),
    shape=st.sampled_from(((1, 1), (60, 80), (97, 33), (3, 500), (500, 3), (40, 40), (33, 32), (32, 31), (1, 32), (200, 150))),
    size=st.sampled_from((32, 33, 39, 40, 80, 97)),
    score=st.sampled_from((0.0, 0.3, 0.5, 0.9, 1.0)),
    iou=st.sampled_from((0.0, 0.2, 0.45, 1.0)),
    data=st.data(),
)
def test_boxes(model: IntegerModel, shape: tuple[int, int], size: int, score: float, iou: float, data: st.DataObject) -> None:
    photo = input_map(np.random.default_rng(shape[0]), *shape)
    cuts = sorted(data.draw(st.lists(st.integers(0, shape[0]), max_size=6)))
    assert_equal_boxes(_core.Model(packed.to_bytes(model)), photo, cuts, size=size, score=score, iou=iou)


@pytest.mark.parametrize("size", [104, 128, 300])
@pytest.mark.parametrize("score", [0.0, 0.02, 0.3])
def test_boxes_of_the_shipped_model(size: int, score: float) -> None:
    model = _core.Model(zoo.model_path("dupnet-tinier-yolo").read_bytes())
    photo = image.resize(image.read("examples/astronaut.jpg"), (96, 128))
    assert assert_equal_boxes(model, photo, list(range(1, 96)), size=size, score=score, iou=0.45) > 0


def test_boxes_of_equal_score_keep_their_order() -> None:
    """A gray photo: all cells that see no border are equal."""
    model = of_spec(zoo.get("dupnet-tinier-yolo"))
    photo = np.full((160, 160, 3), 99, np.uint8)
    assert assert_equal_boxes(_core.Model(packed.to_bytes(model)), photo, [], size=160, score=0.0, iou=0.3) > 10


def test_wrong_order_and_numbers_of_rows() -> None:
    model, photo = _core.Model(packed.to_bytes(small_model())), input_map(np.random.default_rng(0), 40, 64)
    options = {"size": 64, "score": 0.3, "iou": 0.45}
    stream = _core.Stream(model, 64, 40, **options)
    stream.feed(photo[:39])
    with pytest.raises(ValueError, match="more rows than were fed"):
        stream.end()
    with pytest.raises(ValueError, match="more rows were fed"):
        stream.feed(photo[:2])
    with pytest.raises(ValueError, match="width"):
        stream.feed(np.ascontiguousarray(photo[39:, :63]))
    stream.feed(photo[39:])
    boxes, _ = stream.end()
    assert len(boxes) and np.array_equal(boxes, model.detect(photo, **options)[0])
    for call in (stream.end, lambda: stream.feed(photo[:0])):
        with pytest.raises(ValueError, match="has ended"):
            call()
