"""Damaged packed files: `dupnet.packed` and the C core refuse the same ones, and neither ever does anything else."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
from model_files import refusal, sealed
from random_models import input_map, random_model, random_stage, small_model

from dupnet import Detector, _core, coder, packed, reference
from dupnet.errors import ConversionError, ModelFileError
from dupnet.packed import ANCHOR_BYTES, CRC_OFFSET, HEAD_CHANNEL_BYTES, HEADER_BYTES, STAGE_BYTES, padded

MODEL = small_model()
DATA = packed.to_bytes(MODEL)
ANCHORS = HEADER_BYTES + padded(len(MODEL.name))
RECORDS = ANCHORS + ANCHOR_BYTES * len(MODEL.head.anchors)
SCALES = RECORDS + STAGE_BYTES * len(MODEL.stages)
RAW = SCALES + HEAD_CHANNEL_BYTES * 10
R1, R2, R4 = RECORDS, RECORDS + STAGE_BYTES, RECORDS + 3 * STAGE_BYTES


def weights_of(stage: packed.Stage) -> int:
    return packed.weight_bytes(stage.filters, stage.weights.shape[1], stage.kernel, stage.weight_bits)


CODE = RAW + sum(padded(weights_of(stage)) for number, stage in enumerate(MODEL.stages) if number != 1)


def patched(offset: int, raw: bytes) -> bytes:
    return sealed(DATA[:offset] + raw + DATA[offset + len(raw) :], length=False)


def test_round_trip() -> None:
    again = packed.from_bytes(DATA)
    assert packed.to_bytes(again) == DATA
    assert (again.name, again.head, again.default_size_px, again.default_score) == (MODEL.name, MODEL.head, 64, 0.5)
    assert np.array_equal(again.scale, MODEL.scale) and np.array_equal(again.bias, MODEL.bias)
    for a, b in zip(again.stages, MODEL.stages):
        assert np.array_equal(a.weights, b.weights)
        assert (a.thresholds is None and b.thresholds is None) or np.array_equal(a.thresholds, b.thresholds)


NAN, INFINITY = struct.pack("<f", np.nan), struct.pack("<f", np.inf)


@pytest.mark.parametrize(
    ("offset", "raw", "python", "core"),
    [
        (0, b"dnet", r"magic is b'dnet', expected b'DNET' \(offset 0\)", "does not start with DNET"),
        (4, b"\3\0", r"format version is 3, expected 2 \(offset 4\)", "version"),
        (4, b"\1\0", r"version is 1, expected 2; a model of version 1 must be converted again .* \(offset 4\)", "must be converted again"),
        (6, b"\0\0", r"number of stages is 0, expected 1 to 64", "number of stages"),
        (6, b"\x41\0", r"number of stages is 65", "number of stages"),
        (6, b"\2\0", r"stage 2: filters of the last stage is 5, expected 10, 5 for each anchor", "filters"),
        (6, b"\5\0", r"stage 4: output bits is 0, expected 1 to 8", "output bits"),
        (8, b"\xff\xff\xff\x7f", r"length of the file is 2147483647", "shorter or longer"),
        (16, b"\1", r"channels of the image is 1, expected 3", "3 channels"),
        (17, b"\0", r"centre_scale is 2.0, expected 1 to 1", "without anchors, 1"),
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
        (29, b"\6", r"channels of an anchor is 6, expected 5 \(offset 29\)", "5 channels"),
        (30, b"\1", r"unused bytes is 0100", "not 0"),
        (31, b"\1", r"unused bytes", "not 0"),
        (HEADER_BYTES, b"\n", r"name is '\\nandom'", "name"),
        (HEADER_BYTES, b"\xff", r"name is not UTF-8: .* \(offset 32\)", "name"),
        (HEADER_BYTES, b"\xc2\x85", r"no control characters", "name"),
        (HEADER_BYTES + len(MODEL.name), b"\1", r"padding after the name is 0100", "not 0"),
        (ANCHORS, struct.pack("<f", 0), r"side of an anchor is 0.0, .* \(offset 40\)", "anchor"),
        (ANCHORS + 4, struct.pack("<f", -1), r"side of an anchor is -1.0, .* \(offset 44\)", "anchor"),
        (ANCHORS + 8, struct.pack("<f", 8193), r"side of an anchor is 8193.0", "anchor"),
        (ANCHORS + 12, NAN, r"side of an anchor is nan", "anchor"),
        (R1, b"\0\0", r"stage 1: input channels is 0, expected 1 to 4096", "input channels"),
        (R1, b"\1\x10", r"stage 1: input channels is 4097", "input channels"),
        (R1, b"\4\0", r"stage 1: input channels is 4, expected 3, as in the map before", "input channels"),
        (R1 + 2, b"\0\0", r"stage 1: filters is 0", "filters"),
        (R1 + 2, b"\1\x10", r"stage 1: filters is 4097", "filters"),
        (R4 + 2, b"\6\0", r"stage 4: filters of the last stage is 6, expected 10", "filters"),
        (R1 + 4, b"\0", r"stage 1: kernel is 0", "kernel"),
        (R1 + 4, b"\2", r"stage 1: kernel is 2", "kernel"),
        (R1 + 4, b"\x0d", r"stage 1: kernel is 13, expected 1 to 11 and, with padding, odd", "kernel"),
        (R1 + 5, b"\0", r"stage 1: step of the kernel is 0, expected 1 to 8", "move by 1"),
        (R1 + 5, b"\x09", r"stage 1: step of the kernel is 9", "move by 1"),
        (R1 + 6, b"\0\0", r"stage 1: pool is 0", "pool"),
        (R1 + 6, b"\x09\x09", r"stage 1: pool is 9, expected 1 to 8", "pool"),
        (R4 + 6, b"\2\2", r"stage 4: pool is 2, expected 1 ", "pool"),
        (R1 + 7, b"\1", r"stage 1: step of the pool is 1, expected 2, its size", "its size"),
        (R1 + 8, b"\x09", r"stage 1: input bits is 9", "input bits"),
        (R1 + 8, b"\7", r"stage 1: input bits is 7, expected 8, as in the map before", "input bits"),
        (R4 + 8, b"\2", r"stage 4: input bits is 2, expected 3", "input bits"),
        (R1 + 9, b"\0", r"stage 1: weight bits is 0", "weight bits"),
        (R1 + 9, b"\x09", r"stage 1: weight bits is 9", "weight bits"),
        (R1 + 10, b"\0", r"stage 1: weight copies is 0", "weight copies"),
        (R1 + 10, b"\x41", r"stage 1: weight copies is 65", "weight copies"),
        (R1 + 10, b"\4", r"stage 1: weight copies is 4, expected a divisor of 6 channels", "weight copies"),
        (R1 + 11, b"\0", r"stage 1: map copies is 0", "map copies"),
        (R1 + 11, b"\x41", r"stage 1: map copies is 65", "map copies"),
        (R1 + 12, b"\0", r"stage 1: output bits is 0", "output bits"),
        (R1 + 12, b"\x09", r"stage 1: output bits is 9", "output bits"),
        (R4 + 12, b"\1", r"stage 4: output bits is 1, expected 0 ", "output bits"),
        (R1 + 13, b"\2", r"stage 1: distance .* is 2, expected 1", "stage before"),
        (R1 + 14, b"\2", r"stage 1: flags is 2, expected only 1 \(coded weights, of 1 bit\) and 2 \(no padding, without", "flags"),
        (R1 + 14, b"\4", r"stage 1: flags is 4", "flags"),
        (R4 + 14, b"\1", r"stage 4: flags is 1", "flags"),
        (R4 + 15, b"\1", r"stage 4: slope is 1, expected 0", "slope"),
        (SCALES, INFINITY, r"head scale of filter 0 is inf", "not finite"),
        (SCALES + 4 * 10 + 8, NAN, r"head bias of filter 2 is nan", "not finite"),
        (RAW + 2, b"\xff", r"stage 1: unused bits of the weights", "not 0"),
        (RAW + weights_of(MODEL.stages[0]), b"\1", r"stage 1: padding after the weights", "not 0"),
        (len(DATA) - 1, bytes([DATA[-1] ^ 1]), r"end of the code is .*, expected the end that a writer gives it", "the code ends"),
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
    assert "length of the code" in said_python and "the code ends" in said_core
    huge = patched(R1 + 9, bytes([8, 1, 64]))  # 8-bit weights, 64 copies: sums of 1e8, which is allowed
    assert "room for the weights" in refusal(huge)[0]
    said_python, said_core = refusal(sealed(DATA[:CODE]))
    assert f"length of the code is 0, expected at least 4 (offset {CODE})" in said_python and "the code ends" in said_core


def test_sums_above_31_bits_are_refused() -> None:
    first = struct.pack("<HHBBBBBBBBBBBB", 3, 4096, 1, 1, 1, 1, 8, 1, 1, 1, 8, 1, 0, 0)
    second = struct.pack("<HHBBBBBBBBBBBB", 4096, 10, 7, 1, 1, 1, 8, 8, 64, 64, 8, 1, 0, 0)
    said_python, said_core = refusal(sealed(DATA[:R1] + first + second + bytes(100)))
    assert "stage 2: largest accumulator" in said_python and "31 bits" in said_core


def test_strides_above_64_are_refused() -> None:
    second = struct.pack("<HHBBBBBBBBBBBB", 5, 5, 1, 1, 2, 2, 2, 1, 1, 1, 2, 1, 0, 0)
    header = bytearray(DATA[:R1])
    header[6:8] = struct.pack("<H", 8)
    said_python, said_core = refusal(sealed(bytes(header) + DATA[R1:R2] + 6 * second + DATA[R4:]))
    assert "stage 7: product of all steps and pools is 128" in said_python and "above 64" in said_core


def test_a_short_file_cannot_ask_for_much_memory() -> None:
    """4096 filters of 7x7 weights on 64 copies, all coded: 6 GB, from a file of a few hundred bytes."""
    first = struct.pack("<HHBBBBBBBBBBBB", 3, 4096, 1, 1, 1, 1, 8, 1, 1, 1, 1, 1, 1, 0)
    second = struct.pack("<HHBBBBBBBBBBBB", 4096, 4096, 7, 1, 1, 1, 1, 1, 1, 64, 1, 1, 1, 0)
    last = struct.pack("<HHBBBBBBBBBBBB", 4096, 10, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0)
    header = bytearray(DATA[:R1])
    header[6:8] = struct.pack("<H", 3)
    said_python, said_core = refusal(sealed(bytes(header) + first + second + last + bytes(300)))
    assert "expected no more than the file can hold" in said_python and "the code ends" in said_core


def with_code(code: bytes) -> bytes:
    return sealed(DATA[:CODE] + code)


def test_thresholds_out_of_range_are_refused() -> None:
    """A writer that does not check what it codes; the first filter's guess is 0, since slopes are 0."""
    data = bytearray(DATA)
    data[R1 + 15] = 0
    bound = MODEL.stages[0].accumulator_max
    for values, kinds, said in (
        ([-bound - 1], "F", f"threshold 0 of filter 0 is {-bound - 1}, expected within"),
        ([bound + 2], "F", f"threshold 0 of filter 0 is {bound + 2}, expected within"),
        ([5, -1], "FS", "threshold 1 of filter 0 is 4, expected within .* ascending"),
        ([5, 3, -4], "FSB", "threshold 2 of filter 0 is 7, expected within .* ascending"),
        ([5, 0, bound], "FSB", f"threshold 2 of filter 0 is {bound + 5}, expected within"),
        ([1 << 34], "F", "an integer is coded with more than 34 bits"),
    ):
        encoder = coder.Encoder()
        for value, kind in zip(values, kinds):
            if value < 1 << 34:
                coder.integer(encoder, {"F": coder.FIRST, "S": coder.STEP, "B": coder.BEND}[kind], value)
        if values[0] == 1 << 34:
            for bit, context in [(1, 0), (0, 1), *((1, 2 + min(i, 15)) for i in range(34))]:
                encoder.bit(coder.FIRST + context, bit)
        said_python, said_core = refusal(sealed(bytes(data[:CODE]) + encoder.finish() + bytes(50)))
        assert re.search("stage 1: " + said, said_python) and "thresholds" in said_core


