"""The packed file, `.dnet`: an integer model as bytes, and back. The layout and its rules are docs/format.md.

Whatever `from_bytes` returns obeys every rule there, so what follows need not check again; `core/dn_model.c` accepts and
refuses the same files. Before this module comes `dupnet.conversion`; after it comes `dupnet.runtime`.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dupnet import coder
from dupnet.errors import ConversionError, ModelFileError
from dupnet.files import whole
from dupnet.integer import IntegerModel, Stage, accumulator_max, validate
from dupnet.spec import GRID_CHANNELS, MAX_KERNEL, MAX_POOL, MAX_STEP, HeadSpec, is_name, sides

MAGIC = b"DNET"
VERSION = 2
HEADER = struct.Struct("<4sHHIIBBHffBB2s")
"""Magic, version, stages, length, CRC-32, image channels, anchors, default size, default score, centre scale, name bytes, channels of an
anchor, zeros. A classifier has no anchors, and 0 channels for each."""
HEADER_BYTES = HEADER.size
CRC_OFFSET = 16
"""The checksum covers everything from here on."""
STAGE = struct.Struct("<HHBBBBBBBBBBBB")
"""Input channels, filters, kernel, step, pool, pool's step, input bits, weight bits, weight copies, map copies, output bits, distance,
flags, slope."""
CODED, UNPADDED = 1, 2
"""Flags of a stage: its weights are coded; its map is not surrounded by zeros."""
STAGE_BYTES = STAGE.size
ANCHOR_BYTES = 8
HEAD_CHANNEL_BYTES = 8
"""A grid channel's scale and bias."""
MAX_CODED_PER_BYTE = 2048
"""No file holds more coded weights and thresholds for each of its bytes: the least that one takes is 1/183 bit."""


@dataclass(frozen=True)
class StageBytes:
    """Where a stage's bytes go.

    Attributes:
        weights, thresholds: before coding; what a reader has in memory.
        file_weights, file_thresholds: in the file. Coded ones share bytes with their neighbours, so these are right to one byte.
    """

    weights: int
    thresholds: int
    file_weights: int
    file_thresholds: int


