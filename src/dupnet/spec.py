"""What a detector is, without its weights: frozen, checked data that comes from TOML and goes back to it.

A spec says everything that decides the cost of a model and nothing about how it is trained (that is a recipe).
Read next: `dupnet.zoo` (the specs that ship), `dupnet.cost` (what they cost), `dupnet.nn.network` (a network from a spec).
"""

from __future__ import annotations

import json
import math
import re
import tomllib
import zlib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from dupnet import checked
from dupnet.errors import SpecError

FULL = 32
"""Bits of a float: a layer with 32-bit weights or a 32-bit input is full precision there."""

MAX_KERNEL, MAX_STEP, MAX_POOL = 11, 8, 8

GRID_CHANNELS = 5
"""Channels of the grid that an integer model has for each anchor: x, y, w, h, objectness. The network has a sixth, the class; with a single
class it carries nothing, and conversion drops it."""

NETWORK_CHANNELS = GRID_CHANNELS + 1
"""Channels of a network's grid for each anchor."""


def is_name(text: str) -> bool:
    """Whether a model may have this name: 1 to 64 bytes of UTF-8 without control characters."""
    bad = any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in text)  # control characters, halves of others
    return not bad and 1 <= len(text.encode()) <= 64


def places(side: int, window: int, step: int) -> int:
    """How many places a window has that moves by `step` over `side` pixels and never leaves them; 0 if it does not fit."""
    return max(0, (side - window) // step + 1)


def sides(side: int, kernel: int, step: int, padding: bool, pool: int, pool_overlap: int) -> tuple[int, int]:
    """Rows (or columns) of a layer's sums, and of its map after the pool, when it reads a map of `side` of them.

    Example:
        >>> sides(227, kernel=11, step=4, padding=False, pool=3, pool_overlap=1)  # AlexNet's first layer
        (55, 27)
    """
    sums = places(side + (kernel // 2 * 2 if padding else 0), kernel, step)
    return sums, places(sums, pool, pool - pool_overlap)


@dataclass(frozen=True)
class LayerSpec:
    """One convolution with what follows it: batch norm, activation, optional max-pool.

    Attributes:
        filters: output channels.
        kernel: 1 to 11 pixels; an even one needs `padding` false.
        pool: 2 for a 2x2 max-pool after the convolution, up to 8; 1 for none.
        weight_bits: 1 to 8, or 32 for float weights.
        input_bits: bits of the levels that the layer reads: 1 to 8, or 32 for floats. The first layer reads 8-bit pixels.
        weight_copies: the filters' channels are stored once and tiled this often (1 = no duplication).
        map_copies: the input map's channels are tiled this often (1 = no duplication).
        step: the kernel moves by so many pixels, 1 to 8.
        pool_overlap: pixels that neighbouring pools share: the pool moves by `pool - pool_overlap`. AlexNet's 3x3 with stride 2 has pool 3
            and overlap 1.
        padding: whether the map is surrounded by `kernel // 2` zeros ("same"). Without ("valid") a kernel as large as the map is a fully
            connected layer.
    """

    filters: int
    kernel: int = 3
    pool: int = 1
    weight_bits: int = 1
    input_bits: int = 2
    weight_copies: int = 1
    map_copies: int = 1
    step: int = 1
    pool_overlap: int = 0
    padding: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "padding":
                if not isinstance(value, bool):
                    raise SpecError(f"layer: padding must be true or false, not {value!r}")
            elif not isinstance(value, int) or isinstance(value, bool):
                raise SpecError(f"layer: {field.name} must be an integer, not {value!r}")
        if not 1 <= self.filters <= 4096:
            raise SpecError(f"layer: filters must be 1 to 4096, not {self.filters}")
        for name, most in (("kernel", MAX_KERNEL), ("step", MAX_STEP), ("pool", MAX_POOL)):
            if not 1 <= getattr(self, name) <= most:
                raise SpecError(f"layer: {name} must be 1 to {most}, not {getattr(self, name)}")
        if self.padding and self.kernel % 2 == 0:
            raise SpecError(f"layer: an even kernel, here {self.kernel}, has no middle and needs padding = false")
        if not 0 <= self.pool_overlap < self.pool:
            raise SpecError(f"layer: pool_overlap must be 0 to {self.pool - 1}, below the pool, not {self.pool_overlap}")
        for name in ("weight_bits", "input_bits"):
            if getattr(self, name) not in (*range(1, 9), FULL):
                raise SpecError(f"layer: {name} must be 1 to 8 or {FULL}, not {getattr(self, name)}")
        for name in ("weight_copies", "map_copies"):
            if not 1 <= getattr(self, name) <= 64:
                raise SpecError(f"layer: {name} must be 1 to 64, not {getattr(self, name)}")

    @property
    def pool_step(self) -> int:
        """The pool moves by so many pixels."""
        return self.pool - self.pool_overlap

    def sides(self, side: int) -> tuple[int, int]:
        """Rows (or columns) of the sums and of the map after the pool, over a map of `side` of them; 0 if nothing fits."""
        return sides(side, self.kernel, self.step, self.padding, self.pool, self.pool_overlap)


@dataclass(frozen=True)
class HeadSpec:
    """What the grid means: boxes (docs/arithmetic.md, "Grid to boxes"), or class scores ("Grid to class scores").

    Attributes:
        anchors: (width, height) of each anchor in pixels of the network's input; none for a classifier.
        centre_scale: 1 as in YOLOv2; 2 lets a centre leave its cell by half a cell.
        classes: 1 to 4096 for a classifier, whose grid has one channel for each; 0 for boxes.
    """

    anchors: tuple[tuple[float, float], ...] = ()
    centre_scale: float = 1.0
    classes: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchors", tuple(map(tuple, self.anchors)))
        if self.classes:
            if not isinstance(self.classes, int) or not 1 <= self.classes <= 4096 or self.anchors or self.centre_scale != 1:
                raise SpecError(
                    f"head: a classifier has 1 to 4096 classes, no anchors and centre_scale 1, not {self.classes} classes, "
                    f"{len(self.anchors)} anchors and centre_scale {self.centre_scale}"
                )
            return
        if not 1 <= len(self.anchors) <= 16:
            raise SpecError(f"head: 1 to 16 anchors are possible, not {len(self.anchors)}")
        for anchor in self.anchors:
            if len(anchor) != 2 or not all(0 < side <= 8192 for side in anchor):
                raise SpecError(f"head: an anchor is [width, height], each above 0 and at most 8192 pixels, not {anchor!r}")
        if not 1 <= self.centre_scale <= 4:
            raise SpecError(f"head: centre_scale must be 1 to 4, not {self.centre_scale}")

    @property
    def channels(self) -> int:
        """Channels of a network's grid: the classes, or x, y, w, h, objectness, class for each anchor."""
        return self.classes or NETWORK_CHANNELS * len(self.anchors)

    @property
    def integer_channels(self) -> int:
        """Channels of an integer model's grid: the classes, or x, y, w, h, objectness for each anchor."""
        return self.classes or GRID_CHANNELS * len(self.anchors)


@dataclass(frozen=True)
class ModelSpec:
    """A chain of layers and a head: a YOLOv2-style detector, or a classifier.

    A detector's layers are padded and their pools do not overlap, so that its grid is the input divided by its stride. A classifier's
    input may have any size that leaves something of every map; it has the default size, on both sides, unless the user says otherwise.

    Attributes:
        name: how the zoo, files and tables call it.
        about: one sentence for people.
        layers: in the order of execution; the last one gives the grid.
        head: anchors and decoding.
        default_size_px: long side of the network's input in pixels, 32 to 8192; of a classifier from 1 on.
        default_score: lowest score that a detector keeps by default; a classifier does not use it.
    """

    name: str
    layers: tuple[LayerSpec, ...]
    head: HeadSpec
    about: str = ""
    default_size_px: int = 416
    default_score: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))  # a list would compare unequal to what files hold
        if not is_name(self.name):
            raise SpecError(f"name must be 1 to 64 bytes of UTF-8 without control characters, not {self.name!r}")
        if not 1 <= len(self.layers) <= 64:
            raise SpecError(f"{self.name}: 1 to 64 layers are possible, not {len(self.layers)}")
        least = 1 if self.head.classes else 32
        if not isinstance(self.default_size_px, int) or not isinstance(self.default_score, (int, float)):
            raise SpecError(f"{self.name}: default_size_px and default_score must be numbers, the first a whole one")
        if not least <= self.default_size_px <= 8192:
            raise SpecError(f"{self.name}: default_size_px must be {least} to 8192, not {self.default_size_px}")
        if not 0 <= self.default_score <= 1:
            raise SpecError(f"{self.name}: default_score must be in [0, 1], not {self.default_score}")
        if self.stride > 64:
            raise SpecError(f"{self.name}: the product of all steps and pools must be at most 64, not {self.stride}")
        if self.layers[0].input_bits not in (8, FULL):
            raise SpecError(
                f"{self.name}: layer 1 reads the 8-bit photo; its input_bits must be 8 or {FULL}, not {self.layers[0].input_bits}"
            )
        for number, (layer, channels) in enumerate(zip(self.layers, self.in_channels), 1):
            if channels * layer.map_copies % layer.weight_copies:
                raise SpecError(
                    f"{self.name}: layer {number}: {channels} channels x {layer.map_copies} map copies are not a multiple of "
                    f"{layer.weight_copies} weight copies"
                )
        last, head = self.layers[-1], self.head
        if last.pool != 1 or last.filters != head.channels:
            why = (
                f"one for each of {head.classes} classes" if head.classes else f"{NETWORK_CHANNELS} for each of {len(head.anchors)} anchors"
            )
            raise SpecError(
                f"{self.name}: the last layer needs pool 1 and {head.channels} filters ({why}), not pool {last.pool} and {last.filters} "
                "filters"
            )
        side = self.default_size_px
        for number, layer in enumerate(self.layers, 1):
            if not head.classes and (layer.pool_overlap or not layer.padding):
                raise SpecError(f"{self.name}: layer {number}: a detector's layers need padding, and pools that do not overlap")
            read, side = side, layer.sides(side)[1]
            if head.classes and not side:
                raise SpecError(f"{self.name}: layer {number}: nothing is left of a map of {read}x{read} pixels")

    @property
    def in_channels(self) -> tuple[int, ...]:
        """Channels of the map that each layer reads, before duplication."""
        return (3, *(layer.filters for layer in self.layers[:-1]))

    @property
    def stored_channels(self) -> tuple[int, ...]:
        """Channels of each layer's stored template."""
        return tuple(c * layer.map_copies // layer.weight_copies for c, layer in zip(self.in_channels, self.layers))

    @property
    def stride(self) -> int:
        """The sides of the network's input are multiples of it: a detector's pixels per cell of the grid; 1 for a classifier."""
        return 1 if self.head.classes else math.prod(layer.step * layer.pool_step for layer in self.layers)

    @property
    def is_integer(self) -> bool:
        """Whether every layer is quantized, so that the model converts to integers."""
        return all(FULL not in (layer.weight_bits, layer.input_bits) for layer in self.layers)


@dataclass(frozen=True)
class EResFDSpec:
    """EResFD, a float detector of another kind (`dupnet.nn.eresfd`): no quantized layers, no grid, no packed file.

    Attributes:
        channels: of every map behind the stem, a multiple of 4; 16 is the published "1x".
        backbone: `"standard"`, or `"separable"`: each 3x3 convolution of the backbone is a depthwise one and a 1x1 one, as in MobileNet.
        backbone_channels: of the backbone's maps, if another number than `channels`; 1x1 convolutions lead from the one to the other.
    """

    channels: int = 16
    backbone: Literal["standard", "separable"] = "standard"
    backbone_channels: int = 0

    def __post_init__(self) -> None:
        if self.backbone not in ("standard", "separable"):
            raise SpecError(f"eresfd: backbone must be 'standard' or 'separable', not {self.backbone!r}")
        if not 0 <= self.backbone_channels <= 1024 or self.backbone_channels % 2:
            raise SpecError(f"eresfd: backbone_channels must be an even number up to 1024, not {self.backbone_channels}")
        if not isinstance(self.channels, int) or isinstance(self.channels, bool) or not 4 <= self.channels <= 1024 or self.channels % 4:
            raise SpecError(f"eresfd: channels must be a multiple of 4 up to 1024, not {self.channels!r}")

    @property
    def name(self) -> str:
        """What files and tables call it."""
        name = "eresfd" if self.channels == 16 else f"eresfd-{self.channels}"
        return name + f"-{self.backbone}{self.backbone_channels or ''}" * (self != EResFDSpec(self.channels))

    @property
    def stride(self) -> int:
        """An input may have any size."""
        return 1


def from_toml(text: str, *, source: str = "spec") -> ModelSpec:
    """Parse a spec.

    Args:
        text: TOML with the fields of `ModelSpec`: `name`, `about`, ..., one `[[layers]]` table per layer, one `[head]`.
        source: where the text came from, for messages.

    Raises:
        SpecError: not TOML, an unknown or missing key, or a value out of range.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of TOML, of a number with thousands of digits, of thousands of brackets
        raise SpecError(f"{source}: not valid TOML: {error}") from None
    return from_dict(table, source=source)


def load(path: str | Path) -> ModelSpec:
    """Read a spec from a TOML file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return from_toml(text, source=str(path))


def from_dict(table: dict[str, Any], *, source: str = "spec") -> ModelSpec:
    """The inverse of `to_dict`."""
    try:
        spec: ModelSpec = checked.build(ModelSpec, table)
        return spec
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from None


def to_dict(spec: ModelSpec) -> dict[str, Any]:
    """Plain data: what TOML, JSON and checkpoints hold."""
    table = {field.name: getattr(spec, field.name) for field in fields(spec) if field.name not in ("layers", "head")}
    layers = [{field.name: getattr(layer, field.name) for field in fields(layer)} for layer in spec.layers]
    boxes = {"anchors": [list(anchor) for anchor in spec.head.anchors], "centre_scale": spec.head.centre_scale}
    return {**table, "layers": layers, "head": {"classes": spec.head.classes} if spec.head.classes else boxes}


def to_toml(spec: ModelSpec) -> str:
    """The spec as TOML text; `from_toml(to_toml(spec)) == spec`."""

    def quote(value: object) -> str:
        # A TOML string is a JSON string, but for DEL, which only TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else repr(value)

    table = to_dict(spec)
    layers, head = table.pop("layers"), table.pop("head")
    lines = [f"{key} = {quote(value)}" for key, value in table.items()]
    for layer, given in zip(spec.layers, layers):
        default = LayerSpec(filters=layer.filters)
        lines += ["", "[[layers]]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in given.items() if key == "filters" or value != getattr(default, key)]
    lines += ["", "[head]", *(f"{key} = {quote(value)}" for key, value in head.items())]
    return "\n".join(lines) + "\n"


def with_layers(spec: ModelSpec, name: str, changes: dict[int, dict[str, Any]]) -> ModelSpec:
    """A renamed copy with some layers changed.

    Args:
        spec: where to start.
        name: of the new spec.
        changes: layer number (1 is the first) to the fields that change.

    Example:
        >>> half = zoo.get("tinier-yolo-half")                                       # doctest: +SKIP
        >>> with_layers(half, "half-8x", {n: {"weight_copies": 8} for n in (6, 7, 8)})  # doctest: +SKIP
    """
    if unknown := [number for number in changes if not 1 <= number <= len(spec.layers)]:
        raise SpecError(f"{spec.name} has layers 1 to {len(spec.layers)}, not {unknown[0]}")
    layers = tuple(replace(layer, **changes.get(number, {})) for number, layer in enumerate(spec.layers, 1))
    return replace(spec, name=name, layers=layers)


def derive(spec: ModelSpec, changes: str) -> ModelSpec:
    """A copy with some fields changed, by a text that a person can type.

    Args:
        spec: where to start.
        changes: `PLACE.FIELD=NUMBER`, several with commas between; a place is a layer (`conv2`), a range of layers (`conv6-8`) or `head`,
            and `default_size_px` and `default_score` have none. Fields are those of `LayerSpec`, and `centre_scale` of the head.

    Returns:
        The copy. Its name is `NAME:CHANGES`; a name of more than 64 bytes is cut and ends in a checksum of the whole.

    Raises:
        SpecError: a change that cannot be read, or the result contradicts itself.

    Example:
        >>> from dupnet import zoo
        >>> derived = derive(zoo.get("tinier-yolo-half"), "conv6-8.weight_copies=4,conv2.map_copies=4")
        >>> derived.layers[6].weight_copies, derived.layers[1].map_copies
        (4, 4)
    """
    name = f"{spec.name}:{changes}"
    try:
        for change in changes.split(","):
            spec = _changed(spec, change)
    except SpecError as error:
        raise SpecError(f"{name}: {error}") from None
    if not is_name(name):
        encoded = name.encode(errors="replace")
        name = f"{encoded[:55].decode(errors='ignore')}~{zlib.crc32(encoded):08x}"
    return replace(spec, name=name)


def _changed(spec: ModelSpec, change: str) -> ModelSpec:
    match = re.fullmatch(r"(?:conv(\d{1,20})(?:-(\d{1,20}))?\.|(head\.)?)([a-z_]+)=([0-9.]+)", change)
    if not match:
        raise SpecError(f"cannot read the change {change!r}; expected one such as conv6-8.weight_copies=4 or head.centre_scale=1")
    first, last, head, field, text = match.groups()
    try:
        value = float(text) if "." in text else int(text)
    except ValueError:
        raise SpecError(f"{change}: {text!r} is no number") from None
    where: Any = LayerSpec if first else HeadSpec if head else ModelSpec
    known = [f.name for f in fields(where) if f.name not in ("layers", "head", "name", "about", "anchors", "classes", "padding")]
    if field not in known:
        raise SpecError(f"{change}: no field {field!r} there; there are {', '.join(known)}")
    if head:
        return replace(spec, head=replace(spec.head, centre_scale=float(value)))
    if not first:
        return from_dict({**to_dict(spec), field: value}, source=change)
    numbers = range(int(first), int(last or first) + 1)
    if numbers.stop > len(spec.layers) + 1:
        raise SpecError(f"{change}: there are layers 1 to {len(spec.layers)}, not {last or first}")
    if not numbers:
        raise SpecError(f"{change}: the range of layers is empty")
    return with_layers(spec, spec.name, {number: {field: value} for number in numbers})
