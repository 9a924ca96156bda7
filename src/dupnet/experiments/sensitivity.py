"""What quantizing costs, layer by layer: section 4.2 of the paper as a measurement.

All points start from one float network with the same layers (no duplication, as in the paper), quantize some layers and go on training
for the same number of steps on the same crops. The point without quantized layers goes on training, too, so that more training is not
mistaken for a gain. Measured is on training photos that no point trains on (or on val, on request).
Before: `dupnet.experiments.runs`. After: `dupnet.search`, which reads `cost_of_layer`.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from dupnet import cost, zoo
from dupnet.data import wider
from dupnet.errors import CheckpointError, DupnetError, SpecError
from dupnet.evaluation import wider as wider_protocol
from dupnet.experiments import runs
from dupnet.files import key_of, write_json, write_text
from dupnet.nn import HWGQ, PACT, Network, NetworkOptions, checkpoint
from dupnet.spec import FULL, ModelSpec, with_layers
from dupnet.training import loop
from dupnet.training import recipe as recipes
from dupnet.training.recipe import Recipe
from dupnet.training.targets import Crops, batches
from dupnet.training.teacher import taught_photos

HELD_OUT = 20
"""One training photo in so many is never trained on; the points are measured on them."""

LOSS_BATCHES = 40
"""Batches of crops of held-out photos over which the loss is the mean; the same ones for every point."""

FACE_PX = 12.0
"""Held-out faces are to be found if they are at least so tall in the network's view."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Attributes:
        spec: the layers and the bits that they are quantized to. Copies are dropped; a layer in floats counts as a2w1 (the first: a8w1).
        recipe: its steps are those of a point; everything but the model comes from it.
        start_steps: of the float network that all points start from, if none is given.
        start: a checkpoint of such a network, or None.
        progressive: also quantize group after group, in the paper's order.
        alone: quantize each layer alone.
        on: where the detection rate is measured; `"held-out"` training photos, or `"val"`.
        size_px: long side of the photos there.
        photos: at most so many held-out photos.
    """

    spec: ModelSpec
    recipe: Recipe
    start_steps: int
    start: Path | None = None
    progressive: bool = False
    alone: bool = True
    on: Literal["held-out", "val"] = "held-out"
    size_px: int = 256
    photos: int = 300


@dataclass(frozen=True)
class Point:
    """One measurement: the layers that are quantized, their name, and the spec."""

    name: str
    layers: tuple[int, ...]
    spec: ModelSpec


def load_model(model: str) -> tuple[ModelSpec, Path | None]:
    """What `dupnet sensitivity` is given: a spec, or the checkpoint of a float network to start from.

    Raises:
        CheckpointError: the checkpoint's network is quantized.
        SpecError: no such spec.
    """
    if not zoo.is_checkpoint(model):
        return zoo.get(model), None
    spec = checkpoint.load(model).spec
    if any(layer.weight_bits != FULL or layer.input_bits != FULL for layer in spec.layers):
        raise CheckpointError(f"{model}: the measurement starts from a network in floats, and this one is quantized; give its spec instead")
    return spec, Path(model)


def quantized(spec: ModelSpec, layers: Sequence[int]) -> ModelSpec:
    """The spec without copies, quantized in the given layers (1 is the first) and in floats elsewhere."""
    changes: dict[int, dict[str, int]] = {}
    for number, layer in enumerate(spec.layers, 1):
        change = {"weight_copies": 1, "map_copies": 1, "weight_bits": FULL, "input_bits": FULL}
        if number in layers:
            bits = layer.input_bits if layer.input_bits != FULL else 8 if number == 1 else 2
            change |= {"weight_bits": layer.weight_bits if layer.weight_bits != FULL else 1, "input_bits": bits}
        changes[number] = change
    return with_layers(spec, "sensitivity", changes)


def progressive_groups(count: int) -> list[tuple[int, ...]]:
    """The paper's order (Table 3) for a network of `count` layers: the upper ones, then 2 and 3, then the first, at last the last."""
    groups = [range(4, count), range(2, count), range(1, count), range(1, count + 1)]
    return list(dict.fromkeys(tuple(group) for group in groups if group))


