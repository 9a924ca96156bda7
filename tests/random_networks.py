"""Networks for tests: random weights, and batch norms as after training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dupnet.head import without_class
from dupnet.nn import Network


def shaken(network: Network, seed: int) -> Network:
    """As after training: batch norms of any slope (also zero) and shift, statistics from images."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network.train()
    with torch.no_grad():
        network(torch.randint(0, 256, (2, 3, 64, 64), generator=generator))
        for stage in network.stages:
            stage.norm.weight.copy_(torch.randn(stage.norm.weight.shape, generator=generator))
            stage.norm.weight[0] = 0
            stage.norm.bias.copy_(torch.randn(stage.norm.bias.shape, generator=generator))
        network.grid.bias.copy_(torch.randn(network.grid.bias.shape, generator=generator))
    return network.eval()


def torch_maps(network: Network, pixels: NDArray[np.uint8]) -> list[NDArray[np.floating]]:
    """Of a whole photo, without the class channels, which an integer model does not have."""
    with torch.no_grad():
        maps = [m[0].numpy() for m in network.maps(torch.from_numpy(pixels).permute(2, 0, 1)[None])]
    return [*maps[:-1], without_class(maps[-1])]
