"""Reference = C core: equal integers at every stage, boxes to 1e-3 pixels."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import input_map, models, of_spec, random_model, random_stage, small_model

from dupnet import _core, image, packed, reference, zoo
from dupnet.integer import IntegerModel

KERNELS = _core.kernels()
quick = settings(deadline=None, derandomize=True, database=None)


def assert_equal_maps(model: IntegerModel, pixels: np.ndarray, *, kernels: str, threads: int = 1) -> None:
    expected = reference.run(model, pixels)
    found = _core.Model(packed.to_bytes(model), kernels).run(pixels, threads=threads)
    assert len(found) == len(expected)
    for number, (a, b) in enumerate(zip(expected, found), 1):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.array_equal(a, b), f"stage {number}: {np.count_nonzero(a != b)} of {a.size} values differ"


@pytest.mark.parametrize("kernels", KERNELS)
@settings(quick, max_examples=150)
@given(model=models(), rows=st.integers(1, 5), columns=st.integers(1, 5), seed=st.integers(0, 99), threads=st.integers(1, 3))
def test_maps_of_random_models(kernels: str, model: IntegerModel, rows: int, columns: int, seed: int, threads: int) -> None:
    pixels = input_map(np.random.default_rng(seed), rows * model.stride, columns * model.stride)
    assert_equal_maps(model, pixels, kernels=kernels, threads=threads)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", [name for name in zoo.names() if zoo.get(name).is_integer])
def test_maps_of_the_zoo(kernels: str, name: str) -> None:
    model = of_spec(zoo.get(name))
    assert_equal_maps(model, input_map(np.random.default_rng(1), 48, 80), kernels=kernels, threads=2)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("weight_bits", [1, 2])
@pytest.mark.parametrize("extreme", [0, 255])
def test_sums_at_the_edge_of_16_bits(kernels: str, weight_bits: int, extreme: int) -> None:
    """All weights of one sign, all pixels white: sums reach plus and minus their bound, just below and above 2^15."""
    rng = np.random.default_rng(0)
    for map_copies in (1, 3, 4, 5, 14):
        stage = random_stage(rng, in_channels=3, filters=5, weight_bits=weight_bits, input_bits=8, output_bits=0, map_copies=map_copies)
        stage.weights[:3], stage.weights[3:] = 2**weight_bits - 1, 1 - 2**weight_bits
        model = random_model(rng, [stage], anchors=1)
        assert_equal_maps(model, np.full((4, 4, 3), extreme, np.uint8), kernels=kernels)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("copies", [{}, {"weight_copies": 5}, {"weight_copies": 64}])
@pytest.mark.parametrize("weight_bits", [7, 8])
def test_sums_at_the_edge_of_32_bits(kernels: str, copies: dict[str, int], weight_bits: int) -> None:
    """8-bit levels, all at their top: no intermediate result may leave 32 bits, though the sums themselves nearly do."""
    rng = np.random.default_rng(0)
    first = random_stage(rng, in_channels=3, filters=64, kernel=1, input_bits=8, output_bits=8)
    assert first.thresholds is not None
    first.thresholds[:] = -first.accumulator_max
    last = random_stage(
        rng, in_channels=64, filters=5, kernel=7, weight_bits=weight_bits, input_bits=8, output_bits=0, map_copies=10, **copies
    )
    last.weights[:3], last.weights[3:] = 2**weight_bits - 1, 1 - 2**weight_bits
    assert last.accumulator_max > 2**29 * (1 if weight_bits == 7 else 3)
    assert_equal_maps(random_model(rng, [first, last], anchors=1), np.full((9, 9, 3), 255, np.uint8), kernels=kernels)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize(
    ("channels", "map_copies", "weight_copies"), [(4, 3, 6), (6, 4, 8), (9, 2, 6), (12, 5, 10), (5, 7, 7), (3, 64, 64)]
)
def test_both_duplications_at_once(kernels: str, channels: int, map_copies: int, weight_copies: int) -> None:
    rng = np.random.default_rng(channels)
    first = random_stage(rng, in_channels=3, filters=channels, input_bits=8, output_bits=3)
    copies = {"map_copies": map_copies, "weight_copies": weight_copies}
    last = random_stage(rng, in_channels=channels, filters=5, weight_bits=2, input_bits=3, output_bits=0, **copies)
    assert_equal_maps(random_model(rng, [first, last], anchors=1), input_map(rng, 5, 7), kernels=kernels)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize(
    ("way", "shape"),
    [
        ("pixels", {"in_channels": 8, "filters": 16, "pool": 2, "map_copies": 4}),
        ("pixels", {"in_channels": 16, "filters": 32, "pool": 2, "map_copies": 2}),
        ("pixels", {"in_channels": 5, "filters": 7, "pool": 2}),
        ("pixels", {"in_channels": 7, "filters": 9, "pool": 2, "input_bits": 1, "map_copies": 5}),
        ("pixels", {"in_channels": 4, "filters": 8, "pool": 2, "input_bits": 3, "weight_bits": 2}),
        ("pixels", {"in_channels": 6, "filters": 3, "pool": 2, "input_bits": 4, "weight_bits": 3}),
        ("lookup", {"in_channels": 32, "filters": 64, "pool": 2}),
        ("lookup", {"in_channels": 64, "filters": 128}),
        ("lookup", {"in_channels": 128, "filters": 128, "weight_copies": 4}),
        ("lookup", {"in_channels": 128, "filters": 65, "kernel": 1, "weight_copies": 4}),
        ("lookup", {"in_channels": 33, "filters": 30, "kernel": 5}),
        ("lookup", {"in_channels": 9, "filters": 31, "kernel": 7, "input_bits": 3}),
        ("lookup", {"in_channels": 12, "filters": 33, "weight_bits": 3, "map_copies": 3, "weight_copies": 2}),
        ("lookup", {"in_channels": 10, "filters": 16, "input_bits": 4, "output_bits": 5, "map_copies": 2}),
        ("lookup", {"in_channels": 100, "filters": 40, "input_bits": 1, "output_bits": 1}),
        ("portable", {"in_channels": 2, "filters": 6, "input_bits": 8, "output_bits": 2}),
        ("portable", {"in_channels": 64, "filters": 6, "weight_bits": 8, "output_bits": 2}),
    ],
)
def test_each_way_of_the_kernels(kernels: str, extreme: bool, way: str, shape: dict[str, int]) -> None:
    """Shapes around the vectors' sizes, each by the way that is meant for it; at the extremes all weights and levels are the largest."""
    rng = np.random.default_rng(5)
    first = random_stage(rng, in_channels=3, filters=shape["in_channels"], pool=2, input_bits=8, output_bits=shape.get("input_bits", 2))
    middle = random_stage(rng, **{"output_bits": 2, **shape})
    after = random_stage(rng, in_channels=shape["filters"], filters=9, pool=2, input_bits=shape.get("output_bits", 2), output_bits=2)
    last = random_stage(rng, in_channels=9, filters=10, output_bits=0)
    stages = [first, middle, after, last]
    if extreme:
        assert first.thresholds is not None
        first.thresholds[:] = -first.accumulator_max
        middle.weights[::2] = 2**middle.weight_bits - 1
        middle.weights[1::2] = 1 - 2**middle.weight_bits
    model = random_model(rng, stages)
    if kernels != "portable":
        ways = [name for name, _ in _core.Model(packed.to_bytes(model), kernels).ways()]
        assert (ways[0], ways[1]) == ("pairs", way)
    for cells in ((1, 1), (2, 5), (1, 17), (3, 9)):
        pixels = input_map(rng, cells[0] * model.stride, cells[1] * model.stride)
        assert_equal_maps(model, pixels, kernels=kernels, threads=2)


