"""`dupnet bench`: what it prints, that its parts add up, and what it says when it cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dupnet import _core, cost, zoo
from dupnet.cli import main

PEERS = """
def load(name, *, threads, floor):
    if name != "slow":
        raise ValueError(f"unknown peer {name!r}")
    assert (threads, floor) == (2, 0.5)
    import time
    return lambda rgb: time.sleep(0.02 + 0 * rgb.sum())
"""


def bench(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["bench", "--seconds", "0.05", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("isa", _core.kernels())
def test_stages_add_up(isa: str) -> None:
    found = json.loads(bench("--size", "96x80", "--isa", isa, "--roofline", "--json"))
    assert (found["isa"], found["threads"], found["size"], found["peers"]) == (isa, 1, "96x80", [])
    layers = cost.count(zoo.get("dupnet-tinier-yolo"), (80, 96)).layers
    expected = [layer.effective_macs for layer in layers]
    expected[-1] = expected[-1] * 5 // 6  # without the class channels
    assert [stage["effective_macs"] for stage in found["stages"]] == expected
    assert sum(stage["share"] for stage in found["stages"]) == pytest.approx(1)
    assert 0.1 < sum(stage["median_ms"] for stage in found["stages"]) / found["median_ms"] < 10  # whatever else the machine does
    assert found["min_ms"] <= found["median_ms"] and found["repetitions"] >= 3
    if isa == "portable":
        assert found["peaks"] == {} and found["peak_share"] is None
    else:
        assert found["peaks"].keys() == {stage["way"] for stage in found["stages"]} and min(found["peaks"].values()) > 1e8
        assert 0 < found["peak_share"] < 1


def test_peers_take_turns(tmp_path: Path) -> None:
    (tmp_path / "peers.py").write_text("import beside_peers\n" + PEERS)
    (tmp_path / "beside_peers.py").touch()
    arguments = ("--size", "64x64", "--threads", "2", "--peers", str(tmp_path), "--peer", "slow")
    found = json.loads(bench(*arguments, "--json"))
    (peer,) = found["peers"]
    assert peer["name"] == "slow" and 20 <= peer["median_ms"] < 200 and 0 < peer["ratio"] < 1
    said = bench(*arguments)
    assert "slow: median" in said and f"2 threads of {found['processor']}\n" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_this_name", "needs the module nothing_of_this_name, which is not installed"),
        ("", "peers.py: has no load(name, threads=, floor=)"),
        ("def load(name, **options):\n    return {}[name]", "yunet_s cannot be loaded: KeyError: 'yunet_s'"),
        ("def load(name, **options):\n    raise ValueError(f'unknown peer {name!r}')", "unknown peer 'yunet_s'"),
        ("import sys\nsys.path.insert(0, 'mine')", "has no load"),
        (None, "no file peers.py"),
    ],
)
def test_peers_that_cannot_run(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "peers.py").write_text(text)
    result = CliRunner().invoke(main, ["bench", "--size", "64x64", "--peers", str(tmp_path)])
    assert result.exit_code == 1 and message in result.output and result.output.count("\n") == 1
    assert str(tmp_path) not in sys.path


def test_unknown_kernels() -> None:
    result = CliRunner().invoke(main, ["bench", "--isa", "abacus"])
    assert result.exit_code == 2 and "no kernels 'abacus' run here, but portable" in result.output
    result = CliRunner().invoke(main, ["bench", "--isa", "-portable", "--size", "64x64"])
    assert result.exit_code == 1 and result.output.startswith("dupnet: error: kernels -portable: ") and result.output.count("\n") == 1


def test_sizes_that_no_detector_takes() -> None:
    result = CliRunner().invoke(main, ["bench", "--size", "31x20"])
    assert result.exit_code == 2 and "the long side must be 32 to 8192 pixels, not 31" in result.output
