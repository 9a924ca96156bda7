"""The region loss on grids small enough to compute by hand."""

import math

import numpy as np
import pytest
import torch

from dupnet import head as grid_head
from dupnet.data.augmentation import FACE, IGNORE
from dupnet.spec import HeadSpec
from dupnet.training.loss import LossOptions, decode, generalized_iou, region_loss

HEAD = HeadSpec(((20.0, 20.0), (60.0, 60.0)), centre_scale=2.0)
YOLO = HeadSpec(((20.0, 20.0), (60.0, 60.0)), centre_scale=1.0)


def grid(objectness: float = -8.0, rows: int = 4, columns: int = 4) -> torch.Tensor:
    g = torch.zeros(1, 12, rows, columns)
    g.view(1, 2, 6, rows, columns)[:, :, grid_head.OBJECTNESS] = objectness
    return g


def one(box: list[float], kind: int = FACE) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([[box]]), torch.tensor([[kind]], dtype=torch.uint8)


def test_torch_decodes_as_numpy() -> None:
    torch.manual_seed(0)
    g = torch.randn(1, 12, 3, 5) * 2
    boxes, _ = decode(g, HEAD, 16)
    expected, _ = grid_head.decode(g[0].numpy(), HEAD, 16)
    np.testing.assert_allclose(boxes.reshape(-1, 4).numpy(), expected, rtol=1e-4, atol=1e-3)


def test_a_perfect_grid_costs_almost_nothing() -> None:
    g = grid()
    g.view(1, 2, 6, 4, 4)[0, 0, grid_head.OBJECTNESS, 1, 2] = 8.0
    losses = region_loss(g, *one([30, 14, 50, 34]), HEAD, 16, LossOptions())  # centre (40, 24): cell row 1, column 2
    assert losses.total < 1e-3 and losses.mean_iou > 0.999


def test_missing_a_face_costs_and_pulls_its_anchor_up() -> None:
    g = grid().requires_grad_()
    region_loss(g, *one([30, 14, 50, 34]), HEAD, 16, LossOptions()).total.backward()
    gradient = g.grad.view(2, 6, 4, 4)
    assert gradient[0, grid_head.OBJECTNESS, 1, 2] < -0.5
    assert gradient[1].abs().max() < 1e-2, "the large anchor does not answer for a small face"


@pytest.mark.parametrize(("hit_iou", "side", "rises"), [(0.0, 32, True), (0.5, 32, False), (0.5, 24, True), (0.7, 24, False)])
def test_objectness_can_be_the_chance_of_a_hit(hit_iou: float, side: float, rises: bool) -> None:
    """The answering box is 20 pixels wide: of a face of 24 its IoU is .69, of one of 32 it is .39."""
    g = grid(objectness=-1.0).requires_grad_()
    face = one([40 - side / 2, 24 - side / 2, 40 + side / 2, 24 + side / 2])
    region_loss(g, *face, HEAD, 16, LossOptions(hit_iou=hit_iou)).total.backward()
    assert (g.grad.view(2, 6, 4, 4)[0, grid_head.OBJECTNESS, 1, 2] < 0) == rises


def test_false_alarms_cost_but_not_in_ignore_regions() -> None:
    g = grid()
    g.view(1, 2, 6, 4, 4)[0, 0, grid_head.OBJECTNESS, 1, 2] = 8.0
    far = region_loss(g, *one([0, 40, 20, 60], IGNORE), HEAD, 16, LossOptions()).total
    over = region_loss(g, *one([20, 4, 60, 44], IGNORE), HEAD, 16, LossOptions()).total
    punished = region_loss(g, *one([20, 4, 60, 44], IGNORE), HEAD, 16, LossOptions(ignore_overlap=1.0)).total
    assert over < 0.01 < far and punished > 1


def test_several_anchors_answer_only_in_iou_style() -> None:
    head = HeadSpec(((20.0, 20.0), (22.0, 22.0)), centre_scale=1.0)
    for style, answering in (("iou", 2), ("yolov2", 1)):
        g = grid(0.0).requires_grad_()
        region_loss(g, *one([30, 14, 50, 34]), head, 16, LossOptions(style=style)).total.backward()
        assert (g.grad.view(2, 6, 4, 4)[:, grid_head.OBJECTNESS, 1, 2] < -0.02).sum() == answering