def padded(count: int) -> int:
    """`count` bytes and the zeros up to the next multiple of 4."""
    return -(-count // 4) * 4


def weight_bytes(filters: int, stored_channels: int, kernel: int, weight_bits: int) -> int:
    """Bytes of a stage's weights, without padding or coding.

    Example:
        >>> weight_bytes(filters=8, stored_channels=3, kernel=3, weight_bits=1)
        32
    """
    return filters * weight_bits * (-(-kernel * kernel * stored_channels // 8))


def threshold_bytes(filters: int, output_bits: int, accumulator_max: int) -> int:
    """Bytes of a stage's thresholds in a reader's memory: two each where every threshold fits, else four."""
    return filters * (2**output_bits - 1) * (2 if accumulator_max + 1 <= 32767 else 4)


def save(model: IntegerModel, path: str | os.PathLike[str], *, smallest: bool = False) -> None:
    """Write a packed file (see `to_bytes`). It appears whole or not at all.

    Raises:
        ConversionError: the model breaks a rule.
        OSError: the file cannot be written; its `filename` is `path`.
    """
    data = to_bytes(model, smallest=smallest)
    with whole(path) as part:
        part.write_bytes(data)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """A packed file as it lies there, unchecked.

    Raises:
        ModelFileError: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise ModelFileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def load(source: str | os.PathLike[str] | bytes) -> IntegerModel:
    """Read a packed file from a path, or from its bytes.

    Raises:
        ModelFileError: the rule that the file breaks, with the value found and its offset.
    """
    if isinstance(source, bytes):
        return from_bytes(source)
    data = read_bytes(source)
    try:
        return from_bytes(data)
    except ModelFileError as error:
        raise ModelFileError(f"{source}: {error}") from None


def to_bytes(model: IntegerModel, *, smallest: bool = False) -> bytes:
    """The inverse of `from_bytes`. Anchors and default score are rounded to float32.

    Args:
        model: the detector.
        smallest: code the 1-bit weights of every stage where that saves bytes. Otherwise only stages that read a duplicated map are
            coded: there it saves a third, elsewhere a few percent, and what is not coded needs no memory and no time.

    Raises:
        ConversionError: the model breaks a rule.
    """
    validate(model)
    name = model.name.encode()
    coded = [stage.weight_bits == 1 and (smallest or stage.map_copies > 1) and _is_shorter(stage) for stage in model.stages]
    slopes = [_slope(stage) for stage in model.stages]
    records = b"".join(_stage_record(*fields) for fields in zip(model.stages, coded, slopes))
    scales = model.scale.astype("<f4").tobytes() + model.bias.astype("<f4").tobytes()
    planes = [_planes(stage) for stage, is_coded in zip(model.stages, coded) if not is_coded]
    raw = [np.packbits(bits, axis=-1, bitorder="little").tobytes() for bits in planes]
    body = [name, np.array(model.head.anchors, "<f4").tobytes(), records, scales, *raw]
    tail = b"".join(part.ljust(padded(len(part)), b"\0") for part in body) + _encode(model, coded, slopes)

    def header(crc: int) -> bytes:
        head = model.head
        return HEADER.pack(
            *(MAGIC, VERSION, len(model.stages), HEADER_BYTES + len(tail), crc),
            *(3, len(head.anchors), model.default_size_px, model.default_score, head.centre_scale, len(name)),
            *(GRID_CHANNELS if head.anchors else 0, b""),
        )

    data = header(zlib.crc32(header(0)[CRC_OFFSET:] + tail)) + tail
    try:
        from_bytes(data)
    except ModelFileError as error:  # an anchor that float32 rounds to 0, for example
        raise ConversionError(f"integer model {model.name!r} has no packed file: {error}") from None
    return data


def _stage_record(stage: Stage, is_coded: bool, slope: int) -> bytes:
    flags = (CODED if is_coded else 0) | (0 if stage.padding else UNPADDED)
    return STAGE.pack(
        *(stage.in_channels, stage.filters, stage.kernel, stage.step, stage.pool, stage.pool_step, stage.input_bits, stage.weight_bits),
        *(stage.weight_copies, stage.map_copies, stage.output_bits, 1, flags, slope),
    )


def _planes(stage: Stage) -> NDArray[np.uint8]:
    """`(filters, weight_bits, weights of a filter)`, 0 or 1: the bits of the weights' codes in the order of the file."""
    codes = (stage.weights + 2**stage.weight_bits - 1) // 2
    codes = codes.transpose(0, 2, 3, 1).reshape(stage.filters, 1, -1)
    return (codes >> np.arange(stage.weight_bits)[:, None] & 1).astype(np.uint8)


def _sums(stage: Stage) -> NDArray[np.int64]:
    """`(filters,)`: the accumulators of a map that has its highest level everywhere."""
    return stage.weights.sum(axis=(1, 2, 3), dtype=np.int64) * (stage.weight_copies * (2**stage.input_bits - 1))


def _slope(stage: Stage) -> int:
    """How the first threshold rises with the sum of a filter's weights, in 256ths, by least squares: about the mean level of the map."""
    if stage.thresholds is None:
        return 0
    sums = _sums(stage) - _sums(stage).mean()
    square = float(sums @ sums)
    return round(min(max(256 * float(sums @ stage.thresholds[:, 0]) / square, 0), 255)) if square else 0


def _encode_weights(encoder: coder.Encoder, stage: Stage) -> None:
    coder.weights(encoder, stage.kernel, stage.weights.shape[1], stage.in_channels, _planes(stage)[:, 0])


def _is_shorter(stage: Stage) -> bool:
    """Whether the weights have fewer bytes when they are coded, all by themselves."""
    encoder = coder.Encoder()
    _encode_weights(encoder, stage)
    return len(encoder.finish()) < weight_bytes(stage.filters, stage.weights.shape[1], stage.kernel, stage.weight_bits)


def _encode(model: IntegerModel, coded: list[bool], slopes: list[int]) -> bytes:
    encoder = coder.Encoder()
    for stage, is_coded, slope in zip(model.stages, coded, slopes):
        if is_coded:
            _encode_weights(encoder, stage)
        if stage.thresholds is not None:
            coder.thresholds(encoder, slope * _sums(stage) >> 8, stage.accumulator_max, stage.thresholds.astype(np.int64))
    return encoder.finish()


def from_bytes(data: bytes) -> IntegerModel:
    """Read a packed file.

    Raises:
        ModelFileError: the first rule that is broken, with the value found and its offset.
    """
    return _read(data)[0]


def stage_bytes(data: bytes) -> tuple[StageBytes, ...]:
    """Where a file's bytes go, stage by stage.

    Raises:
        ModelFileError: as `from_bytes`.
    """
    return _read(data)[1]


def _read(data: bytes) -> tuple[IntegerModel, tuple[StageBytes, ...]]:
    file = _Reader(data)
    file.check(len(data) >= HEADER_BYTES, "length of the file", len(data), f"at least {HEADER_BYTES}", at=0)
    header = HEADER.unpack(file.take(HEADER_BYTES, "header"))
    magic, version, stage_count, length, crc, image_channels, anchor_count, size, score, centre_scale, *rest = header
    name_length, grid_channels, zeros = rest
    file.check(magic == MAGIC, "magic", magic, MAGIC, at=0)
    again = "; a model of version 1 must be converted again from its network (dupnet convert)" if version == 1 else ""
    file.check(version == VERSION, "format version", version, f"{VERSION}{again}", at=4)
    file.check(length == len(data), "length of the file", length, f"{len(data)}, the real length", at=8)
    real_crc = zlib.crc32(data[CRC_OFFSET:])
    file.check(crc == real_crc, "CRC-32", f"{crc:08x}", f"{real_crc:08x}: the file is damaged", at=12)
    file.check(1 <= stage_count <= 64, "number of stages", stage_count, "1 to 64", at=6)
    file.check(image_channels == 3, "channels of the image", image_channels, 3, at=16)
    file.check(anchor_count <= 16, "number of anchors", anchor_count, "0 to 16", at=17)
    least = 32 if anchor_count else 1
    file.check(least <= size <= 8192, "default size", size, f"{least} to 8192", at=18)
    file.check(0 <= score <= 1, "default score", score, "0 to 1", at=20)
    most = 4 if anchor_count else 1
    file.check(1 <= centre_scale <= most, "centre_scale", centre_scale, f"1 to {most}", at=24)
    file.check(1 <= name_length <= 64, "length of the name", name_length, "1 to 64", at=28)
    expected = GRID_CHANNELS if anchor_count else 0
    file.check(grid_channels == expected, "channels of an anchor", grid_channels, expected, at=29)
    file.check(zeros == bytes(2), "unused bytes", zeros.hex(), "zeros", at=30)

    name = _name(file, name_length)
    anchors = np.frombuffer(file.take(anchor_count * ANCHOR_BYTES, "anchors"), "<f4").reshape(-1, 2)
    for index, value in enumerate(anchors.flat):
        file.check(0 < value <= 8192, "side of an anchor", value, "above 0 and at most 8192", at=file.start + 4 * index)

    records: list[_Record] = []
    channels, bits, stride, side = 3, 8, 1, size
    for number in range(1, stage_count + 1):
        file.where = f"stage {number}: "
        record = _record(file, channels, bits, number == stage_count, anchor_count)
        records.append(record)
        channels, bits, stride = record.filters, record.output_bits, stride * record.step * record.pool_step
        if anchor_count:
            file.check(stride <= 64, "product of all steps and pools", stride, "at most 64", at=file.start)
            continue
        read, side = side, sides(side, record.kernel, record.step, record.padding, record.pool, record.pool - record.pool_step)[1]
        file.check(side > 0, "map of the default size", f"{read}x{read}", "more, so that something is left after this stage", at=file.start)
    file.where = ""
    count = sum(record.coded_count for record in records)
    file.check(count <= MAX_CODED_PER_BYTE * len(data), "coded weights and thresholds", count, "no more than the file can hold", at=file.at)

    scale, bias = np.frombuffer(file.take(HEAD_CHANNEL_BYTES * channels, "head scales"), "<f4").astype(np.float32).reshape(2, -1)
    for what, values in (("scale", scale), ("bias", bias)):
        for index, value in enumerate(values):
            offset = file.start + 4 * (index + (channels if what == "bias" else 0))
            file.check(math.isfinite(value), f"head {what} of filter {index}", value, "a finite number", at=offset)
    planes = [_raw_planes(file, number, record) for number, record in enumerate(records, 1)]
    stages, sizes = _decode(file, records, planes)
    classes = 0 if anchor_count else channels
    head = HeadSpec(anchors=tuple((float(w), float(h)) for w, h in anchors), centre_scale=centre_scale, classes=classes)
    return IntegerModel(name, stages, head, scale, bias, size, score), sizes


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


@dataclass(frozen=True)
class _Record:
    """The fields of a stage record that are not the same in all files."""

    filters: int
    kernel: int
    step: int
    padding: bool
    pool: int
    pool_step: int
    input_bits: int
    weight_bits: int
    weight_copies: int
    map_copies: int
    output_bits: int
    is_coded: bool
    slope: int
    in_channels: int
    accumulator_max: int

    @property
    def stored_channels(self) -> int:
        return self.in_channels * self.map_copies // self.weight_copies

    @property
    def filter_weights(self) -> int:
        return self.kernel**2 * self.stored_channels

    @property
    def coded_count(self) -> int:
        return self.filters * (2**self.output_bits - 1 + (self.filter_weights if self.is_coded else 0))


def _record(file: _Reader, channels: int, bits: int, last: bool, anchors: int) -> _Record:
    """The next stage record; the stage reads a map of so many channels and bits. A classifier has no anchors."""
    fields = STAGE.unpack(file.take(STAGE_BYTES, "record"))
    in_channels, filters, kernel, step, pool, pool_step, input_bits, weight_bits, weight_copies, map_copies, *rest = fields
    output_bits, distance, flags, slope = rest
    at, is_coded, padding = file.start, flags & CODED, not flags & UNPADDED
    file.check(1 <= in_channels <= 4096, "input channels", in_channels, "1 to 4096", at=at)
    file.check(in_channels == channels, "input channels", in_channels, f"{channels}, as in the map before", at=at)
    file.check(1 <= filters <= 4096, "filters", filters, "1 to 4096", at=at + 2)
    if last and anchors:
        expected = f"{GRID_CHANNELS * anchors}, {GRID_CHANNELS} for each anchor"
        file.check(filters == GRID_CHANNELS * anchors, "filters of the last stage", filters, expected, at=at + 2)
    odd = "" if not padding else " and, with padding, odd"
    file.check(1 <= kernel <= MAX_KERNEL and (kernel % 2 == 1 or not padding), "kernel", kernel, f"1 to {MAX_KERNEL}{odd}", at=at + 4)
    file.check(1 <= step <= MAX_STEP, "step of the kernel", step, f"1 to {MAX_STEP}", at=at + 5)
    most = 1 if last else MAX_POOL
    file.check(1 <= pool <= most, "pool", pool, f"1 to {most}", at=at + 6)
    if anchors:
        file.check(pool_step == pool, "step of the pool", pool_step, f"{pool}, its size, as there are anchors", at=at + 7)
    file.check(1 <= pool_step <= pool, "step of the pool", pool_step, f"1 to {pool}", at=at + 7)
    file.check(1 <= input_bits <= 8, "input bits", input_bits, "1 to 8", at=at + 8)
    file.check(input_bits == bits, "input bits", input_bits, f"{bits}, as in the map before", at=at + 8)
    file.check(1 <= weight_bits <= 8, "weight bits", weight_bits, "1 to 8", at=at + 9)
    file.check(1 <= weight_copies <= 64, "weight copies", weight_copies, "1 to 64", at=at + 10)
    file.check(1 <= map_copies <= 64, "map copies", map_copies, "1 to 64", at=at + 11)
    tiled = in_channels * map_copies
    file.check(tiled % weight_copies == 0, "weight copies", weight_copies, f"a divisor of {tiled} channels", at=at + 10)
    file.check(output_bits == 0 if last else 1 <= output_bits <= 8, "output bits", output_bits, "0" if last else "1 to 8", at=at + 12)
    file.check(distance == 1, "distance back to the stage that is read", distance, 1, at=at + 13)
    known = (CODED if weight_bits == 1 else 0) | (0 if anchors else UNPADDED)
    expected = "only 1 (coded weights, of 1 bit) and 2 (no padding, without anchors)"
    file.check(flags & known == flags, "flags", flags, expected, at=at + 14)
    file.check(slope == 0 or not last, "slope", slope, "0", at=at + 15)
    largest = accumulator_max(tiled, kernel, weight_bits, input_bits)
    file.check(largest < 2**31, "largest accumulator", largest, "below 2^31", at=at)
    sizes = (filters, kernel, step, padding, pool, pool_step, input_bits, weight_bits, weight_copies, map_copies, output_bits)
    return _Record(*sizes, is_coded == 1, slope, in_channels, largest)


def _raw_planes(file: _Reader, number: int, record: _Record) -> NDArray[np.uint8]:
    """`(filters, weight_bits, weights of a filter)`, 0 or 1; zeros where the weights are coded."""
    count = record.filter_weights
    if record.is_coded:
        return np.zeros((record.filters, 1, count), np.uint8)
    file.where = f"stage {number}: "
    raw = file.take_padded(weight_bytes(record.filters, record.stored_channels, record.kernel, record.weight_bits), "weights")
    planes = np.unpackbits(np.frombuffer(raw, np.uint8).reshape(record.filters, record.weight_bits, -1), axis=-1, bitorder="little")
    file.check(not planes[..., count:].any(), "unused bits of the weights", "1", "0", at=file.start)
    return planes[..., :count]


def _decode(file: _Reader, records: list[_Record], planes: list[NDArray[np.uint8]]) -> tuple[tuple[Stage, ...], tuple[StageBytes, ...]]:
    """The stages: what is coded, which is the rest of the file, and the weights that are not."""
    file.where = ""
    start = file.at
    code = file.take(len(file.data) - start, "code")
    file.check(len(code) >= 4, "length of the code", len(code), "at least 4", at=start)
    decoder = coder.Decoder(code)
    stages: list[Stage] = []
    sizes: list[StageBytes] = []
    for number, (record, bits) in enumerate(zip(records, planes), 1):
        marks = [decoder.length]
        try:
            if record.is_coded:
                coder.weights(decoder, record.kernel, record.stored_channels, record.in_channels, bits[:, 0])
            marks.append(decoder.length)
            shape = (record.weight_bits, record.input_bits, record.weight_copies, record.map_copies, record.pool, None)
            stage = Stage(_weights(record, bits), *shape, record.step, record.pool - record.pool_step, record.padding)
            if record.output_bits:
                thresholds = np.zeros((record.filters, 2**record.output_bits - 1), np.int64)
                coder.thresholds(decoder, record.slope * _sums(stage) >> 8, record.accumulator_max, thresholds)
                stage = replace(stage, thresholds=thresholds.astype(np.int32))
        except ModelFileError as error:
            raise ModelFileError(f"stage {number}: {error} (offset {start + decoder.length})") from None
        weights = weight_bytes(record.filters, record.stored_channels, record.kernel, record.weight_bits)
        memory = threshold_bytes(record.filters, record.output_bits, record.accumulator_max)
        sizes.append(StageBytes(weights, memory, marks[1] - marks[0] if record.is_coded else weights, decoder.length - marks[1]))
        stages.append(stage)
    file.check(decoder.length == len(code), "length of the code", len(code), decoder.length, at=start)
    file.check(decoder.is_complete, "end of the code", code[-4:].hex(), "the end that a writer gives it", at=len(file.data) - 4)
    return tuple(stages), tuple(sizes)


def _weights(record: _Record, planes: NDArray[np.uint8]) -> NDArray[np.int16]:
    codes = np.zeros((record.filters, record.filter_weights), np.int16)
    for plane in range(record.weight_bits):
        codes += planes[:, plane].astype(np.int16) << plane
    weights = 2 * codes - (2**record.weight_bits - 1)
    shape = (record.filters, record.kernel, record.kernel, record.stored_channels)
    return np.ascontiguousarray(weights.reshape(shape).transpose(0, 3, 1, 2))
