"""Layers and networks in torch: everything that has gradients. `DuplicatedConv2d`, `HWGQ` and `PACT` work in any network."""

from dupnet.nn.duplication import DuplicatedConv2d
from dupnet.nn.network import Network, NetworkOptions
from dupnet.nn.quantizers import HWGQ, PACT, Quantized

__all__ = ["HWGQ", "PACT", "DuplicatedConv2d", "Network", "NetworkOptions", "Quantized"]
