"""A training run as checked data: which model, how long, with which losses and crops. Comes from TOML, goes into checkpoints."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dupnet import checked, paper, zoo
from dupnet import spec as model_spec
from dupnet.data.augmentation import Augmentation
from dupnet.errors import SpecError
from dupnet.nn.network import NetworkOptions
from dupnet.spec import EResFDSpec, ModelSpec
from dupnet.training.distillation import Distillation
from dupnet.training.loss import LossOptions
from dupnet.training.multibox import MultiboxOptions
from dupnet.training.teacher import Teacher

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Optimizer:
    """Attributes:
    kind: `"adamw"` or `"sgd"`.
    learning_rate: at the top of the schedule.
    momentum: of SGD; AdamW uses (0.9, 0.999).
    weight_decay: on convolutions' weights only.
    bound_decay: the same on PACT's bounds, which its paper regularizes too.
    clip_norm: largest norm of the whole gradient; 0 for no limit.
    """

    kind: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 2e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    bound_decay: float = 0.0
    clip_norm: float = 10.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise SpecError(f"optimizer: learning_rate must be above 0, not {self.learning_rate}")
        if not 0 <= self.momentum < 1:
            raise SpecError(f"optimizer: momentum must be at least 0 and below 1, not {self.momentum}")
        checked.choices(self, where="optimizer")
        checked.not_negative(self, ("weight_decay", "bound_decay", "clip_norm"), where="optimizer")


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves: a linear warm-up, then `"cosine"` down to `final` times the top, or `"step"`, times `factor` at each of
    the milestones."""

    shape: Literal["cosine", "step"] = "cosine"
    warmup_steps: int = 300
    final: float = 0.005
    milestones: tuple[int, ...] = ()
    factor: float = 0.1

    def __post_init__(self) -> None:
        checked.choices(self, where="schedule")
        checked.not_negative(self, ("warmup_steps", "final", "factor"), where="schedule")


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        spec: what is trained; in TOML a name that `dupnet.zoo.get` knows, "eresfd", a path to a spec, or a table.
        steps: optimizer steps; `batch` crops each (per process).
        batch: crops of one process and step.
        seed: of initial weights and of every crop.
        ema: decay of the moving average of the weights, which is what is shipped; 0 for none.
        start_from: a checkpoint whose weights this run begins with, or ""; its maps may have fewer copies.
        thaw: standard deviation of the latent weights of signs, made normal in their order, when the run begins (`DuplicatedConv2d.thaw`);
            0: they are those of `start_from`, which few steps can turn after long training.
        weights: how often photos of a top folder are drawn, relative to 1.
        sizes_px: the crops of every ten steps are scaled to one of these sides, as Darknet does with `random = 1`; none: all are `crop_px`.
        held_out: of every so many photos of the list, the first is never trained on (`dupnet sensitivity` measures on them); 0 for none.
        checkpoint_steps: a checkpoint is written this often.
        teacher: another detector whose boxes complete or replace the labels.
        distillation: a network with the same head, whose grid on every crop is a target beside the labels.
        batch_norm: `"batch"`, or `"frozen"`: the statistics stay those of `start_from`, which other photos may have given. Then the
            thresholds of quantized layers are learned as they will be used, and nothing is estimated anew at the end.
        network, loss: of the detectors with a grid.
        multibox: EResFD's loss.
        augmentation, optimizer, schedule: see there.
    """

    spec: ModelSpec | EResFDSpec
    steps: int
    batch: int = 16
    seed: int = 0
    ema: float = 0.999
    start_from: str = ""
    thaw: float = 0.0
    checkpoint_steps: int = 500
    sizes_px: tuple[int, ...] = ()
    held_out: int = 0
    weights: dict[str, float] = field(default_factory=dict)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: LossOptions = field(default_factory=LossOptions)
    multibox: MultiboxOptions = field(default_factory=MultiboxOptions)
    teacher: Teacher = field(default_factory=Teacher)
    distillation: Distillation = field(default_factory=Distillation)
    batch_norm: Literal["batch", "frozen"] = "batch"
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoint_steps"):
            if getattr(self, name) < 1:
                raise SpecError(f"recipe: {name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise SpecError(f"recipe: seed must be at least 0 and below 2^63, not {self.seed}")
        checked.choices(self, where="recipe")
        checked.not_negative(self, ("thaw",), where="recipe")
        if wrong_weights := [f"{folder} = {weight}" for folder, weight in self.weights.items() if weight < 0]:
            raise SpecError(f"recipe: weights must be at least 0, not {', '.join(wrong_weights)}")
        if self.held_out < 0 or self.held_out == 1:
            raise SpecError(f"recipe: held_out must be 0, or at least 2 so that photos are left to train on, not {self.held_out}")
        if not 0 <= self.ema < 1:
            raise SpecError(f"recipe: ema must be in [0, 1), not {self.ema}")
        if isinstance(self.spec, ModelSpec) and self.spec.head.classes:
            raise SpecError(f"recipe: {self.spec.name} is a classifier; recipes train detectors (examples/digits.py trains a classifier)")
        if self.distillation.network and isinstance(self.spec, EResFDSpec):
            raise SpecError("recipe: distillation is for detectors with a grid; EResFD can learn from a [teacher]'s boxes")
        if self.augmentation.crop_px % self.spec.stride:
            raise SpecError(f"recipe: crop_px must be a multiple of the model's stride {self.spec.stride}, not {self.augmentation.crop_px}")
        if wrong := [side for side in self.sizes_px if side < 1 or side % self.spec.stride]:
            raise SpecError(f"recipe: sizes_px must be multiples of the model's stride {self.spec.stride}, not {wrong[0]}")


def names() -> list[str]:
    """Names of the recipes that ship."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def load(recipe: str | Path) -> Recipe:
    """Read a recipe.

    Args:
        recipe: a path, or the name of one that ships. A file may begin with `like = "cool"`: then it holds only what differs from that
            recipe, which is the name of one that ships or a file beside it.

    Raises:
        SpecError: it cannot be read, or says something impossible; the message names the place.
    """
    path = _path(recipe)
    return from_dict(_read(path), source=str(path))