def test_yolov2_equals_darknets_sums() -> None:
    g = grid(0.0).requires_grad_()
    options = LossOptions(style="yolov2")
    losses = region_loss(g, *one([30, 14, 50, 34]), YOLO, 16, options)
    # centre (40, 24) is (.5, .5) in its cell: the box is exact and its IoU 1. 31 anchors at sigma(0) = 1/2 should be 0 and the
    # answering one should be 1, with scale 5; of the 31, none overlaps the face by more than 0.6.
    assert losses.box == pytest.approx(0.0, abs=1e-6)
    assert losses.total.item() == pytest.approx((31 * 0.25 + 5 * 0.25) / 2)
    losses.total.backward()
    gradient = g.grad.view(2, 6, 4, 4)
    assert gradient[0, grid_head.OBJECTNESS, 1, 2].item() == pytest.approx(5 * (0.5 - 1) * 0.25)  # scale (p - 1) p (1 - p)
    assert gradient[0, grid_head.OBJECTNESS, 0, 0].item() == pytest.approx(0.5 * 0.25)


def test_yolov2_box_term_weighs_small_faces_more() -> None:
    def box_loss(size: float) -> float:
        g = grid()
        g.view(1, 2, 6, 4, 4)[:, :, 2] = 0.5  # every width is wrong by the same factor
        half = size / 2
        return region_loss(g, *one([40 - half, 24 - half, 40 + half, 24 + half]), YOLO, 16, LossOptions(style="yolov2")).box.item()

    assert box_loss(20) == pytest.approx(0.25 * (2 - 400 / 4096) / 2, rel=1e-4)
    assert box_loss(60) == pytest.approx(0.25 * (2 - 3600 / 4096) / 2, rel=1e-4)


def test_yolov2_knows_one_face_a_place_and_it_is_the_last() -> None:
    torch.manual_seed(1)
    g = torch.randn(1, 12, 4, 4)
    first, second = [30.0, 14.0, 50.0, 34.0], [28.0, 12.0, 52.0, 38.0]  # one cell, one anchor
    options = LossOptions(style="yolov2", free_iou=1.0)
    alone = region_loss(g, *one(second), YOLO, 16, options)
    both = region_loss(g, torch.tensor([[first, second]]), torch.tensor([[FACE, FACE]], dtype=torch.uint8), YOLO, 16, options)
    assert both.total == alone.total and both.box == alone.box


def test_yolov2_draws_boxes_to_their_anchors_at_first() -> None:
    g = torch.randn(1, 12, 4, 4)
    none = torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.uint8)
    options = LossOptions(style="yolov2", prior_photos=100)
    assert region_loss(g, *none, YOLO, 16, options, seen=99).box > 0 == region_loss(g, *none, YOLO, 16, options, seen=100).box


def test_yolov2_draws_no_box_to_its_anchor_that_answers_for_a_face() -> None:
    torch.manual_seed(2)
    g, face = torch.randn(1, 12, 4, 4), one([30.0, 14.0, 50.0, 34.0])  # the first anchor answers, at row 1 and column 2
    options = LossOptions(style="yolov2", prior_photos=100)
    early, late = (region_loss(g, *face, YOLO, 16, options, seen=seen).box for seen in (99, 100))
    v = g.view(2, 6, 4, 4)
    drawn = (YOLO.centre_scale * (v[:, :2].sigmoid() - 0.5)) ** 2 + v[:, 2:4] ** 2
    drawn[0, :, 1, 2] = 0
    torch.testing.assert_close(early - late, 0.01 * drawn.sum() / 2)


def test_at_most_so_many_faces() -> None:
    boxes = torch.tensor([[[5.0, 5, 25, 25], [35, 5, 55, 25], [5, 35, 25, 55]]])
    kinds = torch.full((1, 3), FACE, dtype=torch.uint8)
    first = torch.where((kinds == FACE).cumsum(1) <= 2, kinds, 0)
    limited = region_loss(grid(), boxes, kinds, HEAD, 16, LossOptions(faces_max=2)).total
    two, three = (region_loss(grid(), boxes, which, HEAD, 16, LossOptions()).total for which in (first, kinds))
    assert limited == two != three


def test_no_faces_and_faces_on_the_edge() -> None:
    none = torch.zeros(1, 4, 4), torch.zeros(1, 4, dtype=torch.uint8)
    for style in ("iou", "yolov2"):
        g = grid().requires_grad_()
        total = region_loss(g, *none, HEAD, 16, LossOptions(style=style)).total
        total.backward()
        assert torch.isfinite(total) and torch.isfinite(g.grad).all()
        total = region_loss(g, *one([64.0, 64, 64, 64]), HEAD, 16, LossOptions(style=style)).total
        assert not torch.isnan(total)


