"""The cost of each layer's quantization: which points, from which start, on which photos, and that nothing is done twice."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dupnet import search, zoo
from dupnet.cli import main
from dupnet.data.augmentation import Augmentation
from dupnet.data.photos import Photos
from dupnet.data.sample import Sample
from dupnet.errors import CheckpointError, DupnetError, SpecError
from dupnet.experiments import runs, sensitivity
from dupnet.nn import Network, NetworkOptions, checkpoint
from dupnet.spec import FULL, HeadSpec, LayerSpec, ModelSpec, to_toml, with_layers
from dupnet.training import recipe as recipes
from dupnet.training.loop import Run
from dupnet.training.targets import Crops

SPEC = ModelSpec(
    "small",
    (LayerSpec(8, pool=2, input_bits=8), LayerSpec(16, pool=2, map_copies=4), LayerSpec(32, pool=2), LayerSpec(12, weight_copies=2)),
    HeadSpec(((20.0, 20.0), (36.0, 36.0)), 2.0),
)


def test_the_papers_order_comes_out_for_its_network() -> None:
    settings = sensitivity.Settings(zoo.get("dupnet-tinier-yolo-l"), recipes.load("tiny"), 1, progressive=True)
    found = {point.name: point for point in sensitivity.points(settings)}
    assert list(found) == ["float", *(f"conv{n}" for n in range(1, 10)), "conv4-8", "conv2-8", "conv1-8", "conv1-9"]
    for name in ("float", "conv4-8", "conv2-8", "conv1-8", "conv1-9"):  # the rows of Table 3, copies dropped
        assert found[name].spec.layers == zoo.get(f"table3/{name}").layers
    only = found["conv1"].spec.layers
    assert (only[0].weight_bits, only[0].input_bits, only[1].weight_bits, only[1].input_bits) == (1, 8, FULL, FULL)


def test_a_start_keeps_what_the_float_network_computes() -> None:
    torch.manual_seed(0)
    options = NetworkOptions(standardize_weights=False, spread_copies=False)
    start = Network(sensitivity.quantized(SPEC, ()), options).eval()
    with torch.no_grad():
        start.grid.scale.uniform_(0.5, 2.0)
    image = torch.randint(0, 256, (2, 3, 64, 64))
    eight_bits = with_layers(start.spec, "fine", {4: {"weight_bits": 8}})
    expected, found = start(image), sensitivity.started(start, eight_bits, options).eval()(image)
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()
    signs = sensitivity.started(start, sensitivity.quantized(SPEC, (1, 2, 3, 4)), options)
    assert torch.equal(signs.stages[1].conv.weight, start.stages[1].conv.weight)
    assert 0 < signs.grid.scale.mean().item() < 0.2 * start.grid.scale.mean().item()


def test_held_out_photos_are_never_in_a_crop() -> None:
    class Numbered(Photos):
        """Ten photos of one gray each: photo n has the value 20 n + 5 everywhere."""

        def pixels(self, number: int) -> np.ndarray:
            return np.full((64, 64, 3), 20 * number + 5, np.uint8)

    samples = [Sample(f"{n}.png", np.zeros((0, 4)), np.zeros(0, bool)) for n in range(10)]
    how = Augmentation(crop_px=32, mosaic=0.0, brightness=0.0, contrast=0.0, gain=0.0, gray=0.0)

    def shown(held_out: int) -> set[int]:
        crops = Crops(Numbered(samples, Path()), how, 3, held_out=held_out)
        return {int(crops[index][0].max()) // 20 for index in range(150)}

    assert shown(0) == set(range(10)) and shown(5) == set(range(10)) - {0, 5} and shown(-5) == {0, 5}


def test_measured_once_printed_plotted_and_searched(tiny_wider: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "small.toml").write_text(to_toml(SPEC))
    command = ["sensitivity", str(tmp_path / "small.toml"), "--data", str(tiny_wider), "--out", str(tmp_path / "run"), "--recipe", "tiny"]
    command += [
        "--steps",
        "3",
        "--start-steps",
        "4",
        "--size",
        "64",
        "--workers",
        "0",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--progressive",
    ]
    first = CliRunner().invoke(main, [*command, "--plot", str(tmp_path / "plot.svg")], catch_exceptions=False)
    assert first.exit_code == 0 and "8 points to measure; about" in first.output, first.output
    names = ["float", "conv1", "conv2", "conv3", "conv4", "conv2-3", "conv1-3", "conv1-4"]
    table = json.loads((tmp_path / "run" / "sensitivity.json").read_text())
    assert [point["name"] for point in table["points"]] == names
    base = table["points"][0]
    assert base["name"] == "float" and base["loss_change"] == 0
    for point in table["points"]:
        assert point["loss_change"] == point["loss"] - base["loss"] and np.isfinite(point["loss"])
    assert table["measured_on"].startswith("1 training photos that no point was trained on")
    assert search.read_sensitivity(tmp_path / "run" / "sensitivity.json", SPEC).keys() == {1, 2, 3, 4}
    rows = list(csv.DictReader(open(tmp_path / "run" / "sensitivity.csv")))
    assert {row["layers"] for row in rows} >= {"", "1", "1 2 3 4"}
    drawn = (tmp_path / "plot.svg").read_text()
    assert all(f">{words}</text>" in drawn for words in ("one layer alone", "several layers, as in Table 3", "conv1-4"))
    assert all(f">{point['ap_change']:+.3f}</text>" in drawn for point in table["points"][1:])
    nothing = CliRunner().invoke(main, [*command[:4], "--no-alone"])
    assert nothing.exit_code == 2 and "leaves nothing to measure" in nothing.output
    refused = CliRunner().invoke(main, [*command[:4], "--out", str(tmp_path / "never"), "--plot", "costs.pdf"])
    assert refused.exit_code == 1 and "must end in one of .png .svg" in refused.output and not (tmp_path / "never").exists()

    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("scores.json")}
    (tmp_path / "run" / "conv2" / "scores.json").unlink()  # as if killed before it was written
    again = CliRunner().invoke(main, command, catch_exceptions=False)
    assert again.exit_code == 0 and "1 points to measure" in again.output and "conv2" in again.output
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items() if path.parent.name != "conv2")
    assert json.loads((tmp_path / "run" / "sensitivity.json").read_text())["points"] == table["points"]
    other = CliRunner().invoke(main, [*command, "--steps", "5"])
    assert other.exit_code == 1 and "points of other settings (recipe differ)" in other.output


def test_photos_without_faces_leave_a_gap_and_no_traceback(faces: Path, tmp_path: Path) -> None:
    """Neither held-out photos nor val need to show a face that counts."""
    (tmp_path / "small.toml").write_text(to_toml(SPEC))
    command = ["sensitivity", str(tmp_path / "small.toml"), "--data", str(tmp_path / "data"), "--recipe", "tiny", "--steps", "2"]
    command += ["--start-steps", "2", "--size", "32", "--workers", "0", "--threads", "1", "--device", "cpu"]
    shutil.copytree(faces, tmp_path / "data")
    path = tmp_path / "data" / "wider_face_split" / "val_difficulty.json"
    path.write_text(json.dumps({photo: {"easy": [], "medium": [], "hard": []} for photo in json.loads(path.read_text())}))
    for on in ("held-out", "val"):
        done = CliRunner().invoke(main, [*command, "--on", on, "--out", str(tmp_path / on), "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        points = json.loads((tmp_path / on / "sensitivity.json").read_text(), parse_constant=pytest.fail)["points"]
        assert {(point["ap"], point["ap_change"]) for point in points} == {(None, None)}
    table = CliRunner().invoke(main, [*command, "--on", "val", "--out", str(tmp_path / "val")], catch_exceptions=False)
    assert table.exit_code == 0 and "       -       -" in table.output


def test_a_float_checkpoint_is_the_start_and_a_quantized_one_is_refused(tmp_path: Path) -> None:
    checkpoint.save(Network(sensitivity.quantized(SPEC, ())), tmp_path / "float.pt")
    spec, start = sensitivity.load_model(str(tmp_path / "float.pt"))
    assert start == tmp_path / "float.pt" and sensitivity.quantized(spec, (2,)).layers[1].weight_bits == 1
    checkpoint.save(Network(SPEC), tmp_path / "levels.pt")
    with pytest.raises(CheckpointError, match="this one is quantized; give its spec"):
        sensitivity.load_model(str(tmp_path / "levels.pt"))
    with pytest.raises(SpecError, match="no model 'nothing'"):
        sensitivity.load_model("nothing")


def test_one_process_at_a_time(faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def taken(folder: Path) -> Iterator[bool]:
        yield folder != tmp_path.resolve()

    monkeypatch.setattr(runs, "claimed", taken)
    settings = sensitivity.Settings(SPEC, recipes.load("tiny"), 1)
    with pytest.raises(DupnetError, match="another process is at work on it"):
        sensitivity.measure(settings, Run(faces, tmp_path), say=pytest.fail, progress=False)


def test_held_out_photos_without_any_label_give_no_score(tiny_wider: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_wider, tmp_path / "data")
    (path,) = (tmp_path / "data/wider_face_split").glob("*train*.txt")
    first, *others = path.read_text().split("0--Discs/")[1:]
    path.write_text("0--Discs/" + "0--Discs/".join([f"{first.splitlines()[0]}\n0\n0 0 0 0 0 0 0 0 0 0\n", *others]))
    scores = runs.held_out_scores(
        Network(SPEC).eval(), replace(recipes.load("tiny"), held_out=8), tmp_path / "data", size=64, photos=5, face_px=8.0
    )
    assert (scores["ap"], scores["dr"], scores["photos"]) == (None, None, 0)
