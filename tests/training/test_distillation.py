"""A teacher's grid as a target: its loss by hand, and a run that learns from it."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from dupnet import head as grid_head
from dupnet import zoo
from dupnet.errors import CheckpointError, SpecError
from dupnet.nn import Network, checkpoint
from dupnet.spec import EResFDSpec, HeadSpec
from dupnet.training import loop
from dupnet.training import recipe as recipes
from dupnet.training.distillation import Distillation, distillation_loss
from dupnet.training.loop import Run, Trainer
from dupnet.training.recipe import Recipe

HEAD = HeadSpec(((20.0, 20.0), (60.0, 60.0)), centre_scale=2.0)


def grid(objectness: float, rows: int = 3, columns: int = 3) -> torch.Tensor:
    g = torch.zeros(1, 12, rows, columns)
    g.view(1, 2, 6, rows, columns)[:, :, grid_head.OBJECTNESS] = objectness
    return g


def test_a_grid_like_the_teachers_costs_only_its_doubt() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(2, 12, 3, 3)
    student = teacher.clone().requires_grad_()
    loss = distillation_loss(student, teacher, HEAD, 16, Distillation())
    assert loss.item() == pytest.approx(0, abs=1e-5), "the focal weight is 0 where both agree"
    loss.backward()
    assert student.grad.abs().max() < 1e-4


def test_the_loss_of_one_anchor_by_hand() -> None:
    student, teacher = grid(-40.0), grid(-40.0)
    teacher.view(1, 2, 6, 3, 3)[0, 0, grid_head.OBJECTNESS, 1, 1] = 40.0
    student.view(1, 2, 6, 3, 3)[0, 0, grid_head.OBJECTNESS, 1, 1] = 0.0
    options = Distillation(boxes=0.0, focal=1.0)
    assert distillation_loss(student, teacher, HEAD, 16, options).item() == pytest.approx(0.5 * 0.6931, abs=1e-3)  # |1 - 1/2| ln 2
    student.view(1, 2, 6, 3, 3)[0, 0, 2, 1, 1] = 0.6931  # twice as wide: IoU 1/2, and the hull is the wider box
    assert distillation_loss(student, teacher, HEAD, 16, Distillation(objectness=0.0)).item() == pytest.approx(0.5, abs=1e-3)


def test_unsure_boxes_of_the_teacher_are_no_targets() -> None:
    student, teacher = torch.randn(1, 12, 3, 3), grid(-2.0)
    assert distillation_loss(student, teacher, HEAD, 16, Distillation(objectness=0.0)).item() == 0.0


def small_recipe(**changes: object) -> Recipe:
    return replace(recipes.load("tiny"), **changes)


def test_a_run_learns_from_the_teacher(tiny_wider: Path, tmp_path: Path) -> None:
    spec = recipes.load("tiny").spec
    torch.manual_seed(5)
    path = tmp_path / "teacher.pt"
    checkpoint.save(Network(spec, recipes.load("tiny").network).eval(), path)
    recipe = small_recipe(steps=3, distillation=Distillation(str(path), objectness=3.0))
    where = {"data": tiny_wider, "workers": 0, "device": "cpu", "progress": False}
    alone = loop.train(small_recipe(steps=3), out=tmp_path / "alone", **where).state_dict()
    taught = loop.train(recipe, out=tmp_path / "taught", **where).state_dict()
    assert any(not torch.equal(alone[name], taught[name]) for name in alone)
    nothing = replace(recipe, distillation=replace(recipe.distillation, objectness=0.0, boxes=0.0))
    same = loop.train(nothing, out=tmp_path / "nothing", **where).state_dict()
    assert all(torch.equal(alone[name], same[name]) for name in alone)


def test_a_compiled_teacher_is_asked_too(tiny_wider: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # as the real one, without the minute of code generation
    tiny = recipes.load("tiny")
    checkpoint.save(Network(tiny.spec, tiny.network).eval(), tmp_path / "teacher.pt")
    recipe = small_recipe(steps=1, distillation=Distillation(str(tmp_path / "teacher.pt")))
    trainer = Trainer(recipe, Run(tiny_wider, tmp_path, workers=0, device="cpu", compile=True))
    alone = Trainer(small_recipe(steps=1), Run(tiny_wider, tmp_path, workers=0, device="cpu"))
    batch = next(trainer.batches(0, 1))
    assert trainer.take_step(*batch)["loss"] > alone.take_step(*batch)["loss"] + 0.01


def test_a_teacher_with_another_head_is_refused(tiny_wider: Path, tmp_path: Path) -> None:
    spec = zoo.get("tinier-yolo-half")
    other = replace(spec, head=replace(spec.head, anchors=spec.head.anchors[::-1]))
    checkpoint.save(Network(other).eval(), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="head"):
        Trainer(small_recipe(distillation=Distillation(str(tmp_path / "other.pt"))), Run(tiny_wider, tmp_path, workers=0, device="cpu"))
    with pytest.raises(SpecError, match="detectors with a grid"):
        Recipe(EResFDSpec(), 3, distillation=Distillation("x.pt"))
    with pytest.raises(SpecError, match="sure"):
        Distillation(sure=0.0)
