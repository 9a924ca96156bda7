"""Damaged model files for tests, and what the two readers say of them."""

from __future__ import annotations

import struct
import zlib

import pytest

from dupnet import _core, packed
from dupnet.errors import ModelFileError
from dupnet.packed import CRC_OFFSET


def sealed(data: bytes, *, length: bool = True) -> bytes:
    """The file with a right checksum, and a right length if asked for, so that only its structure can be refused."""
    file = bytearray(data)
    if length:
        file[8:12] = struct.pack("<I", len(file))
    file[12:16] = struct.pack("<I", zlib.crc32(file[CRC_OFFSET:]))
    return bytes(file)


def refusal(data: bytes) -> tuple[str, str]:
    """What Python and C say about a file that both must refuse."""
    with pytest.raises(ModelFileError) as python:
        packed.from_bytes(data)
    with pytest.raises(ModelFileError) as core:
        _core.Model(data)
    return str(python.value), str(core.value)