def test_generalized_iou_by_hand() -> None:
    a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2]])
    iou, giou = generalized_iou(a, b)
    assert iou.item() == pytest.approx(1 / 3) and giou.item() == pytest.approx(1 / 3)  # the hull has no empty part
    _, apart = generalized_iou(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]]))
    assert apart.item() == pytest.approx(-1 / 3)


def cost(target: float, focal: float = 1.5) -> float:
    """Of a prediction that says 1/4: cross entropy times `|target - p|^focal`."""
    return -(target * math.log(1 / 4) + (1 - target) * math.log(3 / 4)) * abs(target - 1 / 4) ** focal


def loss_of_a_near_miss(head: HeadSpec, options: LossOptions) -> float:
    """On 2 x 2 cells every box is its anchor and every objectness 1/4; one face of 30 pixels stands in the middle of a cell.

    That cell's small anchor answers with an IoU (and generalized IoU) of 20^2 / 30^2 = 4/9, its large one has 30^2 / 60^2 = 1/4.
    """
    return region_loss(grid(-math.log(3), 2, 2), *one([9, -7, 39, 23]), head, 16, options).total.item()


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("box", 2.0, 2 * 5 / 9 + cost(1 / 2) + 7 * cost(0)),
        ("box", 0.5, 0.5 * 5 / 9 + cost(1 / 2) + 7 * cost(0)),
        ("focal", 0.0, 2 * 5 / 9 + cost(1 / 2, 0) + 7 * cost(0, 0)),
        ("focal", 0.5, 2 * 5 / 9 + cost(1 / 2, 0.5) + 7 * cost(0, 0.5)),
        ("shape_iou", 0.3, 2 * 5 / 9 + cost(1 / 2) + 7 * cost(0)),
        ("shape_iou", 0.2, (2 * (5 / 9 + 3 / 4) + 2 * cost(1 / 2) + 6 * cost(0)) / 2),  # the large anchor answers, too
        ("objectness_floor", 0.0, 2 * 5 / 9 + cost(4 / 9) + 7 * cost(0)),
        ("objectness_floor", 0.75, 2 * 5 / 9 + cost(3 / 4) + 7 * cost(0)),
        ("hit_iou", 0.4, 2 * 5 / 9 + cost(1) + 7 * cost(0)),
        ("hit_iou", 0.5, 2 * 5 / 9 + cost(0) + 7 * cost(0)),
        ("free_iou", 0.3, 2 * 5 / 9 + cost(1 / 2) + 7 * cost(0)),
        ("free_iou", 0.2, 2 * 5 / 9 + cost(1 / 2) + 3 * cost(0)),  # the large anchors of all four cells overlap it by more
    ],
)
def test_a_near_miss_costs_in_iou_style_what_each_option_says(option: str, value: float, expected: float) -> None:
    assert loss_of_a_near_miss(HEAD, LossOptions(**{option: value})) == pytest.approx(expected, rel=1e-5)


SQUARES = (2 - 30**2 / 32**2) * 2 * math.log(30 / 20) ** 2
"""Of the near miss's width and height, weighed by its size; its centre is exact."""


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("rescore", True, SQUARES + 5 * (4 / 9 - 1 / 4) ** 2 + 7 / 16),
        ("rescore", False, SQUARES + 5 * (1 - 1 / 4) ** 2 + 7 / 16),
        ("coord", 0.0, 5 * (4 / 9 - 1 / 4) ** 2 + 7 / 16),
        ("coord", 3.0, 3 * SQUARES + 5 * (4 / 9 - 1 / 4) ** 2 + 7 / 16),
        ("object", 1.0, SQUARES + (4 / 9 - 1 / 4) ** 2 + 7 / 16),
        ("no_object", 0.0, SQUARES + 5 * (4 / 9 - 1 / 4) ** 2),
        ("no_object", 2.0, SQUARES + 5 * (4 / 9 - 1 / 4) ** 2 + 2 * 7 / 16),
        ("free_iou", 0.2, SQUARES + 5 * (4 / 9 - 1 / 4) ** 2 + 3 / 16),
    ],
)
def test_a_near_miss_costs_in_yolov2_style_what_each_option_says(option: str, value: float, expected: float) -> None:
    assert loss_of_a_near_miss(YOLO, LossOptions(style="yolov2", **{option: value})) == pytest.approx(expected / 2, rel=1e-5)