def points(settings: Settings) -> list[Point]:
    """Every measurement, the float one first, each set of layers once."""
    count = len(settings.spec.layers)
    sets: dict[tuple[int, ...], str] = {(): "float"}
    if settings.alone:
        sets |= {(number,): f"conv{number}" for number in range(1, count + 1)}
    if settings.progressive:
        for group in progressive_groups(count):
            sets.setdefault(group, f"conv{group[0]}-{group[-1]}")
    return [Point(name, layers, quantized(settings.spec, layers)) for layers, name in sets.items()]


@torch.no_grad()
def started(start: Network, spec: ModelSpec, options: NetworkOptions) -> Network:
    """A network of `spec` with the weights of a float one of the same shape.

    Batch norms follow the new scale of their accumulators by themselves. The grid has none: its scale takes up what one unit of the
    integer weights and one level stand for.
    """
    network = Network(spec, options)
    state, own = start.state_dict(), network.state_dict()
    network.load_state_dict({name: state[name] if name in state and state[name].shape == own[name].shape else own[name] for name in own})
    if spec.layers[-1].weight_bits != FULL:
        floats, integers = start.grid.conv.weight, network.grid.conv.integer_weights()
        unit = (floats * integers).sum(dim=(1, 2, 3)) / integers.square().sum(dim=(1, 2, 3))  # of least squares; mean|w| for signs
        below = network.stages[-1].activation if len(network.stages) else None
        step = below(torch.zeros(1)).step if isinstance(below, (HWGQ, PACT)) else 1.0
        network.grid.scale.copy_(start.grid.scale * start.grid.unit * unit * step / network.grid.unit)
    return network


def measure(settings: Settings, run: loop.Run, *, say: Callable[[str], None], progress: bool) -> dict[str, Any]:
    """Do what is not done, and sum up.

    Args:
        settings: what.
        run: data set, device, ...; its `out` is the folder of the whole measurement. Finished points there are not repeated.
        say: takes a line about what happens.
        progress: show bars.

    Returns:
        What `sensitivity.json` holds; it is written there, with `sensitivity.csv` beside it.

    Raises:
        SpecError: the folder belongs to other settings. DataError: what will be measured on is not there.
        DupnetError: another process is at work in the folder.
    """
    out = run.out.resolve()
    with runs.claimed(out) as mine:
        if not mine:
            raise DupnetError(f"{out}: another process is at work on it")
        return _measure(settings, run, out, say, progress)


def _measure(settings: Settings, run: loop.Run, out: Path, say: Callable[[str], None], progress: bool) -> dict[str, Any]:
    if settings.on == "val":
        wider_protocol.data_set(run.data)
    _check_settings(settings, run, out)
    todo = points(settings)
    pending = [point for point in todo if not (out / point.name / "scores.json").exists()]
    if pending:
        _estimate(settings, run, pending, out, say)
    start = _start(settings, run, out, say, progress) if pending else None
    begun = time.monotonic()
    for number, point in enumerate(pending, 1):
        assert start is not None
        say(f"[{number}/{len(pending)}] {point.name}")
        scores = _measure_point(settings, run, point, start, out, progress)
        left = (time.monotonic() - begun) / number * (len(pending) - number)
        numbers = f"loss {scores['loss']:.4f}, AP {runs.shown(scores['ap'])}, detection rate {runs.shown(scores['dr'])}"
        say(f"    {numbers}; about {runs.duration(left)} left")
    return _summary(settings, run, todo, out)


def _recipe(settings: Settings, spec: ModelSpec, steps: int, start_from: str) -> Recipe:
    return replace(settings.recipe, spec=spec, steps=steps, held_out=HELD_OUT, start_from=start_from)


