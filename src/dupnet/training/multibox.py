"""EResFD's loss: every anchor's class and, where it answers for a face, its box.

Which anchor answers for which face is S3FD's matching, the one of the published code; the published code holds no loss, so
hard negatives or a focal weight are a switch. `dupnet.training.loss` is the same for grids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dupnet import checked
from dupnet.data.augmentation import FACE, IGNORE
from dupnet.errors import SpecError
from dupnet.head import LOG_SIZE_MAX
from dupnet.nn import eresfd
from dupnet.nn.eresfd import Level
from dupnet.training.loss import Losses, area, divisor, generalized_iou, intersection


@dataclass(frozen=True)
class MultiboxOptions:
    """Attributes:
    negatives: `"hard"`: the hardest anchors without a face, `negative_ratio` for each with one; `"focal"`: all, with a focal weight.
    negative_ratio: see there.
    alpha, gamma: of the focal weight, `alpha (1 - p)^gamma` for faces and `(1 - alpha) p^gamma` for the rest.
    low, match, sure: the three IoUs of the matching (`match_anchors`).
    ignore_overlap: anchors with more than this share of their area in one ignore region are no negatives.
    box: weight of the boxes' loss.
    """

    negatives: Literal["hard", "focal"] = "hard"
    negative_ratio: int = 3
    alpha: float = 0.25
    gamma: float = 2.0
    low: float = 0.1
    match: float = 0.35
    sure: float = 0.5
    ignore_overlap: float = 0.4
    box: float = 1.0

    def __post_init__(self) -> None:
        checked.choices(self, where="multibox")
        checked.not_negative(self, ("negative_ratio", "alpha", "gamma", "box"), where="multibox")
        if not 0 <= self.low <= self.match <= 1:
            raise SpecError(f"multibox: low and match must be in [0, 1] and low not above match, not {self.low} and {self.match}")
        checked.fractions(self, ("sure", "ignore_overlap"), where="multibox")


def match_anchors(overlap: Tensor, options: MultiboxOptions) -> Tensor:
    """Which face each anchor answers for.

    An anchor answers for the face that it overlaps most, if by at least `match`; each face's best anchor answers for it in any case.
    Then the anchors with an overlap between `low` and `match` help out where faces are badly covered: as many of the best of them as
    the mean of the numbers of faces whose best anchor reaches `match`, and `sure`.

    Args:
        overlap: `(faces, anchors)` intersection over union, at least one face.

    Returns:
        `(anchors,) int64`: a face, or -1.

    Source: S3FD (Zhang et al., 2017), section 3.2, as in EResFD's published code.
    """
    of_face, anchor = overlap.max(1)
    best, face = overlap.max(0)
    face = face.clone()
    for number, index in enumerate(anchor.tolist()):  # one after the other: of two faces with one best anchor, the last has it
        face[index] = number
    best = best.index_fill(0, anchor, 2.0)
    answers = best >= options.match
    helpers = ((best > options.low) & (best < options.match)).nonzero()[:, 0]
    count = (int((of_face >= options.match).sum()) + int((of_face >= options.sure).sum())) // 2
    answers[helpers[best[helpers].argsort(descending=True, stable=True)[:count]]] = True
    return torch.where(answers, face, -1)


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `dupnet.nn.eresfd.decode`: boxes `(n, 4)` x1 y1 x2 y2 and their anchors to locations `(n, 4)`."""
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    offset = (centre - anchors[:, :2]) / (eresfd.VARIANCES[0] * anchors[:, 2:])
    return torch.cat([offset, (size / anchors[:, 2:]).clamp(min=1e-6).log() / eresfd.VARIANCES[1]], 1)


def multibox_loss(levels: list[Level], boxes: Tensor, kinds: Tensor, options: MultiboxOptions) -> Losses:
    """The loss of one batch.

    Args:
        levels: of `EResFD.forward`.
        boxes: `(n, m, 4)` x1 y1 x2 y2 in pixels of the crop.
        kinds: `(n, m)`: 0 nothing, `FACE`, `IGNORE`.
        options: see there.
    """
    location, classes = (torch.cat([map.flatten(2) for map in maps], 2).transpose(1, 2) for maps in zip(*levels))
    anchors = torch.from_numpy(eresfd.anchors([(level.classes.shape[2], level.classes.shape[3]) for level in levels])).to(location)
    corners = torch.cat([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], 1)

    with torch.no_grad():
        found = torch.full(location.shape[:2], -1, device=location.device)
        free = torch.zeros_like(found, dtype=torch.bool)
        for number, (own, kind) in enumerate(zip(boxes, kinds)):
            faces, ignored = (own[kind == which] for which in (FACE, IGNORE))
            if len(faces):
                inter = intersection(faces[:, None], corners)
                matched = match_anchors(inter / (area(faces)[:, None] + area(corners) - inter), options)
                found[number] = torch.where(matched >= 0, (kind == FACE).nonzero()[:, 0][matched], -1)
            if len(ignored):
                free[number] = (intersection(ignored[:, None], corners) / area(corners) > options.ignore_overlap).any(0)
    positive = found >= 0
    photo, anchor = positive.nonzero(as_tuple=True)
    truth = boxes[photo, found[photo, anchor]]
    share = divisor(float(len(photo)), location.device)
    box = F.smooth_l1_loss(location[photo, anchor], encode(truth, anchors[anchor]), reduction="sum") / share

    surprise = F.cross_entropy(classes.transpose(1, 2), positive.long(), reduction="none")
    negative = ~positive & ~free
    if options.negatives == "focal":
        probability = surprise.detach().neg().exp()
        weight = torch.where(positive, options.alpha, 1 - options.alpha) * (1 - probability) ** options.gamma
        chosen = (positive | negative).float() * weight
    else:
        with torch.no_grad():
            rank = torch.where(negative, surprise, -1.0).argsort(stable=True, dim=1, descending=True).argsort(dim=1)
            # A photo without faces has its hardest anchors, too: as if it had one face.
            wanted = options.negative_ratio * positive.sum(1, keepdim=True).clamp(min=1)
        chosen = (positive | (negative & (rank < wanted))).float()
    objectness = (surprise * chosen).sum() / share

    with torch.no_grad():
        where = anchors[anchor]
        centre = where[:, :2] + location[photo, anchor, :2] * eresfd.VARIANCES[0] * where[:, 2:]
        size = where[:, 2:] * (location[photo, anchor, 2:] * eresfd.VARIANCES[1]).clamp(max=LOG_SIZE_MAX).exp()
        iou, _ = generalized_iou(torch.cat([centre - size / 2, centre + size / 2], 1), truth)
        mean_iou = iou.mean() if len(iou) else location.new_zeros(())
    return Losses(options.box * box + objectness, box.detach(), objectness.detach(), mean_iou)
