"""The region loss: what a grid should have been.

Two assignments share one computation. With `style="yolov2"` it is Darknet's region layer (squared errors, one anchor a face,
the constants of tiny-yolo-voc.cfg); with `style="iou"` what detectors do today: every anchor of a fitting shape answers for a
face, boxes learn by generalized IoU, objectness learns the IoU with a focal weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from dupnet import checked
from dupnet import head as grid_head
from dupnet.data.augmentation import FACE, IGNORE
from dupnet.spec import NETWORK_CHANNELS, HeadSpec


@dataclass(frozen=True)
class LossOptions:
    """Attributes:
    style: `"iou"` or `"yolov2"`.
    box: weight of the boxes' loss (`"iou"`).
    focal: exponent of the objectness' focal weight `|target - p|^focal` (`"iou"`).
    shape_iou: anchors whose shape overlaps a face's by more than this answer for it, besides the best one (`"iou"`).
    objectness_floor: an answering anchor's objectness target is its IoU, but at least this (`"iou"`).
    hit_iou: if above 0, that target is instead whether its IoU is above this, so that objectness is the chance of a hit (`"iou"`).
    free_iou: predictions that overlap a face by more than this are not punished for objectness.
    ignore_overlap: predictions with more than this share of their area in one ignore region are not punished; 1 punishes all.
    faces_max: at most this many faces of a photo count (Darknet: 30); 0 for all.
    prior_photos: for so many photos, boxes that answer for no face are drawn to their anchors (Darknet: 12,800) (`"yolov2"`).
    object, no_object, coord: scales (`"yolov2"`; tiny-yolo-voc.cfg: 5, 1, 1).
    rescore: objectness learns the IoU instead of 1 (`"yolov2"`).
    """

    style: Literal["iou", "yolov2"] = "iou"
    box: float = 2.0
    focal: float = 1.5
    shape_iou: float = 0.45
    objectness_floor: float = 0.5
    hit_iou: float = 0.0
    free_iou: float = 0.5
    ignore_overlap: float = 0.4
    faces_max: int = 0
    prior_photos: int = 12_800
    object: float = 5.0
    no_object: float = 1.0
    coord: float = 1.0
    rescore: bool = True

    def __post_init__(self) -> None:
        checked.not_negative(self, ("box", "focal", "faces_max", "prior_photos", "object", "no_object", "coord"), where="loss")
        checked.choices(self, where="loss")
        checked.fractions(self, ("shape_iou", "objectness_floor", "hit_iou", "free_iou", "ignore_overlap"), where="loss")


@dataclass(frozen=True)
class Losses:
    """Scalars: the total to minimize, and for the log its parts (the boxes' without the weight `box`)."""

    total: Tensor
    box: Tensor
    objectness: Tensor
    mean_iou: Tensor


def decode(grid: Tensor, head: HeadSpec, stride: int) -> tuple[Tensor, Tensor]:
    """`dupnet.head.decode` in torch: boxes `(n, rows, columns, anchors, 4)` and the raw channels `(n, rows, columns, anchors, 6)`."""
    n, _, rows, columns = grid.shape
    v = grid.view(n, len(head.anchors), NETWORK_CHANNELS, rows, columns).permute(0, 3, 4, 1, 2)
    anchors = grid.new_tensor(head.anchors)
    cell = torch.stack(torch.meshgrid(torch.arange(columns, device=grid.device), torch.arange(rows, device=grid.device), indexing="xy"), -1)
    k = head.centre_scale
    centre = stride * (cell[:, :, None] + k * v[..., :2].sigmoid() - (k - 1) / 2)
    size = anchors * v[..., 2:4].clamp(max=grid_head.LOG_SIZE_MAX).exp()
    return torch.cat([centre - size / 2, centre + size / 2], -1), v


def area(boxes: Tensor) -> Tensor:
    """Of boxes `(..., 4)` x1 y1 x2 y2."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Areas that boxes share, broadcast over all but the last axis."""
    return (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)


def generalized_iou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalized IoU of boxes pairwise. Source: Rezatofighi et al., 2019."""
    inter = intersection(a, b)
    union = (area(a) + area(b) - inter).clamp(min=1e-6)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1).clamp(min=1e-6)
    iou = inter / union
    return iou, iou - (hull - union) / hull


@dataclass(frozen=True)
class _Matches:
    """Which predictions answer for which faces. `k` of them, in all photos together."""

    at: tuple[Tensor, Tensor, Tensor, Tensor]
    """Photo, row, column and anchor of each prediction, four times `(k,)`."""
    truth: Tensor
    """The face that each answers for, `(k, 4)`."""


def region_loss(
    grid: Tensor, boxes: Tensor, kinds: Tensor, head: HeadSpec, stride: int, options: LossOptions, *, seen: int = 1 << 60
) -> Losses:
    """The loss of one batch.

    Args:
        grid: `(n, 6 anchors, rows, columns)`, real values.
        boxes: `(n, m, 4)` x1 y1 x2 y2 in pixels of the crop.
        kinds: `(n, m)`: 0 nothing, `FACE`, `IGNORE`.
        head: anchors and `centre_scale`.
        stride: pixels per cell.
        options: see there.
        seen: photos that the run has seen before this batch (for `prior_photos`).

    Source: YOLO9000 (Redmon and Farhadi, 2016); the constants are those of Darknet's region layer.
    """
    predicted, v = decode(grid, head, stride)
    face, ignore = kinds == FACE, kinds == IGNORE
    if options.faces_max:
        face = face & (face.cumsum(1) <= options.faces_max)
    background = _background(predicted, boxes, face, ignore, options)
    matches = _match(predicted.shape, boxes, face, grid.new_tensor(head.anchors), stride, options)
    if options.style == "iou":
        return _iou_loss(predicted, v, background, matches, options)
    return _yolov2_loss(predicted, v, background, matches, head, stride, options, seen)


@torch.no_grad()
def _background(predicted: Tensor, boxes: Tensor, face: Tensor, ignore: Tensor, options: LossOptions) -> Tensor:
    """`(n, rows, columns, anchors)`: 1 where a prediction is to say "no face" unless it answers for one, 0 where it is left alone."""
    # Each box meets the predictions of its own photo only: most of `boxes` is padding.
    photo, number = (face | ignore).nonzero(as_tuple=True)
    theirs, box = predicted.reshape(len(boxes), -1, 4)[photo], boxes[photo, number][:, None]
    inter, size = intersection(theirs, box), area(theirs)
    is_face = face[photo, number][:, None]
    matched = is_face & (inter / (size + area(box) - inter).clamp(min=1e-6) > options.free_iou)
    covered = ~is_face & (inter / size.clamp(min=1e-6) > options.ignore_overlap)
    free = inter.new_zeros(len(boxes), inter.shape[1]).index_add_(0, photo, (matched | covered).float())
    return (free == 0).float().view(predicted.shape[:-1])


def _match(shape: torch.Size, boxes: Tensor, face: Tensor, anchors: Tensor, stride: int, options: LossOptions) -> _Matches:
    """A face is answered for in the cell of its centre: by the anchor that fits it best and, with style "iou", by all that fit it."""
    n, rows, columns, _, _ = shape
    photo, number = face.nonzero(as_tuple=True)
    truth = boxes[photo, number]
    size = truth[:, 2:] - truth[:, :2]
    cell = ((truth[:, :2] + truth[:, 2:]) / (2 * stride)).long()
    column, row = cell[:, 0].clamp(0, columns - 1), cell[:, 1].clamp(0, rows - 1)
    overlap = torch.minimum(size[:, None], anchors).prod(-1)
    shape_iou = overlap / (size.prod(-1)[:, None] + anchors.prod(-1) - overlap).clamp(min=1e-6)
    answers = F.one_hot(shape_iou.argmax(1), len(anchors)).bool()
    if options.style == "iou":
        answers |= shape_iou > options.shape_iou
    which, anchor = answers.nonzero(as_tuple=True)
    if options.style == "yolov2":  # of several faces that fall on the same place the last one counts, as it overwrites in Darknet
        place = ((photo[which] * rows + row[which]) * columns + column[which]) * len(anchors) + anchor
        order = torch.arange(len(which), device=boxes.device)
        latest = place.new_full((n * rows * columns * len(anchors),), -1).scatter_reduce_(0, place, order, "amax")[place] == order
        which, anchor = which[latest], anchor[latest]
    return _Matches((photo[which], row[which], column[which], anchor), truth[which])


def divisor(count: float, device: torch.device) -> float:
    """What each process divides its sum of losses by, at least 1: the mean count of all processes, whose gradients are averaged, so that no
    face weighs more because its process saw few."""
    if dist.is_available() and dist.is_initialized():
        total = torch.tensor(count, device=device)
        dist.all_reduce(total)
        count = total.item() / dist.get_world_size()
    return max(count, 1.0)


def _mean(iou: Tensor) -> Tensor:
    return iou.detach().mean() if len(iou) else iou.new_zeros(())


def _iou_loss(predicted: Tensor, v: Tensor, background: Tensor, matches: _Matches, options: LossOptions) -> Losses:
    """Generalized IoU for the boxes, focal cross entropy for objectness, both by the number of predictions that answer for a face."""
    at = matches.at
    iou, giou = generalized_iou(predicted[at], matches.truth)
    # Two faces that fall on the same place: the target is the better one's, as a maximum does not depend on the order.
    fit = (iou.detach() > options.hit_iou).float() if options.hit_iou else iou.detach().clamp(min=options.objectness_floor)
    _, rows, columns, anchors = background.shape
    target = torch.zeros_like(background)
    target.view(-1).scatter_reduce_(0, ((at[0] * rows + at[1]) * columns + at[2]) * anchors + at[3], fit, "amax")
    weight = background.index_put(at, torch.ones_like(iou))
    logits = v[..., grid_head.OBJECTNESS]
    focal = (target - logits.detach().sigmoid()).abs() ** options.focal
    objectness = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight * focal).sum()
    share = divisor(float(len(iou)), iou.device)
    box, objectness = (1 - giou).sum() / share, objectness / share
    return Losses(options.box * box + objectness, box.detach(), objectness.detach(), _mean(iou))


def _yolov2_loss(
    predicted: Tensor, v: Tensor, background: Tensor, matches: _Matches, head: HeadSpec, stride: int, options: LossOptions, seen: int
) -> Losses:
    """Darknet's: squared errors, of boxes in its own units, summed up over a photo; small faces count up to twice as much."""
    at, truth = matches.at, matches.truth
    n, rows, columns, _ = background.shape
    iou, _ = generalized_iou(predicted[at], truth)
    p = v[..., grid_head.OBJECTNESS].sigmoid()
    none = options.no_object * background * p.square()
    found = options.rescore * iou.detach() + (1 - options.rescore)
    objectness = none.sum() - none[at].sum() + options.object * (found - p[at]).square().sum()
    k, size = head.centre_scale, truth[:, 2:] - truth[:, :2]
    centre = (truth[:, :2] + truth[:, 2:]) / (2 * stride) - torch.stack([at[2], at[1]], 1)
    squared = (k * v[at][:, :2].sigmoid() - (k - 1) / 2 - centre).square() + (
        v[at][:, 2:4] - (size / v.new_tensor(head.anchors)[at[3]]).log()
    ).square()
    relative = size.prod(-1) / (rows * columns * stride**2)
    box = options.coord * ((2 - relative)[:, None] * squared).sum()
    if seen < options.prior_photos:
        prior = (k * v[..., :2].sigmoid() - k / 2).square() + v[..., 2:4].square()
        box = box + 0.01 * (prior.sum() - prior[at].sum())  # where a face is answered for, its deltas overwrite these
    return Losses((box + objectness) / (2 * n), box.detach() / (2 * n), objectness.detach() / (2 * n), _mean(iou))
