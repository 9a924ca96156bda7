"""The mean of networks that were trained on from the same weights, as a checkpoint to train on from (`dupnet.nn.network.mean_of`).

    python benchmarks/mean_of_networks.py runs/a/network.pt runs/b/network.pt -o mean.pt

Its batch norms' statistics do not fit it, so it is a start (`dupnet train mean-l --start-from mean.pt`) and no detector yet.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

from dupnet.nn import checkpoint
from dupnet.nn.network import mean_of, thaw
from dupnet.training.metrics import signs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", type=Path, metavar="NETWORK")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the checkpoint to write")
    parser.add_argument(
        "--thaw", action="store_true", help="make the latent weights of each normal first, so that none weighs more for having frozen"
    )
    options = parser.parse_args()
    networks = {path: checkpoint.load(path) for path in options.networks}
    for network in networks.values() if options.thaw else ():
        thaw(network, 1.0)
    mean = mean_of(list(networks.values()))
    checkpoint.save(mean, options.output)
    for one, other in combinations([*networks.items(), (options.output, mean)], 2):
        print(f"{(signs(one[1]) != signs(other[1])).float().mean():.4f} of the signs differ: {one[0]}, {other[0]}")


if __name__ == "__main__":
    main()