def test_one_model_has_one_code() -> None:
    """No byte of the code can be left out, added or changed without a difference in what is decoded."""
    said_python, said_core = refusal(with_code(DATA[CODE:] + b"\0"))
    assert "length of the code" in said_python and "the code ends" in said_core
    said_python, said_core = refusal(with_code(DATA[CODE:-1]))
    assert "the code ends too early" in said_python and "the code ends" in said_core
    for at in range(CODE, len(DATA)):
        for bit in range(8):
            changed = bytearray(DATA)
            changed[at] ^= 1 << bit
            try:
                model = packed.from_bytes(sealed(bytes(changed)))
            except ModelFileError:
                continue
            assert packed.from_bytes(packed.to_bytes(model)) and packed.to_bytes(model) != DATA


def with_related_copies(seed: int) -> packed.IntegerModel:
    """Three stages whose copies are one latent value against rising thresholds, so that they are worth coding."""
    rng = np.random.default_rng(seed)
    stages, channels, bits = [], 3, 8
    for filters, output_bits in ((9, int(rng.integers(1, 4))), (17, int(rng.integers(1, 4))), (10, 0)):
        copies, kernel = int(rng.choice([2, 3, 4, 5, 8])), int(rng.choice([1, 3, 5, 7]))
        stage = random_stage(
            rng, in_channels=channels, filters=filters, kernel=kernel, input_bits=bits, output_bits=output_bits, map_copies=copies
        )
        latent = np.tile(rng.normal(0, 1, (filters, channels, kernel, kernel)), (1, copies, 1, 1))
        stage.weights[:] = np.where(latent > np.repeat(np.linspace(-1, 1, copies), channels)[:, None, None], 1, -1)
        stages.append(stage)
        channels, bits = filters, output_bits
    return random_model(rng, stages)


