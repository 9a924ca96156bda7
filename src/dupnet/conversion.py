"""From a network to an integer model, without loss: the only module that makes one from the other.

A stage's batch norm and quantizer are one rising function of the integer accumulator. The converter asks the network itself
where that function steps up; it repeats no formula. So the thresholds are right by construction, rounding included.
(The batch norm's slope is never negative here, see `dupnet.nn.network`; no filter has to be negated.) The class channels of a
detector's grid, which say nothing as there is one class, are left out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dupnet import integer
from dupnet.errors import ConversionError
from dupnet.head import integer_channels
from dupnet.integer import IntegerModel
from dupnet.nn import checkpoint
from dupnet.nn.duplication import DuplicatedConv2d
from dupnet.nn.network import Network, Stage, not_finite
from dupnet.spec import FULL


def convert(network: nn.Module | str | Path) -> IntegerModel:
    """Convert a network, or the checkpoint that holds it.

    Raises:
        ConversionError: a layer is full precision, or its accumulators need more than 32 bits.
        CheckpointError: the file cannot be used.

    Example:
        >>> from dupnet import zoo
        >>> model = convert(Network(zoo.get("dupnet-tinier-yolo")))
        >>> model.stages[6].weights.shape, model.stages[6].thresholds.shape
        ((256, 32, 3, 3), (256, 3))

    Source: IFQ-Net's composition of convolution, batch norm and quantization.
    """
    if isinstance(network, (str, Path)):
        network = checkpoint.load(network)
    if not isinstance(network, Network):
        raise ConversionError(f"only a dupnet.nn.Network has an integer form, not {type(network).__name__}, whose layers are floats")
    spec = network.spec
    if not spec.is_integer:
        number = next(n for n, layer in enumerate(spec.layers, 1) if FULL in (layer.weight_bits, layer.input_bits))
        raise ConversionError(f"{spec.name}: layer {number} is full precision; only fully quantized networks have an integer form")
    if bad := not_finite(network):
        raise ConversionError(f"{spec.name}: {bad} holds values that are not finite")
    modes = [(module, module.training) for module in network.modules()]
    try:
        stages, scale, bias = _stages(network.eval())
    finally:  # the caller's network stays as it was, with batch norms that are frozen in training, say
        for module, mode in modes:
            module.training = mode
    return integer.validate(
        IntegerModel(spec.name, stages, spec.head, scale, bias, spec.default_size_px, spec.default_score),
    )


def _stages(network: Network) -> tuple[tuple[integer.Stage, ...], NDArray[np.float32], NDArray[np.float32]]:
    """The stages of a network in evaluation mode, and the scale and bias of its grid's channels."""
    spec = network.spec
    stages = []
    with torch.no_grad():
        for number, layer in enumerate(spec.layers):
            last = number + 1 == len(spec.layers)
            module = network.grid if last else cast(Stage, network.stages[number])
            weights = _weights(module.conv)
            stage = integer.Stage(
                weights=integer_channels(weights, spec.head) if last else weights,
                weight_bits=layer.weight_bits,
                input_bits=layer.input_bits,
                weight_copies=layer.weight_copies,
                map_copies=layer.map_copies,
                pool=layer.pool,
                thresholds=None,
                step=layer.step,
                pool_overlap=layer.pool_overlap,
                padding=layer.padding,
            )
            if stage.accumulator_max >= 2**31:
                raise ConversionError(
                    f"{spec.name}: layer {number + 1}: accumulators up to {stage.accumulator_max} need more than the 32 bits (up to "
                    f"{2**31 - 1}) that an integer model has for them; fewer bits, channels or map copies are needed"
                )
            if not last:
                bits = spec.layers[number + 1].input_bits
                found = thresholds(cast(Stage, module), stage.accumulator_max, 2**bits - 1)
                stage = replace(stage, thresholds=found)
            stages.append(stage)
        floats = (network.grid.channel_scale(), network.grid.bias)
        scale, bias = (integer_channels(values.numpy(force=True), spec.head) for values in floats)
    return tuple(stages), scale, bias


def _weights(conv: DuplicatedConv2d) -> NDArray[np.int16]:
    return cast(NDArray[np.int16], conv.integer_weights().numpy(force=True).astype(np.int16))


def thresholds(stage: Stage, bound: int, top: int) -> NDArray[np.int32]:
    """The smallest accumulators at which a stage gives level 1, 2, ..., `top`, by bisection on the stage's own function.

    Args:
        stage: in evaluation mode; it is asked in its own `dtype`, which holds every accumulator.
        bound: accumulators are in `[-bound, bound]`.
        top: the highest level.

    Returns:
        `(filters, top) int32`, ascending; `bound + 1` where a level is never reached, `-bound` where it is reached by all.
    """
    device = next(stage.parameters()).device
    level = torch.arange(1, top + 1, device=device).view(1, 1, 1, top)
    low = torch.full((1, stage.conv.out_channels, 1, top), -bound, dtype=torch.int64, device=device)
    high = torch.full_like(low, bound + 1)
    while bool((low < high).any()):
        middle = (low + high) // 2  # below high, so never bound + 1 while undecided
        reached = stage.activate(middle.clamp(max=bound).to(stage.dtype)) >= level
        undecided = low < high
        high = torch.where(undecided & reached, middle, high)
        low = torch.where(undecided & ~reached, middle + 1, low)
    return cast(NDArray[np.int32], low[0, :, 0].numpy(force=True).astype(np.int32))
