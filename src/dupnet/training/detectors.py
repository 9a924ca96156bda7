"""What differs between kinds of detectors in training: the network, and the loss of what it says."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dupnet.nn.eresfd import EResFD
from dupnet.nn.network import Network
from dupnet.spec import EResFDSpec
from dupnet.training.loss import Losses, region_loss
from dupnet.training.multibox import multibox_loss
from dupnet.training.recipe import Recipe


def make_network(recipe: Recipe) -> Network | EResFD:
    """The untrained network of a recipe."""
    if isinstance(recipe.spec, EResFDSpec):
        return EResFD(recipe.spec)
    return Network(recipe.spec, recipe.network)


def compute_loss(recipe: Recipe, outputs: Any, boxes: Tensor, kinds: Tensor, *, seen: int) -> Losses:
    """The loss of one batch.

    Args:
        recipe: says which, and its options.
        outputs: what the network's `forward` returned.
        boxes, kinds: what the crops show, as of `dupnet.training.targets.collate`.
        seen: photos that the run has seen before this batch.
    """
    if isinstance(recipe.spec, EResFDSpec):
        return multibox_loss(outputs, boxes, kinds, recipe.multibox)
    return region_loss(outputs, boxes, kinds, recipe.spec.head, recipe.spec.stride, recipe.loss, seen=seen)
