"""Runs: they learn, they survive being killed, they tell what is wrong."""

from __future__ import annotations

import csv
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dupnet.data import wider
from dupnet.data.augmentation import Augmentation
from dupnet.data.photos import Photos
from dupnet.errors import CheckpointError, DataError, DupnetError, SpecError
from dupnet.nn import Network, checkpoint
from dupnet.nn.eresfd import EResFD
from dupnet.spec import EResFDSpec, HeadSpec, LayerSpec, ModelSpec
from dupnet.training import recipe as recipes
from dupnet.training.loop import Run, Trainer, reestimate_batch_norm, train
from dupnet.training.metrics import Metrics, signs
from dupnet.training.multibox import MultiboxOptions
from dupnet.training.recipe import Optimizer, Recipe, Schedule
from dupnet.training.targets import Crops, batches
from dupnet.training.teacher import Teacher

SPEC = ModelSpec(
    "small",
    (
        LayerSpec(8, pool=2, input_bits=8),
        LayerSpec(16, pool=2, map_copies=4),
        LayerSpec(16, pool=2),
        LayerSpec(32, pool=2),
        LayerSpec(32, weight_copies=4),
        LayerSpec(12),
    ),
    HeadSpec(((20.0, 20.0), (36.0, 36.0)), 2.0),
)
RECIPE = Recipe(
    SPEC,
    steps=12,
    batch=2,
    seed=5,
    checkpoint_steps=4,
    augmentation=Augmentation(crop_px=96),
    schedule=Schedule("cosine", warmup_steps=2),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(folder / "network.pt")["weights"]


def test_a_run_learns_discs(tiny_wider: Path, tmp_path: Path) -> None:
    long = replace(RECIPE, steps=150, batch=4, optimizer=Optimizer(learning_rate=5e-3), schedule=Schedule("cosine", warmup_steps=10))
    network = train(long, data=tiny_wider, out=tmp_path / "run", cache=tmp_path / "cache", progress=False, workers=0)
    rows = list(csv.DictReader(open(tmp_path / "run" / "metrics.csv")))
    assert [int(row["step"]) for row in rows] == [50, 100, 150]
    assert float(rows[-1]["loss"]) < 0.75 * float(rows[0]["loss"]) and float(rows[-1]["mean_iou"]) > 0.4
    assert not network.training and list((tmp_path / "run" / "tensorboard").iterdir())


def test_sign_flips_are_counted_between_rows(tmp_path: Path) -> None:
    network = Network(SPEC)
    layers = [stage.conv.weight for stage in network.stages] + [network.grid.conv.weight]
    with ExitStack() as stack:
        metrics = Metrics(tmp_path, network, 0, stack)
        for step in (1, 2):  # row 1: one layer's weights change sides; row 2: none does
            metrics.add({"loss": torch.tensor(1.0)}, images=2)
            with torch.no_grad():
                layers[2].mul_(-1.0 if step == 1 else 3.0)
            metrics.write(step, 1e-3, 2 * step)
    flips = [float(row["sign_flips"]) for row in csv.DictReader(open(tmp_path / "metrics.csv"))]
    assert flips == [pytest.approx(layers[2].numel() / sum(w.numel() for w in layers), rel=1e-3), 0.0]


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from dupnet.training import recipe as recipes
from dupnet.training.loop import Run, Trainer, reestimate_batch_norm, train
data, out, resume, precision = sys.argv[1:]
train(Path(out).parent / "recipe.toml", data=data, out=out, resume=resume == "resume", progress=False, workers=1, precision=precision)
"""


def write_recipe(path: Path) -> None:
    from dupnet.spec import to_toml

    (path.parent / "small.toml").write_text(to_toml(SPEC))
    path.write_text(
        f'spec = "{path.parent / "small.toml"}"\nsteps = 60\nbatch = 2\nseed = 5\ncheckpoint_steps = 7\n'
        "[augmentation]\ncrop_px = 96\n[schedule]\nwarmup_steps = 3\n"
    )


X86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="torch has 8-bit convolutions on x86 only")


@pytest.mark.parametrize("precision", ["float32", pytest.param("mixed", marks=X86)])
def test_killed_and_resumed_equals_never_killed(tiny_wider: Path, tmp_path: Path, precision: str) -> None:
    write_recipe(tmp_path / "recipe.toml")

    def start(out: str, resume: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SCRIPT, str(tiny_wider), str(tmp_path / out), resume, precision]
        return subprocess.Popen(command, start_new_session=True)

    assert start("whole", "new").wait(240) == 0
    victim = start("killed", "new")
    saved = tmp_path / "killed" / "checkpoint.pt"
    until = time.time() + 120
    while not saved.exists() and victim.poll() is None and time.time() < until:
        time.sleep(0.02)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    stopped_at = checkpoint.read(saved)["step"]
    assert 0 < stopped_at < 60, "the run was to be killed in the middle"
    assert start("killed", "resume").wait(240) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    steps = [[row["step"] for row in csv.DictReader(open(tmp_path / run / "metrics.csv"))] for run in ("whole", "killed")]
    assert steps[0] == steps[1]


def test_crops_depend_on_seed_and_index_alone(tiny_wider: Path, tmp_path: Path) -> None:
    samples, images = wider.split(tiny_wider, "train")
    how = Augmentation(crop_px=96)
    decoded = Crops(Photos(samples, images), how, 3)
    cached = Crops(Photos(samples, images, tmp_path / "cache"), how, 3)
    for index in (0, 7, 123456):
        assert all(np.array_equal(a, b) for a, b in zip(decoded[index], cached[index]))
    assert not np.array_equal(decoded[0][0], decoded[1][0])
    assert not np.array_equal(decoded[0][0], Crops(Photos(samples, images), how, 4)[0][0])
    late = next(batches(decoded, batch=2, first_step=3, last_step=4, workers=0))
    whole = list(batches(decoded, batch=2, first_step=0, last_step=4, workers=0))
    assert all(torch.equal(a, b) for a, b in zip(late, whole[3]))
    first, second = (next(batches(decoded, batch=1, first_step=3, last_step=4, workers=0, rank=r, world=2)) for r in (0, 1))
    assert torch.equal(torch.cat([first[0], second[0]]), whole[3][0])


@pytest.mark.parametrize("how", [{"face_px": (40, 60)}, {"face_px": (40, 60), "mosaic": 0.0}, {"crop_px": 98, "mosaic": 0.0}])
def test_what_half_a_crop_could_not_show_is_no_mistake(tiny_wider: Path, how: dict) -> None:
    samples, images = wider.split(tiny_wider, "train")
    crops = Crops(Photos(samples, images), Augmentation(**{"crop_px": 96} | how), 3)
    assert {crops[index][0].shape for index in range(6)} == {(crops.how.crop_px, crops.how.crop_px, 3)}


def test_what_cannot_run_says_why(tiny_wider: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(RECIPE, data=tiny_wider, out=out, resume=True, progress=False, workers=0)
    train(RECIPE, data=tiny_wider, out=out, progress=False, workers=0)
    with pytest.raises(CheckpointError, match="resume that run, or choose another folder"):
        train(RECIPE, data=tiny_wider, out=out, progress=False, workers=0)
    with pytest.raises(CheckpointError, match="another recipe.*seed"):
        train(replace(RECIPE, seed=6), data=tiny_wider, out=out, resume=True, progress=False, workers=0)
    content = checkpoint.read(out / "checkpoint.pt")
    others = {
        "files": ({"teacher": "0" * 16}, "is another than the run began with"),
        "precision": ("mixed", "written in precision 'mixed', and this run is of 'float32'"),
        "data": ("0" * 16, "other photos or boxes"),
        "processes": (2, "written by 2 processes"),
    }
    for key, (value, message) in others.items():
        checkpoint.write(out / "checkpoint.pt", content | {key: value})
        with pytest.raises(CheckpointError, match=message):
            train(RECIPE, data=tiny_wider, out=out, resume=True, progress=False, workers=0)
    with pytest.raises(SpecError, match="start_from names none"):
        train(replace(RECIPE, batch_norm="frozen"), data=tiny_wider, out=tmp_path / "frozen", progress=False, workers=0)
    with pytest.raises(DataError, match="of 8, all that held_out = 2 leaves have the weight 0"):
        train(replace(RECIPE, held_out=2, weights={"0--Discs": 0.0}), data=tiny_wider, out=tmp_path / "none", progress=False, workers=0)
    (out / "checkpoint.pt").rename(tmp_path / "checkpoint.pt")
    with pytest.raises(CheckpointError, match="network.pt exists: that run is finished"):
        train(RECIPE, data=tiny_wider, out=out, progress=False, workers=0)
    (tmp_path / "checkpoint.pt").rename(out / "checkpoint.pt")
    (out / "checkpoint.pt").write_bytes((out / "checkpoint.pt").read_bytes()[:500])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        train(RECIPE, data=tiny_wider, out=out, resume=True, progress=False, workers=0)
    if not torch.cuda.is_available():
        with pytest.raises(SpecError, match="no CUDA device"):
            train(RECIPE, data=tiny_wider, out=tmp_path / "gpu", device="cuda", progress=False)
    with pytest.raises(SpecError, match="run: precision must be 'float32' or 'mixed', not 'bfloat16'"):
        train(RECIPE, data=tiny_wider, out=tmp_path / "half", precision="bfloat16", progress=False)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_photo_ends_the_run_with_its_name(tmp_path: Path, tiny_wider: Path, workers: int) -> None:
    shutil.copytree(tiny_wider, tmp_path / "data")
    (tmp_path / "data" / "WIDER_train" / "images" / "0--Discs" / "2.png").write_bytes(b"no picture")
    with pytest.raises(DataError) as caught:
        train(RECIPE, data=tmp_path / "data", out=tmp_path / "run", progress=False, workers=workers)
    assert "2.png: " in str(caught.value) and "\n" not in str(caught.value)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, tiny_wider: Path) -> None:
    wild = replace(RECIPE, steps=50, optimizer=Optimizer("sgd", learning_rate=1e30, clip_norm=0), schedule=Schedule(warmup_steps=1))
    with pytest.raises(DupnetError, match="is not a number; the last good checkpoint"):
        train(wild, data=tiny_wider, out=tmp_path / "run", progress=False, workers=0)


def test_fine_tuning_starts_from_given_weights(tiny_wider: Path, tmp_path: Path) -> None:
    train(RECIPE, data=tiny_wider, out=tmp_path / "a", progress=False, workers=0)
    start = str(tmp_path / "a" / "network.pt")
    still = replace(RECIPE, steps=1, start_from=start, optimizer=Optimizer(learning_rate=1e-12), ema=0.0)
    train(still, data=tiny_wider, out=tmp_path / "b", progress=False, workers=0)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a if name.endswith("conv.weight"))
    copies = replace(SPEC, layers=(replace(SPEC.layers[0], map_copies=4), *SPEC.layers[1:]))
    train(replace(still, spec=copies), data=tiny_wider, out=tmp_path / "copies", progress=False, workers=0)
    tiled = weights(tmp_path / "copies")
    assert torch.allclose(tiled["stages.0.conv.weight"], a["stages.0.conv.weight"].repeat(1, 4, 1, 1), atol=1e-6)
    other = replace(RECIPE, start_from=start, spec=recipes.load("first-light").spec)
    with pytest.raises(CheckpointError, match="do not fit"):
        train(other, data=tiny_wider, out=tmp_path / "c", progress=False, workers=0)


def test_a_run_goes_on_without_what_it_began_with(tiny_wider: Path, tmp_path: Path) -> None:
    """Resuming needs the checkpoint alone: not the weights at the start, and checkpoints may be written more or less often."""
    start = tmp_path / "start.pt"
    checkpoint.save(Network(SPEC), start)
    recipe = replace(RECIPE, start_from=str(start))
    whole = train(recipe, data=tiny_wider, out=tmp_path / "whole", progress=False, workers=0).state_dict()
    train(recipe, data=tiny_wider, out=tmp_path / "cut", stop_at=3, progress=False, workers=0)
    start.unlink()
    resumed = train(replace(RECIPE, checkpoint_steps=5), data=tiny_wider, out=tmp_path / "cut", resume=True, progress=False, workers=0)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.state_dict().items())
    assert checkpoint.read(tmp_path / "cut" / "checkpoint.pt")["recipe"]["start_from"] == str(start)


def test_a_run_stops_where_it_shall(tiny_wider: Path, tmp_path: Path) -> None:
    """With the weights and averages of that step of the whole run, not of a shorter one; there is nothing to do before or behind it."""
    stopped = train(RECIPE, data=tiny_wider, out=tmp_path / "run", stop_at=3, progress=False, workers=0)
    trainer = Trainer(RECIPE, Run(tiny_wider, tmp_path / "other", workers=0))
    for batch in trainer.batches(0, 3):
        trainer.take_step(*batch)
    assert checkpoint.read(tmp_path / "run" / "checkpoint.pt")["step"] == 3
    assert [row["step"] for row in csv.DictReader(open(tmp_path / "run" / "metrics.csv"))] == ["3"]
    assert all(torch.equal(tensor, trainer.average[name]) for name, tensor in stopped.named_parameters())
    for step in (0, 2, 13):
        with pytest.raises(SpecError, match=f"the run is at step 3 of 12, so it cannot stop at {step}"):
            train(RECIPE, data=tiny_wider, out=tmp_path / "run", stop_at=step, resume=True, progress=False, workers=0)


def test_a_run_goes_on_where_its_teacher_is_now(tiny_wider: Path, tmp_path: Path) -> None:
    """The content of the teacher's boxes decides, wherever they and the photos lie."""
    shutil.copytree(tiny_wider, tmp_path / "here")
    photos = [sample.photo for sample in wider.split(tmp_path / "here", "train")[0]]
    told = {"photos": photos, "start": np.zeros(len(photos) + 1, int), "boxes": np.zeros((0, 4)), "scores": np.zeros(0)}
    np.savez(tmp_path / "here" / "teacher.npz", **told)
    recipe = replace(RECIPE, teacher=Teacher("teacher.npz"))
    train(recipe, data=tmp_path / "here", out=tmp_path / "run", stop_at=3, progress=False, workers=0)
    (tmp_path / "here").rename(tmp_path / "there")
    train(recipe, data=tmp_path / "there", out=tmp_path / "run", stop_at=4, resume=True, progress=False, workers=0)
    np.savez(
        tmp_path / "there" / "teacher.npz",
        **told | {"start": np.r_[0, np.ones(len(photos), int)], "boxes": np.ones((1, 4)), "scores": [0.9]},
    )
    with pytest.raises(CheckpointError, match="the file behind teacher is another than the run began with"):
        train(recipe, data=tmp_path / "there", out=tmp_path / "run", resume=True, progress=False, workers=0)


def test_a_run_thaws_what_it_begins_with_once(tiny_wider: Path, tmp_path: Path) -> None:
    torch.manual_seed(8)
    start = Network(SPEC)
    checkpoint.save(start, tmp_path / "start.pt")
    recipe = replace(RECIPE, start_from=str(tmp_path / "start.pt"), thaw=0.2)
    trainer = Trainer(recipe, Run(tiny_wider, tmp_path / "run", workers=0))
    assert torch.equal(signs(trainer.network), signs(start))
    sizes = [stage.conv.weight.std(dim=(1, 2, 3)).mean().item() for stage in trainer.network.stages]
    assert sizes == [pytest.approx(0.2, rel=0.05)] * len(sizes)
    for batch in trainer.batches(0, 4):
        trainer.take_step(*batch)
    trainer.save()
    again = Trainer(recipe, Run(tiny_wider, tmp_path / "run", workers=0), resuming=True)
    again.resume()
    assert all(torch.equal(a, b) for a, b in zip(trainer.network.parameters(), again.network.parameters()))


def test_a_resumed_log_is_complete(tmp_path: Path) -> None:
    """In both forms every step once: what was written up to the checkpoint stays, what will be repeated goes."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    network = Network(SPEC)
    for first, steps in ((0, (50, 100, 150)), (100, (150, 200))):
        with ExitStack() as stack:
            metrics = Metrics(tmp_path, network, first, stack)
            for step in steps:
                metrics.add({"loss": torch.tensor(1.0)}, images=2)
                metrics.write(step, 1e-3, 2 * step)
    assert [row["step"] for row in csv.DictReader(open(tmp_path / "metrics.csv"))] == ["50", "100", "150", "200"]
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [50, 100, 150, 200]


def test_thresholds_are_learned_under_frozen_statistics(tiny_wider: Path, tmp_path: Path) -> None:
    before = train(RECIPE, data=tiny_wider, out=tmp_path / "a", progress=False, workers=0).state_dict()
    frozen = replace(RECIPE, start_from=str(tmp_path / "a" / "network.pt"), batch_norm="frozen")
    after = train(frozen, data=tiny_wider, out=tmp_path / "b", progress=False, workers=0).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if "running" in name)
    for kind in ("norm.weight", "norm.bias", "conv.weight"):
        assert all(not torch.equal(before[name], after[name]) for name in before if name.endswith(kind)), kind


def test_mixed_precision_is_for_quantized_layers(tiny_wider: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="quantized layers on a CPU"):
        train(replace(RECIPE, spec=EResFDSpec()), data=tiny_wider, out=tmp_path, progress=False, precision="mixed")


def test_reestimated_batch_norms_hold_the_mean_over_the_batches() -> None:
    torch.manual_seed(0)
    network = Network(SPEC)
    images = [torch.randint(0, 256, (4, 3, 32, 32)) for _ in range(3)]
    reestimate_batch_norm(network, iter(images))
    with torch.no_grad():
        pooled = [F.max_pool2d(network.stages[0].conv.accumulate(batch.float()), 2) for batch in images]
    expected = torch.stack([batch.mean((0, 2, 3)) for batch in pooled]).mean(0)
    torch.testing.assert_close(network.stages[0].norm.running_mean, expected, rtol=1e-4, atol=1e-2)
    assert network.stages[0].norm.momentum == 0.1


def test_the_average_follows_the_weights(tiny_wider: Path, tmp_path: Path) -> None:
    trainer = Trainer(replace(RECIPE, ema=0.5), Run(tiny_wider, tmp_path, device="cpu", workers=0))
    name = "stages.0.conv.weight"
    before = trainer.average[name].clone()
    trainer.take_step(*next(trainer.batches(0, 1)))
    decay = 2 / 11  # after one step: (1 + 1) / (10 + 1), below 0.5
    torch.testing.assert_close(trainer.average[name], decay * before + (1 - decay) * trainer.network.state_dict()[name])


def test_two_processes_train_one_network(tiny_wider: Path, tmp_path: Path) -> None:
    """Each sees other crops; what they learn is shared, so both end with the same weights."""
    write_recipe(tmp_path / "recipe.toml")
    script = SCRIPT.replace("train(Path", "network = train(Path") + (
        "import hashlib, os\n"
        "weights = b''.join(tensor.numpy().tobytes() for tensor in network.state_dict().values())\n"
        "Path(f'{out}/{os.environ[\"RANK\"]}.txt').write_text(hashlib.sha256(weights).hexdigest())\n"
    )
    (tmp_path / "train.py").write_text(script)
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path / "train.py")]
    command += [str(tiny_wider), str(out), "new", "float32"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = list(csv.DictReader(open(out / "metrics.csv")))
    assert rows[-1]["step"] == "60" and rows[-1]["images"] == "240"
    assert (out / "0.txt").read_text() == (out / "1.txt").read_text()


def test_eresfd_trains_in_the_same_loop_and_resumes_bit_for_bit(tiny_wider: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, spec=EResFDSpec(8), multibox=MultiboxOptions(negatives="focal"))
    whole = train(recipe, data=tiny_wider, out=tmp_path / "whole", progress=False, workers=0)
    assert isinstance(whole, EResFD) and isinstance(checkpoint.load_any(tmp_path / "whole" / "network.pt"), EResFD)

    trainer = Trainer(recipe, Run(tiny_wider, tmp_path / "cut", workers=0))
    for batch in trainer.batches(0, 4):
        trainer.take_step(*batch)
    trainer.save()
    older = checkpoint.read(trainer.run.checkpoint)
    del older["recipe"]["batch_norm"]  # as a version of dupnet would write it that did not know this key
    checkpoint.write(trainer.run.checkpoint, older)
    train(recipe, data=tiny_wider, out=tmp_path / "cut", resume=True, progress=False, workers=0)
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "cut")[name]), name

    again = replace(recipe, start_from=str(tmp_path / "whole" / "network.pt"))
    started = Trainer(again, Run(tiny_wider, tmp_path / "again", workers=0)).network
    assert torch.equal(started.mixing, whole.mixing)
    frozen = train(replace(again, batch_norm="frozen"), data=tiny_wider, out=tmp_path / "frozen", progress=False, workers=0)
    before, after = whole.state_dict(), frozen.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not {name for name in moved if "running" in name}
    with pytest.raises(CheckpointError, match="an EResFD, a float detector"):
        checkpoint.load(tmp_path / "whole" / "network.pt")
    with pytest.raises(CheckpointError, match="do not fit"):
        Trainer(replace(again, spec=EResFDSpec(16)), Run(tiny_wider, tmp_path / "wide", workers=0))
