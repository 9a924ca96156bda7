"""Every quantized model of the paper, at every precision: torch = reference = core on photos; trainable; boxes agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from random_networks import shaken, torch_maps

from dupnet import Detector, packed, paper, reference, zoo
from dupnet.conversion import convert, thresholds
from dupnet.errors import ConversionError
from dupnet.nn import Network, NetworkOptions
from dupnet.nn.network import Stage, exact_dtype
from dupnet.spec import HeadSpec, LayerSpec, ModelSpec
from dupnet.verification import verify

PHOTOS = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.jpg"))
MODELS = sorted({row.spec: row.name for row in paper.rows() if zoo.get(row.name).is_integer}.values())
"""One name for each quantized model of the tables and figures."""


def options(activation: str) -> NetworkOptions:
    """The paper's plain quantizers with fixed steps, or ours with learned bounds."""
    ours = activation == "pact"
    return NetworkOptions(activation=activation, standardize_weights=ours, spread_copies=ours)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("activation", "photo"), list(zip(["pact", "hwgq"], PHOTOS, strict=True)), ids=["pact", "hwgq"])
def test_every_model_of_the_paper_on_photos(name: str, activation: str, photo: Path, tmp_path: Path) -> None:
    network = shaken(Network(zoo.get(name), options(activation)), seed=3)
    packed.save(convert(network), tmp_path / "model.dnet")
    result = verify(tmp_path / "model.dnet", network, [photo], size=64)
    assert result.difference is None and result.photos == 1
    detector, top = Detector(tmp_path / "model.dnet"), 2 ** zoo.get(name).layers[1].input_bits - 1
    used = {
        len(np.unique(m)) for m in detector.maps(np.full((64, 64, 3), 90, np.uint8) + np.arange(64, dtype=np.uint8)[:, None, None])[:-1]
    }
    assert max(used) > top // 2, "the maps must use many levels, or this test would be blind"


def test_the_precisions_of_tables_2_and_5_are_among_them() -> None:
    pairs = {(layer.input_bits, layer.weight_bits) for name in MODELS for layer in zoo.get(name).layers}
    assert pairs >= {(8, 1), (2, 1), (2, 2), (4, 4), (8, 8), (8, 3), (2, 3)}


def beyond_float32(bits: int = 8) -> Network:
    """Two layers whose sums pass 2^24 by far: weights near the top of their range, white photos."""
    layers = (
        LayerSpec(256, weight_bits=bits, input_bits=8),
        LayerSpec(64, weight_bits=bits, input_bits=8),
        LayerSpec(6, weight_bits=bits, input_bits=8),
    )
    network = Network(ModelSpec("big", layers, HeadSpec(((9.0, 9.0),))), options("hwgq"))
    torch.manual_seed(0)
    with torch.no_grad():
        for module in (*network.stages, network.grid):
            module.conv.weight.uniform_(0.6, 1.0)
        for stage in network.stages:
            stage.norm.momentum = 1.0
            stage.norm.bias.fill_(2)
        network.train()(torch.randint(150, 256, (2, 3, 16, 16)))
    return network.eval()


def test_sums_beyond_float32_are_exact() -> None:
    network = beyond_float32()
    model = convert(network)
    pixels = np.random.default_rng(0).integers(150, 256, (16, 24, 3), np.uint8)
    maps = reference.run(model, pixels)
    core = packed.to_bytes(model)
    from dupnet import _core

    for a, b, c in zip(torch_maps(network, pixels), maps, _core.Model(core).run(pixels), strict=True):
        assert np.array_equal(a, b) and np.array_equal(b, c)
    assert ((maps[-1] > 2**24) & (maps[-1] % 2 == 1)).any(), "no such sum is a float32, or this test would be blind"
    for stage in network.stages:
        stage.dtype = torch.float32
    network.grid.dtype = torch.float32
    assert not np.array_equal(torch_maps(network, pixels)[-1], maps[-1]), "float32 was enough: this test would be blind"


def test_thresholds_beyond_float32_part_neighbouring_integers() -> None:
    """The network's own function steps exactly at the thresholds, where float32 could not tell `t` from `t - 1`."""
    network = beyond_float32()
    stage = network.stages[1]
    assert isinstance(stage, Stage) and stage.dtype is torch.float64
    bound = 9 * 256 * 255 * 255
    found = torch.from_numpy(thresholds(stage, bound, 255)).double()
    inside = (found > 2**24) & (found <= bound)
    assert inside.any()
    levels = torch.arange(1, 256).expand_as(found)
    with torch.no_grad():
        at, below = (stage.activate(accumulators.view(1, 64, 1, 255))[0, :, 0] for accumulators in (found, found - 1))
    assert (at >= levels)[inside].all() and (below < levels)[inside].all()


@pytest.mark.parametrize("name", MODELS)
def test_every_accumulator_fits_32_bits_and_its_float(name: str) -> None:
    spec = zoo.get(name)
    for number, stage in enumerate(convert(Network(spec)).stages):
        room = {torch.float32: 2**24, torch.float64: 2**53}[exact_dtype(spec, number)]
        assert stage.accumulator_max <= room and stage.accumulator_max < 2**28  # as docs/models.md says


def test_accumulators_beyond_32_bits_are_refused() -> None:
    layers = (LayerSpec(16, 1, input_bits=8), LayerSpec(6, 7, weight_bits=8, input_bits=8, map_copies=64))
    with pytest.raises(ConversionError, match="layer 2: accumulators up to 3262694400 need more than the 32 bits"):
        convert(Network(ModelSpec("huge", layers, HeadSpec(((9.0, 9.0),)))))
