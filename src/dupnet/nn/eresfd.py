"""EResFD: a small float detector of six scales, from its description; the published weights load as they are.

A backbone of plain 3x3 convolutions with few channels gives maps at strides 4 to 128; a feature pyramid with two separate
top-down paths mixes them; on each level a context module and two 1x1 convolutions predict one box a cell. Before this module
comes `dupnet.image`; after it `dupnet.detections`. Training it is `dupnet.training`'s business.

Source: EResFD (Jeong et al., WACV 2024, arXiv 2204.01209) and its published code, clovaai/EResFD.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dupnet import image
from dupnet.detections import Detections, check_arguments, nms
from dupnet.errors import CheckpointError
from dupnet.head import LOG_SIZE_MAX
from dupnet.nn.network import not_finite
from dupnet.spec import EResFDSpec

STRIDES = (4, 8, 16, 32, 64, 128)
"""Pixels per cell of each level."""

ANCHOR_WIDTHS_PX = (16, 32, 64, 128, 256, 512)
ANCHOR_RATIO = 1.25
"""Height of an anchor relative to its width."""

VARIANCES = (0.1, 0.2)
"""The location maps are in units of these: of the anchor's size for centres, of a factor e for sizes."""

BLOCKS = (3, 3, 3, 2, 2)
"""Residual blocks at strides 8 to 128."""

MEAN_RGB = (123.0, 117.0, 104.0)
"""Subtracted from the pixels, which are not scaled."""

BACKGROUNDS = 3
"""Background maps of the finest level, of which the largest counts ("max-out"): most of the small anchors' false alarms end there."""

CANDIDATES, BOXES_MAX = 5000, 750
"""Boxes of a photo that enter suppression, and that leave it."""

SPLIT = 4
"""The low top-down path (levels 3 to 0) begins with the backbone's own map of this level, not with the high path's."""

_EPSILON = 1e-4


