"""One training run as a folder, and what was measured on its network as files beside it.

A run's folder is named by what decides its result (layers, recipe, seed, training photos), so rows of several tables that are one run
are trained once, and a killed experiment goes on where it was: with the next run, or in the middle of one.
Before: `dupnet.training.loop`. After: `dupnet.experiments.sensitivity`, `.ablation` and `.reproduction`.
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dupnet import bench, image, packed
from dupnet.conversion import convert
from dupnet.data import fddb, wider
from dupnet.detections import Detections
from dupnet.errors import DataError
from dupnet.evaluation import fddb as fddb_protocol
from dupnet.evaluation import wider as wider_protocol
from dupnet.files import keys_of, without_nan, write_json
from dupnet.nn import Network
from dupnet.nn.detection import detect
from dupnet.nn.eresfd import EResFD, EResFDDetector
from dupnet.runtime import Detector
from dupnet.spec import ModelSpec
from dupnet.training import loop
from dupnet.training import recipe as recipes
from dupnet.training.detectors import compute_loss, make_network
from dupnet.training.recipe import Recipe
from dupnet.training.teacher import located

LOWEST_SCORE = 0.02
"""Boxes below this score are not looked at when a network is measured."""

CLAIM_SECONDS = 15.0
"""So long a run waits for another process to let go of its folder."""

Measured = dict[str, Any]


def keyed(recipe: Recipe, data: Path) -> tuple[str, Recipe]:
    """The name of the run's folder, and the recipe with its spec called so.

    Two rows with the same layers get one name: what a spec is called, says about itself, or recommends does not count, nor how often
    checkpoints are written. Options at their defaults do not count either, so a run keeps its name when options are added to recipes.
    Of the networks that it starts from or learns from, and of a teacher's boxes, the content counts.
    """
    teacher = located(recipe.teacher, data)
    files = keys_of(start_from=recipe.start_from, distillation=recipe.distillation.network, teacher=teacher)
    content = {"data": wider.annotations_key(data, "train")} | ({"files": files} if files else {})
    if not isinstance(recipe.spec, ModelSpec):
        return _hash(_changes(replace(recipe, checkpoint_steps=500)) | content), recipe
    spec = replace(recipe.spec, name="run", about="", default_size_px=416, default_score=0.5)
    key = _hash(_changes(replace(recipe, spec=spec, checkpoint_steps=500)) | content)
    return key, replace(recipe, spec=replace(spec, name=f"run-{key}"))


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _changes(value: Any) -> Any:
    """Plain data of a dataclass without the fields that have their defaults; of anything else, the same value."""
    if isinstance(value, (list, tuple)):
        return [_changes(item) for item in value]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    table = {}
    for field in fields(value):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if (own := getattr(value, field.name)) != default:
            table[field.name] = _changes(own)
    return table


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process alone works in `folder`. A killed process's claim ends with it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "claim", "w") as file:
        until = time.monotonic() + CLAIM_SECONDS
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except (BlockingIOError, PermissionError):  # taken; other errors, such as no locks on this file system, are errors
                if time.monotonic() > until:
                    yield False
                    return
                time.sleep(0.5)
        yield True


def is_trained(folder: Path) -> bool:
    """Whether the run of this folder is finished."""
    return (folder / "run.json").exists()


def train(recipe: Recipe, run: loop.Run, *, progress: bool = False) -> None:
    """Finish the run: from its start, from its checkpoint, or not at all if it is finished. Leaves `network.pt` and `run.json`."""
    folder = run.out
    if is_trained(folder):
        return
    for part in folder.glob("*.part"):  # of a process that was killed while writing
        part.unlink()
    if not (folder / "network.pt").exists():
        torch.compiler.reset()  # a process compiles many networks of one class; beyond eight, torch would stop compiling
        how = {"cache": run.cache, "device": run.device, "workers": run.workers, "compile": run.compile, "precision": run.precision}
        resume = run.checkpoint.exists()
        loop.train(recipe, data=run.data, out=folder, resume=resume, progress=progress, **how)  # type: ignore[arg-type]
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise DataError(f"{folder / 'metrics.csv'}: holds no rows, so nobody knows what this run took; delete {folder} to train it anew")
    write_json(
        folder / "run.json",
        {
            "recipe": recipes.to_dict(recipe),
            "seconds": round(float(rows[-1]["seconds"]), 1),  # a resumed run's clock goes on from the row before
            "images": int(rows[-1]["images"]),
            "last_loss": float(rows[-1]["loss"]),
            "machine": machine(run),
        },
    )
    run.checkpoint.unlink(missing_ok=True)


def machine(run: loop.Run) -> dict[str, Any]:
    """What a run was executed on, for the reader of its result."""
    device = run.torch_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else bench.processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "compile": run.compile,
        "precision": run.precision,
    }


def measured(path: Path, compute: Callable[[], Measured]) -> Measured:
    """The numbers in `path`, computed and written there first if there are none."""
    if not path.exists():
        write_json(path, compute())
    try:
        content: Measured = json.loads(path.read_text(encoding="utf-8"))
        return content
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}; delete it to measure again") from None


def detector(network: Network | EResFD, size: int) -> Callable[[NDArray[np.uint8]], Detections]:
    """A network as an evaluation wants it: every box of at least `LOWEST_SCORE`, the photo's long side scaled to `size`.

    Integer networks are converted and run by the C core, which finds the same boxes sooner.
    """
    if isinstance(network, EResFD):
        floats = EResFDDetector(network)
        return lambda photo: floats.detect(photo, size=size, score=LOWEST_SCORE)
    if not network.spec.is_integer:
        return lambda photo: detect(network, photo, size=size, score=LOWEST_SCORE)
    with tempfile.TemporaryDirectory() as folder:
        packed.save(convert(network), f"{folder}/network.dnet")
        core = Detector(f"{folder}/network.dnet")
    return lambda photo: core.detect(photo, size=size, score=LOWEST_SCORE)


@cache
def _val_key(data: Path) -> str:
    samples, difficulty, _ = wider_protocol.data_set(data)
    return _hash({"boxes": wider.annotations_key(data, "val"), "difficulty": difficulty, "photos": [sample.photo for sample in samples]})


@cache
def _fddb_key(root: Path) -> str:
    return _hash({photo.name: [photo.fold, photo.ellipses.tolist()] for photo in fddb.read(root)})


def wider_file(folder: Path, data: Path, size: int) -> Path:
    """Where a run's folder keeps its `wider_scores`: by the photos' size, which of val's photos are there, their annotations, and
    what counts as easy, medium, hard."""
    return folder / f"wider-{size}-{_val_key(data)}.json"


def fddb_file(folder: Path, root: Path, size: int) -> Path:
    """The same for its `fddb_scores`."""
    return folder / f"fddb-{size}-{_fddb_key(root)}.json"


def wider_scores(network: Network | EResFD, data: Path, size: int, *, progress: bool = False) -> Measured:
    """Scores on the val photos by WIDER FACE's rules; what cannot be measured is None."""
    return without_nan(asdict(wider_protocol.evaluate(detector(network, size), data, progress=progress)) | {"size": size})


