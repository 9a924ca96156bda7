"""What a detection holds in memory: the targets of row streaming, the plan that inspect prints, and no leaks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from random_models import of_spec, small_model

from dupnet import _core, packed, zoo
from dupnet.cli import main

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = "dupnet-tinier-yolo"


@pytest.fixture(scope="module")
def model() -> _core.Model:
    return _core.Model(zoo.model_path(SHIPPED).read_bytes())


@pytest.mark.parametrize(("width", "height", "most"), [(320, 240, 24_000), (640, 480, 48_000)])
def test_row_streaming_needs_little(model: _core.Model, width: int, height: int, most: int) -> None:
    assert model.arena_bytes(width, height, size=width, rows=True) <= most


def test_the_table_of_the_guide(model: _core.Model) -> None:
    """docs/core.md says where the bytes are: every number of it is the plan's."""
    text = (ROOT / "docs/core.md").read_text()
    rows = re.findall(r"^\| ?(\d?) \| ([^|]*?) \| ?(\d?) \| \**([\d,]+)\** \| \**([\d,]+)\** \|", text, re.MULTILINE)
    for column, (width, height) in enumerate(((320, 240), (640, 480)), 3):
        told = {row[0] or row[1].strip("*").split(":")[0]: int(row[column].replace(",", "")) for row in rows}
        parts = model.arena_parts(width, height, size=width, rows=True)
        plan = {str(stage + 1) if stage >= 0 else what: count for what, stage, count in parts}
        assert told == {**plan, "alignment, at most": 63, "all": model.arena_bytes(width, height, size=width, rows=True)}
    assert f"{model.arena_bytes(640, 480, size=320, rows=True):,} bytes" in text


def test_row_streaming_halves_a_photo_in_the_same_room(model: _core.Model) -> None:
    assert model.arena_bytes(640, 480, size=320, rows=True) <= 24 * 1024
    assert model.arena_bytes(1280, 960, size=640, rows=True) <= 48 * 1024


def test_row_streaming_does_not_grow_with_the_height() -> None:
    """Nor does its part of the resize, as long as the scale is the same."""
    model = _core.Model(packed.to_bytes(of_spec(zoo.get(SHIPPED))))
    assert len({model.arena_bytes(304, height, size=height, rows=True) for height in (320, 640, 6400)}) == 1
    assert len({model.arena_bytes(608, height, size=height // 2, rows=True) for height in (640, 1280, 12800)}) == 1


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(("width", "height", "size"), [(320, 240, 320), (1000, 300, 416), (30, 20, 64), (1, 1, 32)])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_parts_are_the_whole(rows: bool, width: int, height: int, size: int, threads: int) -> None:
    for data in (packed.to_bytes(small_model()), zoo.model_path(SHIPPED).read_bytes()):
        for kernels in _core.kernels():
            model = _core.Model(data, kernels)
            parts = model.arena_parts(width, height, size=size, threads=threads, rows=rows)
            assert sum(count for _, _, count in parts) + 63 == model.arena_bytes(width, height, size=size, threads=threads, rows=rows)
            assert all(count > 0 and -1 <= stage < 9 for _, stage, count in parts)


def test_inspect_memory(model: _core.Model) -> None:
    done = CliRunner().invoke(main, ["inspect", SHIPPED, "--memory", "--size", "320x240", "--json"])
    assert done.exit_code == 0, done.output
    table = json.loads(done.output)
    assert table["size_hw"] == [240, 320] and len(table["modes"]) == 1 + len(_core.kernels())
    for mode in table["modes"]:
        assert sum(part["bytes"] for part in mode["parts"]) == mode["bytes"]
    assert table["modes"][-1]["bytes"] == model.arena_bytes(320, 240, size=320, rows=True)
    assert [part["bytes"] for part in table["modes"][-1]["parts"] if part["what"] == "rows"][:2] == [3 * 960, 3 * 320]

    text = CliRunner().invoke(main, ["inspect", SHIPPED, "--memory", "--size", "320x240", "--photo", "640x480"]).output
    assert f"row streaming: {model.arena_bytes(640, 480, size=320, rows=True):,} bytes" in text and "resize: rows" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "320x240"], "belong to --memory"),
        (["--memory", "--size", "20x20"], "32 to 8192"),
        (["--memory", "--size", "320x240", "--photo", "640x640"], "is not 320x240"),
    ],
)
def test_inspect_memory_wrongly_called(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["inspect", SHIPPED, *arguments])
    assert done.exit_code == 2 and message in done.output


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_detections_leak_nothing() -> None:
    """The whole run is `python benchmarks/leaks.py`."""
    done = subprocess.run([sys.executable, ROOT / "benchmarks/leaks.py", "--detections", "2000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_results_own_their_memory() -> None:
    """Boxes stay after the model and the stream that found them are gone."""
    photo = np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8)
    model = _core.Model(packed.to_bytes(small_model()))
    stream = _core.Stream(model, 64, 40, size=64, score=0.3, iou=0.45)
    stream.feed(photo)
    expected = model.detect(photo, size=64, score=0.3, iou=0.45)[0].copy()
    del model
    boxes, _ = stream.end()
    del stream
    assert len(boxes) > 0 and np.array_equal(boxes, expected)