def conv_bn(in_channels: int, channels: int, kernel_size: int = 3, *, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution without bias, "same" padding, batch norm, and ReLU if wanted."""
    conv = nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), *([nn.ReLU()] if relu else []))


def separable_bn(in_channels: int, channels: int, *, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """A depthwise 3x3 convolution with batch norm and ReLU, then a 1x1 one with batch norm, and ReLU if wanted (MobileNet's block)."""
    depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, 1, groups=in_channels, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(in_channels), nn.ReLU(), *conv_bn(in_channels, channels, 1, relu=relu))


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (a 1x1 convolution where the stride is 2); no ReLU after the sum."""

    def __init__(self, channels: int, stride: int = 1, *, separable: bool = False) -> None:
        super().__init__()
        conv = separable_bn if separable else conv_bn
        self.body = nn.Sequential(*conv(channels, channels, stride=stride), *conv(channels, channels, relu=False))
        self.shortcut = conv_bn(channels, channels, 1, stride=stride, relu=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.shortcut(x) + self.body(x)
        return out


class Context(nn.Module):
    """One, three and five 3x3 convolutions in a cascade, side by side: half, a quarter and a quarter of the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.branches = nn.ModuleList(
            [
                conv_bn(channels, half),
                nn.Sequential(*conv_bn(half, quarter), *conv_bn(quarter, quarter)),
                nn.Sequential(*conv_bn(quarter, quarter), *conv_bn(quarter, quarter)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        outs = []
        for branch in self.branches:
            x = branch(x)
            outs.append(x)
        return torch.cat(outs, 1)


class Level(NamedTuple):
    """What one level predicts: location `(n, 4, rows, columns)` and class scores before the softmax `(n, 2, rows, columns)`,
    background and face."""

    location: Tensor
    classes: Tensor


class EResFD(nn.Module):
    """The network.

    Args:
        spec: its width.

    Example:
        >>> network = EResFD()
        >>> sum(p.numel() for p in network.parameters())
        92208
        >>> [tuple(level.classes.shape[2:]) for level in network.eval()(torch.zeros(1, 3, 480, 640))]
        [(120, 160), (60, 80), (30, 40), (15, 20), (8, 10), (4, 5)]
    """

    def __init__(self, spec: EResFDSpec | None = None) -> None:
        super().__init__()
        self.spec = spec or EResFDSpec()
        channels, width = self.spec.channels, self.spec.backbone_channels or self.spec.channels
        levels, separable = len(STRIDES), self.spec.backbone == "separable"
        conv = separable_bn if separable else conv_bn
        self.stem = nn.Sequential(
            conv_bn(3, width // 2, 5, stride=4, relu=False),
            conv(width // 2, width // 2),
            conv(width // 2, width),
            Residual(width, separable=separable),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Residual(width, 2 if block == 0 else 1, separable=separable) for block in range(count))) for count in BLOCKS
        )
        self.narrow = nn.ModuleList(conv_bn(width, channels, 1) if width != channels else nn.Identity() for _ in range(levels))
        self.laterals = nn.ModuleList(conv_bn(channels, channels, 1) for _ in range(levels - 1))
        self.smooth = nn.ModuleList(conv_bn(channels, channels) for _ in range(levels - 2))
        # Column i of the first five mixes level i from above, column 4 + i level i with the backbone's map.
        self.mixing = nn.Parameter(torch.full((2, 2 * levels - 3), 0.5))
        self.contexts = nn.ModuleList(Context(channels) for _ in range(levels))
        self.locations = nn.ModuleList(nn.Conv2d(channels, 4, 1) for _ in range(levels))
        self.classes = nn.ModuleList(nn.Conv2d(channels, 1 + BACKGROUNDS if level == 0 else 2, 1) for level in range(levels))

    def forward(self, image: Tensor) -> list[Level]:
        """Pixels 0..255 RGB `(n, 3, h, w)`, any height and width, to the six levels' predictions, the finest first."""
        x = image.float() - image.new_tensor(MEAN_RGB, dtype=torch.float32).view(1, 3, 1, 1)
        levels = []
        pyramid = self._pyramid(self._backbone(x))
        for context, location, classes, mixed in zip(self.contexts, self.locations, self.classes, pyramid):
            x = F.relu(context(mixed))
            scores = classes(x)
            if scores.shape[1] > 2:
                scores = torch.cat([scores[:, :-1].amax(1, keepdim=True), scores[:, -1:]], 1)
            levels.append(Level(location(x), scores))
        return levels

    def _backbone(self, x: Tensor) -> list[Tensor]:
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return [narrow(x) for narrow, x in zip(self.narrow, maps)]

    def _pyramid(self, maps: list[Tensor]) -> list[Tensor]:
        shares = self.mixing.relu()
        shares = shares / (shares.sum(0) + _EPSILON)

        def mix(a: Tensor, b: Tensor, column: int) -> Tensor:
            one, two = shares[:, column]
            return (one * a + two * b) / (one + two + _EPSILON)

        top = len(maps) - 1
        out = [*(lateral(x) for lateral, x in zip(self.laterals, maps)), maps[top]]
        for level in range(top - 1, -1, -1):
            above = maps[SPLIT] if level == SPLIT - 1 else out[level + 1]
            out[level] = mix(out[level], F.interpolate(above, size=out[level].shape[2:]), level)
        for level in range(1, top):
            out[level] = mix(self.smooth[level - 1](out[level]), maps[level], top - 1 + level)
        return out


def anchors(shapes: list[tuple[int, int]]) -> NDArray[np.float32]:
    """Every level's anchors in reading order, `(cells of all levels, 4) float32`: centre x, y, width, height in pixels.

    Args:
        shapes: rows and columns of each level.
    """
    parts = []
    for (rows, columns), stride, width in zip(shapes, STRIDES, ANCHOR_WIDTHS_PX):
        y, x = np.mgrid[:rows, :columns].reshape(2, -1)
        size = np.broadcast_to([[width, width * ANCHOR_RATIO]], (len(x), 2))
        parts.append(np.concatenate([(np.stack([x, y], 1) + 0.5) * stride, size], 1))
    return np.concatenate(parts).astype(np.float32)


def decode(location: NDArray[np.float32], anchors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Locations `(n, 4)` relative to their anchors, to boxes `(n, 4)` x1 y1 x2 y2 in pixels."""
    centre = anchors[:, :2] + location[:, :2] * VARIANCES[0] * anchors[:, 2:]
    size = anchors[:, 2:] * np.exp(np.minimum(location[:, 2:] * VARIANCES[1], LOG_SIZE_MAX))
    return np.concatenate([centre - size / 2, centre + size / 2], 1).astype(np.float32)


@torch.inference_mode()
def boxes(network: EResFD, pixels: NDArray[np.uint8], *, score: float, iou: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Find boxes in one photo, at its own size.

    Args:
        network: in evaluation mode.
        pixels: `(h, w, 3) uint8` RGB.
        score: lowest score kept.
        iou: suppression threshold (the published test uses 0.3).

    Returns:
        Boxes `(n, 4) float32` x1 y1 x2 y2 in pixels of `pixels`, not clipped to it, and scores `(n,) float32`, the surest first,
        at most `BOXES_MAX`.
    """
    device = network.mixing.device
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # a GPU rounds no float
        levels = network(torch.tensor(pixels).to(device).permute(2, 0, 1)[None])
    flat = [torch.cat([map[0].flatten(1).T for map in maps]) for maps in zip(*levels)]
    location, scores = flat[0].numpy(force=True), flat[1].softmax(1)[:, 1].numpy(force=True)
    order = np.argsort(-scores, kind="stable")[:CANDIDATES]
    order = order[scores[order] >= score]
    shapes = [(level.classes.shape[2], level.classes.shape[3]) for level in levels]
    found = decode(location[order], anchors(shapes)[order])
    kept = nms(found, scores[order], threshold=iou, most=BOXES_MAX)
    return found[kept], scores[order][kept]


class EResFDDetector:
    """An EResFD with the names of `dupnet.Detector`, so that either serves where boxes are wanted.

    Args:
        network: a network, or the path of one of the published files (`load_published`).
        device: `"cpu"`, `"cuda"`, or `"auto"` for a GPU where there is one.

    Attributes:
        name, default_size, default_score, default_iou: as of `dupnet.Detector`.

    Raises:
        CheckpointError: a file cannot be used.
    """

    name = "eresfd"
    default_size = 640
    default_score = 0.5
    default_iou = 0.3

    def __init__(self, network: EResFD | str | Path, *, device: str = "cpu") -> None:
        if not isinstance(network, EResFD):
            network = load_published(network)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.network = network.eval().to(device)

    def __repr__(self) -> str:
        return f"EResFDDetector(size={self.default_size}, score={self.default_score:.2f})"

    def detect(self, source: image.Source, *, size: int | None = None, score: float | None = None, iou: float | None = None) -> Detections:
        """Find boxes in a photo: arguments, result and errors are those of `dupnet.Detector.detect`; at most `BOXES_MAX` boxes."""
        size = self.default_size if size is None else size
        score = self.default_score if score is None else score
        iou = self.default_iou if iou is None else iou
        check_arguments(size, score, iou)
        photo = image.read(source)
        view = image.to_input(photo, int(size), stride=1)
        found, scores = boxes(self.network, view.pixels, score=score, iou=iou)
        found = image.to_photo(found, view)
        inside = (found[:, 2:] > found[:, :2]).all(1)  # anchors reach beyond the photo, and some boxes lie there as a whole
        return Detections(found[inside], scores[inside], photo)


PARTS = ("base", "loc", "conf")
"""The published weights are three files, `NAME.base.pth`, `NAME.loc.pth`, `NAME.conf.pth`."""

_PUBLISHED = (
    (r"^base\.conv([1-4])\.", lambda m: f"stem.{int(m[1]) - 1}."),
    (r"^base\.m0\.b2_(\d)\.", lambda m: f"stages.{int(m[1]) - 1}."),
    (r"res_layer\.", lambda m: "body."),
    (r"shortcut_layer\.", lambda m: "shortcut."),
    (r"^base\.m0\.fpn\.laterals\.(\d)\.conv\.", lambda m: f"laterals.{m[1]}."),
    (r"^base\.m0\.fpn\.itm\.(\d)\.conv\.", lambda m: f"smooth.{m[1]}."),
    (r"^base\.m0\.fpn\.w1$", lambda m: "mixing"),
    (r"^base\.m0\.FEM_(\d)\.res_branch(\d)\.", lambda m: f"contexts.{m[1]}.branches.{int(m[2]) - 1}."),
    (r"^loc\.", lambda m: "locations."),
    (r"^conf\.", lambda m: "classes."),
)
"""From the published names to ours."""


def is_published(path: str | Path) -> bool:
    """Whether a path names one of the published files."""
    return Path(path).name.endswith(tuple(f".{part}.pth" for part in PARTS))


def load_published(path: str | Path) -> EResFD:
    """Read the published weights.

    Args:
        path: one of the three files; the other two are beside it.

    Returns:
        The network, in evaluation mode, as wide as its weights.

    Raises:
        CheckpointError: a file is missing, damaged, holds something else than tensors, or does not fit.
    """
    stem = str(path)
    for part in PARTS:
        stem = stem.removesuffix(f".{part}.pth")
    state: dict[str, Tensor] = {}
    for part in PARTS:
        for name, tensor in _read_tensors(Path(f"{stem}.{part}.pth")).items():
            name = f"{part}.{name}"
            for pattern, ours in _PUBLISHED:
                name = re.sub(pattern, ours, name)
            state[name] = tensor
    try:
        network = EResFD(EResFDSpec(state["stem.3.body.0.weight"].shape[0]))
        network.load_state_dict(state)
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"{stem}: the weights are not those of an EResFD: {' '.join(str(error).split())[:300]}") from None
    if bad := not_finite(network):
        raise CheckpointError(f"{stem}: {bad} holds values that are not finite")
    return network.eval()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """A state dictionary; nothing in the file is run."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # foreign bytes make torch's reader raise almost anything
        raise CheckpointError(f"{path}: not a file of weights: damaged, or something else ({type(error).__name__})") from None
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    return content


class ModuleCost(NamedTuple):
    """One module of a network.

    Attributes:
        name: of the module.
        parameters: that are learned.
        macs: multiply-adds, 0 where there is no convolution.
    """

    name: str
    parameters: int
    macs: int


@torch.no_grad()
def costs(network: nn.Module, size_hw: tuple[int, int]) -> list[ModuleCost]:
    """What each module costs that has parameters of its own, at one input size, in the order in which they stand in the network."""
    network = copy.deepcopy(network).to("meta").eval()  # only shapes are computed
    macs: dict[nn.Module, int] = {}

    def count(module: nn.Module, _: object, out: Tensor) -> None:
        assert isinstance(module, nn.Conv2d)
        macs[module] = module.weight.numel() * out.shape[2] * out.shape[3]

    handles = [module.register_forward_hook(count) for module in network.modules() if isinstance(module, nn.Conv2d)]
    with torch.device("meta"):
        network(torch.zeros(1, 3, *size_hw))
    for handle in handles:
        handle.remove()
    own = [(name, module, sum(p.numel() for p in module.parameters(recurse=False))) for name, module in network.named_modules()]
    return [ModuleCost(name or "mixing", parameters, macs.get(module, 0)) for name, module, parameters in own if parameters]