def fddb_scores(network: Network | EResFD, root: Path, size: int, *, progress: bool = False) -> Measured:
    """The paper's measure: the part of FDDB's faces found at 284 false positives, by the discrete and by the continuous score."""
    photos = fddb.read(root)
    found = fddb_protocol.run(detector(network, size), photos, fddb.photo_folder(root, photos), progress=progress)
    scores = fddb_protocol.score(photos, fddb.sizes(root, photos), found)
    return {"fddb": scores.discrete_rate(), "fddb_continuous": scores.continuous_rate(), "fddb_photos": scores.photos}


def held_out_scores(
    network: Network, recipe: Recipe, data: Path, *, size: int, photos: int, face_px: float, progress: bool = False
) -> Measured:
    """Scores on training photos that the recipe holds out: the faces of at least `face_px` pixels at that size are to be found."""
    samples, images = wider.split(data, "train")
    shown = [sample for sample in samples[:: recipe.held_out] if len(sample.boxes)]  # boxes elsewhere do not count
    chosen = shown[:: max(1, -(-len(shown) // photos))]
    difficulty: dict[str, dict[str, list[int]]] = {}
    for sample in chosen:
        height, width = image.read(images / sample.photo).shape[:2]
        tall = (sample.boxes[:, 3] - sample.boxes[:, 1]) * size / max(height, width) >= face_px
        found = [int(n) for n in np.flatnonzero(tall & ~sample.ignore)]
        difficulty[sample.photo] = dict.fromkeys(wider_protocol.LEVELS, found)
    boxes = wider_protocol.run(detector(network, size), chosen, images, progress=progress)
    scores = wider_protocol.score(chosen, difficulty, boxes)
    return without_nan({"ap": scores.ap_medium, "dr": scores.dr, "photos": len(chosen), "size": size})


def shown(value: float | None, form: str = ".3f") -> str:
    """A score for people, `-` where there is none."""
    return "-" if value is None else f"{value:{form}}"


@torch.no_grad()
def loss_of(network: Network, recipe: Recipe, crops: Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> float:
    """Mean training loss of a network in evaluation mode over given batches."""
    after = 1 << 60  # photos seen: long after whatever a loss does at the start of a run only
    losses = [float(compute_loss(recipe, network(images), boxes, kinds, seen=after).total) for images, boxes, kinds in crops]
    return sum(losses) / len(losses)


def seconds_per_step(recipe: Recipe, device: torch.device, *, steps: int = 3) -> float:
    """Measured time of a training step of the bare network on random crops, not compiled. On a CPU a few crops stand for a batch."""
    batch = recipe.batch if device.type == "cuda" else min(recipe.batch, 4)
    side = recipe.augmentation.crop_px
    network = make_network(recipe).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.5]], device=device).mul(side).expand(batch, 1, 4)
    kinds = torch.ones(batch, 1, dtype=torch.uint8, device=device)
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        losses = compute_loss(recipe, network(images), boxes, kinds, seen=0)
        losses.total.backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:]) * recipe.batch / batch


def duration(seconds: float) -> str:
    """Seconds in words for people: `45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