def test_python_and_c_decode_the_same_bytes() -> None:
    coded = 0
    for model in [*(small_model(seed) for seed in range(6)), *(with_related_copies(seed) for seed in range(12))]:
        for smallest in (False, True):
            data = packed.to_bytes(model, smallest=smallest)
            expected = []
            for stage, record in zip(model.stages, range(RECORDS, len(data), STAGE_BYTES)):
                if data[record + 14]:
                    coded += 1
                    codes = ((stage.weights + 1) // 2).transpose(0, 2, 3, 1).reshape(stage.filters, -1)
                    expected.append(np.packbits(codes.astype(np.uint8), axis=1, bitorder="little").tobytes())
                if stage.thresholds is not None:
                    expected.append(stage.thresholds.astype("<i2" if stage.accumulator_max < 32767 else "<i4").tobytes())
            memory = b"".join(part.ljust(padded(len(part)), b"\0") for part in expected)
            found = _core.Model(data).decoded
            assert len(found) == len(memory)
            at = 0
            for part in expected:  # the padding between the parts is nobody's
                assert found[at : at + len(part)] == part
                at += padded(len(part))
    assert coded > 60


def test_every_truncation() -> None:
    for length in range(len(DATA)):
        refusal(DATA[:length])
        if length >= CRC_OFFSET:
            refusal(sealed(DATA[:length]))


def test_random_bytes_agree() -> None:
    """With right checksums, most changes are harmless: then both readers accept, and compute the same maps."""
    rng = np.random.default_rng(3)
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
        pixels = input_map(rng, 8 * model.stride, 4 * model.stride)
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