def _check_settings(settings: Settings, run: loop.Run, out: Path) -> None:
    """Points of other settings do not compare, so a folder belongs to one."""
    content = recipes.to_dict(
        _recipe(settings, quantized(settings.spec, range(1, len(settings.spec.layers) + 1)), settings.recipe.steps, "")
    )
    ours = json.loads(json.dumps({"recipe": content, "data": wider.annotations_key(run.data, "train"), "size_px": settings.size_px}))
    ours |= {
        "start": key_of(settings.start) if settings.start else settings.start_steps,
        "on": settings.on,
        "photos": settings.photos,
    }
    path = out / "settings.json"
    theirs = runs.measured(path, lambda: ours)
    if theirs != ours and not any(out.glob("*/*")):  # nothing was begun with those
        write_json(path, ours)
    elif theirs != ours:
        changed = sorted(key for key in ours if ours[key] != theirs.get(key))
        raise SpecError(f"{out}: holds points of other settings ({', '.join(changed)} differ); choose another --out, or delete it")


def _start(settings: Settings, run: loop.Run, out: Path, say: Callable[[str], None], progress: bool) -> Network:
    """The float network that every point starts from."""
    if settings.start:
        return checkpoint.load(settings.start)
    folder = out / "start"
    if not runs.is_trained(folder):
        say(f"training the float network that all points start from: {settings.start_steps} steps")
        recipe = _recipe(settings, quantized(settings.spec, ()), settings.start_steps, "")
        runs.train(recipe, replace(run, out=folder), progress=progress)
    return checkpoint.load(folder / "network.pt")


def _measure_point(settings: Settings, run: loop.Run, point: Point, start: Network, out: Path, progress: bool) -> runs.Measured:
    folder = out / point.name
    recipe = _recipe(settings, point.spec, settings.recipe.steps, str(folder / "start.pt"))
    if not runs.is_trained(folder):
        if not (folder / "start.pt").exists():
            checkpoint.save(started(start, point.spec, recipe.network), folder / "start.pt")
        runs.train(recipe, replace(run, out=folder), progress=progress)
    network = checkpoint.load(folder / "network.pt")

    def scores() -> runs.Measured:
        found = {"loss": _held_out_loss(network, recipe, run)}
        if settings.on == "val":
            on_val = runs.wider_scores(network, run.data, settings.size_px, progress=progress)
            return found | {"ap": on_val["ap_medium"], "dr": on_val["dr"], "photos": on_val["photos"]}
        return found | runs.held_out_scores(
            network, recipe, run.data, size=settings.size_px, photos=settings.photos, face_px=FACE_PX, progress=progress
        )

    return runs.measured(folder / "scores.json", scores)


def _held_out_loss(network: Network, recipe: Recipe, run: loop.Run) -> float:
    photos = taught_photos(run.data, recipe.teacher, run.cache)
    crops = Crops(photos, recipe.augmentation, recipe.seed, recipe.weights, held_out=-HELD_OUT)
    stream = batches(crops, batch=recipe.batch, first_step=0, last_step=LOSS_BATCHES, workers=run.workers)
    return runs.loss_of(network, recipe, stream)


def _estimate(settings: Settings, run: loop.Run, pending: Sequence[Point], out: Path, say: Callable[[str], None]) -> None:
    """Say how long it will take, from measured steps of the float network and of the most quantized point."""
    device = run.torch_device()
    steps = len(pending) * settings.recipe.steps
    seconds = steps * runs.seconds_per_step(_recipe(settings, pending[-1].spec, 1, ""), device)
    if not settings.start and not runs.is_trained(out / "start"):
        seconds += settings.start_steps * runs.seconds_per_step(_recipe(settings, quantized(settings.spec, ()), 1, ""), device)
    rate = settings.recipe.batch * steps / max(seconds, 1e-9)
    say(
        f"{len(pending)} points to measure; about {runs.duration(seconds)} of training at {rate:.0f} crops/s (3 measured steps, without "
        "compiling or loading), and the measuring of photos besides; a killed measurement goes on where it was"
    )


