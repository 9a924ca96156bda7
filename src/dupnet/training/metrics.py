"""What a run logs: means of its scalars, to `metrics.csv` and to TensorBoard."""

from __future__ import annotations

import csv
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from dupnet.files import whole
from dupnet.nn.duplication import DuplicatedConv2d


@torch.no_grad()
def signs(network: nn.Module) -> Tensor:
    """Which of the 1-bit weights are positive, all in one row; empty if there are none."""
    layers = [module for module in network.modules() if isinstance(module, DuplicatedConv2d) and module.weight_bits == 1]
    return torch.cat([layer.integer_weights().flatten() > 0 for layer in layers] or [torch.empty(0, dtype=torch.bool)])


class Metrics:
    """Means of logged scalars, to a CSV file and to TensorBoard. A resumed run drops rows of steps that it will repeat.

    `sign_flips` is the share of the 1-bit weights whose signs differ from those of the row before (of the first after
    a resumption, from the checkpoint's): near 0, no sign learns any more.
    """

    COLUMNS = ("step", "images", "seconds", "learning_rate", "loss", "box", "objectness", "mean_iou", "gradient_norm", "sign_flips",
               "images_per_s")  # fmt: skip

    def __init__(self, out: Path, network: nn.Module, first_step: int, stack: ExitStack) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = out / "metrics.csv"
        rows = []
        if first_step and path.exists():
            with open(path, newline="") as old:
                rows = [row for row in csv.DictReader(old) if row["step"] and int(row["step"]) <= first_step and None not in row.values()]
        self.offset = float(rows[-1]["seconds"]) if rows else 0.0
        with whole(path) as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, self.COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        self.writer = csv.DictWriter(stack.enter_context(open(path, "a", newline="", buffering=1)), self.COLUMNS)
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=first_step + 1 if first_step else 0)
        stack.callback(self.board.close)
        self.network, self.signs = network, signs(network)
        self.sums: dict[str, Tensor] = {}
        self.count, self.images, self.start = 0, 0, time.perf_counter()
        self.since = self.start

    def add(self, scalars: dict[str, Tensor], images: int) -> None:
        for name, value in scalars.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.count, self.images = self.count + 1, self.images + images

    def write(self, step: int, rate: float, seen: int) -> dict[str, float]:
        now = time.perf_counter()
        row = {name: float(value) / self.count for name, value in self.sums.items()}
        before, self.signs = self.signs, signs(self.network)
        flips = (self.signs != before).float().mean().item() if len(before) else 0.0
        row |= {"sign_flips": flips, "images_per_s": self.images / (now - self.since), "learning_rate": rate}
        for name, value in row.items():
            self.board.add_scalar(name, value, step)
        self.writer.writerow(
            {"step": step, "images": seen, "seconds": f"{self.offset + now - self.start:.1f}"} | {k: f"{v:.6g}" for k, v in row.items()}
        )
        self.sums, self.count, self.images, self.since = {}, 0, 0, now
        return row
