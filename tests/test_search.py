"""Proposals for a budget: the paper's models come out, and what is impossible is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from dupnet import cost, spec, zoo
from dupnet.cli import main
from dupnet.errors import DataError, SpecError
from dupnet.search import Budget, read_sensitivity, search

HALF = zoo.get("tinier-yolo-half")


def kilobytes(model: spec.ModelSpec) -> float:
    return cost.count(model).total.weight_bytes / 1024


def test_37_kb_is_dupnet_and_46_kb_with_its_operations_dupnet_l() -> None:
    assert search(HALF, Budget(37)).spec.layers == zoo.get("dupnet-tinier-yolo").layers
    large = zoo.get("dupnet-tinier-yolo-l")
    room = cost.count(large).total.macs / 1e6 + 1
    assert search(HALF, Budget(46, macs=room)).spec.layers == large.layers
    without = search(HALF, Budget(46))
    assert without.spec.layers[0].map_copies == 1 and without.spec.layers[8].map_copies == 2
    assert any("Conv1 4 times" in reason and "operations would grow from 49.3 to 79.3" in reason for reason in without.reasons)


@pytest.mark.parametrize("budget", [15, 20, 25, 28.5, 31, 33, 36, 36.5, 38, 45, 52, 75, 83, 92, 300])
def test_every_proposal_keeps_its_budget_and_no_more_compression_than_needed(budget: float) -> None:
    found = search(HALF, Budget(budget))
    assert kilobytes(found.spec) <= budget and len(found.reasons) >= 5
    deepest = max(layer.weight_copies for layer in found.spec.layers)
    assert (deepest > 4) == (budget < 31.42)  # what 4 copies and 32 channels reach without map copies
    if budget >= 92:
        assert deepest == 1
    assert [layer.weight_copies for layer in found.spec.layers[:3]] == [1, 1, 1]  # sensitive layers stay as they are


def test_what_is_impossible_says_the_smallest_possible() -> None:
    with pytest.raises(SpecError, match=r"5 KB of weights are not possible: the smallest .* is 14\.48 KB"):
        search(HALF, Budget(5))
    with pytest.raises(SpecError, match=r"needs 1,338\.9 million"):
        search(HALF, Budget(37, macs=1000))
    with pytest.raises(SpecError, match=r"100 KB of maps .* needs 1263\.5 KB there.*they fit at 160x160"):
        search(HALF, Budget(37, maps_kb=100))
    assert cost.count(HALF, (160, 160)).total.map_bytes <= 100 * 1024 < cost.count(HALF, (176, 176)).total.map_bytes
    assert search(HALF, Budget(37, maps_kb=1300)).spec.layers == zoo.get("dupnet-tinier-yolo").layers


def test_the_bases_own_copies_do_not_count() -> None:
    assert search(zoo.get("dupnet-tinier-yolo-l"), Budget(37)).spec.layers == zoo.get("dupnet-tinier-yolo").layers


def test_a_measured_sensitivity_decides_what_is_protected_and_where_copies_go() -> None:
    costs = dict.fromkeys(range(1, 10), 0.01) | {5: 0.5, 4: 0.3}
    found = search(HALF, Budget(60), sensitivity=costs)
    layers = found.spec.layers
    assert [number for number, layer in enumerate(layers, 1) if layer.map_copies > 1] == [4, 5]
    assert layers[3].weight_copies == layers[4].weight_copies == 1 and layers[8].weight_copies > 1
    assert kilobytes(found.spec) <= 60


def test_a_base_of_two_layers_has_no_third_to_duplicate() -> None:
    base = replace(HALF, layers=(HALF.layers[0], HALF.layers[-1]))
    found = search(base, Budget(5))
    assert kilobytes(found.spec) <= 5 and len(found.spec.layers) == 2


def test_a_file_of_other_bytes_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(bytes(range(256)) * 1000)
    with pytest.raises(DataError, match="not a result of dupnet sensitivity: UnicodeDecodeError") as refused:
        read_sensitivity(path, HALF)
    assert len(str(refused.value)) < 300 + len(str(path))


def test_a_sensitivity_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.json"
    for text, message in (("{}", "cost_of_layer"), ('{"cost_of_layer": {"1": 0.1}}', r"holds layers \[1\]"), ("nonsense", "not a result")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_sensitivity(path, HALF)


def test_the_program_writes_a_spec_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    refused = CliRunner().invoke(main, ["search", "--weights-kb", "37", "--out", str(tmp_path / "mine.txt")])
    assert refused.exit_code == 2 and "ends in .toml" in " ".join(refused.output.split())
    done = CliRunner().invoke(main, ["search", "--weights-kb", "37", "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0 and "36.90 KB of weights" in done.output and "Conv7    256 filters 3x3  4 weight copies" in done.output
    assert zoo.get(str(out)).layers == zoo.get("dupnet-tinier-yolo").layers
    assert out.read_text().startswith("# Sensitive layers")
    table = json.loads(CliRunner().invoke(main, ["search", "--weights-kb", "37", "--json"]).output)
    assert spec.from_dict(table["spec"]) == zoo.get(str(out)) and round(table["weight_bytes"] / 1024, 2) == 36.90
    failed = CliRunner().invoke(main, ["search", "--weights-kb", "3"])
    assert failed.exit_code == 1 and "smallest that duplication makes" in failed.output