def _path(recipe: str | Path) -> Path:
    path = Path(recipe)
    return RECIPES / f"{recipe}.toml" if not path.is_file() and str(recipe) in names() else path


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's table, complete: what it is `like` comes first. `above` are the files that led here."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        led = f" (asked for by {above[-1]})" if above else ""
        raise SpecError(f"{path}: no such recipe file, and not one of those that ship ({', '.join(names())}){led}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: not valid TOML: {error}") from None
    if "like" not in table:
        return table
    like = table.pop("like")
    if not isinstance(like, str):
        raise SpecError(f"{path}: like must be the name of a recipe or of a file beside this one, not {like!r}")
    beside = path.parent / like
    base = beside if beside.is_file() else _path(like)
    if base.resolve() in {file.resolve() for file in (*above, path)}:
        raise SpecError(f"{path}: is like {like!r}, which is like this one; one of them must be complete")
    return merged(_read(base, (*above, path)), table)


def merged(table: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """A table with some keys changed or added; tables in it are merged key by key.

    Example:
        >>> merged({"steps": 3, "loss": {"box": 2.0, "focal": 1.5}}, {"loss": {"focal": 0.5}})
        {'steps': 3, 'loss': {'box': 2.0, 'focal': 0.5}}
    """
    both = {key: merged(table[key], value) for key, value in change.items() if isinstance(table.get(key), dict) and isinstance(value, dict)}
    return table | change | both


def from_dict(table: dict[str, Any], *, source: str = "recipe") -> Recipe:
    """A recipe from plain data, as TOML gives it or `to_dict` made it."""
    try:
        if (spec := table.get("spec")) == "eresfd":
            table = {**table, "spec": EResFDSpec()}
        elif isinstance(spec, str):
            table = {**table, "spec": model_spec.load(spec) if Path(spec).is_file() and spec not in zoo.names() else zoo.get(spec)}
        recipe: Recipe = checked.build(Recipe, table)
        return recipe
    except SpecError as error:
        raise SpecError(f"{source}: {error}") from None


def with_model(recipe: Recipe, *, spec: str | None = None, activation: Literal["hwgq", "pact"] | None = None) -> Recipe:
    """The recipe for another model.

    Args:
        recipe: what stays.
        spec: a name that `dupnet.zoo.get` knows; None for the recipe's own. A row of the paper's tables brings its activation along, and if
            it stands alone, its layers only: the head and the default size and score stay the recipe's.
        activation: `"hwgq"` or `"pact"`; None for the row's, or the recipe's.

    Example:
        >>> changed = with_model(load("first-light"), spec="table6/dupnet-l")
        >>> changed.spec.name, changed.network.activation
        ('table6/dupnet-l', 'hwgq')
    """
    if spec is None and activation is None:
        return recipe
    if isinstance(recipe.spec, EResFDSpec):
        raise SpecError("the recipe trains EResFD, which has no other models and no quantizers")
    model: ModelSpec
    if spec is None:
        row, model = None, recipe.spec
    else:
        row, model = paper.row(spec.partition(":")[0]), zoo.get(spec)
        if paper.row(spec):
            ours = recipe.spec
            model = replace(model, head=ours.head, default_size_px=ours.default_size_px, default_score=ours.default_score)
    network = replace(recipe.network, activation=activation or (row.activation if row else recipe.network.activation))
    return replace(recipe, spec=model, network=network)


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain data; `from_dict(to_dict(recipe)) == recipe`."""
    return asdict(recipe) | ({} if isinstance(recipe.spec, EResFDSpec) else {"spec": model_spec.to_dict(recipe.spec)})
