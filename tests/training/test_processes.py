"""Several processes: their averaged gradients are those of one that sees all crops."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from dupnet.nn.eresfd import Level
from dupnet.spec import HeadSpec
from dupnet.training.distillation import Distillation, distillation_loss
from dupnet.training.loss import LossOptions, region_loss
from dupnet.training.multibox import MultiboxOptions, multibox_loss

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
grid, teacher = torch.randn(2, 6, 4, 4, requires_grad=True), torch.randn(2, 6, 4, 4)
location, classes = torch.randn(2, 4, 24, 24, requires_grad=True), torch.randn(2, 2, 24, 24, requires_grad=True)
boxes, kinds = torch.zeros(2, 5, 4), torch.zeros(2, 5, dtype=torch.uint8)
boxes[:, :, :2] = torch.rand(2, 5, 2) * 30
boxes[:, :, 2:] = boxes[:, :, :2] + 20
kinds[0, 0], kinds[1] = 1, 1  # one face, and five
head, stride, mine = HeadSpec(((20.0, 20.0),), 2.0), 16, slice(None) if rank < 0 else slice(rank, rank + 1)
if rank >= 0:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
total = region_loss(grid[mine], boxes[mine], kinds[mine], head, stride, LossOptions()).total
total = total + distillation_loss(grid[mine], teacher[mine], head, stride, Distillation("teacher.pt", sure=0.1))
level = Level(location[mine], classes[mine])
total = total + multibox_loss([level], boxes[mine], kinds[mine], MultiboxOptions(negatives="focal")).total
total.backward()
torch.save([grid.grad, location.grad, classes.grad], f"{folder}/{rank}.pt")
"""


def test_no_face_weighs_more_because_its_process_saw_few(tmp_path: Path) -> None:
    runs = [subprocess.Popen([sys.executable, "-c", SCRIPT, str(rank), str(tmp_path)]) for rank in (-1, 0, 1)]
    assert [run.wait(120) for run in runs] == [0, 0, 0]
    whole, *parts = (torch.load(tmp_path / f"{rank}.pt") for rank in (-1, 0, 1))
    for one, first, second in zip(whole, *parts, strict=True):
        assert one.abs().sum() > 0
        torch.testing.assert_close((first + second) / 2, one)
