"""The training loop: batches in, weights out. It can be killed at any moment and goes on where it was.

Processes: one on a CPU or a GPU by itself, any number under `torchrun` (each takes its share of every step's crops).
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from dupnet import checked
from dupnet.data import wider
from dupnet.errors import CheckpointError, DupnetError, SpecError
from dupnet.files import keys_of
from dupnet.nn import checkpoint, mixed
from dupnet.nn.eresfd import EResFD
from dupnet.nn.network import Network, begin, thaw
from dupnet.nn.quantizers import PACT
from dupnet.spec import FULL, EResFDSpec, LayerSpec
from dupnet.training import recipe as recipes
from dupnet.training.detectors import compute_loss, make_network
from dupnet.training.distillation import distillation_loss
from dupnet.training.metrics import Metrics
from dupnet.training.recipe import Recipe
from dupnet.training.rendering import Renderer, can_render
from dupnet.training.targets import Crops, batches
from dupnet.training.teacher import located, taught_photos

REESTIMATION_BATCHES = 240
"""The batch norms of the averaged weights are estimated on so many batches, or on as many as the run had steps. With 60 batches of 16
crops, the detection rate of one and the same DupNet scattered between .618 and .639."""


@dataclass(frozen=True)
class Run:
    """Where and how a recipe runs; nothing here changes what is learned (but for rounding, by device and compiler).

    Attributes:
        data: folder of a data set in WIDER's layout; its train split is used.
        out: folder for checkpoints, metrics and TensorBoard events.
        cache: folder for the decoded photos; None decodes them every time.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:N"`.
        workers: loader processes. On a GPU with a cache they only decide on crops, whose pixels `dupnet.training.rendering` makes there.
        compile: fuse the network with torch.compile (a minute at the start, faster afterwards).
        precision: `"float32"`, or `"mixed"`: on a CPU, integers forward and bfloat16 gradients (`dupnet.nn.mixed`).
    """

    data: Path
    out: Path
    cache: Path | None = None
    device: str = "auto"
    workers: int = 1
    compile: bool = False
    precision: Literal["float32", "mixed"] = "float32"

    def __post_init__(self) -> None:
        checked.choices(self, where="run")

    @property
    def checkpoint(self) -> Path:
        """What `resume` goes on from."""
        return self.out / "checkpoint.pt"

    def torch_device(self) -> torch.device:
        """The device of this process: `"cuda"` and `"auto"` give each process of a machine its own GPU.

        Raises:
            SpecError: there is no such device.
        """
        try:
            device = torch.device("cuda" if self.device == "auto" and torch.cuda.is_available() else self.device.replace("auto", "cpu"))
        except RuntimeError:
            raise SpecError(f"device must be auto, cpu, cuda or cuda:N, not {self.device!r}") from None
        if device.type == "cuda" and not torch.cuda.is_available():
            raise SpecError(f"device {self.device!r} was asked for, but torch {torch.__version__} finds no CUDA device")
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if device.type not in ("cpu", "cuda") or (device.type == "cuda" and device.index >= torch.cuda.device_count()):
            raise SpecError(f"device {self.device!r}: this machine has the CPU and {torch.cuda.device_count()} CUDA devices")
        return device


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of step `step` (0 is the first)."""
    schedule, top = recipe.schedule, recipe.optimizer.learning_rate
    if step < schedule.warmup_steps:
        return top * (step + 1) / schedule.warmup_steps
    if schedule.shape == "step":
        return top * schedule.factor ** sum(step >= milestone for milestone in schedule.milestones)
    progress = (step - schedule.warmup_steps) / max(1, recipe.steps - schedule.warmup_steps)
    return top * (schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2)


def scaled(images: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """A batch of square crops at another size: images `(n, 3, side, side)`, as whole numbers 0 to 255, and the boxes with them."""
    if side == images.shape[-1]:
        return images, boxes
    resized = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True).round().clamp(0, 255)
    return resized, boxes * (side / images.shape[-1])


