"""The heart of the project: torch in evaluation mode, the numpy reference and the C core give the same integers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from random_networks import shaken, torch_maps

from dupnet import Detector, cost, packed, reference, zoo
from dupnet.cli import main
from dupnet.conversion import convert, thresholds
from dupnet.errors import CheckpointError, ConversionError
from dupnet.nn import Network, NetworkOptions, checkpoint
from dupnet.nn.network import Stage
from dupnet.spec import HeadSpec, LayerSpec, ModelSpec
from dupnet.verification import first_difference, verify


@pytest.mark.parametrize("name", ["dupnet-tinier-yolo", "dupnet-tinier-yolo-l", "tinier-yolo-half", "ifq-tinier-yolo"])
@pytest.mark.parametrize("activation", ["pact", "hwgq"])
def test_torch_equals_reference_equals_core(name: str, activation: str, tmp_path: Path) -> None:
    plain = activation == "hwgq"
    options = NetworkOptions(activation=activation, standardize_weights=not plain, spread_copies=not plain)
    network = shaken(Network(zoo.get(name), options), seed=3)
    model = convert(network)
    packed.save(model, tmp_path / "model.dnet")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    ours, slow, fast = torch_maps(network, pixels), reference.run(model, pixels), Detector(tmp_path / "model.dnet").maps(pixels)
    for a, b, c in zip(ours, slow, fast, strict=True):
        assert np.array_equal(a, b) and np.array_equal(b, c)
    assert max(len(np.unique(m)) for m in slow[:-1]) == 4, "the maps must use all levels, or this test would be blind"


@pytest.mark.parametrize(("name", "most"), [("dupnet-tinier-yolo", 37786), ("dupnet-tinier-yolo-l", 46490)])
def test_the_kilobytes_that_the_paper_counts_for_weights_hold_the_whole_file(name: str, most: int) -> None:
    """Also of an untrained network, whose weights have nothing in common but the copies that one latent weight has."""
    torch.manual_seed(0)
    network = Network(zoo.get(name)).train()
    pixels = torch.randint(0, 256, (2, 3, 64, 64))
    with torch.no_grad():
        for _ in range(20):
            network(pixels)
    model = convert(network.eval())
    plain, smallest = packed.to_bytes(model), packed.to_bytes(model, smallest=True)
    assert len(smallest) <= len(plain) <= most


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    layers, bits = [], 8
    for number in range(draw(st.integers(1, 3))):
        copies = draw(
            st.sampled_from(
                [{}, {"weight_copies": 2}, {"map_copies": 3}, {"weight_copies": 4, "map_copies": 2}] if number else [{}, {"map_copies": 4}]
            )
        )
        layers.append(
            LayerSpec(
                draw(st.sampled_from([4, 8, 12])),
                draw(st.sampled_from([1, 3])),
                draw(st.sampled_from([1, 2])),
                draw(st.sampled_from([1, 2, 3, 8])),
                bits,
                **copies,
            )  # fmt: skip
        )
        bits = draw(st.sampled_from([1, 2, 4, 8]))
    layers.append(LayerSpec(6, weight_bits=draw(st.sampled_from([1, 4])), input_bits=bits))
    return ModelSpec("random", tuple(layers), HeadSpec(((16.0, 16.0),), 2.0))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(spec=specs(), seed=st.integers(0, 99), activation=st.sampled_from(["pact", "hwgq"]))
def test_random_networks(spec: ModelSpec, seed: int, activation: str) -> None:
    network = shaken(Network(spec, NetworkOptions(activation=activation, spread_copies=False)), seed)
    pixels = np.random.default_rng(seed).integers(0, 256, (2 * spec.stride, 3 * spec.stride, 3), np.uint8)
    model = convert(network)
    counted = cost.count(spec).total.file_bytes
    header = 32 + 8 + 8 + 16 * len(spec.layers) + 8 * 5
    held = sum(packed.padded(size.weights) + packed.padded(size.thresholds) for size in packed.stage_bytes(packed.to_bytes(model)))
    assert counted == header + held
    slow = reference.run(model, pixels)
    assert all(np.array_equal(a, b) for a, b in zip(torch_maps(network, pixels), slow, strict=True))


def test_thresholds_by_trying_every_accumulator() -> None:
    spec = ModelSpec("one", (LayerSpec(16, 1, input_bits=8), LayerSpec(6, 1)), HeadSpec(((9.0, 9.0),)))
    stage = shaken(Network(spec), seed=1).stages[0]
    assert isinstance(stage, Stage)
    bound = 3 * 255
    found = thresholds(stage, bound, 3)
    every = torch.arange(-bound, bound + 1)
    with torch.no_grad():
        levels = stage.activate(every.float().view(1, 1, 1, -1).expand(1, 16, 1, -1))[0, :, 0].numpy()
    counted = (every.numpy()[None, :, None] >= found[:, None, :]).sum(-1)
    assert np.array_equal(levels, counted)
    assert (found == bound + 1).any() or (found == -bound).any(), "a zero slope gives a constant level"


def test_float_layers_have_no_integer_form() -> None:
    with pytest.raises(ConversionError, match="layer 1 is full precision"):
        convert(Network(zoo.get("tinier-yolo")))


def test_verify_names_the_first_difference(tmp_path: Path) -> None:
    network = shaken(Network(zoo.get("dupnet-tinier-yolo")), seed=2)
    packed.save(convert(network), tmp_path / "model.dnet")
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)).save(photo)
    assert verify(tmp_path / "model.dnet", network, [photo], size=96).difference is None
    with torch.no_grad():
        network.stages[4].norm.bias[7] += 100
    found = verify(tmp_path / "model.dnet", network, [photo], size=96).difference
    assert found is not None and (found.stage, found.channel, found.left, found.right) == (5, 7, "torch", "reference")
    assert str(photo) in str(found)


def test_verify_refuses_another_networks_checkpoint(tmp_path: Path) -> None:
    packed.save(convert(Network(zoo.get("dupnet-tinier-yolo"))), tmp_path / "model.dnet")
    with pytest.raises(CheckpointError, match="'tinier-yolo-half' of other layers"):
        verify(tmp_path / "model.dnet", Network(zoo.get("tinier-yolo-half")).eval(), [])


def test_verify_refuses_a_file_with_another_head(tmp_path: Path) -> None:
    network, path = Network(zoo.get("dupnet-tinier-yolo")).eval(), tmp_path / "model.dnet"
    model = convert(network)
    other = tuple((w + 1, h) for w, h in model.head.anchors)
    for changed in (
        replace(model, head=replace(model.head, anchors=other)),
        replace(model, scale=model.scale * 2),
        replace(model, bias=-model.bias - 1),
    ):
        packed.save(changed, path)
        with pytest.raises(CheckpointError, match="anchors, scales or biases of the head"):
            verify(path, network, [])


@pytest.mark.parametrize("name", ["stages.0.norm.running_var", "stages.3.norm.bias", "grid.bias"])
def test_a_network_that_holds_nan_is_refused(name: str, tmp_path: Path) -> None:
    network = Network(zoo.get("dupnet-tinier-yolo"))
    network.state_dict()[name][0] = float("nan")
    with pytest.raises(ConversionError, match=f"{name} holds values that are not finite"):
        convert(network)
    checkpoint.save(network, tmp_path / "nan.pt")
    with pytest.raises(CheckpointError, match=f"nan.pt: {name} holds values that are not finite"):
        checkpoint.load(tmp_path / "nan.pt")


def test_a_network_stays_in_the_mode_it_was_in() -> None:
    network = Network(zoo.get("dupnet-tinier-yolo")).train()
    network.stages[2].norm.eval()  # frozen
    modes = [module.training for module in network.modules()]
    convert(network)
    assert [module.training for module in network.modules()] == modes
    layers = (LayerSpec(4096, kernel=1, input_bits=8), LayerSpec(12, input_bits=8, weight_bits=8))
    too_wide = Network(ModelSpec("wide", layers, HeadSpec(((9.0, 9.0), (8.0, 8.0))))).train()
    with pytest.raises(ConversionError, match="need more than the 32 bits"):
        convert(too_wide)
    assert too_wide.training


def test_an_integer_model_holds_integers(tmp_path: Path) -> None:
    model = convert(Network(zoo.get("dupnet-tinier-yolo")))
    first = model.stages[0]
    assert first.thresholds is not None
    halves = replace(first, thresholds=first.thresholds + 0.5)
    for changed, reason in (
        (replace(model, stages=(halves, *model.stages[1:])), "stage 1: thresholds must be integers, not float64"),
        (
            replace(model, stages=(replace(first, weights=first.weights.astype(float)), *model.stages[1:])),
            "stage 1: weights must be integers",
        ),
        (replace(model, default_size_px=416.5), "default size must be a whole number"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConversionError, match=reason):
            packed.save(changed, tmp_path / "model.dnet")


def test_a_checkpoint_is_not_overwritten_by_what_is_made_of_it(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    checkpoint.save(Network(zoo.get("dupnet-tinier-yolo")), path)
    before = path.read_bytes()
    for out, reason in ((path, "would overwrite the checkpoint"), (tmp_path / "face.pth", "call a packed file FACE.dnet")):
        done = CliRunner().invoke(main, ["convert", str(path), "-o", str(out)])
        assert done.exit_code == 2 and reason in " ".join(done.output.split())
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_first_difference() -> None:
    a = np.zeros((2, 3, 4), int)
    b = a.copy()
    b[1, 2, 3] = 5
    assert first_difference(a, a) is None and first_difference(a, b) == (1, 2, 3)
