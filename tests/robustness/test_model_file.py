"""Damaged packed files: `dupnet.packed` and the C core refuse the same ones, and neither ever does anything else."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from random_models import input_map, small_model

from dupnet import Detector, _core, packed, reference
from dupnet.errors import ConversionError, ModelFileError
from dupnet.packed import ANCHOR_BYTES, CRC_OFFSET, HEADER_BYTES, STAGE_BYTES, padded

MODEL = small_model()
DATA = packed.to_bytes(MODEL)
ANCHORS = HEADER_BYTES + padded(len(MODEL.name))
STAGE_1 = ANCHORS + ANCHOR_BYTES * len(MODEL.head.anchors)


def sections(number: int) -> tuple[int, int, int]:
    """Offsets of a stage's record, its weights and its thresholds or head scales."""
    at = STAGE_1
    for stage in MODEL.stages[: number - 1]:
        count = packed.threshold_bytes(stage.filters, stage.output_bits, stage.accumulator_max)
        at += STAGE_BYTES + padded(weights_of(stage)) + padded(count)
    return at, at + STAGE_BYTES, at + STAGE_BYTES + padded(weights_of(MODEL.stages[number - 1]))


def weights_of(stage: packed.Stage) -> int:
    return packed.weight_bytes(stage.filters, stage.weights.shape[1], stage.kernel, stage.weight_bits)


def sealed(data: bytes, *, length: bool = True) -> bytes:
    """The file with a right checksum, and a right length if asked for, so that only its structure can be refused."""
    file = bytearray(data)
    if length:
        file[8:12] = struct.pack("<I", len(file))
    file[12:16] = struct.pack("<I", zlib.crc32(file[CRC_OFFSET:]))
    return bytes(file)


def patched(offset: int, raw: bytes) -> bytes:
    return sealed(DATA[:offset] + raw + DATA[offset + len(raw) :], length=False)


def refusal(data: bytes) -> tuple[str, str]:
    """What Python and C say about a file that both must refuse."""
    with pytest.raises(ModelFileError) as python:
        packed.from_bytes(data)
    with pytest.raises(ModelFileError) as core:
        _core.Model(data)
    return str(python.value), str(core.value)


def test_round_trip() -> None:
    again = packed.from_bytes(DATA)
    assert packed.to_bytes(again) == DATA
    assert (again.name, again.head, again.default_size_px, again.default_score) == (MODEL.name, MODEL.head, 64, 0.5)
    assert np.array_equal(again.scale, MODEL.scale) and np.array_equal(again.bias, MODEL.bias)
    for a, b in zip(again.stages, MODEL.stages):
        assert np.array_equal(a.weights, b.weights)
        assert (a.thresholds is None and b.thresholds is None) or np.array_equal(a.thresholds, b.thresholds)


F1, F3 = sections(1), sections(3)
NAN, INFINITY = struct.pack("<f", np.nan), struct.pack("<f", np.inf)
BOUND_1 = MODEL.stages[0].accumulator_max


