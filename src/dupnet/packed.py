"""The packed file, `.dnet`: an integer model as bytes, and back. The layout and its rules are docs/format.md.

Whatever `from_bytes` returns obeys every rule there, so what follows need not check again; `core/dn_model.c` accepts and
refuses the same files. Before this module comes `dupnet.conversion`; after it come `dupnet.runtime` and the exports.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dupnet.errors import ConversionError, ModelFileError
from dupnet.integer import IntegerModel, Stage, accumulator_max, validate
from dupnet.spec import HeadSpec, is_name

MAGIC = b"DNET"
VERSION = 1
HEADER = struct.Struct("<4sHHIIBBHffB3s")
"""Magic, version, stages, length, CRC-32, image channels, anchors, default size, default score, centre scale, name bytes, zeros."""
HEADER_BYTES = HEADER.size
CRC_OFFSET = 16
"""The checksum covers everything from here on."""
STAGE = struct.Struct("<HHBBBBBBBB")
"""Input channels, filters, kernel, pool, input bits, weight bits, weight copies, map copies, output bits, distance."""
STAGE_BYTES = STAGE.size
ANCHOR_BYTES = 8
HEAD_CHANNEL_BYTES = 8
"""A grid channel's scale and bias."""


def padded(count: int) -> int:
    """`count` bytes and the zeros up to the next multiple of 4."""
    return -(-count // 4) * 4


def weight_bytes(filters: int, stored_channels: int, kernel: int, weight_bits: int) -> int:
    """Bytes of a stage's weights, without padding.

    Example:
        >>> weight_bytes(filters=8, stored_channels=3, kernel=3, weight_bits=1)
        32
    """
    return filters * weight_bits * (-(-kernel * kernel * stored_channels // 8))


def threshold_bytes(filters: int, output_bits: int, accumulator_max: int) -> int:
    """Bytes of a stage's thresholds, without padding: two each where every threshold fits, else four."""
    return filters * (2**output_bits - 1) * _threshold_type(accumulator_max).itemsize


def _threshold_type(accumulator_max: int) -> np.dtype[np.signedinteger]:
    return np.dtype("<i2" if accumulator_max + 1 <= 32767 else "<i4")


def save(model: IntegerModel, path: str | os.PathLike[str]) -> None:
    """Write a packed file. It appears whole or not at all.

    Raises:
        ConversionError: the model breaks a rule.
        OSError: the file cannot be written; its `filename` is `path`.
    """
    path = Path(path)
    data = to_bytes(model)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:  # of the file that was asked for, not of the hidden one
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        with suppress(OSError):
            part.unlink()


def load(source: str | os.PathLike[str] | bytes) -> IntegerModel:
    """Read a packed file from a path, or from its bytes.

    Raises:
        ModelFileError: the rule that the file breaks, with the value found and its offset.
    """
    if isinstance(source, bytes):
        return from_bytes(source)
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise ModelFileError(f"{source}: cannot be read: {error.strerror or error}") from None
    try:
        return from_bytes(data)
    except ModelFileError as error:
        raise ModelFileError(f"{source}: {error}") from None


def to_bytes(model: IntegerModel) -> bytes:
    """The inverse of `from_bytes`. Anchors and default score are rounded to float32.

    Raises:
        ConversionError: the model breaks a rule.
    """
    validate(model)
    name = model.name.encode()
    body = [name, np.array(model.head.anchors, "<f4").tobytes()]
    for stage in model.stages:
        body += [_stage_record(stage), _weight_planes(stage)]
        if stage.thresholds is not None:
            body.append(stage.thresholds.astype(_threshold_type(stage.accumulator_max)).tobytes())
        else:
            body.append(model.scale.astype("<f4").tobytes() + model.bias.astype("<f4").tobytes())
    tail = b"".join(part.ljust(padded(len(part)), b"\0") for part in body)

    def header(crc: int) -> bytes:
        head = model.head
        return HEADER.pack(
            *(MAGIC, VERSION, len(model.stages), HEADER_BYTES + len(tail), crc),
            *(3, len(head.anchors), model.default_size_px, model.default_score, head.centre_scale, len(name), b""),
        )

    data = header(zlib.crc32(header(0)[CRC_OFFSET:] + tail)) + tail
    try:
        from_bytes(data)
    except ModelFileError as error:  # an anchor that float32 rounds to 0, for example
        raise ConversionError(f"integer model {model.name!r} has no packed file: {error}") from None
    return data


def _stage_record(stage: Stage) -> bytes:
    return STAGE.pack(
        *(stage.in_channels, stage.filters, stage.kernel, stage.pool, stage.input_bits, stage.weight_bits),
        *(stage.weight_copies, stage.map_copies, stage.output_bits, 1),
    )


def _weight_planes(stage: Stage) -> bytes:
    codes = (stage.weights + 2**stage.weight_bits - 1) // 2
    codes = codes.transpose(0, 2, 3, 1).reshape(stage.filters, 1, -1)
    planes = codes >> np.arange(stage.weight_bits)[:, None] & 1
    return np.packbits(planes.astype(np.uint8), axis=-1, bitorder="little").tobytes()


def from_bytes(data: bytes) -> IntegerModel:
    """Read a packed file.

    Raises:
        ModelFileError: the first rule that is broken, with the value found and its offset.
    """
    file = _Reader(data)
    file.check(len(data) >= HEADER_BYTES, "length of the file", len(data), f"at least {HEADER_BYTES}", at=0)
    magic, version, stage_count, length, crc, image_channels, anchor_count, size, score, centre_scale, name_length, zeros = HEADER.unpack(
        file.take(HEADER_BYTES, "header")
    )
    file.check(magic == MAGIC, "magic", magic, MAGIC, at=0)
    file.check(version == VERSION, "format version", version, VERSION, at=4)
    file.check(length == len(data), "length of the file", length, f"{len(data)}, the real length", at=8)
    real_crc = zlib.crc32(data[CRC_OFFSET:])
    file.check(crc == real_crc, "CRC-32", f"{crc:08x}", f"{real_crc:08x}: the file is damaged", at=12)
    file.check(1 <= stage_count <= 64, "number of stages", stage_count, "1 to 64", at=6)
    file.check(image_channels == 3, "channels of the image", image_channels, 3, at=16)
    file.check(1 <= anchor_count <= 16, "number of anchors", anchor_count, "1 to 16", at=17)
    file.check(32 <= size <= 8192, "default size", size, "32 to 8192", at=18)
    file.check(0 <= score <= 1, "default score", score, "0 to 1", at=20)
    file.check(1 <= centre_scale <= 4, "centre_scale", centre_scale, "1 to 4", at=24)
    file.check(1 <= name_length <= 64, "length of the name", name_length, "1 to 64", at=28)
    file.check(zeros == bytes(3), "unused bytes", zeros.hex(), "zeros", at=29)

    name = _name(file, name_length)
    anchors = np.frombuffer(file.take(anchor_count * ANCHOR_BYTES, "anchors"), "<f4").reshape(-1, 2)
    for index, value in enumerate(anchors.flat):
        file.check(0 < value <= 8192, "side of an anchor", value, "above 0 and at most 8192", at=file.start + 4 * index)

    stages: list[Stage] = []
    channels, bits, stride = 3, 8, 1
    for number in range(1, stage_count + 1):
        file.where = f"stage {number}: "
        stages.append(_stage(file, channels, bits, 6 * anchor_count if number == stage_count else None))
        channels, bits, stride = stages[-1].filters, stages[-1].output_bits, stride * stages[-1].pool
        file.check(stride <= 64, "product of all pools", stride, "at most 64", at=file.start)
    scale, bias = np.frombuffer(file.take_padded(8 * channels, "head scales"), "<f4").astype(np.float32).reshape(2, -1)
    for what, values in (("scale", scale), ("bias", bias)):
        for index, value in enumerate(values):
            offset = file.start + 4 * (index + (channels if what == "bias" else 0))
            file.check(math.isfinite(value), f"head {what} of filter {index}", value, "a finite number", at=offset)
    file.where = ""
    file.check(file.at == len(data), "bytes after the last stage", len(data) - file.at, 0, at=file.at)
    head = HeadSpec(anchors=tuple((float(w), float(h)) for w, h in anchors), centre_scale=centre_scale)
    return IntegerModel(name, tuple(stages), head, scale, bias, size, score)


class _Reader:
    """The bytes of a file, how far they are read, and how to complain about them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.start, self.where = data, 0, 0, ""

    def check(self, true: bool, field: str, found: object, expected: object, *, at: int) -> None:
        if not true:
            raise ModelFileError(f"{self.where}{field} is {found}, expected {expected} (offset {at})")

    def take(self, count: int, field: str) -> bytes:
        """The next `count` bytes; `self.start` is where they are."""
        left = len(self.data) - self.at
        self.check(count <= left, f"room for the {field}", f"{left} bytes", f"{count}: the file ends too early", at=self.at)
        self.start, self.at = self.at, self.at + count
        return self.data[self.start : self.at]

    def take_padded(self, count: int, field: str) -> bytes:
        """The next `count` bytes; the zeros after them are checked and dropped."""
        section = self.take(padded(count), field)
        self.check(not any(section[count:]), f"padding after the {field}", section[count:].hex(), "zeros", at=self.start + count)
        return section[:count]


def _name(file: _Reader, length: int) -> str:
    raw = file.take_padded(length, "name")
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise ModelFileError(f"name is not UTF-8: {error.reason} (offset {file.start + error.start})") from None
    file.check(is_name(name), "name", repr(name), "no control characters", at=file.start)
    return name


def _stage(file: _Reader, channels: int, bits: int, grid_channels: int | None) -> Stage:
    """The next stage, which reads a map of so many channels and bits; `grid_channels` is None but in the last stage."""
    record = STAGE.unpack(file.take(STAGE_BYTES, "record"))
    in_channels, filters, kernel, pool, input_bits, weight_bits, weight_copies, map_copies, output_bits, distance = record
    at, last = file.start, grid_channels is not None
    file.check(1 <= in_channels <= 4096, "input channels", in_channels, "1 to 4096", at=at)
    file.check(in_channels == channels, "input channels", in_channels, f"{channels}, as in the map before", at=at)
    file.check(1 <= filters <= 4096, "filters", filters, "1 to 4096", at=at + 2)
    file.check(grid_channels in (None, filters), "filters of the last stage", filters, f"{grid_channels}, 6 for each anchor", at=at + 2)
    file.check(kernel in (1, 3, 5, 7), "kernel", kernel, "1, 3, 5 or 7", at=at + 4)
    file.check(pool == 1 or (pool == 2 and not last), "pool", pool, "1" if last else "1 or 2", at=at + 5)
    file.check(1 <= input_bits <= 8, "input bits", input_bits, "1 to 8", at=at + 6)
    file.check(input_bits == bits, "input bits", input_bits, f"{bits}, as in the map before", at=at + 6)
    file.check(1 <= weight_bits <= 8, "weight bits", weight_bits, "1 to 8", at=at + 7)
    file.check(1 <= weight_copies <= 64, "weight copies", weight_copies, "1 to 64", at=at + 8)
    file.check(1 <= map_copies <= 64, "map copies", map_copies, "1 to 64", at=at + 9)
    tiled = in_channels * map_copies
    file.check(tiled % weight_copies == 0, "weight copies", weight_copies, f"a divisor of {tiled} channels", at=at + 8)
    file.check(output_bits == 0 if last else 1 <= output_bits <= 8, "output bits", output_bits, "0" if last else "1 to 8", at=at + 10)
    file.check(distance == 1, "distance back to the stage that is read", distance, 1, at=at + 11)
    largest = accumulator_max(tiled, kernel, weight_bits, input_bits)
    file.check(largest < 2**31, "largest accumulator", largest, "below 2^31", at=at)

    stored_channels = tiled // weight_copies
    weights = _weights(file, filters, stored_channels, kernel, weight_bits)
    thresholds = None if last else _thresholds(file, filters, output_bits, largest)
    return Stage(weights, weight_bits, input_bits, weight_copies, map_copies, pool, thresholds)


def _weights(file: _Reader, filters: int, stored_channels: int, kernel: int, weight_bits: int) -> NDArray[np.int16]:
    raw = file.take_padded(weight_bytes(filters, stored_channels, kernel, weight_bits), "weights")
    count = kernel * kernel * stored_channels
    planes = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(filters, weight_bits, -1), axis=-1, bitorder="little")
    file.check(not planes[..., count:].any(), "unused bits of the weights", "1", "0", at=file.start)
    codes = np.zeros((filters, count), np.int16)
    for plane in range(weight_bits):
        codes += planes[:, plane, :count].astype(np.int16) << plane
    weights = 2 * codes - (2**weight_bits - 1)
    return np.ascontiguousarray(weights.reshape(filters, kernel, kernel, stored_channels).transpose(0, 3, 1, 2))


def _thresholds(file: _Reader, filters: int, output_bits: int, accumulator_max: int) -> NDArray[np.int32]:
    kind = _threshold_type(accumulator_max)
    raw = file.take_padded(threshold_bytes(filters, output_bits, accumulator_max), "thresholds")
    thresholds = np.frombuffer(raw, kind).astype(np.int32).reshape(filters, -1)
    bad = (thresholds < -accumulator_max) | (thresholds > accumulator_max + 1)
    expected = f"within [{-accumulator_max}, {accumulator_max + 1}]"
    bad[:, 1:] |= thresholds[:, 1:] < thresholds[:, :-1]
    if bad.any():
        f, i = np.argwhere(bad)[0]
        offset = file.start + kind.itemsize * (int(f) * thresholds.shape[1] + int(i))
        file.check(False, f"threshold {i} of filter {f}", thresholds[f, i], f"{expected}, ascending", at=offset)
    return thresholds
