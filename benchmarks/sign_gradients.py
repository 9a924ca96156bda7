"""Whether training crops still want a trained network's signs turned: by the gradient that training follows, and by turning them.

    python benchmarks/sign_gradients.py models/dupnet-tinier-yolo.pt --data FACES --cache cache --recipe mean-close-up

For each layer with 1-bit weights: its signs; how the mean gradients of two halves of the batches correlate over them (0: all is noise);
the share that the mean gradient wants turned by more than two of its standard errors (2.3% by chance); and how the loss changes on other
crops, with its standard error, when the ten that it wants turned most surely are turned. Batch norms use each batch's statistics.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from dupnet.nn import checkpoint
from dupnet.nn.duplication import DuplicatedConv2d
from dupnet.training import recipe as recipes
from dupnet.training.detectors import compute_loss
from dupnet.training.targets import Crops, batches
from dupnet.training.teacher import taught_photos

BATCH, SEED, TURNED = 16, 1_000_000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path, help="a checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="data set in WIDER FACE's layout")
    parser.add_argument("--cache", type=Path, help="folder of the decoded photos")
    parser.add_argument("--recipe", default="cool", help="whose crops and loss (default: cool)")
    parser.add_argument(
        "--batches", type=int, default=300, help=f"of {BATCH} crops, for the gradients; half as many for losses (default: 300)"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.batches < 4:
        parser.error(f"--batches must be at least 4, as the scatter between batches is measured; not {options.batches}")
    torch.set_num_threads(options.threads)
    recipe, network = recipes.load(options.recipe), checkpoint.load(options.network).train()
    signs: dict[str, Tensor] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, DuplicatedConv2d) and layer.weight_bits == 1:
            signs[name] = layer.integer_weights().detach().requires_grad_()
            layer.integer_weights = lambda name=name: signs[name]  # type: ignore[method-assign, misc]

    def loss(images: Tensor, boxes: Tensor, kinds: Tensor) -> Tensor:
        return compute_loss(recipe, network(images), boxes, kinds, seen=1 << 60).total

    crops = Crops(taught_photos(options.data, recipe.teacher, options.cache), recipe.augmentation, SEED, recipe.weights)
    count, rest = options.batches, options.batches // 2
    stream = batches(crops, batch=BATCH, first_step=0, last_step=count + rest, workers=1)

    halves = {name: torch.zeros(2, *of.shape) for name, of in signs.items()}
    squares = {name: torch.zeros_like(of) for name, of in signs.items()}
    for number, batch in zip(tqdm(range(count), desc="gradients"), stream):
        for name, gradient in zip(signs, torch.autograd.grad(loss(*batch), list(signs.values()))):
            halves[name][number % 2] += gradient
            squares[name] += gradient.square()

    wishes, turned = {}, {}
    for name, of in signs.items():
        mean = halves[name].sum(0) / count
        error = ((squares[name] / count - mean.square()).clamp(min=0) / count).sqrt()
        wishes[name] = (of.detach() * mean / error.clamp(min=1e-20)).flatten()  # above 0: the loss would fall with the sign turned
        turned[name] = of.detach().clone()
        turned[name].view(-1)[wishes[name].topk(TURNED).indices] *= -1

    apart: dict[str, list[float]] = {name: [] for name in signs}
    with torch.no_grad():
        for batch in tqdm(stream, desc="losses", total=rest):
            as_it_is = float(loss(*batch))
            for name, other in turned.items():
                kept, signs[name] = signs[name], other
                apart[name].append(float(loss(*batch)) - as_it_is)
                signs[name] = kept

    for name, of in signs.items():
        correlation = float(torch.corrcoef(halves[name].flatten(1))[0, 1])
        error = statistics.stdev(apart[name]) / rest**0.5
        print(
            f"{name}: {of.numel()} signs, correlation {correlation:.2f}, {(wishes[name] > 2).float().mean():.1%} wanted turned, "
            f"{TURNED} turned: loss {statistics.fmean(apart[name]):+.4f} ± {error:.4f}"
        )


if __name__ == "__main__":
    main()