@pytest.mark.parametrize(
    ("offset", "raw", "python", "core"),
    [
        (0, b"dnet", r"magic is b'dnet', expected b'DNET' \(offset 0\)", "does not start with DNET"),
        (4, b"\2\0", r"format version is 2, expected 1 \(offset 4\)", "version"),
        (6, b"\0\0", r"number of stages is 0, expected 1 to 64", "number of stages"),
        (6, b"\x41\0", r"number of stages is 65", "number of stages"),
        (6, b"\2\0", r"stage 2: filters of the last stage is 4, expected 12", "filters"),
        (6, b"\4\0", r"stage 3: filters|stage 3: pool|stage 3: output bits is 0", "output bits"),
        (8, b"\xff\xff\xff\x7f", r"length of the file is 2147483647", "shorter or longer"),
        (16, b"\1", r"channels of the image is 1, expected 3", "3 channels"),
        (17, b"\0", r"number of anchors is 0", "anchors"),
        (17, b"\x11", r"number of anchors is 17", "anchors"),
        (18, b"\x1f\0", r"default size is 31", "default size"),
        (18, b"\1\x20", r"default size is 8193", "default size"),
        (20, NAN, r"default score is nan", "default score"),
        (20, struct.pack("<f", 1.01), r"default score is 1.0", "default score"),
        (20, struct.pack("<f", -0.01), r"default score is -0.0", "default score"),
        (24, NAN, r"centre_scale is nan", "centre scale"),
        (24, struct.pack("<f", 0.99), r"centre_scale is 0.99", "centre scale"),
        (24, struct.pack("<f", 4.01), r"centre_scale is 4.0", "centre scale"),
        (28, b"\0", r"length of the name is 0", "name's length"),
        (28, b"\x41", r"length of the name is 65", "name's length"),
        (29, b"\1", r"unused bytes is 010000", "not 0"),
        (30, b"\1", r"unused bytes", "not 0"),
        (31, b"\1", r"unused bytes", "not 0"),
        (HEADER_BYTES, b"\n", r"name is '\\nandom'", "name"),
        (HEADER_BYTES, b"\xff", r"name is not UTF-8: .* \(offset 32\)", "name"),
        (HEADER_BYTES, b"\xc2\x85", r"no control characters", "name"),
        (HEADER_BYTES + len(MODEL.name), b"\1", r"padding after the name is 0100", "not 0"),
        (ANCHORS, struct.pack("<f", 0), r"side of an anchor is 0.0, .* \(offset 40\)", "anchor"),
        (ANCHORS + 4, struct.pack("<f", -1), r"side of an anchor is -1.0, .* \(offset 44\)", "anchor"),
        (ANCHORS + 8, struct.pack("<f", 8193), r"side of an anchor is 8193.0", "anchor"),
        (ANCHORS + 12, NAN, r"side of an anchor is nan", "anchor"),
        (F1[0], b"\0\0", r"stage 1: input channels is 0, expected 1 to 4096", "input channels"),
        (F1[0], b"\1\x10", r"stage 1: input channels is 4097", "input channels"),
        (F1[0], b"\4\0", r"stage 1: input channels is 4, expected 3, as in the map before", "input channels"),
        (F1[0] + 2, b"\0\0", r"stage 1: filters is 0", "filters"),
        (F1[0] + 2, b"\1\x10", r"stage 1: filters is 4097", "filters"),
        (F3[0] + 2, b"\6\0", r"stage 3: filters of the last stage is 6, expected 12", "filters"),
        (F1[0] + 4, b"\0", r"stage 1: kernel is 0", "kernel"),
        (F1[0] + 4, b"\2", r"stage 1: kernel is 2", "kernel"),
        (F1[0] + 4, b"\x09", r"stage 1: kernel is 9", "kernel"),
        (F1[0] + 5, b"\0", r"stage 1: pool is 0", "pool"),
        (F1[0] + 5, b"\3", r"stage 1: pool is 3", "pool"),
        (F3[0] + 5, b"\2", r"stage 3: pool is 2, expected 1 ", "pool"),
        (F1[0] + 6, b"\x09", r"stage 1: input bits is 9", "input bits"),
        (F1[0] + 6, b"\7", r"stage 1: input bits is 7, expected 8, as in the map before", "input bits"),
        (F3[0] + 6, b"\2", r"stage 3: input bits is 2, expected 3", "input bits"),
        (F1[0] + 7, b"\0", r"stage 1: weight bits is 0", "weight bits"),
        (F1[0] + 7, b"\x09", r"stage 1: weight bits is 9", "weight bits"),
        (F1[0] + 8, b"\0", r"stage 1: weight copies is 0", "weight copies"),
        (F1[0] + 8, b"\x41", r"stage 1: weight copies is 65", "weight copies"),
        (F1[0] + 8, b"\4", r"stage 1: weight copies is 4, expected a divisor of 6 channels", "weight copies"),
        (F1[0] + 9, b"\0", r"stage 1: map copies is 0", "map copies"),
        (F1[0] + 9, b"\x41", r"stage 1: map copies is 65", "map copies"),
        (F1[0] + 10, b"\0", r"stage 1: output bits is 0", "output bits"),
        (F1[0] + 10, b"\x09", r"stage 1: output bits is 9", "output bits"),
        (F3[0] + 10, b"\1", r"stage 3: output bits is 1, expected 0 ", "output bits"),
        (F1[0] + 11, b"\2", r"stage 1: distance .* is 2, expected 1", "stage before"),
        (F1[1] + 2, b"\xff", r"stage 1: unused bits of the weights", "not 0"),
        (F1[1] + weights_of(MODEL.stages[0]), b"\1", r"stage 1: padding after the weights", "not 0"),
        (F1[2], struct.pack("<h", -BOUND_1 - 1), rf"stage 1: threshold 0 of filter 0 is -{BOUND_1 + 1}", "thresholds"),
        (F1[2] + 4, struct.pack("<h", BOUND_1 + 2), rf"stage 1: threshold 2 of filter 0 is {BOUND_1 + 2}", "thresholds"),
        (F1[2], struct.pack("<hh", 5, 4), r"stage 1: threshold 1 of filter 0 is 4, .* ascending", "thresholds"),
        (F3[2], INFINITY, r"stage 3: head scale of filter 0 is inf", "not finite"),
        (F3[2] + 4 * 12 + 8, NAN, r"stage 3: head bias of filter 2 is nan", "not finite"),
    ],
)
def test_every_field(offset: int, raw: bytes, python: str, core: str) -> None:
    said_python, said_core = refusal(patched(offset, raw))
    assert re.search(python, said_python)
    assert core in said_core


