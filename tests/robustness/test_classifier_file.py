"""Damaged files of a classifier: the rules that a detector's file does not have, in both readers."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
from model_files import refusal, sealed
from random_models import classifier, input_map, random_stage

from dupnet import _core, packed, reference
from dupnet.errors import ModelFileError
from dupnet.integer import IntegerModel
from dupnet.packed import CRC_OFFSET, HEADER_BYTES, STAGE_BYTES


def small_classifier() -> IntegerModel:
    rng = np.random.default_rng(0)
    first = random_stage(rng, in_channels=3, filters=5, kernel=11, step=4, padding=False, pool=3, pool_overlap=1, input_bits=8)
    full = random_stage(rng, in_channels=5, filters=9, kernel=2, padding=False, map_copies=2, weight_bits=2)
    last = random_stage(rng, in_channels=9, filters=4, kernel=1, output_bits=0)
    return classifier(rng, [first, full, last], size=31, name="four")


MODEL = small_classifier()
DATA = packed.to_bytes(MODEL)
R1 = HEADER_BYTES + 4
R2, R3 = R1 + STAGE_BYTES, R1 + 2 * STAGE_BYTES


def test_the_bytes_of_a_classifier() -> None:
    assert DATA[17] == 0 and DATA[29] == 0, "no anchors, no channels for each"
    assert DATA[R1 : R1 + STAGE_BYTES - 1] == struct.pack("<HHBBBBBBBBBBB", 3, 5, 11, 4, 3, 2, 8, 1, 1, 1, 2, 1, 2)
    assert struct.unpack_from("<H", DATA, R3 + 2) == (4,)


@pytest.mark.parametrize(
    ("offset", "raw", "python", "core"),
    [
        (17, b"\1", r"default size is 31, expected 32 to 8192", "default size"),
        (18, b"\0\0", r"default size is 0, expected 1 to 8192", "default size"),
        (18, b"\x1a\0", r"stage 2: map of the default size is 1x1, expected more", "nothing is left"),
        (18, b"\x0a\0", r"stage 1: map of the default size is 10x10, expected more", "nothing is left"),
        (24, struct.pack("<f", 1.5), r"centre_scale is 1.5, expected 1 to 1", "centre scale"),
        (29, b"\5", r"channels of an anchor is 5, expected 0", "without anchors"),
        (R1 + 4, b"\x0c", r"stage 1: kernel is 12, expected 1 to 11 \(", "kernel"),
        (R1 + 5, b"\x09", r"stage 1: step of the kernel is 9", "move by 1 to 8"),
        (R1 + 6, b"\x09", r"stage 1: pool is 9", "pool"),
        (R1 + 7, b"\0", r"stage 1: step of the pool is 0, expected 1 to 3", "pool does not move"),
        (R1 + 7, b"\4", r"stage 1: step of the pool is 4, expected 1 to 3", "pool does not move"),
        (R1 + 14, b"\4", r"stage 1: flags is 4", "flags"),
        (R2 + 14, b"\0", r"stage 2: kernel is 2, expected 1 to 11 and, with padding, odd", "kernel"),
        (R2 + 14, b"\3", r"stage 2: flags is 3", "flags"),
        (R3 + 2, b"\1\x10", r"stage 3: filters is 4097", "filters"),
        (R3 + 6, b"\2\2", r"stage 3: pool is 2, expected 1 to 1", "pool"),
    ],
)
def test_every_field(offset: int, raw: bytes, python: str, core: str) -> None:
    file = bytearray(DATA)
    file[offset : offset + len(raw)] = raw
    said_python, said_core = refusal(sealed(file, length=False))
    assert re.search(python, said_python) and core in said_core


def test_random_bytes_agree() -> None:
    rng = np.random.default_rng(5)
    accepted = 0
    for _ in range(1500):
        file = bytearray(DATA)
        for at in rng.integers(R1 if rng.random() < 0.5 else CRC_OFFSET, R3 + STAGE_BYTES, rng.integers(1, 3)):
            file[at] = rng.integers(0, 13)
        data = sealed(file, length=False)
        try:
            model = packed.from_bytes(data)
        except ModelFileError:
            with pytest.raises(ModelFileError):
                _core.Model(data)
            continue
        accepted += 1
        core = _core.Model(data)
        if accepted % 5 == 0 and model.default_size_px < 100:
            pixels = input_map(rng, model.default_size_px, model.default_size_px + 3)
            assert all(np.array_equal(a, b) for a, b in zip(reference.run(model, pixels), core.run(pixels), strict=True))
    assert 100 < accepted < 1400