def _summary(settings: Settings, run: loop.Run, todo: Sequence[Point], out: Path) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for point in todo:
        scores = json.loads((out / point.name / "scores.json").read_text(encoding="utf-8"))
        total = cost.count(point.spec).total
        rows.append(
            {"name": point.name, "layers": list(point.layers), **scores}
            | {"weights_kb": round(total.weight_bytes / 1024, 1), "paper_mflops": round(total.paper_mflops, 1)}
        )
    base = rows[0]
    for row in rows:
        row |= {f"{key}_change": None if None in (row[key], base[key]) else row[key] - base[key] for key in ("loss", "ap", "dr")}
    alone = {str(row["layers"][0]): row["loss_change"] for row in rows if len(row["layers"]) == 1}
    content = {
        "model": settings.spec.name,
        "measured_on": f"{base['photos']} photos of val"
        if settings.on == "val"
        else f"{base['photos']} training photos that no point was trained on (one in {HELD_OUT})",
        "loss_on": f"{LOSS_BATCHES * settings.recipe.batch} crops of those training photos",
        "size_px": settings.size_px,
        "steps": settings.recipe.steps,
        "cost": "loss of the point minus loss of the float network after the same steps",
        "cost_of_layer": alone,
        "points": rows,
        "machine": runs.machine(run),
        "recipe": {key: value for key, value in asdict(settings.recipe).items() if key not in ("spec", "weights")},
    }
    write_json(out / "sensitivity.json", content)
    write_text(out / "sensitivity.csv", to_csv(rows))
    return content


def to_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The points as CSV, the layers of a point in one field."""
    file = io.StringIO()
    columns = ["name", "layers", "weights_kb", "paper_mflops", "loss", "ap", "dr", "loss_change", "ap_change", "dr_change"]
    writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"layers": " ".join(map(str, row["layers"]))} for row in rows)
    return file.getvalue()


def plot(content: dict[str, Any], path: Path) -> None:
    """Bars of what each point costs, in loss and in AP, to a PNG or SVG file.

    Args:
        content: of `sensitivity.json`.
        path: of the picture; the folders above it are made.

    Raises:
        DataError: another suffix, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    from dupnet.evaluation import plots

    rows = content["points"][1:]
    kinds = ("one layer alone", plots.SERIES[0]), ("several layers, as in Table 3", plots.SERIES[1])
    with plots.house_style():
        figure = Figure(figsize=(max(2 + 0.75 * len(rows), 6), 6), layout="constrained")
        axes = figure.subplots(2, 1, sharex=True)
        for axis, key, label, form in zip(axes, ("loss_change", "ap_change"), ("loss, up is worse", "AP, down is worse"), ("+.2f", "+.3f")):
            for several, (kind, colour) in enumerate(kinds):
                bars = {n: row[key] for n, row in enumerate(rows) if (len(row["layers"]) > 1) == bool(several) and row[key] is not None}
                if bars:
                    drawn = axis.bar(list(bars), list(bars.values()), 0.7, color=colour, label=kind)
                    axis.bar_label(drawn, [f"{value:{form}}" for value in bars.values()], padding=2, fontsize=8, color=plots.MUTED)
            axis.axhline(0, color=plots.MUTED, linewidth=0.8)
            axis.set_ylabel(f"change of {label}")
            axis.grid(False, axis="x")
            axis.margins(y=0.15)  # room for the numbers
            low, high = axis.get_ylim()
            axis.set_ylim(min(low, -0.01), max(high, 0.01))  # or changes that mean nothing would look large
        axes[1].set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=45, ha="right", rotation_mode="anchor")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        how = f"{content['steps']} steps a point, against floats after as many; {content['size_px']} pixels"
        figure.suptitle(f"{content['model']}: what quantizing layers costs\n{how}", x=0.01, ha="left", fontsize=11)
        path.parent.mkdir(parents=True, exist_ok=True)
        plots.write(figure, path)
