"""IFQ-Net's other case: an AlexNet-shaped network through conversion, packing, verification and the core, at 227x227 pixels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dupnet import Classifier, cost, packed, zoo
from dupnet.cli import main
from dupnet.conversion import convert
from dupnet.errors import SpecError
from dupnet.nn import Network
from dupnet.spec import HeadSpec, ModelSpec
from dupnet.verification import verify

TOML = str(Path(__file__).resolve().parents[2] / "examples" / "ifq-alexnet.toml")
SPEC = zoo.get(TOML)


def narrow(divisor: int) -> ModelSpec:
    layers = tuple(replace(layer, filters=max(layer.filters // divisor, 1)) for layer in SPEC.layers)
    return replace(SPEC, name=f"{SPEC.name}/{divisor}", layers=layers, head=HeadSpec(classes=layers[-1].filters))


def goes_through(spec: ModelSpec, folder: Path) -> None:
    """Random weights, batch norms of random images; then every value of every map in torch, the reference and the core."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 227, 227, 3), np.uint8)
    network = Network(spec)
    with torch.no_grad():
        for stage in network.stages:
            stage.norm.momentum = 1.0
        network.train()(torch.from_numpy(images[:2]).permute(0, 3, 1, 2))
        network.eval()
        logits = network(torch.from_numpy(images[2:]).permute(0, 3, 1, 2)).flatten().numpy()
    path = folder / "alexnet.dnet"
    packed.save(convert(network), path)
    checked = verify(path, network, [images[2]])
    sides = [(55, 27), (27, 13), (13, 13), (13, 13), (13, 6), (1, 1), (1, 1), (1, 1)]
    values = sum(out * out * layer.filters for (_, out), layer in zip(sides, spec.layers))
    assert checked.difference is None, checked.difference
    assert checked.values == 2 * values
    classifier = Classifier(path)
    assert max(len(np.unique(m)) for m in classifier.maps(images[2])[:-1]) == 4, "the maps must use all levels"
    np.testing.assert_allclose(classifier.scores(images[2]), logits, rtol=1e-4, atol=1e-4)
    uncoded = cost.count(spec, (227, 227)).total.file_bytes
    assert uncoded is not None and 0.9 * uncoded < path.stat().st_size <= uncoded + 4


def test_a_narrow_one(tmp_path: Path) -> None:
    goes_through(narrow(16), tmp_path)


@pytest.mark.slow
def test_the_whole_one(tmp_path: Path) -> None:
    goes_through(SPEC, tmp_path)


def test_the_command_prints_it() -> None:
    printed = CliRunner().invoke(main, ["cost", TOML, "--against-float"]).output
    assert "ifq-alexnet at 227x227 pixels" in printed and "23,439.8 -> 11,207.5   2.09x" in printed
    assert all(f"- {assumption}" in printed for assumption in cost.FORM_ASSUMPTIONS)
    table = json.loads(CliRunner().invoke(main, ["cost", TOML, "--against-float", "--json"]).output)
    assert table["layers"][-1]["integer_peak_bytes"] == cost.count(SPEC, (227, 227)).total.map_bytes
    refused = CliRunner().invoke(main, ["cost", "tiny-yolo", "--against-float"])
    assert refused.exit_code != 0 and isinstance(refused.exception, (SystemExit, SpecError))
    with pytest.raises(SpecError, match="layer 1: nothing is left of a map of 9x9"):
        cost.count(SPEC, (9, 9))


def test_what_the_integer_form_saves() -> None:
    """By hand: weights and numbers of each filter; maps."""
    lines = {line.name: line for line in cost.forms(SPEC, (227, 227))}
    middle = (256 * 96 * 25 + 384 * 256 * 9 + 384 * 384 * 9 + 256 * 384 * 9 + 4096 * 256 * 36 + 4096 * 4096) / 8
    ends, filters = 96 * 3 * 121 + 1000 * 4096, 96 + 256 + 384 + 384 + 256 + 4096 + 4096
    total = lines["total"]
    assert total.float_weight_bytes == middle + 4 * ends + 20 * filters + 8 * 1000
    assert total.integer_weight_bytes == middle + ends + 12 * 96 + 6 * (filters - 96) + 8 * 1000
    assert round(total.float_weight_bytes / total.integer_weight_bytes, 2) == 2.09
    assert lines["Conv1"].float_map_bytes == 4 * 96 * (55 * 55 + 27 * 27) and lines["Conv1"].integer_map_bytes == 96 * 27 * 27 // 4
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text()
    one_bit = cost.forms(zoo.get(f"{TOML}:conv1.weight_bits=1,conv8.weight_bits=1"), (227, 227))[-1]
    for before, after in (
        (total.float_weight_bytes, total.integer_weight_bytes),
        (one_bit.float_weight_bytes, one_bit.integer_weight_bytes),
        (total.float_map_bytes, total.integer_map_bytes),
        (total.float_peak_bytes, total.integer_peak_bytes),
    ):
        assert f"| {before / 1024:,.1f} KB | {after / 1024:,.1f} KB | {before / after:.2f}x |" in page
    assert total.float_peak_bytes == 4 * (3 * 227 * 227 + 96 * 55 * 55)
