"""The loss of networks on the very same training crops, and what their differences are known to: tells recipes apart that val cannot.

    python benchmarks/crop_loss.py models/dupnet-tinier-yolo.pt models/cooled.pt --data FACES --cache cache

Crops, labels and loss are the recipe's (without a `[distillation]`), with a seed that no recipe here trains with. Each NETWORK is a
checkpoint; the first is what the others are compared with, crop batch by crop batch, which gives the standard error of the mean difference.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from tqdm import tqdm

from dupnet.nn import checkpoint
from dupnet.training import recipe as recipes
from dupnet.training.detectors import compute_loss
from dupnet.training.targets import Crops, batches
from dupnet.training.teacher import taught_photos

BATCH, SEED = 16, 1_000_000


@torch.no_grad()
def losses(paths: list[Path], recipe: recipes.Recipe, data: Path, cache: Path | None, steps: int) -> dict[Path, list[float]]:
    """The loss of each of `steps` batches, by network."""
    networks = {path: checkpoint.load(path).eval() for path in paths}
    crops = Crops(taught_photos(data, recipe.teacher, cache), recipe.augmentation, SEED, recipe.weights)
    found: dict[Path, list[float]] = {path: [] for path in paths}
    for images, boxes, kinds in tqdm(batches(crops, batch=BATCH, first_step=0, last_step=steps, workers=1), total=steps, unit="batch"):
        for path, network in networks.items():
            found[path].append(float(compute_loss(recipe, network(images), boxes, kinds, seen=1 << 60).total))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", type=Path, metavar="NETWORK")
    parser.add_argument("--data", type=Path, required=True, help="data set in WIDER FACE's layout")
    parser.add_argument("--cache", type=Path, help="folder of the decoded photos")
    parser.add_argument("--recipe", default="cool", help="whose crops and loss (default: cool)")
    parser.add_argument("--crops", type=int, default=1920, help="so many, in whole batches of 16 (default: 1920)")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.crops <= BATCH:
        parser.error(f"--crops must be above {BATCH}, one batch, as the scatter between batches is measured; not {options.crops}")
    torch.set_num_threads(options.threads)
    found = losses(options.networks, recipes.load(options.recipe), options.data, options.cache, -(-options.crops // BATCH))
    first = found[options.networks[0]]
    for path, values in found.items():
        apart = [one - other for one, other in zip(values, first)]
        error = statistics.stdev(apart) / len(apart) ** 0.5
        difference = f", {statistics.fmean(apart):+.4f} ± {error:.4f}" if values is not first else ""
        print(f"{path}: {statistics.fmean(values):.4f}{difference}")


if __name__ == "__main__":
    main()
