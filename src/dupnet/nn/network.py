"""A network from a spec: the float side of a detector or classifier, whose evaluation mode is exact integers.

Float32 holds every integer up to 2^24, float64 up to 2^53. A quantized layer whose sums can leave float32 (`exact_dtype`: 8-bit weights
over 8-bit levels do) therefore convolves, normalizes and quantizes in float64 when it is evaluated. In training all layers are float32.

Order in a stage: convolution, max-pool, batch norm, activation. The batch norm's slope is kept non-negative, so the levels
rise with the accumulator, pooling commutes with everything behind it, and pooling first costs a quarter of the work.
Before: `dupnet.spec`. After: `dupnet.training` (weights), `dupnet.conversion` (integers).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dupnet import checked
from dupnet.errors import SpecError
from dupnet.head import OBJECTNESS
from dupnet.integer import accumulator_max
from dupnet.nn import mixed
from dupnet.nn.duplication import SPREAD, DuplicatedConv2d
from dupnet.nn.quantizers import HWGQ, HWGQ_STEPS, PACT, LeakyReLU, Quantized, standardize
from dupnet.spec import FULL, NETWORK_CHANNELS, ModelSpec


def not_finite(network: nn.Module) -> str | None:
    """Name of a weight or statistic that holds NaN or infinity, or None."""
    return next((name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()), None)


def exact_dtype(spec: ModelSpec, number: int) -> torch.dtype:
    """The float type that holds every accumulator of layer `number` (0 is the first) exactly; float32 for a full-precision layer.

    Example:
        >>> from dupnet import zoo
        >>> exact_dtype(zoo.get("table2/a4w4-1x"), 6), exact_dtype(zoo.get("table2/a8w8-1x"), 6)
        (torch.float32, torch.float64)
    """
    layer = spec.layers[number]
    if FULL in (layer.weight_bits, layer.input_bits):
        return torch.float32
    channels = spec.in_channels[number] * layer.map_copies
    largest = accumulator_max(channels, layer.kernel, layer.weight_bits, layer.input_bits)
    return torch.float32 if largest <= 2**24 else torch.float64


@dataclass(frozen=True)
class NetworkOptions:
    """How a spec is trained, where the spec leaves it open. None of these changes a byte of the model's size.

    Attributes:
        activation: `"pact"` (learned bounds) or `"hwgq"` (fixed steps).
        pact_bound: where the learned bounds start.
        gradient: of duplicates, `"mean"` as in the paper or `"sum"`.
        standardize_weights: see `DuplicatedConv2d`.
        spread_copies: the same, for the layers that can have it (1-bit weights, standardized; 2 or 4 map copies, one weight copy).
        ewgs: strength of element-wise gradient scaling of 1-bit weights (`dupnet.nn.quantizers.binarize`); 0 for none.
    """

    activation: Literal["pact", "hwgq"] = "pact"
    pact_bound: float = 2.0
    gradient: Literal["mean", "sum"] = "mean"
    standardize_weights: bool = True
    spread_copies: bool = True
    ewgs: float = 0.0

    def __post_init__(self) -> None:
        checked.choices(self, where="network")
        if self.pact_bound <= 0:
            raise SpecError(f"network: pact_bound must be above 0, not {self.pact_bound}")
        if not 0 <= self.ewgs < 1:
            raise SpecError(f"network: ewgs must be in [0, 1), so that no gradient changes its sign, not {self.ewgs}")


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with a non-negative slope, evaluated as one multiplication and one addition.

    In evaluation mode both are separate float32 operations, so that every device and every tensor shape rounds alike and
    the thresholds that are read off this function hold everywhere.
    """

    def slope_and_shift(self) -> tuple[Tensor, Tensor]:
        assert self.running_mean is not None and self.running_var is not None
        # In double precision: some devices' float32 roots are off by a bit, and a threshold may hang on it.
        slope = self.weight.abs() * (self.running_var.double() + self.eps).rsqrt().float()
        return slope, self.bias - self.running_mean * slope

    @torch.no_grad()
    def observe(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Let the statistics move towards those of a batch of `count` values a channel; `variance` is divided by `count`."""
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight.abs(), self.bias, True, self.momentum or 0.0, self.eps)
        slope, shift = self.slope_and_shift()
        return x * slope.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


class Stage(nn.Module):
    """Convolution, max-pool, batch norm, activation. Reads and gives levels where it is quantized, floats elsewhere.

    The convolution's real-valued output is its accumulator times weight scale times input step. The batch norm removes any
    such factor, so the stage leaves it out and normalizes the accumulators themselves.

    Args:
        conv, pool, activation: the parts.
        pool_overlap: pixels that neighbouring pools share.
        dtype: in which it is evaluated (`exact_dtype`).
    """

    def __init__(
        self, conv: DuplicatedConv2d, pool: int, activation: nn.Module, dtype: torch.dtype = torch.float32, *, pool_overlap: int = 0
    ) -> None:
        super().__init__()
        self.conv, self.pool, self.pool_overlap, self.activation, self.dtype = conv, pool, pool_overlap, activation, dtype
        self.norm = BatchNorm(conv.out_channels)

    def activate(self, pooled: Tensor) -> Tensor:
        """Batch norm and activation of pooled accumulators, which in evaluation mode are of the stage's `dtype`; the result is float32."""
        y = self.activation(self.norm(pooled))
        return (y.levels if isinstance(y, Quantized) else y).to(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.mixed:
            pool = (self.pool, self.pool_overlap) == (2, 0) and not (x.shape[2] % 2 or x.shape[3] % 2)
            if isinstance(self.activation, PACT) and self.norm.training and (pool or self.pool == 1):
                return self._forward_mixed(x, self.activation, pool)
            if pool:
                return self.activate(mixed.convolve(*self.conv.operands(x), self.conv.border, pool=True))
        accumulators = self.conv.accumulate(x if self.training else x.to(self.dtype))
        return self.activate(F.max_pool2d(accumulators, self.pool, self.pool - self.pool_overlap) if self.pool > 1 else accumulators)

    def _forward_mixed(self, x: Tensor, activation: PACT, pool: bool) -> Tensor:
        norm = self.norm
        levels, mean, variance = mixed.stage(
            *self.conv.operands(x), self.conv.border, pool=pool, slope=norm.weight.abs(), shift=norm.bias,
            step=activation.step(), top=activation.top, eps=norm.eps,
        )  # fmt: skip
        norm.observe(mean, variance, levels.numel() // levels.shape[1])
        return levels


class GridLayer(nn.Module):
    """The last convolution, with a learned scale and bias for each grid channel.

    The scale is learned in units of `unit`, which undoes how much larger accumulators are than those of signs over 2-bit levels. So its
    size, and what a step of the optimizer does to it, are the same at every precision.

    Args:
        conv: the convolution.
        input_bits: of the levels that it reads.
        dtype: as of `Stage`.
    """

    def __init__(self, conv: DuplicatedConv2d, input_bits: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.conv, self.dtype = conv, dtype
        # Odd integers in +-(2^b - 1), all alike, have a mean square of (4^b - 1) / 3; levels reach to 2^a - 1, which is 3 for 2 bits.
        weights = 1.0 if conv.weight_bits == FULL else ((4**conv.weight_bits - 1) / 3) ** 0.5
        self.unit = 1 / (weights * (1.0 if input_bits == FULL else (2**input_bits - 1) / 3))
        inputs = conv.kernel_size**2 * conv.in_channels * conv.map_copies
        # Levels have a mean square near 2 and signs are +-1, so this starts the grid with values of about unit size.
        self.scale = nn.Parameter(torch.full((conv.out_channels,), 1.0 if conv.weight_bits == FULL else (2 * inputs) ** -0.5))
        self.bias = nn.Parameter(torch.zeros(conv.out_channels))

    def accumulate(self, x: Tensor) -> Tensor:
        """The grid's accumulators, in evaluation mode of the layer's `dtype`."""
        return self.conv.accumulate(x if self.training else x.to(self.dtype))

    def forward(self, x: Tensor) -> Tensor:
        accumulators = self.accumulate(x).to(torch.float32)  # rounds as the reference and the core do: here the floats begin
        return accumulators * self.channel_scale().view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)

    def channel_scale(self) -> Tensor:
        """`(channels,)`: the real number that one step of each channel's accumulator stands for."""
        return self.scale * self.unit


class Network(nn.Module):
    """The detector, or the classifier, of a spec.

    Args:
        spec: what to build.
        options: how to train what the spec leaves open.

    Example:
        >>> from dupnet import zoo
        >>> network = Network(zoo.get("dupnet-tinier-yolo"))
        >>> network(torch.zeros(1, 3, 64, 96, dtype=torch.uint8)).shape
        torch.Size([1, 30, 4, 6])
    """

    def __init__(self, spec: ModelSpec, options: NetworkOptions | None = None) -> None:
        super().__init__()
        self.spec, self.options = spec, options or NetworkOptions()
        convs = [self._conv(number) for number in range(len(spec.layers))]
        reads = [layer.input_bits for layer in spec.layers[1:]]
        dtypes = [exact_dtype(spec, number) for number in range(len(spec.layers))]
        self.stages = nn.ModuleList(
            Stage(conv, layer.pool, self._activation(bits), dtype, pool_overlap=layer.pool_overlap)
            for conv, layer, bits, dtype in zip(convs, spec.layers, reads, dtypes)
        )
        self.grid = GridLayer(convs[-1], spec.layers[-1].input_bits, dtypes[-1])
        if not spec.head.classes:
            with torch.no_grad():  # a face is rare: start with a low objectness
                self.grid.bias.view(-1, NETWORK_CHANNELS)[:, OBJECTNESS] = -4.0

    def _conv(self, number: int) -> DuplicatedConv2d:
        layer, options = self.spec.layers[number], self.options
        return DuplicatedConv2d(
            self.spec.in_channels[number],
            layer.filters,
            layer.kernel,
            weight_bits=layer.weight_bits,
            weight_copies=layer.weight_copies,
            map_copies=layer.map_copies,
            gradient=options.gradient,
            standardize_weights=options.standardize_weights and layer.weight_bits != FULL,
            spread_copies=options.spread_copies
            and options.standardize_weights
            and (layer.weight_bits, layer.weight_copies) == (1, 1)
            and layer.map_copies in SPREAD,
            ewgs=options.ewgs,
            step=layer.step,
            padding=layer.padding,
        )

    def _activation(self, bits: int) -> nn.Module:
        if bits == FULL:
            return LeakyReLU()
        if self.options.activation == "pact":
            return PACT(bits, self.options.pact_bound)
        if bits not in HWGQ_STEPS:
            raise SpecError(
                f"{self.spec.name}: HWGQ has steps for {', '.join(map(str, HWGQ_STEPS))} bits, not {bits}; PACT takes any number"
            )
        return HWGQ(bits)

    def prepare(self, image: Tensor) -> Tensor:
        """`(n, 3, h, w)` uint8 or integer-valued floats to what the first layer reads: levels, or `pixel / 255` for a float layer."""
        x = image.float().contiguous(memory_format=torch.channels_last)
        return x / 255 if self.spec.layers[0].input_bits == FULL else x

    def maps(self, image: Tensor) -> Iterator[Tensor]:
        """The output of every stage (levels where quantized), and last the grid's accumulators."""
        x = self.prepare(image)
        for stage in self.stages:
            x = stage(x)
            yield x
        yield self.grid.accumulate(x)

    def forward(self, image: Tensor) -> Tensor:
        """Pixels 0..255 `(n, 3, h, w)`, sides multiples of the stride, to real values `(n, 6 anchors, h / stride, w / stride)`.

        A classifier's are its class scores (logits) for each cell of its grid, `(n, classes, rows, columns)`.
        """
        x = self.prepare(image)
        for stage in self.stages:
            x = stage(x)
        return self.grid(x)


def begin(network: nn.Module, start: nn.Module) -> None:
    """Give `network` the weights of `start`, which has the same layers.

    Where `network` has more copies of a map, its weights are tiled over them, and what was learned of the sums (statistics of the batch
    norm, scale of the grid) is made fit for sums so many times as large: the same function, or with `spread_copies` nearly, as
    signs become finer integers.
    Where its layer has float weights and no copies, and that of `start` has signs, it takes the signs with their copies laid out:
    the same function, from where training in floats can go on.

    Raises:
        RuntimeError: the weights do not fit.
    """
    weights = start.state_dict()
    layers = dict(network.named_modules())
    for name, given in start.named_modules():
        layer = layers.get(name)
        if not (isinstance(given, DuplicatedConv2d) and isinstance(layer, DuplicatedConv2d)):
            continue
        if given.weight_bits == 1 and (layer.weight_bits, layer.weight_copies, layer.map_copies) == (FULL, 1, 1):
            weights[f"{name}.weight"] = given.plain_weights()
            continue
        tiles = layer.weight.shape[1] // given.weight.shape[1]
        weights[f"{name}.weight"] = given.weight.detach().repeat(1, max(tiles, 1), 1, 1)
        larger = layer.map_copies / given.map_copies
        for part, power in (("scale", -1), ("norm.running_mean", 1), ("norm.running_var", 2)):
            key = f"{name.removesuffix('conv')}{part}"
            if key in weights and larger != 1:
                weights[key] = weights[key] * larger**power
    network.load_state_dict(weights)


def thaw(network: nn.Module, deviation: float) -> None:
    """`DuplicatedConv2d.thaw` for all layers of a network."""
    for layer in network.modules():
        if isinstance(layer, DuplicatedConv2d):
            layer.thaw(deviation)


@torch.no_grad()
def mean_of(networks: Sequence[Network]) -> Network:
    """A network whose weights are the means of those of several that were trained on from the same weights ("model soup").

    Latent weights of signs are standardized filter by filter first (where the layer does so itself), as their size means nothing; latents
    on which the networks disagree come to lie near zero. They keep that size, about 1, while trained ones have 0.3 to 0.5: steps
    of a given learning rate move them that much less. The statistics of its batch norms do not fit: train it on.

    Raises:
        SpecError: the networks have not all the same layers and options (but for `ewgs`, which no weight depends on), or there is none.

    Source of the idea: Wortsman et al., 2022, "Model soups".
    """
    if len({(network.spec.layers, network.spec.head, replace(network.options, ewgs=0.0)) for network in networks}) != 1:
        raise SpecError(f"the mean of {len(networks)} networks is wanted; they need the same layers, head and options")
    result = Network(networks[0].spec, networks[0].options)
    states = [network.state_dict() for network in networks]
    mean = {name: torch.stack([state[name] for state in states]).float().mean(0) for name in states[0]}
    for name, layer in result.named_modules():
        if isinstance(layer, DuplicatedConv2d) and layer.weight_bits == 1 and (layer.standardize_weights or layer.spread_copies):
            mean[f"{name}.weight"] = torch.stack([standardize(state[f"{name}.weight"]) for state in states]).mean(0)
    result.load_state_dict(mean)
    return result.eval()