def make_optimizer(network: Network | EResFD, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW or SGD; weight decay touches convolutions' weights only, and PACT's bounds by `bound_decay`.

    A group's `share` multiplies the schedule's learning rate. SGD takes smaller steps in the grid's scale `s`: it is about `1 / sqrt(2 n)`
    for `n` inputs, so its gradient is `sqrt(2 n)` times as large as the grid's, and it needs steps of that order smaller than of a
    number near 1. (AdamW's steps do not depend on the size of gradients.)
    """
    options = recipe.optimizer
    weights = [p for p in network.parameters() if p.ndim == 4]
    others = [p for p in network.parameters() if p.ndim != 4]
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    if options.bound_decay:
        bounds = {module.bound for module in network.modules() if isinstance(module, PACT)}
        groups[1]["params"] = others = [p for p in others if p not in bounds]
        groups.append({"params": [p for p in network.parameters() if p in bounds], "weight_decay": options.bound_decay})
    if options.kind == "sgd":
        if isinstance(network, Network) and network.spec.layers[-1].weight_bits != FULL:
            scale, last = network.grid.scale, network.spec.layers[-1]
            groups[1]["params"] = [p for p in others if p is not scale]
            inputs = network.spec.in_channels[-1] * last.map_copies * last.kernel**2
            groups.append({"params": [scale], "weight_decay": 0.0, "share": 1 / (2 * inputs)})
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=options.momentum)
    return torch.optim.AdamW(groups, lr=options.learning_rate)


@torch.no_grad()
def reestimate_batch_norm(network: nn.Module, images: Iterator[Tensor]) -> None:
    """Set the batch norms' statistics to the mean over `images` under the present weights (averaged weights never met a batch)."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    was_training = network.training
    network.train()
    for norm in norms:
        norm.reset_running_stats()
    for number, batch in enumerate(images, 1):
        for norm in norms:
            norm.momentum = 1 / number
        network(batch)
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    network.train(was_training)


def fits_tf32(layer: LayerSpec) -> bool:
    """Whether TF32, which rounds a convolution's inputs to 10 bits of mantissa and keeps float32 sums, leaves a layer's integers alone.

    Those up to 2048 pass unchanged: summed copies of levels, and summed copies of weights.
    """
    levels, weights = (2**layer.input_bits - 1) * layer.weight_copies, (2**layer.weight_bits - 1) * layer.map_copies
    return max(levels, weights) <= 2048  # never for floats, whose 32 bits count as so many levels


class Trainer:
    """One run's state: network, averaged network, optimizer, step."""

    def __init__(self, recipe: Recipe, run: Run, *, resuming: bool = False) -> None:
        self.recipe, self.run = recipe, run
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = run.torch_device()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            layers = () if isinstance(recipe.spec, EResFDSpec) else recipe.spec.layers
            torch.backends.cudnn.allow_tf32 = bool(layers) and all(map(fits_tf32, layers))
        if self.world > 1 and not dist.is_initialized():
            # The others wait for the first process while it decodes the photos into the cache.
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo", timeout=timedelta(hours=4))
        if recipe.batch_norm == "frozen" and not recipe.start_from and not resuming:
            raise SpecError("recipe: batch_norm = 'frozen' keeps the statistics of a network to start from, and start_from names none")
        torch.manual_seed(recipe.seed)
        self.network = make_network(recipe)
        if recipe.start_from and not resuming:
            start = checkpoint.load_any(recipe.start_from)
            try:
                begin(self.network, start)
            except RuntimeError:
                raise CheckpointError(
                    f"{recipe.start_from}: holds a {start.spec.name!r}, whose weights do not fit {recipe.spec.name!r}"
                ) from None
        if recipe.thaw and not resuming:
            thaw(self.network, recipe.thaw)
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.batch_norm == "frozen":
            for layer in self.network.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eval()
        if run.precision == "mixed":
            if self.device.type != "cpu" or not isinstance(self.network, Network):
                raise SpecError("precision 'mixed' is for networks of quantized layers on a CPU")
            mixed.enable(self.network)
        self.teacher = self._teacher()
        self.average = {name: tensor.clone() for name, tensor in self.network.state_dict().items()} if recipe.ema else {}
        self.optimizer = make_optimizer(self.network, recipe)
        self.step = 0
        self.data = wider.annotations_key(run.data, "train")
        if self.rank > 0:  # the first process decodes into the cache, the others wait and find it done
            dist.barrier()
        photos = taught_photos(run.data, recipe.teacher, run.cache)
        self.files = keys_of(distillation=recipe.distillation.network, teacher=located(recipe.teacher, run.data))
        if self.rank == 0 and self.world > 1:
            dist.barrier()
        on_device = can_render(recipe.augmentation, photos, self.device)
        self.renderer = Renderer(photos, self.device) if on_device else None
        self.crops = Crops(photos, recipe.augmentation, recipe.seed, recipe.weights, held_out=recipe.held_out, rendered=not on_device)
        module: nn.Module = self.network
        if self.world > 1:
            module = DistributedDataParallel(module, device_ids=[self.device.index] if self.device.type == "cuda" else None)
        self.forward: Any = torch.compile(module) if run.compile else module

    def _teacher(self) -> Any:
        """The network that the recipe distils from, or None.

        Raises:
            CheckpointError: there is no such file, or its head is another.
        """
        path = self.recipe.distillation.network
        if not path:
            return None
        teacher = checkpoint.load(path)
        ours, theirs = self.recipe.spec, teacher.spec
        if isinstance(ours, EResFDSpec) or (ours.head, ours.stride) != (theirs.head, theirs.stride):
            raise CheckpointError(f"{path}: the head of {theirs.name!r} is not that of {ours.name!r}, so its grid is no target")
        teacher.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.run.precision == "mixed":
            mixed.enable(teacher)
        return torch.compile(teacher) if self.run.compile else teacher

    def save(self) -> None:
        """Write everything that `resume` needs."""
        content = checkpoint.describe(self.network)
        content |= {"average": {k: v.cpu() for k, v in self.average.items()}, "optimizer": self.optimizer.state_dict()}
        content |= {
            "step": self.step,
            "recipe": recipes.to_dict(self.recipe),
            "data": self.data,
            "processes": self.world,
            "precision": self.run.precision,
            "files": self.files,
        }
        checkpoint.write(self.run.checkpoint, content)

    def resume(self) -> None:
        """Go back to the last checkpoint. How often it is written may change, and what the run started from no longer matters.

        Raises:
            CheckpointError: it belongs to another recipe or teacher, to another list of photos and boxes, to another number of
                processes or another precision, or is damaged. (What the photos show is not compared.)
        """
        path = self.run.checkpoint
        content = checkpoint.read(path)
        if "step" not in content:
            raise CheckpointError(f"{path}: holds a network but no training run to go on with")
        known = recipes.from_dict(content["recipe"], source=str(path))  # with defaults for what is newer than the run
        self.recipe = replace(self.recipe, start_from=known.start_from)
        ours, theirs = recipes.to_dict(self.recipe), recipes.to_dict(replace(known, checkpoint_steps=self.recipe.checkpoint_steps))
        if ours != theirs:
            changed = sorted(key for key in ours if ours[key] != theirs[key])
            raise CheckpointError(f"{path}: was written by another recipe; these differ: {', '.join(changed)}")
        if content.get("data", self.data) != self.data:
            raise CheckpointError(f"{path}: was trained on other photos or boxes than those that {self.run.data} lists now")
        if content.get("files", self.files) != self.files:
            raise CheckpointError(f"{path}: the file behind {' or '.join(self.files)} is another than the run began with")
        if content.get("processes", self.world) != self.world:
            raise CheckpointError(f"{path}: was written by {content['processes']} processes, and this is a run of {self.world}")
        if content.get("precision", self.run.precision) != self.run.precision:
            raise CheckpointError(f"{path}: was written in precision {content['precision']!r}, and this run is of {self.run.precision!r}")
        self.network.load_state_dict(content["weights"])
        self.average = {k: v.to(self.device) for k, v in content["average"].items()}
        self.optimizer.load_state_dict(content["optimizer"])
        self.step = content["step"]

    def take_step(self, images: Tensor, boxes: Tensor, kinds: Tensor) -> dict[str, Tensor]:
        """One optimizer step; returns the scalars to log (on the device, so that nothing waits)."""
        recipe = self.recipe
        rate = learning_rate(recipe, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        if recipe.sizes_px:
            images, boxes = scaled(
                images, boxes, recipe.sizes_px[random.Random(f"{recipe.seed} {self.step // 10}").randrange(len(recipe.sizes_px))]
            )
        seen = self.step * recipe.batch * self.world
        grid = self.forward(images)
        losses = compute_loss(recipe, grid, boxes, kinds, seen=seen)
        total = losses.total
        if self.teacher is not None and not isinstance(recipe.spec, EResFDSpec):
            with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # it may be of floats
                teachers = self.teacher(images)
            total = total + distillation_loss(grid, teachers, recipe.spec.head, recipe.spec.stride, recipe.distillation)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        limit = recipe.optimizer.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        self.optimizer.step()
        self.step += 1
        if self.average:
            self._average()
        parts = {"box": losses.box, "objectness": losses.objectness, "mean_iou": losses.mean_iou}
        return {"loss": total.detach(), **parts, "gradient_norm": norm}

    def _average(self) -> None:
        """Exponential moving average of the weights; short at first, so that the start is forgotten."""
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        state = self.network.state_dict()
        floats = [name for name, tensor in state.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in floats], [state[name] for name in floats], 1 - decay)

    def batches(self, first: int, last: int, *, shared: bool = True) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Batches of the steps `first` to `last - 1` on the device: this process's share, or if not `shared` the same for every process."""
        rank, world = (self.rank, self.world) if shared else (0, 1)
        stream = batches(
            self.crops, batch=self.recipe.batch, first_step=first, last_step=last, workers=self.run.workers, rank=rank, world=world
        )
        for images, boxes, kinds in stream:
            pixels = self.renderer(images) if self.renderer else images.to(self.device, non_blocking=True)
            yield pixels, boxes.to(self.device, non_blocking=True), kinds.to(self.device, non_blocking=True)

    def finished(self) -> Network | EResFD:
        """The network so far, to ship: averaged weights, batch norms estimated for them unless they are frozen."""
        network = make_network(self.recipe)
        network.load_state_dict(self.average or self.network.state_dict())
        if self.recipe.batch_norm == "frozen":
            return network.cpu().eval()
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Batches past the run's end: never trained on, and the same in every process, so that all return the same network.
        first, count = self.recipe.steps * self.world, min(REESTIMATION_BATCHES, self.step)
        reestimate_batch_norm(network, (images for images, _, _ in self.batches(first, first + count, shared=False)))
        return network.cpu().eval()


def train(
    recipe: Recipe | str | Path,
    *,
    data: str | Path,
    out: str | Path,
    resume: bool = False,
    stop_at: int | None = None,
    progress: bool = True,
    cache: str | Path | None = None,
    device: str = "auto",
    workers: int = 1,
    compile: bool = False,
    precision: Literal["float32", "mixed"] = "float32",
) -> Network | EResFD:
    """Train a network.

    Args:
        recipe: a recipe, its path, or the name of one that ships.
        data: folder of a data set in WIDER FACE's layout.
        out: folder for `checkpoint.pt` (to resume), `network.pt` (the result), `metrics.csv` and TensorBoard events.
        resume: go on from `out/checkpoint.pt`; on a CPU the result is the same, bit for bit, as if nothing had happened.
        stop_at: stop after this step of the recipe's; the result is the network so far, and `resume` goes on. None: after the last.
        progress: show a bar.
        cache, device, workers, compile, precision: see `Run`.

    Returns:
        The trained network (averaged weights), in evaluation mode.

    Raises:
        SpecError, DataError, CheckpointError: what is wrong and where. DupnetError: the loss is no longer a number.
    """
    if not isinstance(recipe, Recipe):
        recipe = recipes.load(recipe)
    run = Run(Path(data), Path(out), Path(cache) if cache else None, device, workers, compile, precision)
    path = run.checkpoint
    if path.exists() and not resume:
        raise CheckpointError(f"{path} exists: resume that run, or choose another folder")
    if (run.out / "network.pt").exists() and not resume:
        raise CheckpointError(f"{run.out / 'network.pt'} exists: that run is finished; choose another folder")
    if resume and not path.exists():
        raise CheckpointError(f"{path} does not exist: there is nothing to resume")
    trainer = Trainer(recipe, run, resuming=resume)
    run.out.mkdir(parents=True, exist_ok=True)
    if resume:
        trainer.resume()
    last = recipe.steps if stop_at is None else stop_at
    if not max(1, trainer.step) <= last <= recipe.steps:
        raise SpecError(f"stop_at: the run is at step {trainer.step} of {recipe.steps}, so it cannot stop at {stop_at}")
    with ExitStack() as stack:
        metrics = Metrics(run.out, trainer.network, trainer.step, stack) if trainer.rank == 0 else None
        bar = stack.enter_context(
            tqdm(total=recipe.steps * recipe.batch * trainer.world, initial=trainer.step * recipe.batch * trainer.world, unit="img",
                 disable=not progress or trainer.rank > 0)
        )  # fmt: skip
        for batch in trainer.batches(trainer.step, last):
            scalars = trainer.take_step(*batch)
            images = recipe.batch * trainer.world
            bar.update(images)
            if metrics:
                metrics.add(scalars, images)
                if trainer.step % 50 == 0 or trainer.step == last:
                    row = metrics.write(trainer.step, learning_rate(recipe, trainer.step - 1), trainer.step * images)
                    if not math.isfinite(row["loss"] + row["gradient_norm"]):
                        raise DupnetError(f"the loss became {row['loss']} near step {trainer.step}; the last good checkpoint is {path}")
                    bar.set_postfix(loss=f"{row['loss']:.3f}", iou=f"{row['mean_iou']:.3f}", refresh=False)
                if trainer.step % recipe.checkpoint_steps == 0 or trainer.step == last:
                    if not bool(torch.isfinite(scalars["loss"] + scalars["gradient_norm"])):
                        raise DupnetError(f"loss or gradient of step {trainer.step} is not a number; the last good checkpoint is {path}")
                    trainer.save()
    network = trainer.finished()
    if trainer.rank == 0:
        checkpoint.save(network, run.out / "network.pt")
    if trainer.world > 1:
        dist.destroy_process_group()
    return network


def measure(recipe: Recipe, run: Run, *, steps: int = 20) -> dict[str, float]:
    """How busy loading keeps the device: images/s of the bare network (one batch again and again) and of the whole loop."""
    trainer = Trainer(replace(recipe, steps=10**9), run)
    stream = trainer.batches(0, 2 * steps + 8)
    batch = next(stream)
    rates = {}
    for name, feed in (("bare", [batch] * (steps + 4)), ("loop", stream)):
        times = []
        for item in feed:
            trainer.take_step(*item)
            if trainer.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())
        used = times[4:] if name == "bare" else times[-steps - 1 :]
        rates[name] = (len(used) - 1) * recipe.batch * trainer.world / (used[-1] - used[0])
    return rates