def test_more_rules() -> None:
    said_python, said_core = refusal(DATA[:20] + b"\1" + DATA[21:])
    assert "CRC-32" in said_python and "checksum" in said_core
    said_python, said_core = refusal(sealed(DATA + b"\0\0\0\0"))
    assert "bytes after the last stage is 4" in said_python and "goes on" in said_core
    huge = patched(F1[0] + 4, bytes([7, 2, 8, 8, 1, 64]))  # a kernel of 7, 8-bit weights, 64 copies: sums of 6e8, which is allowed
    assert "room for the weights" in refusal(huge)[0]


def test_sums_above_31_bits_are_refused() -> None:
    middle = sections(2)[0]
    raw = struct.pack("<HHBBBBBBBB", 3, 4096, 1, 1, 8, 1, 1, 1, 8, 1)
    record = struct.pack("<HHBBBBBBBB", 4096, 6, 7, 1, 8, 8, 64, 64, 8, 1)
    header = bytearray(DATA[:STAGE_1])
    weights, thresholds = bytes(4096), np.zeros((4096, 255), "<i2").tobytes()
    assert middle > STAGE_1
    said_python, said_core = refusal(sealed(bytes(header) + raw + weights + thresholds + record))
    assert "stage 2: largest accumulator" in said_python and "31 bits" in said_core


def test_strides_above_64_are_refused() -> None:
    first, last = DATA[F1[0] : sections(2)[0]], DATA[F3[0] :]
    second = bytearray(last[:STAGE_BYTES])
    second[:4], second[4:12] = struct.pack("<HH", 5, 5), bytes([1, 2, 2, 1, 1, 1, 2, 1])
    stage = bytes(second) + bytes(padded(5)) + bytes(padded(5 * 3 * 2))
    header = bytearray(DATA[:STAGE_1])
    header[6:8] = struct.pack("<H", 8)
    said_python, said_core = refusal(sealed(bytes(header) + first + 6 * stage + last))
    assert "stage 7: product of all pools is 128" in said_python and "above 64" in said_core


def test_every_truncation() -> None:
    for length in range(len(DATA)):
        refusal(DATA[:length])
        if length >= CRC_OFFSET:
            refusal(sealed(DATA[:length]))


def test_random_bytes_agree() -> None:
    """With right checksums, most changes are harmless: then both readers accept, and compute the same maps."""
    rng = np.random.default_rng(3)
    pixels = input_map(rng, 8, 8)
    accepted = 0
    for _ in range(1500):
        file = bytearray(DATA)
        for at in rng.integers(0, len(file), rng.integers(1, 3)):
            file[at] = rng.integers(0, 256) if rng.random() < 0.5 else file[at] ^ 1 << rng.integers(0, 8)
        data = sealed(bytes(file), length=False)
        try:
            model = packed.from_bytes(data)
        except ModelFileError:
            with pytest.raises(ModelFileError):
                _core.Model(data)
            continue
        found = _core.Model(data).run(pixels)
        accepted += 1
        if accepted % 10 == 0:
            assert all(np.array_equal(a, b) for a, b in zip(reference.run(model, pixels), found))
    assert 300 < accepted < 1400


def test_detector_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="absent.dnet: cannot be read"):
        Detector(tmp_path / "absent.dnet")
    (tmp_path / "short.dnet").write_bytes(DATA[:40])
    for read in (Detector, packed.load):
        with pytest.raises(ModelFileError, match=r"short.dnet: length of the file is \d+, expected 40, the real length \(offset 8\)"):
            read(tmp_path / "short.dnet")


def test_detector_falls_back_to_what_the_core_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "short.dnet").write_bytes(DATA[:40])
    monkeypatch.setattr(packed, "from_bytes", lambda data: MODEL)
    with pytest.raises(ModelFileError, match="short.dnet: the file is shorter or longer"):
        Detector(tmp_path / "short.dnet")


@pytest.mark.parametrize("name", ["gone/small.dnet", "file/small.dnet", "folder"])
def test_saving_where_nothing_can_be_saved_names_the_path(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as caught:
        packed.save(MODEL, tmp_path / name)
    assert caught.value.filename == str(tmp_path / name) and ".part" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_model_without_a_file_is_refused(tmp_path: Path) -> None:
    """Anchors that float32 rounds to 0 obey `validate`, but no file can hold them."""
    model = small_model()
    head = packed.HeadSpec(((1e-60, 5.0), (4.0, 5.0)))
    broken = packed.IntegerModel(model.name, model.stages, head, model.scale, model.bias, 64, 0.5)
    with pytest.raises(ConversionError, match="side of an anchor is 0.0"):
        packed.save(broken, tmp_path / "broken.dnet")
    assert not list(tmp_path.iterdir())