@settings(quick, max_examples=100)
@given(
    height=st.sampled_from((1, 2, 3, 5, 16, 33, 100)),
    width=st.sampled_from((1, 2, 3, 7, 17, 64, 151)),
    rows=st.integers(1, 90),
    columns=st.integers(1, 90),
    seed=st.integers(0, 9),
)
def test_resize(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    photo = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    assert np.array_equal(_core.resize(photo, rows, columns), image.resize(photo, (rows, columns)))


@pytest.mark.parametrize(
    ("shape", "size_hw"), [((3, 5000), (1, 416)), ((16384, 2), (416, 1)), ((1, 16384), (5, 16383)), ((2, 1), (16384, 3))]
)
def test_resize_of_extreme_shapes(shape: tuple[int, int], size_hw: tuple[int, int]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert np.array_equal(_core.resize(photo, *size_hw), image.resize(photo, size_hw))


@settings(quick, max_examples=40)
@given(
    model=models(),
    shape=st.sampled_from(((1, 1), (60, 80), (97, 33), (3, 500), (40, 40))),
    size=st.integers(32, 40),
    score=st.sampled_from((0.0, 0.3, 0.5, 0.9, 1.0)),
    iou=st.sampled_from((0.0, 0.2, 0.45, 1.0)),
    threads=st.integers(1, 3),
)
def test_boxes(model: IntegerModel, shape: tuple[int, int], size: int, score: float, iou: float, threads: int) -> None:
    photo = input_map(np.random.default_rng(shape[0]), *shape)
    expected = reference.detect(model, photo, size=size, score=score, iou=iou)
    xyxy, scores = _core.Model(packed.to_bytes(model)).detect(photo, size=size, score=score, iou=iou, threads=threads)
    assert len(scores) == len(expected)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(xyxy, expected.xyxy, rtol=1e-6, atol=1e-3)


def test_many_python_threads_share_a_model() -> None:
    model = of_spec(zoo.get("dupnet-tinier-yolo"))
    core = _core.Model(packed.to_bytes(model))
    photos = [input_map(np.random.default_rng(seed), 40 + 8 * seed, 60) for seed in range(6)]

    def detect(photo: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
        return core.detect(photo, size=64, score=0.1, iou=0.5, threads=threads)

    alone = [detect(photo, 1) for photo in photos]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(detect, photos * 8, [1, 2, 3] * 16))
    for (xyxy, scores), (expected_xyxy, expected_scores) in zip(together, alone * 8):
        assert np.array_equal(xyxy, expected_xyxy) and np.array_equal(scores, expected_scores)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_after_fork() -> None:
    core = _core.Model(packed.to_bytes(small_model()))
    pixels = input_map(np.random.default_rng(0), 32, 32)
    expected = core.run(pixels, threads=3)[-1]
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if np.array_equal(core.run(pixels, threads=3)[-1], expected) else 2
        finally:
            os._exit(code)
    timer = threading.Timer(20, os.kill, (child, 9))
    timer.start()
    status = os.waitpid(child, 0)[1]
    timer.cancel()
    assert os.waitstatus_to_exitcode(status) == 0


def test_unknown_kernels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed.to_bytes(small_model())
    with pytest.raises(ValueError, match="no kernels quick run here; this build has portable"):
        _core.Model(data, "quick")
    monkeypatch.setenv("DUPNET_KERNELS", "quicker")
    with pytest.raises(ValueError, match="quicker"):
        _core.Model(data)


@pytest.mark.parametrize("kernels", KERNELS)
def test_kernels_are_forced_and_forbidden(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed.to_bytes(small_model())
    monkeypatch.setenv("DUPNET_KERNELS", kernels)
    assert _core.Model(data).kernels == kernels
    monkeypatch.setenv("DUPNET_KERNELS", ",".join(f"-{name}" for name in KERNELS[KERNELS.index(kernels) + 1 :]))
    assert _core.Model(data).kernels == kernels
    none, many = r"no kernels .* run here; this build has portable", "kernels are one name, or a list of those to avoid"
    wrongs = {"-quick": none, f"-{kernels},-quick": none, "-portable": none, "quick": none}
    for wrong, message in (wrongs | dict.fromkeys([f"{kernels},{kernels}", f"{kernels},-{kernels}", f"{kernels},"], many)).items():
        monkeypatch.setenv("DUPNET_KERNELS", wrong)
        with pytest.raises(ValueError, match=message):
            _core.Model(data)
