"""Stages of every shape (kernels to 11, steps, overlapping pools, no padding) and class scores: torch = reference = core."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import classifier, general_model_by_choice, input_map, random_model, random_stage, small_model

from dupnet import Classifier, Detector, _core, bench, cost, packed, reference, spec
from dupnet.cli import main
from dupnet.conversion import convert
from dupnet.errors import ConversionError, ModelFileError, SpecError
from dupnet.integer import IntegerModel, spec_of, validate
from dupnet.nn import Network
from dupnet.spec import HeadSpec, LayerSpec, ModelSpec
from dupnet.training import recipe
from dupnet.verification import verify

KERNELS = _core.kernels()
quick = settings(deadline=None, derandomize=True, database=None)


@st.composite
def any_model(draw: Any, with_boxes: bool = False) -> IntegerModel:
    return general_model_by_choice(lambda options: draw(st.sampled_from(options)), with_boxes=with_boxes)


def assert_equal_maps(model: IntegerModel, pixels: np.ndarray, kernels: str, threads: int) -> None:
    found = _core.Model(packed.to_bytes(model), kernels).run(pixels, threads=threads)
    for number, (a, b) in enumerate(zip(reference.run(model, pixels), found, strict=True), 1):
        assert a.shape == b.shape and np.array_equal(a, b), f"stage {number}: {np.count_nonzero(a != b)} of {a.size} values differ"


@pytest.mark.parametrize("kernels", KERNELS)
@settings(quick, max_examples=60)
@given(model=any_model(), more=st.tuples(st.integers(0, 9), st.integers(0, 9)), seed=st.integers(0, 99), threads=st.integers(1, 3))
def test_maps_and_scores_of_random_classifiers(kernels: str, model: IntegerModel, more: tuple[int, int], seed: int, threads: int) -> None:
    pixels = input_map(np.random.default_rng(seed), model.default_size_px + more[0], model.default_size_px + more[1])
    assert_equal_maps(model, pixels, kernels, threads)
    scores = _core.Model(packed.to_bytes(model), kernels).scores(pixels, threads=threads)
    expected = reference.class_scores(model, reference.run(model, pixels)[-1])
    assert scores.shape == expected.shape == (model.head.classes,) and scores.dtype == expected.dtype
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-6)  # a compiler may fuse the last multiplication and addition


@pytest.mark.parametrize("kernels", KERNELS)
@settings(quick, max_examples=60)
@given(model=any_model(with_boxes=True), rows=st.integers(1, 3), columns=st.integers(1, 3), threads=st.integers(1, 3))
def test_maps_of_random_detectors_with_steps(kernels: str, model: IntegerModel, rows: int, columns: int, threads: int) -> None:
    pixels = input_map(np.random.default_rng(rows), rows * model.stride, columns * model.stride)
    assert reference.run(model, pixels)[-1].shape[1:] == (rows, columns)
    assert_equal_maps(model, pixels, kernels, threads)


@settings(quick, max_examples=40)
@given(model=any_model(), boxes=any_model(with_boxes=True), seed=st.integers(0, 99))
def test_torch_equals_reference(model: IntegerModel, boxes: IntegerModel, seed: int) -> None:
    for shape in (spec_of(model), spec_of(boxes)):
        torch.manual_seed(seed)
        network = Network(shape)
        side = shape.default_size_px if shape.head.classes else shape.stride
        pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
        with torch.no_grad():
            for stage in network.stages:  # as after training: norms that part the sums that occur
                stage.norm.running_var.fill_(float(stage.conv.in_channels * stage.conv.kernel_size**2 * 100))
                stage.norm.bias.uniform_(-1, 1.5)
            network.eval()
            maps = [m[0].numpy() for m in network.maps(torch.from_numpy(pixels).permute(2, 0, 1)[None])]
            logits = network(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].numpy()
        integers = convert(network)
        slow = reference.run(integers, pixels)
        for a, b in zip(maps[:-1], slow[:-1], strict=True):
            assert np.array_equal(a, b)
        if shape.head.classes:
            assert np.array_equal(maps[-1], slow[-1])
            np.testing.assert_allclose(logits.mean((1, 2)), reference.class_scores(integers, slow[-1]), rtol=1e-4, atol=1e-4)


def small_classifier() -> IntegerModel:
    """Like AlexNet, small: large kernel and step without padding, an overlapping pool, a fully connected layer with an even kernel."""
    rng = np.random.default_rng(0)
    first = random_stage(rng, in_channels=3, filters=5, kernel=11, step=4, padding=False, pool=3, pool_overlap=1, input_bits=8)
    full = random_stage(rng, in_channels=5, filters=9, kernel=2, padding=False, map_copies=2)
    last = random_stage(rng, in_channels=9, filters=4, kernel=1, output_bits=0)
    return classifier(rng, [first, full, last], size=31)


def test_sizes() -> None:
    model = small_classifier()  # 31 -> 6 -> pool 2 -> 1
    assert [m.shape[1:] for m in reference.run(model, np.zeros((31, 35, 3), np.uint8))] == [(2, 3), (1, 2), (1, 2)]
    assert (model.stages[0].sides(31), model.sides(31), model.sides(26), model.stride) == ((6, 2), 1, 0, 1)


def test_files_and_errors(tmp_path: Path) -> None:
    model = small_classifier()
    path = tmp_path / "classes.dnet"
    packed.save(model, path)
    again = packed.load(path)
    assert again.head == HeadSpec(classes=4) and packed.to_bytes(again) == path.read_bytes()
    assert [(s.step, s.pool, s.pool_overlap, s.padding) for s in again.stages] == [(4, 3, 1, False), (1, 1, 0, False), (1, 1, 0, True)]
    ours = Classifier(path)
    assert (ours.classes, ours.default_size, repr(ours)) == (4, 31, "Classifier('classifier', classes=4, size=31)")
    pixels = input_map(np.random.default_rng(0), 31, 31)
    assert np.array_equal(ours.maps(pixels)[-1], reference.run(model, pixels)[-1]) and ours.scores(pixels).shape == (4,)
    elsewhere = pickle.loads(pickle.dumps(Classifier(path, threads=2)))
    assert np.array_equal(elsewhere.scores(pixels), ours.scores(pixels)) and elsewhere._threads == 2
    for wrong in (pixels[:26], np.zeros((31, 31), np.uint8), pixels.astype(float)):
        with pytest.raises(ValueError, match="input map"):
            ours.scores(wrong)
        with pytest.raises(ValueError, match="input map"):
            reference.run(model, wrong)
    with pytest.raises(ModelFileError, match="gives class scores, not boxes: dupnet.Classifier"):
        Detector(path)
    with pytest.raises(ModelFileError, match="gives boxes, not class scores: dupnet.Detector"):
        Classifier("dupnet-tinier-yolo")
    with pytest.raises(ValueError, match="gives class scores, not boxes"):
        _core.Model(path.read_bytes()).detect(pixels, size=32, score=0.5, iou=0.5)
    with pytest.raises(ValueError, match="gives boxes, not class scores"):
        _core.Model(packed.to_bytes(small_model())).scores(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="gives class scores, not boxes"):
        reference.detect(model, pixels)
    told = CliRunner().invoke(main, ["inspect", str(path)]).output
    assert "4 classes, images of 31x31 pixels" in told
    assert "is a classifier" in CliRunner().invoke(main, ["inspect", str(path), "--memory"]).output
    with pytest.raises(ModelFileError, match="is a classifier; detection is measured here"):
        bench.measure(path)
    with pytest.raises(SpecError, match="is a classifier; recipes train detectors"):
        replace(recipe.load("tiny"), spec=spec_of(model))


def test_row_streaming_says_what_it_does_not_know(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for shape in ({"step": 2}, {"kernel": 9}, {"pool": 3}):
        first = random_stage(rng, in_channels=3, filters=4, input_bits=8, **shape)
        model = random_model(rng, [first, random_stage(rng, in_channels=4, filters=5, output_bits=0)], anchors=1)
        core = _core.Model(packed.to_bytes(model))
        assert len(core.detect(np.zeros((40, 40, 3), np.uint8), size=36, score=0.0, iou=1.0)[1])
        with pytest.raises(ValueError, match="row streaming knows kernels up to 7"):
            _core.Stream(core, 40, 40, size=36, score=0.5, iou=0.5)
        packed.save(model, tmp_path / "m.dnet")
        with pytest.raises(ValueError, match="row streaming knows kernels up to 7"):
            Detector(tmp_path / "m.dnet", memory="rows")
        told = CliRunner().invoke(main, ["inspect", str(tmp_path / "m.dnet"), "--memory", "--size", "72x72"])
        assert told.exit_code == 0 and "whole maps, portable kernels" in told.output and "row streaming: not possible" in told.output


def test_rules_of_specs() -> None:
    plain, last = LayerSpec(4, input_bits=8), LayerSpec(3, 1)
    made = ModelSpec("mine", (plain, last), HeadSpec(classes=3), default_size_px=8)
    assert spec.from_toml(spec.to_toml(made)) == made and made.stride == 1
    general = LayerSpec(4, 4, 3, input_bits=8, step=2, pool_overlap=1, padding=False)
    made = ModelSpec("mine", (general, last), HeadSpec(classes=3), default_size_px=12)
    assert spec.from_toml(spec.to_toml(made)) == made
    for message, layers, head, size in (
        ("nothing is left of a map of 7x7", (general, last), HeadSpec(classes=3), 7),
        ("one for each of 4 classes", (plain, last), HeadSpec(classes=4), 8),
        ("default_size_px must be 1 to 8192", (plain, last), HeadSpec(classes=3), 0),
        ("need padding, and pools that do not overlap", (general, LayerSpec(6)), HeadSpec(((9.0, 9.0),)), 64),
    ):
        with pytest.raises(SpecError, match=message):
            ModelSpec("mine", layers, head, default_size_px=size)
    for message, fields in (
        ("an even kernel, here 2", {"kernel": 2}),
        ("kernel must be 1 to 11, not 12", {"kernel": 12}),
        ("step must be 1 to 8, not 9", {"step": 9}),
        ("pool_overlap must be 0 to 1", {"pool": 2, "pool_overlap": 2}),
        ("padding must be true or false, not 1", {"padding": 1}),
    ):
        with pytest.raises(SpecError, match=message):
            LayerSpec(4, **fields)
    with pytest.raises(SpecError, match="no anchors"):
        HeadSpec(((9.0, 9.0),), classes=3)


def test_verify_a_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = (LayerSpec(6, 5, 3, input_bits=8, step=2, pool_overlap=1, padding=False), LayerSpec(3, 2, padding=False))
    network = Network(ModelSpec("mine", layers, HeadSpec(classes=3), default_size_px=13)).eval()
    network.stages[0].norm.running_var.fill_(1e6)
    packed.save(convert(network), tmp_path / "mine.dnet")
    photo = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    checked = verify(tmp_path / "mine.dnet", network, [photo])
    assert checked.difference is None and checked.values == 2 * (6 * 2 * 2 + 3)
    with torch.no_grad():
        network.stages[0].norm.bias[2] += 100
    found = verify(tmp_path / "mine.dnet", network, [photo]).difference
    assert found is not None and (found.stage, found.channel, found.left) == (1, 2, "torch")
    assert str(found).startswith("photo 1: stage 1, channel 2, ")


def test_the_cost_of_steps_and_overlapping_pools() -> None:
    model = spec_of(small_classifier())
    layers = cost.count(model, (31, 35)).layers
    assert [layer.macs for layer in layers] == [6 * 7 * 5 * 3 * 121, 1 * 2 * 9 * 10 * 4, 1 * 2 * 4 * 9]
    assert layers[0].map_bytes == -(-(31 * 35 * 3 * 8 + 2 * 3 * 5 * 2) // 8)


def test_a_classifiers_rules_hold_before_packing() -> None:
    model = small_classifier()
    for message, wrong in (
        ("nothing is left", replace(model, default_size_px=26)),
        ("3 classes need one each", replace(model, head=HeadSpec(classes=3))),
        ("need padding", replace(model, head=HeadSpec(((9.0, 9.0),)), default_size_px=64)),
        ("even kernel, 2", replace(model, stages=(model.stages[0], replace(model.stages[1], padding=True), model.stages[2]))),
    ):
        with pytest.raises(ConversionError, match=message):
            validate(wrong)
