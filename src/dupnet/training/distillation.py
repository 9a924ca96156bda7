"""What a better network with the same head says about a crop, as targets for the one in training.

The teacher sees the very crop that the student sees and answers for every cell and anchor, where labels speak of faces only: it
tells how much a hand looks like a face. It costs a forward pass and no label. Before: `dupnet.training.loop`, which runs it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from dupnet import head as grid_head
from dupnet.errors import SpecError
from dupnet.spec import HeadSpec
from dupnet.training.loss import decode, divisor, generalized_iou


@dataclass(frozen=True)
class Distillation:
    """Attributes:
    network: checkpoint of the teacher, whose head is the student's; "" for none.
    objectness: weight of the objectness' loss: cross entropy with the teacher's probability, with the focal weight `|t - p|^focal`.
    boxes: weight of the boxes' loss: generalized IoU with the teacher's box, as much as the teacher is sure of it.
    focal: see above.
    sure: boxes that the teacher gives less than this are no targets.
    """

    network: str = ""
    objectness: float = 1.0
    boxes: float = 1.0
    focal: float = 1.5
    sure: float = 0.3

    def __post_init__(self) -> None:
        if min(self.objectness, self.boxes, self.focal) < 0:
            raise SpecError("distillation: objectness, boxes and focal must be at least 0")
        if not 0 < self.sure < 1:
            raise SpecError(f"distillation: sure must be above 0 and below 1, not {self.sure}")


def distillation_loss(grid: Tensor, teachers: Tensor, head: HeadSpec, stride: int, options: Distillation) -> Tensor:
    """How far a grid is from the teacher's; a scalar, divided by the faces that the teacher sees (the sum of its sure objectness).

    Args:
        grid, teachers: `(n, 6 anchors, rows, columns)`, real values.
        head: anchors and `centre_scale` of both.
        stride: pixels per cell.
        options: see there.

    Source: the soft targets of Hinton et al., 2015, and for detectors Chen et al., 2017, where boxes are learned from the teacher alike.
    """
    boxes, v = decode(grid, head, stride)
    targets, t = decode(teachers.detach(), head, stride)
    logits, p = v[..., grid_head.OBJECTNESS], t[..., grid_head.OBJECTNESS].sigmoid()
    sure = p * (p >= options.sure)
    faces = divisor(float(sure.sum()), sure.device)
    focal = (p - logits.detach().sigmoid()).abs() ** options.focal
    objectness = (F.binary_cross_entropy_with_logits(logits, p, reduction="none") * focal).sum() / faces
    at = sure.nonzero(as_tuple=True)
    _, giou = generalized_iou(boxes[at], targets[at])
    return options.objectness * objectness + options.boxes * ((1 - giou) * sure[at]).sum() / faces
